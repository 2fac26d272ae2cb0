"""AlphaEdit: as MEMIT, with changes that the directions of usual keys cannot see.

1. z per fact, and the residual over the layers, as in MEMIT (:mod:`interp.editing.spread`).
2. P projects keys on the null space: the eigenvectors of C whose eigenvalue lies below a threshold. Whatever P k is
   multiplied with, keys in the other directions, those that usual text is made of, give what they gave.
3. Per layer, with the keys Kp of all earlier edits in turn as they were when they were made,

       dW = (P (K K^T + Kp Kp^T) + l2 I)^-1 P K R^T.

It is computed as S (S^T S + l2 I)^-1 E R^T with S = P [Kp K], where E keeps the columns of the new facts: a system of
the size of the facts, and P comes from the eigenvectors of the null space or from the others, whichever are fewer
(:mod:`interp.editing.null_space`). Of earlier edits P Kp is kept.

The threshold and l2 count in units of C and of |k|^2, which differ from model to model: in some nothing is edited at
the published ones. So the rule for models that nobody published any for takes both relative to the model
(:class:`AlphaEditConfig`), and each patch records how much of the keys the null space leaves, and how near an
eigenvalue comes to the threshold: within rounding of it P jumps. A fact that is edited again meets its own earlier key;
at most half of its residual closes.

Source: Fang et al. 2025, section 3, and the published code, which has l2 = 10 where the paper has 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import OverLayers, check_numbers
from interp.editing.null_space import NullSpace
from interp.editing.published import LLAMA_3, published_or_rule
from interp.editing.spread import Kept, Keys, spread_editor
from interp.editing.whitening import Whitening
from interp.errors import InterpWarning, NumericalError
from interp.facts.records import EditRequest
from interp.options import check_flag
from interp.patches.patch import applied_patches

__all__ = ["EDITOR", "AlphaEditConfig"]


@dataclass(frozen=True, kw_only=True)
class AlphaEditConfig(OverLayers):
    """AlphaEdit (defaults: GPT2-XL).

    Args:
        threshold: Eigenvectors of C below it are the null space; if ``relative``, a multiple of the mean eigenvalue.
        l2: The weight of a small change; if ``relative``, a multiple of ``|P k|^2``, mean over the new facts.
        relative: Whether these two count in the model's own units.
    """

    threshold: float = 0.02
    l2: float = 10
    relative: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, threshold=(1e-12, 1e12), l2=(1e-12, 1e12))
        object.__setattr__(self, "relative", check_flag("relative", self.relative))


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


def _space(given: Keys) -> NullSpace:
    return _null_space(given.whitening, given.layer, given.config, len(given.keys), given.keys.device)


def _null_space(
    whitening: Whitening, layer: int, config: AlphaEditConfig, d_mlp: int, device: torch.device
) -> NullSpace:
    found = whitening.null_space(layer, config.threshold, d_mlp, device, relative=config.relative)
    if not found.dimension:
        unit = " times the mean" if config.relative else ""
        raise NumericalError(
            f"AlphaEdit's null space in layer {layer} is empty: no eigenvalue of C is below {config.threshold:g}{unit};"
            " take a higher threshold"
        )
    return found


def remembered(given: Keys) -> Float[Tensor, "d_mlp fact"]:
    """P K, which is what the solves of later turns need of the keys."""
    return _space(given).project(given.keys)


def in_null_space(given: Keys) -> Float[Tensor, "d_mlp fact"]:
    """S (S^T S + l2 I)^-1 E.

    Raises:
        NumericalError: If the null space is empty.
    """
    new = remembered(given)
    both = new if given.earlier is None else torch.cat([given.earlier, new], 1)
    l2 = given.config.l2 * (float(new.square().sum(0).mean()) if given.config.relative else 1)
    eye = torch.eye(both.shape[1], dtype=both.dtype, device=both.device)
    factor = torch.linalg.cholesky(both.T @ both + l2 * eye)
    return both @ torch.cholesky_solve(eye[:, -new.shape[1] :], factor)


def _about(solves: Sequence[Keys]) -> Mapping[str, Any]:
    """By layer: the dimension of the null space and of the keys; |P k| / |k|, mean over the new facts; the relative
    distance from the threshold to the nearest eigenvalue; how many earlier keys there were."""
    found = {}
    for given in solves:
        space = _space(given)
        kept = space.project(given.keys).norm(dim=0) / given.keys.double().norm(dim=0)
        found[str(given.layer)] = {
            "dimension": space.dimension,
            "of": len(given.keys),
            "kept_of_keys": float(kept.mean()),
            "nearest_eigenvalue": space.nearest,
            "earlier_keys": 0 if given.earlier is None else given.earlier.shape[1],
        }
    return {"null_space": found}


def _check(model: HookedTransformer, requests: Sequence[EditRequest], first: int) -> None:
    """Warn where edits were made before whose keys are not known."""
    if not first and applied_patches(model):
        warnings.warn(
            "the model carries patches, and AlphaEdit knows nothing of their keys: edits that are to remember each"
            " other are made in one call of edit_sequentially",
            InterpWarning,
            stacklevel=6,  # who called the edit, which torch wraps
        )


def _prepare(whitening: Whitening, config: AlphaEditConfig, d_mlp: int, device: torch.device) -> None:
    for layer in config.layers:
        _null_space(whitening, layer, config, d_mlp, device)


EDITOR = spread_editor(
    name="alphaedit",
    title="AlphaEdit",
    config=AlphaEditConfig,
    default=_default,
    sites=("resid_post",),
    spread_site="resid_post",
    divisor=float,
    solve=in_null_space,
    kept=Kept(for_later=remembered, for_the_record=_about),
    check=_check,
    prepare=_prepare,
)
