"""Shards: several processes, each with a share of a study, leave the bytes that one would have left."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

import interp.study.work
from interp.editing import Corpus
from interp.errors import DataError, NumericalError, OptionError
from interp.facts.records import EditCase, EditRequest, Fact
from interp.locate.methods import LOCATORS
from interp.results import merge_runs
from interp.results.record import Record, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study import Shard, editing_left, locating_left
from interp.study.again import relocated
from interp.study.bundles import bundles, own_bundles
from interp.study.editing import edit_cases
from interp.study.located import Selection
from interp.study.locating import locate_facts
from interp.study.settings import EditStudySettings, LocateSettings
from tests.test_cli import CASES, MODEL, Call, cache, call, refused  # noqa: F401
from tests.test_documentation import undrawn  # noqa: F401
from tests.test_edit_study import AVERAGES

LOCATING = LocateSettings(limit=2, samples=1, window=2, steps=1, noise=0.3)
EDITING = EditStudySettings(stride=3, context_kinds=((2, 1),), corpus=Corpus(tokens=1024), fluency_tokens=4, limit=None)


def case(name: str, template: str, subject: str, new: str) -> EditCase:
    return EditCase(id=name, request=EditRequest(Fact(template=template, subject=subject), new_target=new))


TO_EDIT = [
    case("too long", "The capital of {}" + " and so on" * 30 + " is", "Japan", " Rome"),
    case("cannot be asked", "The capital of {} is", "Norway", " Rome"),
    case("cannot be edited by memit", "{} is famous for playing", "Lionel Messi", " tennis"),
    case("tower", "The {} is located in the city of", "Eiffel Tower", " Rome"),
    case("japan", "The capital of {} is", "Japan", " Rome"),
    case("parthenon", "Visitors of the {} travel to", "Parthenon", " Rome"),
]
"""One of each kind that is left out: before anything is computed, of everything, and of one editor."""

Do = Callable[..., RunFolder]


@dataclass(frozen=True)
class Part:
    """One part of a study: to do it in a folder, or a shard of it; what one process makes of it; what is left."""

    do: Do
    whole: RunFolder
    left: Callable[[RunFolder], list[str]]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files but the report, which says when they were written."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name != "report.html"
    }


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own; bundles so small that there are several, edits that are soon done, and two that fail."""
    place = str(tmp_path_factory.mktemp("cache"))
    work = interp.study.work
    at, ask, edit_each = work.config_at, work.ask, work.edit_each

    def asked(model: Any, cases: Sequence[EditCase], *args: Any, **options: Any) -> Any:
        if any(case.id == "cannot be asked" for case in cases):
            raise NumericalError("the model returned NaN")
        return ask(model, cases, *args, **options)

    def edited(model: Any, requests: Sequence[EditRequest], *, method: str, **options: Any) -> Any:
        if method == "memit" and any(request.fact.subject == "Lionel Messi" for request in requests):
            raise NumericalError("the loss is not finite")
        return edit_each(model, requests, method=method, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_dir", lambda *_: place)
        patch.setattr(work, "GROUP", 3)
        patch.setattr(work, "BUNDLE", 5)
        patch.setattr(work, "config_at", lambda *args: replace(at(*args), steps=2))
        patch.setattr(work, "ask", asked)
        patch.setattr(work, "edit_each", edited)
        yield


@pytest.fixture(scope="module")
def locating(tiny: HookedTransformer, facts: list[Fact], tmp_path_factory: pytest.TempPathFactory) -> Part:
    def do(folder: Path, shard: Shard | None = None, **options: Any) -> RunFolder:
        return locate_facts(tiny, facts, folder, LOCATING, shard=shard, **options)

    return Part(do, do(tmp_path_factory.mktemp("located") / "run"), locating_left)


@pytest.fixture(scope="module")
def editing(tiny: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Part:
    def do(folder: Path, shard: Shard | None = None, **options: Any) -> RunFolder:
        return edit_cases(tiny, TO_EDIT, AVERAGES, folder, EDITING, noise=0.3, shard=shard, **options)

    return Part(do, do(tmp_path_factory.mktemp("edited") / "run"), editing_left)


@pytest.fixture(params=["locating", "editing"])
def part(request: pytest.FixtureRequest) -> Part:
    """Each part in turn."""
    return request.getfixturevalue(request.param)


# what belongs to which shard


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(0, 60))
def test_shares_are_a_partition(count: int, n: int) -> None:
    shards = [Shard(index, count) for index in range(1, count + 1)]
    shares = [shard.share(range(n)) for shard in shards]
    assert sorted(chain(*shares)) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for shard, share in zip(shards, shares, strict=True):
        assert share == [place for place in range(n) if shard.owns(place)]
        assert sorted(shard.in_turn(range(n))) == list(range(n))
    assert len({tuple(shard.in_turn(range(n)))[:1] for shard in shards}) == min(n, count) or n == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, len(LOCATORS)), st.integers(1, 6))
def test_every_fact_is_located_by_every_locator_once(count: int, n_facts: int, n_locators: int, together: int) -> None:
    fact = Fact(template="{} is", subject="x")
    locators = tuple(LOCATORS)[:n_locators]
    chosen = Selection(facts=(fact,) * n_facts, locators=locators, noise=0.1, together=together)
    shares = [own_bundles(chosen, Shard(index, count)) for index in range(1, count + 1)]
    assert sorted(chain(*shares)) == sorted(bundles(chosen))
    assert own_bundles(chosen, Shard(1, 1)) == bundles(chosen)
    assert sorted(chain(*bundles(chosen))) == sorted(product(range(n_facts), locators))
    first = next(units for units in bundles(chosen) if locators[-1] in {name for _, name in units})
    assert len({index for index, _ in first}) == min(3, together, n_facts)
    for locator in chosen.locators:  # they take different times
        each = [Counter(name for _, name in chain(*share))[locator] for share in shares]
        assert max(each) - min(each) <= 2 * together


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1/0", "4", "1/", "/4", "1:4", "a/b", "-1/4", "1/4/2", "1.0/4", "", "٣/٤"]
)
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(OptionError, match="shard must be I/N with I from 1 to N, such as 1/4, got "):
        Shard.parse(text)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("numbers", [(0, 4), (5, 4), (1, 0), (1.5, 4), (True, 1), ("1", 4)])
def test_numbers_that_are_no_shard(numbers: tuple[Any, Any]) -> None:
    with pytest.raises(OptionError, match="shard: "):
        Shard(*numbers)


def test_a_shard_as_it_is_typed() -> None:
    assert Shard.parse("3/8") == Shard.parse(" 03/8 ") == Shard(3, 8)
    assert str(Shard(3, 8)) == "3/8"


# the same bytes


ORDER = (3, 1, 4, 1, 2)
"""One of them twice; the last is killed and started again."""


def do_one(part: Part, folder: Path, index: int) -> RunFolder:
    if index != 2:
        return part.do(folder, Shard(index, 4))
    calls = iter(range(10**6))

    def progress(*_: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.do(folder, Shard(2, 4), progress=progress)
    assert part.left(RunFolder(folder))
    return part.do(folder, Shard(2, 4))


def test_shards_in_one_folder(part: Part, tmp_path: Path) -> None:
    for index in ORDER[:-1]:
        run = do_one(part, tmp_path, index)
        assert bytes_of(tmp_path).items() < bytes_of(part.whole.path).items()
        assert part.left(run)
    run = do_one(part, tmp_path, ORDER[-1])
    assert bytes_of(tmp_path) == bytes_of(part.whole.path)
    assert part.left(run) == []


def test_shards_in_folders_of_their_own(part: Part, tmp_path: Path) -> None:
    folders = [tmp_path / f"part-{index}" for index in range(1, 5)]
    for index in ORDER:
        do_one(part, folders[index - 1], index)
    merge_runs(folders[2:0:-1], tmp_path / "merged")
    assert part.left(RunFolder(tmp_path / "merged"))
    for _ in range(2):  # the second time nothing is new
        run = merge_runs(folders, tmp_path / "merged")
        assert bytes_of(run.path) == bytes_of(part.whole.path)
    assert part.left(run) == []


def test_what_a_study_leaves_out_is_left_out_by_shards(editing: Part) -> None:
    reasons = Skips.of(editing.whole).reasons
    assert sorted(reasons) == ["case-0000", "case-0001", "case-memit-0-4-0002"]
    assert relocated(editing.whole).case == TO_EDIT[2].id
    assert sorted(path.name for path in (editing.whole.path / "skipped").iterdir()) == [
        f"{u}.json" for u in sorted(reasons)
    ]


def test_two_shards_at_once(locating: Part, tmp_path: Path) -> None:
    """Both begin with the same: which facts the model knows."""
    processes = []
    for index in (1, 2):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                locating.do(tmp_path / "run", Shard(index, 2))
                code = 0
            finally:
                os._exit(code)
        processes.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in processes] == [0, 0]
    assert bytes_of(tmp_path / "run") == bytes_of(locating.whole.path)


def test_more_shards_than_bundles(editing: Part, tmp_path: Path) -> None:
    steps: list[tuple[float, int, str]] = []
    editing.do(tmp_path, Shard(90, 99), progress=lambda *step: steps.append(step))
    assert set(bytes_of(tmp_path)) == {"run.json", "selection.json", "skipped/case-0000.json"}
    assert steps == [(0, 0, "done")]


# units that are left out


def test_what_processes_leave_out_adds_up(tmp_path: Path) -> None:
    one, other = (Skips.of(RunFolder.open(tmp_path, {})) for _ in range(2))
    one.add({"0001-mlp": NumericalError("a"), "0002-mlp": NumericalError("b")})
    other.add({"fact 3: a/b\nc": NumericalError("c")})
    assert "0001-mlp" not in other
    other.refresh()
    expected = {"0001-mlp": "a", "0002-mlp": "b", "fact 3: a/b\nc": "c"}
    assert other.reasons == Skips.of(RunFolder(tmp_path)).reasons == expected
    before = bytes_of(tmp_path)
    assert len(before) == 3
    other.add({"0002-mlp": NumericalError("b")})  # said already
    assert bytes_of(tmp_path) == before


def test_what_an_earlier_version_left_out(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {})
    run.write_json("skipped.json", {"0001-mlp": "a"})
    Skips.of(run).add({"0002-mlp": NumericalError("b")})
    assert Skips.of(run).reasons == {"0001-mlp": "a", "0002-mlp": "b"}


# runs that cannot be put together


@pytest.fixture
def pair(tiny: HookedTransformer, tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two parts of one run, each with a record and a run inside of it."""
    runs = []
    for index, name in enumerate("ab"):
        run = RunFolder.open(tmp_path / name, {"samples": 2, "provenance": {"weights_hash": "1"}})
        run.write_json("selection.json", {"facts": [{"prompt": "p"}]})
        run.write_json("skipped/unit-3.json", {"unit-3": "infinite"})
        run.put(f"unit-{index}", record(tiny))
        inside = RunFolder.open(run.path / "edits", {"seed": 0})
        inside.put(f"case-{index}", record(tiny))
        runs.append(run)
    return runs[0], runs[1]


def record(model: HookedTransformer, mean: float = 0.0) -> Record:
    return replace(AVERAGES[0], mean=torch.full_like(AVERAGES[0].mean, mean), provenance=provenance(model))


def test_a_run_inside_of_a_run_is_merged_too(pair: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    (pair[0].path / "figures").mkdir()
    (pair[0].path / "figures" / "figure1.csv").write_text("drawn")
    (pair[1].path / "records" / ".half-written.safetensors").write_text("half")
    merge_runs([run.path for run in pair], tmp_path / "c")
    expected = bytes_of(pair[0].path) | bytes_of(pair[1].path)
    del expected["figures/figure1.csv"]
    assert bytes_of(tmp_path / "c") == expected
    assert {"records/unit-0.safetensors", "edits/records/case-1.safetensors", "edits/run.json"} < set(expected)
    merge_runs([pair[1].path], pair[0].path)  # into one of them
    assert bytes_of(pair[0].path).keys() == expected.keys() | {"figures/figure1.csv"}


def writes(name: str, value: Any, inside: str = "") -> Callable[..., None]:
    """Another JSON file."""
    return lambda run, _: RunFolder(run.path / inside).write_json(name, value)


def renames(run: RunFolder, _: Any) -> None:
    os.replace(run.record_path("unit-1"), run.record_path("unit-2"))


DISAGREEING = [
    (writes("run.json", {"samples": 3, "provenance": {"weights_hash": "1"}}), "run.json: samples is 2 and 3"),
    (writes("run.json", {"samples": 2, "provenance": {"weights_hash": "2"}}), "provenance.weights_hash is '1' and '2'"),
    (writes("run.json", {"samples": 2}), "run.json: provenance is {'weights_hash': '1'} and None"),
    (writes("run.json", {"seed": 1}, "edits"), "run.json: seed is 0 and 1"),
    (writes("selection.json", {"facts": [{"prompt": "q"}]}), r"selection.json: facts\[0\].prompt is 'p' and 'q'"),
    (writes("selection.json", {"facts": []}), "selection.json: the number of facts is 1 and 0"),
    (writes("skipped/unit-3.json", {"unit-3": "NaN"}), "skipped/unit-3.json: unit-3 is 'infinite' and 'NaN'"),
    (writes("skipped/unit-0.json", {"unit-0": "NaN"}), "a has a record of unit-0, which .*b left out: remove one"),
    (lambda run, model: run.put("unit-0", record(model, 1.0)), "a and .*b have different records of unit-0"),
    (renames, "the record of unit 'unit-1'; expected 'unit-2'"),
    (lambda run, _: (run.path / "run.json").unlink(), "b is not a run folder: run.json"),
    (lambda run, _: (run.path / "run.json").write_text("{"), "b is not a run folder: run.json"),
    (lambda run, _: flipped(run.path / "selection.json"), "selection.json"),
    (lambda run, _: flipped(run.record_path("unit-1")), "unit-1.safetensors is (damaged|not a readable record)"),
    (lambda run, _: os.truncate(run.record_path("unit-1"), 100), "unit-1.safetensors is not a readable record"),
]


@pytest.mark.parametrize(("damage", "said"), DISAGREEING)
def test_what_does_not_belong_together_is_refused(
    pair: tuple[RunFolder, RunFolder], tmp_path: Path, tiny: HookedTransformer, damage: Any, said: str
) -> None:
    damage(pair[1], tiny)
    with pytest.raises(DataError, match=said):
        merge_runs([run.path for run in pair], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    before = bytes_of(pair[0].path)
    with pytest.raises(DataError):
        merge_runs([pair[1].path], pair[0].path)
    assert bytes_of(pair[0].path) == before


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)


def test_places_that_are_no_runs(pair: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="full is neither empty nor a run folder"):
        merge_runs([pair[0].path], tmp_path / "full")
    with pytest.raises(DataError, match="missing is not a run folder"):
        merge_runs([pair[0].path, tmp_path / "missing"], tmp_path / "c")
    with pytest.raises(OptionError, match="no run folders"):
        merge_runs([], tmp_path / "c")
    assert not (tmp_path / "c").exists()


# the command line


@pytest.mark.usefixtures("undrawn")
def test_a_study_in_shards(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interp.study.work, "BUNDLE", 1)
    fact = {name: CASES[0][name] for name in ("template", "subject", "target")}
    Path("facts.json").write_text(json.dumps([fact]), "utf-8")
    Path("cases.json").write_text(json.dumps(CASES[:1]), "utf-8")
    shared = (*MODEL, "--facts", "facts.json", "--limit", "1")
    small = ("--case-limit", "1", "--stride", "3", "--fluency-tokens", "1", "--corpus-tokens", "1024")
    study = ("study", *shared, "--cases", "cases.json", "--editors", "rome", *small)

    done = call("figure1", *shared, "--out", "a", "--shard", "1/2")
    assert done.code == 0, done.err
    assert (
        "shard 1/2 is done in a; missing: 0000-resid, 0000-mlp, 0000-attn; the last shard draws the figures" in done.err
    )
    assert not Path("a/figures").exists()
    done = call(*study, "--out", "b", "--shard", "2/2")
    assert done.code == 75
    assert "shard 2/2 has located its facts in b; missing: 0000-attribution; where to edit is" in done.err
    assert not Path("b/edits").exists()

    done = call("merge", "a", "b", "--out", "whole")
    assert (done.code, done.out, done.err) == (0, "", "whole: 4 records, none is missing\n")
    first = call(*study, "--out", "whole", "--shard", "1/2")
    assert first.code == 0, first.err
    assert "shard 1/2 is done in whole/edits; missing: " in first.err
    assert not list(Path("whole/figures").iterdir())
    assert not Path("whole/report.html").exists()
    last = call(*study, "--out", "whole", "--shard", "2/2")
    assert last.code == 0, last.err
    alone = call(*study, "--out", "alone")
    assert alone.code == 0, alone.err
    assert last.out == alone.out
    assert bytes_of(Path("whole")) == bytes_of(Path("alone"))
    assert Path("whole/report.html").exists()


def test_a_shard_that_does_not_exist(call: Call) -> None:
    for command in ("figure1", "study", "reproduce"):
        refused(call(command, "--shard", "0/4"), "shard must be I/N with I from 1 to N, such as 1/4, got '0/4'")
    refused(call("figure1", "--from", "run", "--shard", "1/4"), "--shard would do nothing")


def test_merging_what_is_not_there(call: Call) -> None:
    refused(call("merge", "nowhere", "--out", "merged"), "nowhere is not a run folder")
