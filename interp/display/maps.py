"""Located facts: the maps of one prompt, patched runs, class averages and distances from float32."""

from __future__ import annotations

from dataclasses import replace

import torch

from interp.display.description import Description, Table, describe, shaded
from interp.engine.cells import STATE_NAMES, Cell
from interp.locate.activation_patching import PatchedRun
from interp.locate.class_average import ClassAverage
from interp.plots.figure1 import figure1
from interp.plots.heatmap import heatmap
from interp.results.mapped import MapRecord
from interp.study.precision import PrecisionDistance, precision_line
from interp.system.readable import number, probability, token_label

__all__ = ["cell_text"]

ANSWERS = 5


@describe.register
def _map_record(record: MapRecord) -> Description:
    shown = record.map()
    return Description(
        heading=record.heading,
        lines=[
            *record.remarks(),
            f"{record.provenance.model}, weights {record.provenance.weights_hash[:8]}",
            *filter(None, [record.provenance.said_of_source()]),
        ],
        figure=lambda: heatmap(replace(shown, title=record.heading), width="page"),
        text=f"{shown.unit}\n{shaded(shown)}",
        tables=[Table(title=found.title, header=found.header, rows=found.rows) for found in record.listings()],
    )


@describe.register
def _patched_run(run: PatchedRun) -> Description:
    names = ("clean run", "corrupted run", "restored run")
    if run.other is not None:
        names = ("other prompt", "this prompt", "patched run")
    readouts = (run.source, run.base, run.patched)
    shown = min(ANSWERS, *(len(readout.top) for readout in readouts))
    lines = [f"states of “{run.other.prompt}”"] if run.other is not None else []
    return Description(
        heading=f"“{run.fact.prompt}” with {len(run.cells)} state(s) put in: " + "; ".join(map(cell_text, run.cells)),
        lines=[
            *lines,
            f"P(“{token_label(run.answer)}”): "
            + ", ".join(f"{name} {probability(r.probability)}" for name, r in zip(names, readouts, strict=True)),
        ],
        tables=[
            Table(
                header=names,
                rows=[
                    [f"{token_label(r.top[i].token)}  {probability(r.top[i].probability)}" for r in readouts]
                    for i in range(shown)
                ],
                left=3,
            )
        ],
    )


@describe.register
def _class_average(average: ClassAverage) -> Description:
    values = average.mean.double()
    rows: list[tuple[str, ...]] = []
    for name, peak, low, high, n in zip(
        average.token_classes, average.peak, average.peak_low, average.peak_high, average.n_facts, strict=True
    ):
        largest = torch.nan_to_num(values, nan=-torch.inf)[len(rows)].max()
        span = f"[{low}, {high}]" if low >= 0 else "–"
        cells = (str(peak), span, number(float(largest))) if peak >= 0 else ("–", "–", "–")
        rows.append((name, *cells, str(n)))
    return Description(
        heading=f"{average.title}, averaged by token class",
        lines=[
            f"{average.unit}; {average.provenance.model}",
            "span: the layers that cannot be told from that of the largest mean (95%, over facts)",
            *(f"left out: {text}" for text in average.left_out),
        ],
        figure=lambda: figure1([average], width="page"),
        tables=[Table(header=("token class", "layer of largest mean", "span", "mean", "facts"), rows=rows)],
    )


@describe.register
def _precision_distance(distance: PrecisionDistance) -> Description:
    made = distance.provenance
    return Description(
        heading=precision_line([distance]), lines=[f"{made.model}, weights {made.weights_hash[:8]}, on {made.device}"]
    )


def cell_text(cell: Cell) -> str:
    """A cell in words."""
    window = "" if cell.state == "resid" else f" (window of {cell.window})"
    return f"{STATE_NAMES[cell.state]}{window} at token {cell.token}, layer {cell.layer}"
