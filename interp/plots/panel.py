"""One map on a page: cells, layer axis and colour bar; and labels that say what a token is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from interp.plots.style import EMPTY, HATCH, ColourScale, font_family, printed, text_width
from interp.system.readable import in_html, number, token_label

__all__ = ["draw_panel", "hover_texts", "layer_ticks", "plain", "token_label", "token_labels", "wrapped"]


def draw_panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    values: Float[np.ndarray, "row layer"],
    *,
    labels: Sequence[str] | None,
    colours: ColourScale,
    title: str,
    unit: str | None,
    bar_gap: float,
    scale: float,
) -> Axes:
    """Draw a map, with its colour bar unless another panel has it.

    Args:
        figure: Where to.
        box: Left, bottom, width and height of the cells in inches.
        values: NaN where there is none; shown in grey, whole rows hatched.
        labels: Of the rows; ``None`` for a panel right of one that has them.
        colours: From values to colours.
        title: Above the cells; wrapped to their width.
        unit: Beside the colour bar; ``None`` for a panel left of one that has the same bar.
        bar_gap: Inches between the cells and the colour bar.
        scale: Of letters and lines.
    """
    left, bottom, width, height = box
    full_width, full_height = figure.get_size_inches()

    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / full_width, y / full_height, w / full_width, h / full_height

    axes = figure.add_axes(place(left, bottom, width, height))
    mesh = _draw_cells(axes, values, colours)
    axes.xaxis.set_major_locator(FixedLocator(layer_ticks(values.shape[1], width / scale)))
    axes.set_xlabel("Layer")
    _label_rows(axes, len(values), labels)
    heading = wrapped(title, width + bar_gap, 7.5 * scale)
    axes.set_title(heading, loc="left", fontfamily=font_family(heading))
    if unit is None:
        return axes

    bar = figure.add_axes(place(left + width + bar_gap, bottom, 0.07 * scale, height))
    figure.colorbar(mesh, cax=bar, ticks=MaxNLocator(4), format=FuncFormatter(lambda v, _: number(v)))
    bar.tick_params(labelsize=6 * scale)
    bar.set_ylabel(wrapped(unit, max(height, 0.8 * scale), 6 * scale), fontsize=6 * scale)
    return axes


def _draw_cells(axes: Axes, values: Float[np.ndarray, "row layer"], colours: ColourScale) -> QuadMesh:
    """The cells, first row on top; rows without a value hatched."""
    rows, layers = values.shape
    axes.set_facecolor(EMPTY)
    mesh = axes.pcolormesh(
        np.arange(layers + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=colours.colours,
        norm=colours.norm(),
        edgecolors="face",  # no seams between cells in PDF viewers
        linewidth=0.2,
    )
    for row in np.flatnonzero(~np.isfinite(values).any(1)):
        axes.add_patch(
            Rectangle((-0.5, row - 0.5), layers, 1, facecolor=EMPTY, edgecolor=HATCH, hatch="/////", linewidth=0)
        )
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    return mesh


def _label_rows(axes: Axes, rows: int, labels: Sequence[str] | None) -> None:
    """Each label in a font that has its letters."""
    if labels is None:
        axes.set_yticks([])
        return
    axes.set_yticks(range(rows), [plain(label) for label in labels])
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontfamily(font_family(printed(label)))
    axes.tick_params(axis="y", length=0)


def hover_texts(labels: Sequence[str], values: Float[np.ndarray, "token layer"], unit: str) -> list[list[str]]:
    """What a page says of each cell of one prompt's map; labels are HTML already."""
    return [
        [
            f"<b>{label}</b> (token {token})<br>layer {layer}<br>{in_html(unit)}: {number(value)}"
            for layer, value in enumerate(line)
        ]
        for token, (label, line) in enumerate(zip(labels, values.tolist(), strict=True))
    ]


def layer_ticks(layers: int, width: float) -> list[int]:
    """Round layer numbers, no closer than a number needs."""
    most = max(2, width / 0.24)
    step = next((s for s in (1, 2, 5, 10, 20) if (layers - 1) / s + 1 <= most), 50)
    return list(range(0, layers, step))


def wrapped(text: str, width: float, size: float) -> str:
    """Break a text into lines of at most a number of inches."""
    text = printed(text)
    letter = max(text_width(plain(text), size) / max(len(text), 1), 1e-3)
    return plain("\n".join(textwrap.wrap(text, max(8, int(width / letter)))))


def plain(text: str) -> str:
    """A text as matplotlib shows it unchanged: no dollar sign starts a formula, letters without a font are codes."""
    return printed(text).replace("$", r"\$")


def token_labels(tokens: Sequence[str], subject_span: tuple[int, int] | None, *, in_figure: bool = False) -> list[str]:
    """Labels of a prompt's rows: the subject's tokens end in an asterisk.

    Args:
        tokens: Their texts.
        subject_span: End exclusive; ``None`` to mark none.
        in_figure: Write letters that no installed font has as their code.
    """
    labels = [token_label(token) for token in tokens]
    if in_figure:
        labels = [printed(label) for label in labels]
    start, end = subject_span or (0, 0)
    return [f"{label}*" if start <= index < end else label for index, label in enumerate(labels)]
