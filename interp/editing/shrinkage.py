"""Shrinkage of a second moment that rests on few tokens: towards the identity, by a published closed form.

Of S = mean of k k^T over n tokens, with m = tr(S) / d the best scale of the identity:

    C = (1 - share) S + share m I,   share = min(b, a) / a,
    a = |S - m I|^2 / d,   b = (E|k|^4 - |S|^2) / (n d)

with Frobenius norms; b estimates how far S is from its expectation, a how far from the identity. The share is the one
of least expected squared error for independent tokens. Tokens of one text are not independent, so it is rather too
small. It goes to 0 as the text grows. Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional
covariance matrices", lemma 3.2 and section 3.3, without centring.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

__all__ = ["ledoit_wolf", "shrunk"]


def ledoit_wolf(moment: Float[Tensor, "d_mlp d_mlp"], n_tokens: float, fourth: float) -> float:
    """The share of the identity, from 0 to 1.

    Args:
        moment: S, the mean of k k^T.
        n_tokens: Tokens that were averaged.
        fourth: The mean of |k|^4 over them.
    """
    wide = moment.double()
    d, squares = len(wide), float(wide.square().sum())
    scale = float(wide.diagonal().mean())
    away = squares / d - scale**2
    noise = (fourth - squares) / (n_tokens * d)
    return min(1.0, max(0.0, noise / away)) if away > 0 else 1.0


def shrunk(moment: Float[Tensor, "d_mlp d_mlp"], share: float) -> Float[Tensor, "d_mlp d_mlp"]:
    """(1 - share) S + share tr(S) / d I."""
    found = (1 - share) * moment
    found.diagonal().add_(share * moment.diagonal().mean())
    return found
