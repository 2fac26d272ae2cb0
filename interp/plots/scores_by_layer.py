"""Where an edit works, and where the locators point: edit score and localisation strength by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from interp.editing.methods import editor_title
from interp.errors import OptionError
from interp.evaluation.measures import measure_named
from interp.evaluation.summary import TableRow
from interp.options import check_choice
from interp.plots.csv_text import csv_numbers, csv_text
from interp.plots.panel import layer_ticks, plain, wrapped
from interp.plots.style import QUIET, WIDTHS, PaperFigure, paper_style
from interp.statistics.estimates import Interval
from interp.study.edited import Strength
from interp.system.readable import number

__all__ = ["scores_by_layer", "scores_by_layer_csv"]

CSV_HEADER = (
    "kind", "name", "layer", "protocol", "metric", "unit", "mean", "low95", "high95", "n", "chosen",
)  # fmt: skip

# the score and its parts: Okabe & Ito's colours, each with a marker of its own; and where it stands beside its layer
SERIES = {
    "score": ("Edit score", "#000000", "o", 0),
    "reliability": ("Reliability", "#d55e00", "s", -1),
    "locality": ("Locality", "#56b4e9", "^", 1),
    "portability": ("Portability", "#cc79a7", "D", 2),
}
LOCATOR_COLOURS = ("#0059b3", "#007a3d", "#7a4fa3", "#a35200")  # the first two: attribution and MLP in Figure 1
PROTOCOL = "teacher-forced"  # of the scores drawn, as of the correlations
DASH = 3.0
LEGEND_COLUMNS = {"column": (2, 1), "page": (4, 3), "slide": (4, 3)}


def scores_by_layer(
    by_layer: Mapping[int, TableRow],
    strengths: Sequence[Strength],
    *,
    width: str = "page",
) -> PaperFigure:
    """Draw the edit score and its parts by edited layer, and below it how strongly each locator points to each layer.

    Bars and bands are 95% intervals, where there are any (of few cases or facts there are none); scores are
    teacher-forced. The edit score stands at its layer, its parts a little beside it, so that their bars can be told
    apart. Dashed lines mark the layers that the locators chose, dots the layers that the rank correlation is over.

    Args:
        by_layer: The layer sweep: what one editor did at each layer.
        strengths: One per locator, at the last subject token.
        width: ``column``, ``page`` or ``slide``.

    Raises:
        OptionError: If there are no layers, they were edited by different methods, a strength does not have one value
            for each layer, or the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    n_layers = _checked(by_layer, strengths)
    with paper_style(width) as scale:
        full_width = WIDTHS[width]
        left, right = 0.58 * scale, 0.06 * scale
        cells = full_width - left - right
        heights = [1.55 * scale] + [0.75 * scale] * len(strengths)
        titles = [_edit_title(by_layer), *(_strength_title(strength) for strength in strengths)]
        titles = [wrapped(title, 0.97 * cells, 7.5 * scale).replace("\xa0", " ") for title in titles]
        above = [(0.08 + 0.125 * (title.count("\n") + 1)) * scale for title in titles]
        ticks, foot = 0.2 * scale, 0.16 * scale  # below each panel; the last one's axis label
        columns = LEGEND_COLUMNS[width]
        lines = [math.ceil(len(SERIES) / columns[0]), math.ceil((len(strengths) + 1) / columns[1])]
        legends = [0.05 * scale + 0.135 * scale * n for n in lines]
        full_height = sum(heights) + sum(above) + ticks * len(heights) + foot + sum(legends) + 0.04 * scale
        figure = PaperFigure(figsize=(full_width, full_height))
        panels: list[Axes] = []
        y = full_height
        for height, head, title in zip(heights, above, titles, strict=True):
            y -= head + height
            axes = figure.add_axes((left / full_width, y / full_height, cells / full_width, height / full_height))
            axes.set_title(title, loc="left")
            axes.set_xlim(-0.8, n_layers - 0.2)
            axes.xaxis.set_major_locator(FixedLocator(layer_ticks(n_layers, cells / scale)))
            for index, strength in enumerate(strengths):
                axes.axvline(strength.chosen, zorder=0.5, **_chosen_style(index, len(strengths), scale))
            panels.append(axes)
            y -= ticks
        panels[-1].set_xlabel("Layer")
        beside = 3.2 * scale / 72 * (n_layers + 0.6) / cells  # a marker's width in layers
        _draw_scores(panels[0], by_layer, min(beside, 0.3), scale)
        for index, (axes, strength, height) in enumerate(zip(panels[1:], strengths, heights[1:], strict=True)):
            _draw_strength(axes, strength, LOCATOR_COLOURS[index % 4], tuple(by_layer), scale)
            axes.set_ylabel(wrapped(strength.unit, height + 0.1 * scale, 6.5 * scale), fontsize=6.5 * scale)
        for axes in panels:  # in one line, however wide the numbers are
            axes.yaxis.set_label_coords((0.24 * scale - left) / cells, 0.5)
        _legends(figure, strengths, _about_intervals(by_layer, strengths), legends, columns, scale)
    return figure


def scores_by_layer_csv(by_layer: Mapping[int, TableRow], strengths: Sequence[Strength]) -> str:
    """What the figure shows, for all protocols, a number per line; cells of what was not measured are empty.

    Args:
        by_layer: See :func:`scores_by_layer`.
        strengths: See :func:`scores_by_layer`.

    Raises:
        OptionError: If there are no layers, they were edited by different methods, or a strength does not have one
            value for each layer.
    """
    _checked(by_layer, strengths)
    lines: list[tuple[object, ...]] = []
    for layer, row in sorted(by_layer.items()):
        for protocol, scores in row.scores.items():
            for name, found in scores.items():
                unit = measure_named(name).unit.name
                lines.append(("edit", row.method, layer, protocol or "", name, unit, *csv_numbers(found), ""))
    for strength in strengths:
        for layer, numbers in enumerate(zip(strength.mean, strength.low, strength.high, strict=True)):
            ends = ("" if math.isnan(value) else repr(float(value)) for value in numbers)
            chosen = int(layer == strength.chosen)
            lines.append(("strength", strength.locator, layer, "", strength.title, strength.unit, *ends, "", chosen))
        rho = csv_numbers(strength.correlation)
        lines.append(("correlation", strength.locator, "", PROTOCOL, "rank correlation with score", "", *rho, ""))
    return csv_text(CSV_HEADER, lines)


def _checked(by_layer: Mapping[int, TableRow], strengths: Sequence[Strength]) -> int:
    """How many layers there are."""
    if not by_layer:
        raise OptionError("by_layer is empty; expected at least one edited layer")
    methods = sorted({row.method for row in by_layer.values()})
    if len(methods) > 1:
        raise OptionError(f"all layers must be edited by one method, got {', '.join(methods)}")
    n_layers = max(max(by_layer) + 1, *(len(strength.mean) for strength in strengths), 1)
    for strength in strengths:
        lengths = {len(strength.mean), len(strength.low), len(strength.high)}
        if lengths != {n_layers}:
            raise OptionError(
                f"the strength of {strength.locator} has {min(lengths)} values; expected one for each of"
                f" {n_layers} layers"
            )
    return n_layers


def _edit_title(by_layer: Mapping[int, TableRow]) -> str:
    counts = {row.n_cases for row in by_layer.values()}
    n = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    editor = editor_title(next(iter(by_layer.values())).method)
    at = "at" if all(row.layers.isdecimal() for row in by_layer.values()) else "up to"  # one layer, or several
    return f"{editor} {at} each layer: edit score and its parts ({PROTOCOL}, n = {n} cases)"


def _strength_title(strength: Strength) -> str:
    rho = _rho(strength.correlation)
    return f"{strength.title}, last subject token; rank correlation with the edit score: {rho}"


def _about_intervals(by_layer: Mapping[int, TableRow], strengths: Sequence[Strength]) -> str:
    """What bars and bands are, or that there are none."""
    bars = any(not math.isnan(row.scores[PROTOCOL][name].low) for row in by_layer.values() for name in SERIES)
    bands = any(not math.isnan(low) for strength in strengths for low in strength.low)
    shown = " and ".join(name for name, there in (("bars", bars), ("bands", bands)) if there)
    missing = " or ".join(name for name, there in (("bars", bars), ("bands", bands or not strengths)) if not there)
    return "; ".join(filter(None, (shown and f"{shown}: 95% intervals", missing and f"no {missing}: too few for one")))


def _rho(found: Interval) -> str:
    """The correlation as text, in parts that no line break divides."""
    layers = f"n\xa0=\xa0{found.n}\xa0layer{'' if found.n == 1 else 's'}"
    if math.isnan(found.mean):
        return f"undefined, {layers}"
    mean = f"{round(found.mean, 2) + 0.0:.2f}".replace("-", "−")
    return f"ρ\xa0=\xa0{mean}, {layers}; no\xa0interval: the\xa0layers are\xa0no\xa0sample"


def _draw_scores(axes: Axes, by_layer: Mapping[int, TableRow], beside: float, scale: float) -> None:
    layers = sorted(by_layer)
    gap = min((b - a for a, b in pairwise(layers)), default=1)
    for name, (_, colour, _, place) in SERIES.items():
        found = [by_layer[layer].scores[PROTOCOL][name] for layer in layers]
        x = [layer + place * min(beside, 0.25 * gap) for layer in layers]
        axes.vlines(
            x, [f.low for f in found], [f.high for f in found], color=colour, linewidth=_line(name, scale),
            alpha=0.55, zorder=1,
        )  # fmt: skip
        axes.plot(x, [f.mean for f in found], zorder=3 if name == "score" else 2, **_series_style(name, scale))
    axes.set_ylim(-3, 103)
    axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    axes.set_ylabel("percent", fontsize=6.5 * scale)


def _draw_strength(axes: Axes, strength: Strength, colour: str, swept: tuple[int, ...], scale: float) -> None:
    layers = range(len(strength.mean))
    axes.fill_between(layers, strength.low, strength.high, color=colour, alpha=0.2, linewidth=0, zorder=1)
    axes.plot(layers, strength.mean, color=colour, zorder=2)
    axes.plot(
        sorted(swept), [strength.mean[layer] for layer in sorted(swept)], color=colour, linestyle="none", marker="o",
        markersize=2.4 * scale, zorder=3,
    )  # fmt: skip
    axes.axhline(0, color=QUIET, linewidth=0.4 * scale, zorder=0.4)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _line(name: str, scale: float) -> float:
    return (1.2 if name == "score" else 0.7) * scale


def _series_style(name: str, scale: float) -> dict[str, Any]:
    _, colour, marker, _ = SERIES[name]
    return {
        "color": colour, "marker": marker, "markersize": (3.2 if name == "score" else 2.4) * scale,
        "linewidth": _line(name, scale), "markeredgewidth": 0,
    }  # fmt: skip


def _chosen_style(index: int, count: int, scale: float) -> dict[str, Any]:
    """Dashes that fill each other's gaps where locators chose the same layer."""
    gap = DASH * max(count - 1, 1)
    return {
        "color": LOCATOR_COLOURS[index % 4], "linewidth": 1.1 * scale, "linestyle": (DASH * index, (DASH, gap)),
    }  # fmt: skip


def _legends(
    figure: Figure,
    strengths: Sequence[Strength],
    about: str,
    heights: Sequence[float],
    columns: tuple[int, int],
    scale: float,
) -> None:
    series: list[Artist] = [Line2D([], [], label=SERIES[name][0], **_series_style(name, scale)) for name in SERIES]
    marks: list[Artist] = [
        Line2D([], [], label=plain(f"chosen by {strength.locator}: layer {strength.chosen}"),
               **_chosen_style(index, len(strengths), scale))
        for index, strength in enumerate(strengths)
    ]  # fmt: skip
    marks.append(Patch(facecolor="#999999", alpha=0.5, linewidth=0, label=about))
    full_height = figure.get_size_inches()[1]
    tops = (sum(heights) + 0.04 * scale, heights[1] + 0.04 * scale)
    for handles, top, n in zip((series, marks), tops, columns, strict=True):
        figure.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, top / full_height), ncols=n, frameon=False,
            borderaxespad=0, borderpad=0.2, labelspacing=0.35, columnspacing=1.5, handlelength=2.4,
        )  # fmt: skip
