"""What an edit did to a model: measures of single answers and texts, and their means with intervals."""

from interp.evaluation.metrics import agreement, exact_match, fluency, harmonic_mean, token_accuracy
from interp.evaluation.protocol import (
    METRICS,
    PROTOCOLS,
    Answers,
    CaseEvaluation,
    Question,
    Reading,
    ask,
    evaluate,
    evaluate_each,
    questions,
)
from interp.evaluation.questions import cases_of
from interp.evaluation.summary import Comparison, TableRow, compare, table_row
from interp.statistics.estimates import (
    Interval,
    bootstrap_mean,
    bootstrap_score,
    paired_difference,
    rank_correlation,
    score_difference,
)

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Answers",
    "CaseEvaluation",
    "Comparison",
    "Interval",
    "Question",
    "Reading",
    "TableRow",
    "agreement",
    "ask",
    "bootstrap_mean",
    "bootstrap_score",
    "cases_of",
    "compare",
    "evaluate",
    "evaluate_each",
    "exact_match",
    "fluency",
    "harmonic_mean",
    "paired_difference",
    "questions",
    "rank_correlation",
    "score_difference",
    "table_row",
    "token_accuracy",
]
