"""How far scores, ranks and edits of a model in half precision move against float32.

    python -m benchmarks.half_precision --models smollm2-135m --formats bfloat16 --write docs/how-to/half-precision.md

For bfloat16 and float16 (for which many CPUs have no fast products: hours): the maps of a few known facts (attribution;
tracing of MLP outputs, with the noise of float32) against those of float32, and edits of as many facts, each made and
asked in its own number format. Second moments are the identity, contexts the bare prompt alone: what moves is
arithmetic. Small by default: minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformer_lens import HookedTransformer

from benchmarks.machine import console
from interp.editing import default_config, edit_each
from interp.engine.corruption import noise_level
from interp.errors import InterpWarning
from interp.facts.fact_files import load_facts
from interp.facts.records import EditRequest, Fact
from interp.locate.knowledge import known_facts, spread_over_relations
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.load import load_model
from interp.patches.patch import Patch

FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BEGIN, END = "<!-- half precision: begin -->", "<!-- half precision: end -->"
EDITORS = ("rome", "memit")


@dataclass(frozen=True)
class Found:
    """What was computed in one number format.

    Args:
        maps: By locator, of each fact: [token, layer], NaN where there is none.
        last_subject: Of each fact.
        patches: By editor, of each fact.
    """

    maps: Mapping[str, Sequence[Tensor]]
    last_subject: Sequence[int]
    patches: Mapping[str, Sequence[Patch]]


def measured(model: HookedTransformer, facts: Sequence[Fact], noise: float, samples: int, steps: int) -> Found:
    maps: dict[str, list[Tensor]] = {"attribution": [], "tracing (MLP)": []}
    last = []
    for fact in facts:
        found = attribute(model, fact, tokens="each", steps=steps, rule="gauss-legendre")
        maps["attribution"].append(found.map().values.double())
        traced = causal_trace(model, fact, state="mlp", samples=samples, noise=noise)
        maps["tracing (MLP)"].append(traced.map().values.double())
        last.append(traced.subject_span[1] - 1)
    patches = {}
    for editor in EDITORS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)  # they are what is counted
            patches[editor] = edit_each(
                model,
                requests_of(facts),
                method=editor,
                config=default_config(model, editor),
                second_moments="identity",
                contexts=["{}"],
            )
    return Found(maps, last, patches)


def requests_of(facts: Sequence[Fact]) -> list[EditRequest]:
    """Each fact gets the answer of the next one."""
    targets = [fact.target for fact in facts]
    return [
        EditRequest(fact, new_target=str(other))
        for fact, other in zip(facts, [*targets[1:], targets[0]], strict=True)
        if other != fact.target
    ]


def rows_of(found: Found, exact: Found) -> list[tuple[str, str]]:
    """What is compared, and how it came out."""
    rows = []
    for locator, maps in found.maps.items():
        pairs = [
            (one[both].numpy(), other[both].numpy())
            for one, other in zip(maps, exact.maps[locator], strict=True)
            for both in [torch.isfinite(one) & torch.isfinite(other)]
        ]
        correlations = [float(spearmanr(one, other).statistic) for one, other in pairs]
        moved = [float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs]
        cells = [
            int(_low(one).argmax()) == int(_low(other).argmax())
            for one, other in zip(maps, exact.maps[locator], strict=True)
        ]
        layers = [
            int(_low(one)[at].argmax()) == int(_low(other)[at].argmax())
            for one, other, at in zip(maps, exact.maps[locator], exact.last_subject, strict=True)
        ]
        rows += [
            (
                f"{locator}: rank correlation of maps, mean (lowest)",
                f"{_mean(correlations):.4f} ({min(correlations):.4f})",
            ),
            (f"{locator}: largest difference of a cell, of the map's maximum", f"{max(moved):.1%}"),
            (f"{locator}: same top cell", f"{sum(cells)} of {len(cells)}"),
            (f"{locator}: same top layer at the last subject token", f"{sum(layers)} of {len(layers)}"),
        ]
    for editor, patches in found.patches.items():
        took = sum(bool(patch.took) for patch in patches)
        before = sum(bool(patch.took) for patch in exact.patches[editor])
        p, q = (_mean([each.outcomes[0].probability or 0.0 for each in of]) for of in (patches, exact.patches[editor]))
        lost = [rounding.changed for patch in patches for rounding in patch.rounding.values()]
        rows += [
            (f"{editor}: edits that took (float32)", f"{took} ({before}) of {len(patches)}"),
            (f"{editor}: mean probability of the new answer (float32)", f"{p:.3f} ({q:.3f})"),
            (f"{editor}: of a patch changed by rounding, mean (most)", f"{_mean(lost):.1%} ({max(lost):.1%})"),
        ]
    return rows


def _low(values: Tensor) -> Tensor:
    """Where there is no value, the lowest."""
    return values.nan_to_num(-torch.inf)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def table(model: str, n_facts: int, columns: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """As Markdown."""
    names = [name for name, _ in next(iter(columns.values()))]
    lines = [
        f"{model}, {n_facts} facts that it knows, against float32:",
        "",
        f"| | {' | '.join(columns)} |",
        f"| --- | {' | '.join('---:' for _ in columns)} |",
    ]
    lines += [f"| {name} | {' | '.join(rows[i][1] for rows in columns.values())} |" for i, name in enumerate(names)]
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Put the table into its place on a page."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    if not rest:
        raise SystemExit(f"{page} has no place for the table ({BEGIN} ... {END})")
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def chosen(model: HookedTransformer, count: int) -> list[Fact]:
    """Facts that the model knows, of as many relations as there are, with as many answers."""
    found: dict[str, Fact] = {}
    for known in known_facts(model, spread_over_relations(load_facts("builtin"), seed=0)):
        found.setdefault(str(known.fact.target), known.fact)
        if len(found) == count:
            break
    return list(found.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m"])
    parser.add_argument("--formats", nargs="+", choices=[*FORMATS], default=[*FORMATS])
    parser.add_argument("--facts", type=int, default=2, help="how many facts that the model knows")
    parser.add_argument("--samples", type=int, default=3, help="noise samples of a trace")
    parser.add_argument("--steps", type=int, default=8, help="nodes of an attribution")
    parser.add_argument("--device", default=None)
    parser.add_argument("--write", type=Path, default=None, help="the page that the tables go into")
    given = parser.parse_args(arguments)
    text = "\n\n".join(_compared(name, given) for name in given.models)
    if given.write is not None:
        write(given.write, text)


def _compared(name: str, given: argparse.Namespace) -> str:
    """The table of one model."""
    model = load_model(name, device=given.device)
    facts, level = chosen(model, given.facts), noise_level(model, load_facts("builtin"))
    work: dict[str, Any] = {"noise": level, "samples": given.samples, "steps": given.steps}
    exact = measured(model, facts, **work)
    del model
    columns = {}
    for number_format in given.formats:
        console.print(f"{name}, {number_format} ...")
        narrow = load_model(name, dtype=FORMATS[number_format], device=given.device)
        columns[number_format] = rows_of(measured(narrow, facts, **work), exact)
    text = table(Path(name).name, len(facts), columns)
    console.print(text, soft_wrap=True)
    return text


if __name__ == "__main__":
    main()
