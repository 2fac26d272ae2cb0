"""One fact's maps before and after an edit, side by side on one scale."""

from __future__ import annotations

from collections.abc import Sequence

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

    Args:
        panels: A map before and after the edit for each locator; they say what was located, and its probability.
        width: ``column`` (maps below each other), ``page`` or ``slide``.

    Raises:
        OptionError: If there are no panels, a pair is over different tokens, or the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    if not panels:
        raise OptionError("panels is empty; expected at least one method to draw")
    columns = PANELS_PER_ROW[width]
    for before, after in panels:
        if (before.tokens, before.subject_span) != (after.tokens, after.subject_span):
            raise OptionError(f"{before.title!r} before and after the edit are over different tokens")
    maps = [[numbers(shown) for shown in pair] for pair in panels]
    labels = [token_labels(before.tokens, before.subject_span, in_figure=True) for before, _ in panels]
    with paper_style(width) as scale:
        full_width = WIDTHS[width]
        left = max(text_width(plain(label), 6.5 * scale) for each in labels for label in each) + 0.12 * scale
        between, gap, bar_room = 0.15 * scale, 0.08 * scale, 0.58 * scale
        cells = (full_width - left - (columns - 1) * between - gap - bar_room) / columns
        room = cells + (0 if columns > 1 else gap)  # for a title
        heads = [[wrapped(title, room, 7.5 * scale) for title in _titles(p)] for p in panels]
        names = [
            wrapped(before.title, full_width - left, 8.8 * scale) for before, _ in panels
        ]  # bold letters are wider
        above = [0.14 * scale * (name.count("\n") + 1) for name in names]
        heights = [max(0.135 * len(each), 0.7) * scale for each in labels]
        heading = [(0.08 + 0.125 * (max(h.count("\n") for h in head) + 1)) * scale for head in heads]
        below, foot = 0.36 * scale, 0.12 * scale
        times = len(TIMES) // columns  # rows of maps per method
        full_height = foot + sum(a + times * (h + b + below) for a, h, b in zip(above, heading, heights, strict=True))
        figure = PaperFigure(figsize=(full_width, full_height))
        y = full_height
        for row, pair in enumerate(panels):
            figure.text(
                left / full_width, (y - 0.04 * scale) / full_height, names[row], va="top", fontsize=7.5 * scale,
                fontweight="bold", fontfamily=font_family(names[row]),
            )  # fmt: skip
            y -= above[row]
            colours = colour_scale(np.concatenate(maps[row]), hue=pair[0].hue)
            for index, (values, title) in enumerate(zip(maps[row], _titles(pair), strict=True)):
                column = index % columns
                if column == 0:
                    y -= heading[row] + heights[row]
                draw_panel(
                    figure,
                    (left + column * (cells + between), y, cells, heights[row]),
                    values,
                    labels=labels[row] if column == 0 else None,
                    colours=colours,
                    title=title,
                    unit=pair[0].unit if column == columns - 1 else None,
                    bar_gap=gap,
                    scale=scale,
                )
                if column == columns - 1:
                    y -= below
        if any(before.subject_span for before, _ in panels):
            figure.text(
                0.99, 0.03 * scale / full_height, "* subject", ha="right", va="bottom", fontsize=6 * scale, color=QUIET
            )
    return figure


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
