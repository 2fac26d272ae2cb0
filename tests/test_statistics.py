import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import interp.evaluation.statistics
from interp.errors import OptionError
from interp.evaluation import (
    Interval,
    bootstrap_mean,
    bootstrap_score,
    harmonic_mean,
    paired_difference,
    rank_correlation,
)

NAN = math.nan
VALUES = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=12)
SHARES = st.lists(st.tuples(*[st.sampled_from([0.0, 25.0, 50.0, 100.0])] * 3), min_size=1, max_size=8)


def numbers(n: int, seed: int) -> list[float]:
    return np.random.default_rng(seed).gamma(1.0, 30.0, n).tolist()


def of_scipy(
    columns: list[list[float]], statistic: Callable[..., float], resamples: int, seed: int
) -> tuple[float, float]:
    done = scipy.stats.bootstrap(
        [np.array(column) for column in columns],
        statistic,
        paired=len(columns) > 1,
        vectorized=False,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return done.confidence_interval.low, done.confidence_interval.high


def close(interval: Interval, mean: float, low: float, high: float, n: int) -> bool:
    assert (interval.mean, interval.low, interval.high) == pytest.approx((mean, low, high), nan_ok=True)
    assert interval.n == n
    return True


def test_interval_as_text() -> None:
    assert str(Interval(mean=87.46, low=71.24, high=98, n=9)) == "87.5 [71.2, 98.0]"
    assert str(Interval(mean=-0.04, low=-12.34, high=0.04, n=9)) == "0.0 [-12.3, 0.0]"
    assert str(Interval(mean=NAN, low=NAN, high=NAN, n=0)) == "nan [nan, nan]"


def test_mean_is_scipy_s() -> None:
    values = numbers(23, 0)
    expected = of_scipy([values], np.mean, 500, 7)
    assert close(bootstrap_mean(values, resamples=500, seed=7), np.mean(values), *expected, 23)


def test_score_is_scipy_s() -> None:
    columns = [numbers(15, seed) for seed in (1, 2, 3)]

    def score(*drawn: Any) -> float:
        return harmonic_mean([float(column.mean()) for column in drawn])

    expected = of_scipy(columns, score, 500, 7)
    estimate = harmonic_mean([float(np.mean(column)) for column in columns])
    assert close(bootstrap_score(*columns, resamples=500, seed=7), estimate, *expected, 15)


def test_correlation_is_scipy_s() -> None:
    x, y = numbers(15, 1), [round(a + b, -1) for a, b in zip(numbers(15, 1), numbers(15, 2), strict=True)]
    assert len(set(y)) < 15  # ties
    expected = of_scipy([x, y], lambda a, b: scipy.stats.spearmanr(a, b).statistic, 500, 7)
    estimate = scipy.stats.spearmanr(x, y).statistic
    assert close(rank_correlation(x, y, resamples=500, seed=7), estimate, *expected, 15)


def test_correlation_is_of_ranks() -> None:
    x = numbers(9, 0)
    assert close(rank_correlation(x, [math.exp(value / 30) for value in x], resamples=50), 1, 1, 1, 9)
    assert close(rank_correlation(x, [-value for value in x], resamples=50), -1, -1, -1, 9)


def test_interval_covers() -> None:
    """About 95 of 100 intervals hold the true mean of 50 cases."""
    draws = np.random.default_rng(0).normal(3.0, 1.0, (200, 50))
    intervals = [bootstrap_mean(draw.tolist(), resamples=400) for draw in draws]
    assert 0.88 <= np.mean([i.low <= 3 <= i.high for i in intervals]) <= 0.99
    assert np.mean([i.high - i.low for i in intervals]) == pytest.approx(2 * 1.96 / math.sqrt(50), rel=0.1)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_mean_properties(values: list[float]) -> None:
    interval = bootstrap_mean(values, resamples=400)
    slack = 1e-9
    assert min(values) - slack <= interval.low <= interval.mean + slack
    assert interval.mean - slack <= interval.high <= max(values) + slack
    assert interval.mean == pytest.approx(np.mean(values))
    shifted = bootstrap_mean([value + 10 for value in values], resamples=400)
    assert (shifted.low, shifted.high) == pytest.approx((interval.low + 10, interval.high + 10), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(VALUES, st.randoms(use_true_random=False))
def test_difference_is_antisymmetric(values: list[float], random: Any) -> None:
    other = random.sample(values, len(values))
    there = paired_difference(values, other, resamples=200)
    back = paired_difference(other, values, resamples=200)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SHARES)
def test_score_properties(shares: list[tuple[float, float, float]]) -> None:
    columns = [list(column) for column in zip(*shares, strict=True)]
    interval = bootstrap_score(*columns, resamples=200)
    means = [sum(column) / len(column) for column in columns]
    assert interval.mean == pytest.approx(harmonic_mean(means))
    assert interval.mean <= sum(means) / 3 + 1e-9
    assert 0 <= interval.low <= interval.high <= 100 + 1e-9
    swapped = bootstrap_score(*columns[::-1], resamples=200)
    assert (swapped.low, swapped.high) == pytest.approx((interval.low, interval.high))


def test_pairs_stay_together() -> None:
    a = numbers(20, 0)
    interval = paired_difference(a, [value + 3 for value in a], resamples=200)
    assert close(interval, -3, -3, -3, 20)  # drawn apart, the spread of the cases would show
    apart = bootstrap_mean(a, resamples=200)
    assert apart.high - apart.low > 5


def test_unmeasured_cases_are_left_out() -> None:
    values = [1.0, NAN, 4.0, 10.0, NAN]
    assert bootstrap_mean(values) == bootstrap_mean([1.0, 4.0, 10.0])
    assert bootstrap_mean(values).n == 3
    there = paired_difference([1.0, NAN, 4.0, 10.0, 5.0], [2.0, 3.0, NAN, 4.0, 5.5])
    assert there == bootstrap_mean([-1.0, 6.0, -0.5])
    x, y = [1.0, NAN, 2.0, 3.0, 9.0], [2.0, 8.0, NAN, 1.0, 5.0]
    assert rank_correlation(x, y) == rank_correlation([1.0, 3.0, 9.0], [2.0, 1.0, 5.0])
    assert rank_correlation(x, y).n == 3


def test_score_leaves_out_per_metric() -> None:
    reliability = [100.0, 0.0, 50.0, NAN]
    locality = [80.0, 90.0, 70.0, NAN]
    portability = [NAN, 20.0, NAN, NAN]
    interval = bootstrap_score(reliability, locality, portability, resamples=300, seed=3)
    draws = np.random.default_rng(3).integers(3, size=(300, 3))
    scores = []
    for draw in draws:
        means = []
        for column in (reliability, locality, portability):
            measured = [column[case] for case in draw if not math.isnan(column[case])]
            means.append(np.mean(measured) if measured else NAN)
        if not np.isnan(means).any():
            scores.append(harmonic_mean([float(mean) for mean in means]))
    assert 0 < len(scores) < 300
    assert close(interval, harmonic_mean([50, 80, 20]), *np.percentile(scores, [2.5, 97.5]), 3)


def test_one_zero_mean_makes_the_score_zero() -> None:
    assert close(bootstrap_score([100.0, 50.0], [0.0, 0.0], [30.0, 40.0], resamples=50), 0, 0, 0, 2)


def test_degenerate_draws_are_left_out() -> None:
    x, y = [0.0, 0.0, 0.0, 1.0], [2.0, 1.0, 4.0, 3.0]
    drawn = []
    for draw in np.random.default_rng(0).integers(4, size=(300, 4)):
        a, b = np.array(x)[draw], np.array(y)[draw]
        if len(set(a)) > 1 and len(set(b)) > 1:
            drawn.append(scipy.stats.spearmanr(a, b).statistic)
    assert len(drawn) < 250
    expected = np.percentile(drawn, [2.5, 97.5])
    assert close(rank_correlation(x, y, resamples=300), scipy.stats.spearmanr(x, y).statistic, *expected, 4)


def test_one_case() -> None:
    assert close(bootstrap_mean([7.5]), 7.5, 7.5, 7.5, 1)
    assert close(bootstrap_mean([NAN, 7.5]), 7.5, 7.5, 7.5, 1)
    assert close(paired_difference([7.5], [5.0]), 2.5, 2.5, 2.5, 1)
    assert close(bootstrap_score([50.0], [100.0], [100.0]), 75, 75, 75, 1)
    assert close(rank_correlation([1.0], [2.0]), NAN, NAN, NAN, 1)


@pytest.mark.parametrize("column", [[], [NAN], [NAN, NAN]])
def test_nothing_measured(column: list[float]) -> None:
    for interval in (
        bootstrap_mean(column),
        paired_difference(column, [1.0] * len(column)),
        bootstrap_score(column, column, column),
        rank_correlation(column, [1.0] * len(column)),
    ):
        assert close(interval, NAN, NAN, NAN, 0)


def test_undefined() -> None:
    assert close(rank_correlation([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]), NAN, NAN, NAN, 3)
    assert close(rank_correlation([5.0, 5.0, 5.0], [1.0, 2.0, 3.0]), NAN, NAN, NAN, 3)
    assert close(bootstrap_score([1.0, 2.0], [3.0, 4.0], [NAN, NAN]), NAN, NAN, NAN, 2)
    (seed,) = [s for s in range(9) if len(set(np.random.default_rng(s).integers(2, size=2))) == 1][:1]
    assert close(rank_correlation([1.0, 2.0], [3.0, 4.0], resamples=1, seed=seed), 1, NAN, NAN, 2)


def of_zero_difference(values: list[float], **options: Any) -> Interval:
    return paired_difference(values, [0.0] * len(values), **options)


def score_of_one(values: list[float], **options: Any) -> Interval:
    return bootstrap_score(values, values[::-1], values, **options)


def correlation_of_one(values: list[float], **options: Any) -> Interval:
    return rank_correlation(values, [value % 7 for value in values], **options)


@pytest.mark.parametrize("function", [bootstrap_mean, of_zero_difference, score_of_one, correlation_of_one])
def test_seed_and_resamples_count(function: Callable[..., Interval]) -> None:
    values = numbers(10, 0)
    assert function(values) == function(values, resamples=10_000, seed=0)
    assert function(values, resamples=99) != function(values, resamples=99, seed=1)
    assert function(values, resamples=99) != function(values, resamples=100)


@pytest.mark.parametrize("chunk", [1, 64, 333])
def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    columns = [numbers(9, seed) for seed in range(3)]
    whole = [bootstrap_mean(columns[0], resamples=101), bootstrap_score(*columns, resamples=101)]
    monkeypatch.setattr(interp.evaluation.statistics, "CHUNK", chunk)
    assert [bootstrap_mean(columns[0], resamples=101), bootstrap_score(*columns, resamples=101)] == whole


def test_errors() -> None:
    with pytest.raises(OptionError, match=r"^a and b differ in length: 2 and 1 cases$"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(OptionError, match=r"^x and y differ in length: 1 and 2 cases$"):
        rank_correlation([1.0], [1.0, 2.0])
    with pytest.raises(OptionError, match=r"^reliability and portability differ in length: 1 and 2 cases$"):
        bootstrap_score([1.0], [1.0], [1.0, 2.0])
    with pytest.raises(OptionError, match=r"^locality must not be negative, got -3\.0$"):
        bootstrap_score([1.0, 1.0], [2.0, -3.0], [1.0, 1.0])
    with pytest.raises(OptionError, match=r"^values must be finite"):
        bootstrap_mean([1.0, math.inf])
    with pytest.raises(OptionError, match=r"^b must be finite"):
        paired_difference([1.0], [-math.inf])
    with pytest.raises(OptionError, match=r"^resamples must be a positive whole number, got 0$"):
        bootstrap_mean([1.0], resamples=0)
    with pytest.raises(OptionError, match=r"^seed must be .* got -1$"):
        bootstrap_mean([NAN], seed=-1)
