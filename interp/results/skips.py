"""What a long run could not do, and why: units that are left out, now and at every restart.

    skipped.json          unit -> reason

One fact or case that does not fit must not stop a study of many; what was left out is named wherever it is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from interp.errors import DataError, FactError, NumericalError
from interp.results.run_folder import RunFolder

__all__ = ["SKIPPABLE", "Skips"]

SKIPPABLE = (FactError, NumericalError)
"""What one fact or case can be the reason of; anything else stops a run."""
FILE = "skipped.json"
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
            DataError: If the file is damaged.
        """
        if not (run.path / FILE).exists():
            return cls(run, {})
        stored = run.read_json(FILE)
        if not isinstance(stored, dict):
            raise DataError(f"{run.path}: {FILE} is damaged: expected reasons by unit, got {type(stored).__name__}")
        return cls(run, {str(unit): str(why) for unit, why in stored.items()})

    def __contains__(self, unit: object) -> bool:
        return unit in self.reasons

    def add(self, why: Mapping[str, Exception]) -> None:
        """Leave units out from now on; the log says so."""
        texts = {unit: " ".join(str(error).split()) for unit, error in why.items()}
        for unit, text in texts.items():
            logger.warning("left out: %s: %s", unit, text)
        if any(self.reasons.get(unit) != text for unit, text in texts.items()):
            self.reasons.update(texts)
            self.run.write_json(FILE, self.reasons)
