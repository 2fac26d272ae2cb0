"""What a locator is: from a model and a fact to a record that has a map of tokens x layers.

A locator is a file below :mod:`interp.locate.methods` that ends in a :class:`Locator`, and a line in the table there.
Everything else takes what it needs from it: the study and its Figure 1, heatmaps, the explorer and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformer_lens import HookedTransformer

from interp.engine.cells import Cell
from interp.facts.records import Fact
from interp.options import Progress
from interp.results.mapped import MapRecord
from interp.results.record import Provenance
from interp.results.token_map import TokenMap

__all__ = ["LocateTask", "Locator"]


@dataclass(frozen=True, kw_only=True)
class LocateTask:
    """One fact to locate, and the settings that locators share; each takes those that it needs.

    Args:
        model: The model, to be left as it is.
        fact: The fact.
        noise: Standard deviation of the noise on the subject's embeddings.
        samples, window, seed, corruption: Of runs with a corrupted subject.
        reference_facts: Where replacement subjects come from.
        tokens, steps, rule: Of the paths of scaled activations.
        max_batch_tokens: The most tokens that go up the network at once; the locator's own default if None.
        model_provenance: To spare hashing the weights.
        progress: Called with (done, in all).
        partial: Called with the result so far; what is not there yet is NaN.
    """

    model: HookedTransformer
    fact: Fact
    noise: float
    samples: int = 10
    window: int = 10
    seed: int = 1
    corruption: str = "gaussian"
    reference_facts: Sequence[Fact] | None = None
    tokens: str = "all"
    steps: int = 20
    rule: str = "riemann"
    max_batch_tokens: int | None = None
    model_provenance: Provenance | None = None
    progress: Progress | None = None
    partial: Callable[[Any], None] | None = None

    def shared(self) -> dict[str, Any]:
        """What every locator's call takes under the same name."""
        batch = {} if self.max_batch_tokens is None else {"max_batch_tokens": self.max_batch_tokens}
        return {
            **batch,
            "model_provenance": self.model_provenance,
            "progress": self.progress,
            "partial": self.partial,
        }


def _all_of_it(record: MapRecord) -> MapRecord:
    return record


def _own_map(record: Any) -> TokenMap:
    found: TokenMap = record.map()
    return found


@dataclass(frozen=True, kw_only=True)
class Locator:
    """A locator.

    Args:
        name: As one asks for it.
        title: As menus write it.
        hue: Of its maps, in degrees.
        row: The row of Figure 1 that it stands in.
        turn: Where several maps are computed for someone who waits, the lowest comes first.
        doing: What is being done meanwhile.
        record: The class of its results, and of what is kept of them.
        run: Its work.
        kept: What a study of many facts keeps of a result, where all of it would not fit a disk; all of it by default.
        averaged: One result as the map that Figure 1 averages.
        beside: One result as a map to stand beside that of another model; its ``map()`` by default.
        about: What the record of a fact must be about, by field.
        cell: The state that a click on its map stands for: from token, layer and window.
        depends: The settings of a task that its numbers depend on.
        located_by: How Table 1 names it; its title if None.
        window: Where an editor of several layers edits: ``"from"`` the layer that the locator points to on, or up
            ``"to"`` it.
    """

    name: str
    title: str
    hue: float
    row: int
    turn: int
    doing: str
    record: type[MapRecord]
    run: Callable[[LocateTask], MapRecord]
    averaged: Callable[[Any], TokenMap]
    about: Callable[[Fact], dict[str, Any]]
    cell: Callable[[int, int, int], Cell]
    depends: frozenset[str]
    located_by: str | None = None
    kept: Callable[[Any], MapRecord] = _all_of_it
    beside: Callable[[Any], TokenMap] = _own_map
    window: Literal["from", "to"] = "to"
