"""Means and correlations over cases with 95% intervals by the percentile bootstrap (Efron 1979).

1. Draw as many cases as there are, with replacement; all numbers of a case are drawn together.
2. Compute the statistic of the draw.
3. Repeat; the interval goes from the 2.5th to the 97.5th percentile of the results.

NaN is a number that was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from interp.errors import OptionError
from interp.options import check_positive, check_seed

__all__ = ["Interval", "bootstrap_mean", "bootstrap_score", "paired_difference", "rank_correlation"]

TAILS = (2.5, 97.5)
CHUNK = 2**20
"""Numbers drawn at once, which bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A statistic and its 95% interval; NaN where it is undefined. As text it has one decimal, which suits percent.

    Args:
        mean: The statistic of the cases themselves: a mean, a score or a correlation.
        low, high: The interval's bounds.
        n: How many cases it rests on.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        mean, low, high = (f"{round(value, 1) + 0.0:.1f}" for value in (self.mean, self.low, self.high))  # no -0.0
        return f"{mean} [{low}, {high}]"


def bootstrap_mean(values: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean over the cases that were measured.

    Args:
        values: One per case.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If a value is infinite, or an option out of range.
    """
    (column,) = _columns(values=values)
    return _bootstrap(column[None, ~np.isnan(column)], lambda drawn: drawn[0].mean(-1), resamples, seed)


def paired_difference(a: Sequence[float], b: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of a - b over the cases that were measured in both.

    Args:
        a: One value per case.
        b: The same cases under another method.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If the lengths differ, a value is infinite, or an option is out of range.
    """
    first, second = _columns(a=a, b=b)
    return bootstrap_mean((first - second).tolist(), resamples=resamples, seed=seed)


def bootstrap_score(
    reliability: Sequence[float],
    locality: Sequence[float],
    portability: Sequence[float],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The harmonic mean of three means; each mean is over the cases that were measured in it.

    ``n`` counts the cases measured in at least one of the three. A draw without any case of one of them has no
    score and is left out.

    Args:
        reliability: One value per case.
        locality: The same cases.
        portability: The same cases.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If the lengths differ, a value is negative or infinite, or an option is out of range.
    """
    columns = _columns(reliability=reliability, locality=locality, portability=portability)
    for name, column in zip(("reliability", "locality", "portability"), columns, strict=True):
        if (column < 0).any():
            raise OptionError(f"{name} must not be negative, got {float(column[column < 0][0])}")
    return _bootstrap(columns[:, ~np.isnan(columns).all(0)], _score, resamples, seed)


def rank_correlation(x: Sequence[float], y: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Spearman's rank correlation over the pairs that were measured in both.

    It is undefined where one side is constant; draws in which it is are left out.

    Args:
        x: One value per case.
        y: The same cases.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If the lengths differ, a value is infinite, or an option is out of range.
    """
    pairs = _columns(x=x, y=y)
    return _bootstrap(pairs[:, ~np.isnan(pairs).any(0)], _spearman, resamples, seed)


def _score(drawn: Float[np.ndarray, "3 resample case"]) -> Float[np.ndarray, "resample"]:
    measured = ~np.isnan(drawn)
    with np.errstate(divide="ignore", invalid="ignore"):  # 1/0 is infinite, and the score 0; 0/0 is not measured
        means = np.where(measured, drawn, 0).sum(-1) / measured.sum(-1)
        return 3 / (1 / means).sum(0)


def _spearman(drawn: Float[np.ndarray, "2 resample case"]) -> Float[np.ndarray, "resample"]:
    ranks = rankdata(drawn, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    x, y = ranks
    with np.errstate(invalid="ignore"):  # 0/0 where a side is constant
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def _columns(**values: Sequence[float]) -> Float[np.ndarray, "column case"]:
    (first, n), *others = ((name, len(column)) for name, column in values.items())
    for name, other in others:
        if other != n:
            raise OptionError(f"{first} and {name} differ in length: {n} and {other} cases")
    columns = np.array([list(column) for column in values.values()], dtype=np.float64)
    for name, column in zip(values, columns, strict=True):
        if np.isinf(column).any():
            raise OptionError(f"{name} must be finite, or NaN where it was not measured, got an infinite value")
    return columns


def _bootstrap(
    columns: Float[np.ndarray, "column case"],
    statistic: Callable[[Float[np.ndarray, "column resample case"]], Float[np.ndarray, "resample"]],
    resamples: int,
    seed: int,
) -> Interval:
    check_positive(resamples=resamples)
    check_seed(seed)
    n = columns.shape[1]
    estimate = float(statistic(columns[:, None])[0]) if n else np.nan
    if np.isnan(estimate):
        return Interval(mean=np.nan, low=np.nan, high=np.nan, n=n)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // n)
    results = np.concatenate(
        [
            statistic(columns[:, generator.integers(n, size=(min(rows, resamples - first), n))])
            for first in range(0, resamples, rows)
        ]
    )
    defined = results[~np.isnan(results)]
    low, high = np.percentile(defined, TAILS) if len(defined) else (np.nan, np.nan)
    return Interval(mean=estimate, low=float(low), high=float(high), n=n)
