"""A run folder: what ran, and one record per finished unit of work, each written atomically.

    run.json              settings, versions and the model's weights hash: a rerun must agree with them
    selection.json        the facts that were chosen
    records/UNIT.safetensors

The folder is the truth of a long run: a rerun does what is missing, and figures are drawn from it without a model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from interp.errors import DataError
from interp.results import Record, load_record, save_record, write_atomically

__all__ = ["RunFolder"]

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class RunFolder:
    """A folder of finished work (see the module for what is in it)."""

    path: Path

    @classmethod
    def open(cls, path: str | Path, settings: Mapping[str, Any]) -> RunFolder:
        """Start a run, or take up one with the same settings.

        Raises:
            DataError: If the folder cannot be written or holds a run with other settings (names them).
        """
        run = cls(Path(path))
        if not run.agrees(settings):
            run.write_json("run.json", dict(settings))
        return run

    def agrees(self, settings: Mapping[str, Any]) -> bool:
        """Whether a run with these settings is here; False if none is.

        Raises:
            DataError: If the folder holds a run with other settings (names the first).
        """
        if not (self.path / "run.json").exists():
            return False
        there, wanted = self.settings(), json.loads(json.dumps(dict(settings)))
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
        settings = self.read_json("run.json")
        if not isinstance(settings, dict):
            raise DataError(f"{self.path} is not a run folder: run.json holds no settings")
        return settings

    def read_json(self, name: str) -> Any:
        """A JSON file of the run.

        Raises:
            DataError: If it is missing or not JSON.
        """
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} is not a run folder: {name}: {error}") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, atomically."""
        write_atomically(self.path / name, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def record_path(self, unit: str) -> Path:
        """Where the record of a unit of work is or will be."""
        return self.path / "records" / f"{unit}.safetensors"

    def get(self, cls: type[R], unit: str) -> R | None:
        """A finished unit's record; ``None`` if it is not finished, or damaged (which is logged)."""
        path = self.record_path(unit)
        if not path.exists():
            return None
        try:
            return load_record(cls, path)
        except DataError as error:
            logger.warning("computing %s again: %s", unit, error)
            return None

    def put(self, unit: str, record: Record) -> None:
        """Keep a finished unit's record."""
        save_record(record, self.record_path(unit))
