"""Records that are maps of one prompt: what a locator returns, and what it says of itself beside the map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.facts.records import Fact
from interp.results.record import Record
from interp.results.token_map import TokenMap

__all__ = ["Listing", "MapRecord"]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table of plain texts that belongs to a map.

    Args:
        title: Above it.
        header: Names of the columns.
        rows: Cells.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MapRecord(Record, ABC):
    """What a locator found in one prompt; pages, terminals and the explorer show it by its methods.

    Args:
        fact: What was located.
    """

    fact: Fact

    @abstractmethod
    def map(self) -> TokenMap:
        """The map: a value for each token and each layer."""

    @property
    def heading(self) -> str:
        """What it is, in one line."""
        return self.map().title

    def remarks(self) -> tuple[str, ...]:
        """What the map's numbers rest on, a line each."""
        return ()

    def listings(self) -> tuple[Listing, ...]:
        """What more was found."""
        return ()

    def at(self, token: int, layer: int) -> Mapping[str, str]:
        """What more was found at a cell of the map, by name."""
        return {}
