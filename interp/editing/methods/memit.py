"""MEMIT: many facts at once, spread over several layers.

1. z per fact: the residual stream after the last edited layer, optimised so that the model gives the new answer
   (:mod:`interp.editing.target_value`).
2. Layer by layer, close an equal share of what is missing: the residual is divided by the number of layers left
   (:mod:`interp.editing.spread`).

One solve for the whole batch: it is not additive over facts.
Source: Meng et al. 2023, equations 14 to 20 and algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformer_lens import HookedTransformer

from interp.editing.config import SpreadConfig
from interp.editing.published import LIKE_LLAMA, LLAMA_3, published_or_rule
from interp.editing.spread import spread_editor

__all__ = ["EDITOR", "MemitConfig"]


@dataclass(frozen=True, kw_only=True)
class MemitConfig(SpreadConfig):
    """MEMIT (defaults: GPT2-XL)."""


def _default(model: HookedTransformer) -> MemitConfig:
    return published_or_rule(
        model,
        _PUBLISHED,
        lambda where: MemitConfig(layers=where.layers, second_moment_weight=where.second_moment_weight),
    )


_MIDDLE = (4, 5, 6, 7, 8)
_LLAMA = MemitConfig(layers=_MIDDLE, steps=25, clamp=4, weight_decay=1e-3, second_moment_weight=15_000)
_LLAMA_3 = MemitConfig(layers=_MIDDLE, steps=25, learning_rate=0.1, second_moment_weight=15_000)
_PUBLISHED = {
    "gpt2-xl": MemitConfig(layers=(13, 14, 15, 16, 17)),
    "gpt-j-6b": MemitConfig(layers=(3, 4, 5, 6, 7, 8), steps=25, second_moment_weight=15_000),
    **dict.fromkeys(LIKE_LLAMA, _LLAMA),
    **dict.fromkeys(LLAMA_3, _LLAMA_3),  # published for it: AlphaEdit, with the same target values
}


def divisor(layers_left: int) -> float:
    """Linear: with n layers left, one n-th of the residual is closed."""
    return float(layers_left)


EDITOR = spread_editor(
    name="memit",
    title="MEMIT",
    config=MemitConfig,
    default=_default,
    sites=("resid_post",),
    spread_site="resid_post",
    divisor=divisor,
)
