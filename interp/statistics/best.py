"""Which of several treatments of the same cases are told to be worse than the best: permutations within cases.

The best of many in a sample is best partly by luck, so a pairwise p-value against it is too small. Instead:

1. If the treatments did the same, each case's results could as well stand under each other's names.
2. Exchange the names at random, case by case, and compute how far the best and the worst treatment are apart; p of a
   treatment is the share of exchanges in which that is at least as far as it is from the best one.
3. From the worst up, each against those that are not worse than it, and no p smaller than that of a worse one
   (Westfall & Young's step down).

So whichever is best, by luck or not: where all do the same, one of them or more is told to be worse in 5 of 100
samples. It is the permutation form of Tukey's range test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator

from interp.errors import OptionError
from interp.options import check_seed
from interp.statistics.estimates import harmonic

__all__ = ["worse_than_best"]

RESAMPLES = 4_999
CHUNK = 2**20
"""Numbers that are exchanged at once, which bounds the memory."""
SAME = 1e-12
"""Differences of rounding."""


def worse_than_best(
    treatments: Sequence[Float[np.ndarray, "part case"]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[float]:
    """For each treatment a p-value of not being worse than the best, corrected for all of them; 1 for the best.

    The statistic of a treatment is the harmonic mean of its parts' means over cases (of one part: its mean).

    Args:
        treatments: Each the same parts of the same cases, shares from 0 to 1; NaN where a case has no such part.
        resamples: Random exchanges.
        seed: Of the exchanges.

    Raises:
        OptionError: If there are no treatments, their shapes differ, or a case has a part under some of them only.
    """
    check_seed(seed)
    if not treatments:
        raise OptionError("no treatments to compare")
    if len({values.shape for values in treatments}) != 1:
        raise OptionError(f"treatments differ in shape: {[values.shape for values in treatments]}")
    values = np.stack([np.asarray(each, dtype=float) for each in treatments])
    measured = ~np.isnan(values)
    if (measured != measured[:1]).any():
        raise OptionError("a case has a part under some treatments and not under others: they cannot be exchanged")
    n = len(values)
    if n == 1 or not measured[0].any(1).all():
        return [1.0] * n
    filled, counted = np.nan_to_num(values), measured[0]
    found = _statistics(filled[None], counted)[0]
    order = np.argsort(found, kind="stable")  # the worst first
    generator = np.random.default_rng(seed)
    p_values, largest = [1.0] * n, 0.0
    for place, treatment in enumerate(order[:-1]):
        apart = found.max() - found[treatment]
        ranges = _ranges(filled[order[place:]], counted, resamples, generator)
        p = (1 + int((ranges >= apart - SAME).sum())) / (1 + resamples)
        largest = max(largest, p)
        p_values[int(treatment)] = largest if apart > SAME else 1.0
    return p_values


def _ranges(
    values: Float[np.ndarray, "treatment part case"],
    counted: Bool[np.ndarray, "part case"],
    resamples: int,
    generator: Generator,
) -> Float[np.ndarray, "resample"]:
    """How far the best and the worst are apart, for each exchange of names within the cases."""
    n, _, cases = values.shape
    rows = max(1, CHUNK // values.size)
    ranges: list[np.ndarray] = []
    for first in range(0, resamples, rows):
        size = min(rows, resamples - first)
        names = generator.random((size, n, cases)).argsort(1)
        exchanged = values[names, :, np.arange(cases)]  # resample, treatment, case, part
        found = _statistics(exchanged.transpose(0, 1, 3, 2), counted)
        ranges.append(found.max(1) - found.min(1))
    return np.concatenate(ranges)


def _statistics(
    values: Float[np.ndarray, "resample treatment part case"], counted: Bool[np.ndarray, "part case"]
) -> Float[np.ndarray, "resample treatment"]:
    means = np.moveaxis(values.sum(-1) / counted.sum(-1), -1, 0)
    return np.asarray(harmonic(means.reshape(len(means), -1)).reshape(means.shape[1:]))
