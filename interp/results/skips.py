"""What a long run could not do, and why: units that are left out, now and at every restart.

    skipped/UNIT.json     unit -> reason, of one or of several that were found together; the first gives the name

One fact or case that does not fit must not stop a study of many; what was left out is named wherever it is counted.
Nothing is ever added to a file, so that processes which work in one folder lose none of each other's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interp.errors import DataError, FactError, NumericalError
from interp.results.record import content_hash
from interp.results.run_folder import RunFolder

__all__ = ["SKIPPABLE", "Skips"]

SKIPPABLE = (FactError, NumericalError)
"""What one fact or case can be the reason of; anything else stops a run."""
FOLDER = "skipped"
EARLIER = "skipped.json"  # one file, of earlier versions
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skips:
    """The units that a run leaves out."""

    run: RunFolder
    reasons: dict[str, str]

    @classmethod
    def of(cls, run: RunFolder) -> Skips:
        """Those of a run folder so far.

        Raises:
            DataError: If a file is damaged.
        """
        skips = cls(run, {})
        skips.refresh()
        return skips

    def refresh(self) -> None:
        """Take in what other processes have left out meanwhile.

        Raises:
            DataError: If a file is damaged.
        """
        earlier = [EARLIER] if (self.run.path / EARLIER).exists() else []
        for name in (*earlier, *(f"{FOLDER}/{path.name}" for path in _files(self.run))):
            stored = self.run.read_json(name)
            if not isinstance(stored, dict):
                kind = type(stored).__name__
                raise DataError(f"{self.run.path}: {name} is damaged: expected reasons by unit, got {kind}")
            self.reasons.update({str(unit): str(why) for unit, why in stored.items()})

    def __contains__(self, unit: object) -> bool:
        return unit in self.reasons

    def add(self, why: Mapping[str, Exception]) -> None:
        """Leave units out from now on; the log says so."""
        texts = {unit: " ".join(str(error).split()) for unit, error in why.items()}
        for unit, text in texts.items():
            logger.warning("left out: %s: %s", unit, text)
        if any(self.reasons.get(unit) != text for unit, text in texts.items()):
            self.reasons.update(texts)
            self.run.write_json(f"{FOLDER}/{_file_name(next(iter(texts)))}.json", texts)


def _files(run: RunFolder) -> list[Path]:
    """The files of what was left out, in the order of their names."""
    return sorted(path for path in (run.path / FOLDER).glob("*.json") if not path.name.startswith("."))


def _file_name(unit: str) -> str:
    """A unit's name, or what is left of one that cannot be a file's, with a hash that tells it apart."""
    plain = re.sub(r"[^A-Za-z0-9_,-]+", "-", unit)[:80]
    return plain if plain == unit else f"{plain}-{content_hash({}, {'unit': unit})[:8]}"
