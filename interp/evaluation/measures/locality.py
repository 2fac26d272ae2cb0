"""Locality: whether what has nothing to do with the edit is answered as before, right or wrong."""

from __future__ import annotations

from interp.evaluation.measure import Said, share_measure
from interp.evaluation.questions import Question
from interp.facts.records import EditCase

__all__ = ["MEASURE"]


def _questions(case: EditCase) -> list[Question]:
    return [
        Question(metric="locality", kind=kind, prompt=probe.prompt, target=probe.target, rival=case.request.new_target)
        for kind, probes in case.locality.items()
        for probe in probes
    ]


MEASURE = share_measure(
    name="locality",
    title="Locality",
    short="local.",
    questions=_questions,
    counts=Said.kept,
    by_definition="100 by definition",
)
