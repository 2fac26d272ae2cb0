"""Numbers as comma-separated values."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from interp.statistics.estimates import Interval

__all__ = ["csv_numbers", "csv_text"]


def csv_text(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Lines as comma-separated values.

    Raises:
        ValueError: If a line has not as many cells as the header.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in (header, *lines):
        writer.writerow([cell for cell, _ in zip(line, header, strict=True)])
    return text.getvalue()


def csv_numbers(found: Interval) -> tuple[object, ...]:
    """Mean, bounds and n as cells; NaN is an empty one."""
    ends = ("" if math.isnan(value) else repr(float(value)) for value in (found.mean, found.low, found.high))
    return (*ends, found.n)
