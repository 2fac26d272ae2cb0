"""What an edit did to a model: measures of single answers and texts, and their means with intervals."""

from interp.evaluation.metrics import agreement, exact_match, fluency, harmonic_mean, token_accuracy
from interp.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_score,
    paired_difference,
    rank_correlation,
)

__all__ = [
    "Interval",
    "agreement",
    "bootstrap_mean",
    "bootstrap_score",
    "exact_match",
    "fluency",
    "harmonic_mean",
    "paired_difference",
    "rank_correlation",
    "token_accuracy",
]
