"""The score of an edit: high only if it holds, leaves alone what it should, and has its consequences."""

from __future__ import annotations

from interp.evaluation.averaging import HARMONIC_MEAN
from interp.evaluation.measure import PERCENT, Measure

__all__ = ["MEASURE"]

MEASURE = Measure(
    name="score",
    title="Score",
    about="harmonic mean of reliability, locality and portability",  # checked against the paper's four rows
    unit=PERCENT,
    parts=("reliability", "locality", "portability"),
    average=HARMONIC_MEAN,
)
