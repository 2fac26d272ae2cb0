"""A description of a result, and its two forms: HTML with figures, and plain text."""

from __future__ import annotations

import base64
import io
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from interp.plots.heatmap import heatmap_text
from interp.plots.style import PaperFigure
from interp.results.token_map import TokenMap
from interp.system.readable import in_html, neutral

__all__ = ["Description", "Table", "as_html", "as_text", "describe", "shaded"]

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
    return "\n".join([*map(neutral, parts), *(_text_table(table) for table in found.tables)])


def as_html(result: Any) -> str:
    """A result in a notebook; needs nothing from a network."""
    found = describe(result)
    parts = [f"<p><b>{in_html(found.heading)}</b>", *(f"<br>{in_html(line)}" for line in found.lines), "</p>"]
    if found.figure is not None:
        parts.append(_image(found.figure(), found.heading))
    parts += [_html_table(table) for table in found.tables]
    return "<div>" + "\n".join(parts) + "</div>"


def shaded(shown: TokenMap) -> str:
    """A map in letters, as wide as the window: the darker, the larger (:mod:`interp.plots.text_map`)."""
    columns = shutil.get_terminal_size().columns
    return heatmap_text(shown, columns=columns, coloured=False).plain.rstrip("\n")


def _image(figure: PaperFigure, alternative: str) -> str:
    data = base64.b64encode(figure.png(DPI)).decode()
    return (
        f'<img alt="{in_html(alternative)}" width="{figure.screen_width}"'
        f' style="max-width:100%;background:white" src="data:image/png;base64,{data}">'
    )


def _html_table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        align = "left" if column < table.left else "right"
        return f'<{tag} style="text-align:{align}">{in_html(text)}</{tag}>'

    head = "".join(cell("th", i, text) for i, text in enumerate(table.header))
    body = "".join("<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>" for row in table.rows)
    title = f"<p>{in_html(table.title)}</p>" if table.title else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text_table(table: Table) -> str:
    shown = RichTable(
        box=box.SIMPLE_HEAD, title=Text(neutral(table.title)) if table.title else None, title_justify="left"
    )
    for column, cells in enumerate(zip(table.header, *table.rows, strict=True)):
        texts = [Text(neutral(cell)) for cell in cells]
        whole = column >= table.left  # numbers are neither broken nor cut
        shown.add_column(
            texts[0],
            justify="right" if whole else "left",
            no_wrap=whole,
            min_width=max(text.cell_len for text in texts) if whole else None,
        )
    for row in table.rows:
        shown.add_row(*(Text(neutral(text)) for text in row))
    text = io.StringIO()
    console = Console(file=text, width=TEXT_WIDTH, no_color=True, force_terminal=False, force_jupyter=False)
    least = console.measure(shown, options=console.options.update_width(sys.maxsize)).minimum
    console.width = max(TEXT_WIDTH, least)
    console.print(shown)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
