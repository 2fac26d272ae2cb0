"""From evaluated cases to the rows of Table 1: means in percent with intervals, and locators compared case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.errors import OptionError
from interp.evaluation.protocol import METRICS, PROTOCOLS, CaseEvaluation
from interp.evaluation.statistics import Interval, bootstrap_mean, bootstrap_score, paired_difference
from interp.shown import Shown

__all__ = ["Comparison", "TableRow", "compared", "table_row"]

PERCENT = 100.0
SCORED = ("reliability", "locality", "portability")
"""What the score is the harmonic mean of (checked against the paper's four rows)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TableRow(Shown):
    """A row of Table 1.

    Args:
        locator: What pointed to the layers.
        method: The editor.
        layers: Which layers, as text.
        n_cases: How many cases.
        n_converged: In how many the patched model gives the new answer (as the patch was asked when it was made; in
            patches of earlier versions, in how many the optimisation reached its target).
        scores: By protocol and metric (``reliability``, ``generality``, ``locality``, ``portability``, ``score``), in
            percent.
        fluency: In bits x 100.
    """

    locator: str
    method: str
    layers: str
    n_cases: int
    n_converged: int
    scores: Mapping[str, Mapping[str, Interval]]
    fluency: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One locator against another with the same editor, over the cases that both edited.

    Args:
        method: The editor.
        first, second: The locators; positive differences favour the first.
        protocol: Of the scores.
        differences: By metric, in percentage points (fluency: bits x 100).
    """

    method: str
    first: str
    second: str
    protocol: str
    differences: Mapping[str, Interval]


def table_row(
    evaluations: Sequence[CaseEvaluation], *, locator: str, layers: str, edited: bool = True, seed: int = 0
) -> TableRow:
    """Average cases that were edited by one method at layers that one locator chose.

    Args:
        evaluations: One per case.
        locator, layers: See :class:`TableRow`.
        edited: The edited model, or the model before (its locality is 100 by definition).
        seed: Of the bootstrap.

    Raises:
        OptionError: If there are none, or they differ in method or model.
    """
    if not evaluations:
        raise OptionError(f"no cases to average for {locator}")
    if len({(e.method, e.provenance.weights_hash) for e in evaluations}) != 1:
        raise OptionError(f"the evaluations of {locator} differ in method or model")
    scores: dict[str, dict[str, Interval]] = {}
    for protocol in PROTOCOLS:
        values = _values(evaluations, protocol, edited)
        scores[protocol] = {metric: _percent(bootstrap_mean(values[metric], seed=seed)) for metric in METRICS}
        scores[protocol]["score"] = _percent(bootstrap_score(*(values[metric] for metric in SCORED), seed=seed))
    return TableRow(
        locator=locator,
        method=evaluations[0].method if edited else "none",
        layers=layers,
        n_cases=len(evaluations),
        n_converged=sum(_took(e) for e in evaluations),
        scores=scores,
        fluency=bootstrap_mean(_fluencies(evaluations, edited), seed=seed),
    )


def _took(evaluation: CaseEvaluation) -> bool:
    outcome = evaluation.outcome
    return outcome is not None and (outcome.converged if outcome.took is None else outcome.took)


def compared(
    first: Sequence[CaseEvaluation],
    second: Sequence[CaseEvaluation],
    *,
    names: tuple[str, str],
    protocol: str = "teacher-forced",
    seed: int = 0,
) -> Comparison:
    """Two locators' cases, paired by id.

    Raises:
        OptionError: If their cases or methods differ.
    """
    if [e.case for e in first] != [e.case for e in second] or {e.method for e in first} != {e.method for e in second}:
        raise OptionError(f"{names[0]} and {names[1]} edited different cases or with different methods")
    one, other = _values(first, protocol, True), _values(second, protocol, True)
    differences = {m: _percent(paired_difference(one[m], other[m], seed=seed)) for m in METRICS}
    differences["fluency"] = paired_difference(_fluencies(first, True), _fluencies(second, True), seed=seed)
    return Comparison(
        method=first[0].method, first=names[0], second=names[1], protocol=protocol, differences=differences
    )


def _values(evaluations: Sequence[CaseEvaluation], protocol: str, edited: bool) -> dict[str, list[float]]:
    each = [evaluation.scores(protocol, edited=edited) for evaluation in evaluations]
    return {metric: _measured([scores[metric] for scores in each]) for metric in METRICS}


def _fluencies(evaluations: Sequence[CaseEvaluation], edited: bool) -> list[float]:
    return _measured([e.fluency_after if edited else e.fluency_before for e in evaluations])


def _measured(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _percent(interval: Interval) -> Interval:
    return Interval(
        mean=PERCENT * interval.mean, low=PERCENT * interval.low, high=PERCENT * interval.high, n=interval.n
    )
