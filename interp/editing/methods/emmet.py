"""EMMET: many facts at once, and each key mapped to its value as ROME does it, not only nearly as in MEMIT.

1. z per fact, as in MEMIT; usually one layer is edited. Several share the residual as there
   (:mod:`interp.editing.spread`).
2. With M = weight C and D = K^T M^-1 K, the change

       dW = M^-1 K D^-1 R^T

   moves other keys least, in the measure of C, among all with K^T dW = R^T. So it is ROME's for one fact, and for a
   batch what ROME would be.
3. Several facts give that up for numbers that stay small: relaxation is added to the diagonal of D, so that a share of
   about relaxation / D_ii of each residual stays open. Without relaxation the weight cancels.

Keys that are linearly dependent up to rounding cannot all be mapped to values of their own. Such facts (two prompts
with one subject in front) are refused, from their tokens where these say it.

Source: Gupta et al. 2024, "A Unified Framework for Model Editing"; its code adds the relaxation for more than one fact
alone, and so does this. (Its second summand of M, a multiple of the identity, is zero there by default and left out.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import SpreadConfig, check_numbers
from interp.editing.published import published_or_rule
from interp.editing.spread import Keys, spread_editor
from interp.errors import NumericalError, OptionError
from interp.facts.records import EditRequest
from interp.models.tokens import tokenize

__all__ = ["EDITOR", "EmmetConfig"]

DEPENDENT = 1e-6
"""The least accepted eigenvalue of the keys' cosines, as D measures them: float32 keys are known to no more."""


@dataclass(frozen=True, kw_only=True)
class EmmetConfig(SpreadConfig):
    """EMMET (defaults: GPT2-XL).

    Args:
        relaxation: What is added to the diagonal of D, for more than one fact; 0: every key reaches its value.
    """

    second_moment_weight: float = 1_000
    relaxation: float = 0.1
    width: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, relaxation=(0, 1e9))


def _default(model: HookedTransformer) -> EmmetConfig:
    return published_or_rule(
        model,
        _PUBLISHED,
        # as much for a key of usual length as on GPT2-XL, where D_ii is about d_mlp / weight
        lambda where: EmmetConfig(layers=(where.layer,), second_moment_weight=1_000 / 6_400 * (model.cfg.d_mlp or 1)),
    )


_PUBLISHED = {
    "gpt2-xl": EmmetConfig(layers=(17,)),
    "gpt-j-6b": EmmetConfig(layers=(5,), second_moment_weight=1),
    "llama-2-7b": EmmetConfig(layers=(5,), steps=25, clamp=4, weight_decay=1e-3, second_moment_weight=1),
}


def equalising(given: Keys) -> Float[Tensor, "d_mlp fact"]:
    """M^-1 K D^-1.

    Raises:
        NumericalError: If keys are linearly dependent, naming the most alike.
    """
    config = given.config
    assert isinstance(config, EmmetConfig)
    adjusted = given.whitening.weighted(given.layer, given.keys, config.second_moment_weight)
    seen = given.keys.double().T @ adjusted
    _check_independent(seen, given)
    if len(seen) > 1:
        seen = seen + config.relaxation * torch.eye(len(seen), dtype=seen.dtype, device=seen.device)
    return torch.linalg.solve(seen, adjusted, left=False)


def _check_independent(seen: Float[Tensor, "fact fact"], given: Keys) -> None:
    """Refuse keys that cannot all be mapped to values of their own."""
    length = seen.diagonal().sqrt()
    if not bool((length > 0).all()):
        raise NumericalError(f"the key of request {given.first + int(length.argmin())} in layer {given.layer} is zero")
    cosines = seen / length / length[:, None]
    least = float(torch.linalg.eigvalsh(cosines)[0])
    if least > DEPENDENT:
        return
    one, other = divmod(int(cosines.triu(1).abs().argmax()), len(cosines))
    raise NumericalError(
        f"EMMET maps each key to its value, and those of layer {given.layer} are linearly dependent up to rounding"
        f" ({len(seen)} keys of length {len(given.keys)}, smallest eigenvalue of their cosines {least:.1g}; most alike"
        f" are requests {given.first + one} and {given.first + other}, cosine {float(cosines[one, other]):.7f}): edit"
        " fewer facts at once, or with MEMIT"
    )


def _check(model: HookedTransformer, requests: Sequence[EditRequest], first: int) -> None:
    """Refuse prompts that are the same until the subject ends: they have one key.

    Raises:
        OptionError: Naming both.
    """
    before: dict[tuple[int, ...], int] = {}
    for number, request in enumerate(requests, start=first):
        tokens = tokenize(model, request.fact, quiet=True)
        other = before.setdefault(tuple(tokens.ids[: tokens.subject_span[1]].tolist()), number)
        if other != number:
            raise OptionError(
                f"EMMET maps each key to its value, and requests {other} and {number} have the same one: their prompts"
                f" are the same until the subject {request.fact.subject!r} ends. Edit them one after the other, or with"
                " MEMIT"
            )


EDITOR = spread_editor(
    name="emmet",
    title="EMMET",
    config=EmmetConfig,
    default=_default,
    sites=("resid_post",),
    spread_site="resid_post",
    divisor=float,
    solve=equalising,
    check=_check,
)
