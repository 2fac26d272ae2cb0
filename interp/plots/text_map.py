"""A map in letters, for a window of any width: with colours, or with shades of ink where there are none.

1. Every row is one line: label, cells, the row's largest value and its layer. No line is wider than the window.
2. A coloured cell is two columns wide, or one where the window is narrow; a shorter label goes before a narrower cell.
3. Where even that does not fit, a column stands for several neighbouring layers and shows the value that is furthest
   from zero; a line says so. Layer numbers stand over the first column that holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from interp.plots.style import DIVERGING, ColourScale
from interp.system.readable import number

__all__ = ["NARROWEST", "WIDEST", "text_map"]

NARROWEST, WIDEST = 40, 300
"""Columns of a window that are made use of: a narrower one is taken for 40 columns, a wider one for 300."""

SHADES = " .:-=+*#%@"
BELOW = " abcdefghi"
MISSING = "?"
ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
LONGEST_LABEL, SHORT_LABEL = 24, 10
FORMS = ((2, LONGEST_LABEL), (2, 14), (1, LONGEST_LABEL), (1, 14), (1, SHORT_LABEL))
"""Width of a cell and most columns of a label, the best first."""


def text_map(
    values: Float[np.ndarray, "token layer"],
    labels: Sequence[str],
    colours: ColourScale,
    *,
    columns: int,
    coloured: bool,
) -> Text:
    """Write a map.

    Args:
        values: NaN where there is none.
        labels: Of the rows; those of the subject end in an asterisk.
        colours: From values to colours, and the values at both ends.
        columns: Of the window.
        coloured: Colour the cells; else a letter says how large a value is.
    """
    form = _form(values, labels, columns, coloured)
    text = Text(no_wrap=True, overflow="crop", end="")
    text.append(form.ruler() + "\n", style="bold" if coloured else "")
    for label, row, cells in zip(labels, values, _grouped(values, form.layers), strict=True):
        text.append(_fitted(label, form.margin) + ("  " if coloured else " |"))
        for value in cells.tolist():
            if coloured:
                text.append(" " * form.cell, style=Style(bgcolor=colours.hex(value)))
            else:
                text.append(_shade(value, colours) * form.cell)
        best = int(np.nanargmax(row)) if np.isfinite(row).any() else None
        ending = "" if best is None else f"{number(float(row[best])):>{form.number}} {best:>5}"
        text.append(f"{' ' if coloured else '|'} {ending}".rstrip() + "\n")
    return text.append_text(_legend(colours, form, coloured))


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Columns of the parts of a line, and how many layers a cell stands for."""

    margin: int
    cell: int
    layers: int
    number: int
    n_layers: int

    @property
    def cells(self) -> int:
        return -(-self.n_layers // self.layers)

    def ruler(self) -> str:
        """Layer numbers, each over the first column that holds it, and no two that touch."""
        room = self.cells * self.cell
        widest = len(str(self.n_layers - 1)) + 1
        round_numbers = {step for step in ROUND if step % self.layers == 0} | {step * self.layers for step in ROUND}
        step = next(s for s in sorted(round_numbers) if s // self.layers * self.cell >= widest)
        line = ""
        for layer in range(0, self.n_layers, step):
            at = layer // self.layers * self.cell
            if at + len(str(layer)) <= room:
                line = line.ljust(at) + str(layer)
        return f"{'':{self.margin}}  {line:{room}}  {'max':>{self.number}} layer"


def _form(values: Float[np.ndarray, "token layer"], labels: Sequence[str], columns: int, coloured: bool) -> _Form:
    columns = min(max(columns, NARROWEST), WIDEST)
    longest = max(cell_len(label) for label in labels)
    finite = [row[np.isfinite(row)] for row in values]
    widest = max([3, *(len(number(float(row.max()))) for row in finite if row.size)])
    n_layers = values.shape[1]
    fixed = 2 + 2 + widest + 6  # between label and cells, after them, the largest value and its layer
    for cell, most in FORMS:
        margin = min(longest, most)
        if cell <= 1 + coloured and margin + fixed + cell * n_layers <= columns:
            return _Form(margin=margin, cell=cell, layers=1, number=widest, n_layers=n_layers)
    margin = min(longest, SHORT_LABEL)
    layers = -(-n_layers // (columns - margin - fixed))
    return _Form(margin=margin, cell=1, layers=layers, number=widest, n_layers=n_layers)


def _grouped(values: Float[np.ndarray, "token layer"], layers: int) -> Float[np.ndarray, "token cell"]:
    """Of each group of neighbouring layers the value that is furthest from zero."""
    if layers == 1:
        return values
    n_rows, n_layers = values.shape
    cells = -(-n_layers // layers)
    padded = np.full((n_rows, cells * layers), np.nan)
    padded[:, :n_layers] = values
    groups = padded.reshape(n_rows, cells, layers)
    best = np.where(np.isfinite(groups), np.abs(groups), -1).argmax(-1)
    return np.take_along_axis(groups, best[..., None], -1)[..., 0]


def _shade(value: float, colours: ColourScale) -> str:
    if not np.isfinite(value):
        return MISSING
    signed = colours.colours is DIVERGING
    ladder = BELOW if signed and value < 0 else SHADES
    start = max(colours.low, 0.0)
    share = ((abs(value) if signed else value) - start) / (colours.high - start) if colours.high > start else 0.0
    return ladder[round((len(ladder) - 1) * min(1.0, max(0.0, share)))]


def _legend(colours: ColourScale, form: _Form, coloured: bool) -> Text:
    """What the cells mean, in lines no longer than the narrowest window."""
    low, high = number(colours.low), number(colours.high)
    blank = low if colours.low > 0 else "0" if colours.low == 0 or colours.colours is DIVERGING else "0 or less"
    text = Text()
    if coloured:
        text.append(f"{low} ")
        for step in np.linspace(colours.low, colours.high, 12).tolist():
            text.append(" ", style=Style(bgcolor=colours.hex(step)))
        text.append(f" {high}  * subject\n")
    else:
        text.append(f"'{SHADES[-1]}' {high}, ' ' {blank}; {MISSING} none; * subject\n")
        if colours.colours is DIVERGING:
            text.append(f"below 0: '{BELOW[1]}' to '{BELOW[-1]}' {low}\n")
    if form.layers > 1:
        text.append(f"each column: {form.layers} layers, largest size\n")
    return text


def _fitted(label: str, width: int) -> str:
    """A label in exactly so many columns: on the right, cut before the subject's asterisk if it is too long."""
    if cell_len(label) <= width:
        return " " * (width - cell_len(label)) + label
    star = "*" if label.endswith("*") else ""
    kept = set_cell_size(label, width - 1 - len(star)).rstrip() + "…" + star
    return " " * (width - cell_len(kept)) + kept
