"""From evaluated cases to the rows of Table 1: means in percent with intervals, and locators compared case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from interp.errors import OptionError
from interp.evaluation.protocol import METRICS, PROTOCOLS, CaseEvaluation
from interp.results.shown import Shown
from interp.statistics.estimates import (
    PARTS,
    SHARE,
    Interval,
    bootstrap_mean,
    bootstrap_score,
    paired_difference,
    score_difference,
)
from interp.statistics.significance import paired_p_value, score_p_value

__all__ = ["Comparison", "TableRow", "compare", "table_row"]

PERCENT = 100.0
NAN = float("nan")


@dataclass(frozen=True, kw_only=True, repr=False)
class TableRow(Shown):
    """A row of Table 1.

    Args:
        locator: What pointed to the layers.
        method: The editor.
        layers: Which layers, as text.
        n_cases: How many cases were edited and evaluated.
        n_took: In how many the patched model gives the new answer to the edit prompt: every token of it on top, those
            before it given. None before any edit.
        scores: By protocol and metric (``reliability``, ``generality``, ``locality``, ``portability``, ``score``), in
            percent.
        fluency: In bits x 100.
        skipped: The cases that could not be edited or evaluated, each with the reason.
    """

    locator: str
    method: str
    layers: str
    n_cases: int
    n_took: int | None
    scores: Mapping[str, Mapping[str, Interval]]
    fluency: Interval
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One locator against another with the same editor, over the cases that both edited.

    Args:
        method: The editor.
        first, second: The locators; positive differences favour the first.
        protocol: Of the scores.
        differences: By metric, and of the score, in percentage points (fluency: bits x 100).
        p_values: Of the same, by a paired permutation test, each by itself
            (:func:`~interp.statistics.significance.holm` corrects them for their number).
    """

    method: str
    first: str
    second: str
    protocol: str
    differences: Mapping[str, Interval]
    p_values: Mapping[str, float] = field(default_factory=dict)


def table_row(
    evaluations: Sequence[CaseEvaluation],
    *,
    locator: str,
    layers: str,
    edited: bool = True,
    skipped: Sequence[str] = (),
    seed: int = 0,
) -> TableRow:
    """Average cases that were edited by one method at layers that one locator chose.

    Example:
        >>> config = interp.default_config(model, "rome", layer=1)
        >>> patches = interp.edit_each(model, [case.request for case in cases], config=config)
        >>> found = interp.evaluate_each(model, patches, cases, fluency_tokens=20)
        >>> row = interp.table_row(found, locator="attribution", layers="1")
        >>> row.n_took, row.scores["teacher-forced"]["reliability"].mean
        (2, 100.0)

    Args:
        evaluations: One per case.
        locator, layers: See :class:`TableRow`.
        edited: The edited model, or the model before. Its locality is 100 by definition, not by measuring, so it has
            no interval.
        skipped: See :class:`TableRow`.
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
        found = {name: bootstrap_mean(values[name], bounds=SHARE, seed=seed) for name in METRICS}
        found["score"] = bootstrap_score(*(values[name] for name in PARTS), seed=seed)
        if not edited and found["locality"].n:
            found["locality"] = replace(found["locality"], low=NAN, high=NAN, why="100 by definition")
        scores[protocol] = {name: _percent(interval) for name, interval in found.items()}
    return TableRow(
        locator=locator,
        method=evaluations[0].method if edited else "none",
        layers=layers,
        n_cases=len(evaluations),
        n_took=sum(e.took for e in evaluations) if edited else None,
        scores=scores,
        fluency=bootstrap_mean(_fluencies(evaluations, edited), seed=seed),
        skipped=tuple(skipped),
    )


def compare(
    first: Sequence[CaseEvaluation],
    second: Sequence[CaseEvaluation],
    *,
    names: tuple[str, str],
    protocol: str = "teacher-forced",
    seed: int = 0,
) -> Comparison:
    """Compare two locators with the same editor over the same cases, paired by id.

    Example:
        >>> found = {}
        >>> for layer in (0, 1):
        ...     config = interp.default_config(model, "rome", layer)
        ...     patches = interp.edit_each(model, requests, config=config, second_moments="identity")
        ...     found[layer] = interp.evaluate_each(model, patches, cases, fluency_tokens=20)
        >>> comparison = interp.compare(found[0], found[1], names=("attribution", "tracing"))
        >>> comparison.differences["reliability"].mean  # in percentage points
        0.0

    Raises:
        OptionError: If their cases, methods or weights differ.
    """
    if [e.case for e in first] != [e.case for e in second] or {e.method for e in first} != {e.method for e in second}:
        raise OptionError(f"{names[0]} and {names[1]} edited different cases or with different methods")
    weights = sorted({e.provenance.weights_hash for e in (*first, *second)})
    if len(weights) != 1:
        raise OptionError(f"{names[0]} and {names[1]} edited models of different weights: {', '.join(weights)}")
    one, other = _values(first, protocol, True), _values(second, protocol, True)
    differences = {m: _percent(paired_difference(one[m], other[m], bounds=SHARE, seed=seed)) for m in METRICS}
    p_values = {m: paired_p_value(one[m], other[m], seed=seed) for m in METRICS}
    parts = [[values[name] for name in PARTS] for values in (one, other)]
    differences["score"] = _percent(score_difference(*parts, seed=seed))
    p_values["score"] = score_p_value(*parts, seed=seed)
    fluencies = _fluencies(first, True), _fluencies(second, True)
    differences["fluency"] = paired_difference(*fluencies, seed=seed)
    p_values["fluency"] = paired_p_value(*fluencies, seed=seed)
    return Comparison(
        method=first[0].method,
        first=names[0],
        second=names[1],
        protocol=protocol,
        differences=differences,
        p_values=p_values,
    )


def _values(evaluations: Sequence[CaseEvaluation], protocol: str, edited: bool) -> dict[str, list[float]]:
    each = [evaluation.scores(protocol, edited=edited) for evaluation in evaluations]
    return {metric: _measured([scores[metric] for scores in each]) for metric in METRICS}


def _fluencies(evaluations: Sequence[CaseEvaluation], edited: bool) -> list[float]:
    return _measured([e.fluency_after if edited else e.fluency_before for e in evaluations])


def _measured(values: Sequence[float | None]) -> list[float]:
    return [NAN if value is None else value for value in values]


def _percent(interval: Interval) -> Interval:
    scaled = {name: PERCENT * getattr(interval, name) for name in ("mean", "low", "high")}
    return replace(interval, **scaled)
