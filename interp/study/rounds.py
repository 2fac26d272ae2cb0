"""Which layers an editor is tried at next: a few over the whole model, then halfway between where it is still open.

1. Every n-th layer, the first and the last, and those that locators point to.
2. Halfway to the neighbours of the layers whose interval reaches that of the best, the highest scores first; at most
   half of what the budget leaves, so that the rounds after can come closer.
3. Until there is nothing in between, or the budget is spent.

All follows from the scores, so an interrupted search goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from interp.statistics.estimates import Interval

__all__ = ["Round", "coarse_layers", "finer_layers", "most_layers"]

Layers = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is edited together: cases at some layers, with one editor; disjoint from every other round.

    Args:
        editor: Its name.
        units: By edited layers, the cases.
    """

    editor: str
    units: Mapping[Layers, Sequence[int]]

    @property
    def edit_located_again(self) -> None:
        """Nothing is."""
        return None

    def to_edit(self) -> Iterator[tuple[str, Layers, int]]:
        """Every unit: editor, layers and case."""
        for layers, cases in self.units.items():
            for case in cases:
                yield self.editor, layers, case


def coarse_layers(possible: Sequence[int], steps: int, peaks: Sequence[int]) -> list[int]:
    """The first round.

    Args:
        possible: The layers that can be the last that is edited, rising.
        steps: Into how many steps they are cut.
        peaks: Those that locators point to; one that cannot be edited counts as the nearest.
    """
    last = len(possible) - 1
    spread = {possible[round(step * last / steps)] for step in range(steps + 1)}
    return sorted(spread | {min(possible, key=lambda layer: abs(layer - peak)) for peak in peaks})


def most_layers(possible: Sequence[int], first: Sequence[int], limit: int | None) -> int:
    """How many layers are measured in all, at most: the limit, or those of the first round where they are more."""
    return len(possible) if limit is None else min(len(possible), max(limit, len(first)))


def finer_layers(possible: Sequence[int], scores: Mapping[int, Interval], left: int) -> list[int]:
    """The next round; empty if there is none.

    Args:
        possible: See :func:`coarse_layers`.
        scores: By measured layer.
        left: How many more may be measured.
    """
    measured = sorted(scores)
    best = max(scores.values(), key=lambda score: score.mean)
    open_ = {layer for layer in measured if _reaches(scores[layer], best)}
    between: dict[int, float] = {}
    for low, high in pairwise(measured):
        inner = [layer for layer in possible if low < layer < high]
        ends = [scores[layer].mean for layer in (low, high) if layer in open_]
        if inner and ends:
            between[inner[(len(inner) - 1) // 2]] = max(ends)
    wanted = sorted(between, key=lambda layer: (-between[layer], layer))
    return sorted(wanted[: math.ceil(left / 2)])


def _reaches(score: Interval, best: Interval) -> bool:
    """Whether two intervals overlap; without one of them, nothing says that they do not."""
    return not score.high < best.low
