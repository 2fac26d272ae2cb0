"""Figure 1 as a page for a browser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.locate.class_average import ClassAverage
from interp.locate.methods import locator_named
from interp.plots.averages import arranged, array, peaks, so_far
from interp.plots.style import EMPTY, colour_scale
from interp.statistics.intervals import MIN_UNBOUNDED
from interp.system.readable import in_html, number

__all__ = ["figure1_html"]


def figure1_html(averages: Sequence[ClassAverage], *, of: int | None = None) -> str:
    """The maps as a page that needs nothing else; hovering shows mean, interval and number of facts.

    Args:
        averages: One per method, all of one model.
        of: See :func:`~interp.plots.figure1`.

    Raises:
        OptionError: If there are no averages, they come from different models, or their shapes do not match their
            classes.
    """
    shown = [average for row in arranged(averages, 1) for average in row]
    space = 0.0 if len(shown) == 1 else 0.3 / len(shown)
    page = make_subplots(rows=len(shown), subplot_titles=[in_html(a.title) for a in shown], vertical_spacing=space)
    size = (1 - space * (len(shown) - 1)) / len(shown)
    for place, average in enumerate(shown, start=1):
        middle = 1 - (place - 1) * (size + space) - size / 2
        page.add_trace(_cells(average, middle, size), row=place, col=1)
        page.add_trace(_peak_marks(average), row=place, col=1)
        classes = _names(average)
        labels = [f"{name} (n = {n})" for name, n in zip(classes, average.n_facts, strict=True)]
        rows = {"tickvals": list(range(len(classes))), "ticktext": labels, "range": [len(classes) - 0.5, -0.5]}
        page.update_yaxes(**rows, row=place, col=1)
        page.update_xaxes(title_text="Layer", range=[-0.5, average.mean.shape[1] - 0.5], row=place, col=1)
    page.update_xaxes(showgrid=False, zeroline=False)
    page.update_yaxes(showgrid=False, zeroline=False, automargin=True)
    page.update_layout(
        title={"text": _title(shown, of)}, template="plotly_white", plot_bgcolor=EMPTY, height=120 + 290 * len(shown)
    )
    return page.to_html(include_plotlyjs=True, div_id="figure1")


def _cells(average: ClassAverage, middle: float, size: float) -> go.Heatmap:
    """A map's cells; its colour bar stands at a height of the page, both in shares of it."""
    mean = array(average.mean)
    colours = colour_scale(mean, hue=locator_named(average.method).hue)
    return go.Heatmap(
        z=[[v if np.isfinite(v) else None for v in line] for line in mean.tolist()],
        text=_hover_texts(average),
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        colorscale=colours.stops(),
        zmin=colours.low,
        zmax=colours.high,
        colorbar={"title": {"text": in_html(average.unit), "side": "right"}, "y": middle, "len": size},
    )


def _hover_texts(average: ClassAverage) -> list[list[str]]:
    """What the page says of each cell."""
    mean, low, high = (array(t) for t in (average.mean, average.low, average.high))
    return [
        [
            f"<b>{name}</b><br>layer {layer}<br>mean {number(mean[row, layer])}"
            f"<br>{_interval(low[row, layer], high[row, layer])}"
            f"<br>n = {average.n_facts[row]} facts, {average.n_tokens[row]} tokens"
            for layer in range(mean.shape[1])
        ]
        for row, name in enumerate(_names(average))
    ]


def _peak_marks(average: ClassAverage) -> go.Scatter:
    """A dot at each row's peak layer, a bar over those that cannot be told from it."""
    marks = [(row, *p) for row, p in enumerate(peaks(average)) if p[0] >= 0]
    return go.Scatter(
        x=[peak for _, peak, _, _ in marks],
        y=[row for row, *_ in marks],
        error_x={
            "array": [max(0, high - peak) for _, peak, _, high in marks],
            "arrayminus": [peak - low if low >= 0 else 0 for _, peak, low, _ in marks],
            "color": "black",
            "thickness": 1,
            "width": 3,
        },
        mode="markers",
        marker={"color": "white", "size": 7, "line": {"color": "black", "width": 1}},
        hoverinfo="skip",
        showlegend=False,
    )


def _names(average: ClassAverage) -> list[str]:
    return [in_html(name) for name in average.token_classes]


def _title(averages: Sequence[ClassAverage], of: int | None) -> str:
    """The model, what the marks mean, and which facts are not in the maps."""
    name = in_html(averages[0].provenance.model)
    title = f"{name}: dots mark peak layers, bars those not told from them (95%){so_far(averages, of)}"
    missing = [in_html(text) for text in averages[0].left_out]
    return f"{title}<br>left out: {'; '.join(missing)}" if missing else title


def _interval(low: float, high: float) -> str:
    if np.isnan(low) or np.isnan(high):
        return f"no interval: fewer than {MIN_UNBOUNDED} facts, or all alike"
    return f"95% interval {number(low)} to {number(high)}"
