"""Run folders put together: what several processes found apart from each other, as if it had been found in one folder.

Everything is checked before anything is written. What is copied is what was read: bytes, whole files, in an order that
leaves a run folder which can be taken up wherever it stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import DataError, OptionError, excerpt
from interp.results.record import checked_hash
from interp.results.run_folder import RunFolder
from interp.results.skips import FOLDER, Skips
from interp.system.files import reason, write_atomically

__all__ = ["merge_runs"]

SETTINGS = "run.json"


def merge_runs(runs: Sequence[str | Path], out: str | Path) -> RunFolder:
    """Put the records of run folders with the same settings into one; again, it adds what is new.

    A run folder inside of one (the edits of a study) is put together with those of its name. Figures are not copied.

    Example:
        >>> settings, parts = interp.LocateSettings(limit=2, samples=2), ["part-1", "part-2"]
        >>> for index, part in enumerate(parts, start=1):
        ...     _ = interp.locate_facts(model, facts, part, settings, shard=interp.study.Shard(index, 2))
        >>> run = interp.results.merge_runs(parts, "merged")
        >>> interp.study.locating_left(run)
        []

    Args:
        runs: The folders; they are left as they are.
        out: The folder to write, new or a run with the same settings, whose records count too.

    Raises:
        OptionError: If there are no folders.
        DataError: If a folder is no run or holds a damaged record, or two of them disagree: on a setting, the model,
            the facts or the plan, on what a unit's record is, or on whether it was left out (names both folders and
            what).
    """
    if not runs:
        raise OptionError("there are no run folders to put together")
    target = RunFolder(Path(out))
    parts = {Path(run).resolve(): RunFolder(Path(run)) for run in runs}
    if (target.path / SETTINGS).exists():
        parts.setdefault(target.path.resolve(), target)
    elif target.path.is_dir() and any(target.path.iterdir()):
        raise DataError(f"{target.path} is neither empty nor a run folder: choose another")
    for copies in list(_copies(list(parts.values()), Path())):
        for place, source in copies.items():
            _copy(source, target.path / place)
    return target


def _copies(parts: Sequence[RunFolder], place: Path) -> Iterator[dict[Path, Path]]:
    """By its place in the merged folder which file is to stand there; for each run folder in its turn."""
    _check_same(SETTINGS, {part: part.settings() for part in parts})
    copies = {place / SETTINGS: parts[0].path / SETTINGS}
    found = {path.relative_to(part.path) for part in parts for path in _listed(part.path, "*.json", f"{FOLDER}/*.json")}
    for file in sorted(found - {Path(SETTINGS)}):
        held = [part for part in parts if (part.path / file).exists()]
        _check_same(file.as_posix(), {part: part.read_json(file.as_posix()) for part in held})
        copies[place / file] = held[0].path / file
    copies |= _records(parts, place)
    yield copies
    for name in sorted({path.parent.name for part in parts for path in _listed(part.path, f"*/{SETTINGS}")}):
        inner = [RunFolder(part.path / name) for part in parts]
        yield from _copies([part for part in inner if (part.path / SETTINGS).exists()], place / name)


def _check_same(name: str, held: Mapping[RunFolder, Any]) -> None:
    """Refuse a JSON file that is not the same everywhere."""
    (first, expected), *others = held.items()
    for other, found in others:
        difference = next(_differences(expected, found), None)
        if difference is not None:
            key, here, there = difference
            raise DataError(
                f"{first.path} and {other.path} are not parts of one run: {name}: {key} is {excerpt(here)} and"
                f" {excerpt(there)}"
            )


def _differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, as far inside as can be said."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(set(one) | set(other)):
            yield from _differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"the number of {key}", len(one), len(other)
        for index, (here, there) in enumerate(zip(one, other, strict=False)):
            yield from _differences(here, there, f"{key}[{index}]")
    elif one != other or type(one) is not type(other):
        yield key, one, other


@dataclass(frozen=True)
class _Kept:
    """A unit that one of the folders has a record of."""

    part: RunFolder
    hashed: str
    path: Path


def _records(parts: Sequence[RunFolder], place: Path) -> dict[Path, Path]:
    """Every unit's record, checked."""
    kept: dict[str, _Kept] = {}
    left_out = {unit: part for part in parts for unit in Skips.of(part).reasons}
    for part in parts:
        run = part.identity()
        for path in _listed(part.path, "records/*.safetensors"):
            unit = path.stem
            found = _Kept(part, checked_hash(path, unit=unit, run=run), path)
            known = kept.setdefault(unit, found)
            if known.hashed != found.hashed:
                raise DataError(
                    f"{known.part.path} and {part.path} have different records of {unit} (content hashes"
                    f" {known.hashed} and {found.hashed}), computed on machines that do not give the same numbers:"
                    " remove one of them"
                )
            if unit in left_out:
                raise DataError(f"{part.path} has a record of {unit}, which {left_out[unit].path} left out: remove one")
    return {place / "records" / entry.path.name: entry.path for entry in kept.values()}


def _listed(folder: Path, *patterns: str) -> list[Path]:
    """Files by patterns, without hidden ones, which may be half written."""
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if not path.name.startswith("."))


def _copy(source: Path, destination: Path) -> None:
    try:
        if destination.exists():
            return  # checked to be the same
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"{source} cannot be read: {reason(error)}") from error
    write_atomically(destination, data)
