"""A run folder: what ran, and one record per finished unit of work, each written atomically.

    run.json              settings, versions and the model's weights hash: a rerun must agree with them
    selection.json        the facts that were chosen
    records/UNIT.safetensors

The folder is the truth of a long run: a rerun does what is missing, and figures are drawn from it without a model.

Every file carries a hash of its content, and every record says which unit of which run it is: a file that was
damaged, or that belongs elsewhere, is never taken for what was asked for. Several processes may work in one folder
at once if they agree on the settings; both then do what is missing and write the same. Of processes with different
settings that start a new folder at once, one succeeds.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from interp.errors import DataError, InterpError, InterpWarning
from interp.results.record import (
    NOTHING_SAID,
    Record,
    check_about,
    check_record,
    content_hash,
    load_record,
    save_record,
)
from interp.system.files import exists, reason, remove_abandoned, write_atomically

__all__ = ["RunFolder"]

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)

_HASH = "content_hash"


@dataclass(frozen=True)
class RunFolder:
    """A folder of finished work (see the module for what is in it)."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    def open(cls, path: str | Path, settings: Mapping[str, Any]) -> RunFolder:
        """Start a run, or take up one with the same settings; remove what killed processes left half written.

        Raises:
            DataError: If the folder cannot be written or holds a run with other settings (names them).
        """
        run = cls(Path(path))
        if not run.agrees(settings) and not run.write_json("run.json", dict(settings), replace=False):
            run.agrees(settings)  # another process started it meanwhile
        for folder in (run.path, run.path / "records"):
            remove_abandoned(folder)
        return run

    def agrees(self, settings: Mapping[str, Any]) -> bool:
        """Whether a run with these settings is here; False if none is.

        Raises:
            DataError: If the folder holds a run with other settings (names the first), or cannot be read.
        """
        if not exists(self.path / "run.json"):
            return False
        there, wanted = map(_comparable, (self.settings(), json.loads(json.dumps(dict(settings)))))
        for key in sorted(set(there) | set(wanted)):
            if there.get(key) != wanted.get(key):
                raise DataError(
                    f"{self.path} holds a run with {key} = {there.get(key)!r}, this one has"
                    f" {wanted.get(key)!r}: choose another folder, or remove it"
                )
        return True

    def settings(self) -> dict[str, Any]:
        """What the run was started with.

        Raises:
            DataError: If this is not a run folder.
        """
        settings, hashed = self._read_json("run.json")
        if not isinstance(settings, dict):
            raise DataError(f"{self.path} is not a run folder: run.json holds no settings")
        if not hashed:
            _warn_unhashed(self.path / "run.json")
        return settings

    def read_json(self, name: str, parse: Callable[[Any], Any] = lambda value: value) -> Any:
        """A JSON file of the run; one that was written before such files had a hash is taken with a warning.

        Args:
            name: The file's name.
            parse: Makes of its content what is wanted; by default what JSON gives.

        Raises:
            DataError: If it is missing, not JSON, damaged (names the hash expected and found), or ``parse`` fails.
        """
        value, hashed = self._read_json(name)
        try:
            found = parse(value)
        except (AttributeError, KeyError, TypeError, ValueError, InterpError, cattrs.BaseValidationError) as error:
            raise DataError(f"{self.path}: {name} is damaged: {error!r}") from error
        if not hashed:
            _warn_unhashed(self.path / name)
        return found

    def _read_json(self, name: str) -> tuple[Any, bool]:
        path = self.path / name
        try:
            value = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{self.path} is not a run folder: {name}: {reason(error)}") from error
        if not isinstance(value, dict) or _HASH not in value:
            return value, False
        there, found = value.pop(_HASH), content_hash({}, value)
        if there != found:
            raise DataError(f"{path} is damaged: it was written with content hash {there}, its content has {found}")
        return value, True

    def write_json(self, name: str, value: Mapping[str, Any], *, replace: bool = True) -> bool:
        """Write a JSON file of the run, atomically and with a hash of its content.

        Args:
            name: The file's name.
            value: What it holds.
            replace: Whether a file that is there already is replaced.

        Returns:
            Whether it was written.

        Raises:
            DataError: If it cannot be written.
        """
        plain = json.loads(json.dumps(value))
        text = json.dumps({_HASH: content_hash({}, plain), **plain}, indent=1, ensure_ascii=False)
        return write_atomically(self.path / name, text.encode(), replace=replace)

    def record_path(self, unit: str) -> Path:
        """Where the record of a unit of work is or will be."""
        return self.path / "records" / f"{unit}.safetensors"

    def read(self, cls: type[R], unit: str, **expected: Any) -> R | None:
        """A finished unit's record; ``None`` if it is not finished. For what is only drawn, not computed again.

        Args:
            cls: What it is a record of.
            unit: Which unit.
            expected: Fields that it must have with these values, such as ``fact=fact``.

        Raises:
            DataError: If the record is damaged, or that of another unit, another run or with other fields.
        """
        path = self.record_path(unit)
        return self._load(cls, path, unit, self.identity(), expected) if exists(path) else None

    def get(self, cls: type[R], unit: str, **expected: Any) -> R | None:
        """A finished unit's record; ``None`` if it is to be computed: not finished, damaged, or another's (logged).

        Args: See :meth:`read`.

        Raises:
            DataError: If the folder itself is damaged or cannot be read.
        """
        path, run = self.record_path(unit), self.identity()
        if not exists(path):
            return None
        try:
            return self._load(cls, path, unit, run, expected)
        except DataError as error:
            _log_again(unit, error)
            return None

    def has(self, cls: type[Record], unit: str, **expected: Any) -> bool:
        """Whether a unit is finished; if not, it is to be computed: not there, damaged, or another's (logged).

        As :meth:`get`, without making the record: each file is read once and its content hash compared, so a damaged
        record is found here, before anything rests on it, and one file at a time is in memory.

        Args: See :meth:`read`.

        Raises:
            DataError: If the folder itself is damaged or cannot be read.
        """
        path, run = self.record_path(unit), self.identity()
        if not exists(path):
            return False
        try:
            check_record(cls, path, unit=unit, run=run, about=expected)
        except DataError as error:
            _log_again(unit, error)
            return False
        return True

    def _load(self, cls: type[R], path: Path, unit: str, run: str, expected: Mapping[str, Any]) -> R:
        record = load_record(cls, path, unit=unit, run=run)
        check_about(path, {name: getattr(record, name) for name in expected}, expected)
        return record

    def put(self, unit: str, record: Record) -> None:
        """Keep a finished unit's record.

        Raises:
            DataError: If it cannot be written.
        """
        save_record(record, self.record_path(unit), unit=unit, run=self.identity())

    def identity(self) -> str:
        """Which run this is: the content hash of its settings; empty for a folder without settings."""
        return content_hash({}, self._read_json("run.json")[0]) if exists(self.path / "run.json") else ""


def _log_again(unit: str, error: DataError) -> None:
    logger.warning("computing %s again: %s", unit, error)


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing, and earlier versions did not record: no patches, full precision, no other source."""
    made, silent = settings.get("provenance"), {"patches": [], **NOTHING_SAID}
    if isinstance(made, dict):
        made = {name: value for name, value in made.items() if name not in silent or value != silent[name]}
    return {**settings, "provenance": made} if "provenance" in settings else settings


def _warn_unhashed(path: Path) -> None:
    warnings.warn(
        f"{path}: holds no hash of its content: nothing shows whether it is whole", InterpWarning, stacklevel=4
    )
