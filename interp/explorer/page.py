"""What the page is told: results as plain data, with labels and colours; nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformer_lens import HookedTransformer

from interp.editing.methods import EDITORS, editor_named
from interp.engine.cells import STATE_NAMES, Cell, window_layers
from interp.evaluation.protocol import CaseEvaluation
from interp.explorer.session import Session, map_names
from interp.facts.records import Fact
from interp.locate.activation_patching import PatchedRun, Readout
from interp.locate.methods import locator_named
from interp.models.tokens import TokenizedFact, token_text, tokenize
from interp.patches.patch import Patch
from interp.plots.heatmap import numbers
from interp.plots.panel import token_labels
from interp.plots.style import colour_scale
from interp.results.mapped import MapRecord
from interp.results.token_map import TokenMap
from interp.system.readable import neutral, number, probability, token_label

__all__ = [
    "edit_data",
    "editors_data",
    "fact_data",
    "file_name",
    "map_data",
    "maps_data",
    "panels",
    "runs_data",
]

SHOWN = 6  # next tokens a run
PALETTE = 64  # colours of a map


def fact_data(session: Session) -> dict[str, Any]:
    """The fact, its tokens, and the answer that is traced (after an edit of it, the new one)."""
    fact, tokenized = session.fact, tokenize(session.model, session.fact)
    pair = session.pair()
    return {
        "prompt": fact.prompt,
        "subject": fact.subject,
        "target": (fact.target or "").strip(),
        "tokens": token_labels(tokenized.strings, None),
        "span": list(tokenized.subject_span),
        "known": pair.answer_id == pair.top_id,
        "answer": token_label(token_text(session.model, pair.answer_id)),
    }


def map_data(result: Any, *, finished: bool) -> dict[str, Any]:
    """A located fact's map: values, the colours from the lowest to the highest, and how to read them."""
    shown: TokenMap = result.map()
    array = numbers(shown)
    colours = colour_scale(array, hue=shown.hue)
    return {
        "method": shown.locator,
        "title": shown.title,
        "unit": shown.unit,
        "values": [[None if math.isnan(value) else value for value in row] for row in array.tolist()],
        "ends": [colours.low, colours.high],
        "palette": [colour for _, colour in colours.stops(PALETTE)],
        "low": number(colours.low),
        "high": number(colours.high),
        "finished": finished,
    }


def maps_data() -> list[dict[str, str]]:
    """The maps that there can be, in the order of the page, and what a click on each puts in."""
    found = []
    for name in map_names():
        locator = locator_named(name)
        state = locator.cell(0, 0, 1).state
        puts = "this state" if state == name else f"the {STATE_NAMES[state]} here"
        found.append({"name": name, "title": locator.title, "puts": puts})
    return found


def panels(session: Session) -> list[TokenMap]:
    """All maps that are there, in the order of the page."""
    return [session.maps[method].map() for method in map_names() if method in session.maps]


def runs_data(session: Session, patched: PatchedRun | None, chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the source, the base and the patched run answer, side by side.

    Args:
        session: With its runs.
        patched: The patched run, if cells were chosen.
        chosen: As the page names the chosen cells: ``method``, ``token``, ``layer``.
    """
    source, base = (patched.source, patched.base) if patched else session.readouts()
    names = ["Clean run", "Corrupted run", "Restored run"]
    if session.other is not None:
        names = ["Other prompt", "This prompt", "Patched run"]
    pair = session.source_pair()
    return {
        "names": names,
        "answer": token_label(token_text(session.model, pair.answer_id)),
        "answer_id": pair.answer_id,
        "source": _readout(source),
        "base": _readout(base),
        "patched": _readout(patched.patched) if patched else None,
        "samples": len(pair.base_logits),
        "noise": number(pair.noise),
        "other": None if session.other is None else _other(session, session.other),
        "cells": [
            {**each, "text": _cell_text(session, pair.tokenized, cell), "more": _more(session, each)}
            for each, cell in zip(chosen, patched.cells if patched else (), strict=True)
        ],
    }


def edit_data(evaluation: CaseEvaluation, patch: Patch) -> dict[str, Any]:
    """An edit's answers before and after, and how its optimisation ended."""
    (outcome,) = patch.outcomes
    rows = []
    for question, was, now in zip(evaluation.questions, evaluation.before, evaluation.after, strict=True):
        rows.append(
            {
                "metric": question.metric + (f" ({question.kind})" if question.kind else ""),
                "prompt": neutral(question.prompt),
                "expected": neutral(question.target.strip()),
                "before": neutral(was.text.strip()),
                "after": neutral(now.text.strip()),
                "p_before": probability(math.exp(was.log_probability)),
                "p_after": probability(math.exp(now.log_probability)),
                "changed": was.generated != now.generated,
            }
        )
    (request,) = patch.requests
    return {
        "method": patch.method.upper(),
        "layers": ", ".join(map(str, patch.layers)),
        "target": neutral(request.new_target.strip()),
        "prompt": neutral(request.fact.prompt),
        "converged": outcome.converged,
        "took": outcome.took is not False,
        "norm": ", ".join(number(norm) for norm in patch.norms().values()),
        "rows": rows,
    }


def _readout(readout: Readout) -> dict[str, Any]:
    error = readout.standard_error
    return {
        "probability": readout.probability,
        "text": probability(readout.probability) + ("" if math.isnan(error) else f" ± {number(round(error, 3))}"),
        "top": [
            {
                "id": candidate.token_id,
                "token": token_label(candidate.token),
                "probability": candidate.probability,
                "text": probability(candidate.probability),
            }
            for candidate in readout.top[:SHOWN]
        ],
    }


def _other(session: Session, other: Fact) -> dict[str, Any]:
    tokenized = tokenize(session.model, other)
    return {
        "prompt": other.prompt,
        "subject": other.subject,
        "tokens": token_labels(tokenized.strings, None),
        "span": list(tokenized.subject_span),
    }


def _cell_text(session: Session, tokenized: TokenizedFact, cell: Cell) -> str:
    label = token_label(tokenized.strings[cell.token])
    if cell.state == "resid" or cell.window == 1:
        layers = f"layer {cell.layer}"
    else:
        blocks = window_layers(cell.layer, cell.window, session.model.cfg.n_layers)
        layers = f"layers {blocks.start}–{blocks.stop - 1}"
    return f"{STATE_NAMES[cell.state]} at “{label}” ({cell.token}), {layers}"


def _more(session: Session, chosen: dict[str, Any]) -> str:
    """What else the map that was clicked says of a cell."""
    found = session.maps.get(chosen["method"])
    more = found.at(chosen["token"], chosen["layer"]) if isinstance(found, MapRecord) else {}
    return "; ".join(f"{name} {value}" for name, value in more.items())


def editors_data(model: HookedTransformer) -> list[dict[str, Any]]:
    """The editors that one can tell where to edit: names, and the layer that is edited (up to) if none is named."""
    found = []
    for name in EDITORS:
        editor = editor_named(name)
        layers = editor.default(model).edited_layers
        if layers:
            title = editor.title + (f" ({len(layers)} layers, up to this)" if len(layers) > 1 else "")
            found.append({"name": name, "title": title, "layer": layers[-1]})
    return found


def file_name(session: Session) -> str:
    """A name for what is exported."""
    words = "".join(c if c.isalnum() else "-" for c in session.fact.subject.lower())
    return f"{words.strip('-') or 'fact'}-explored"
