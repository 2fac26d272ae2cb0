"""Generality: whether paraphrases of the edit prompt are answered anew."""

from __future__ import annotations

from interp.evaluation.measure import share_measure
from interp.evaluation.questions import Question
from interp.facts.records import EditCase

__all__ = ["MEASURE"]


def _questions(case: EditCase) -> list[Question]:
    fact, new = case.request.fact, case.request.new_target
    return [
        Question(metric="generality", kind="", prompt=prompt, target=new, rival=fact.target)
        for prompt in case.paraphrases
    ]


MEASURE = share_measure(name="generality", title="Generality", short="gener.", questions=_questions)
