"""One fact's map, a score per token and layer: on paper, in a browser and in a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text
from torch import Tensor

from interp.errors import OptionError
from interp.options import check_choice
from interp.plots.panel import draw_panel, hover_texts, number, plain, token_labels, wrapped
from interp.plots.style import SEQUENTIAL, WIDTHS, PaperFigure, colour_scale, paper_style, text_width

__all__ = ["checked_map", "heatmap", "heatmap_html", "heatmap_text"]

TERMINAL_WIDTH = 120


def heatmap(
    values: Float[Tensor, "token layer"],
    tokens: Sequence[str],
    subject_span: tuple[int, int] | None,
    *,
    title: str,
    unit: str,
    method: str = "resid",
    width: str = "column",
) -> PaperFigure:
    """Draw one fact's map; an asterisk marks the subject's tokens.

    Args:
        values: NaN where there is none.
        tokens: The text of each token.
        subject_span: The subject's tokens, end exclusive; ``None`` to mark none.
        title: Heading.
        unit: What a value means.
        method: ``attribution``, ``resid``, ``mlp`` or ``attn``: chooses the hue.
        width: ``column``, ``page`` or ``slide``.

    Raises:
        OptionError: If the values do not fit the tokens, or the method or width is unknown.
    """
    array = checked_map(values, tokens, subject_span, method)
    labels = token_labels(tokens, subject_span, printed=True)
    with paper_style(width) as scale:
        full_width = WIDTHS[width]
        left = max(text_width(plain(label), 6.5 * scale) for label in labels) + 0.12 * scale
        right, gap = 0.58 * scale, 0.08 * scale
        cells = full_width - left - right - gap
        lines = wrapped(title, cells + gap, 7.5 * scale).count("\n") + 1
        height = max(0.135 * len(labels), 0.7) * scale
        bottom, top = 0.34 * scale, (0.08 + 0.125 * lines) * scale
        figure = PaperFigure(figsize=(full_width, bottom + height + top))
        draw_panel(
            figure,
            (left, bottom, cells, height),
            array,
            labels=labels,
            colours=colour_scale(array, method=method),
            title=title,
            unit=unit,
            bar_gap=gap,
            scale=scale,
        )
    return figure


def heatmap_html(
    values: Float[Tensor, "token layer"],
    tokens: Sequence[str],
    subject_span: tuple[int, int] | None,
    *,
    title: str,
    unit: str,
    method: str = "resid",
) -> str:
    """One fact's map as a page that needs nothing else; hovering shows token, layer and value.

    Args:
        values: See :func:`heatmap`.
        tokens: See :func:`heatmap`.
        subject_span: See :func:`heatmap`.
        title: See :func:`heatmap`.
        unit: See :func:`heatmap`.
        method: See :func:`heatmap`.

    Raises:
        OptionError: If the values do not fit the tokens, or the method is unknown.
    """
    array = checked_map(values, tokens, subject_span, method)
    labels = [html.escape(label) for label in token_labels(tokens, subject_span)]
    colours = colour_scale(array, method=method)
    page = go.Figure(
        go.Heatmap(
            z=array.tolist(),
            text=hover_texts(labels, array, unit),
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            colorscale=colours.stops(),
            zmin=colours.low,
            zmax=colours.high,
            colorbar={"title": {"text": html.escape(unit), "side": "right"}},
        )
    )
    page.update_layout(
        title={"text": html.escape(title)},
        template="plotly_white",
        height=170 + 22 * len(labels),
        plot_bgcolor="#e8e8e8",
        xaxis={"title": {"text": "Layer"}, "showgrid": False, "zeroline": False},
        yaxis={
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
    )
    return page.to_html(include_plotlyjs=True, div_id="heatmap")


def heatmap_text(
    values: Float[Tensor, "token layer"],
    tokens: Sequence[str],
    subject_span: tuple[int, int] | None,
    *,
    method: str = "resid",
) -> Text:
    """One fact's map for a terminal: two columns per layer, and each row's largest value and its layer.

    Args:
        values: See :func:`heatmap`.
        tokens: See :func:`heatmap`.
        subject_span: See :func:`heatmap`.
        method: See :func:`heatmap`.

    Raises:
        OptionError: If the values do not fit the tokens, or the method is unknown.
    """
    array = checked_map(values, tokens, subject_span, method)
    colours = colour_scale(array, method=method)
    labels = token_labels(tokens, subject_span)
    layers = array.shape[1]
    room = max(8, TERMINAL_WIDTH - 2 * layers - 20)
    margin = min(room, max(cell_len(label) for label in labels))
    ruler = "".join(f"{layer:<10}" for layer in range(0, layers, 5))[: 2 * layers].ljust(2 * layers)
    text = Text(no_wrap=True, overflow="crop", end="")
    text.append(f"{'':{margin}} {ruler} {'max':>10} layer\n", style="bold")
    for label, line in zip(labels, array, strict=True):
        text.append(set_cell_size(label, margin) if cell_len(label) > margin else _right(label, margin))
        text.append(" ")
        for value in line.tolist():
            text.append("  ", style=Style(bgcolor=colours.hex(value)))
        if np.isfinite(line).any():
            best = int(np.nanargmax(line))
            text.append(f" {number(line[best]):>10} {best:>5}")
        text.append("\n")
    text.append(f"{'':{margin}} {number(colours.low)} ")
    for step in np.linspace(colours.low, colours.high, 12).tolist():
        text.append(" ", style=Style(bgcolor=colours.hex(step)))
    text.append(f" {number(colours.high)}   * subject\n")
    return text


def _right(label: str, width: int) -> str:
    return " " * (width - cell_len(label)) + label


def checked_map(
    values: Float[Tensor, "token layer"], tokens: Sequence[str], subject_span: tuple[int, int] | None, method: str
) -> Float[np.ndarray, "token layer"]:
    """One fact's map as the drawing libraries take it.

    Raises:
        OptionError: If the values do not fit the tokens, or the method is unknown.
    """
    check_choice("method", method, tuple(SEQUENTIAL))
    if values.ndim != 2 or 0 in values.shape or len(values) != len(tokens):
        raise OptionError(
            f"values of shape {tuple(values.shape)} do not fit {len(tokens)} tokens; expected (tokens, layers)"
        )
    start, end = subject_span or (0, len(tokens))
    if not 0 <= start < end <= len(tokens):
        raise OptionError(f"the subject span {(start, end)} does not lie within {len(tokens)} tokens")
    return values.detach().cpu().double().numpy()
