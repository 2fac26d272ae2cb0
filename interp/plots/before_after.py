"""One fact's maps before and after an edit, side by side on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import OptionError
from interp.options import check_choice
from interp.plots.heatmap import checked_map
from interp.plots.panel import draw_panel, plain, token_labels, wrapped
from interp.plots.style import QUIET, WIDTHS, PaperFigure, colour_scale, font_family, paper_style, text_width

__all__ = ["BeforeAfterPanel", "before_after"]

COLUMNS = {"column": 1, "page": 2, "slide": 2}
TIMES = ("Before the edit", "After the edit")


@dataclass(frozen=True, kw_only=True, eq=False)
class BeforeAfterPanel:
    """One method's two maps.

    Args:
        method: ``attribution``, ``resid``, ``mlp`` or ``attn``: chooses the hue.
        title: What the maps show, for a heading.
        unit: What a value means, for the colour bar.
        tokens: The text of each token of the prompt.
        subject_span: The subject's tokens, end exclusive; ``None`` to mark none.
        values: Before and after; NaN where there is none.
        answers: What was located, before and after.
        probabilities: Of these answers.
    """

    method: str
    title: str
    unit: str
    tokens: tuple[str, ...]
    subject_span: tuple[int, int] | None
    values: tuple[Float[Tensor, "token layer"], Float[Tensor, "token layer"]]
    answers: tuple[str, str]
    probabilities: tuple[float, float]


def before_after(panels: Sequence[BeforeAfterPanel], *, width: str = "page") -> PaperFigure:
    """Draw each method's maps before and after an edit with the same colours; an asterisk marks the subject's tokens.

    Args:
        panels: One per method.
        width: ``column`` (maps below each other), ``page`` or ``slide``.

    Raises:
        OptionError: If there are no panels, values do not fit the tokens, or a method or the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    if not panels:
        raise OptionError("panels is empty; expected at least one method to draw")
    columns = COLUMNS[width]
    maps = [[checked_map(values, p.tokens, p.subject_span, p.method) for values in p.values] for p in panels]
    labels = [token_labels(p.tokens, p.subject_span, in_figure=True) for p in panels]
    with paper_style(width) as scale:
        full_width = WIDTHS[width]
        left = max(text_width(plain(label), 6.5 * scale) for each in labels for label in each) + 0.12 * scale
        between, gap, after = 0.15 * scale, 0.08 * scale, 0.58 * scale
        cells = (full_width - left - (columns - 1) * between - gap - after) / columns
        room = cells + (0 if columns > 1 else gap)  # for a title
        heads = [[wrapped(title, room, 7.5 * scale) for title in _titles(p)] for p in panels]
        names = [wrapped(p.title, full_width - left, 8.8 * scale) for p in panels]  # bold letters are wider
        above = [0.14 * scale * (name.count("\n") + 1) for name in names]
        heights = [max(0.135 * len(each), 0.7) * scale for each in labels]
        heading = [(0.08 + 0.125 * (max(h.count("\n") for h in head) + 1)) * scale for head in heads]
        below, foot = 0.36 * scale, 0.12 * scale
        times = len(TIMES) // columns  # rows of maps per method
        full_height = foot + sum(a + times * (h + b + below) for a, h, b in zip(above, heading, heights, strict=True))
        figure = PaperFigure(figsize=(full_width, full_height))
        y = full_height
        for row, panel in enumerate(panels):
            figure.text(
                left / full_width, (y - 0.04 * scale) / full_height, names[row], va="top", fontsize=7.5 * scale,
                fontweight="bold", fontfamily=font_family(names[row]),
            )  # fmt: skip
            y -= above[row]
            colours = colour_scale(np.concatenate(maps[row]), method=panel.method)
            for index, (values, title) in enumerate(zip(maps[row], _titles(panel), strict=True)):
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
                    unit=panel.unit if column == columns - 1 else None,
                    bar_gap=gap,
                    scale=scale,
                )
                if column == columns - 1:
                    y -= below
        if any(panel.subject_span for panel in panels):
            figure.text(
                0.99, 0.03 * scale / full_height, "* subject", ha="right", va="bottom", fontsize=6 * scale, color=QUIET
            )
    return figure


def _titles(panel: BeforeAfterPanel) -> list[str]:
    titles = []
    for time, answer, probability in zip(TIMES, panel.answers, panel.probabilities, strict=True):
        (shown,) = token_labels([answer], None, in_figure=True)
        chance = f"= {probability:.3f}" if probability >= 0.0005 else "< 0.001"
        titles.append(f"{time}: “{shown}”, P {chance}")
    return titles
