"""What the numbers of a study show, and what they do not, in sentences that follow from the numbers alone.

No sentence says more than an interval does. A difference holds if its p-value does after Holm's correction; layers
differ if their spans do not overlap; everything else is said to be not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from interp.editing.methods import editor_title
from interp.evaluation.measures import measure_named
from interp.evaluation.summary import Comparison, TableRow
from interp.locate.class_average import ClassAverage
from interp.plots.table1 import corrected
from interp.report.contents import Contents, EditsPart, FactsPart
from interp.statistics.estimates import Interval
from interp.statistics.intervals import MIN_BOUNDED, MIN_PEAK, MIN_UNBOUNDED
from interp.statistics.significance import SIGNIFICANT
from interp.study.edited import EditResults
from interp.study.layers import LAST_SUBJECT
from interp.system.readable import number

__all__ = ["Findings", "findings", "missing"]

SCORE = "score"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Sentences, as plain text.

    Args:
        shown: What the numbers show.
        limits: What they do not.
    """

    shown: tuple[str, ...]
    limits: tuple[str, ...]


def findings(contents: Contents) -> Findings:
    """What a study shows so far."""
    averages = contents.located.averages
    results = None if contents.edited is None else contents.edited.results
    shown = [*_peaks(averages), *_apart(averages)]
    limits = [*_of_looking_early(contents), *_few_facts(averages), *_of_locating(contents.located)]
    if contents.edited is not None and results is not None:
        shown += [*_differences(results, contents.edited.control), *_sweep(results)]
        limits += [*_of_editing(contents.edited, results)]
    return Findings(shown=tuple(shown), limits=tuple(limits))


def missing(contents: Contents) -> tuple[str, ...]:
    """What is still to be done, a sentence each."""
    found, part, edits = [], contents.located, contents.edited
    if part.n_expected is None:
        found.append("Which facts the model knows is being found out.")
    elif not part.finished:
        found.append(f"{part.n_located} of {part.n_expected} facts are located.")
    if contents.edits_follow and edits is None:
        found.append("Cases are edited when all facts are located: only then is it known at which layers.")
    if edits is not None and not edits.finished:
        found.append(f"{edits.n_done} of {edits.n_units} edits are done and evaluated.")
        if edits.n_begun < edits.n_rows:
            found.append(f"{edits.n_begun} of {edits.n_rows} rows of Table 1 have a case; it is drawn when all have.")
        elif edits.results is not None and not edits.results.same_cases:
            counts = sorted({row.n_cases for row in edits.results.rows})
            found.append(
                f"Rows of Table 1 rest on {_range(counts)} cases, not yet on the same ones: what compares them is the"
                " table of differences, which takes the cases that both rows have."
            )
    return tuple(found)


def _range(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


# locating


def _peaks(averages: Sequence[ClassAverage]) -> Iterator[str]:
    """Where each locator points to."""
    for each in averages:
        peak, n = each.peak[LAST_SUBJECT], each.n_facts[LAST_SUBJECT]
        if peak < 0:
            continue
        low, high = each.peak_low[LAST_SUBJECT], each.peak_high[LAST_SUBJECT]
        if low < 0:
            span = f"of {n} facts, fewer than {MIN_PEAK}, nothing says which other layers it could be"
        elif low == high:
            span = "every other layer can be told from it"
        else:
            span = f"layers {low} to {high} cannot be told from it"
        yield f"{each.title}: largest at layer {peak} of the last subject token; {span} (n = {n}).{_zero(each, peak)}"


def _zero(average: ClassAverage, peak: int) -> str:
    """Whether a map's largest mean is more than nothing."""
    low, high = (float(ends[LAST_SUBJECT, peak]) for ends in (average.low, average.high))
    if not math.isnan(low) and low <= 0 <= high:
        return f" Its mean there has the interval {number(low)} to {number(high)}: it may be nothing."
    return ""


def _apart(averages: Sequence[ClassAverage]) -> Iterator[str]:
    """Which locators point to different layers."""
    spans = {
        each.title: (each.peak_low[LAST_SUBJECT], each.peak_high[LAST_SUBJECT])
        for each in averages
        if each.peak_low[LAST_SUBJECT] >= 0
    }
    if len(spans) < 2:
        return
    found = [
        f"{one} and {other}"
        for one, other in combinations(spans, 2)
        if spans[one][1] < spans[other][0] or spans[other][1] < spans[one][0]
    ]
    if found:
        yield f"Spans of layers that do not overlap, at the last subject token: {'; '.join(found)}."
    else:
        yield (
            "The spans of all locators overlap at the last subject token: that two of them point to different layers is"
            " not shown."
        )


def _few_facts(averages: Sequence[ClassAverage]) -> Iterator[str]:
    if not averages:
        return
    counts = dict(zip(averages[0].token_classes, averages[0].n_facts, strict=True))
    few = [f"{name} (n = {n})" for name, n in counts.items() if 0 < n < MIN_UNBOUNDED]
    if few:
        yield (
            f"Of fewer than {MIN_UNBOUNDED} facts no mean of Figure 1 has an interval, of fewer than {MIN_PEAK} no peak"
            f" has a span: {', '.join(few)}."
        )
    wide = [
        each.title
        for each in averages
        if each.peak_low[LAST_SUBJECT] >= 0
        and 2 * (each.peak_high[LAST_SUBJECT] - each.peak_low[LAST_SUBJECT] + 1) > each.mean.shape[1]
    ]
    if wide:
        yield f"A span of more than half of the layers hardly says where a fact is: {'; '.join(wide)}."


def _of_locating(part: FactsPart) -> Iterator[str]:
    provenance = part.settings.get("provenance") or {}
    yield (
        f"This is one model, {provenance.get('model')}, and these {len(part.facts)} facts that it knows: nothing here"
        " is about others. Whether a state is enough to bring an answer back is not whether the fact is stored there."
    )


# editing


def _differences(results: EditResults, control: str) -> Iterator[str]:
    """What holds between locators, and what does not."""
    p_values = corrected(results.comparisons)
    tests = sum(not math.isnan(p) for each in p_values for p in each.values())
    hold = sum(p < SIGNIFICANT for each in p_values for p in each.values())
    if tests:
        yield f"{hold} of {tests} differences between rows of Table 1 hold after Holm's correction for all of them."
    layers = {(row.locator, row.method): row.layers for row in results.rows}
    for each, corrections in zip(results.comparisons, p_values, strict=True):
        n = each.differences[SCORE].n
        pair = f"{each.first} against {each.second} with {editor_title(each.method)} (n = {n})"
        names = [name for name, p in corrections.items() if p < SIGNIFICANT]
        score = _listed(each, [SCORE])
        if each.second != control and layers[each.first, each.method] == layers[each.second, each.method]:
            yield f"{pair}: both edit layers {layers[each.first, each.method]}, so there is nothing to compare."
        elif names:
            others = "" if SCORE in names else f" No difference of the score is shown: {score}."
            yield f"{pair}: {_listed(each, names)}.{others}"
        elif each.second == control:
            yield f"{pair}: that locating is better than drawing layers at random is not shown; {score}."
        else:
            yield f"{pair}: no difference is shown; {score}."


def _listed(comparison: Comparison, names: Sequence[str]) -> str:
    """Differences with their intervals; those in one unit share it."""
    by_unit: dict[str, list[str]] = {}
    for name in names:
        unit = measure_named(name).unit
        by_unit.setdefault(unit.of_differences or unit.name, []).append(_difference(name, comparison.differences[name]))
    return "; ".join(f"{', '.join(found)} {unit}" for unit, found in by_unit.items())


def _difference(name: str, found: Interval) -> str:
    if math.isnan(found.mean):
        return f"{name} not measured"
    ends = "[–]" if math.isnan(found.low) else f"[{found.low:.1f},\xa0{found.high:.1f}]"
    return f"{name} {found.mean:+.1f} {ends}".replace("-", "−")


def _sweep(results: EditResults) -> Iterator[str]:
    """Where an edit works best, if its intervals say so."""
    scores = {layer: row.measured(SCORE) for layer, row in results.by_layer.items()}
    scores = {layer: found for layer, found in scores.items() if not math.isnan(found.low)}
    if len(scores) < 2:
        return
    best = max(scores, key=lambda layer: scores[layer].mean)
    worse = [layer for layer, found in scores.items() if found.high < scores[best].low]
    where = f"layer {best} ({scores[best]} percent)"
    if worse:
        yield (
            f"Layer sweep: the score is highest at {where}; its interval lies above those of layers"
            f" {', '.join(map(str, worse))}, and overlaps with all others."
        )
    else:
        yield (
            f"Layer sweep: the score is highest at {where}, but its interval overlaps with that of every other layer:"
            " that it is better than any of them is not shown."
        )


def _of_editing(part: EditsPart, results: EditResults) -> Iterator[str]:
    yield from _resolution(results)
    few = sorted({row.n_cases for row in results.rows if row.n_cases < MIN_BOUNDED})
    if few:
        yield f"Of fewer than {MIN_BOUNDED} cases no number of Table 1 has an interval; there are {_range(few)}."
    failed = [_took(row) for row in results.rows if row.n_took is not None and row.n_took < row.n_cases]
    if failed:
        yield f"Not every edit took, which locality and fluency do not notice: {'; '.join(dict.fromkeys(failed))}."
    if part.finished and not results.same_cases:
        yield "Cases were left out, so rows of Table 1 rest on different ones; differences are over those of both."
    corpus = part.settings.get("corpus") or {}
    if corpus.get("source") == "self":
        yield f"Second moments come from {corpus.get('tokens'):,} tokens that the model wrote itself."
    if any(not math.isnan(strength.correlation.mean) for strength in results.strengths):
        yield (
            "The rank correlations of the layer sweep have no interval: neighbouring layers are alike, and no sample."
            " They do not show that localisation predicts where editing works, nor that it does not."
        )
    yield "The paper's rows are of another model and other cases: no row here is to be held against them."


def _resolution(results: EditResults) -> Iterator[str]:
    """What is too small to be seen with so many cases."""
    found = [comparison.differences[SCORE] for comparison in results.comparisons]
    halves = [(each.high - each.low) / 2 for each in found if each.high > each.low]
    if halves:
        n = _range(sorted({each.n for each in found}))
        yield (
            f"With n = {n} cases the intervals of differences in the score reach up to {max(halves):.0f} points to"
            " either side: smaller differences cannot be seen."
        )


def _took(row: TableRow) -> str:
    return f"{row.locator}, {editor_title(row.method)}: {row.n_took} of {row.n_cases}"


def _of_looking_early(contents: Contents) -> Iterator[str]:
    if not contents.finished and (contents.located.averages or contents.edited is not None):
        yield (
            "The study is not finished. Intervals and tests hold for a number of facts and cases that is fixed"
            " beforehand: who stops when the numbers look good cannot rely on them."
        )
