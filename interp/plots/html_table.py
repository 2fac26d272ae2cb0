"""How a page writes a table."""

from __future__ import annotations

from collections.abc import Sequence

from interp.plots.table_forms import Form
from interp.system.readable import in_html

__all__ = ["HTML_FORM", "html_table"]

HTML_FORM = Form(
    escape=in_html, bold="<b>{}</b>".format, note="<sup>{}</sup>", line="<br>", minus="−", dash="–",
)  # fmt: skip


def html_table(header: Sequence[str], blocks: Sequence[Sequence[Sequence[str]]], *, left: int) -> str:
    """A table of blocks; a line with one cell that says anything is a heading within it.

    Args:
        header, blocks: Cells that are HTML already.
        left: How many columns, from the first, hold text; the others hold numbers.

    Raises:
        ValueError: If a line has not as many cells as the header.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = ["" if column < left else ' class="number"' for column in range(len(header))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    text = ["<table>", f"<thead><tr>{line('th', header)}</tr></thead>"]
    for block in blocks:
        text.append("<tbody>")
        for cells in block:
            filled = line("td", cells) if any(cells[1:]) else f'<td colspan="{len(header)}">{cells[0]}</td>'
            text.append(f"<tr>{filled}</tr>")
        text.append("</tbody>")
    return "\n".join((*text, "</table>"))
