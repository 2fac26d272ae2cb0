"""What of :mod:`interp.statistics` one needs beside evaluations; the stub of a package names its own modules only."""

from interp.statistics.estimates import (
    Interval,
    bootstrap_mean,
    bootstrap_score,
    paired_difference,
    rank_correlation,
    score_difference,
)

__all__ = [
    "Interval",
    "bootstrap_mean",
    "bootstrap_score",
    "paired_difference",
    "rank_correlation",
    "score_difference",
]
