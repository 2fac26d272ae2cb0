"""How the numbers of cases become one: with an interval, its difference from another method's, and a p-value of that.

All take columns of numbers by name, one number per case, NaN where it was not measured, and a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from interp.statistics.estimates import (
    SHARE,
    Interval,
    bootstrap_mean,
    bootstrap_score,
    paired_difference,
    score_difference,
)
from interp.statistics.significance import paired_p_value, score_p_value

__all__ = ["HARMONIC_MEAN", "MEAN", "MEAN_OF_SHARES", "Averaging", "Columns"]

Columns = Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """A way from the numbers of cases to one.

    Args:
        interval: The number and its 95% interval.
        difference: Of two methods, the first minus the second, paired by case.
        p_value: Of the difference.
    """

    interval: Callable[[Columns, int], Interval]
    difference: Callable[[Columns, Columns, int], Interval]
    p_value: Callable[[Columns, Columns, int], float]


def _mean(bounds: tuple[float, float] | None) -> Averaging:
    """Of one column."""
    return Averaging(
        interval=lambda columns, seed: bootstrap_mean(*columns.values(), bounds=bounds, seed=seed),
        difference=lambda a, b, seed: paired_difference(*a.values(), *b.values(), bounds=bounds, seed=seed),
        p_value=lambda a, b, seed: paired_p_value(*a.values(), *b.values(), seed=seed),
    )


MEAN = _mean(None)
"""Of numbers without bounds: no interval where all cases agree, and none of few."""

MEAN_OF_SHARES = _mean(SHARE)
"""Of numbers from 0 to 1."""

HARMONIC_MEAN = Averaging(
    interval=lambda columns, seed: bootstrap_score(*columns.values(), names=tuple(columns), seed=seed),
    difference=lambda a, b, seed: score_difference(tuple(a.values()), tuple(b.values()), names=tuple(a), seed=seed),
    p_value=lambda a, b, seed: score_p_value(tuple(a.values()), tuple(b.values()), seed=seed),
)
"""Of the means of several columns of shares."""
