"""Where to edit, in sentences and as tables: what ``interp where`` found, with what it does not show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import PurePath

from interp.editing.measured import LayerScore, WhereToEdit
from interp.editing.methods import editor_title
from interp.models.source import said_of
from interp.plots.table_forms import MARKDOWN_FORM, markdown_table
from interp.statistics.estimates import Interval
from interp.system.readable import duration

__all__ = ["where_models_markdown", "where_report", "where_rows", "where_table_markdown"]

HEADER = ("layer", "layers edited", "score", "cases", "below the chosen one by", "p", "")


def where_report(found: WhereToEdit, seconds: float = math.nan) -> list[str]:
    """The report: a sentence a line, the answer first.

    Args:
        found: The result.
        seconds: What it took, if that is known.
    """
    return [
        _answer(found),
        _apart(found),
        _top(found),
        *(_peaks(found)),
        _cost(found, seconds),
        "Not shown: layers between the measured ones, other editors, other cases than these, and whether one edit bears"
        " another; where no layer is told from another, they may still differ by what the intervals span.",
    ]


def where_rows(found: WhereToEdit) -> list[tuple[str, ...]]:
    """Every measured layer, in the columns ``layer``, ``layers edited``, ``score``, and so on."""
    return [_row(found, each) for each in found.by_layer]


def where_table_markdown(found: WhereToEdit, seconds: float = math.nan) -> str:
    """The report and its table as a page of Markdown."""
    escape = MARKDOWN_FORM.escape
    rows = [tuple(map(escape, row)) for row in where_rows(found)]
    origin = found.provenance
    source = f", {said}" if (said := said_of(origin.source)) else ""
    versions = ", ".join(f"{name} {number}" for name, number in origin.versions.items())
    return "\n\n".join(
        (
            f"# Where to edit {escape(origin.model)}",
            *map(escape, where_report(found, seconds)),
            markdown_table(HEADER, rows, left=2),
            escape(
                f"Weights {origin.weights_hash} in {origin.dtype}{source}; facts: {found.facts[0]} ({found.facts[1]});"
                f" cases: {found.cases[0]} ({found.cases[1]}); {versions}."
            ),
        )
    ) + "\n"  # fmt: skip


def where_models_markdown(measured: Sequence[WhereToEdit]) -> str:
    """A table over models, as in ``docs/where-to-edit.md``."""
    header = (
        "model", "editor", "edit layer", "score, held out", "not told from it", "told to be worse from",
        "locators point to", "layers measured", "cases", "facts",
    )  # fmt: skip
    lines = []
    for found in measured:
        peaks = ", ".join(f"{peak.title} {_span(peak.layer)}" for peak in found.peaks)
        cells = (
            PurePath(found.provenance.model).name,
            editor_title(found.editor),
            _numbers(found.layers),
            "–" if found.held_out is None else f"{_score(found.held_out)}",
            _numbers(found.not_told) or "–",
            _span(found.worse_from),
            peaks,
            f"{len(found.by_layer)} of {found.n_layers}",
            f"{found.at(found.layer).score.n} + {found.n_asked if found.held_out else 0}",
            str(max((peak.n_facts for peak in found.peaks), default=0)),
        )
        lines.append(tuple(map(MARKDOWN_FORM.escape, cells)))
    return markdown_table(header, lines, left=2)


def _answer(found: WhereToEdit) -> str:
    chosen, editor = found.at(found.layer).score, editor_title(found.editor)
    by = f"{_score(chosen)} on the {chosen.n} cases by which it was chosen"
    if found.held_out is None:
        by += ", which is too high: of several layers the luckiest is the highest, and no cases were left to hold out"
    else:
        by = f"{_score(found.held_out)} on {found.held_out.n} cases that had no part in the choice; {by}"
    took = f"{found.n_took} of {found.n_asked} edits took"
    place = f"layer{'s' if len(found.layers) > 1 else ''} {_numbers(found.layers)}"
    shown = chosen if found.held_out is None else found.held_out
    if not shown.mean > 0:
        return f"No edit of {found.provenance.model} with {editor} works: the best is {place} (score {by}; {took})."
    return f"Edit {place} of {found.provenance.model} with {editor} (score {by}; {took})."


def _apart(found: WhereToEdit) -> str:
    worse = [each.layer for each in found.by_layer if each.told]
    n = len(found.by_layer)
    if not found.not_told:
        return (
            f"All other layers that were measured ({n - 1} of {found.n_layers}) are told to be worse."
            if worse
            else ("No other layer was measured.")
        )
    name = "Layer" if len(found.not_told) == 1 else "Layers"
    told = f"; told to be worse: {_numbers(worse)}" if worse else "; no layer is told to be worse"
    return f"{name} {_numbers(found.not_told)} cannot be told from it ({n} of {found.n_layers} were measured){told}."


def _top(found: WhereToEdit) -> str:
    first = found.worse_from
    if first is None:
        last = found.by_layer[-1].layer
        return f"Nothing says where not to edit: the last measured layer, {last}, is not told to be worse."
    there = [each.layer for each in found.by_layer if each.layer >= first]
    return f"Do not edit from layer {first} on: every layer measured there ({_numbers(there)}) is told to be worse."


def _peaks(found: WhereToEdit) -> list[str]:
    lines = []
    for peak in found.peaks:
        if peak.layer is None:
            lines.append(f"{peak.title} points to no layer.")
            continue
        span = "" if peak.low is None else f" [{peak.low}, {peak.high}]"
        there = next((each for each in found.by_layer if each.layer == peak.edited), None)
        at = "" if there is None else f"; the score of editing {_numbers(there.layers)} is {_score(there.score)}"
        lines.append(f"{peak.title} points to layer {peak.layer}{span}, over {peak.n_facts} facts{at}.")
    return lines


def _cost(found: WhereToEdit, seconds: float) -> str:
    counts = sorted({each.score.n for each in found.by_layer})
    cases = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    facts = max((peak.n_facts for peak in found.peaks), default=0)
    held = found.n_asked if found.held_out is not None else 0
    took = "" if math.isnan(seconds) else f", {duration(seconds)}"
    left = f"; {found.left_out} left out" if found.left_out else ""
    layers = len(found.by_layer)
    return (
        f"Budget {found.budget.get('name')}: {layers} layers, {cases} cases each, {held} held out, {facts} facts"
        f" located{took}{left}. p is corrected for choosing the best of all (by exchanges within cases); intervals are"
        " not."
    )


def _row(found: WhereToEdit, each: LayerScore) -> tuple[str, ...]:
    said = "chosen" if each.layer == found.layer else "worse" if each.told else "cannot be told"
    difference = "" if each.difference is None else _score(each.difference)
    p = "" if each.layer == found.layer else "< 0.001" if each.p < 0.001 else f"{each.p:.3f}"
    return (str(each.layer), _numbers(each.layers), _score(each.score), str(each.score.n), difference, p, said)


def _score(score: Interval) -> str:
    if math.isnan(score.mean):
        return "–"
    ends = "no interval" if math.isnan(score.low) else f"{score.low:.0f}, {score.high:.0f}"
    return f"{score.mean:.0f} [{ends}]"


def _span(layer: int | None) -> str:
    return "–" if layer is None else str(layer)


def _numbers(layers: Sequence[int]) -> str:
    """Layers, those in a row as a span: ``0, 4-6, 9``."""
    runs = groupby(enumerate(layers), lambda item: item[1] - item[0])
    found = [[layer for _, layer in members] for _, members in runs]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)
