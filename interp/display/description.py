"""A description of a result, and its two forms: HTML with figures, and plain text."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from jaxtyping import Float
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from interp.plots.panel import number, token_labels
from interp.plots.style import PaperFigure

__all__ = ["Description", "Table", "as_html", "as_text", "describe", "probability", "shaded"]

SHADES = " .:-=+*#%@"
TEXT_WIDTH = 140
DPI = 160


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of plain texts.

    Args:
        header: Names of the columns.
        rows: Cells.
        left: How many columns, from the first, hold text; the others hold numbers.
        title: Above it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a result says of itself.

    Args:
        heading: In one line.
        lines: More, a line each.
        figure: Drawn in a notebook.
        text: Stands for the figure in a terminal.
        tables: Below it.
    """

    heading: str
    lines: Sequence[str] = ()
    figure: Callable[[], PaperFigure] | None = None
    text: str = ""
    tables: Sequence[Table] = ()


@singledispatch
def describe(result: Any) -> Description:
    """What a result says of itself; each kind is registered beside the figure that shows it."""
    raise TypeError(f"no description of a {type(result).__name__}")


def as_text(result: Any) -> str:
    """A result in a terminal."""
    found = describe(result)
    parts = [found.heading, *found.lines]
    if found.text:
        parts.append(found.text)
    return "\n".join([*parts, *(_text_table(table) for table in found.tables)])


def as_html(result: Any) -> str:
    """A result in a notebook; needs nothing from a network."""
    found = describe(result)
    parts = [f"<p><b>{html.escape(found.heading)}</b>", *(f"<br>{html.escape(line)}" for line in found.lines), "</p>"]
    if found.figure is not None:
        parts.append(_image(found.figure(), found.heading))
    parts += [_html_table(table) for table in found.tables]
    return "<div>" + "\n".join(parts) + "</div>"


def probability(value: float) -> str:
    """A probability as it is read: three decimals, and no 0 that is none."""
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def shaded(
    values: Float[np.ndarray, "token layer"], tokens: Sequence[str], subject_span: tuple[int, int] | None
) -> str:
    """A map in letters, one per layer: the darker, the larger; each row ends in its largest value and its layer."""
    finite = values[np.isfinite(values)]
    high = max(float(finite.max()), 0.0) if finite.size else 0.0
    labels = token_labels(tokens, subject_span)
    margin = min(24, max(cell_len(label) for label in labels))
    layers = values.shape[1]
    ruler = "".join(f"{layer:<5}" for layer in range(0, layers, 5))[:layers].ljust(layers)
    lines = [f"{'':{margin}}  {ruler}  largest at layer"]
    for label, row in zip(labels, values, strict=True):
        name = set_cell_size(label, margin) if cell_len(label) > margin else " " * (margin - cell_len(label)) + label
        cells = "".join(_shade(value, high) for value in row.tolist())
        largest = f"{number(float(np.nanmax(row))):>8} {int(np.nanargmax(row)):>8}" if np.isfinite(row).any() else ""
        lines.append(f"{name} |{cells}| {largest}".rstrip())
    lines.append(f"{'':{margin}}  '@' is {number(high)}, ' ' none; * subject, ? not there yet")
    return "\n".join(lines)


def _shade(value: float, high: float) -> str:
    if not np.isfinite(value):
        return "?"
    return SHADES[round((len(SHADES) - 1) * min(1.0, max(0.0, value / high)))] if high > 0 else SHADES[0]


def _image(figure: PaperFigure, alternative: str) -> str:
    data = base64.b64encode(figure.png(DPI)).decode()
    return (
        f'<img alt="{html.escape(alternative, quote=True)}" width="{figure.screen_width}"'
        f' style="max-width:100%;background:white" src="data:image/png;base64,{data}">'
    )


def _html_table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        align = "left" if column < table.left else "right"
        return f'<{tag} style="text-align:{align}">{html.escape(text)}</{tag}>'

    head = "".join(cell("th", i, text) for i, text in enumerate(table.header))
    body = "".join("<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>" for row in table.rows)
    title = f"<p>{html.escape(table.title)}</p>" if table.title else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text_table(table: Table) -> str:
    shown = RichTable(box=box.SIMPLE_HEAD, title=Text(table.title) if table.title else None, title_justify="left")
    for column, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if column < table.left else "right", no_wrap=column >= table.left)
    for row in table.rows:
        shown.add_row(*(Text(text) for text in row))
    text = io.StringIO()
    Console(file=text, width=TEXT_WIDTH, no_color=True, force_terminal=False, force_jupyter=False).print(shown)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
