"""Run folders: settings that must agree, records, and what damage does."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from interp.errors import DataError, InterpWarning
from interp.facts.records import Fact
from interp.locate.methods.attribution import Attribution, attribute
from interp.locate.methods.causal_trace import CausalTrace
from interp.results.run_folder import RunFolder

SETTINGS = {"samples": 2, "noise": 0.3, "rule": "riemann", "limit": None}


@pytest.fixture(scope="module")
def record(tiny: HookedTransformer, facts: list[Fact]) -> Attribution:
    return attribute(tiny, facts[1], steps=2)


def test_open_starts_a_run_and_takes_it_up_again(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "a" / "b", SETTINGS)
    assert run.path == tmp_path / "a" / "b"
    assert run.settings() == SETTINGS
    stored = json.loads((run.path / "run.json").read_text("utf-8"))
    assert len(stored.pop("content_hash")) == 32
    assert stored == SETTINGS
    before = (run.path / "run.json").stat().st_mtime_ns
    assert RunFolder.open(str(run.path), SETTINGS) == run
    assert (run.path / "run.json").stat().st_mtime_ns == before


def test_settings_are_compared_as_json_holds_them(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, {"subjects": ("a", "b")})
    assert RunFolder.open(tmp_path, {"subjects": ["a", "b"]}).settings() == {"subjects": ["a", "b"]}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"samples": 3}, "samples = 2"), ({"noise": "3sigma"}, "noise = 0.3"), ({"new": 1}, "new = None")],
)
def test_open_refuses_other_settings_and_names_them(tmp_path: Path, change: dict[str, object], named: str) -> None:
    RunFolder.open(tmp_path, SETTINGS)
    with pytest.raises(DataError, match=named) as caught:
        RunFolder.open(tmp_path, SETTINGS | change)
    assert str(tmp_path) in str(caught.value)
    assert repr(next(iter(change.values()))) in str(caught.value)
    assert RunFolder(tmp_path).settings() == SETTINGS


def test_open_refuses_a_run_with_a_setting_that_this_one_lacks(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, SETTINGS)
    with pytest.raises(DataError, match="samples = 2, this one has None"):
        RunFolder.open(tmp_path, {k: v for k, v in SETTINGS.items() if k != "samples"})


def test_a_folder_that_cannot_be_written(tmp_path: Path, record: Attribution) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"run\.json cannot be written"):
        RunFolder.open(tmp_path / "file" / "run", SETTINGS)
    with pytest.raises(DataError, match="cannot be written"):
        RunFolder(tmp_path / "file").put("0000-attribution", record)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=r"is not a run folder: run\.json"):
            RunFolder(path).settings()
    (tmp_path / "run.json").write_text('{"samples": 2')
    with pytest.raises(DataError, match=r"is not a run folder: run\.json"):
        RunFolder.open(tmp_path, SETTINGS)
    with pytest.raises(DataError, match=r"selection\.json"):
        RunFolder(tmp_path).read_json("selection.json")


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "3"])
def test_a_run_json_that_holds_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match="is not a run folder"):
        RunFolder.open(tmp_path, SETTINGS)


def test_json_keeps_text_as_it_is(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    value = {"prompt": "東京は[/b] :smile: é\n", "list": [1, 2.5, None]}
    run.write_json("x.json", value)
    assert run.read_json("x.json") == value
    with pytest.raises(DataError, match=r"x\.json is damaged: KeyError\('facts'\)"):
        run.read_json("x.json", lambda stored: stored["facts"])
    assert "東京" in (tmp_path / "x.json").read_text("utf-8")


def test_put_and_get(tmp_path: Path, record: Attribution) -> None:
    run = RunFolder(tmp_path)
    assert run.get(Attribution, "0000-attribution") is None
    run.put("0000-attribution", record)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [
        "records/0000-attribution.safetensors"
    ]
    back = run.get(Attribution, "0000-attribution")
    assert back is not None
    assert torch.equal(back.scores, record.scores)
    assert torch.equal(back.completeness_gap, record.completeness_gap)
    assert (back.fact, back.tokens, back.provenance) == (record.fact, record.tokens, record.provenance)


def test_a_missing_record_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert RunFolder(tmp_path).get(Attribution, "0000-attribution") is None
    assert not caplog.records


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_damaged_record_counts_as_missing_and_is_logged(
    tmp_path: Path, record: Attribution, caplog: pytest.LogCaptureFixture, keep: int
) -> None:
    run = RunFolder(tmp_path)
    run.put("u", record)
    path = run.record_path("u")
    path.write_bytes(path.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING, "interp"):
        assert run.get(Attribution, "u") is None
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["computing u again"]
    assert str(path) in caplog.text


def test_a_record_of_another_kind_counts_as_missing(
    tmp_path: Path, record: Attribution, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    run.put("u", record)
    assert run.get(CausalTrace, "u") is None
    assert "'Attribution'" in caplog.text
    assert "'CausalTrace'" in caplog.text


def test_a_record_under_another_name_is_not_taken_for_that_unit(
    tmp_path: Path, record: Attribution, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder.open(tmp_path, SETTINGS)
    run.put("0000-attribution", record)
    os.replace(run.record_path("0000-attribution"), run.record_path("0001-attribution"))
    expected = r"0001-attribution\.safetensors holds the record of unit '0000-attribution'; expected '0001-attribution'"
    with pytest.raises(DataError, match=expected):
        run.read(Attribution, "0001-attribution")
    assert run.get(Attribution, "0001-attribution") is None
    assert "computing 0001-attribution again" in caplog.text
    assert run.read(Attribution, "0000-attribution") is None


def test_a_record_of_another_run_is_not_taken(
    tmp_path: Path, record: Attribution, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (RunFolder.open(tmp_path / str(n), SETTINGS | {"samples": n}) for n in (2, 3))
    one.put("u", record)
    other.put("v", record)
    os.replace(one.record_path("u"), other.record_path("u"))
    with pytest.raises(DataError, match="holds the record of run '"):
        other.read(Attribution, "u")
    assert other.get(Attribution, "u") is None
    same = RunFolder.open(tmp_path / "same", SETTINGS | {"samples": 3})
    (same.path / "records").mkdir()
    os.replace(other.record_path("v"), same.record_path("v"))
    assert same.get(Attribution, "v") is not None


def test_a_record_must_be_about_what_was_asked_for(
    tmp_path: Path, record: Attribution, facts: list[Fact], caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    run.put("u", record)
    assert run.get(Attribution, "u", fact=facts[1]) is not None
    assert run.get(Attribution, "u", fact=facts[2]) is None
    with pytest.raises(DataError, match=r"u\.safetensors holds a record of fact .*; expected Fact"):
        run.read(Attribution, "u", fact=facts[2])


def test_reading_refuses_what_getting_computes_again(tmp_path: Path, record: Attribution) -> None:
    run = RunFolder(tmp_path)
    run.put("u", record)
    data = bytearray(run.record_path("u").read_bytes())
    data[-1] ^= 64
    run.record_path("u").write_bytes(data)
    with pytest.raises(DataError, match=r"u\.safetensors is damaged"):
        run.read(Attribution, "u")
    assert run.get(Attribution, "u") is None


@pytest.mark.parametrize("change", [("0.3", "0.4"), ("riemann", "riemaNn"), ('"samples"', '"samplEs"')])
def test_damaged_settings_are_refused(tmp_path: Path, record: Attribution, change: tuple[str, str]) -> None:
    run = RunFolder.open(tmp_path, SETTINGS)
    run.put("u", record)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace(*change))
    for act in (run.settings, lambda: run.get(Attribution, "u"), lambda: RunFolder.open(tmp_path, SETTINGS)):
        with pytest.raises(DataError, match=r"run\.json is damaged: it was written with content hash [0-9a-f]{32}"):
            act()


def test_a_run_from_before_there_were_hashes_is_taken_up_with_warnings(tmp_path: Path, record: Attribution) -> None:
    (tmp_path / "run.json").write_text(json.dumps(SETTINGS))
    with pytest.warns(InterpWarning, match=r"run\.json: holds no hash of its content"):
        run = RunFolder.open(tmp_path, SETTINGS)
    run.put("new", record)
    assert run.get(Attribution, "new") is not None
    with pytest.warns(InterpWarning, match=r"run\.json: holds no hash"):
        assert run.settings() == SETTINGS


def test_a_run_from_before_patches_were_recorded_is_taken_up(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, {"provenance": {"weights_hash": "a"}})
    RunFolder.open(tmp_path, {"provenance": {"weights_hash": "a", "patches": ()}})
    with pytest.raises(DataError, match="holds a run with provenance"):
        RunFolder.open(tmp_path, {"provenance": {"weights_hash": "a", "patches": ("b",)}})


def test_processes_that_start_a_folder_at_once_agree_or_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds no run there; the others' settings appear before it writes its own."""
    absent = RunFolder.agrees

    def overtaken(run: RunFolder, settings: object) -> bool:
        monkeypatch.setattr(RunFolder, "agrees", absent)
        assert not run.agrees(SETTINGS)
        RunFolder.open(tmp_path, SETTINGS)
        return False

    monkeypatch.setattr(RunFolder, "agrees", overtaken)
    with pytest.raises(DataError, match="holds a run with samples = 2, this one has 3"):
        RunFolder.open(tmp_path, SETTINGS | {"samples": 3})
    assert RunFolder(tmp_path).settings() == SETTINGS
    (tmp_path / "run.json").unlink()
    monkeypatch.setattr(RunFolder, "agrees", overtaken)
    assert RunFolder.open(tmp_path, SETTINGS).settings() == SETTINGS


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is allowed to root")
def test_a_forbidden_run_folder(tmp_path: Path, record: Attribution) -> None:
    run = RunFolder.open(tmp_path / "run", SETTINGS)
    run.put("u", record)
    run.path.chmod(0)
    try:
        for act in (
            lambda: run.get(Attribution, "u"),
            lambda: run.put("u", record),
            lambda: RunFolder.open(run.path, SETTINGS),
            run.settings,
        ):
            with pytest.raises(DataError, match="Permission denied"):
                act()
    finally:
        run.path.chmod(0o700)


@pytest.mark.usefixtures("unchecked")
def test_a_folder_may_be_named_by_a_text(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, {"a": 1})
    assert RunFolder(str(tmp_path)).settings()["a"] == 1  # type: ignore[arg-type]
