"""MEMIT: many facts at once, spread over several layers.

1. z per fact: the residual stream after the last edited layer, optimised so that the model gives the new answer
   (:mod:`interp.editing.target_value`).
2. Layer by layer, close an equal share of what is missing: the residual is divided by the number of layers left
   (:mod:`interp.editing.spread`).

One solve for the whole batch: it is not additive over facts.
Source: Meng et al. 2023, equations 14 to 20 and algorithm 1.
"""

from __future__ import annotations

__all__ = ["SITES", "SPREAD_SITE", "divisor"]

SITES = ("resid_post",)
"""Where the target value is set."""

SPREAD_SITE = "resid_post"
"""What the layers bring to its target."""


def divisor(layers_left: int) -> float:
    """Linear: with n layers left, one n-th of the residual is closed."""
    return float(layers_left)
