"""One fact's map, a score per token and layer: on paper, in a browser and in a terminal."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from rich.text import Text

from interp.plots.panel import draw_panel, hover_texts, plain, token_labels, wrapped
from interp.plots.style import WIDTHS, PaperFigure, colour_scale, paper_style, text_width
from interp.plots.text_map import text_map
from interp.results.token_map import TokenMap
from interp.system.readable import in_html

__all__ = ["heatmap", "heatmap_html", "heatmap_text", "numbers"]


def heatmap(shown: TokenMap, *, width: str = "column") -> PaperFigure:
    """Draw one fact's map; an asterisk marks the subject's tokens.

    Example:
        >>> scores = interp.attribute(model, fact, tokens="all")
        >>> interp.heatmap(scores.map())  # or of a trace
        <PaperFigure size 330x... with 2 Axes>

    Args:
        shown: The map, as ``trace.map()`` and ``attribution.map()`` give it.
        width: ``column``, ``page`` or ``slide``.

    Raises:
        OptionError: If the width is unknown.
    """
    array = numbers(shown)
    labels = token_labels(shown.tokens, shown.subject_span, in_figure=True)
    with paper_style(width) as scale:
        full_width = WIDTHS[width]
        left = max(text_width(plain(label), 6.5 * scale) for label in labels) + 0.12 * scale
        right, gap = 0.58 * scale, 0.08 * scale
        cells = full_width - left - right - gap
        lines = wrapped(shown.title, cells + gap, 7.5 * scale).count("\n") + 1
        height = max(0.135 * len(labels), 0.7) * scale
        bottom, top = 0.34 * scale, (0.08 + 0.125 * lines) * scale
        figure = PaperFigure(figsize=(full_width, bottom + height + top))
        draw_panel(
            figure,
            (left, bottom, cells, height),
            array,
            labels=labels,
            colours=colour_scale(array, hue=shown.hue),
            title=shown.title,
            unit=shown.unit,
            bar_gap=gap,
            scale=scale,
        )
    return figure


def heatmap_html(shown: TokenMap) -> str:
    """One fact's map as a page that needs nothing else; hovering shows token, layer and value.

    Args:
        shown: See :func:`heatmap`.
    """
    array = numbers(shown)
    labels = [in_html(label) for label in token_labels(shown.tokens, shown.subject_span)]
    colours = colour_scale(array, hue=shown.hue)
    page = go.Figure(
        go.Heatmap(
            z=array.tolist(),
            text=hover_texts(labels, array, shown.unit),
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            colorscale=colours.stops(),
            zmin=colours.low,
            zmax=colours.high,
            colorbar={"title": {"text": in_html(shown.unit), "side": "right"}},
        )
    )
    page.update_layout(
        title={"text": in_html(shown.title)},
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


def heatmap_text(shown: TokenMap, *, columns: int = 80, coloured: bool = True) -> Text:
    """One fact's map for a terminal: every row on one line, with its largest value and its layer.

    Where a window has too few columns for all layers, a column stands for several neighbouring ones and shows the
    value that is furthest from zero (:mod:`interp.plots.text_map`).

    Args:
        shown: See :func:`heatmap`.
        columns: Of the window; 40 at least and 300 at most are made use of.
        coloured: False where there are no colours: letters say then how large a value is.
    """
    array = numbers(shown)
    labels = token_labels(shown.tokens, shown.subject_span)
    return text_map(array, labels, colour_scale(array, hue=shown.hue), columns=columns, coloured=coloured)


def numbers(shown: TokenMap) -> Float[np.ndarray, "token layer"]:
    """A map's values as the drawing libraries take them."""
    return shown.values.detach().cpu().double().numpy()
