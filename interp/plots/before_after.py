"""One fact's maps before and after an edit, side by side on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import OptionError
from interp.options import check_choice
from interp.plots.heatmap import numbers
from interp.plots.panel import draw_panel, plain, token_labels, wrapped
from interp.plots.style import QUIET, WIDTHS, PaperFigure, colour_scale, font_family, paper_style, text_width
from interp.results.token_map import TokenMap

__all__ = ["before_after"]

PANELS_PER_ROW = {"column": 1, "page": 2, "slide": 2}
TIMES = ("Before the edit", "After the edit")


Pair = tuple[TokenMap, TokenMap]


def before_after(panels: Sequence[Pair], *, width: str = "page") -> PaperFigure:
    """Draw each method's maps before and after an edit with the same colours; an asterisk marks the subject's tokens.

    Example:
        >>> before = interp.causal_trace(model, fact, noise=0.3)
        >>> with interp.edit(model, [request], method="kn").applied(model):
        ...     after = interp.causal_trace(model, fact, noise=0.3)
        >>> interp.before_after([(before.map(), after.map())])
        <PaperFigure size 690x... with 3 Axes>

    Args:
        panels: A map before and after the edit for each locator; they say what was located, and its probability.
        width: ``column`` (maps below each other), ``page`` or ``slide``.

    Raises:
        OptionError: If there are no panels, a pair is over different tokens, or the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    if not panels:
        raise OptionError("panels is empty; expected at least one method to draw")
    for before, after in panels:
        if (before.tokens, before.subject_span) != (after.tokens, after.subject_span):
            raise OptionError(f"{before.title!r} before and after the edit are over different tokens")
    with paper_style(width) as scale:
        page = _layout(panels, width, scale)
        figure = PaperFigure(figsize=(page.width, page.height))
        y = page.height
        for pair, room in zip(panels, page.rooms, strict=True):
            y = _draw(figure, page, pair, room, y)
        if any(before.subject_span for before, _ in panels):
            figure.text(
                0.99, 0.03 * scale / page.height, "* subject", ha="right", va="bottom", fontsize=6 * scale, color=QUIET
            )
    return figure


@dataclass(frozen=True, kw_only=True)
class _Room:
    """What one method takes of the page.

    Args:
        name: The method, in lines that fit.
        labels: Of the rows of its maps.
        above: Height of its name.
        heading: Height of the titles of its maps.
        cells: Height of their cells.
    """

    name: str
    labels: list[str]
    above: float
    heading: float
    cells: float


@dataclass(frozen=True, kw_only=True)
class _Page:
    """Where everything stands, in inches.

    Args:
        scale: Of letters and lines.
        columns: Maps beside each other.
        width, height: Of the page.
        left: What labels take.
        between: Between two maps.
        gap: Between a map and its colour bar.
        cells: Width of the cells of a map.
        below: Under each row of maps.
        rooms: From the top down.
    """

    scale: float
    columns: int
    width: float
    height: float
    left: float
    between: float
    gap: float
    cells: float
    below: float
    rooms: tuple[_Room, ...]


def _layout(panels: Sequence[Pair], width: str, scale: float) -> _Page:
    columns, full_width = PANELS_PER_ROW[width], WIDTHS[width]
    labels = [token_labels(before.tokens, before.subject_span, in_figure=True) for before, _ in panels]
    left = max(text_width(plain(label), 6.5 * scale) for each in labels for label in each) + 0.12 * scale
    between, gap, bar_room = 0.15 * scale, 0.08 * scale, 0.58 * scale
    cells = (full_width - left - (columns - 1) * between - gap - bar_room) / columns
    title_width = cells + (0 if columns > 1 else gap)
    rooms = []
    for pair, own in zip(panels, labels, strict=True):
        name = wrapped(pair[0].title, full_width - left, 8.8 * scale)  # bold letters are wider
        lines = max(wrapped(title, title_width, 7.5 * scale).count("\n") for title in _titles(pair)) + 1
        room = _Room(
            name=name,
            labels=own,
            above=0.14 * scale * (name.count("\n") + 1),
            heading=(0.08 + 0.125 * lines) * scale,
            cells=max(0.135 * len(own), 0.7) * scale,
        )
        rooms.append(room)
    below, foot = 0.36 * scale, 0.12 * scale
    times = len(TIMES) // columns  # rows of maps per method
    return _Page(
        scale=scale,
        columns=columns,
        width=full_width,
        height=foot + sum(room.above + times * (room.heading + room.cells + below) for room in rooms),
        left=left,
        between=between,
        gap=gap,
        cells=cells,
        below=below,
        rooms=tuple(rooms),
    )


def _draw(figure: PaperFigure, page: _Page, pair: Pair, room: _Room, y: float) -> float:
    """Draw one method's maps from a height down; where they end."""
    figure.text(
        page.left / page.width, (y - 0.04 * page.scale) / page.height, room.name, va="top",
        fontsize=7.5 * page.scale, fontweight="bold", fontfamily=font_family(room.name),
    )  # fmt: skip
    y -= room.above
    values = [numbers(shown) for shown in pair]
    colours = colour_scale(np.concatenate(values), hue=pair[0].hue)
    for index, title in enumerate(_titles(pair)):
        column = index % page.columns
        if column == 0:
            y -= room.heading + room.cells
        draw_panel(
            figure,
            (page.left + column * (page.cells + page.between), y, page.cells, room.cells),
            values[index],
            labels=room.labels if column == 0 else None,
            colours=colours,
            title=title,
            unit=pair[0].unit if column == page.columns - 1 else None,
            bar_gap=page.gap,
            scale=page.scale,
        )
        if column == page.columns - 1:
            y -= page.below
    return y


def _titles(pair: Pair) -> list[str]:
    titles = []
    for time, shown in zip(TIMES, pair, strict=True):
        title = time
        if shown.answer is not None:
            (answer,) = token_labels([shown.answer], None, in_figure=True)
            title += f": “{answer}”"
        if shown.probability is not None:
            title += f", P {f'= {shown.probability:.3f}' if shown.probability >= 0.0005 else '< 0.001'}"
        titles.append(title)
    return titles
