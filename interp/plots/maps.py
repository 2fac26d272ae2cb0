"""Several maps of one prompt on the same axes: on paper, in a browser, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.errors import OptionError
from interp.options import check_choice
from interp.plots.heatmap import numbers
from interp.plots.panel import draw_panel, hover_texts, plain, token_labels, wrapped
from interp.plots.style import WIDTHS, PaperFigure, colour_scale, font_family, paper_style, text_width
from interp.plots.table1 import csv_text
from interp.results.token_map import TokenMap
from interp.system.readable import in_html

__all__ = ["maps", "maps_csv", "maps_html"]

PANELS_PER_ROW = {"column": 1, "page": 2, "slide": 2}
CSV_HEADER = ("map", "unit", "token", "text", "in_subject", "layer", "value")


def maps(panels: Sequence[TokenMap], *, title: str, width: str = "page") -> PaperFigure:
    """Draw maps of one prompt, each on its own colour scale; an asterisk marks the subject's tokens.

    Example:
        >>> traces = [interp.causal_trace(model, fact, state=state, noise=0.3) for state in ("resid", "mlp", "attn")]
        >>> interp.maps([trace.map() for trace in traces], title=fact.prompt)
        <PaperFigure size 690x... with 6 Axes>

    Args:
        panels: The maps, all over the same tokens.
        title: Heading.
        width: ``column`` (maps below each other), ``page`` or ``slide``.

    Raises:
        OptionError: If there are no maps, they are over different tokens, or the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    arrays = _checked(panels)
    columns = min(PANELS_PER_ROW[width], len(panels))
    labels = token_labels(panels[0].tokens, panels[0].subject_span, in_figure=True)
    with paper_style(width) as scale:
        full_width = WIDTHS[width]
        left = max(text_width(plain(label), 6.5 * scale) for label in labels) + 0.12 * scale
        gap, after = 0.08 * scale, 0.62 * scale
        cells = (full_width - left - columns * (gap + after)) / columns
        height = max(0.135 * len(labels), 0.7) * scale
        heading = wrapped(title, full_width - left, 8.8 * scale)
        titles = [wrapped(panel.title, cells + gap, 7.5 * scale) for panel in panels]
        above = (0.08 + 0.125 * (max(t.count("\n") for t in titles) + 1)) * scale
        below, head = 0.36 * scale, (0.1 + 0.14 * (heading.count("\n") + 1)) * scale
        rows = -(-len(panels) // columns)
        full_height = head + rows * (above + height + below)
        figure = PaperFigure(figsize=(full_width, full_height))
        figure.text(
            left / full_width, (full_height - 0.05 * scale) / full_height, heading, va="top", fontsize=7.5 * scale,
            fontweight="bold", fontfamily=font_family(heading),
        )  # fmt: skip
        for index, (panel, values) in enumerate(zip(panels, arrays, strict=True)):
            row, column = divmod(index, columns)
            bottom = full_height - head - (row + 1) * (above + height) - row * below
            draw_panel(
                figure,
                (left + column * (cells + gap + after), bottom, cells, height),
                values,
                labels=labels if column == 0 else None,
                colours=colour_scale(values, hue=panel.hue),
                title=panel.title,
                unit=panel.unit,
                bar_gap=gap,
                scale=scale,
            )
    return figure


def maps_html(panels: Sequence[TokenMap], *, title: str) -> str:
    """Maps of one prompt as a page that needs nothing else; hovering shows token, layer and value.

    Args, Raises: See :func:`maps`.
    """
    arrays = _checked(panels)
    labels = [in_html(label) for label in token_labels(panels[0].tokens, panels[0].subject_span)]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    page = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[in_html(panel.title) for panel in panels],
        horizontal_spacing=0.2,
        vertical_spacing=0.22 / rows,
        shared_yaxes=True,
    )
    for index, (panel, values) in enumerate(zip(panels, arrays, strict=True)):
        row, column = divmod(index, columns)
        colours = colour_scale(values, hue=panel.hue)
        axis = page.get_subplot(row + 1, column + 1)
        x, y = axis.xaxis.domain, axis.yaxis.domain
        page.add_trace(
            go.Heatmap(
                z=values.tolist(),
                text=hover_texts(labels, values, panel.unit),
                hovertemplate="%{text}<extra></extra>",
                hoverongaps=False,
                colorscale=colours.stops(),
                zmin=colours.low,
                zmax=colours.high,
                colorbar={"x": x[1] + 0.01, "y": sum(y) / 2, "len": y[1] - y[0], "thickness": 12},
            ),
            row=row + 1,
            col=column + 1,
        )
    page.update_xaxes(title_text="Layer", showgrid=False, zeroline=False)
    page.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        autorange="reversed",
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    page.update_layout(
        title={"text": in_html(title)},
        template="plotly_white",
        plot_bgcolor="#e8e8e8",
        height=140 + rows * (130 + 20 * len(labels)),
    )
    return page.to_html(include_plotlyjs=True, div_id="maps")


def maps_csv(panels: Sequence[TokenMap]) -> str:
    """What the maps show, a line per map, token and layer; cells of what is not there are empty.

    Args, Raises: See :func:`maps`.
    """
    arrays = _checked(panels)
    tokens, (start, end) = panels[0].tokens, panels[0].subject_span or (0, 0)
    lines = [
        (
            panel.locator,
            panel.unit,
            token,
            tokens[token],
            int(start <= token < end),
            layer,
            "" if np.isnan(value) else repr(value),
        )
        for panel, values in zip(panels, arrays, strict=True)
        for token, row in enumerate(values.tolist())
        for layer, value in enumerate(row)
    ]
    return csv_text(CSV_HEADER, lines)


def _checked(panels: Sequence[TokenMap]) -> list[Float[np.ndarray, "token layer"]]:
    if not panels:
        raise OptionError("panels is empty; expected at least one map")
    first = panels[0]
    for panel in panels:
        if (panel.tokens, panel.subject_span) != (first.tokens, first.subject_span):
            raise OptionError(f"maps of one figure must be over the same tokens: {panel.title!r} is not")
    return [numbers(panel) for panel in panels]
