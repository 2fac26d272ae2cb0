"""AlphaEdit: as MEMIT, with changes that the directions of usual keys cannot see.

1. z per fact, and the residual over the layers, as in MEMIT (:mod:`interp.editing.spread`).
2. P projects keys on the null space: the eigenvectors of C whose eigenvalue lies below a threshold. Whatever P k is
   multiplied with, keys in the other directions, those that usual text is made of, give what they gave.
3. Per layer, with the keys Kp of all earlier edits in turn as they were when they were made,

       dW = (P (K K^T + Kp Kp^T) + l2 I)^-1 P K R^T.

It is computed as S (S^T S + l2 I)^-1 E R^T with S = P [Kp K], where E keeps the columns of the new facts: a system of
the size of the facts, and P = I - B B^T from the few eigenvectors B that are not in the null space.

The threshold and l2 count in units of C and of |k|^2, which differ from model to model: in some nothing is edited at
the published ones. So the rule for models that nobody published any for takes both relative to the model
(:class:`AlphaEditConfig`), and each patch records how much of the keys the null space leaves, and how near an
eigenvalue comes to the threshold: within rounding of it P jumps. A fact that is edited again meets its own earlier key;
at most half of its residual closes.

Source: Fang et al. 2025, section 3, and the published code, which has l2 = 10 where the paper has 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import OverLayers, check_numbers
from interp.editing.published import LLAMA_3, published_or_rule
from interp.editing.spread import Keys, spread_editor
from interp.editing.whitening import Whitening
from interp.errors import NumericalError

__all__ = ["EDITOR", "AlphaEditConfig"]

NOTHING = 1e-20
"""Of |k|^2: what rounding leaves in a null space of no dimension."""


@dataclass(frozen=True, kw_only=True)
class AlphaEditConfig(OverLayers):
    """AlphaEdit (defaults: GPT2-XL).

    Args:
        threshold: Eigenvectors of C below it are the null space; if ``relative``, a multiple of the mean eigenvalue.
        l2: The weight of a small change; if ``relative``, a multiple of the mean over the new facts of |P k|^2.
        relative: Whether these two count in the model's own units.
    """

    threshold: float = 0.02
    l2: float = 10
    relative: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, threshold=(1e-12, 1e12), l2=(1e-12, 1e12))


def _default(model: HookedTransformer) -> AlphaEditConfig:
    return published_or_rule(
        model,
        _PUBLISHED,
        lambda where: AlphaEditConfig(layers=where.layers, threshold=1, l2=0.1, relative=True),
    )


_LLAMA_3 = AlphaEditConfig(layers=(4, 5, 6, 7, 8), steps=25, learning_rate=0.1)
_PUBLISHED = {
    "gpt2-xl": AlphaEditConfig(layers=(13, 14, 15, 16, 17)),
    "gpt-j-6b": AlphaEditConfig(layers=(3, 4, 5, 6, 7, 8), steps=25),
    **dict.fromkeys(LLAMA_3, _LLAMA_3),
}


def _projected(given: Keys, keys: Float[Tensor, "d_mlp fact"]) -> Float[Tensor, "d_mlp fact"]:
    """P K in float64."""
    leading, _ = _space(given)
    keys = keys.double()
    return keys - leading @ (leading.T @ keys)


def _space(given: Keys) -> tuple[Tensor, Tensor]:
    config = given.config
    d_mlp, device = len(given.keys), given.keys.device
    return given.whitening.leading(given.layer, config.threshold, d_mlp, device, relative=config.relative)


def in_null_space(given: Keys) -> Float[Tensor, "d_mlp fact"]:
    """S (S^T S + l2 I)^-1 E.

    Raises:
        NumericalError: If the null space leaves nothing of the keys.
    """
    new = _projected(given, given.keys)
    size = float(new.square().sum(0).mean())
    if not size > NOTHING * float(given.keys.double().square().sum(0).mean()):
        raise NumericalError(
            f"AlphaEdit's null space in layer {given.layer} leaves nothing of the keys: take a higher threshold, got"
            f" {given.config.threshold:g}"
        )
    both = new if given.earlier is None else torch.cat([_projected(given, given.earlier), new], 1)
    l2 = given.config.l2 * (size if given.config.relative else 1)
    system = both.T @ both + l2 * torch.eye(both.shape[1], dtype=both.dtype, device=both.device)
    chosen = torch.eye(both.shape[1], dtype=both.dtype, device=both.device)[:, -new.shape[1] :]
    return both @ torch.linalg.solve(system, chosen)


def _about(solves: Sequence[Keys]) -> Mapping[str, Any]:
    """By layer: the dimension of the null space and of the keys; |P k| / |k|, mean over the new facts; the relative
    distance from the threshold to the nearest eigenvalue; how many earlier keys there were."""
    found = {}
    for given in solves:
        leading, values = _space(given)
        threshold = given.config.threshold * (float(values.mean()) if given.config.relative else 1)
        kept = _projected(given, given.keys).norm(dim=0) / given.keys.double().norm(dim=0)
        found[str(given.layer)] = {
            "dimension": len(leading) - leading.shape[1],
            "of": len(leading),
            "kept_of_keys": float(kept.mean()),
            "nearest_eigenvalue": float((values / threshold - 1).abs().min()),
            "earlier_keys": 0 if given.earlier is None else given.earlier.shape[1],
        }
    return {"null_space": found}


def _prepare(whitening: Whitening, config: AlphaEditConfig, d_mlp: int, device: torch.device) -> None:
    for layer in config.layers:
        whitening.leading(layer, config.threshold, d_mlp, device, relative=config.relative)


EDITOR = spread_editor(
    name="alphaedit",
    title="AlphaEdit",
    config=AlphaEditConfig,
    default=_default,
    sites=("resid_post",),
    spread_site="resid_post",
    divisor=float,
    solve=in_null_space,
    about=_about,
    prepare=_prepare,
)
