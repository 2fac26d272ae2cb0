"""PMET: as MEMIT, but the attention's and the MLP's outputs are optimised together and only the MLP is written.

1. Two deltas per fact at the last edited layer, one on the attention output and one on the MLP output, each clamped
   and decayed by its own initial norm; once the new answer is on top everywhere its weight drops to a tenth.
2. Layer by layer, bring the MLP output to its target; the residual is divided by the *square root* of the number of
   layers left. The attention's delta only took up what the MLP need not carry.

Source: Li et al. 2024, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformer_lens import HookedTransformer

from interp.editing.config import SpreadConfig, check_numbers
from interp.editing.published import published_or_rule
from interp.editing.spread import spread_editor

__all__ = ["EDITOR", "PmetConfig"]


@dataclass(frozen=True, kw_only=True)
class PmetConfig(SpreadConfig):
    """PMET (defaults: its own for GPT-J).

    Args:
        weight_on_top: Times the NLL of a request whose target is the top answer in every context.
        divergence_on_top: At or below this weighted divergence such a request is finished.
    """

    steps: int = 30
    learning_rate: float = 0.2
    kl_weight: float = 1.0
    second_moment_weight: float = 6_000
    weight_on_top: float = 0.1
    divergence_on_top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, weight_on_top=(0, 1e6), divergence_on_top=(0, 1e6))

    def once_on_top(self) -> tuple[float, float]:
        """The lower weight of the NLL, and the divergence at which the request is finished."""
        return self.weight_on_top, self.divergence_on_top


def _default(model: HookedTransformer) -> PmetConfig:
    return published_or_rule(
        model,
        _PUBLISHED,
        lambda where: PmetConfig(layers=where.layers, second_moment_weight=where.second_moment_weight),
    )


_PUBLISHED = {
    "gpt-j-6b": PmetConfig(layers=(3, 4, 5, 6, 7, 8)),
    "llama-2-7b": PmetConfig(
        layers=(4, 5, 6, 7, 8), steps=20, learning_rate=0.5, clamp=1, kl_weight=0.0625, second_moment_weight=15_000
    ),
}


def divisor(layers_left: int) -> float:
    """Square root of the layers left."""
    return math.sqrt(layers_left)


EDITOR = spread_editor(
    name="pmet",
    title="PMET",
    config=PmetConfig,
    default=_default,
    sites=("attn_out", "mlp_out"),
    spread_site="mlp_out",
    divisor=divisor,
)
