"""Table 1: what the edits did, by who chose the layers; as Markdown, LaTeX, HTML and CSV, the paper's rows below.

A column is a measure of :data:`~interp.evaluation.measures.MEASURES`, in that order, and every line looks its number up
by the measure's name: headings, units, rows, differences and the paper's rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from string import ascii_lowercase

from interp.editing.methods import editor_title
from interp.errors import OptionError
from interp.evaluation.measure import PERCENT, Measure
from interp.evaluation.measures import measure_named, measures
from interp.evaluation.protocols import PROTOCOLS
from interp.evaluation.summary import NOTHING, Comparison, TableRow
from interp.options import check_choice
from interp.plots.csv_text import csv_numbers, csv_text
from interp.plots.html_table import HTML_FORM, html_table
from interp.plots.paper_table import PAPER_TABLE1, PaperRow
from interp.plots.table_forms import LATEX_FORM, MARKDOWN_FORM, Form, latex_table, markdown_table
from interp.statistics.estimates import Interval
from interp.statistics.significance import SIGNIFICANT, holm

__all__ = ["PAPER_TABLE1", "PaperRow", "corrected", "table1_csv", "table1_html", "table1_latex", "table1_markdown"]

CSV_HEADER = (
    "kind", "located_by", "against", "editor", "layers", "protocol", "metric", "unit", "mean", "low95", "high95", "n",
    "n_cases", "n_took", "n_skipped", "p_holm",
)  # fmt: skip
ROW_HEADER = ("Located by", "Editor", "Layers")


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
    form, columns = MARKDOWN_FORM, measures()
    n_cases = _common_n(rows)
    parts = [form.bold(form.escape(title))] if title else []
    parts.append(_about(rows, n_cases, protocol, form))
    body, notes = _body(rows, columns, protocol, n_cases, form)
    parts.append(markdown_table((*ROW_HEADER, *_titles(columns, form)), [*body, *_paper_rows(columns, form)], left=3))
    if notes:
        parts.append("  \n".join(notes))
    scored = measures(by_protocol=True)
    others = _other_protocols(rows, scored, protocol, form)
    parts.append("The same edits under the other protocols:")
    parts.append(markdown_table((*ROW_HEADER, "Protocol", *_titles(scored, form)), others, left=4))
    for shown in dict.fromkeys(c.protocol for c in comparisons):
        compared = [c for c in comparisons if c.protocol == shown]
        named = _compared_columns(compared)
        parts.append(_about_differences(compared, shown, form))
        lines = _differences(compared, named, form)
        parts.append(markdown_table((*ROW_HEADER[:2], *_titles(named, form)), lines, left=2))
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
    form, columns = LATEX_FORM, measures()
    n_cases = _common_n(rows)
    body, notes = _body(rows, columns, protocol, n_cases, form)
    start = [form.escape(caption)] if caption else []
    tables = [
        latex_table(
            (*ROW_HEADER, *_titles(columns, form)),
            [body, _paper_rows(columns, form)],
            left=3,
            caption=" ".join((*start, _about(rows, n_cases, protocol, form))),
            label=label,
            notes=notes,
        )
    ]
    for shown in dict.fromkeys(c.protocol for c in comparisons):
        compared = [c for c in comparisons if c.protocol == shown]
        named = _compared_columns(compared)
        tables.append(
            latex_table(
                (*ROW_HEADER[:2], *_titles(named, form)),
                [_differences(compared, named, form)],
                left=2,
                caption=_about_differences(compared, shown, form),
                label=f"{label}-differences-{shown}",
                notes=[],
            )
        )
    return "\n".join(tables)


def table1_html(
    rows: Sequence[TableRow], comparisons: Sequence[Comparison] = (), *, protocol: str = "teacher-forced"
) -> str:
    """Table 1 as a part of a page, what :func:`table1_markdown` has; the other protocols are folded away.

    Raises:
        OptionError: If there are no rows, or the protocol is unknown.
    """
    _check(rows, protocol)
    form, columns = HTML_FORM, measures()
    n_cases = _common_n(rows)
    body, notes = _body(rows, columns, protocol, n_cases, form)
    table = html_table((*ROW_HEADER, *_titles(columns, form)), [body, _paper_rows(columns, form)], left=3)
    parts = [f"<p>{_about(rows, n_cases, protocol, form)}</p>", table]
    parts += [f'<p class="note">{note}</p>' for note in notes]
    scored = measures(by_protocol=True)
    others = html_table(
        (*ROW_HEADER, "Protocol", *_titles(scored, form)), [_other_protocols(rows, scored, protocol, form)], left=4
    )
    parts.append(f"<details><summary>The same edits under the other protocols</summary>\n{others}\n</details>")
    for shown in dict.fromkeys(c.protocol for c in comparisons):
        compared = [c for c in comparisons if c.protocol == shown]
        named = _compared_columns(compared)
        parts.append(f"<p>{_about_differences(compared, shown, form)}</p>")
        lines = _differences(compared, named, form)
        parts.append(html_table((*ROW_HEADER[:2], *_titles(named, form)), [lines], left=2))
    return "\n".join(parts)


def table1_csv(rows: Sequence[TableRow], comparisons: Sequence[Comparison] = ()) -> str:
    """All numbers, a line each: rows, comparisons and the paper's rows; cells of what was not measured are empty.

    Raises:
        OptionError: If there are no rows.
    """
    _check(rows)
    lines: list[tuple[object, ...]] = []
    for row in rows:
        head: tuple[object, ...] = ("row", row.locator, "", row.method, row.layers)
        took = "" if row.n_took is None else row.n_took
        tail: tuple[object, ...] = (row.n_cases, took, len(row.skipped), "")
        for protocol, scores in row.scores.items():
            for name, found in scores.items():
                unit = measure_named(name).unit
                lines.append((*head, protocol or "", name, unit.name, *csv_numbers(found), *tail))
    for shown in dict.fromkeys(c.protocol for c in comparisons):
        compared = [c for c in comparisons if c.protocol == shown]
        for comparison, p_values in zip(compared, corrected(compared), strict=True):
            head = ("difference", comparison.first, comparison.second, comparison.method, "")
            for name, found in comparison.differences.items():
                unit = measure_named(name).unit
                p = p_values.get(name, math.nan)
                tail = ("", "", "", "" if math.isnan(p) else repr(p))
                lines.append((*head, shown, name, unit.of_differences or unit.name, *csv_numbers(found), *tail))
    for printed in PAPER_TABLE1:
        head = ("paper", printed.locator, "", printed.method, printed.layers, "")
        for measure in (*measures(by_protocol=True), *measures(by_protocol=False)):
            if measure.name in printed.numbers:
                number = repr(printed.numbers[measure.name])
                lines.append((*head, measure.name, measure.unit.name, number, *[""] * 7))
    return csv_text(CSV_HEADER, lines)


def _check(rows: Sequence[TableRow], protocol: str = "teacher-forced") -> None:
    check_choice("protocol", protocol, tuple(PROTOCOLS))
    if not rows:
        raise OptionError("rows is empty; expected at least one row of Table 1")
    for name in (name for row in rows for scores in row.scores.values() for name in scores):
        measure_named(name)  # a number that has no column is not left out in silence


def _compared_columns(comparisons: Sequence[Comparison]) -> tuple[Measure, ...]:
    named = {measure_named(name).name for comparison in comparisons for name in comparison.differences}
    return tuple(measure for measure in measures() if measure.name in named)


def _titles(columns: Sequence[Measure], form: Form) -> tuple[str, ...]:
    return tuple(form.escape(measure.title) for measure in columns)


def _units(columns: Sequence[Measure], form: Form) -> list[str]:
    """What is not in percent."""
    named = {measure.name: measure.unit.name.replace(" x ", " × ") for measure in columns if measure.unit != PERCENT}
    return [f"{form.escape(name)} in {form.escape(unit)}" for name, unit in named.items()]


def _common_n(rows: Sequence[TableRow]) -> int | None:
    """How many cases every row rests on; None if they differ."""
    counts = {row.n_cases for row in rows}
    return counts.pop() if len(counts) == 1 else None


def _about(rows: Sequence[TableRow], n_cases: int | None, protocol: str, form: Form) -> str:
    over = f"over n = {n_cases} cases" if n_cases is not None else "over the n cases of each row"
    groups = [(under, scores) for row in rows for under, scores in row.scores.items()]
    groups.sort(key=lambda group: group[0] is not None)  # those of no protocol first
    without = _about_missing((found for _, scores in groups for found in scores.values()), form)
    columns = measures()
    about = [f"{form.escape(each.name)}: {form.escape(each.about)}" for each in columns if each.about]
    said = "; ".join(("", *about, *_units(columns, form), f"{form.dash}: not measured."))
    return (
        f"Scores in percent ({protocol}), mean [95{form.escape('%')} interval] {over}, or over fewer where a cell says"
        f" so{said}{without}"
    )


def _about_differences(comparisons: Sequence[Comparison], protocol: str, form: Form) -> str:
    tests = sum(not math.isnan(p) for comparison in comparisons for p in comparison.p_values.values())
    without = _about_missing((found for c in comparisons for found in c.differences.values()), form)
    units = "".join(f"; {unit}" for unit in _units(_compared_columns(comparisons), form))
    return (
        "Differences between locators (positive: the first is higher), paired by case, in percentage points"
        f" ({protocol}{units}), mean [95{form.escape('%')} interval, each for itself]; bold: p {form.escape('<')}"
        f" {SIGNIFICANT} in a paired permutation test, after Holm's correction for the {tests} differences of this"
        f" table.{without}"
    )


def _about_missing(found: Iterable[Interval], form: Form) -> str:
    """Why some of these have no interval."""
    why = dict.fromkeys(each.why for each in found if _has_no_interval(each) and each.why)
    return f" [{form.dash}]: no interval ({form.escape('; '.join(why))})." if why else ""


def _body(
    rows: Sequence[TableRow], columns: Sequence[Measure], protocol: str, n_cases: int | None, form: Form
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
                *(_cell(row.measured(measure.name, protocol), row.n_cases, form) for measure in columns),
            ]
        )
    return lines, [f"{form.note.format(mark)} {form.escape(text)}" for text, mark in marks.items()]


def _remarks(rows: Sequence[TableRow]) -> list[list[str]]:
    """What has to be said about each row."""
    same: dict[tuple[str, ...], list[str]] = {}
    keys = []
    for row in rows:
        numbers = [str(found) for scores in row.scores.values() for found in scores.values()]
        keys.append((row.method, row.layers, *numbers))
        same.setdefault(keys[-1], []).append(row.locator)
    remarks = []
    for row, key in zip(rows, keys, strict=True):
        each = []
        if row.method != "none" and len(same[key]) > 1:
            each.append(f"{' and '.join(same[key])}: same layers, same edits.")
        if row.n_took is not None and row.n_took < row.n_cases:
            each.append(f"The edit took in {row.n_took} of {row.n_cases} cases: there the new answer is on top.")
        if row.skipped:
            asked = row.n_cases + len(row.skipped)
            each.append(f"n = {row.n_cases} of {asked}; {len(row.skipped)} left out: {'; '.join(row.skipped)}.")
        remarks.append(each)
    return remarks


def _other_protocols(
    rows: Sequence[TableRow], columns: Sequence[Measure], protocol: str, form: Form
) -> list[list[str]]:
    """Each row under each protocol but this one."""
    return [
        [form.escape(row.locator), _editor(row.method, form), form.escape(row.layers), other]
        + [_cell(row.measured(measure.name, other), row.n_cases, form) for measure in columns]
        for row in rows
        for other in PROTOCOLS
        if other != protocol
    ]


def _paper_rows(columns: Sequence[Measure], form: Form) -> list[list[str]]:
    names = [measure.name for measure in columns]
    missing = [f"no {name}" for name in names if not any(name in row.numbers for row in PAPER_TABLE1)]
    about = ", ".join(("The paper: GPT2-XL, ZsRE; no intervals", *missing))
    lines = [[form.bold(form.escape(about)), *[""] * (len(names) + 2)]]
    for row in PAPER_TABLE1:
        cells = [f"{row.numbers[name]:.2f}" if name in row.numbers else form.dash for name in names]
        lines.append([f"Paper: {form.escape(row.locator)}", _editor(row.method, form), form.escape(row.layers), *cells])
    return lines


def corrected(comparisons: Sequence[Comparison]) -> list[dict[str, float]]:
    """Each comparison's p-values, corrected for the number of all of them."""
    named = [(i, name, p) for i, comparison in enumerate(comparisons) for name, p in comparison.p_values.items()]
    found: list[dict[str, float]] = [{} for _ in comparisons]
    for (i, name, _), p in zip(named, holm([p for *_, p in named]), strict=True):
        found[i][name] = p
    return found


def _differences(comparisons: Sequence[Comparison], columns: Sequence[Measure], form: Form) -> list[list[str]]:
    lines = []
    for comparison, p_values in zip(comparisons, corrected(comparisons), strict=True):
        n = max(found.n for found in comparison.differences.values())
        first, second = form.escape(comparison.first), form.escape(comparison.second)
        pair = f"{first} against{form.line}{second} (n = {n})"
        cells = []
        for measure in columns:
            cell = _cell(comparison.differences.get(measure.name, NOTHING), n, form)
            cells.append(form.bold(cell) if p_values.get(measure.name, 1.0) < SIGNIFICANT else cell)
        lines.append([pair, _editor(comparison.method, form), *cells])
    return lines


def _has_no_interval(found: Interval) -> bool:
    return not math.isnan(found.mean) and (math.isnan(found.low) or math.isnan(found.high))


def _cell(found: Interval, n_cases: int, form: Form) -> str:
    if math.isnan(found.mean):
        return form.dash
    mean, ends = str(found).replace("-", form.minus).split(" ", 1)
    if _has_no_interval(found):
        ends = f"[{form.dash}]"
    count = () if found.n == n_cases else (f"(n = {found.n})",)
    return form.line.join((mean, ends, *count))


def _editor(method: str, form: Form) -> str:
    return form.dash if method == "none" else form.escape(editor_title(method))
