"""What the forms of Figure 1 share: checks, order, peaks, and the numbers as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import OptionError
from interp.locate.class_average import ClassAverage
from interp.locate.methods import LOCATORS, locator_named

__all__ = ["arranged", "array", "figure1_csv", "peaks", "so_far"]

CSV_HEADER = (
    "model", "method", "unit", "token_class", "layer", "mean", "low95", "high95", "n_facts", "n_tokens",
    "peak", "peak_low95", "peak_high95",
)  # fmt: skip


def figure1_csv(averages: Sequence[ClassAverage]) -> str:
    """What the figure shows, a line per method, class and layer; cells of empty classes are empty.

    Args:
        averages: One per method, all of one model.

    Raises:
        OptionError: If there are no averages, they come from different models, or their shapes do not match their
            classes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for average in (a for row in arranged(averages, 1) for a in row):
        tensors = [t.detach().cpu().float().numpy() for t in (average.mean, average.low, average.high)]
        for row, (name, (peak, *bounds)) in enumerate(zip(average.token_classes, peaks(average), strict=True)):
            counts = (average.n_facts[row], average.n_tokens[row])
            ends = ["" if bound < 0 else bound for bound in bounds]
            for layer in range(average.mean.shape[1]):
                cells = [str(t[row, layer]) if np.isfinite(t[row, layer]) else "" for t in tensors]
                found = int(layer == peak)
                head = (average.provenance.model, average.method, average.unit, name, layer)
                writer.writerow((*head, *cells, *counts, found, *ends))
    return text.getvalue()


def arranged(averages: Sequence[ClassAverage], columns: int) -> list[list[ClassAverage]]:
    """Check averages and lay them out in the rows of their locators, those of one row side by side.

    Raises:
        OptionError: If there are no averages, they come from different models, or their shapes do not match their
            classes.
    """
    if not averages:
        raise OptionError("averages is empty; expected at least one class average to draw")
    models = {(a.provenance.model, a.provenance.weights_hash) for a in averages}
    if len(models) > 1:
        names = ", ".join(f"{name} ({weights[:8]})" for name, weights in sorted(models))
        raise OptionError(f"averages must come from one model, got {names}")
    for average in averages:
        _check(average)
    order = tuple(LOCATORS)
    sorted_averages = sorted(averages, key=lambda a: order.index(a.method))
    rows: dict[int, list[ClassAverage]] = {}
    for average in sorted_averages:
        rows.setdefault(locator_named(average.method).row, []).append(average)
    return [rows[row][i : i + columns] for row in sorted(rows) for i in range(0, len(rows[row]), columns)]


def so_far(averages: Sequence[ClassAverage], of: int | None) -> str:
    """The end of a heading: how many facts the maps are of, where there will be more."""
    return "" if of is None else f"; so far {max(averages[0].n_facts)} of {of} facts"


def array(values: Float[Tensor, "token_class layer"]) -> Float[np.ndarray, "token_class layer"]:
    """A map as the drawing libraries take it."""
    return values.detach().cpu().double().numpy()


def peaks(average: ClassAverage) -> list[tuple[int, int, int]]:
    """Peak layer of each class, and the span that cannot be told from it; -1 where there is none."""
    return list(zip(average.peak, average.peak_low, average.peak_high, strict=True))


def _check(average: ClassAverage) -> None:
    locator_named(average.method)
    rows = len(average.token_classes)
    for name in ("mean", "low", "high"):
        shape = tuple(getattr(average, name).shape)
        if len(shape) != 2 or shape != (rows, average.mean.shape[-1]) or 0 in shape:
            raise OptionError(
                f"{name} of the {average.method} average has shape {shape}, which does not match its {rows} token"
                " classes; expected (classes, layers)"
            )
    for name in ("peak", "peak_low", "peak_high", "n_facts", "n_tokens"):
        if len(getattr(average, name)) != rows:
            raise OptionError(
                f"{name} of the {average.method} average has {len(getattr(average, name))} entries; expected one for"
                f" each of its {rows} token classes"
            )
