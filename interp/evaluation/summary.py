"""From evaluated cases to the rows of Table 1: means in percent with intervals, and locators compared case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from interp.errors import OptionError
from interp.evaluation.averaging import Columns
from interp.evaluation.case_evaluation import CaseEvaluation
from interp.evaluation.measure import Measure
from interp.evaluation.measures import measure_named, measures
from interp.evaluation.protocols import PROTOCOLS
from interp.options import check_choice
from interp.results.shown import Shown
from interp.statistics.estimates import Interval

__all__ = ["NOTHING", "Comparison", "TableRow", "compare", "table_row"]

NAN = float("nan")
NOTHING = Interval(mean=NAN, low=NAN, high=NAN, n=0)
"""Of what was not measured."""


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
        scores: By protocol and measure, in the measure's unit; under None those that go by no protocol
            (:data:`~interp.evaluation.measures.MEASURES`).
        skipped: The cases that could not be edited or evaluated, each with the reason.
    """

    locator: str
    method: str
    layers: str
    n_cases: int
    n_took: int | None
    scores: Mapping[str | None, Mapping[str, Interval]]
    skipped: tuple[str, ...] = ()

    def measured(self, name: str, protocol: str = "teacher-forced") -> Interval:
        """A measure of the row, whether it goes by a protocol or by none; one without a mean if it was not taken.

        Raises:
            OptionError: If there is no such measure or protocol.
        """
        check_choice("protocol", protocol, tuple(PROTOCOLS))
        under = protocol if measure_named(name).by_protocol else None
        return self.scores.get(under, {}).get(name, NOTHING)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One locator against another with the same editor, over the cases that both edited.

    Args:
        method: The editor.
        first, second: The locators; positive differences favour the first.
        protocol: Of the scores.
        differences: By measure, in the measure's unit; those that go by no protocol come last.
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
        edited: The edited model, or the model before. What that has by definition, not by measuring, as its locality
            of 100, has no interval.
        skipped: See :class:`TableRow`.
        seed: Of the bootstrap.

    Raises:
        OptionError: If there are none, or they differ in method or model.
    """
    if not evaluations:
        raise OptionError(f"no cases to average for {locator}")
    if len({(e.method, e.provenance.weights_hash) for e in evaluations}) != 1:
        raise OptionError(f"the evaluations of {locator} differ in method or model")
    scores: dict[str | None, dict[str, Interval]] = {}
    for protocol in (*PROTOCOLS, None):
        values = _values(evaluations, protocol, edited)
        under = measures(by_protocol=protocol is not None)
        scores[protocol] = {measure.name: _mean(measure, values, edited, seed) for measure in under}
    return TableRow(
        locator=locator,
        method=evaluations[0].method if edited else "none",
        layers=layers,
        n_cases=len(evaluations),
        n_took=sum(e.took for e in evaluations) if edited else None,
        scores=scores,
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
    one, other = (_values(side, protocol, True) for side in (first, second))
    differences, p_values = {}, {}
    for measure in (*measures(by_protocol=True), *measures(by_protocol=False)):
        columns = _columns(measure, one), _columns(measure, other)
        differences[measure.name] = _scaled(measure, measure.average.difference(*columns, seed))
        p_values[measure.name] = measure.average.p_value(*columns, seed)
    return Comparison(
        method=first[0].method,
        first=names[0],
        second=names[1],
        protocol=protocol,
        differences=differences,
        p_values=p_values,
    )


def _values(evaluations: Sequence[CaseEvaluation], protocol: str | None, edited: bool) -> Columns:
    """The cases' numbers by measure: those under the protocol, and those that go by none."""
    under = dict.fromkeys((protocol, None))
    each = [{k: v for p in under for k, v in e.scores(p, edited=edited).items()} for e in evaluations]
    return {name: [NAN if (value := scores[name]) is None else value for scores in each] for name in each[0]}


def _columns(measure: Measure, values: Columns) -> Columns:
    """What a measure is the average of.

    Raises:
        OptionError: If one of its parts has no numbers of cases.
    """
    names = measure.parts or (measure.name,)
    for name in names:
        if name not in values:
            raise OptionError(f"the measure {measure.name!r} averages {name!r}, which has no value of a case there")
    return {name: values[name] for name in names}


def _mean(measure: Measure, values: Columns, edited: bool, seed: int) -> Interval:
    found = measure.average.interval(_columns(measure, values), seed)
    if not edited and measure.by_definition and found.n:
        found = replace(found, low=NAN, high=NAN, why=measure.by_definition)
    return _scaled(measure, found)


def _scaled(measure: Measure, found: Interval) -> Interval:
    """In the measure's unit."""
    scale = measure.unit.scale
    return replace(found, mean=scale * found.mean, low=scale * found.low, high=scale * found.high)
