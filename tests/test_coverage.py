"""Intervals hold the truth as often as they say, in simulated studies; the long form: python -m benchmarks.coverage."""

import math

import numpy as np
import pytest

from benchmarks.coverage import KINDS, covered
from interp.statistics.intervals import ratio_intervals

STUDIES = 200
LEAST = 0.92 - 2 * math.sqrt(0.92 * 0.08 / STUDIES)  # 92% less two standard errors of so few studies
HARD = {
    "mean": [("proportion 0.9", 12), ("proportion 0.97", 12), ("portability", 8), ("rare portability", 12)],
    "score": [("edits that take", 8), ("hardly portable", 12)],
    "paired difference": [("of locality", 12), ("of proportions", 8)],
    "paired difference of scores": [("worse", 12)],
    "fluency": [("long tail", 12), ("one text in fifty repeats", 40)],
    "paired difference of fluency": [("alike", 12)],
    "map, at its peak": [("early peak", 12), ("two peaks", 12)],
    "map, elsewhere": [("plateau", 12), ("two peaks", 40)],
    "peak layer": [("plateau", 5), ("two peaks", 12)],
}
"""Of each kind the populations and numbers of cases that the percentile bootstrap holds worst."""


def test_every_kind_is_tried() -> None:
    assert set(HARD) == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "population", "n"), [(kind, *study) for kind, studies in HARD.items() for study in studies]
)
def test_coverage(kind: str, population: str, n: int) -> None:
    found = covered(kind, population, n, studies=STUDIES)
    assert found.printed == 1
    assert found.held >= LEAST


def test_intervals_are_no_wider_than_they_need_to_be() -> None:
    """Gaffke's bound of portability is as wide as Student's interval is where that holds."""
    found = covered("mean", "portability", 40, studies=100)
    assert found.width < 0.24  # Student's: 0.19, Clopper and Pearson's: 0.27
    assert covered("mean", "proportion 0.5", 12, studies=50).width < 0.57
    assert covered("peak layer", "early peak", 40, studies=40).width < 6


def test_unbounded_means_of_few_cases_print_none() -> None:
    assert covered("fluency", "long tail", 8, studies=5).printed == 0
    assert covered("mean", "portability", 4, studies=5).printed == 0
    assert covered("mean", "portability", 5, studies=5).printed == 1


def test_of_smooth_curves_layers_are_no_sample() -> None:
    """Why a rank correlation over layers has no interval: of unrelated smooth curves it excludes 0 far too often."""
    generator = np.random.default_rng(0)
    layers = np.arange(10)
    smooth = np.linalg.cholesky(np.exp(-0.5 * ((layers[:, None] - layers) / 2.5) ** 2) + 1e-6 * np.eye(10))
    excluded = 0
    for _ in range(200):
        x, y = smooth @ generator.normal(size=(10, 2)).T[0], smooth @ generator.normal(size=10)
        draws = generator.integers(10, size=(200, 10))
        ranked = [np.argsort(np.argsort(values[draws], axis=1), axis=1) for values in (x, y)]
        centred = [ranks - ranks.mean(1, keepdims=True) for ranks in ranked]
        rho = (centred[0] * centred[1]).sum(1) / np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
        low, high = np.quantile(rho, [0.025, 0.975])
        excluded += low > 0 or high < 0
    assert excluded / 200 > 0.15


def test_cases_that_do_not_differ_have_no_interval() -> None:
    ends = ratio_intervals(np.array([[1.0, 0.3]] * 12), np.ones(12), resamples=50, seed=0)
    assert np.isnan(ends).all()
    ends = ratio_intervals(np.array([[1.0 + 1e-3 * i, 0.3] for i in range(12)]), np.ones(12), resamples=50, seed=0)
    assert np.isnan(ends).tolist() == [[False, True], [False, True]]
    assert np.isnan(ratio_intervals(np.array([[1.0]]), np.ones(1), resamples=50, seed=0)).all()
