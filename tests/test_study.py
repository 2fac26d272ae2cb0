"""The study: selection, resuming, and averages drawn from the folder alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformer_lens import HookedTransformer

from interp.engine.corruption import noise_level
from interp.errors import DataError, FactError, InterpWarning, NumericalError, OptionError
from interp.facts.records import Fact
from interp.locate.class_average import ClassAverage
from interp.locate.method import LocateTask, Locator, locate_each
from interp.locate.methods import LOCATORS
from interp.locate.methods.attribution import AttributionSums, attribute
from interp.locate.methods.causal_trace import CausalTrace, causal_trace
from interp.results.record import Record
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.bundles import bundles
from interp.study.located import class_averages, left_out, located, selection, unit_of
from interp.study.locating import locate_fact, locate_facts
from interp.study.settings import LocateSettings

SETTINGS = LocateSettings(limit=3, samples=2, window=2, steps=3, noise=0.3)


STATES = ("resid", "mlp", "attn")


def traces_of(record: Any) -> dict[str, Any]:
    return {state: record.records[state] for state in STATES}


UNITS = [f"{index:04d}-{method}" for index in range(3) for method in LOCATORS]


class Stop(Exception):  # noqa: N818
    """What an interrupted run raises."""


@pytest.fixture(scope="module")
def finished(tiny: HookedTransformer, facts: list[Fact], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted run, to be left as it is."""
    return locate_facts(tiny, facts, tmp_path_factory.mktemp("study") / "run", SETTINGS)


@pytest.fixture
def copied(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may damage."""
    return RunFolder(Path(shutil.copytree(finished.path, tmp_path / "copy")))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(prompt, method) of every unit that is computed from here on."""
    units: list[tuple[str, str]] = []

    def noted(asked: Sequence[tuple[Locator, LocateTask]], *args: Any) -> None:
        units.extend((task.fact.prompt, locator.name) for locator, task in asked)
        locate_each(asked, *args)

    monkeypatch.setattr("interp.study.bundles.locate_each", noted)
    return units


def units_of(run: RunFolder) -> list[str]:
    return sorted(path.stem for path in (run.path / "records").glob("*.safetensors"))


def same(one: Record, other: Record) -> bool:
    """All fields equal, tensors bit for bit."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            if a.dtype != b.dtype or a.shape != b.shape or a.numpy().tobytes() != b.numpy().tobytes():
                return False
        elif a != b:
            return False
    return True


def close(one: Record, other: Record) -> bool:
    """All fields equal, tensors but for their last bits: what is computed together is the same in all others."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            if not torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.nan_to_num().abs().max()), equal_nan=True):
                return False
        elif isinstance(a, float):
            if a != pytest.approx(b, rel=1e-4, nan_ok=True):
                return False
        elif a != b:
            return False
    return True


def close_averages(one: RunFolder, other: RunFolder) -> bool:
    pairs = zip(class_averages(one), class_averages(other), strict=True)
    return all(close(a, b) for a, b in pairs)


def same_averages(one: RunFolder, other: RunFolder) -> bool:
    pairs = zip(class_averages(one), class_averages(other), strict=True)
    return all(same(a, b) for a, b in pairs)


def test_a_run_holds_one_record_per_fact_and_method(finished: RunFolder, facts: list[Fact]) -> None:
    assert units_of(finished) == sorted(UNITS)
    assert {path.name for path in finished.path.iterdir()} == {"run.json", "selection.json", "records"}
    records = located(finished)
    assert len({record.fact for record in records}) == 3
    assert {record.fact for record in records} <= set(facts)
    for record in records:
        assert record.records["attribution"].fact == record.fact
        assert list(record.records) == list(LOCATORS)
        assert {state: trace.state for state, trace in traces_of(record).items()} == {s: s for s in STATES}
        assert {found.fact for found in record.records.values()} == {record.fact}


def test_records_are_what_the_locators_return(tiny: HookedTransformer, finished: RunFolder) -> None:
    record = located(finished)[1]
    whole = attribute(tiny, record.fact, tokens="all", steps=3)
    assert close(record.records["attribution"], AttributionSums.of(whole))
    for state in ("resid", "mlp", "attn"):
        traced = causal_trace(tiny, record.fact, state=state, window=2, samples=2, noise=0.3)
        assert close(record.records[state], traced)


def test_the_settings_reach_the_locators(tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    settings = LocateSettings(
        limit=1,
        samples=3,
        window=4,
        steps=2,
        noise=0.2,
        seed=5,
        corruption="uniform",
        attribution_tokens="each",
        rule="gauss-legendre",
    )
    record = located(locate_facts(tiny, facts, tmp_path, settings))[0]
    expected = attribute(tiny, record.fact, tokens="each", steps=2, rule="gauss-legendre")
    assert close(record.records["attribution"], AttributionSums.of(expected))
    options = {"window": 4, "samples": 3, "noise": 0.2, "seed": 5, "corruption": "uniform"}
    for state, trace in traces_of(record).items():
        assert close(trace, causal_trace(tiny, record.fact, state=state, **options))


def test_the_run_says_what_it_is(finished: RunFolder, tiny: HookedTransformer) -> None:
    settings = finished.settings()
    expected = json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    assert {name: settings[name] for name in expected} == expected
    assert settings["facts"] == "given facts"
    assert settings["provenance"]["model"] == tiny.cfg.model_name
    assert settings["provenance"] == dataclasses.asdict(located(finished)[0].records["attribution"].provenance)
    assert finished.read_json("selection.json")["noise"] == 0.3


def test_a_second_call_computes_nothing(
    tiny: HookedTransformer,
    facts: list[Fact],
    finished: RunFolder,
    copied: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    for name in ("study.bundles.locate_each", "study.locating.known_facts"):
        monkeypatch.setattr(f"interp.{name}", never)
    before = {path: path.stat().st_mtime_ns for path in copied.path.rglob("*")}
    again = locate_facts(tiny, facts, copied.path, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in copied.path.rglob("*")} == before
    assert same_averages(again, finished)


@pytest.mark.parametrize("at", [0, 0.5, 1, 4.4, 7, 11.9])
def test_an_interrupted_run_goes_on_where_it_was(
    tiny: HookedTransformer,
    facts: list[Fact],
    finished: RunFolder,
    tmp_path: Path,
    computed: list[tuple[str, str]],
    at: float,
) -> None:
    def stop(done: float, total: int, label: str) -> None:
        if total == len(UNITS) and done >= at:
            raise Stop

    with pytest.raises(Stop):
        locate_facts(tiny, facts, tmp_path, SETTINGS, progress=stop)
    there = units_of(RunFolder(tmp_path))
    assert len(there) <= at
    together = bundles(selection(RunFolder(tmp_path)))
    computed.clear()
    run = locate_facts(tiny, facts, tmp_path, SETTINGS)
    prompts = [record.fact.prompt for record in located(finished)]
    missing = [units for units in together if not {unit_of(*unit) for unit in units} <= {*there}]
    assert computed == [(prompts[index], name) for units in missing for index, name in units]
    assert not list(tmp_path.rglob(".*"))
    assert same_averages(run, finished)


def test_a_run_interrupted_before_its_selection_goes_on(
    tiny: HookedTransformer, facts: list[Fact], finished: RunFolder, tmp_path: Path
) -> None:
    def stop(*_: Any) -> None:
        raise Stop

    with pytest.raises(Stop):
        locate_facts(tiny, facts, tmp_path, SETTINGS, progress=stop)
    assert not (tmp_path / "selection.json").exists()
    assert same_averages(locate_facts(tiny, facts, tmp_path, SETTINGS), finished)


def truncate(run: RunFolder, unit: str) -> None:
    path = run.record_path(unit)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def exchange(run: RunFolder, unit: str) -> None:
    shutil.copy(run.record_path("0000-attribution"), run.record_path(unit))


def flip(run: RunFolder, unit: str) -> None:
    """One bit of the last number."""
    path = run.record_path(unit)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, exchange, flip])
def test_a_damaged_record_is_computed_again(
    tiny: HookedTransformer,
    facts: list[Fact],
    finished: RunFolder,
    copied: RunFolder,
    computed: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[RunFolder, str], None],
) -> None:
    damage(copied, "0001-mlp")
    with caplog.at_level(logging.WARNING, "interp"):
        run = locate_facts(tiny, facts, copied.path, SETTINGS)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["computing 0001-mlp again"]
    together = next(units for units in bundles(selection(run)) if (1, "mlp") in units)
    assert len(together) == 9
    assert computed == [(located(finished)[index].fact.prompt, name) for index, name in together]
    assert same_averages(run, finished)
    assert run.record_path("0001-mlp").read_bytes() == finished.record_path("0001-mlp").read_bytes()


OTHER_SETTINGS = {
    "locators": ["mlp"],
    "samples": 3,
    "window": 3,
    "noise": 0.4,
    "seed": 2,
    "corruption": "uniform",
    "attribution_tokens": "each",
    "steps": 4,
    "rule": "gauss-legendre",
    "limit": 2,
    "selection_seed": 1,
}


def test_every_setting_has_another_value_to_try() -> None:
    assert set(OTHER_SETTINGS) == {field.name for field in dataclasses.fields(LocateSettings)}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_folder_with_other_settings_is_refused(
    tiny: HookedTransformer, facts: list[Fact], finished: RunFolder, name: str
) -> None:
    value = OTHER_SETTINGS[name]
    other = dataclasses.replace(SETTINGS, **{name: tuple(value) if isinstance(value, list) else value})
    with pytest.raises(DataError, match=f"holds a run with {name} = ") as caught:
        locate_facts(tiny, facts, finished.path, other)
    assert repr(OTHER_SETTINGS[name]) in str(caught.value)


def test_a_folder_with_other_facts_or_another_model_is_refused(
    tiny: HookedTransformer,
    family_model: Callable[[str], HookedTransformer],
    facts: list[Fact],
    finished: RunFolder,
) -> None:
    with pytest.raises(DataError, match="facts_sha256"):
        locate_facts(tiny, facts[:5], finished.path, SETTINGS)
    with pytest.raises(DataError, match="facts = 'given facts'"):
        locate_facts(tiny, facts, finished.path, SETTINGS, source="mine.json")
    with pytest.raises(DataError, match="provenance"):
        locate_facts(family_model("gpt2"), facts, finished.path, SETTINGS)


def independent_average(maps: list[tuple[np.ndarray, tuple[int, int]]], row: int) -> tuple[np.ndarray | None, int, int]:
    """Mean over all tokens of a class of all facts; number of tokens and of facts."""
    chosen, n_facts = [], 0
    for values, (start, end) in maps:
        n = len(values)
        positions = [
            [start],
            [t for t in range(n) if start < t < end - 1],
            [end - 1],
            [t for t in [end] if t < n],
            [t for t in range(n) if end < t < n - 1],
            [n - 1],
        ][row]
        chosen += [values[t] for t in positions]
        n_facts += bool(positions)
    return (np.mean(chosen, axis=0) if chosen else None), len(chosen), n_facts


def check_average(average: ClassAverage, maps: list[tuple[np.ndarray, tuple[int, int]]]) -> None:
    assert average.mean.shape == (6, 6)
    for row in range(6):
        mean, n_tokens, n_facts = independent_average(maps, row)
        assert average.n_tokens[row] == n_tokens
        assert average.n_facts[row] == n_facts
        if mean is None:
            assert average.mean[row].isnan().all()
            assert average.peak[row] == -1
        else:
            np.testing.assert_allclose(average.mean[row].numpy(), mean, rtol=1e-5, atol=1e-7)
            assert average.peak[row] == int(np.argmax(mean))


def test_averages_are_those_of_the_single_records(tiny: HookedTransformer, finished: RunFolder) -> None:
    averages = class_averages(finished)
    assert [average.method for average in averages] == list(LOCATORS)
    stored = [attribute(tiny, found.fact, tokens="all", steps=3) for found in located(finished)]
    scaled = [(10_000 * a.scores.double().mean(-1).numpy().T[: a.n_prompt_tokens], a.subject_span) for a in stored]
    assert len(scaled) == 3
    check_average(averages[0], scaled)
    assert np.nanmax(np.abs(averages[0].mean.numpy())) > 0
    for average in averages[1:]:
        traces = [RunFolder(finished.path).get(CausalTrace, f"{i:04d}-{average.method}") for i in range(3)]
        maps = [(t.scores.double().numpy() - t.corrupted_score, t.subject_span) for t in traces if t is not None]
        assert len(maps) == 3
        check_average(average, maps)


def test_a_folder_of_whole_records_is_taken_as_it_is(
    tiny: HookedTransformer, facts: list[Fact], finished: RunFolder, copied: RunFolder, computed: list[tuple[str, str]]
) -> None:
    """As earlier versions kept them, with all neurons: nothing is computed again, the averages are the same."""
    for i, found in enumerate(located(copied)):
        whole = attribute(tiny, found.fact, tokens="all", steps=3)
        copied.put(f"{i:04d}-attribution", whole)
        assert same(located(copied)[i].records["attribution"], whole)
    run = locate_facts(tiny, facts, copied.path, SETTINGS)
    assert computed == []
    assert close_averages(run, finished)
    sizes = [run.record_path("0000-attribution").stat().st_size for run in (copied, finished)]
    assert sizes[0] > 5 * sizes[1]


def test_averages_hold_a_fact_at_a_time(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Record] = weakref.WeakSet()
    most, read = 0, RunFolder.read

    def counted(run: RunFolder, *args: Any, **expected: Any) -> Any:
        nonlocal most
        record = read(run, *args, **expected)
        assert record is not None
        alive.add(record)
        most = max(most, len(alive))
        return record

    monkeypatch.setattr(RunFolder, "read", counted)
    class_averages(finished)
    assert most <= 2 * len(LOCATORS)  # the next fact's are read before the last one's go
    located(finished)
    assert most == len(UNITS)


def test_a_resume_makes_no_records(
    tiny: HookedTransformer, facts: list[Fact], copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: Any, **__: Any) -> None:
        raise AssertionError("a record was made")

    monkeypatch.setattr("interp.results.run_folder.load_record", made)
    locate_facts(tiny, facts, copied.path, SETTINGS)


def test_averages_need_the_folder_alone(finished: RunFolder, copied: RunFolder) -> None:
    expected = class_averages(finished)
    hidden = finished.path.rename(finished.path.with_name("hidden"))
    try:
        assert all(same(a, b) for a, b in zip(class_averages(RunFolder(copied.path)), expected, strict=True))
    finally:
        hidden.rename(finished.path)


def test_locators_that_were_asked_for(
    tiny: HookedTransformer, facts: list[Fact], finished: RunFolder, tmp_path: Path
) -> None:
    run = locate_facts(tiny, facts, tmp_path, dataclasses.replace(SETTINGS, locators=("attn", "attribution")))
    assert {path.stem.split("-")[1] for path in (tmp_path / "records").iterdir()} == {"attn", "attribution"}
    found = class_averages(run)
    assert [average.method for average in found] == ["attn", "attribution"]
    expected = {average.method: average for average in class_averages(finished)}
    assert all(close(average, expected[average.method]) for average in found)


def test_a_run_of_an_earlier_version_has_the_papers_locators(finished: RunFolder, copied: RunFolder) -> None:
    stored = copied.read_json("selection.json")
    del stored["locators"]
    copied.write_json("selection.json", stored)
    assert all(same(a, b) for a, b in zip(class_averages(copied), class_averages(finished), strict=True))


@pytest.mark.parametrize("wrong", [(), "mlp", ("mlp", "mlp"), ("mpl",)], ids=str)
@pytest.mark.usefixtures("unchecked")
def test_locators_that_nothing_is(wrong: object) -> None:
    with pytest.raises(OptionError, match="locators"):
        LocateSettings(locators=wrong)  # type: ignore[arg-type]


def test_averages_take_finished_facts_only(copied: RunFolder, tmp_path: Path) -> None:
    copied.record_path("0001-attn").unlink()
    assert len(located(copied)) == 2
    assert [average.n_facts[-1] for average in class_averages(copied)] == [2, 2, 2, 2]
    for index in (0, 2):
        copied.record_path(f"{index:04d}-resid").unlink()
    with pytest.raises(DataError, match="no fact is finished yet"):
        class_averages(copied)
    with pytest.raises(DataError, match="is not a run folder"):
        class_averages(RunFolder(tmp_path / "missing"))


def test_a_fact_that_does_not_fit_is_no_candidate(
    tiny: HookedTransformer, facts: list[Fact], finished: RunFolder, tmp_path: Path
) -> None:
    long = Fact(template="The {}" + " and so on" * 30 + " is in", subject="Eiffel Tower", target=" Paris")
    run = locate_facts(tiny, [facts[0], long, *facts[1:]], tmp_path, SETTINGS)
    assert {record.fact for record in located(run)} == {record.fact for record in located(finished)}
    ((unit, why),) = Skips.of(run).reasons.items()
    assert unit.startswith("fact 1: The Eiffel Tower and so on")
    assert "context holds 64" in why
    assert left_out(run) == []  # it was never chosen
    with pytest.raises(FactError, match=r"none of the 1 facts fits the model; the first: .*context holds 64"):
        locate_facts(tiny, [long], tmp_path / "none", SETTINGS)


def test_a_fact_that_cannot_be_located_is_left_out_and_named(
    tiny: HookedTransformer, facts: list[Fact], finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = located(finished)[1].fact
    asked_for: list[list[tuple[str, str]]] = []

    def tried(asked: Sequence[tuple[Locator, LocateTask]], *args: Any) -> None:
        asked_for.append([(task.fact.prompt, locator.name) for locator, task in asked])
        if (bad.prompt, "mlp") in asked_for[-1]:
            raise NumericalError("the model returned NaN")
        locate_each(asked, *args)

    monkeypatch.setattr("interp.study.bundles.locate_each", tried)
    for _ in range(2):
        run = locate_facts(tiny, facts, tmp_path, SETTINGS)
    traces = [units for units in asked_for if units[0][1] != "attribution"]
    assert [len(units) for units in traces] == [9, *[1] * 9, 8]  # together, each alone, the others; not at a restart
    assert Skips.of(run).reasons == {"0001-mlp": "the model returned NaN"}
    assert left_out(run) == [f"{bad.prompt}: the model returned NaN"]
    assert [record.fact for record in located(run)] == [located(finished)[i].fact for i in (0, 2)]
    for average in class_averages(run):
        assert average.n_facts[-1] == 2
        assert average.left_out == (f"{bad.prompt}: the model returned NaN",)


def test_only_known_facts_are_chosen(tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    wrong = [dataclasses.replace(facts[0], target=" Tokyo"), dataclasses.replace(facts[5], target=" Paris")]
    settings = LocateSettings(limit=None, samples=1, window=1, steps=1)
    run = locate_facts(tiny, [*wrong, *facts], tmp_path, settings)
    records = located(run)
    assert {record.fact for record in records} == set(facts)
    assert len(records) == 6
    assert all(record.records["attribution"].known and record.records["resid"].known for record in records)
    # "3sigma" is over all facts that were given
    level = noise_level(tiny, [*wrong, *facts])
    assert level != noise_level(tiny, facts)
    assert {trace.noise for record in records for trace in traces_of(record).values()} == {level}


def test_the_selection_follows_its_seed(tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    def chosen(seed: int, folder: str) -> list[str]:
        settings = LocateSettings(limit=2, samples=1, window=1, steps=1, noise=0.3, selection_seed=seed)
        return [record.fact.subject for record in located(locate_facts(tiny, facts, tmp_path / folder, settings))]

    first = chosen(0, "a")
    assert chosen(0, "b") == first
    assert any(chosen(seed, f"seed-{seed}") != first for seed in (1, 2))


def test_a_model_that_knows_nothing(tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    wrong = [dataclasses.replace(fact, target=" zebra") for fact in facts]
    with pytest.raises(FactError, match="knows none of the 6 facts"):
        locate_facts(tiny, wrong, tmp_path, SETTINGS)
    assert not (tmp_path / "records").exists()


def test_progress_never_goes_back_and_ends(tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    seen: list[tuple[float, int, str]] = []
    settings = dataclasses.replace(SETTINGS, limit=2)
    locate_facts(tiny, facts, tmp_path, settings, progress=lambda *step: seen.append(step))
    assert seen[-1] == (8, 8, "done")
    steps = [done for done, total, _ in seen if total == 8]
    assert steps == sorted(steps)
    assert len(set(steps)) > 9  # also within units
    labels = {label for _, total, label in seen if total == 8 and label != "done"}
    assert len(labels) == len(bundles(selection(RunFolder(tmp_path))))
    assert any(label.endswith(" and 1 more · resid, mlp, attn") for label in labels)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0},
        {"window": 0},
        {"steps": -1},
        {"steps": 1.5},
        {"limit": 0},
        {"attribution_tokens": "last"},
        {"rule": "simpson"},
        {"corruption": "salt"},
        {"noise": -1.0},
        {"noise": 0.0},
        {"noise": float("nan")},
        {"noise": float("inf")},
        {"noise": "2sigma"},
    ],
    ids=str,
)
def test_settings_refuse_what_no_method_takes(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        LocateSettings(**wrong)


@pytest.mark.usefixtures("unchecked")
def test_a_method_that_does_not_exist(tiny: HookedTransformer, facts: list[Fact]) -> None:
    with pytest.raises(OptionError, match="did you mean 'resid'"):
        locate_fact(tiny, facts[0], "reside", SETTINGS, noise=0.3, reference_facts=facts)


def swap(run: RunFolder, one: str, other: str) -> None:
    first, second = run.record_path(one), run.record_path(other)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


SWAPS = (("0000-mlp", "0000-attn"), ("0000-resid", "0001-resid"), ("0000-attribution", "0001-attribution"))


@pytest.mark.parametrize("units", SWAPS)
def test_records_under_each_others_names_are_not_drawn(copied: RunFolder, units: tuple[str, str]) -> None:
    swap(copied, *units)
    with pytest.raises(DataError, match=f"{units[0]}.safetensors holds the record of unit '{units[1]}'"):
        class_averages(copied)


@pytest.mark.parametrize("units", SWAPS)
def test_nor_are_those_of_a_run_from_before_records_had_hashes(copied: RunFolder, units: tuple[str, str]) -> None:
    for path in (copied.path / "records").iterdir():
        with safe_open(path, framework="pt") as file:
            header = {name: file.metadata()[name] for name in ("kind", "fields")} | {"format": "1"}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, header)
    with pytest.warns(InterpWarning, match="records: written before records had a hash"):
        found = located(copied)
    assert len(found) == 3
    swap(copied, *units)
    with (
        pytest.warns(InterpWarning, match="written before"),
        pytest.raises(DataError, match=rf"{units[0]}\.safetensors holds a record of (state|fact)"),
    ):
        class_averages(copied)


def test_a_selection_of_other_facts_is_refused(copied: RunFolder) -> None:
    path = copied.path / "selection.json"
    path.write_text(path.read_text("utf-8").replace('"subject": "', '"subject": "X', 1), "utf-8")
    with pytest.raises(DataError, match=r"selection\.json is damaged: it was written with content hash"):
        located(copied)


@pytest.mark.parametrize("text", ["{}", '{"facts": 3, "noise": 1}', '{"facts": [{}], "noise": 1}', "[]"])
def test_a_selection_that_was_tampered_with(copied: RunFolder, text: str) -> None:
    json.loads(text)
    (copied.path / "selection.json").write_text(text)
    with pytest.raises(DataError, match=r"selection\.json"):
        located(copied)
