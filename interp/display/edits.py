"""Edits: patches, evaluated cases, Table 1, second moments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from interp.display.description import Description, Table, describe
from interp.editing.methods import editor_title
from interp.editing.moments import SecondMoments
from interp.evaluation.answers import Answers
from interp.evaluation.case_evaluation import CaseEvaluation
from interp.evaluation.measure import PERCENT
from interp.evaluation.measures import measures
from interp.evaluation.summary import NOTHING, Comparison, TableRow
from interp.patches.patch import Patch
from interp.statistics.estimates import Interval
from interp.study.edited import EditResults
from interp.system.readable import number, probability, token_label

__all__: list[str] = []

PROTOCOL = "teacher-forced"


@describe.register
def _patch(patch: Patch) -> Description:
    """A patch: what it edits, whether the patched model says so, how much it adds where."""
    requests = [
        (
            request.fact.prompt,
            token_label(request.new_target),
            _said(outcome.took),
            _probability(outcome.probability),
            _said(outcome.converged),
            _probability(outcome.optimised_probability),
            str(outcome.steps),
        )
        for request, outcome in zip(patch.requests, patch.outcomes, strict=True)
    ]
    norms = [
        (
            str(layer),
            number(norm),
            "dense" if layer in patch.dense else str(patch.left[layer].shape[1]),
            *([f"{patch.rounding[layer].changed:.0%}" if layer in patch.rounding else "–"] if patch.rounding else []),
        )
        for layer, norm in patch.norms().items()
    ]
    rounded = [f"changed by rounding to {patch.provenance.dtype}"] if patch.rounding else []
    return Description(
        heading=f"{editor_title(patch.method)} patch of {len(patch.requests)} fact(s), {len(patch.layers)} layer(s)",
        lines=[
            f"made for {patch.provenance.model}, weights {patch.provenance.weights_hash[:8]}",
            *filter(None, [patch.provenance.said_of_source()]),
            *(["NOT EVERY EDIT TOOK: the patched model does not give the new answer"] if patch.took is False else []),
        ],
        tables=[
            Table(
                header=("prompt", "new answer", "took", "P", "converged", "P when optimised", "steps"),
                rows=requests,
                left=2,
            ),
            Table(header=("layer", "norm of what is added to W_out", "rank", *rounded), rows=norms),
        ],
    )


@describe.register
def _case_evaluation(found: CaseEvaluation) -> Description:
    rows = [
        (
            question.metric + (f" ({question.kind})" if question.kind else ""),
            question.prompt,
            question.target.strip(),
            was.text.strip(),
            now.text.strip(),
            probability(_mean_probability(was.log_probability)),
            probability(_mean_probability(now.log_probability)),
        )
        for question, was, now in zip(found.questions, found.before, found.after, strict=True)
    ]
    return Description(
        heading=f"{found.case}: {editor_title(found.method)} at layer(s) {', '.join(map(str, found.layers))}",
        lines=_scores(found),
        tables=[
            Table(
                header=("asked for", "prompt", "expected", "before", "after", "P before", "P after"), rows=rows, left=5
            )
        ],
    )


def _scores(found: CaseEvaluation) -> list[str]:
    """The case's measures, a line for each unit."""
    lines: dict[str, list[str]] = {}
    for protocol in (PROTOCOL, None):
        before, after = found.scores(protocol, edited=False), found.scores(protocol)
        for measure in measures(by_protocol=protocol is not None):
            value = after.get(measure.name)
            if value is None:
                continue
            was = None if measure.by_definition else before[measure.name]
            about = "" if was is None else f" (before {measure.unit.scale * was:.0f})"
            unit = f"{measure.unit.name}, {protocol}" if protocol else measure.unit.name
            lines.setdefault(unit, []).append(f"{measure.name} {measure.unit.scale * value:.0f}{about}")
    return [f"{unit}: {', '.join(scores)}" for unit, scores in lines.items()]


@describe.register
def _answers(answers: Answers) -> Description:
    rows = [
        (reading.text.strip(), probability(_mean_probability(reading.log_probability))) for reading in answers.readings
    ]
    return Description(
        heading=f"Answers to the {len(rows)} questions of {answers.case}",
        tables=[Table(header=("answer", "P(expected)"), rows=rows)],
    )


@describe.register
def _row(row: TableRow) -> Description:
    return Description(heading="A row of Table 1", tables=[_table([row])])


@describe.register
def _results(results: EditResults) -> Description:
    names = _names()
    sweep = [
        (str(layer), *(_interval(row.measured(name, PROTOCOL)) for name in names))
        for layer, row in results.by_layer.items()
    ]
    editor = next(iter(results.by_layer.values())).method
    correlations = [
        (strength.locator, str(strength.chosen), _correlation(strength.correlation)) for strength in results.strengths
    ]
    return Description(
        heading=f"Edits by locator, n = {results.rows[0].n_cases} cases",
        lines=[f"percent ({'; '.join((PROTOCOL, *_units()))}), mean [95% interval over cases; –: none]"],
        tables=[
            _table(results.rows),
            _differences(results.comparisons),
            Table(title=f"{editor_title(editor)} by layer", header=("layer", *names), rows=sweep),
            Table(
                title="Does localisation predict editing? Rank correlation over the swept layers",
                header=("locator", "layer chosen", "correlation with the edit score"),
                rows=correlations,
            ),
        ],
    )


@describe.register
def _second_moments(moments: SecondMoments) -> Description:
    rows = [(str(layer), f"{error:.2f}") for layer, error in zip(moments.layers, moments.held_out_error, strict=True)]
    return Description(
        heading=f"Second moments of {len(moments.layers)} layer(s) over {moments.n_tokens} tokens",
        lines=[f"corpus: {moments.corpus['source']}; {moments.provenance.model}"],
        tables=[Table(header=("layer", "held-out error (0 for endless text)"), rows=rows)],
    )


def _table(rows: Sequence[TableRow]) -> Table:
    cells = [
        (
            row.locator,
            "–" if row.method == "none" else editor_title(row.method),
            row.layers,
            *(_interval(row.measured(name, PROTOCOL)) for name in _names()),
        )
        for row in rows
    ]
    return Table(header=("located by", "editor", "layers", *_names()), rows=cells, left=3)


def _differences(comparisons: Sequence[Comparison]) -> Table:
    names = _names()
    rows = [
        (
            f"{c.first} against {c.second}",
            editor_title(c.method),
            *(_interval(c.differences.get(name, NOTHING)) for name in names),
        )
        for c in comparisons
    ]
    return Table(
        title="Differences, paired by case (positive: the first is higher)",
        header=("locators", "editor", *names),
        rows=rows,
        left=2,
    )


def _names() -> list[str]:
    return [measure.name for measure in measures()]


def _units() -> list[str]:
    """What is not in percent."""
    return [f"{measure.name} in {measure.unit.name}" for measure in measures() if measure.unit != PERCENT]


def _interval(found: Interval) -> str:
    if math.isnan(found.mean):
        return "–"
    ends = "–" if math.isnan(found.low) else f"{found.low:.0f}, {found.high:.0f}"
    return f"{found.mean:.0f} [{ends}]"


def _correlation(found: Interval) -> str:
    return "–" if math.isnan(found.mean) else f"{found.mean:.2f}"


def _said(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "NO"


def _probability(value: float | None) -> str:
    return "–" if value is None else probability(value)


def _mean_probability(log_probability: float) -> float:
    """Of a token of the target, geometric mean."""
    return math.exp(log_probability)
