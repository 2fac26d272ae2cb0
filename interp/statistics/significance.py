"""Is one method better than another? Paired permutation tests, corrected for how many there are.

1. If the two methods did the same, each case's two results could as well be exchanged.
2. Exchange them at random, case by case (all ways, where there are few), and compute the difference each time; p is
   the share of differences at least as large, of either sign.
3. Of many comparisons some look good by chance: Holm's correction (1979) bounds the probability of a single false one
   among them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import permutation_test

from interp.statistics.estimates import harmonic, paired_columns

__all__ = ["SIGNIFICANT", "holm", "paired_p_value", "score_p_value"]

SIGNIFICANT = 0.05
RESAMPLES = 9_999
"""Random exchanges; up to 13 cases there are fewer ways, and all are taken."""


def paired_p_value(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> float:
    """Of the mean of a - b over the cases that were measured in both; NaN where there are none.

    Args:
        a: One value per case.
        b: The same cases under another method.
        seed: Of the exchanges.
    """
    pairs = np.array([list(a), list(b)], dtype=float)
    return _p_value(pairs[:, ~np.isnan(pairs).any(0)], lambda means: means[0], seed)


def score_p_value(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, seed: int = 0) -> float:
    """Of the difference of two scores (see :func:`~interp.statistics.estimates.score_difference`)."""
    return _p_value(paired_columns(a, b), harmonic, seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number; NaN is no test, and stays NaN."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for place, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - place) * p))
        corrected[i] = largest
    return corrected


def _p_value(
    columns: Float[np.ndarray, "column case"],
    statistic: Callable[[Float[np.ndarray, "part resample"]], Float[np.ndarray, "resample"]],
    seed: int,
) -> float:
    """Columns: the parts of the first method's statistic, then those of the second's."""
    n = columns.shape[1]
    parts = len(columns) // 2
    if not n or np.isnan(columns).all(1).any():
        return math.nan
    if n == 1:  # both ways of exchanging one case are as far from 0
        return 1.0
    by_part = np.concatenate([columns[:parts], columns[parts:]], axis=1)  # part, then cases of the first and the second
    measured = np.nan_to_num(by_part), ~np.isnan(by_part)

    def difference(
        first: Int[np.ndarray, "*resample case"], second: Int[np.ndarray, "*resample case"], axis: int = -1
    ) -> Float[np.ndarray, "*resample"]:
        scores = []
        for chosen in (first, second):
            means = np.array([v[chosen].sum(axis) / m[chosen].sum(axis) for v, m in zip(*measured, strict=True)])
            scores.append(statistic(means.reshape(parts, -1)).reshape(means.shape[1:]))
        return np.asarray(scores[0] - scores[1])

    cases = np.arange(n)
    done = permutation_test(
        (cases, cases + n), difference, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(done.pvalue)
