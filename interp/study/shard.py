"""A share of a study: several processes, each with a shard of its own, do what one would do.

What is dealt out is what must be computed together (:mod:`interp.study.work`), and in an order that depends on nothing
that was computed, so no number depends on how many shards there are, on their order, or on one being done twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from interp.errors import OptionError, excerpt
from interp.options import whole_number

__all__ = ["WHOLE", "Shard"]

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of several shares of a study.

    Example:
        >>> [interp.study.Shard(index, 3).share("abcdefgh") for index in (1, 2, 3)]
        [['a', 'd', 'g'], ['b', 'e', 'h'], ['c', 'f']]

    Args:
        index: Which, counted from 1.
        count: How many there are.

    Raises:
        OptionError: If there is no such shard.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole_number("shard: count", self.count))
        object.__setattr__(self, "index", whole_number("shard: index", self.index, most=self.count))

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard as one types it: ``3/8`` is the third of eight.

        Raises:
            OptionError: If it is not of this form, or there is no such shard.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise OptionError(f"shard must be I/N with I from 1 to N, such as 1/4, got {excerpt(text)}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, place: int) -> bool:
        """Whether what stands at a place, counted from 0, belongs to this shard."""
        return place % self.count == self.index - 1

    def share(self, items: Sequence[T]) -> list[T]:
        """Those of the items that belong to this shard: every ``count``-th."""
        return [item for place, item in enumerate(items) if self.owns(place)]

    def in_turn(self, items: Sequence[T]) -> list[T]:
        """All items, each shard beginning elsewhere: what all need is then done once, by whoever comes to it first."""
        first = len(items) * (self.index - 1) // self.count
        return [*items[first:], *items[:first]]


WHOLE = Shard(1, 1)
"""All of a study."""
