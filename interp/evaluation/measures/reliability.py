"""Reliability: whether the edit prompt is answered anew."""

from __future__ import annotations

from interp.evaluation.measure import share_measure
from interp.evaluation.questions import Question
from interp.facts.records import EditCase

__all__ = ["MEASURE"]


def _questions(case: EditCase) -> list[Question]:
    fact, new = case.request.fact, case.request.new_target
    return [Question(metric="reliability", kind="", prompt=fact.prompt, target=new, rival=fact.target)]


MEASURE = share_measure(name="reliability", title="Reliability", short="reliab.", questions=_questions)
