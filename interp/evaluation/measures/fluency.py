"""Fluency of what the model samples after the edit prompt (:func:`interp.evaluation.metrics.fluency`)."""

from __future__ import annotations

from interp.evaluation.averaging import MEAN
from interp.evaluation.measure import Measure, Unit

__all__ = ["MEASURE"]

MEASURE = Measure(
    name="fluency",
    title="Fluency",
    unit=Unit(name="bits x 100"),
    value=lambda said: said.fluency,
    average=MEAN,
    by_protocol=False,
)
