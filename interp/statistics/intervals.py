"""95% intervals that hold for few and odd cases: of bounded means, and of ratios of sums.

Which method serves which number was chosen by simulation (``python -m benchmarks.coverage``, in short
``tests/test_coverage.py``): where a share of .9 is measured in 12 cases, the percentile bootstrap, BCa and Student's t
cover it in 70 of 100 studies.

**Bounded** (shares of questions, their harmonic mean, paired differences): Gaffke's bound.

1. Add one imaginary case that has the best value there is.
2. Give all cases random weights that add up to 1 (uniformly distributed: Rubin's Bayesian bootstrap), and compute the
   statistic; repeat. The upper end is the 97.5th percentile of the results.
3. The lower end likewise, with an imaginary case that has the worst value.

For shares of 0 and 1 this is the interval of Clopper and Pearson; where the values vary less it is narrower. It does
not shrink to a point when all cases agree: 12 of 12 give [74%, 100%]. Sources: Gaffke 2005; Learned-Miller & Thomas
2019 (arXiv:1905.06208).

**Unbounded** (fluency, maps): the wider end on either side of Student's t and of the studentised bootstrap, which
follows the skew of the values, both at a nominal 97.5%: with skewed values that holds the truth in 92 to 97 of 100.
Values that are rarely very different (one case in ten, far off) defeat it, as they defeat every method that sees the
cases alone: with 12 cases one in four samples has none of them.

**Peaks** of curves: the columns that cannot be told from the largest one, at once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import norm
from scipy.stats import t as student

__all__ = ["MIN_BOUNDED", "MIN_PEAK", "MIN_UNBOUNDED", "bounded_interval", "largest_columns", "ratio_intervals"]

MIN_BOUNDED = 5
"""The fewest cases for the interval of a bounded number: with fewer it would hold and say nothing."""
MIN_UNBOUNDED = 12
"""The fewest cases for the interval of an unbounded number: with fewer, skewed values are covered too rarely."""
MIN_PEAK = 5
"""The fewest cases for the span of columns that may have the largest ratio."""

TAILS = (0.025, 0.975)
SKEWED = (0.0125, 0.9875)
"""Tails of the interval of unbounded numbers: of 12 to 40 skewed values a nominal 95% holds only 90%."""
CHUNK = 2**20
"""Numbers drawn at once, which bounds the memory."""


def bounded_interval(
    columns: Float[np.ndarray, "column case"],
    statistic: Callable[[Float[np.ndarray, "column resample"]], Float[np.ndarray, "resample"]],
    *,
    worst: Sequence[float],
    best: Sequence[float],
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """The interval of a statistic of means, each over the cases that were measured.

    Args:
        columns: What is averaged; NaN where it was not measured. Numbers of a case stay together.
        statistic: Of the columns' means; it may only grow, or only fall, with each of them.
        worst, best: Of each column, the value within its bounds that makes the statistic smallest, and largest.
        resamples: Random weightings.
        seed: Of the weights.
    """
    cases = columns.shape[1]
    ends = np.array([[[low, high]] for low, high in zip(worst, best, strict=True)])  # column, one case, end
    padded = np.concatenate([np.repeat(columns[:, :, None], 2, axis=2), ends], axis=1)
    measured = ~np.isnan(padded)
    values = np.where(measured, padded, 0.0)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // (cases + 1))
    results = []
    for first in range(0, resamples, rows):
        weights = generator.exponential(size=(min(rows, resamples - first), cases + 1))
        means = [
            [weights @ values[c, :, e] / (weights @ measured[c, :, e]) for c in range(len(columns))] for e in (0, 1)
        ]
        results.append([statistic(np.array(of_end)) for of_end in means])
    low, high = np.concatenate(results, axis=1)
    return float(np.quantile(low, TAILS[0])), float(np.quantile(high, TAILS[1]))


def ratio_intervals(
    sums: Float[np.ndarray, "case column"], counts: Float[np.ndarray, "case"], *, resamples: int, seed: int
) -> Float[np.ndarray, "2 column"]:
    """The interval of each column's sum over all cases by the sum of the counts; with counts of 1, of its mean.

    NaN where the cases do not differ: what would be said of others is unknown then.

    Args:
        sums: What is added up, per case.
        counts: How much each case counts; cases that count nothing are left out.
        resamples: Bootstrap samples of cases.
        seed: Of the bootstrap.
    """
    sums, counts = sums[counts > 0], counts[counts > 0]
    n = len(counts)
    if n < 2:
        return np.full((2, sums.shape[1]), np.nan)
    ratio, away, error, weights = _resampled(sums, counts, resamples, seed)
    differ = error > 1e-12 * np.abs(sums).max(0).clip(1e-300)
    drawn = (weights @ counts)[:, None]
    moved = weights @ away / drawn  # how far a sample's ratio is from that of all cases
    squares = (
        weights @ away**2 - 2 * moved * (weights @ (away * counts[:, None])) + moved**2 * (weights @ counts**2)[:, None]
    )
    errors = np.sqrt(squares.clip(0) * n / (n - 1)) / drawn
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = np.where(errors > 1e-6 * error, moved / errors, np.nan)
    bound = student.ppf(SKEWED[1], n - 1)
    ends = np.full((2, sums.shape[1]), np.nan)
    for column in np.flatnonzero(differ):
        found = pivots[~np.isnan(pivots[:, column]), column]
        low, high = np.quantile(found, SKEWED) if len(found) else (-bound, bound)
        ends[:, column] = ratio[column] - np.array([max(high, bound), min(low, -bound)]) * error[column]
    return ends


def largest_columns(
    sums: Float[np.ndarray, "case column"], counts: Float[np.ndarray, "case"], *, resamples: int, seed: int
) -> tuple[int, int]:
    """First and last of the columns that may have the largest ratio of all (comparison with the best, Hsu 1984).

    A column is left out if some other exceeds it by more than is explained by which cases were drawn: by more
    standard errors of their difference than the largest such excess reaches in 95 of 100 bootstrap samples, in which
    the true difference is 0. So a span, not a set: it holds the largest column in at least 92 of 100 studies.

    Args:
        sums, counts, resamples, seed: See :func:`ratio_intervals`; there must be at least two cases that count.
    """
    sums, counts = sums[counts > 0], counts[counts > 0]
    n, columns = sums.shape
    if columns == 1:
        return 0, 0
    ratio, away, _, weights = _resampled(sums, counts, resamples, seed)
    moved = weights @ away / (weights @ counts)[:, None]
    few = student.ppf(TAILS[1], n - 1) / norm.ppf(TAILS[1])  # what estimating the errors from few cases adds
    kept = []
    for column in range(columns):
        others = np.arange(columns) != column
        apart = away[:, others] - away[:, [column]]
        error = np.sqrt((apart**2).sum(0) * n / (n - 1)) / counts.sum()
        error = error.clip(1e-12 * max(float(np.abs(ratio).max()), 1e-300))
        excess = ((ratio[others] - ratio[column]) / error).max(initial=-np.inf)
        chance = ((moved[:, others] - moved[:, [column]]) / error).max(1, initial=-np.inf)
        if excess <= few * max(0.0, float(np.quantile(chance, 0.95))):
            kept.append(column)
    return kept[0], kept[-1]


def _resampled(
    sums: Float[np.ndarray, "case column"], counts: Float[np.ndarray, "case"], resamples: int, seed: int
) -> tuple[
    Float[np.ndarray, "column"],
    Float[np.ndarray, "case column"],
    Float[np.ndarray, "column"],
    Float[np.ndarray, "resample case"],
]:
    """The ratios, each case's distance from them, their standard errors, and how often each sample holds each case."""
    n = len(counts)
    ratio = sums.sum(0) / counts.sum()
    away = sums - counts[:, None] * ratio  # squares are summed about the mean, not to lose them in it
    error = np.sqrt((away**2).sum(0) * n / (n - 1)) / counts.sum()
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    weights = np.stack([np.bincount(draw, minlength=n) for draw in draws]).astype(float)
    return ratio, away, error, weights
