"""Table 1, the figure of edited layers and the maps before and after an edit, from made-up results."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure

from interp import plots
from interp.errors import OptionError
from interp.evaluation.averaging import MEAN_OF_SHARES
from interp.evaluation.measure import PERCENT, Measure
from interp.evaluation.measures import MEASURES
from interp.evaluation.metrics import harmonic_mean
from interp.evaluation.protocols import PROTOCOLS
from interp.evaluation.summary import Comparison, TableRow
from interp.results.token_map import TokenMap
from interp.statistics.estimates import Interval
from interp.study.edited import Strength
from tests.token_maps import a_map

NAN = math.nan
UNMEASURED = Interval(mean=NAN, low=NAN, high=NAN, n=0)
TOKENS = ("<|endoftext|>", "The", " Space", " Need", "le", " is", " in", " $x$", "中")


def around(mean: float, n: int = 12) -> Interval:
    return Interval(mean=mean, low=mean - 4.25, high=mean + 3.5, n=n)


def table_row(locator: str, method: str = "rome", layers: str = "2", base: float = 50.0, **changes: object) -> TableRow:
    names = ("reliability", "generality", "locality", "portability", "score")
    scores = {
        protocol: {name: around(base + 10 * p + m) for m, name in enumerate(names)}
        for p, protocol in enumerate(PROTOCOLS)
    }
    scores[None] = {"fluency": around(563.0)}
    scores["teacher-forced"]["generality"] = around(base + 1, n=9)
    scores["probability"] |= {"portability": UNMEASURED, "score": UNMEASURED}
    row = TableRow(locator=locator, method=method, layers=layers, n_cases=12, n_took=12, scores=scores)
    return dataclasses.replace(row, **changes)


@pytest.fixture
def rows() -> list[TableRow]:
    return [
        table_row("Before any edit", "none", "-", base=5, n_took=None),
        table_row("Attribution score"),
        table_row("Attribution score", "memit", "2-6", base=40, n_took=9),
        table_row("Causal tracing"),
        table_row("Random_layer | 5% & $x$", "memit", "random", base=30, n_took=9),
    ]


@pytest.fixture
def comparisons() -> list[Comparison]:
    differences = {
        "reliability": Interval(mean=10.0, low=0.04, high=20.0, n=12),
        "generality": Interval(mean=-8.0, low=-12.0, high=-0.5, n=9),
        "locality": Interval(mean=1.0, low=-0.04, high=2.0, n=12),
        "portability": UNMEASURED,
        "fluency": Interval(mean=0.0, low=-1.0, high=1.0, n=12),
        "score": Interval(mean=4.0, low=0.5, high=8.0, n=12),
    }
    p_values = {
        "reliability": 0.001, "generality": 0.002, "locality": 0.3, "portability": NAN, "fluency": 1.0, "score": 0.01,
    }  # fmt: skip
    names = {"method": "rome", "first": "Causal tracing", "second": "Attribution score"}
    return [
        Comparison(**names, protocol=protocol, differences=differences, p_values=p_values)
        for protocol in list(PROTOCOLS)[:2]
    ]


def markdown_tables(text: str) -> list[list[list[str]]]:
    tables = []
    for block in text.split("\n\n"):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines() if line.startswith("|")]
        if lines:
            tables.append([[cell.strip() for cell in line] for line in lines])
    return tables


def latex_lines(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]
        for line in text.splitlines()
        if line.endswith(r"\\")
    ]


def test_papers_rows(golden: Path) -> None:
    printed = json.loads((golden / "paper_table1.json").read_text("utf-8"))
    assert len(plots.PAPER_TABLE1) == len(printed)
    for row in plots.PAPER_TABLE1:
        expected = printed[f"{row.locator} / {row.method.upper()}"]
        for name in ("reliability", "locality", "portability", "fluency"):
            assert row.numbers[name] == expected[name]
        assert row.numbers["score"] == expected["score_printed"]
        mean = harmonic_mean([row.numbers[name] for name in ("reliability", "locality", "portability")])
        assert row.numbers["score"] == pytest.approx(mean, abs=0.011)


def test_html_has_the_cells_of_markdown(rows: list[TableRow], comparisons: list[Comparison]) -> None:
    page = plots.table1_html(rows, comparisons)

    def text(cell: str) -> str:
        return html.unescape(re.sub(r"<[^>]+>", "", cell.replace("<br>", " ")))

    found = [
        [[text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)] for line in table.split("<tr>")[1:]]
        for table in re.findall(r"<table>(.*?)</table>", page, re.DOTALL)
    ]
    written = []
    for header, _, *lines in markdown_tables(plots.table1_markdown(rows, comparisons)):
        plain = [[text(re.sub(r"\\(.)", r"\1", cell.replace("**", ""))) for cell in line] for line in (header, *lines)]
        written.append([[cell for cell in line if any(line[1:]) or cell] for line in plain])
    signs = [[[cell.replace("−", "-") for cell in line] for line in table] for table in found]
    assert signs == written
    assert "<b>10.0<br>[0.0, 20.0]</b>" in page  # as bold as in the other forms
    hostile = dataclasses.replace(rows[1], locator="<b>&", layers="<i>")
    page = plots.table1_html([hostile])
    assert "<td>&lt;b&gt;&amp;</td>" in page
    assert "<i>" not in page
    with pytest.raises(OptionError, match="rows is empty"):
        plots.table1_html([])


def test_markdown(rows: list[TableRow], comparisons: list[Comparison]) -> None:
    text = plots.table1_markdown(rows, comparisons, title="A*B")
    assert text.startswith("**A\\*B**\n\nScores in percent (teacher-forced)")
    assert "over n = 12 cases" in text
    assert text.endswith("|\n")
    assert "nan" not in text
    first, others, *differences = markdown_tables(text)
    for table in (first, others, *differences):
        assert len({len(line) for line in table}) == 1
    header, _, before, attribution, memit, tracing, control, paper, *printed = first
    assert header[:3] == ["Located by", "Editor", "Layers"]
    assert header[3:] == ["Reliability", "Generality", "Locality", "Portability", "Fluency", "Score"]
    assert before[:3] == ["Before any edit", "–", "-"]
    assert attribution == [
        "Attribution score", "ROME<sup>a</sup>", "2", "50.0 [45.8, 53.5]", "51.0 [46.8, 54.5] (n = 9)",
        "52.0 [47.8, 55.5]", "53.0 [48.8, 56.5]", "563.0 [558.8, 566.5]", "54.0 [49.8, 57.5]",
    ]  # fmt: skip
    assert [line[1] for line in (memit, tracing, control)] == [
        "MEMIT<sup>b</sup>", "ROME<sup>a</sup>", "MEMIT<sup>b</sup>",
    ]  # fmt: skip
    assert tracing[2:] == attribution[2:]
    assert control[0] == r"Random\_layer \| 5% & \$x\$"
    assert paper[0] == "**The paper: GPT2-XL, ZsRE; no intervals, no generality**"
    assert printed[0] == ["Paper: Attribution score", "ROME", "1", "65.58", "–", "56.91", "27.23", "493.46", "43.14"]
    assert [line[2] for line in printed] == ["1", "1-5", "17", "13-17"]
    assert "<sup>a</sup> Attribution score and Causal tracing: same layers, same edits." in text
    assert "<sup>b</sup> The edit took in 9 of 12 cases: there the new answer is on top." in text
    assert "0 of 12" not in text  # before any edit, nothing was to take
    assert [line[3] for line in others[2:]] == ["probability", "exact-match"] * 5
    assert others[4][4:] == ["60.0 [55.8, 63.5]", "61.0 [56.8, 64.5]", "62.0 [57.8, 65.5]", "–", "–"]
    assert len(differences) == 2
    assert differences[0][2] == [
        "Causal tracing against Attribution score (n = 12)", "ROME", "**10.0 [0.0, 20.0]**",
        "**-8.0 [-12.0, -0.5] (n = 9)**", "1.0 [0.0, 2.0]", "–", "0.0 [-1.0, 1.0]", "**4.0 [0.5, 8.0]**",
    ]  # fmt: skip
    assert "after Holm's correction for the 5 differences of this table" in text


def test_markdown_of_another_protocol(rows: list[TableRow]) -> None:
    text = plots.table1_markdown(rows[1:2], protocol="probability")
    first, others = markdown_tables(text)
    assert first[2][-1] == "–"
    assert [line[3] for line in others[2:]] == ["teacher-forced", "exact-match"]
    assert text.startswith("Scores in percent (probability)")


def test_what_is_not_defined_is_a_dash() -> None:
    row = table_row("Causal tracing", n_cases=1, n_took=1)
    row.scores["teacher-forced"]["locality"] = Interval(mean=40.0, low=NAN, high=NAN, n=1)
    row.scores["teacher-forced"]["portability"] = UNMEASURED
    line = markdown_tables(plots.table1_markdown([row]))[0][2]
    assert line[5:7] == ["40.0 [–]", "–"]


def test_different_numbers_of_cases_stand_in_the_rows() -> None:
    text = plots.table1_markdown([table_row("One"), table_row("Other", n_cases=9, n_took=9)])
    assert [line[0] for line in markdown_tables(text)[0][2:4]] == ["One (n = 12)", "Other (n = 9)"]
    assert "over the n cases of each row" in text


def test_same_layers_with_different_numbers_are_not_the_same_edits() -> None:
    text = plots.table1_markdown([table_row("One", layers="random"), table_row("Other", layers="random", base=20)])
    assert "same layers" not in text


def test_latex(rows: list[TableRow], comparisons: list[Comparison]) -> None:
    text = plots.table1_latex(rows, comparisons, caption="50% of A_B\\C~^{x}", label="tab:x")
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 3
    for command in (r"\toprule", r"\bottomrule", r"\begin{tabular}", r"\end{tabular}", r"\caption{", r"\centering"):
        assert text.count(command) == 3
    assert r"\caption{50\% of A\_B\textbackslash{}C\textasciitilde{}\textasciicircum{}\{x\} Scores" in text
    assert r"\label{tab:x}" in text
    assert r"\label{tab:x-differences-probability}" in text
    assert text.isascii()
    assert not re.search(r"(?<!\\)[%#_]", text)
    lines = latex_lines(text)
    start = next(i for i, line in enumerate(lines) if line[0] == "Attribution score")
    assert lines[start] == [
        "Attribution score", r"ROME\textsuperscript{a}", "2", "50.0", "51.0", "52.0", "53.0", "563.0", "54.0",
    ]  # fmt: skip
    assert lines[start + 1][3:6] == ["[45.8, 53.5]", "[46.8, 54.5]", "[47.8, 55.5]"]
    assert lines[start + 2] == ["", "", "", "", "(n = 9)", "", "", "", ""]
    assert lines[start + 3][2] == "2--6"
    names = [line[0] for line in lines]
    assert r"Random\_layer \textbar{} 5\% \& \$x\$" in names
    assert r"\multicolumn{9}{l}{\textbf{The paper: GPT2-XL, ZsRE; no intervals, no generality}}" in names
    assert ["Paper: Causal tracing", "MEMIT", "13--17", "64.35", "--", "81.89", "32.12", "593.56", "50.95"] in lines
    against = lines[names.index("Causal tracing against") :][:3]
    assert against[0][2:] == [r"\textbf{10.0}", r"\textbf{$-$8.0}", "1.0", "--", "0.0", r"\textbf{4.0}"]
    assert against[1][0] == "Attribution score (n = 12)"
    assert against[1][3] == r"\textbf{[$-$12.0, $-$0.5]}"
    assert against[2][3] == r"\textbf{(n = 9)}"
    assert r"\textsuperscript{b} The edit took in 9 of 12 cases: there the new answer is on top." in text


def test_csv(rows: list[TableRow], comparisons: list[Comparison]) -> None:
    lines = list(csv.DictReader(io.StringIO(plots.table1_csv(rows, comparisons))))
    by_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in ("row", "difference", "paper")}
    assert sum(map(len, by_kind.values())) == len(lines)
    assert len(by_kind["row"]) == 5 * (3 * 5 + 1)
    assert len(by_kind["difference"]) == 2 * 6
    assert [line["p_holm"] for line in by_kind["difference"]][:6] == ["0.005", "0.008", "0.6", "", "1.0", "0.03"]
    assert len(by_kind["paper"]) == 4 * 5
    found = iter(by_kind["row"])
    for row in rows:
        for protocol, scores in row.scores.items():
            for name, interval in scores.items():
                check_line(next(found), interval, locator=row.locator, protocol=protocol or "", metric=name)
    assert {(line["n_cases"], line["n_took"]) for line in by_kind["row"]} == {
        ("12", ""), ("12", "9"), ("12", "12"),
    }  # fmt: skip
    first = by_kind["difference"][0]
    assert (first["located_by"], first["against"], first["unit"]) == (
        "Causal tracing", "Attribution score", "percentage points",
    )  # fmt: skip
    assert by_kind["paper"][0]["mean"] == "65.58"
    assert all(line["low95"] == line["n"] == "" for line in by_kind["paper"])


def check_line(line: dict[str, str], interval: Interval, *, locator: str, protocol: str, metric: str) -> None:
    assert (line["located_by"], line["protocol"], line["metric"]) == (locator, protocol, metric)
    for column, value in (("mean", interval.mean), ("low95", interval.low), ("high95", interval.high)):
        assert (line[column] == "") == math.isnan(value)
        assert line[column] == "" or float(line[column]) == value
    assert int(line["n"]) == interval.n


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
    st.lists(st.floats(0, 100) | st.just(NAN), min_size=3, max_size=3),
)
def test_any_name_and_number(name: str, numbers: list[float]) -> None:
    mean, low, high = numbers
    row = table_row(name)
    row.scores["teacher-forced"]["reliability"] = Interval(mean=mean, low=low, high=high, n=12)
    table = markdown_tables(plots.table1_markdown([row]))[0]
    assert {len(line) for line in table} == {9}
    assert re.fullmatch(r"–|[\d.]+ \[(–|[\d.]+, [\d.]+)\]", table[2][3])
    assert {len(line) for line in latex_lines(plots.table1_latex([row])) if len(line) > 1} == {9}
    line = next(csv.DictReader(io.StringIO(plots.table1_csv([row]))))
    assert line["located_by"] == name
    check_line(
        line, Interval(mean=mean, low=low, high=high, n=12), locator=name, protocol="teacher-forced",
        metric="reliability",
    )  # fmt: skip


def cells_by_heading(table: list[list[str]], line: int) -> dict[str, str]:
    return dict(zip(table[0], table[line], strict=True))


SPECIFICITY = Measure(
    name="specificity", title="Specificity", unit=PERCENT, value=lambda said: None, average=MEAN_OF_SHARES
)


def test_another_measure_gets_a_column_everywhere(
    rows: list[TableRow], comparisons: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line has as many cells as its header, and every number stands under its own heading."""
    monkeypatch.setitem(MEASURES, "specificity", SPECIFICITY)
    for row in rows[1:]:  # the first has not been asked
        for protocol in PROTOCOLS:
            row.scores[protocol]["specificity"] = around(7.0)
    for comparison in comparisons:
        comparison.differences["specificity"] = around(3.0)
    first, others, *differences = markdown_tables(plots.table1_markdown(rows, comparisons))
    for table in (first, others, *differences):
        assert {len(line) for line in table} == {len(table[0])}
    assert first[0][3:] == ["Reliability", "Generality", "Locality", "Portability", "Fluency", "Score", "Specificity"]
    assert cells_by_heading(first, 2)["Specificity"] == "–"
    for line, row in enumerate(rows[1:], start=3):
        found = cells_by_heading(first, line)
        assert found["Specificity"] == "7.0 [2.8, 10.5]"
        assert found["Score"].startswith(f"{row.scores['teacher-forced']['score'].mean:.1f} ")
        assert found["Fluency"].startswith("563.0")
    printed = cells_by_heading(first, len(first) - 1)
    assert (printed["Specificity"], printed["Fluency"], printed["Score"]) == ("–", "593.56", "50.95")
    assert cells_by_heading(others, 4)["Specificity"] == "7.0 [2.8, 10.5]"
    assert cells_by_heading(differences[0], 2)["Specificity"] == "3.0 [-1.2, 6.5]"
    text = plots.table1_latex(rows, comparisons)
    for columns, block in zip((10, 9, 9), text.split(r"\begin{tabular}")[1:], strict=True):
        assert {len(line) for line in latex_lines(block.split(r"\end{tabular}")[0]) if len(line) > 1} == {columns}
    lines = list(csv.DictReader(io.StringIO(plots.table1_csv(rows, comparisons))))
    assert all(None not in line and None not in line.values() for line in lines)
    named = [line for line in lines if line["metric"] == "specificity"]
    assert {line["mean"] for line in named} == {"7.0", "3.0"}


def test_cases_that_were_left_out_are_counted_and_named() -> None:
    row = table_row("Causal tracing", n_cases=11, n_took=11, skipped=("case japan: the loss is not finite",))
    whole = table_row("Attribution score")
    text = plots.table1_markdown([whole, row])
    assert "n = 11 of 12; 1 left out: case japan: the loss is not finite." in text
    assert [line[0] for line in markdown_tables(text)[0][2:4]] == [
        "Attribution score (n = 12)",
        "Causal tracing (n = 11)",
    ]
    assert "1 left out: case japan" in plots.table1_latex([whole, row])
    lines = list(csv.DictReader(io.StringIO(plots.table1_csv([whole, row]))))
    assert {(line["located_by"], line["n_skipped"]) for line in lines if line["kind"] == "row"} == {
        ("Attribution score", "0"), ("Causal tracing", "1"),
    }  # fmt: skip


def test_why_there_is_no_interval_is_said() -> None:
    few = Interval(mean=36.8, low=NAN, high=NAN, n=1, why="fewer than 5 cases")
    row = table_row("Causal tracing", n_cases=1, n_took=1)
    for scores in row.scores.values():
        scores |= dict.fromkeys(scores, few)
    text = plots.table1_markdown([row])
    assert "[–]: no interval (fewer than 5 cases)." in text
    assert "36.8 [–]" in text
    assert "36.8 [36.8, 36.8]" not in text


def test_only_differences_that_survive_holms_correction_are_bold(comparisons: list[Comparison]) -> None:
    """An interval that excludes 0 is no mark by itself."""
    weak = dataclasses.replace(comparisons[0], p_values={**comparisons[0].p_values, "generality": 0.02})
    table = markdown_tables(plots.table1_markdown([table_row("One")], [weak] * 3))[2]
    found = cells_by_heading(table, 2)
    assert found["Generality"] == "-8.0 [-12.0, -0.5] (n = 9)"
    assert found["Reliability"].startswith("**")


def test_a_number_that_has_no_column_is_refused(rows: list[TableRow], comparisons: list[Comparison]) -> None:
    comparisons[0].differences["specificity"] = around(3.0)
    for function in (plots.table1_markdown, plots.table1_latex, plots.table1_csv):
        with pytest.raises(OptionError, match=r"measure must be one of 'reliability', .* got 'specificity'"):
            function(rows, comparisons)
    rows[1].scores[None]["localty"] = around(3.0)
    for function in (plots.table1_markdown, plots.table1_latex, plots.table1_csv):
        with pytest.raises(OptionError, match="did you mean 'locality'"):
            function(rows)


def test_bad_tables(rows: list[TableRow]) -> None:
    for function in (plots.table1_markdown, plots.table1_latex, plots.table1_csv):
        with pytest.raises(OptionError, match="rows is empty"):
            function([])
    for function in (plots.table1_markdown, plots.table1_latex):
        with pytest.raises(OptionError, match=r"protocol must be one of .* got 'forced'"):
            function(rows, protocol="forced")


def sweep(layers: range) -> dict[int, TableRow]:
    return {layer: table_row("Layer sweep", layers=str(layer), base=20.0 + layer) for layer in layers}


def strength(
    locator: str, *, n_layers: int = 30, chosen: int = 2, rho: float = 0.421, title: str | None = None
) -> Strength:
    mean = np.exp(-np.arange(n_layers) / 8)
    return Strength(
        locator=locator,
        title=title or locator,
        unit="mean over neurons × 10,000" if locator.startswith("Attr") else "indirect effect on P(answer)",
        mean=tuple(mean.tolist()),
        low=tuple((mean - 0.125).tolist()),
        high=tuple((mean + 0.25).tolist()),
        chosen=chosen,
        correlation=Interval(mean=rho, low=NAN, high=NAN, n=10, why="no sample"),
    )


@pytest.fixture
def strengths() -> list[Strength]:
    tracing = strength("Causal tracing", chosen=5, title="Causal tracing: MLP output (window of 10)")
    return [strength("Attribution score", rho=-0.118), tracing]


def check_nothing_is_cut_off(figure: Figure) -> None:
    figure.draw_without_rendering()
    renderer = figure._get_renderer()
    for artist in (*figure.axes, *figure.texts, *figure.legends):
        box = artist.get_tightbbox(renderer)
        assert box.x0 >= -0.5
        assert box.y0 >= -0.5
        assert box.x1 <= figure.bbox.x1 + 0.5
        assert box.y1 <= figure.bbox.y1 + 0.5
    boxes = [artist.get_tightbbox(renderer) for artist in (*figure.axes, *figure.legends)]
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 + 0.5 or other.y1 <= one.y0 + 0.5
            assert apart


def check_files(figure: Figure, folder: Path) -> str:
    pdf, svg, png = plots.save_figure(figure, folder / "figure", dpi=50)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.read_bytes().startswith(b"\x89PNG")
    return svg.read_text("utf-8")


@pytest.mark.parametrize("width", plots.WIDTHS)
@pytest.mark.parametrize("step", [1, 3, 29])
def test_scores_by_layer_fits(width: str, step: int, strengths: list[Strength]) -> None:
    figure = plots.scores_by_layer(sweep(range(0, 30, step)), strengths, width=width)
    assert figure.get_size_inches()[0] == plots.WIDTHS[width]
    check_nothing_is_cut_off(figure)


def test_scores_by_layer(strengths: list[Strength], tmp_path: Path) -> None:
    by_layer = sweep(range(0, 30, 3))
    figure = plots.scores_by_layer(by_layer, strengths)
    upper, attribution, tracing = figure.axes
    assert upper.get_title(loc="left") == (
        "ROME at each layer: edit score and its parts (teacher-forced, n = 12 cases)"
    )
    assert "ρ = −0.12, n = 10 layers; no interval: the layers are no sample" in " ".join(
        attribution.get_title(loc="left").split()
    )
    assert "ρ = 0.42, n = 10 layers; no interval" in " ".join(tracing.get_title(loc="left").split())
    assert tracing.get_title(loc="left").startswith("Causal tracing: MLP output (window of 10), last subject token;")
    assert "10,000" in attribution.get_ylabel()
    for axes in figure.axes:
        marks = [line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1]
        assert marks[:2] == [2, 5]
        assert axes.get_xlim() == upper.get_xlim()
        assert axes.get_xticks()[0] == 0
    series = [line for line in upper.get_lines() if len(line.get_xdata()) == 10]
    bars = [c for c in upper.collections if isinstance(c, LineCollection)]
    assert len(series) == len(bars) == 4
    names = ("score", "reliability", "locality", "portability")
    for line, bar, name in zip(series, bars, names, strict=True):
        found = [by_layer[layer].scores["teacher-forced"][name] for layer in sorted(by_layer)]
        assert line.get_ydata() == pytest.approx([f.mean for f in found])
        ends = [(segment[0][1], segment[1][1]) for segment in bar.get_segments()]
        assert ends == [(f.low, f.high) for f in found]
        assert max(abs(line.get_xdata() - np.array(sorted(by_layer)))) < 0.75
    assert series[0].get_xdata() == pytest.approx(sorted(by_layer))  # the score stands at its layer
    curve, dots = [line for line in tracing.get_lines() if len(line.get_xdata()) > 2]
    assert curve.get_ydata() == pytest.approx(strengths[1].mean)
    assert list(dots.get_xdata()) == sorted(by_layer)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == [
        "Edit score", "Reliability", "Locality", "Portability", "chosen by Attribution score: layer 2",
        "chosen by Causal tracing: layer 5", "bars and bands: 95% intervals",
    ]  # fmt: skip
    assert "Portability" in check_files(figure, tmp_path)


def test_scores_by_layer_without_numbers(strengths: list[Strength], tmp_path: Path) -> None:
    undefined = Interval(mean=NAN, low=NAN, high=NAN, n=1)
    one = dataclasses.replace(strengths[0], correlation=undefined)
    row = table_row("Layer sweep", n_cases=9)
    row.scores["teacher-forced"]["portability"] = UNMEASURED
    figure = plots.scores_by_layer({3: row, 6: table_row("Layer sweep")}, [one])
    assert "correlation with the edit score: undefined, n = 1 layer" in figure.axes[1].get_title(loc="left")
    assert "n = 9 to 12 cases" in figure.axes[0].get_title(loc="left")
    check_files(figure, tmp_path)
    check_nothing_is_cut_off(plots.scores_by_layer({3: row}, []))


def test_scores_by_layer_csv(strengths: list[Strength]) -> None:
    by_layer = sweep(range(0, 30, 3))
    lines = list(csv.DictReader(io.StringIO(plots.scores_by_layer_csv(by_layer, strengths))))
    edits = [line for line in lines if line["kind"] == "edit"]
    assert len(edits) == 10 * (3 * 5 + 1)
    for line in edits:
        row = by_layer[int(line["layer"])]
        found = row.scores[line["protocol"] or None][line["metric"]]
        assert line["mean"] == ("" if math.isnan(found.mean) else repr(found.mean))
        assert line["n"] == str(found.n)
    by_locator = {s.locator: s for s in strengths}
    measured = [line for line in lines if line["kind"] == "strength"]
    assert len(measured) == 60
    for line in measured:
        source, layer = by_locator[line["name"]], int(line["layer"])
        numbers = tuple(float(line[name]) for name in ("mean", "low95", "high95"))
        assert numbers == (source.mean[layer], source.low[layer], source.high[layer])
        assert line["chosen"] == str(int(layer == source.chosen))
    assert [(line["name"], line["mean"], line["n"]) for line in lines if line["kind"] == "correlation"] == [
        ("Attribution score", "-0.118", "10"), ("Causal tracing", "0.421", "10"),
    ]  # fmt: skip


def test_bad_layers(strengths: list[Strength]) -> None:
    for function in (plots.scores_by_layer, plots.scores_by_layer_csv):
        with pytest.raises(OptionError, match="by_layer is empty"):
            function({}, strengths)
        with pytest.raises(OptionError, match="by one method, got memit, rome"):
            function({0: table_row("a"), 1: table_row("a", "memit")}, strengths)
        with pytest.raises(OptionError, match="strength of short has 4 values; expected one for each of 30 layers"):
            function(sweep(range(3)), [*strengths, strength("short", n_layers=4)])
    with pytest.raises(OptionError, match="width must be one of"):
        plots.scores_by_layer(sweep(range(3)), strengths, width="wide")


def panel(
    locator: str = "resid",
    title: str = "Causal tracing: Residual stream (one layer)",
    span: tuple[int, int] | None = (2, 5),
) -> tuple[TokenMap, TokenMap]:
    generator = torch.Generator().manual_seed(0)
    before, after = (
        a_map(
            size * torch.rand(len(TOKENS), 30, generator=generator),
            TOKENS,
            span,
            locator=locator,
            title=title,
            unit="indirect effect on P(answer)",
            answer=answer,
            probability=probability,
        )
        for size, answer, probability in ((0.5, " Seattle", 0.7312), (2.0, " $中$", 0.0002))
    )
    return before, after


@pytest.mark.parametrize("width", plots.WIDTHS)
def test_before_after_fits(width: str) -> None:
    figure = plots.before_after([panel(), panel("attribution", "Attribution score")], width=width)
    assert figure.get_size_inches()[0] == plots.WIDTHS[width]
    check_nothing_is_cut_off(figure)


def test_before_after(tmp_path: Path) -> None:
    panels = [panel(), panel("attribution", "Attribution score")]
    figure = plots.before_after(panels)
    maps = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in maps] == [
        "Before the edit: “Seattle”, P = 0.731", "After the edit: “\\$\\u4e2d\\$”, P < 0.001",
    ] * 2  # fmt: skip
    assert len(figure.axes) == 6  # each row with one colour bar
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in maps]
    assert labels[0] == ["<|endoftext|>", "The", "Space*", "Need*", "le*", "is", "in", r"\$x\$", r"\u4e2d"]
    assert labels[1] == []
    for row, given_panel in enumerate(panels):
        meshes = [c for axes in maps[2 * row : 2 * row + 2] for c in axes.collections if isinstance(c, QuadMesh)]
        assert meshes[0].get_clim() == meshes[1].get_clim()
        assert meshes[0].get_clim()[1] == pytest.approx(float(given_panel[1].values.max()))
        assert {mesh.get_cmap().name for mesh in meshes} == {f"hue-{given_panel[0].hue:g}"}
        for mesh, shown in zip(meshes, given_panel, strict=True):
            np.testing.assert_array_equal(np.asarray(mesh.get_array()), shown.values.double().numpy())
    svg = check_files(figure, tmp_path)
    assert "* subject" in svg
    assert "Attribution score" in svg


def test_before_after_in_a_column_has_every_label() -> None:
    figure = plots.before_after([panel()], width="column")
    assert len(figure.axes) == 4  # each map with its colour bar
    unmarked = panel(span=None)
    assert not any(text.get_text() == "* subject" for text in plots.before_after([unmarked]).texts)


def test_bad_panels() -> None:
    with pytest.raises(OptionError, match="panels is empty"):
        plots.before_after([])
    with pytest.raises(OptionError, match="before and after the edit are over different tokens"):
        plots.before_after([(panel()[0], panel(span=None)[1])])
    with pytest.raises(OptionError, match="width must be one of"):
        plots.before_after([panel()], width="wide")


def test_dollar_signs_are_no_formula(tmp_path: Path) -> None:
    figure = plots.heatmap(a_map(torch.rand(1, 3), ["$\\u$"], title="from $\\u to $\\v", unit="probability"))
    check_nothing_is_cut_off(figure)
    assert "from $\\u to $\\v" in check_files(figure, tmp_path)
