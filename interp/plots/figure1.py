"""Figure 1: where facts are found, by token class and layer, one map per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from interp.locate.class_average import ClassAverage
from interp.locate.methods import locator_named
from interp.options import check_choice
from interp.plots.averages import arranged, array, figure1_csv, peaks, so_far
from interp.plots.figure1_page import figure1_html
from interp.plots.panel import draw_panel, plain, wrapped
from interp.plots.style import EMPTY, HATCH, QUIET, WIDTHS, PaperFigure, colour_scale, paper_style, text_width

__all__ = ["figure1", "figure1_csv", "figure1_html"]

PANELS_PER_ROW = {"column": 1, "page": 3, "slide": 3}


def figure1(averages: Sequence[ClassAverage], *, width: str = "page", of: int | None = None) -> PaperFigure:
    """Draw the maps: attribution above, causal tracing of states, MLP and attention below it.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> interp.figure1(interp.class_averages(run))
        <PaperFigure size 690x... with 8 Axes>

    A dot marks each row's peak layer, a bar the layers that cannot be told from it (95%; none for fewer than 5 facts);
    rows without a token are hatched. Facts that could not be located are counted.

    Args:
        averages: One per method, all of one model.
        width: ``column`` (maps below each other), ``page`` or ``slide``.
        of: How many facts there will be, of a study that is not finished; the heading then says how many there are.

    Raises:
        OptionError: If there are no averages, they come from different models, their shapes do not match their
            classes, or the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    rows = arranged(averages, PANELS_PER_ROW[width])
    with paper_style(width) as scale:
        full_width = WIDTHS[width]
        classes = max((a.token_classes for a in averages), key=len)
        left = max(text_width(name, 6.5 * scale) for name in classes) + 0.12 * scale
        counts = max(text_width(f"n = {n}", 5.5 * scale) for a in averages for n in a.n_facts)
        gap = counts + 0.10 * scale
        after = 0.58 * scale  # colour bar, its numbers and its unit
        height = 0.17 * scale * len(classes)

        def cells(row: list[ClassAverage]) -> float:
            return (full_width - left) / len(row) - gap - after

        lines = [max(wrapped(a.title, cells(row) + gap, 7.5 * scale).count("\n") for a in row) + 1 for row in rows]
        head, foot, below = 0.2 * scale, 0.2 * scale, 0.34 * scale
        above = [(0.06 + 0.125 * n) * scale for n in lines]
        full_height = head + foot + sum(above) + len(rows) * (height + below)
        figure = PaperFigure(figsize=(full_width, full_height))
        y = full_height - head
        for row, title_height in zip(rows, above, strict=True):
            y -= title_height + height
            step = (full_width - left) / len(row)
            for index, average in enumerate(row):
                values = array(average.mean)
                axes = draw_panel(
                    figure,
                    (left + index * step, y, cells(row), height),
                    values,
                    labels=average.token_classes if index == 0 else None,
                    colours=colour_scale(values, hue=locator_named(average.method).hue),
                    title=average.title,
                    unit=average.unit,
                    bar_gap=gap,
                    scale=scale,
                )
                _mark(axes, average, scale)
            y -= below
        _frame(figure, averages, of, scale)
    return figure


def _mark(axes: Axes, average: ClassAverage, scale: float) -> None:
    """Peaks and numbers of facts."""
    edge = [withStroke(linewidth=1.5 * scale, foreground="black")]
    for row, (peak, low, high) in enumerate(peaks(average)):
        beside: dict[str, Any] = {
            "xytext": (2 * scale, 0),
            "textcoords": "offset points",
            "va": "center",
            "color": QUIET,
        }
        axes.annotate(
            f"n = {average.n_facts[row]}", (1, row), xycoords=("axes fraction", "data"),
            fontsize=5.5 * scale, annotation_clip=False, **beside,
        )  # fmt: skip
        if peak >= 0:
            ends = [low, high] if low >= 0 else []
            axes.plot(
                ends, [row] * len(ends), color="white", linewidth=0.7 * scale, path_effects=edge,
                solid_capstyle="butt",
            )  # fmt: skip
            axes.plot(peak, row, **_dot(scale))


def _dot(scale: float) -> dict[str, Any]:
    return {
        "marker": "o", "markersize": 2.8 * scale, "markerfacecolor": "white", "markeredgecolor": "black",
        "markeredgewidth": 0.5 * scale,
    }  # fmt: skip


def _frame(figure: Figure, averages: Sequence[ClassAverage], of: int | None, scale: float) -> None:
    """The model's name above, what the marks mean below."""
    height = figure.get_size_inches()[1]
    top = 1 - 0.04 * scale / height
    name = plain(averages[0].provenance.model) + so_far(averages, of)
    if averages[0].left_out:
        name += f"; left out: {len(averages[0].left_out)} fact(s) that could not be located"
    figure.text(0.99, top, name, ha="right", va="top", fontsize=6 * scale, color=QUIET)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color="black", linewidth=1.0 * scale, label="peak layer, and those not told from it (95%)",
               **_dot(scale)),
    ]  # fmt: skip
    if any(0 in average.n_facts for average in averages):
        handles.append(Patch(facecolor=EMPTY, edgecolor=HATCH, hatch="/////", linewidth=0, label="no such token"))
    figure.legend(handles=handles, loc="lower right", ncols=2, frameon=False, borderaxespad=0.3)
