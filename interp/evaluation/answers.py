"""What a model says to the questions of a case, and whether two models were asked the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from interp.errors import InterpWarning, OptionError
from interp.evaluation.measures import questions
from interp.evaluation.questions import Question, Reading
from interp.facts.records import EditCase
from interp.results.record import Provenance, Record, check_same_weights

__all__ = ["Answers", "check_before"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Answers(Record):
    """A model's readings of one case's questions, in the order of :func:`~interp.evaluation.measures.questions`.

    Args:
        case: The case's id.
        readings: One per question.
        continuation: Sampled from the edit prompt; its fluency in bits x 100, None if not asked for.
        questions: What was asked; empty in answers of earlier versions.
        fluency_tokens, seed: How the continuation was sampled; None in answers of earlier versions.
    """

    case: str
    readings: tuple[Reading, ...]
    continuation: str
    fluency: float | None
    questions: tuple[Question, ...] = ()
    fluency_tokens: int | None = None
    seed: int | None = None


def check_before(
    before: Sequence[Answers], cases: Sequence[EditCase], described: Provenance, fluency_tokens: int, seed: int
) -> None:
    """Refuse answers that are not what a model would say to these cases' questions under these options.

    Args:
        before: The answers.
        cases: What they are to be put beside.
        described: The model.
        fluency_tokens, seed: How it is sampled.

    Raises:
        OptionError: If they are of other cases, questions or options (names both).
        ModelError: If they come from other weights.

    Warns:
        InterpWarning: If answers of an earlier version do not say what they were asked.
    """
    found, wanted = [answers.case for answers in before], [case.id for case in cases]
    if found != wanted:
        place = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1)
        which = f": {found[place]} where {wanted[place]} is expected" if place >= 0 else ""
        raise OptionError(
            f"the answers before the edits are those of other cases ({len(found)} of {len(wanted)}){which}"
        )
    unsure: list[str] = []
    for answers, case in zip(before, cases, strict=True):
        what = f"the answers of case {case.id} before the edit"
        check_same_weights(what, answers.provenance, described)
        asked = questions(case)
        if len(answers.readings) != len(asked):
            raise OptionError(f"{what} are {len(answers.readings)}; expected one for each of {len(asked)} questions")
        if not answers.questions:
            unsure.append(case.id)
            continue
        for was, is_ in zip(answers.questions, asked, strict=True):
            if was != is_:
                raise OptionError(f"{what} are to another question: {was}; expected {is_}")
        options = {"fluency_tokens": answers.fluency_tokens, "seed": answers.seed}
        expected = {"fluency_tokens": fluency_tokens, "seed": seed}
        if options != expected:
            raise OptionError(f"{what} were sampled with {options}; expected {expected}")
    if unsure:
        warnings.warn(
            f"the answers of case {unsure[0]} before the edit do not say what was asked and how, as those of"
            f" {len(unsure)} of {len(cases)} cases: they come from an earlier version, and are taken as they are",
            InterpWarning,
            stacklevel=4,
        )
