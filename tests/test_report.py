"""The report of a study, and what is drawn while it runs: from records alone, so far and at the end."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
from transformer_lens import HookedTransformer

import interp.cli.early
import interp.study.work
import interp.system.files
from interp import plots
from interp.cli.early import Early
from interp.cli.progress import Advance, Watch
from interp.editing import Corpus
from interp.errors import DataError
from interp.evaluation.protocol import CaseEvaluation
from interp.evaluation.summary import Comparison, compare, table_row
from interp.facts.case_files import load_cases
from interp.facts.records import Fact
from interp.locate.class_average import ClassAverage, class_average
from interp.locate.methods import LOCATORS, locator_named
from interp.report import Contents, read_contents, report_html
from interp.report.findings import findings, missing
from interp.report.page import Page
from interp.results.run_folder import RunFolder
from interp.statistics.estimates import Interval
from interp.study.edited import read_edit_results
from interp.study.editing import edit_cases
from interp.study.left import editing_left, rows_begun
from interp.study.located import class_averages, count_located, located
from interp.study.locating import locate_facts
from interp.study.settings import EditStudySettings, LocateSettings
from tests.test_cli import CASES, MODEL, Call, cache, call, facts_file, refused, write_cases  # noqa: F401

LOCATING = LocateSettings(limit=5, samples=2, steps=2, noise=0.3)
EDITING = EditStudySettings(
    editors=("rome",), stride=1, context_kinds=((4, 2),), corpus=Corpus(tokens=2048), fluency_tokens=8, limit=None
)
FIVE = ("--limit", "5", "--samples", "2", "--steps", "2", "--noise", "0.3")
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;x\x07\u202e&"


@pytest.fixture(scope="module")
def finished(tiny: HookedTransformer, facts: list[Fact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole study, to be left as it is."""
    folder = tmp_path_factory.mktemp("study") / "run"
    cases = load_cases(write_cases(folder.parent / "cases.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_dir", lambda *_: str(folder.parent / "cache"))
        run = locate_facts(tiny, facts, folder, LOCATING)
        edit_cases(tiny, cases, class_averages(run), folder / "edits", EDITING, noise=0.3)
    return folder


@pytest.fixture(scope="module")
def contents(finished: Path) -> Contents:
    return read_contents(finished)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def remove(folder: Path, *patterns: str) -> list[str]:
    """Remove records as if they had not been made yet; their units."""
    paths = sorted({path for pattern in patterns for path in (folder / "records").glob(f"{pattern}.safetensors")})
    assert paths
    for path in paths:
        path.unlink()
    return [path.stem for path in paths]


class Tags(HTMLParser):
    """What a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


# the page


def test_a_finished_study_has_all_its_parts(contents: Contents) -> None:
    page = report_html(contents)
    tags = Tags(page)
    assert tags.open == []
    assert not any(attributes.get("http-equiv") for _, attributes in tags.tags)
    assert [sum(tag == name for tag, _ in tags.tags) for name in ("picture", "img", "script", "link")] == [3, 3, 0, 0]
    for tag, attributes in tags.tags:
        address = attributes.get("src") or attributes.get("srcset") or attributes.get("href")
        assert address is None or address.startswith("data:image/svg+xml;base64,"), tag
    assert len(page) < 1_500_000
    provenance = contents.located.settings["provenance"]
    for part in (
        "5 of 5 facts located",
        provenance["weights_hash"],
        "Where each row peaks",
        "Last subject token (n = 5)",
        "What it does not show",
        "Random layer (control)",
        "Differences between locators",
        "Layer sweep",
        "One fact before and after its edit",
        "Nothing so far.",
        "samples",
        contents.located.facts[0].prompt,
        "tower",
        "interp report run",
    ):
        assert part in tags.text, part
    assert "not finished" not in tags.text
    peaks = {each.method: each.peak[2] for each in contents.located.averages}
    assert f"largest at layer {peaks['mlp']} of the last subject token" in tags.text


def test_the_page_is_the_same_for_the_same_records(finished: Path, contents: Contents) -> None:
    assert report_html(read_contents(finished)) == report_html(contents)


def test_texts_of_users_reach_no_markup(contents: Contents) -> None:
    fact = Fact(template=f"{HOSTILE} {{}} is", subject="x", target=HOSTILE)
    settings = {
        **contents.located.settings,
        "facts": HOSTILE,
        "provenance": {"model": HOSTILE, "versions": {"a": HOSTILE}},
    }
    averages = [
        dataclasses.replace(
            each, title=HOSTILE, left_out=(HOSTILE,), provenance=dataclasses.replace(each.provenance, model=HOSTILE)
        )
        for each in contents.located.averages
    ]
    assert contents.edited is not None
    assert contents.edited.results is not None
    assert contents.edited.again is not None
    rows = tuple(
        dataclasses.replace(row, locator=HOSTILE, layers=HOSTILE, skipped=(HOSTILE,))
        for row in contents.edited.results.rows
    )
    hostile = dataclasses.replace(
        contents,
        name=HOSTILE,
        located=dataclasses.replace(
            contents.located,
            facts=(fact,),
            settings=settings,
            averages=tuple(averages),
            left_out=(HOSTILE,),
            unfit=(HOSTILE,),
        ),
        edited=dataclasses.replace(
            contents.edited,
            cases=(HOSTILE,),
            settings={"cases": HOSTILE, "chosen": {HOSTILE: 1}},
            left_out=(HOSTILE,),
            again=dataclasses.replace(contents.edited.again, case=HOSTILE),
            results=dataclasses.replace(contents.edited.results, rows=rows, comparisons=()),
        ),
    )
    page = Page(hostile).html(HOSTILE)
    tags = Tags(page)
    assert tags.open == []
    plain = Tags(report_html(contents))
    assert {tag for tag, _ in tags.tags} == {tag for tag, _ in plain.tags}
    assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)
    assert sum(tag == "img" for tag, _ in tags.tags) == 3
    assert not set("\x1b\x07\u202e") & set(page)
    assert "<script>alert(1)</script>" in tags.text  # as text


def test_an_unfinished_study_says_what_is_missing(copied: Path) -> None:
    remove(copied, "0004-*", "0003-attn")
    shutil.rmtree(copied / "edits")
    page = report_html(read_contents(copied))
    tags = Tags(page)
    refresh = [attributes for _, attributes in tags.tags if attributes.get("http-equiv") == "refresh"]
    assert [attributes["content"] for attributes in refresh] == ["30"]
    assert "3 of 5 facts are located." in tags.text
    assert "Figure 1: where facts are found (so far, 3 of 5 facts)" in tags.text
    assert "what it shows so far" in tags.text.lower()
    assert "who stops when the numbers look good cannot rely on them" in tags.text
    following = report_html(read_contents(copied, edits_follow=True))
    assert "Cases are edited when all facts are located" in Tags(following).text
    remove(copied, "0002-*")
    page = Tags(report_html(read_contents(copied))).text
    assert "2 of 5 facts are located." in page
    assert "Not yet: it is drawn as soon as three facts are located" in page
    (copied / "selection.json").unlink()
    assert "Which facts the model knows is being found out." in Tags(report_html(read_contents(copied))).text


def test_a_study_without_a_case_in_every_row_has_no_table_yet(copied: Path) -> None:
    remove(copied / "edits", "case-*")
    page = Tags(report_html(read_contents(copied))).text
    found = read_contents(copied).edited
    assert found is not None
    assert found.results is None
    assert f"0 of {found.n_rows} rows of Table 1 have a case" in page
    assert f"Not yet: 0 of {found.n_rows} rows have a case." in page


def test_figure_1_of_the_same_facts_is_drawn_once(contents: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    part = dataclasses.replace(contents.located, n_expected=6)
    contents = dataclasses.replace(contents, located=part)
    first = Page(contents)
    page = first.html("one")
    assert "one" in page

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("interp.report.page.figure1_picture", fail)
    assert first.html("one") == page
    assert first.html("two") != page
    assert Page(contents, first).html("one") == page
    others = dataclasses.replace(contents.located, averages=tuple(map(dataclasses.replace, contents.located.averages)))
    with pytest.raises(AssertionError):
        Page(dataclasses.replace(contents, located=others), first).html()


# the command


def test_the_command_draws_it_from_records(call: Call, finished: Path, copied: Path, contents: Contents) -> None:
    done = call("report", copied)
    assert (done.code, done.out) == (0, ""), done.err
    assert done.err.endswith(f"wrote {copied / 'report.html'}\n")
    assert (copied / "report.html").read_text("utf-8") == report_html(read_contents(copied))
    assert call("report", copied, "--out", "deep/page.html").code == 0
    assert Path("deep/page.html").read_bytes() == (copied / "report.html").read_bytes()
    shutil.rmtree(copied / "edits")
    assert call("report", copied).code == 0
    assert "Table 1" not in (copied / "report.html").read_text("utf-8")


def test_the_command_refuses_what_is_damaged_or_no_study(call: Call, copied: Path) -> None:
    refused(call("report", "nowhere"), "nowhere is not a run folder")
    refused(call("report", copied / "edits"), "holds the edits of a study: name the folder that it lies in")
    path = copied / "edits" / "records" / "case-rome-0-0000.safetensors"
    assert path.exists()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(call("report", copied), path.name)
    path.write_bytes(data)
    (copied / "selection.json").write_text("{", "utf-8")
    refused(call("report", copied), "selection.json")
    assert not (copied / "report.html").exists()


# so far


def test_facts_so_far_are_counted(copied: Path, tmp_path: Path) -> None:
    run = RunFolder(copied)
    assert count_located(run) == (5, 5)
    remove(copied, "0001-mlp")
    assert count_located(run) == (4, 5)
    (copied / "skipped").mkdir()
    (copied / "skipped" / "0001-mlp.json").write_text(json.dumps({"0001-mlp": "not finite"}), "utf-8")
    with pytest.warns(UserWarning, match="no hash"):
        assert count_located(run) == (4, 4)


def evaluations(run: RunFolder, *units: str) -> list[CaseEvaluation]:
    found = [run.read(CaseEvaluation, unit) for unit in units]
    assert all(found)
    return found  # type: ignore[return-value]


def test_rows_so_far_are_means_over_their_own_cases(copied: Path) -> None:
    run, averages = RunFolder(copied / "edits"), class_averages(RunFolder(copied))
    whole = read_edit_results(run, averages)
    assert whole.same_cases
    assert repr(read_edit_results(run, averages, so_far=True)) == repr(whole)
    chosen = json.loads((copied / "edits" / "run.json").read_text("utf-8"))["chosen"]
    at = f"case-rome-{chosen['attribution']}"
    plan = json.loads((copied / "edits" / "selection.json").read_text("utf-8"))
    used = {*chosen.values(), *(entry["rome"][0] for entry in plan["drawn"])}
    free = next(layer for layer in map(int, plan["swept"]) if layer not in used)
    remove(copied / "edits", f"{at}-0001", f"case-rome-{free}-*")
    with pytest.raises(DataError, match="the study is not finished"):
        read_edit_results(run, averages)
    found = read_edit_results(run, averages, so_far=True)
    row = found.rows[1]
    assert row.n_cases == 1
    kept = evaluations(run, f"{at}-0000")
    assert repr(row.scores) == repr(table_row(kept, locator=row.locator, layers=row.layers).scores)
    assert set(map(int, plan["swept"])) - set(found.by_layer) == {free}
    assert editing_left(run)
    remove(copied / "edits", f"{at}-*")
    begun, rows = rows_begun(run)
    assert begun < rows
    with pytest.raises(DataError, match="no case is finished yet"):
        read_edit_results(run, averages, so_far=True)


def test_rows_so_far_are_compared_over_the_cases_of_both(copied: Path) -> None:
    run, averages = RunFolder(copied / "edits"), class_averages(RunFolder(copied))
    plan = json.loads((copied / "edits" / "selection.json").read_text("utf-8"))
    drawn = [entry["rome"][0] for entry in plan["drawn"]]
    chosen = plan["chosen"]["mlp"]
    assert drawn[1] != chosen, "another seed is needed"
    remove(copied / "edits", f"case-rome-{drawn[1]}-0001")
    found = read_edit_results(run, averages, so_far=True)
    assert not found.same_cases
    (control,) = [
        each for each in found.comparisons if each.second.startswith("Random") and each.first == found.rows[2].locator
    ]
    pair = evaluations(run, f"case-rome-{chosen}-0000"), evaluations(run, f"case-rome-{drawn[0]}-0000")
    expected = compare(*pair, names=(control.first, control.second))
    assert repr(control) == repr(expected)
    remove(copied / "edits", f"case-rome-{chosen}-0000")
    if drawn[0] != chosen:
        found = read_edit_results(run, averages, so_far=True)
        assert control.first not in {each.first for each in found.comparisons if each.second == control.second}
    text = " ".join(missing(read_contents(copied)))
    assert "not yet on the same ones" in text


# what is said


def average(
    method: str, peak: int, low: int, high: int, n: int = 12, interval: tuple[float, float] = (0.1, 0.9)
) -> ClassAverage:
    mean = torch.zeros(6, 30)
    ends = [torch.full((6, 30), end) for end in interval]
    provenance = interp.results.record.Provenance(
        model="m", weights_hash="0", dtype="float32", device="cpu", versions={}
    )
    return ClassAverage(
        provenance=provenance, method=method, title=f"map of {method}", unit="u", token_classes=tuple("abcdef"),
        mean=mean, low=ends[0], high=ends[1], peak=(peak,) * 6, peak_low=(low,) * 6, peak_high=(high,) * 6,
        n_facts=(n,) * 6, n_tokens=(n,) * 6,
    )  # fmt: skip


def said(contents: Contents, *averages: ClassAverage) -> tuple[str, str]:
    part = dataclasses.replace(contents.located, averages=averages)
    found = findings(dataclasses.replace(contents, located=part, edited=None))
    return "\n".join(found.shown), "\n".join(found.limits)


def test_layers_are_told_apart_by_their_spans_alone(contents: Contents) -> None:
    shown, _ = said(contents, average("attribution", 1, 0, 5), average("mlp", 9, 5, 12))
    assert "map of attribution: largest at layer 1 of the last subject token; layers 0 to 5 cannot be told" in shown
    assert "that two of them point to different layers is not shown" in shown
    shown, _ = said(contents, average("attribution", 1, 0, 4), average("mlp", 9, 5, 12))
    assert "do not overlap, at the last subject token: map of attribution and map of mlp." in shown
    assert "is not shown" not in shown
    nan = (math.nan, math.nan)
    shown, limits = said(contents, average("attribution", 1, -1, -1, 3, nan), average("mlp", 9, -1, -1, 3, nan))
    assert "of 3 facts, fewer than 5, nothing says which other layers it could be" in shown
    assert "overlap" not in shown
    assert "Of fewer than 12 facts no mean of Figure 1 has an interval" in limits
    shown, limits = said(contents, average("mlp", 9, 2, 20, interval=(-0.1, 0.4)))
    assert "it may be nothing" in shown
    assert "A span of more than half of the layers hardly says where a fact is: map of mlp." in limits


def comparison(first: str, second: str, mean: float, p: float) -> Comparison:
    names = ("reliability", "generality", "locality", "portability", "fluency", "score")
    found = Interval(mean=mean, low=mean - 5, high=mean + 5, n=40)
    return Comparison(
        method="rome", first=first, second=second, protocol="teacher-forced", differences=dict.fromkeys(names, found),
        p_values=dict.fromkeys(names, p),
    )  # fmt: skip


def edited(contents: Contents, comparisons: list[Comparison], layers: dict[str, str]) -> Contents:
    assert contents.edited is not None
    assert contents.edited.results is not None
    results = contents.edited.results
    rows = tuple(dataclasses.replace(results.rows[1], locator=name, layers=at) for name, at in layers.items())
    results = dataclasses.replace(results, rows=rows, comparisons=tuple(comparisons))
    return dataclasses.replace(
        contents, edited=dataclasses.replace(contents.edited, results=results, control="control")
    )


def test_a_difference_holds_after_holms_correction_alone(contents: Contents) -> None:
    pairs = [comparison("a", "b", 3, 0.4), comparison("a", "control", 20, 0.0001), comparison("b", "control", 6, 0.01)]
    found = findings(edited(contents, pairs, {"a": "1", "b": "2", "control": "1 random"}))
    shown, limits = "\n".join(found.shown), "\n".join(found.limits)
    assert "6 of 18 differences between rows of Table 1 hold after Holm's correction" in shown
    assert (
        "a against b with ROME (n = 40): no difference is shown; score +3.0 [−2.0,\xa08.0] percentage points." in shown
    )
    assert "a against control with ROME (n = 40): reliability +20.0 [15.0,\xa025.0]" in shown
    assert "b against control with ROME (n = 40): that locating is better than drawing layers at random is not" in shown
    assert "intervals of differences in the score reach up to 5 points to either side" in limits
    same = findings(edited(contents, pairs[:1], {"a": "1", "b": "1"}))
    assert any(
        "a against b with ROME (n = 40): both edit layers 1, so there is nothing to compare." in s for s in same.shown
    )


# while it runs


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at every step, and let drawing take any time."""
    monkeypatch.setattr(interp.cli.early, "LOOK", 0.0)
    monkeypatch.setattr(interp.cli.early, "SHARE", math.inf)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    """Ctrl-C when a unit's record is to be kept."""
    put = RunFolder.put

    def interrupted(run: RunFolder, name: str, record: Any) -> None:
        if name == unit:
            raise KeyboardInterrupt
        put(run, name, record)

    monkeypatch.setattr(RunFolder, "put", interrupted)


@pytest.mark.usefixtures("eager")
def test_figure_1_is_drawn_when_three_facts_are_located(
    call: Call, facts_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ("figure1", *MODEL, "--facts", facts_file, *FIVE, "--out", "run")
    with monkeypatch.context() as patch:
        interrupt_at(patch, "0003-attribution")
        done = call(*command)
    assert done.code == 130
    assert "report: run/report.html; open it in a browser, it follows the study" in done.err
    assert "so far 3 of 5 facts: wrote run/figures/figure1.svg" in done.err
    figures = Path("run/figures")
    assert {path.name for path in figures.iterdir()} == {"figure1.svg", "figure1.html"}
    alone = [
        class_average(
            [locator_named(name).averaged(fact.records[name]) for fact in facts], [f.records[name] for f in facts]
        )
        for facts in [located(RunFolder(Path("run")))]
        for name in LOCATORS
    ]
    assert [max(each.n_facts) for each in alone] == [3] * len(LOCATORS)
    (expected,) = plots.save_figure(plots.figure1(alone, of=5), tmp_path / "three", ("svg",))
    assert (figures / "figure1.svg").read_bytes() == expected.read_bytes()
    assert "so far 3 of 5 facts" in expected.read_text("utf-8")
    assert "so far 3 of 5 facts" in (figures / "figure1.html").read_text("utf-8")
    assert "so far, 3 of 5 facts" in Path("run/report.html").read_text("utf-8")

    assert call(*command).code == 0
    monkeypatch.setattr(interp.cli.early, "LOOK", math.inf)
    assert call(*command[:-1], "never").code == 0
    names = {path.name for path in figures.iterdir()}
    assert names == {f"figure1.{ending}" for ending in ("pdf", "svg", "png", "html", "csv")}
    for name in names:
        assert (figures / name).read_bytes() == (Path("never/figures") / name).read_bytes()
    page = Path("run/report.html").read_text("utf-8")
    assert "so far" not in page.lower().replace("nothing so far", "")


@pytest.mark.usefixtures("eager")
def test_table_1_is_drawn_when_every_row_has_a_case(
    call: Call, facts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interp.study.work, "GROUP", 1)
    monkeypatch.setattr(interp.study.work, "BUNDLE", 1)
    written: list[str] = []
    write = interp.system.files.write_atomically

    def noted(path: Path, data: bytes, **options: Any) -> bool:
        if path.name == "table1.md":
            written.append(data.decode())
        return write(path, data, **options)

    monkeypatch.setattr(interp.system.files, "write_atomically", noted)
    cases = write_cases(Path("cases.json"))
    small = ("--editors", "rome", "--stride", "1", "--fluency-tokens", "4", "--corpus-tokens", "2048")
    done = call("study", *MODEL, "--facts", facts_file, "--cases", cases, "--limit", "3", "--out", "run", *small)
    assert done.code == 0, done.err
    assert "(part 1 of 2)" in done.err
    assert "(part 2 of 2)" in done.err
    assert written
    assert all(text.startswith("**So far: ") for text in written)
    assert "edits: wrote run/figures/table1.md" in done.err
    final = Path("run/figures/table1.md").read_text("utf-8")
    run = RunFolder(Path("run"))
    found = read_edit_results(RunFolder(Path("run/edits")), class_averages(run))
    assert final == plots.table1_markdown(found.rows, found.comparisons)
    assert done.err.splitlines()[-2:] == ["wrote run/report.html", "records: run"]
    assert Path("run/report.html").read_text("utf-8") == report_html(read_contents("run"))


def test_drawing_takes_a_small_share_of_the_time(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn again only when there is a quarter more, and when all drawing stays within its share."""
    now, drawn = [0.0], []
    early = Early(finished, tmp_path, edits_follow=False)
    located_so_far = iter([2, 3, 3, 4, 5, 6, 7, 8, 20])
    monkeypatch.setattr("interp.cli.early.time.monotonic", lambda: now[0])
    module = sys.modules["interp.study.located"]
    monkeypatch.setattr(module, "count_located", lambda run: (next(located_so_far), 20))
    monkeypatch.setattr(module, "class_averages", lambda run: [])
    monkeypatch.setattr("interp.plots.figure1", lambda *_, **__: None)
    monkeypatch.setattr("interp.plots.figure1_html", lambda *_, **__: "")

    def save(*_: Any) -> None:
        now[0] += 3.0
        drawn.append(now[0])

    monkeypatch.setattr("interp.plots.save_figure", save)
    monkeypatch.setattr(Early, "_take", lambda self: None)
    monkeypatch.setattr(Early, "_write", lambda self: None)
    early._began = 0.0
    for seconds in (10, 100, 150, 200, 290, 310, 340, 400, 900):
        now[0] = float(seconds)
        early._facts(0, 20)
    # 3 facts at 100 s; 4 would be a quarter more, but six seconds are a fiftieth of 300 s only; 8 come too early again
    assert drawn == [103.0, 313.0]


def test_what_cannot_be_drawn_yet_stops_no_study(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that is damaged is computed again when its turn comes; until then it may be in the way."""
    monkeypatch.setattr(interp.cli.early, "LOOK", 0.0)
    path = copied / "records" / "0001-mlp.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    remove(copied, "0004-*")
    seen: list[str] = []
    advance = Advance(Watch(), lambda text, at_work: seen.append(text), "units")
    watched = Early(copied, tmp_path / "figures", edits_follow=False).locating(advance)
    with caplog.at_level(logging.WARNING):
        for done in (0, 1, 2):
            watched(done, 20, f"fact {done}")
    assert seen == ["fact 0", "fact 1", "fact 2"]
    (warning,) = [record.getMessage() for record in caplog.records if "not drawn yet" in record.getMessage()]
    assert "0001-mlp" in warning
    assert not (tmp_path / "figures").exists()
