"""EMMET: many facts at once, and each key mapped to its value as ROME does it, not only nearly as in MEMIT.

1. z per fact, as in MEMIT; usually one layer is edited. Several share the residual as there
   (:mod:`interp.editing.spread`).
2. With M = weight C and D = K^T M^-1 K, the change

       dW = M^-1 K D^-1 R^T

   moves other keys least, in the measure of C, among all with K^T dW = R^T. So it is ROME's for one fact, and for a
   batch what ROME would be.
3. Several facts give that up for numbers that stay small: relaxation is added to the diagonal of D, so that a share of
   about relaxation / D_ii of each residual stays open. Without relaxation the weight cancels.

Keys that are parallel up to rounding cannot be mapped to values of their own. Such facts (two prompts with one subject
in front) are refused.

Source: Gupta et al. 2024, "A Unified Framework for Model Editing"; its code adds the relaxation for more than one fact
alone, and so does this. (Its second summand of M, a multiple of the identity, is zero there by default and left out.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import SpreadConfig, check_numbers
from interp.editing.published import published_or_rule
from interp.editing.spread import Keys, spread_editor
from interp.errors import NumericalError

__all__ = ["EDITOR", "EmmetConfig"]

PARALLEL = 1e-6
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
        NumericalError: If keys are parallel, naming two facts.
    """
    config = given.config
    assert isinstance(config, EmmetConfig)
    adjusted = given.whitening.weighted(given.layer, given.keys, config.second_moment_weight)
    seen = given.keys.double().T @ adjusted
    if len(seen) > 1:
        length = seen.diagonal().sqrt()
        cosines = seen / length / length[:, None]
        if not float(torch.linalg.eigvalsh(cosines)[0]) > PARALLEL:
            one, other = divmod(int(cosines.triu(1).abs().argmax()), len(cosines))
            raise NumericalError(
                f"EMMET maps each key to its value, and keys of layer {given.layer} are parallel up to rounding"
                f" (requests {one} and {other}: cosine {float(cosines[one, other]):.7f}): edit these facts one after"
                " the other, or with MEMIT"
            )
        seen = seen + config.relaxation * torch.eye(len(seen), dtype=seen.dtype, device=seen.device)
    return torch.linalg.solve(seen, adjusted, left=False)


EDITOR = spread_editor(
    name="emmet",
    title="EMMET",
    config=EmmetConfig,
    default=_default,
    sites=("resid_post",),
    spread_site="resid_post",
    divisor=float,
    solve=equalising,
)
