"""Means, scores and paired differences over cases, with 95% intervals that hold (:mod:`interp.statistics.intervals`).

NaN is a number that was not measured. Where there is no interval, its ends are NaN and it says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from interp.errors import OptionError
from interp.options import check_positive, check_seed
from interp.statistics.intervals import MIN_BOUNDED, MIN_UNBOUNDED, bounded_interval, ratio_intervals

__all__ = ["Interval", "bootstrap_mean", "bootstrap_score", "paired_difference", "rank_correlation", "score_difference"]

SHARE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A statistic and its 95% interval. As text it has one decimal, which suits percent.

    Args:
        mean: The statistic of the cases themselves: a mean, a score or a correlation; NaN where it is undefined.
        low, high: The interval's bounds; NaN where there is no interval.
        n: How many cases it rests on.
        why: Why there is no interval, in words; empty where there is one, or no mean.
    """

    mean: float
    low: float
    high: float
    n: int
    why: str = ""

    def __str__(self) -> str:
        mean, low, high = (f"{round(value, 1) + 0.0:.1f}" for value in (self.mean, self.low, self.high))  # no -0.0
        if math.isnan(self.mean) or not (math.isnan(self.low) or math.isnan(self.high)):
            return f"{mean} [{low}, {high}]"
        return f"{mean} (no interval{f': {self.why}' if self.why else ''})"


def bootstrap_mean(
    values: Sequence[float],
    *,
    bounds: tuple[float, float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean over the cases that were measured.

    Args:
        values: One per case.
        bounds: The smallest and the largest value that there can be: (0, 1) for shares. With them the interval holds
            also where all cases agree; without them there is none then, and none for fewer than 12 cases.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If a value is infinite or out of bounds, or an option out of range.
    """
    _check_options(resamples, seed)
    (column,) = _columns(bounds, values=values)
    measured = column[~np.isnan(column)]
    if bounds is not None:
        return _bounded(measured[None], lambda means: means[0], [bounds], resamples, seed)
    n = len(measured)
    mean = float(measured.mean()) if n else math.nan
    why = "" if n >= MIN_UNBOUNDED else f"fewer than {MIN_UNBOUNDED} cases"
    if not n or why:
        return Interval(mean=mean, low=math.nan, high=math.nan, n=n, why=why if n else "")
    low, high = ratio_intervals(measured[:, None], np.ones(n), resamples=resamples, seed=seed)[:, 0].tolist()
    return Interval(mean=mean, low=low, high=high, n=n, why="all cases are equal" if math.isnan(low) else "")


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    bounds: tuple[float, float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of a - b over the cases that were measured in both.

    Args:
        a: One value per case.
        b: The same cases under another method.
        bounds: Of the values of a and b (see :func:`bootstrap_mean`).
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If the lengths differ, a value is infinite or out of bounds, or an option is out of range.
    """
    first, second = _columns(bounds, a=a, b=b)
    width = None if bounds is None else bounds[1] - bounds[0]
    return bootstrap_mean(
        (first - second).tolist(), bounds=None if width is None else (-width, width), resamples=resamples, seed=seed
    )


def bootstrap_score(
    *parts: Sequence[float], names: Sequence[str] = (), resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The harmonic mean of several means of shares; each mean is over the cases that were measured in it.

    ``n`` counts the cases measured in at least one part.

    Args:
        parts: Each one share, from 0 to 1, per case, of the same cases.
        names: Of the parts, for errors; ``part 1`` and so on if empty.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If there are no parts, their lengths differ, a value is no share, or an option is out of range.
    """
    _check_options(resamples, seed)
    columns = _columns(SHARE, **dict(zip(_part_names(len(parts), names), parts, strict=True)))
    return _bounded(columns[:, ~np.isnan(columns).all(0)], harmonic, [SHARE] * len(parts), resamples, seed)


def score_difference(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    *,
    names: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """How much the score of a exceeds that of b, paired by case.

    Args:
        a: The parts of the score, each a share per case.
        b: The same of the same cases under another method.
        names: See :func:`bootstrap_score`.
        resamples: Bootstrap samples; all numbers of a case are drawn together.
        seed: Of the bootstrap.

    Raises:
        OptionError: See :func:`bootstrap_score`.
    """
    _check_options(resamples, seed)
    columns = paired_columns(a, b, names)
    n = len(a)

    def difference(means: Float[np.ndarray, "parts resample"]) -> Float[np.ndarray, "resample"]:
        return harmonic(means[:n]) - harmonic(means[n:])

    return _bounded(columns, difference, [SHARE] * n + [SHARE[::-1]] * n, resamples, seed)


def paired_columns(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], names: Sequence[str] = ()
) -> Float[np.ndarray, "parts case"]:
    """The parts of two scores; a number counts only where the other method's is there too."""
    named = {
        f"{part} of {name}": column
        for name, side in (("a", a), ("b", b))
        for part, column in zip(_part_names(len(a), names), side, strict=True)
    }
    columns = _columns(SHARE, **named)
    both = ~np.isnan(columns[: len(a)]) & ~np.isnan(columns[len(a) :])
    columns[~np.concatenate([both, both])] = np.nan
    return columns[:, both.any(0)]


def _part_names(count: int, names: Sequence[str]) -> Sequence[str]:
    if not count:
        raise OptionError("a score of no parts")
    return names or [f"part {i}" for i in range(1, count + 1)]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Spearman's rank correlation over the layers that were measured in both, without an interval.

    It is undefined where one side is constant. There is no interval: neighbouring layers are alike, so they are no
    sample of anything. Between smooth curves that have nothing to do with each other an interval over layers excludes
    0 in 15 to 40 of 100 pairs; one over facts and cases would be of the correlation of these very curves, which is
    hardly ever 0 either. Whether localisation predicts editing has to be asked fact by fact.

    Args:
        x: One value per layer.
        y: The same layers.

    Raises:
        OptionError: If the lengths differ, or a value is infinite.
    """
    pairs = _columns(None, x=x, y=y)
    pairs = pairs[:, ~np.isnan(pairs).any(0)]
    n = pairs.shape[1]
    rho = _spearman(pairs) if n else math.nan
    why = "" if math.isnan(rho) else "neighbouring layers are alike, so they are no sample"
    return Interval(mean=rho, low=math.nan, high=math.nan, n=n, why=why)


def harmonic(means: Float[np.ndarray, "part resample"]) -> Float[np.ndarray, "resample"]:
    """The harmonic mean of means that are not negative; 0 where one is 0."""
    with np.errstate(divide="ignore", over="ignore"):  # 1/0 is infinite, and the score 0
        return len(means) / (1 / means).sum(0)


def _spearman(pairs: Float[np.ndarray, "side layer"]) -> float:
    x, y = (ranks - ranks.mean() for ranks in rankdata(pairs, axis=-1))
    spread = math.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum()) / spread if spread else math.nan


def _columns(bounds: tuple[float, float] | None, **values: Sequence[float]) -> Float[np.ndarray, "column case"]:
    (first, n), *others = ((name, len(column)) for name, column in values.items())
    for name, other in others:
        if other != n:
            raise OptionError(f"{first} and {name} differ in length: {n} and {other} cases")
    columns = np.array([list(column) for column in values.values()], dtype=np.float64)
    for name, column in zip(values, columns, strict=True):
        if np.isinf(column).any():
            raise OptionError(f"{name} must be finite, or NaN where it was not measured, got an infinite value")
        if bounds is not None:
            outside = [value for value in column.tolist() if value < bounds[0] or value > bounds[1]]
            if outside:
                raise OptionError(f"{name} must lie from {bounds[0]:g} to {bounds[1]:g}, got {outside[0]}")
    return columns


def _bounded(
    columns: Float[np.ndarray, "column case"],
    statistic: Callable[[Float[np.ndarray, "column resample"]], Float[np.ndarray, "resample"]],
    bounds: Sequence[tuple[float, float]],
    resamples: int,
    seed: int,
) -> Interval:
    """Bounds are given with the value first that makes the statistic smaller."""
    n = columns.shape[1]
    counts = (~np.isnan(columns)).sum(1)
    if not counts.all():
        return Interval(mean=math.nan, low=math.nan, high=math.nan, n=n)
    estimate = float(statistic(np.nanmean(columns, axis=1, keepdims=True))[0])
    if counts.min() < MIN_BOUNDED:
        return Interval(mean=estimate, low=math.nan, high=math.nan, n=n, why=f"fewer than {MIN_BOUNDED} cases")
    worst, best = zip(*bounds, strict=True)
    low, high = bounded_interval(columns, statistic, worst=worst, best=best, resamples=resamples, seed=seed)
    return Interval(mean=estimate, low=min(low, estimate), high=max(high, estimate), n=n)


def _check_options(resamples: int, seed: int) -> None:
    check_positive(resamples=resamples)
    check_seed(seed)
