"""The report as a page: one file without scripts that needs nothing else, to read on a screen, a phone and paper.

While a study is not finished the page loads itself again now and then. Whatever comes from users, files and models goes
through :func:`~interp.system.readable.in_html`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from interp.plots.averages import arranged
from interp.plots.html_table import html_table
from interp.plots.table1 import table1_html
from interp.report.contents import Contents, EditsPart, FactsPart
from interp.report.drawings import again_picture, figure1_picture, sweep_picture
from interp.report.findings import findings, missing
from interp.report.settings import settings_tables
from interp.statistics.intervals import MIN_PEAK, MIN_UNBOUNDED
from interp.study.edited import EditResults
from interp.system.readable import in_html, number

__all__ = ["Page", "report_html"]

REFRESH = 30
"""Seconds after which the page of an unfinished study is loaded again."""
MOST = 200
"""So many facts, or things that were left out, are named."""
ABOUT_FIGURE1 = (
    "Mean over the facts, by class of token and layer. A dot marks each row's largest mean, a bar the layers that"
    f" cannot be told from it (95%; of fewer than {MIN_PEAK} facts there is none); n counts the facts that have such a"
    " token."
)
ABOUT_PEAKS = (
    "Layer of the largest mean, in brackets the layers that cannot be told from it; below it the mean there with its"
    f" 95% interval over facts (of fewer than {MIN_UNBOUNDED} there is none), in the unit of its map."
)
STYLE = Path(__file__).with_name("report.css")


def report_html(contents: Contents) -> str:
    """The report of what a run folder holds.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> html = interp.report.report_html(interp.report.read_contents("located"))
        >>> "2 of 2 facts" in html
        True
    """
    return Page(contents).html()


class Page:
    """A page whose figures are drawn once; what it says of a study that runs can be said again and again.

    Args:
        contents: What it is about.
        earlier: A page of the same study; if its Figure 1 is of the same facts, it is taken as it is.
    """

    def __init__(self, contents: Contents, earlier: Page | None = None) -> None:
        self.contents, self._earlier = contents, earlier

    def html(self, status: str = "") -> str:
        """The page.

        Args:
            status: How far a study is that runs; nothing where nobody knows.
        """
        contents = self.contents
        model = (contents.located.settings.get("provenance") or {}).get("model", "a model")
        title = f"Where facts are in {_last_part(str(model))}"
        if contents.edits_follow:
            title += ", and where editing works"
        refresh = "" if contents.finished else f'<meta http-equiv="refresh" content="{REFRESH}">\n'
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{refresh}'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{in_html(title)}</title>\n<style>\n{STYLE.read_text('utf-8')}</style>\n</head>\n<body>\n<main>\n"
            f"<h1>{in_html(title)}</h1>\n{_standing(contents, status)}\n{self._body}\n</main>\n</body>\n</html>\n"
        )

    @cached_property
    def figure1(self) -> str:
        """The part with Figure 1."""
        earlier, self._earlier = self._earlier, None
        if earlier is not None and self._same_facts(earlier.contents):
            return earlier.figure1
        return "\n".join(_figure1(self.contents))

    def _same_facts(self, other: Contents) -> bool:
        here, there = self.contents.located, other.located
        same = len(here.averages) == len(there.averages) and here.finished == there.finished
        return same and all(a is b for a, b in zip(here.averages, there.averages, strict=True))

    @cached_property
    def _body(self) -> str:
        contents = self.contents
        parts = [_in_words(contents), self.figure1]
        if contents.edited is not None:
            parts += _edits(contents.edited)
        parts += [_left_out(contents), _what_ran(contents), _named(contents), _again(contents)]
        return "\n".join(part for part in parts if part)


def _standing(contents: Contents, status: str) -> str:
    """How many, since when, and what is missing."""
    part, edits = contents.located, contents.edited
    counts = []
    if part.n_expected is not None:
        counts.append(f"{part.n_located} of {part.n_expected} facts located")
    if edits is not None:
        counts.append(f"{edits.n_done} of {edits.n_units} edits of {len(edits.cases)} cases done")
    if contents.began is not None and contents.latest is not None:
        counts.append(f"begun {_date(contents.began)}, latest record {_date(contents.latest)}")
    lines = [f'<p class="counts">{in_html("; ".join(counts))}.</p>'] if counts else []
    if contents.finished:
        return "\n".join(lines)
    said = [f"<b>{in_html(status)}</b>"] if status else ["<b>This study is not finished.</b>"]
    said += [in_html(text) for text in missing(contents)]
    return "\n".join((*lines, f'<p class="standing">{" ".join(said)}</p>'))


def _in_words(contents: Contents) -> str:
    found = findings(contents)
    parts = []
    if found.shown:
        parts.append(f"<h2>What it shows{'' if contents.finished else ' so far'}</h2>\n{_list(found.shown)}")
    if found.shown and found.limits:
        parts.append(f"<h2>What it does not show</h2>\n{_list(found.limits)}")
    return "\n".join(parts)


def _figure1(contents: Contents) -> list[str]:
    part = contents.located
    if not part.averages:
        waited = (
            "it is drawn as soon as three facts are located" if part.n_expected != 0 else "no fact could be located"
        )
        return [f"<h2>Figure 1: where facts are found</h2>\n<p>Not yet: {waited}.</p>"]
    of = None if part.finished else part.n_expected
    return [
        f"<h2>Figure 1: where facts are found{_so_far(part)}</h2>",
        f"<figure>{figure1_picture(part.averages, of)}<figcaption>{ABOUT_FIGURE1}</figcaption></figure>",
        f"<h3>Where each row peaks</h3>\n<p>{ABOUT_PEAKS}</p>",
        _scrolled(_peaks(part)),
    ]


def _so_far(part: FactsPart) -> str:
    return "" if part.finished else f" (so far, {part.n_located} of {part.n_expected} facts)"


def _peaks(part: FactsPart) -> str:
    averages = [each for row in arranged(part.averages, 1) for each in row]
    lines = []
    for row, name in enumerate(averages[0].token_classes):
        cells = [f"{in_html(name)} (n\xa0=\xa0{averages[0].n_facts[row]})"]
        for each in averages:
            peak, low, high = each.peak[row], each.peak_low[row], each.peak_high[row]
            if peak < 0:
                cells.append("–")
                continue
            span = f"[{low}, {high}]" if low >= 0 else "[–]"
            ends = [float(values[row, peak]) for values in (each.low, each.high)]
            interval = f"[{number(ends[0])}, {number(ends[1])}]" if ends[0] == ends[0] else "[–]"
            mean = number(float(each.mean[row, peak]))
            cells.append(f'<b>{peak}</b> {span}<br><span class="quiet">{mean} {interval}</span>')
        lines.append(cells)
    header = ["Class of token", *(f"{in_html(each.title)}" for each in averages)]
    return html_table(header, [lines], left=1)


def _edits(part: EditsPart) -> list[str]:
    so_far = "" if part.finished else f" (so far, {part.n_done} of {part.n_units} edits)"
    found = [f"<h2>Table 1: what edits did, by who chose the layers{so_far}</h2>"]
    if part.results is None:
        return [*found, f"<p>Not yet: {part.n_begun} of {part.n_rows} rows have a case.</p>"]
    found.append(_scrolled(table1_html(part.results.rows, part.results.comparisons)))
    found += _sweep(part, part.results)
    if part.again is not None:
        found.append(
            f"<h2>One fact before and after its edit</h2>\n<figure>{again_picture(part.again)}<figcaption>The case"
            f" {in_html(part.again.case)}, edited by the first editor where the last locator points to: where the old"
            " answer was found, and where the new one is.</figcaption></figure>"
        )
    return found


def _sweep(part: EditsPart, results: EditResults) -> list[str]:
    """The layer sweep, from two layers on."""
    n = len(results.by_layer)
    if n < min(2, part.n_swept):
        return []
    so_far = "" if part.finished else f" (so far, {n} of {part.n_swept} layers)"
    return [
        f"<h2>Layer sweep: where an edit works{so_far}</h2>\n<figure>{sweep_picture(results)}<figcaption>Above what the"
        " first editor does at each layer, below how strongly each locator points there. Dashed: the layers that the"
        " locators chose.</figcaption></figure>"
    ]


def _left_out(contents: Contents) -> str:
    facts, cases = contents.located, contents.edited
    parts = []
    if facts.left_out:
        parts.append(f"<p>Facts that could not be located:</p>{_list(facts.left_out)}")
    if facts.unfit:
        parts.append(f"<p>Candidates that the model cannot read:</p>{_list(facts.unfit)}")
    if cases is not None and cases.left_out:
        parts.append(
            f"<p>Cases that could not be edited or evaluated, of all rows or of one:</p>{_list(cases.left_out)}"
        )
    return "\n".join((f"<h2>Left out</h2>{'' if parts else '<p>Nothing so far.</p>'}", *parts))


def _what_ran(contents: Contents) -> str:
    parts = ["<h2>What ran</h2>"]
    for title, rows in settings_tables(contents):
        lines = "".join(f"<dt>{in_html(name)}</dt><dd>{in_html(value)}</dd>" for name, value in rows)
        parts.append(f"<h3>{in_html(title)}</h3>\n<dl>{lines}</dl>")
    return "\n".join(parts)


def _named(contents: Contents) -> str:
    """The facts and the cases by name, folded away."""
    parts = []
    if contents.located.facts:
        facts = [f"{fact.prompt} → {fact.target or 'its top answer'}" for fact in contents.located.facts]
        parts.append(f"<details><summary>The {len(facts)} facts</summary>{_list(facts)}</details>")
    if contents.edited is not None:
        cases = contents.edited.cases
        parts.append(f"<details><summary>The {len(cases)} cases</summary>{_list(cases)}</details>")
    return "\n".join(parts)


def _again(contents: Contents) -> str:
    """How to draw it again."""
    name = in_html(contents.name)
    table = f", <code>interp table1 --from {name}</code> Table 1" if contents.edited is not None else ""
    return (
        f"<footer><p>Made by <code>interp</code> from the records in the folder {name} alone."
        f" <code>interp report {name}</code> makes it again, <code>interp figure1 --from {name}</code> draws Figure"
        f" 1{table}; no model is needed.</p></footer>"
    )


def _list(texts: Sequence[str]) -> str:
    shown = "".join(f"<li>{in_html(text)}</li>" for text in texts[:MOST])
    more = f"<li>and {len(texts) - MOST} more</li>" if len(texts) > MOST else ""
    return f"<ul>{shown}{more}</ul>"


def _scrolled(inner: str) -> str:
    """What may be wider than a phone."""
    return f'<div class="wide">{inner}</div>'


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _last_part(name: str) -> str:
    """A model's name without the folders that it lies in."""
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or name
