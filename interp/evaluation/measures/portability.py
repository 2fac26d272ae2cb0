"""Portability: whether what follows from the edit is answered anew: another name, one step of reasoning."""

from __future__ import annotations

from interp.evaluation.measure import share_measure
from interp.evaluation.questions import Question
from interp.facts.records import EditCase

__all__ = ["MEASURE"]


def _questions(case: EditCase) -> list[Question]:
    return [
        Question(metric="portability", kind=kind, prompt=probe.prompt, target=probe.target)
        for kind, probes in case.portability.items()
        for probe in probes
    ]


MEASURE = share_measure(name="portability", title="Portability", short="port.", questions=_questions)
