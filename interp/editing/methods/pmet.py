"""PMET: as MEMIT, but the attention's and the MLP's outputs are optimised together and only the MLP is written.

1. Two deltas per fact at the last edited layer, one on the attention output and one on the MLP output, each clamped
   and decayed by its own initial norm; once the new answer is on top everywhere its weight drops to a tenth.
2. Layer by layer, bring the MLP output to its target; the residual is divided by the *square root* of the number of
   layers left. The attention's delta only took up what the MLP need not carry.

Source: Li et al. 2024, section 3.
"""

from __future__ import annotations

import math

__all__ = ["SITES", "SPREAD_SITE", "divisor"]

SITES = ("attn_out", "mlp_out")
"""Where the target values are set."""

SPREAD_SITE = "mlp_out"
"""What the layers bring to its target."""


def divisor(layers_left: int) -> float:
    """Square root of the layers left."""
    return math.sqrt(layers_left)
