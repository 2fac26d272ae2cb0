from .answers import Answers
from .averaging import HARMONIC_MEAN, MEAN, MEAN_OF_SHARES, Averaging
from .case_evaluation import CaseEvaluation
from .measure import PERCENT, Measure, Said, Unit, share_measure
from .measures import MEASURES, measure_named
from .metrics import agreement, exact_match, fluency, harmonic_mean, token_accuracy
from .protocol import ask, evaluate, evaluate_each
from .protocols import PROTOCOLS, Protocol
from .questions import Question, Reading, cases_of
from .statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_score,
    paired_difference,
    rank_correlation,
    score_difference,
)
from .summary import Comparison, TableRow, compare, table_row

__all__ = [
    "HARMONIC_MEAN",
    "MEAN",
    "MEAN_OF_SHARES",
    "MEASURES",
    "PERCENT",
    "PROTOCOLS",
    "Answers",
    "Averaging",
    "CaseEvaluation",
    "Comparison",
    "Interval",
    "Measure",
    "Protocol",
    "Question",
    "Reading",
    "Said",
    "TableRow",
    "Unit",
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
    "measure_named",
    "paired_difference",
    "rank_correlation",
    "score_difference",
    "share_measure",
    "table_row",
    "token_accuracy",
]
