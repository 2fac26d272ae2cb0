"""What a study of edited layers found, from its records alone: Table 1, the layer sweep, one fact located again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.errors import DataError
from interp.evaluation.protocol import CaseEvaluation
from interp.evaluation.summary import Comparison, TableRow, compare, table_row
from interp.locate.class_average import ClassAverage
from interp.locate.methods.attribution import Attribution
from interp.locate.methods.causal_trace import CausalTrace
from interp.results.run_folder import RunFolder
from interp.results.shown import Shown
from interp.statistics.estimates import Interval, rank_correlation
from interp.study.plan import LAST_SUBJECT, LOCATORS, finished, layers_of, layers_text, read_plan, unit_name

__all__ = ["EditResults", "Relocated", "Strength", "read_edit_results", "relocated"]


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strongly a locator points to each layer, at the last subject token.

    Args:
        locator, title, unit: What it is.
        mean, low, high: By layer, over the facts, with 95% intervals (NaN where there is none).
        chosen: The layer that the locator chose.
        correlation: Spearman's, with the edit score over the layers of the sweep; it has no interval
            (:func:`~interp.statistics.estimates.rank_correlation` says why).
    """

    locator: str
    title: str
    unit: str
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chosen: int
    correlation: Interval


@dataclass(frozen=True, kw_only=True, repr=False)
class EditResults(Shown):
    """What the study found.

    Args:
        rows: Table 1: before any edit, then each locator with each editor.
        comparisons: Tracing against attribution, and both against the control, paired by case.
        by_layer: The layer sweep.
        strengths: Of the two locators.
    """

    rows: tuple[TableRow, ...]
    comparisons: tuple[Comparison, ...]
    by_layer: Mapping[int, TableRow]
    strengths: tuple[Strength, ...]


@dataclass(frozen=True, kw_only=True)
class Relocated:
    """The first case located before and after its edit."""

    case: str
    trace: tuple[CausalTrace, CausalTrace]
    attribution: tuple[Attribution, Attribution]


def read_edit_results(run: RunFolder, averages: Sequence[ClassAverage]) -> EditResults:
    """Table 1 and the layer sweep from records alone.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> averages = interp.class_averages(run)
        >>> settings = interp.EditStudySettings(limit=1, stride=5, fluency_tokens=20, corpus=interp.Corpus(tokens=2560))
        >>> edits = interp.edit_cases(model, cases, averages, "edited", settings, noise=0.3)
        >>> [(row.locator, row.method) for row in interp.read_edit_results(edits, averages).rows[:3]]
        [('Before any edit', 'none'), ('Attribution score', 'rome'), ('Attribution score', 'memit')]

    Raises:
        DataError: If the study is not finished (names the first missing record), or every case of a row was left out.
    """
    plan = read_plan(run)
    chosen, swept, seed = plan.chosen, plan.swept, plan.seed

    def row(
        method: str, layers: Sequence[tuple[int, ...]], locator: str, text: str, edited: bool = True
    ) -> tuple[TableRow, list[CaseEvaluation]]:
        why = [plan.why_not(method, at, i) for i, at in enumerate(layers)]
        skipped = [f"case {plan.cases[i]}: {reason}" for i, reason in enumerate(why) if reason is not None]
        found = [
            finished(
                run, CaseEvaluation, unit_name("case", method, at, i), case=plan.cases[i], method=method, layers=at
            )
            for i, at in enumerate(layers)
            if why[i] is None
        ]
        if not found:
            raise DataError(f"{run.path}: {locator}, {method} at {text}: every case was left out; {skipped[0]}")
        return table_row(found, locator=locator, layers=text, edited=edited, skipped=skipped, seed=seed), found

    groups: dict[tuple[str, str], list[CaseEvaluation]] = {}
    rows: list[TableRow] = []
    for locator, title in LOCATORS.items():
        for method in ("rome", "memit"):
            layers = layers_of(locator, method, chosen, plan.drawn)
            entry, groups[locator, method] = row(method, layers, title, layers_text(locator, layers))
            rows.append(entry)
    unedited, _ = row("rome", layers_of("tracing", "rome", chosen, plan.drawn), "Before any edit", "-", edited=False)
    comparisons = [
        compare(*_in_both(groups[a, method], groups[b, method]), names=(LOCATORS[a], LOCATORS[b]), seed=seed)
        for method in ("rome", "memit")
        for a, b in (("tracing", "attribution"), ("tracing", "random"), ("attribution", "random"))
    ]
    by_layer = {layer: row("rome", [(layer,)] * len(plan.cases), "Layer sweep", str(layer))[0] for layer in swept}
    scores = [by_layer[layer].scores["teacher-forced"]["score"].mean for layer in swept]
    maps = {average.method: average for average in averages}
    strengths = []
    for locator, method in (("attribution", "attribution"), ("tracing", "mlp")):
        mean, low, high = (
            tuple(float(x) for x in values[LAST_SUBJECT])
            for values in (maps[method].mean, maps[method].low, maps[method].high)
        )
        strengths.append(
            Strength(
                locator=LOCATORS[locator],
                title=maps[method].title,
                unit=maps[method].unit,
                mean=mean,
                low=low,
                high=high,
                chosen=chosen[locator].rome,
                correlation=rank_correlation([mean[layer] for layer in swept], scores),
            )
        )
    return EditResults(
        rows=(unedited, *rows), comparisons=tuple(comparisons), by_layer=by_layer, strengths=tuple(strengths)
    )


def _in_both(
    first: Sequence[CaseEvaluation], second: Sequence[CaseEvaluation]
) -> tuple[list[CaseEvaluation], list[CaseEvaluation]]:
    """The cases that neither left out."""
    both = {e.case for e in first} & {e.case for e in second}
    return [e for e in first if e.case in both], [e for e in second if e.case in both]


def relocated(run: RunFolder) -> Relocated:
    """The maps of the first case that was edited, before and after its edit.

    Raises:
        DataError: If the study is not finished, or a record is damaged or not what its name says.
    """
    plan = read_plan(run)
    case = plan.cases[plan.located_again()]
    traces = [finished(run, CausalTrace, f"trace-{when}") for when in ("before", "after")]
    attributions = [
        finished(run, Attribution, f"attribution-{when}", fact=trace.fact, provenance=trace.provenance)
        for when, trace in zip(("before", "after"), traces, strict=True)
    ]
    expected = run.settings().get("provenance", {}).get("weights_hash")
    if traces[0].provenance.weights_hash != expected:
        raise DataError(
            f"{run.path}: trace-before is of weights {traces[0].provenance.weights_hash}; the study has {expected}"
        )
    return Relocated(case=case, trace=tuple(traces), attribution=tuple(attributions))
