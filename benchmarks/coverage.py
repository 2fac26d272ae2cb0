"""How often the 95% intervals that are printed hold the truth, over simulated studies: python -m benchmarks.coverage

Each population is made to look like what is measured: shares of questions that are right (many zeros; proportions of
.9 and .97), scores of them, fluency with its long lower tail, curves over layers. A study draws n cases of it; the
interval holds if the population's number lies in it. Studies of which no interval is printed do not count, and how
many are printed is measured too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from interp.statistics.estimates import bootstrap_mean, bootstrap_score, paired_difference, score_difference
from interp.statistics.intervals import MIN_PEAK, MIN_UNBOUNDED, largest_columns, ratio_intervals

__all__ = ["CURVES", "KINDS", "Coverage", "covered"]

Generator = np.random.Generator
LARGE = 50_000  # cases that stand for the whole population
RESAMPLES = 1000
LAYERS = np.arange(30)
SMOOTH = np.linalg.cholesky(np.exp(-0.5 * ((LAYERS[:, None] - LAYERS) / 2.5) ** 2) + 1e-6 * np.eye(30))
SHARES = np.array([0.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0])


@dataclass(frozen=True)
class Coverage:
    """Of simulated studies: in how many of those that print an interval it holds, how many print one, its width."""

    held: float
    printed: float
    width: float


def _shares(weights: tuple[float, ...], g: Generator, n: int) -> Any:
    return g.choice(SHARES, n, p=weights)


def _hits(p: float, g: Generator, n: int) -> Any:
    return (g.random(n) < p).astype(float)


PORTABILITY = (0.6, 0.08, 0.1, 0.1, 0.05, 0.0, 0.07)
RARE = (0.85, 0.03, 0.03, 0.03, 0.02, 0.02, 0.02)
LOCALITY = (0.02, 0.0, 0.0, 0.08, 0.0, 0.1, 0.8)

POPULATIONS: dict[str, Callable[[Generator, int], Any]] = {
    **{f"proportion {p}": partial(_hits, p) for p in (0.5, 0.9, 0.97, 0.99)},
    "portability": partial(_shares, PORTABILITY),
    "rare portability": partial(_shares, RARE),
    "locality": partial(_shares, LOCALITY),
    "mean of two kinds": lambda g, n: (_shares(LOCALITY, g, n) + _shares(PORTABILITY, g, n)) / 2,
}
"""What one case scores under one metric."""


def _parts(reliable: float, portable: tuple[float, ...], g: Generator, n: int) -> Any:
    """Reliability, locality and portability of n cases; where the edit fails, portability is 0."""
    reliability = _hits(reliable, g, n)
    return np.array([reliability, _shares(LOCALITY, g, n), _shares(portable, g, n) * reliability])


def _pair(a: Callable[[Generator, int], Any], b: Callable[[Generator, int], Any], g: Generator, n: int) -> Any:
    """The same cases under two methods: half of them alike."""
    one, other = a(g, n), b(g, n)
    return np.array([one, np.where(g.random(n) < 0.5, one, other)])


def _fluency(outliers: float, g: Generator, n: int) -> Any:
    """As SmolLM2's: median 615, a long lower tail, now and then a text that repeats itself."""
    return np.where(g.random(n) < outliers, g.normal(480, 30, n), 650 - g.gamma(2, 20, n))


def _early(g: Generator, n: int) -> Any:
    size, place, wide = g.beta(1, 1.2, (n, 1)), g.normal(2, 2.5, (n, 1)), g.uniform(2, 6, (n, 1))
    return size * np.exp(-0.5 * ((LAYERS - place) / wide) ** 2) + _noise(0.05, g, n)


def _plateau(g: Generator, n: int) -> Any:
    fall = 1 / (1 + np.exp((LAYERS - g.normal(14, 4, (n, 1))) / 2))
    return g.beta(0.8, 1.0, (n, 1)) * fall * (1 + 0.02 * np.exp(-0.5 * ((LAYERS - 5) / 3) ** 2)) + _noise(0.03, g, n)


def _two_peaks(g: Generator, n: int) -> Any:
    first, second = g.lognormal(-2, 1, (n, 1)), g.lognormal(-2.05, 1, (n, 1))
    bumps = first * np.exp(-0.5 * ((LAYERS - 1) / 1.5) ** 2) + second * np.exp(-0.5 * ((LAYERS - 20) / 2) ** 2)
    return bumps + _noise(0.02, g, n)


def _hardly_any(g: Generator, n: int) -> Any:
    return 0.002 * np.exp(-0.5 * ((LAYERS - 12) / 5) ** 2) + _noise(0.02, g, n)


def _noise(size: float, g: Generator, n: int) -> Any:
    return size * (SMOOTH @ g.normal(size=(30, n))).T


CURVES = {"early peak": _early, "plateau": _plateau, "two peaks": _two_peaks, "hardly any effect": _hardly_any}
"""One value per fact and layer."""


def _harmonic(parts: Any) -> float:
    means = parts.mean(1)
    return float(3 / (1 / means).sum()) if means.all() else 0.0


def _share_study(draw: Callable[[Generator, int], Any], g: Generator, n: int, seed: int) -> tuple[float, float]:
    found = bootstrap_mean(draw(g, n).tolist(), bounds=(0, 1), resamples=RESAMPLES, seed=seed)
    return found.low, found.high


def _difference_study(draw: Callable[[Generator, int], Any], g: Generator, n: int, seed: int) -> tuple[float, float]:
    found = paired_difference(*draw(g, n).tolist(), bounds=(0, 1), resamples=RESAMPLES, seed=seed)
    return found.low, found.high


def _score_study(draw: Callable[[Generator, int], Any], g: Generator, n: int, seed: int) -> tuple[float, float]:
    found = bootstrap_score(*draw(g, n).tolist(), resamples=RESAMPLES, seed=seed)
    return found.low, found.high


def _score_difference_study(
    draw: Callable[[Generator, int], tuple[Any, Any]], g: Generator, n: int, seed: int
) -> tuple[float, float]:
    found = score_difference(*(side.tolist() for side in draw(g, n)), resamples=RESAMPLES, seed=seed)
    return found.low, found.high


def _fluency_study(draw: Callable[[Generator, int], Any], g: Generator, n: int, seed: int) -> tuple[float, float]:
    found = bootstrap_mean(draw(g, n).tolist(), resamples=RESAMPLES, seed=seed)
    return found.low, found.high


def _map_study(
    layer: int, draw: Callable[[Generator, int], Any], g: Generator, n: int, seed: int
) -> tuple[float, float]:
    """Facts with one to four tokens of a class, pooled."""
    counts = g.integers(1, 5, n).astype(float)
    if n < MIN_UNBOUNDED:
        return np.nan, np.nan
    sums = (draw(g, n) * counts[:, None])[:, [layer]]
    low, high = ratio_intervals(sums, counts, resamples=RESAMPLES, seed=seed)[:, 0]
    return float(low), float(high)


def _peak_study(draw: Callable[[Generator, int], Any], g: Generator, n: int, seed: int) -> tuple[float, float]:
    if n < MIN_PEAK:
        return np.nan, np.nan
    return largest_columns(draw(g, n), np.ones(n), resamples=300, seed=seed)


def _two_scores(second: Callable[[Generator, int], Any], g: Generator, n: int) -> tuple[Any, Any]:
    first = _parts(0.97, PORTABILITY, g, n)
    return first, np.where(g.random(n) < 0.5, first, second(g, n))


def _mean(values: Any) -> float:
    return float(values.mean())


Study = Callable[[Any, Generator, int, int], tuple[float, float]]
KINDS: dict[str, tuple[Study, Callable[[Any], float], dict[str, Any]]] = {
    "mean": (_share_study, _mean, dict(POPULATIONS)),
    "score": (
        _score_study,
        _harmonic,
        {
            "edits that take": partial(_parts, 0.97, PORTABILITY),
            "edits that fail": partial(_parts, 0.5, PORTABILITY),
            "hardly portable": partial(_parts, 0.9, RARE),
        },
    ),
    "paired difference": (
        _difference_study,
        lambda pair: float((pair[0] - pair[1]).mean()),
        {
            "of portability": partial(_pair, POPULATIONS["portability"], POPULATIONS["portability"]),
            "of locality": partial(_pair, POPULATIONS["locality"], POPULATIONS["portability"]),
            "of proportions": partial(_pair, POPULATIONS["proportion 0.97"], POPULATIONS["proportion 0.9"]),
        },
    ),
    "paired difference of scores": (
        _score_difference_study,
        lambda sides: _harmonic(sides[0]) - _harmonic(sides[1]),
        {
            "alike": partial(_two_scores, partial(_parts, 0.97, PORTABILITY)),
            "worse": partial(_two_scores, partial(_parts, 0.5, RARE)),
        },
    ),
    "fluency": (
        _fluency_study,
        _mean,
        {"long tail": partial(_fluency, 0.0), "one text in fifty repeats": partial(_fluency, 0.02)},
    ),
    "paired difference of fluency": (
        _fluency_study,
        _mean,
        {"alike": lambda g, n: _fluency(0.02, g, n) - _fluency(0.02, g, n)},
    ),
    "map, at its peak": (partial(_map_study, 2), lambda curves: float(curves[:, 2].mean()), dict(CURVES)),
    "map, elsewhere": (partial(_map_study, 18), lambda curves: float(curves[:, 18].mean()), dict(CURVES)),
    "peak layer": (_peak_study, lambda curves: float(curves.mean(0).argmax()), dict(CURVES)),
}
"""Of each kind of interval: a study of n cases, the number that it estimates, and the populations to try."""


def covered(kind: str, population: str, n: int, *, studies: int, seed: int = 0) -> Coverage:
    """Simulate studies of n cases.

    Args:
        kind, population: Of :data:`KINDS`.
        n: Cases, or facts.
        studies: How many.
        seed: Of the draws.
    """
    study, number, populations = KINDS[kind]
    draw = populations[population]
    truth = number(draw(np.random.default_rng(10**6), LARGE))
    generator = np.random.default_rng([seed, n])
    ends = np.array([study(draw, generator, n, i) for i in range(studies)], dtype=float)
    printed = ends[~np.isnan(ends).any(1)]
    if not len(printed):
        return Coverage(held=np.nan, printed=0.0, width=np.nan)
    slack = 1e-9
    held = (printed[:, 0] - slack <= truth) & (truth <= printed[:, 1] + slack)
    return Coverage(
        held=float(held.mean()), printed=len(printed) / studies, width=float(np.median(printed[:, 1] - printed[:, 0]))
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--cases", type=int, nargs="+", default=[5, 8, 12, 20, 40, 130])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    options = parser.parse_args()
    print("| interval | population | " + " | ".join(f"n = {n}" for n in options.cases) + " |")
    print("| --- | --- | " + " | ".join(["---:"] * len(options.cases)) + " |")
    for kind in options.kinds:
        for population in KINDS[kind][2]:
            cells = []
            for n in options.cases:
                found = covered(kind, population, n, studies=options.studies)
                cells.append(f"{100 * found.held:.1f}" if found.printed else "none")
            print(f"| {kind} | {population} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
