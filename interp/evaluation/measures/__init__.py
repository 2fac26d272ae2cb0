"""The measures, a file each, and the table of them: a new one is a file that ends in a ``MEASURE``, and a line here.

The table holds where each of these stands, not what it is: names are there before any of them, and torch, is loaded.
A measure of one's own, from anywhere, may be put into the table as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.errors import OptionError
from interp.system.tables import entry_named

if TYPE_CHECKING:
    from interp.evaluation.measure import Measure
    from interp.evaluation.questions import Question
    from interp.facts.records import EditCase

__all__ = ["MEASURES", "measure_named", "measures", "questions"]

MEASURES: dict[str, str | Measure] = {
    "reliability": "reliability.MEASURE",
    "generality": "generality.MEASURE",
    "locality": "locality.MEASURE",
    "portability": "portability.MEASURE",
    "fluency": "fluency.MEASURE",
    "score": "score.MEASURE",
}
"""In the order of the columns of Table 1, and of what is asked of a case."""


def measure_named(name: str) -> Measure:
    """The measure of a name.

    Raises:
        OptionError: If there is none, with the name that was perhaps meant.
    """
    found: Measure = entry_named(name, MEASURES, __name__, what="measure")
    return found


def measures(*, by_protocol: bool | None = None) -> tuple[Measure, ...]:
    """All measures in their order; or those with a number for each protocol, or those without."""
    every = [measure_named(name) for name in MEASURES]
    return tuple(each for each in every if by_protocol is None or each.by_protocol == by_protocol)


def questions(case: EditCase) -> tuple[Question, ...]:
    """What is asked of a model about a case, measure by measure.

    Raises:
        OptionError: If a measure asks a question in another one's name.
    """
    asked: list[Question] = []
    for measure in measures():
        own = measure.questions(case)
        for question in own:
            if question.metric != measure.name:
                raise OptionError(f"the measure {measure.name!r} asks a question of {question.metric!r}: {question}")
        asked += own
    return tuple(asked)
