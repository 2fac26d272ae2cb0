"""How Markdown and LaTeX write a table of plain texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from interp.errors import OptionError

__all__ = ["LATEX_FORM", "MARKDOWN_FORM", "Form", "latex_table", "markdown_table"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a language writes what the table needs.

    Args:
        escape: Plain text, shown unchanged.
        bold: Of a cell.
        note: Of a mark.
        line: What divides a mean from its interval: in LaTeX a line, as the table would not fit a page otherwise.
        minus, dash: The signs.
    """

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    note: str
    line: str
    minus: str
    dash: str


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~$#])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "−": "$-$", "×": r"$\times$", "[": "{[}", "]": "{]}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _latex_text(text: str) -> str:
    escaped = "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return re.sub(r"(?<=\d)-(?=\d)", "--", escaped)


def _latex_bold(cell: str) -> str:
    return "\n".join(rf"\textbf{{{line}}}" for line in cell.split("\n"))


MARKDOWN_FORM = Form(escape=_markdown_text, bold="**{}**".format, note="<sup>{}</sup>", line=" ", minus="-", dash="–")
LATEX_FORM = Form(
    escape=_latex_text, bold=_latex_bold, note=r"\textsuperscript{{{}}}", line="\n", minus="$-$", dash="--",
)  # fmt: skip


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], *, left: int) -> str:
    """A table whose first ``left`` columns hold text, the others numbers.

    Raises:
        OptionError: If a line has not as many cells as the header.
    """
    _check_cells(header, lines)
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def latex_table(
    header: Sequence[str],
    blocks: Sequence[Sequence[Sequence[str]]],
    *,
    left: int,
    caption: str,
    label: str,
    notes: Sequence[str],
) -> str:
    """A ``table*`` of blocks with rules between them; a line with one cell that says anything is a heading.

    Raises:
        OptionError: If a line has not as many cells as the header.
    """
    for block in blocks:
        _check_cells(header, block)
    text = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(header) - left)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
    ]
    for block in blocks:
        text.append(r"\midrule")
        for cells in block:
            if any(cells[1:]):
                each = zip_longest(*(cell.split("\n") for cell in cells), fillvalue="")
                text += [" & ".join(line) + r" \\" for line in each]
            else:  # a heading within the table
                text.append(rf"\multicolumn{{{len(cells)}}}{{l}}{{{cells[0]}}} \\")
    text += [r"\bottomrule", r"\end{tabular}"]
    if notes:
        text += ["", r"\smallskip", r" \\ ".join(notes)]
    return "\n".join((*text, r"\end{table*}", ""))


def _check_cells(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    for line in lines:
        if len(line) != len(header):
            raise OptionError(
                f"the line {line[0]!r} has {len(line)} cells; expected {len(header)}: {', '.join(header)}"
            )
