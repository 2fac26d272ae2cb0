import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import interp.statistics.intervals
from interp.errors import OptionError
from interp.evaluation import (
    Interval,
    bootstrap_mean,
    bootstrap_score,
    harmonic_mean,
    paired_difference,
    rank_correlation,
    score_difference,
)
from interp.statistics.intervals import largest_columns, ratio_intervals
from interp.statistics.significance import holm, paired_p_value, score_p_value

NAN = math.nan
VALUES = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=12)
SHARES = st.lists(st.tuples(*[st.sampled_from([0.0, 25.0, 50.0, 100.0])] * 3), min_size=1, max_size=8)


def numbers(n: int, seed: int) -> list[float]:
    return np.random.default_rng(seed).gamma(1.0, 30.0, n).tolist()


def close(interval: Interval, mean: float, low: float, high: float, n: int) -> bool:
    assert (interval.mean, interval.low, interval.high) == pytest.approx((mean, low, high), nan_ok=True)
    assert interval.n == n
    return True


def test_interval_as_text() -> None:
    assert str(Interval(mean=87.46, low=71.24, high=98, n=9)) == "87.5 [71.2, 98.0]"
    assert str(Interval(mean=-0.04, low=-12.34, high=0.04, n=9)) == "0.0 [-12.3, 0.0]"
    assert str(Interval(mean=NAN, low=NAN, high=NAN, n=0)) == "nan [nan, nan]"
    assert str(Interval(mean=36.8, low=NAN, high=NAN, n=1, why="one case")) == "36.8 (no interval: one case)"
    assert str(Interval(mean=36.8, low=NAN, high=NAN, n=1)) == "36.8 (no interval)"


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (1, 8), (5, 12), (11, 12), (12, 12), (38, 40), (40, 40)])
def test_shares_of_questions_have_clopper_and_pearsons_interval(hits: int, n: int) -> None:
    found = bootstrap_mean([1.0] * hits + [0.0] * (n - hits), bounds=(0, 1))
    exact = scipy.stats.binomtest(hits, n).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)
    assert found.mean == pytest.approx(hits / n)


def test_values_that_vary_less_have_narrower_intervals() -> None:
    apart = bootstrap_mean([0.0, 1.0] * 10, bounds=(0, 1))
    near = bootstrap_mean([0.4, 0.6] * 10, bounds=(0, 1))
    assert near.mean == apart.mean == 0.5
    assert near.high - near.low < 0.6 * (apart.high - apart.low)


def test_bounds_scale() -> None:
    values = [0.0, 0.25, 1.0, 0.5, 0.75, 1.0]
    share = bootstrap_mean(values, bounds=(0, 1))
    percent = bootstrap_mean([100 * value for value in values], bounds=(0, 100))
    shifted = bootstrap_mean([value + 7 for value in values], bounds=(7, 8))
    assert (percent.low, percent.high) == pytest.approx((100 * share.low, 100 * share.high))
    assert (shifted.low, shifted.high) == pytest.approx((share.low + 7, share.high + 7))


def test_an_unbounded_mean_has_at_least_students_interval() -> None:
    values = numbers(23, 0)
    found = bootstrap_mean(values)
    error = np.std(values, ddof=1) / math.sqrt(23)
    low, high = scipy.stats.t.interval(0.95, 22, np.mean(values), error)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low <= low + 1e-9
    assert found.high > high + 0.2 * error  # it follows the skew of the values, which Student's does not
    even = bootstrap_mean([float(x) for x in range(40)])
    assert even.high - even.mean == pytest.approx(even.mean - even.low, rel=0.1)


def test_the_studentised_bootstrap_is_scipys_definition() -> None:
    """Written out case by case, for a ratio of sums."""
    generator = np.random.default_rng(3)
    sums, counts = generator.gamma(0.7, 1.0, 14), generator.integers(1, 4, 14).astype(float)

    def ratio_and_error(chosen: Any) -> tuple[float, float]:
        s, c = sums[chosen], counts[chosen]
        ratio = s.sum() / c.sum()
        return ratio, math.sqrt(14 / 13 * sum((s - ratio * c) ** 2)) / c.sum()

    ratio, error = ratio_and_error(np.arange(14))
    pivots = []
    for draw in np.random.default_rng(5).integers(14, size=(400, 14)):
        drawn, its_error = ratio_and_error(draw)
        pivots.append((drawn - ratio) / its_error)
    low, high = np.quantile(pivots, [0.0125, 0.9875])
    t = scipy.stats.t.ppf(0.9875, 13)
    expected = [ratio - max(high, t) * error, ratio - min(low, -t) * error]
    found = ratio_intervals(sums[:, None], counts, resamples=400, seed=5)
    assert found[:, 0] == pytest.approx(expected)


def test_correlation_is_scipys_and_has_no_interval() -> None:
    x, y = numbers(15, 1), [round(a + b, -1) for a, b in zip(numbers(15, 1), numbers(15, 2), strict=True)]
    assert len(set(y)) < 15  # ties
    found = rank_correlation(x, y)
    assert close(found, scipy.stats.spearmanr(x, y).statistic, NAN, NAN, 15)
    assert "no sample" in found.why
    assert close(rank_correlation(x, [math.exp(value / 30) for value in x]), 1, NAN, NAN, 15)
    assert close(rank_correlation(x, [-value for value in x]), -1, NAN, NAN, 15)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_mean_properties(values: list[float]) -> None:
    interval = bootstrap_mean(values, bounds=(-100, 100), resamples=400)
    assert interval.mean == pytest.approx(np.mean(values))
    if len(values) < 5:
        assert math.isnan(interval.low)
        assert interval.why == "fewer than 5 cases"
        return
    assert -100 <= interval.low <= interval.mean <= interval.high <= 100
    assert interval.low < interval.high  # however much the cases agree
    flipped = bootstrap_mean([-value for value in values], bounds=(-100, 100), resamples=400)
    assert (flipped.low, flipped.high) == pytest.approx((-interval.high, -interval.low), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SHARES, st.randoms(use_true_random=False))
def test_differences_are_antisymmetric(shares: list[tuple[float, float, float]], random: Any) -> None:
    columns = [[value / 100 for value in column] for column in zip(*shares, strict=True)]
    other = [random.sample(column, len(column)) for column in columns]
    for there, back in (
        (paired_difference(columns[0], other[0], bounds=(0, 1), resamples=200),
         paired_difference(other[0], columns[0], bounds=(0, 1), resamples=200)),
        (score_difference(columns, other, resamples=200), score_difference(other, columns, resamples=200)),
    ):  # fmt: skip
        assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), nan_ok=True)
    scores = [bootstrap_score(*side, resamples=2).mean for side in (columns, other)]
    assert score_difference(columns, other, resamples=2).mean == pytest.approx(scores[0] - scores[1])


@settings(max_examples=50, deadline=None)
@given(SHARES)
def test_score_properties(shares: list[tuple[float, float, float]]) -> None:
    columns = [[value / 100 for value in column] for column in zip(*shares, strict=True)]
    interval = bootstrap_score(*columns, resamples=200)
    means = [sum(column) / len(column) for column in columns]
    assert interval.mean == pytest.approx(harmonic_mean(means))
    assert interval.mean <= sum(means) / 3 + 1e-9
    assert interval.n == len(shares)
    if len(shares) >= 5:
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
        assert interval.low < interval.high
    swapped = bootstrap_score(*columns[::-1], resamples=200)
    assert (swapped.low, swapped.high) == pytest.approx((interval.low, interval.high), nan_ok=True)


def test_pairs_stay_together() -> None:
    a = [value / 500 for value in numbers(40, 0)]
    b = [value + 0.01 for value in a]
    together = paired_difference(a, b, bounds=(0, 1))
    shuffled = paired_difference(a, b[::-1], bounds=(0, 1))
    assert together.mean == pytest.approx(shuffled.mean) == pytest.approx(-0.01)
    assert together.high - together.low < shuffled.high - shuffled.low - 0.01
    assert paired_p_value(a, b) < 0.001 < 0.5 < paired_p_value(a, b[::-1])


def test_unmeasured_cases_are_left_out() -> None:
    values = [1.0, NAN, 4.0, 10.0, NAN, 2.0, 3.0]
    measured = [1.0, 4.0, 10.0, 2.0, 3.0]
    assert bootstrap_mean(values, bounds=(0, 10)) == bootstrap_mean(measured, bounds=(0, 10))
    assert bootstrap_mean(values, bounds=(0, 10)).n == 5
    there = paired_difference([1.0, NAN, 4.0, 10.0, 5.0], [2.0, 3.0, NAN, 4.0, 5.5])
    assert close(there, (-1.0 + 6.0 - 0.5) / 3, NAN, NAN, 3)
    assert paired_p_value([1.0, NAN, 4.0, 10.0, 5.0], [2.0, 3.0, NAN, 4.0, 5.5]) == paired_p_value(
        [1.0, 10.0, 5.0], [2.0, 4.0, 5.5]
    )
    x, y = [1.0, NAN, 2.0, 3.0, 9.0], [2.0, 8.0, NAN, 1.0, 5.0]
    assert repr(rank_correlation(x, y)) == repr(rank_correlation([1.0, 3.0, 9.0], [2.0, 1.0, 5.0]))


def test_score_leaves_out_per_metric() -> None:
    reliability = [1.0, 0.0, 0.5, 1.0, 1.0, NAN]
    locality = [0.8, 0.9, 0.7, 1.0, 1.0, NAN]
    portability = [0.3, 0.2, 0.1, 0.5, 0.4, NAN]
    whole = bootstrap_score(reliability, locality, portability)
    assert whole == bootstrap_score(reliability[:5], locality[:5], portability[:5])
    fewer = bootstrap_score(reliability, locality, [NAN, *portability[1:]])
    assert close(fewer, harmonic_mean([0.7, 0.88, 0.3]), NAN, NAN, 5)
    assert fewer.why == "fewer than 5 cases"  # of portability
    difference = score_difference(
        [reliability, locality, [NAN, *portability[1:]]], [reliability, locality, portability]
    )
    assert close(difference, 0, NAN, NAN, 5)  # what only one side has does not count


def test_one_zero_mean_makes_the_score_zero() -> None:
    found = bootstrap_score([1.0, 0.5] * 4, [0.0] * 8, [0.3, 0.4] * 4)
    assert (found.mean, found.low) == (0, 0)
    assert 0.2 < found.high < 0.7  # eight zeros do not show that there is nothing else


@pytest.mark.parametrize("function", [
    lambda values: bootstrap_mean(values, bounds=(0, 1)),
    lambda values: bootstrap_mean(values),
    lambda values: paired_difference(values, values, bounds=(0, 1)),
    lambda values: bootstrap_score(values, values, values),
    lambda values: score_difference([values] * 3, [values] * 3),
])  # fmt: skip
def test_of_few_cases_there_is_no_interval(function: Callable[[list[float]], Interval]) -> None:
    for n in (1, 4):
        found = function([0.5] * n)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.n == n
        assert found.why.startswith("fewer than")
        assert found.mean in (0, 0.5)


def test_of_equal_values_without_bounds_there_is_no_interval() -> None:
    found = bootstrap_mean([563.0] * 20)
    assert (found.mean, found.why) == (563.0, "all cases are equal")
    assert math.isnan(found.low)
    assert paired_difference([1.0] * 20, [1.0] * 20).why == "all cases are equal"


@pytest.mark.parametrize("column", [[], [NAN], [NAN, NAN]])
def test_nothing_measured(column: list[float]) -> None:
    for interval in (
        bootstrap_mean(column),
        bootstrap_mean(column, bounds=(0, 1)),
        paired_difference(column, [1.0] * len(column)),
        bootstrap_score(column, column, column),
        score_difference([column] * 3, [column] * 3),
        rank_correlation(column, [1.0] * len(column)),
    ):
        assert close(interval, NAN, NAN, NAN, 0)
        assert interval.why == ""
    assert math.isnan(paired_p_value(column, column))
    assert math.isnan(score_p_value([column] * 3, [column] * 3))


def test_undefined() -> None:
    assert close(rank_correlation([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]), NAN, NAN, NAN, 3)
    assert close(rank_correlation([5.0, 5.0, 5.0], [1.0, 2.0, 3.0]), NAN, NAN, NAN, 3)
    assert close(bootstrap_score([0.1, 0.2], [0.3, 0.4], [NAN, NAN]), NAN, NAN, NAN, 2)


def test_seed_and_resamples_count() -> None:
    values = [value / 500 for value in numbers(20, 0)]
    for function in (
        lambda **options: bootstrap_mean(values, bounds=(0, 1), **options),
        lambda **options: bootstrap_mean(values, **options),
        lambda **options: bootstrap_score(values, values[::-1], values, **options),
        lambda **options: score_difference([values] * 3, [values[::-1]] * 3, **options),
    ):
        assert function() == function(resamples=10_000, seed=0)
        assert function(resamples=99) != function(resamples=99, seed=1)
        assert function(resamples=99) != function(resamples=100)


@pytest.mark.parametrize("chunk", [1, 64, 333])
def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    columns = [[value / 500 for value in numbers(9, seed)] for seed in range(3)]
    whole = bootstrap_score(*columns, resamples=101)
    monkeypatch.setattr(interp.statistics.intervals, "CHUNK", chunk)
    chunked = bootstrap_score(*columns, resamples=101)
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


# which differences count


def test_p_values_are_scipys() -> None:
    a, b = numbers(11, 0), numbers(11, 1)
    expected = scipy.stats.permutation_test(
        (a, b), lambda x, y, axis=-1: np.mean(x - y, axis), permutation_type="samples", vectorized=True
    )
    assert paired_p_value(a, b) == pytest.approx(expected.pvalue)
    assert paired_p_value([1.0] * 12, [0.0] * 12) == pytest.approx(2 / 2**12)
    assert paired_p_value([1.0] * 12, [1.0] * 12) == 1
    assert paired_p_value([1.0], [0.0]) == 1


def test_the_scores_p_value_exchanges_whole_cases() -> None:
    """Every exchange of two cases' results, written out."""
    a = [[1.0, 0.5, 1.0, 1.0, 0.0], [0.9, 0.8, 1.0, 0.7, 0.9], [0.5, 0.2, 0.4, NAN, 0.6]]
    b = [[0.5, 0.5, 0.0, 1.0, 0.0], [0.8, 0.9, 0.9, 0.6, 0.2], [0.1, 0.3, 0.2, 0.4, 0.1]]
    differences = []
    for exchanged in range(2**5):
        sides = [[list(column) for column in side] for side in (a, b)]
        for case in range(5):
            if exchanged >> case & 1:
                for part in range(3):
                    sides[0][part][case], sides[1][part][case] = sides[1][part][case], sides[0][part][case]
        both = [~np.isnan(np.array(sides[0][part]) + np.array(sides[1][part])) for part in range(3)]
        scores = [
            harmonic_mean([float(np.mean(np.array(column)[there])) for column, there in zip(side, both, strict=True)])
            for side in sides
        ]
        differences.append(scores[0] - scores[1])
    share = float(np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12))
    assert score_p_value(a, b) == pytest.approx(share)


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, NAN, 0.005]) == pytest.approx([0.03, 0.06, 0.06, NAN, 0.02], nan_ok=True)
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_errors() -> None:
    with pytest.raises(OptionError, match=r"^a and b differ in length: 2 and 1 cases$"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(OptionError, match=r"^x and y differ in length: 1 and 2 cases$"):
        rank_correlation([1.0], [1.0, 2.0])
    with pytest.raises(OptionError, match=r"^part 1 and part 3 differ in length: 1 and 2 cases$"):
        bootstrap_score([1.0], [1.0], [1.0, 2.0])
    with pytest.raises(OptionError, match=r"^locality must lie from 0 to 1, got -3\.0$"):
        bootstrap_score([1.0, 1.0], [1.0, -3.0], names=("reliability", "locality"))
    with pytest.raises(OptionError, match=r"^part 1 of b must lie from 0 to 1, got 50\.0$"):
        score_difference([[1.0]] * 3, [[50.0], [1.0], [1.0]])
    with pytest.raises(OptionError, match=r"^locality of a must be finite"):
        score_difference([[1.0], [math.inf]], [[1.0]] * 2, names=("reliability", "locality"))
    for nothing in (bootstrap_score, lambda: score_difference([], [])):
        with pytest.raises(OptionError, match=r"^a score of no parts$"):
            nothing()
    with pytest.raises(OptionError, match=r"^values must lie from 0 to 1, got 1\.5$"):
        bootstrap_mean([1.5], bounds=(0, 1))
    with pytest.raises(OptionError, match=r"^values must be finite"):
        bootstrap_mean([1.0, math.inf])
    with pytest.raises(OptionError, match=r"^b must be finite"):
        paired_difference([1.0], [-math.inf])
    with pytest.raises(OptionError, match=r"^resamples must be a positive whole number, got 0$"):
        bootstrap_mean([1.0], resamples=0)
    with pytest.raises(OptionError, match=r"^seed must be .* got -1$"):
        bootstrap_mean([NAN], seed=-1)


def test_the_span_of_a_peak_ends_where_students_t_says() -> None:
    """Two columns, the second ahead by a little less or more than a bootstrap over five cases explains."""
    n, resamples, seed = 5, 2000, 3
    scatter = np.array([0.3, -0.1, 0.25, -0.4, -0.05])
    error = np.sqrt((scatter**2).sum() / (n - 1) / n)
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    reached = np.quantile(scatter[draws].mean(1) / error, 0.95)
    limit = scipy.stats.t.ppf(0.975, n - 1) / scipy.stats.norm.ppf(0.975) * reached * error
    for share, span in ((0.98, (0, 1)), (1.02, (1, 1))):
        values = np.stack([np.zeros(n), scatter + share * limit], axis=1)
        assert largest_columns(values, np.ones(n), resamples=resamples, seed=seed) == span


def test_the_peak_of_a_single_column_is_there() -> None:
    assert largest_columns(np.ones((5, 1)), np.ones(5), resamples=10, seed=0) == (0, 0)


def test_ten_thousand_resamples_unless_told_otherwise() -> None:
    for function in (bootstrap_mean, paired_difference):
        assert inspect.signature(function).parameters["resamples"].default == 10_000
