"""Averages over facts by token class: the maps of Figure 1.

1. Per fact and class, collect the values of the class's tokens (pooled: every token counts once, as in the
   published average maps of Meng et al. 2022). A token without values (NaN) does not count.
2. Mean over all of them, per layer.
3. 95% interval over *facts* (tokens of one fact are not independent), by Student's t and the studentised bootstrap;
   and the span of layers that cannot be told from the peak (:mod:`interp.statistics.intervals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import OptionError
from interp.models.tokens import TOKEN_CLASSES, token_classes
from interp.results.record import Provenance, Record
from interp.results.token_map import TokenMap
from interp.statistics.intervals import MIN_PEAK, MIN_UNBOUNDED, largest_columns, ratio_intervals

__all__ = ["Averaging", "ClassAverage", "class_average"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClassAverage(Record):
    """A map of Figure 1.

    Args:
        method: The locator's name.
        title: What it shows, for a heading.
        unit: What a value means, for the colour bar.
        mean, low, high: Mean over the facts and its 95% interval; NaN where a class is empty. Of fewer than 12 facts
            there is no interval, and none where all facts agree.
        peak: Layer of the largest mean per class (-1 if empty).
        peak_low, peak_high: The span of the layers that cannot be told from the peak: it holds the layer of the
            largest mean over all such facts in at least 92 of 100 studies. -1 for fewer than 5 facts.
        n_facts: How many facts have a token of the class, with values.
        n_tokens: How many tokens were averaged.
        left_out: The facts that were chosen and could not be located, and why.
    """

    method: str
    title: str
    unit: str
    token_classes: tuple[str, ...]
    mean: Float[Tensor, "token_class layer"]
    low: Float[Tensor, "token_class layer"]
    high: Float[Tensor, "token_class layer"]
    peak: tuple[int, ...]
    peak_low: tuple[int, ...]
    peak_high: tuple[int, ...]
    n_facts: tuple[int, ...]
    n_tokens: tuple[int, ...]
    left_out: tuple[str, ...] = ()


def class_average(
    maps: Sequence[TokenMap],
    records: Sequence[Record],
    *,
    left_out: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> ClassAverage:
    """Average maps of facts by token class.

    Args:
        maps: One per fact, all of one locator and with the same number of layers.
        records: The results they come from; all of one model.
        left_out: See :class:`ClassAverage`.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If there are no maps, they show different things, have no subject or lack values of some layers,
            or they come from different models.
    """
    averaging = Averaging()
    for entry, record in zip(maps, records, strict=True):
        averaging.add(entry, record.provenance)
    return averaging.result(left_out=left_out, resamples=resamples, seed=seed)


class Averaging:
    """Averages maps that come one after the other; of each it keeps the sums of its classes alone."""

    def __init__(self) -> None:
        self._first: tuple[TokenMap, Provenance] | None = None
        self._sums: list[Float[np.ndarray, "token_class layer"]] = []
        self._counts: list[Float[np.ndarray, "token_class"]] = []

    def add(self, entry: TokenMap, source: Provenance) -> None:
        """One more fact.

        Args:
            entry: Its map.
            source: What the map comes from.

        Raises:
            OptionError: If it shows something else than those before, has no subject, lacks values of some layers, or
                comes from another model.
        """
        first, origin = self._first = self._first or (entry, source)
        if (entry.locator, entry.title, entry.unit) != (first.locator, first.title, first.unit):
            titles = sorted({first.title, entry.title})
            raise OptionError(f"maps of different things cannot be averaged: {titles}")
        if (source.model, source.weights_hash) != (origin.model, origin.weights_hash):
            raise OptionError(f"the {first.locator} results come from different models and cannot be averaged")
        sums, counts = _pooled(entry, len(self._sums))
        self._sums.append(sums)
        self._counts.append(counts)

    def result(self, *, left_out: Sequence[str] = (), resamples: int = 2000, seed: int = 0) -> ClassAverage:
        """The average of what was added.

        Args:
            left_out: See :class:`ClassAverage`.
            resamples: Bootstrap samples.
            seed: Of the bootstrap.

        Raises:
            OptionError: If nothing was.
        """
        if self._first is None:
            raise OptionError("no facts to average")
        entry, source = self._first
        counts = np.stack(self._counts, 1)
        shown = _statistics(np.stack(self._sums, 1), counts, resamples=resamples, seed=seed)
        return ClassAverage(
            provenance=source,
            method=entry.locator,
            title=entry.title,
            unit=entry.unit,
            token_classes=TOKEN_CLASSES,
            mean=torch.from_numpy(shown.mean).float(),
            low=torch.from_numpy(shown.low).float(),
            high=torch.from_numpy(shown.high).float(),
            peak=tuple(shown.peak),
            peak_low=tuple(shown.peak_low),
            peak_high=tuple(shown.peak_high),
            n_facts=tuple(int(n) for n in (counts > 0).sum(1)),
            n_tokens=tuple(int(n) for n in counts.sum(1)),
            left_out=tuple(left_out),
        )


def _pooled(
    entry: TokenMap, fact: int
) -> tuple[Float[np.ndarray, "token_class layer"], Float[np.ndarray, "token_class"]]:
    """Per class the sum over the class's tokens that have values, and how many they are."""
    values, span = entry.values.double().numpy(), entry.subject_span
    if span is None:
        raise OptionError(f"the {entry.locator} map of fact {fact} has no subject, so its tokens have no class")
    lacking = np.isnan(values)
    if (lacking.any(1) & ~lacking.all(1)).any():
        raise OptionError(f"the {entry.locator} map of fact {fact} lacks values of some layers, so it has no average")
    measured = ~lacking.any(1)
    classes = [
        [position for position in positions if measured[position]]
        for positions in token_classes(len(values), span).values()
    ]
    sums = np.stack([values[positions].sum(0) for positions in classes])
    return sums, np.array([float(len(positions)) for positions in classes])


@dataclass(frozen=True, kw_only=True)
class _Statistics:
    """Means, intervals and peaks, as :class:`ClassAverage` has them."""

    mean: Float[np.ndarray, "token_class layer"]
    low: Float[np.ndarray, "token_class layer"]
    high: Float[np.ndarray, "token_class layer"]
    peak: list[int]
    peak_low: list[int]
    peak_high: list[int]


def _statistics(
    sums: Float[np.ndarray, "token_class fact layer"],
    counts: Float[np.ndarray, "token_class fact"],
    *,
    resamples: int,
    seed: int,
) -> _Statistics:
    """What the values of each class come to, as far as there are facts enough."""
    classes, _, layers = sums.shape
    mean, low, high = (np.full((classes, layers), np.nan) for _ in range(3))
    peak, peak_low, peak_high = ([-1] * classes for _ in range(3))
    for row, n_facts in enumerate((counts > 0).sum(1)):
        if not n_facts:
            continue
        mean[row] = sums[row].sum(0) / counts[row].sum()
        peak[row] = int(mean[row].argmax())
        if n_facts >= MIN_UNBOUNDED:
            low[row], high[row] = ratio_intervals(sums[row], counts[row], resamples=resamples, seed=seed)
        if n_facts >= MIN_PEAK:
            peak_low[row], peak_high[row] = largest_columns(sums[row], counts[row], resamples=resamples, seed=seed)
    return _Statistics(mean=mean, low=low, high=high, peak=peak, peak_low=peak_low, peak_high=peak_high)
