"""Maps that are being computed: each time only the rows that are new, and no more often than a page can draw."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from interp.explorer.page import map_data

__all__ = ["GrowingMaps"]

SECONDS_PER_CELL = 5e-5
"""Between two looks at a map that grows: one of 57 tokens and 30 layers is shown 11 times a second at most."""


class GrowingMaps:
    """What the page holds of maps that are not finished."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown: dict[str, dict[str, Any]] = {}
        self._clock = clock
        self._at = 0.0
        self._number = 0

    def news(self, method: str, found: Any) -> dict[str, Any] | None:
        """What to tell the page; ``None`` if it was told a moment ago."""
        now = self._clock()
        before = self.shown.get(method)
        if before is not None:
            cells = len(before["values"]) * len(before["values"][0])
            if now - self._at < cells * SECONDS_PER_CELL:
                return None
        data = map_data(found, finished=False)
        self.shown[method], self._at = data, now
        self._number += 1
        return {**_changed(data, before), "number": self._number}

    def end(self, method: str) -> None:
        """The map is finished, or given up."""
        self.shown.pop(method, None)


def _changed(data: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """What is new in a map that grows, of :func:`map_data`: rows by token, and the colour scale.

    The page holds the other rows; a map of 57 tokens would otherwise be sent 57 times.
    """
    old = before["values"] if before else [[None] * len(row) for row in data["values"]]
    rows = {str(i): row for i, (row, was) in enumerate(zip(data["values"], old, strict=True)) if row != was}
    rest = {name: value for name, value in data.items() if name not in ("values", "palette")}
    if before is None or before["palette"] != data["palette"]:
        rest["palette"] = data["palette"]
    return {**rest, "rows": rows, "first": before is None, "n_tokens": len(data["values"])}
