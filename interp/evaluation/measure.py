"""What a measure is: from what a model said of an edited case to a number, from the numbers of many cases to a mean.

A measure is a file below :mod:`interp.evaluation.measures` that ends in a :class:`Measure`, and a line in the table
there. Everything else takes what it needs from it: what is asked of a case, Table 1 in all its forms and its paired
differences, the layer sweep, how evaluations show themselves, and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.errors import OptionError
from interp.evaluation.averaging import MEAN_OF_SHARES, Averaging
from interp.evaluation.protocols import Protocol
from interp.evaluation.questions import Question, Reading
from interp.facts.records import EditCase

__all__ = ["PERCENT", "Measure", "Said", "Unit", "share_measure"]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one model said of a case, the edited one or the one before, and how its answers are to count.

    Args:
        questions: What was asked.
        targets: The token ids of each question's target.
        before: What the model before the edit says to each.
        readings: What this model says to each.
        continuation: Sampled after the edit prompt; None where nothing was.
        fluency: Of the continuation, in bits x 100.
        protocol: How answers count; None for a measure that goes by no protocol.
    """

    questions: tuple[Question, ...]
    targets: tuple[tuple[int, ...], ...]
    before: tuple[Reading, ...]
    readings: tuple[Reading, ...]
    continuation: str | None
    fluency: float | None
    protocol: Protocol | None

    def right(self, i: int) -> float | None:
        """How far the answer to a question, by its place, gives the target."""
        return self._counts().right(self.readings[i], self.targets[i])

    def kept(self, i: int) -> float | None:
        """How far the answer to a question, by its place, is the one before the edit."""
        return self._counts().kept(self.before[i], self.readings[i])

    def _counts(self) -> Protocol:
        if self.protocol is None:
            raise OptionError("a measure that goes by no protocol asks how an answer counts")
        return self.protocol


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a measure's numbers are counted in; tables write them with one decimal.

    Args:
        name: Of means.
        of_differences: Of differences, where it has another name.
        scale: What the value of a case is multiplied with.
    """

    name: str
    of_differences: str = ""
    scale: float = 1.0


PERCENT = Unit(name="percent", of_differences="percentage points", scale=100.0)
"""Of shares."""


def _no_questions(case: EditCase) -> Sequence[Question]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure.

    Args:
        name: As one asks for it.
        title: The heading of its column.
        short: The heading where there is little room; the name if empty.
        about: What it is, in a few words below a table; empty where its name says it.
        unit: Of its numbers.
        questions: What it asks of a case; nothing if it is of what others ask, or of the continuation.
        value: Of one case, before the unit's scale; None where nothing was asked.
        parts: Instead of a value: the measures of whose numbers it is the average.
        average: How the cases' numbers become one.
        by_protocol: Whether its number depends on how an answer counts, so that there is one for each protocol.
        by_definition: Why the model before any edit has its number not by measuring, so that it has no interval.

    Raises:
        OptionError: If there is neither a value nor parts, or both.
    """

    name: str
    title: str
    short: str = ""
    about: str = ""
    unit: Unit
    questions: Callable[[EditCase], Sequence[Question]] = _no_questions
    value: Callable[[Said], float | None] | None = None
    parts: tuple[str, ...] = ()
    average: Averaging
    by_protocol: bool = True
    by_definition: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) == (not self.parts):
            raise OptionError(f"the measure {self.name!r} needs either a value of one case or parts")


def share_measure(
    *,
    name: str,
    title: str,
    questions: Callable[[EditCase], Sequence[Question]],
    counts: Callable[[Said, int], float | None] = Said.right,
    short: str = "",
    about: str = "",
    by_definition: str = "",
) -> Measure:
    """A measure in percent that asks questions of its own: the mean within each kind of them, then over kinds.

    Args:
        name, title, questions, short, about, by_definition: See :class:`Measure`.
        counts: How far the answer to a question, by its place, counts, from 0 to 1; None if it does not count at all.
    """

    def value(said: Said) -> float | None:
        kinds: dict[str, list[float]] = {}
        for i, question in enumerate(said.questions):
            if question.metric == name and (share := counts(said, i)) is not None:
                kinds.setdefault(question.kind, []).append(share)
        means = [sum(shares) / len(shares) for shares in kinds.values()]
        return sum(means) / len(means) if means else None

    return Measure(
        name=name,
        title=title,
        short=short,
        about=about,
        unit=PERCENT,
        questions=questions,
        value=value,
        average=MEAN_OF_SHARES,
        by_definition=by_definition,
    )
