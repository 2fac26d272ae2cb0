"""Figure 1: where facts are found, by token class and layer, one map per method."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from plotly.subplots import make_subplots
from torch import Tensor

from interp.errors import OptionError
from interp.locate.class_average import ClassAverage
from interp.options import check_choice
from interp.plots.panel import draw_panel, number, plain, wrapped
from interp.plots.style import EMPTY, HATCH, QUIET, SEQUENTIAL, WIDTHS, colour_scale, paper_style, text_width

__all__ = ["figure1", "figure1_csv", "figure1_html"]

COLUMNS = {"column": 1, "page": 3, "slide": 3}
ORDER = tuple(SEQUENTIAL)
CSV_HEADER = (
    "model", "method", "unit", "token_class", "layer", "mean", "low95", "high95", "n_facts", "n_tokens",
    "peak", "peak_low95", "peak_high95",
)  # fmt: skip


def figure1(averages: Sequence[ClassAverage], *, width: str = "page") -> Figure:
    """Draw the maps: attribution above, causal tracing of states, MLP and attention below it.

    A dot marks each row's peak layer, a bar its 95% bootstrap interval; rows without a token are hatched.

    Args:
        averages: One per method, all of one model.
        width: ``column`` (maps below each other), ``page`` or ``slide``.

    Raises:
        OptionError: If there are no averages, they come from different models, their shapes do not match their
            classes, or the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    rows = _arranged(averages, COLUMNS[width])
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

        lines = [
            max(wrapped(a.title, cells(row) + gap, 7.5 * scale).count("\n") for a in row) + 1 for row in rows
        ]
        head, foot, below = 0.2 * scale, 0.2 * scale, 0.34 * scale
        above = [(0.06 + 0.125 * n) * scale for n in lines]
        full_height = head + foot + sum(above) + len(rows) * (height + below)
        figure = Figure(figsize=(full_width, full_height))
        y = full_height - head
        for row, title_height in zip(rows, above, strict=True):
            y -= title_height + height
            step = (full_width - left) / len(row)
            for index, average in enumerate(row):
                values = _array(average.mean)
                axes = draw_panel(
                    figure,
                    (left + index * step, y, cells(row), height),
                    values,
                    labels=average.token_classes if index == 0 else None,
                    colours=colour_scale(values, method=average.method),
                    title=average.title,
                    unit=average.unit,
                    bar_gap=gap,
                    scale=scale,
                )
                _mark(axes, average, scale)
            y -= below
        _frame(figure, averages, scale)
    return figure


def figure1_html(averages: Sequence[ClassAverage]) -> str:
    """The maps as a page that needs nothing else; hovering shows mean, interval and number of facts.

    Args:
        averages: One per method, all of one model.

    Raises:
        OptionError: If there are no averages, they come from different models, or their shapes do not match their
            classes.
    """
    shown = [average for row in _arranged(averages, 1) for average in row]
    space = 0.0 if len(shown) == 1 else 0.3 / len(shown)
    page = make_subplots(
        rows=len(shown), subplot_titles=[html.escape(a.title) for a in shown], vertical_spacing=space
    )
    size = (1 - space * (len(shown) - 1)) / len(shown)
    for place, average in enumerate(shown, start=1):
        mean, low, high = (_array(t) for t in (average.mean, average.low, average.high))
        colours = colour_scale(mean, method=average.method)
        names = [html.escape(name) for name in average.token_classes]
        hover = [
            [
                f"<b>{name}</b><br>layer {layer}<br>mean {number(mean[row, layer])}"
                f"<br>95% interval {number(low[row, layer])} to {number(high[row, layer])}"
                f"<br>n = {average.n_facts[row]} facts, {average.n_tokens[row]} tokens"
                for layer in range(mean.shape[1])
            ]
            for row, name in enumerate(names)
        ]
        page.add_trace(
            go.Heatmap(
                z=[[v if np.isfinite(v) else None for v in line] for line in mean.tolist()],
                text=hover,
                hovertemplate="%{text}<extra></extra>",
                hoverongaps=False,
                colorscale=colours.stops(),
                zmin=colours.low,
                zmax=colours.high,
                colorbar={
                    "title": {"text": html.escape(average.unit), "side": "right"},
                    "y": 1 - (place - 1) * (size + space) - size / 2,
                    "len": size,
                },
            ),
            row=place,
            col=1,
        )
        peaks = [(row, *p) for row, p in enumerate(_peaks(average)) if p[0] >= 0]
        page.add_trace(
            go.Scatter(
                x=[peak for _, peak, _, _ in peaks],
                y=[row for row, *_ in peaks],
                error_x={
                    "array": [high - peak for _, peak, _, high in peaks],
                    "arrayminus": [peak - low for _, peak, low, _ in peaks],
                    "color": "black",
                    "thickness": 1,
                    "width": 3,
                },
                mode="markers",
                marker={"color": "white", "size": 7, "line": {"color": "black", "width": 1}},
                hoverinfo="skip",
                showlegend=False,
            ),
            row=place,
            col=1,
        )
        labels = [f"{name} (n = {n})" for name, n in zip(names, average.n_facts, strict=True)]
        page.update_yaxes(
            tickvals=list(range(len(names))), ticktext=labels, range=[len(names) - 0.5, -0.5], row=place, col=1
        )
        page.update_xaxes(title_text="Layer", range=[-0.5, mean.shape[1] - 0.5], row=place, col=1)
    page.update_xaxes(showgrid=False, zeroline=False)
    page.update_yaxes(showgrid=False, zeroline=False, automargin=True)
    title = f"{html.escape(shown[0].provenance.model)}: dots mark peak layers, bars their 95% bootstrap intervals"
    page.update_layout(
        title={"text": title}, template="plotly_white", plot_bgcolor=EMPTY, height=120 + 290 * len(shown)
    )
    return page.to_html(include_plotlyjs=True, div_id="figure1")


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
    for average in (a for row in _arranged(averages, 1) for a in row):
        tensors = [t.detach().cpu().float().numpy() for t in (average.mean, average.low, average.high)]
        for row, (name, (peak, *bounds)) in enumerate(
            zip(average.token_classes, _peaks(average), strict=True)
        ):
            counts = (average.n_facts[row], average.n_tokens[row])
            ends = bounds if peak >= 0 else ("", "")
            for layer in range(average.mean.shape[1]):
                cells = [str(t[row, layer]) if np.isfinite(t[row, layer]) else "" for t in tensors]
                found = int(layer == peak)
                head = (average.provenance.model, average.method, average.unit, name, layer)
                writer.writerow((*head, *cells, *counts, found, *ends))
    return text.getvalue()


def _mark(axes: Axes, average: ClassAverage, scale: float) -> None:
    """Peaks and numbers of facts."""
    edge = [withStroke(linewidth=1.5 * scale, foreground="black")]
    for row, (peak, low, high) in enumerate(_peaks(average)):
        beside = {"xytext": (2 * scale, 0), "textcoords": "offset points", "va": "center", "color": QUIET}
        axes.annotate(
            f"n = {average.n_facts[row]}", (1, row), xycoords=("axes fraction", "data"),
            fontsize=5.5 * scale, annotation_clip=False, **beside,
        )  # fmt: skip
        if peak >= 0:
            axes.plot(
                [low, high], [row, row], color="white", linewidth=0.7 * scale, path_effects=edge,
                solid_capstyle="butt",
            )  # fmt: skip
            axes.plot(peak, row, **_dot(scale))


def _dot(scale: float) -> dict[str, object]:
    return {
        "marker": "o", "markersize": 2.8 * scale, "markerfacecolor": "white", "markeredgecolor": "black",
        "markeredgewidth": 0.5 * scale,
    }  # fmt: skip


def _frame(figure: Figure, averages: Sequence[ClassAverage], scale: float) -> None:
    """The model's name above, what the marks mean below."""
    height = figure.get_size_inches()[1]
    top = 1 - 0.04 * scale / height
    name = plain(averages[0].provenance.model)
    figure.text(0.99, top, name, ha="right", va="top", fontsize=6 * scale, color=QUIET)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color="black", linewidth=1.0 * scale, label="peak layer, 95% bootstrap interval",
               **_dot(scale)),
    ]  # fmt: skip
    if any(0 in average.n_facts for average in averages):
        handles.append(Patch(facecolor=EMPTY, edgecolor=HATCH, hatch="/////", linewidth=0, label="no such token"))
    figure.legend(handles=handles, loc="lower right", ncols=2, frameon=False, borderaxespad=0.3)
