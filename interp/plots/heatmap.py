"""One fact's map, a score per token and layer: on paper, in a browser and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from rich.text import Text
from torch import Tensor

from interp.errors import OptionError
from interp.options import check_choice
from interp.plots.panel import draw_panel, hover_texts, plain, token_labels, wrapped
from interp.plots.style import SEQUENTIAL, WIDTHS, PaperFigure, colour_scale, paper_style, text_width
from interp.plots.text_map import text_map
from interp.system.readable import in_html

__all__ = ["checked_map", "heatmap", "heatmap_html", "heatmap_text"]


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
    labels = token_labels(tokens, subject_span, in_figure=True)
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
    labels = [in_html(label) for label in token_labels(tokens, subject_span)]
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
            colorbar={"title": {"text": in_html(unit), "side": "right"}},
        )
    )
    page.update_layout(
        title={"text": in_html(title)},
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
    columns: int = 80,
    coloured: bool = True,
) -> Text:
    """One fact's map for a terminal: every row on one line, with its largest value and its layer.

    Where a window has too few columns for all layers, a column stands for several neighbouring ones and shows the
    value that is furthest from zero (:mod:`interp.plots.text_map`).

    Args:
        values: See :func:`heatmap`.
        tokens: See :func:`heatmap`.
        subject_span: See :func:`heatmap`.
        method: See :func:`heatmap`.
        columns: Of the window; 40 at least and 300 at most are made use of.
        coloured: False where there are no colours: letters say then how large a value is.

    Raises:
        OptionError: If the values do not fit the tokens, or the method is unknown.
    """
    array = checked_map(values, tokens, subject_span, method)
    colours = colour_scale(array, method=method)
    return text_map(array, token_labels(tokens, subject_span), colours, columns=columns, coloured=coloured)


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
