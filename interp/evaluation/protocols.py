"""The protocols: ways in which an answer counts, the same for every measure that asks questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from interp.evaluation.metrics import agreement, exact_match, token_accuracy
from interp.evaluation.questions import Reading

__all__ = ["PROTOCOLS", "Protocol"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way in which an answer counts, from 0 to 1; None where a reading does not hold what it takes.

    Args:
        right: How far a reading gives the target, whose tokens come second.
        kept: How far a reading, the second, is the one before the edit, right or wrong.
    """

    right: Callable[[Reading, tuple[int, ...]], float | None]
    kept: Callable[[Reading, Reading], float | None]


def _likelier(reading: Reading) -> float | None:
    rival = reading.rival_log_probability
    return None if rival is None else float(reading.log_probability > rival)


PROTOCOLS: dict[str, Protocol] = {
    # token accuracy with the target given (EasyEdit, KnowEdit)
    "teacher-forced": Protocol(
        right=lambda reading, target: token_accuracy(reading.predicted, target),
        kept=lambda before, reading: agreement(before.predicted, reading.predicted),
    ),
    # ROME's comparison of the new answer's probability with the old one's (locality: of the true answer's with the
    # new one's); nothing where a question has no rival, as those of portability
    "probability": Protocol(
        right=lambda reading, _: _likelier(reading),
        kept=lambda _, reading: _likelier(reading),
    ),
    # greedy generation that gives the target (locality: the same text as before)
    "exact-match": Protocol(
        right=lambda reading, target: float(exact_match(reading.generated, target)),
        kept=lambda before, reading: float(before.generated == reading.generated),
    ),
}
"""In the order of Table 1; the first is the one of its first table."""
