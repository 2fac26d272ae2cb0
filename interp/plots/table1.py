"""Table 1: what the edits did, by who chose the layers; as Markdown, LaTeX and CSV, the paper's rows below."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from string import ascii_lowercase

from interp.errors import OptionError
from interp.evaluation.protocol import METRICS, PROTOCOLS
from interp.evaluation.statistics import Interval
from interp.evaluation.summary import Comparison, TableRow
from interp.options import check_choice

__all__ = ["PAPER_TABLE1", "PaperRow", "csv_numbers", "csv_text", "table1_csv", "table1_latex", "table1_markdown"]

CSV_HEADER = (
    "kind", "located_by", "against", "editor", "layers", "protocol", "metric", "unit", "mean", "low95", "high95", "n",
    "n_cases", "n_converged",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of the paper's Table 1: scores in percent, fluency in bits x 100.

    Args:
        locator: What pointed to the layers.
        method: The editor.
        layers: Which layers, as text.
        reliability, locality, portability, fluency, score: As printed.
    """

    locator: str
    method: str
    layers: str
    reliability: float
    locality: float
    portability: float
    fluency: float
    score: float


PAPER_TABLE1 = (
    PaperRow(
        locator="Attribution score", method="rome", layers="1",
        reliability=65.58, locality=56.91, portability=27.23, fluency=493.46, score=43.14,
    ),
    PaperRow(
        locator="Attribution score", method="memit", layers="1-5",
        reliability=48.31, locality=87.98, portability=31.65, fluency=596.52, score=47.13,
    ),
    PaperRow(
        locator="Causal tracing", method="rome", layers="17",
        reliability=99.88, locality=67.83, portability=35.04, fluency=577.19, score=56.29,
    ),
    PaperRow(
        locator="Causal tracing", method="memit", layers="13-17",
        reliability=64.35, locality=81.89, portability=32.12, fluency=593.56, score=50.95,
    ),
)  # fmt: skip
"""GPT2-XL on ZsRE, from Table 1 of Chun & Hur, "Comparative Analysis of Techniques for Locating Knowledge Editing in
Language Models: Integrated Gradients vs. Causal Tracing"; the layers from its section 4. It prints neither intervals
nor the number of cases nor generality."""

COLUMNS = ("Reliability", "Generality", "Locality", "Portability", "Fluency", "Score")


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a language writes what the table needs.

    Args:
        escape: Plain text, shown unchanged.
        bold: Of a cell.
        note: Of a mark.
        line: What divides a mean from its interval: in LaTeX a line, as the table would not fit a page otherwise.
        minus, times, dash: The signs.
    """

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    note: str
    line: str
    minus: str
    times: str
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


MARKDOWN_FORM = _Form(
    escape=_markdown_text, bold="**{}**".format, note="<sup>{}</sup>", line=" ", minus="-", times="×", dash="–"
)
LATEX_FORM = _Form(
    escape=_latex_text, bold=_latex_bold, note=r"\textsuperscript{{{}}}", line="\n", minus="$-$", times=r"$\times$",
    dash="--",
)  # fmt: skip


def table1_markdown(
    rows: Sequence[TableRow],
    comparisons: Sequence[Comparison] = (),
    *,
    protocol: str = "teacher-forced",
    title: str = "",
) -> str:
    """Table 1, below it the other protocols and the locators compared.

    Args:
        rows: In the order to show.
        comparisons: Locators compared case by case.
        protocol: Of the first table.
        title: Heading; none if empty.

    Raises:
        OptionError: If there are no rows, or the protocol is unknown.
    """
    _check(rows, protocol)
    form = MARKDOWN_FORM
    n_cases = _common_n(rows)
    parts = [form.bold(form.escape(title))] if title else []
    parts.append(_about(n_cases, protocol, form))
    body, notes = _body(rows, protocol, n_cases, form)
    parts.append(_markdown_table(("Located by", "Editor", "Layers", *COLUMNS), [*body, *_paper_rows(form)], left=3))
    if notes:
        parts.append("  \n".join(notes))
    others = [
        [form.escape(row.locator), _editor(row.method, form), form.escape(row.layers), other]
        + [_cell(row.scores[other][name], row.n_cases, form) for name in (*METRICS, "score")]
        for row in rows
        for other in PROTOCOLS
        if other != protocol
    ]
    parts.append("The same edits under the other protocols:")
    header = ("Located by", "Editor", "Layers", "Protocol", *(name for name in COLUMNS if name != "Fluency"))
    parts.append(_markdown_table(header, others, left=4))
    for shown in dict.fromkeys(c.protocol for c in comparisons):
        parts.append(_about_differences(shown, form))
        lines = _differences([c for c in comparisons if c.protocol == shown], form)
        parts.append(_markdown_table(("Located by", "Editor", *COLUMNS[:-1]), lines, left=2))
    return "\n\n".join(parts) + "\n"


def table1_latex(
    rows: Sequence[TableRow],
    comparisons: Sequence[Comparison] = (),
    *,
    protocol: str = "teacher-forced",
    caption: str = "",
    label: str = "tab:edits",
) -> str:
    """Table 1 as a ``table*`` of LaTeX, the locators compared as a second one; they need the package ``booktabs``.

    Args:
        rows: In the order to show.
        comparisons: Locators compared case by case.
        protocol: Of the scores.
        caption: What comes first in the caption, as plain text.
        label: To refer to; those of comparisons end in ``-differences`` and the protocol.

    Raises:
        OptionError: If there are no rows, or the protocol is unknown.
    """
    _check(rows, protocol)
    form = LATEX_FORM
    n_cases = _common_n(rows)
    body, notes = _body(rows, protocol, n_cases, form)
    start = [form.escape(caption)] if caption else []
    tables = [
        _latex_table(
            ("Located by", "Editor", "Layers", *COLUMNS),
            [body, _paper_rows(form)],
            left=3,
            caption=" ".join((*start, _about(n_cases, protocol, form))),
            label=label,
            notes=notes,
        )
    ]
    for shown in dict.fromkeys(c.protocol for c in comparisons):
        tables.append(
            _latex_table(
                ("Located by", "Editor", *COLUMNS[:-1]),
                [_differences([c for c in comparisons if c.protocol == shown], form)],
                left=2,
                caption=_about_differences(shown, form),
                label=f"{label}-differences-{shown}",
                notes=[],
            )
        )
    return "\n".join(tables)


def table1_csv(rows: Sequence[TableRow], comparisons: Sequence[Comparison] = ()) -> str:
    """All numbers, a line each: rows, comparisons and the paper's rows; cells of what was not measured are empty.

    Raises:
        OptionError: If there are no rows.
    """
    _check(rows, PROTOCOLS[0])
    lines: list[tuple[object, ...]] = []
    for row in rows:
        head: tuple[object, ...] = ("row", row.locator, "", row.method, row.layers)
        tail: tuple[object, ...] = (row.n_cases, row.n_converged)
        for protocol, scores in row.scores.items():
            lines += [(*head, protocol, name, "percent", *csv_numbers(found), *tail) for name, found in scores.items()]
        lines.append((*head, "", "fluency", "bits x 100", *csv_numbers(row.fluency), *tail))
    for comparison in comparisons:
        head = ("difference", comparison.first, comparison.second, comparison.method, "")
        for name, found in comparison.differences.items():
            fluency = name == "fluency"  # does not depend on the protocol
            where = ("", name, "bits x 100") if fluency else (comparison.protocol, name, "percentage points")
            lines.append((*head, *where, *csv_numbers(found), "", ""))
    for printed in PAPER_TABLE1:
        head = ("paper", printed.locator, "", printed.method, printed.layers, "")
        for name in ("reliability", "locality", "portability", "score", "fluency"):
            unit = "bits x 100" if name == "fluency" else "percent"
            lines.append((*head, name, unit, repr(getattr(printed, name)), "", "", "", "", ""))
    return csv_text(CSV_HEADER, dict.fromkeys(lines))


def csv_text(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Lines as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def csv_numbers(found: Interval) -> tuple[object, ...]:
    """Mean, bounds and n as cells; NaN is an empty one."""
    ends = ("" if math.isnan(value) else repr(float(value)) for value in (found.mean, found.low, found.high))
    return (*ends, found.n)


def _check(rows: Sequence[TableRow], protocol: str) -> None:
    check_choice("protocol", protocol, PROTOCOLS)
    if not rows:
        raise OptionError("rows is empty; expected at least one row of Table 1")


def _common_n(rows: Sequence[TableRow]) -> int | None:
    """How many cases every row rests on; None if they differ."""
    counts = {row.n_cases for row in rows}
    return counts.pop() if len(counts) == 1 else None


def _about(n_cases: int | None, protocol: str, form: _Form) -> str:
    over = f"over n = {n_cases} cases" if n_cases is not None else "over the n cases of each row"
    return (
        f"Scores in percent ({protocol}), mean [95% bootstrap interval] {over}, or over fewer where a cell says so;"
        f" score: harmonic mean of reliability, locality and portability; fluency in bits {form.times} 100;"
        f" {form.dash}: not measured."
    ).replace("%", form.escape("%"))


def _about_differences(protocol: str, form: _Form) -> str:
    return (
        "Differences between locators (positive: the first is higher), paired by case, in percentage points"
        f" ({protocol}; fluency in bits {form.times} 100), mean [95% bootstrap interval]; bold: the interval excludes"
        " 0. The intervals are not corrected for their number."
    ).replace("%", form.escape("%"))


def _body(
    rows: Sequence[TableRow], protocol: str, n_cases: int | None, form: _Form
) -> tuple[list[list[str]], list[str]]:
    """Lines of the table, and the notes that they refer to by letters."""
    remarks = _remarks(rows)
    texts = list(dict.fromkeys(text for each in remarks for text in each))
    marks = {text: ascii_lowercase[i % 26] * (i // 26 + 1) for i, text in enumerate(texts)}
    lines = []
    for row, each in zip(rows, remarks, strict=True):
        count = f" (n = {row.n_cases})" if n_cases is None else ""
        noted = form.note.format(", ".join(marks[text] for text in each)) if each else ""
        lines.append(
            [
                form.escape(row.locator) + count,
                _editor(row.method, form) + noted,
                form.escape(row.layers),
                *(_cell(row.scores[protocol][name], row.n_cases, form) for name in METRICS),
                _cell(row.fluency, row.n_cases, form),
                _cell(row.scores[protocol]["score"], row.n_cases, form),
            ]
        )
    return lines, [f"{form.note.format(mark)} {form.escape(text)}" for text, mark in marks.items()]


def _remarks(rows: Sequence[TableRow]) -> list[list[str]]:
    """What has to be said about each row."""
    same: dict[tuple[str, ...], list[str]] = {}
    keys = []
    for row in rows:
        numbers = [str(found) for scores in row.scores.values() for found in scores.values()]
        keys.append((row.method, row.layers, str(row.fluency), *numbers))
        same.setdefault(keys[-1], []).append(row.locator)
    remarks = []
    for row, key in zip(rows, keys, strict=True):
        each = []
        if row.method != "none" and len(same[key]) > 1:
            each.append(f"{' and '.join(same[key])}: same layers, same edits.")
        if row.method != "none" and row.n_converged < row.n_cases:
            each.append(f"The edit's optimisation converged in {row.n_converged} of {row.n_cases} cases.")
        remarks.append(each)
    return remarks


def _paper_rows(form: _Form) -> list[list[str]]:
    about = "The paper: GPT2-XL, ZsRE; no intervals, no generality"
    lines = [[form.bold(form.escape(about)), *[""] * 8]]
    for row in PAPER_TABLE1:
        numbers = (row.reliability, None, row.locality, row.portability, row.fluency, row.score)
        cells = [form.dash if value is None else f"{value:.2f}" for value in numbers]
        lines.append([f"Paper: {form.escape(row.locator)}", _editor(row.method, form), form.escape(row.layers), *cells])
    return lines


def _differences(comparisons: Sequence[Comparison], form: _Form) -> list[list[str]]:
    lines = []
    for comparison in comparisons:
        n = max(found.n for found in comparison.differences.values())
        first, second = form.escape(comparison.first), form.escape(comparison.second)
        pair = f"{first} against{form.line}{second} (n = {n})"
        cells = []
        for name in (*METRICS, "fluency"):
            found = comparison.differences[name]
            cell = _cell(found, n, form)
            cells.append(form.bold(cell) if found.low > 0 or found.high < 0 else cell)
        lines.append([pair, _editor(comparison.method, form), *cells])
    return lines


def _cell(found: Interval, n_cases: int, form: _Form) -> str:
    if math.isnan(found.mean):
        return form.dash
    mean, ends = str(found).replace("-", form.minus).split(" ", 1)
    if math.isnan(found.low) or math.isnan(found.high):
        ends = f"[{form.dash}]"
    count = () if found.n == n_cases else (f"(n = {found.n})",)
    return form.line.join((mean, ends, *count))


def _editor(method: str, form: _Form) -> str:
    return form.dash if method == "none" else form.escape(method.upper())


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], *, left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def _latex_table(
    header: Sequence[str],
    blocks: Sequence[Sequence[Sequence[str]]],
    *,
    left: int,
    caption: str,
    label: str,
    notes: Sequence[str],
) -> str:
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
