"""What a locator is: from a model and a fact to a record that has a map of tokens x layers.

A locator is a file below :mod:`interp.locate.methods` that ends in a :class:`Locator`, and a line in the table there.
Everything else takes what it needs from it: the study and its Figure 1, heatmaps, the explorer and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from transformer_lens import HookedTransformer

from interp.engine.batches import batch_tokens
from interp.engine.cells import Cell
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.options import Progress
from interp.results.mapped import MapRecord
from interp.results.record import Provenance
from interp.results.token_map import TokenMap

__all__ = ["LocateTask", "Locator", "RunMany", "locate_each", "shared_task"]


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


RunMany = Callable[[Sequence[tuple[str, LocateTask]], Progress, Callable[[int, MapRecord], None]], None]
"""Several tasks at once, each with its locator's name, which differ in their facts alone; called with these, (done, in
all), and what takes (place, record) as records are there."""


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
        run_many: Its work on several facts at once, where that is less; locators with the same one share it.
        batch_tokens: How many tokens it runs at once where nobody says it.
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
    run_many: RunMany | None = None
    batch_tokens: Callable[[HookedTransformer], int] = batch_tokens
    kept: Callable[[Any], MapRecord] = _all_of_it
    beside: Callable[[Any], TokenMap] = _own_map
    window: Literal["from", "to"] = "to"


def locate_each(
    asked: Sequence[tuple[Locator, LocateTask]], progress: Progress, arrived: Callable[[int, MapRecord], None]
) -> None:
    """Several tasks that differ in their facts alone, of locators that share their work; else one after the other.

    Args:
        asked: Locators and tasks.
        progress: Called with (done, in all).
        arrived: Called with (place, record) as records are there.

    Raises: What the locators raise; which of the tasks it is of is not said.
    """
    many = {locator.run_many for locator, _ in asked}
    together = next(iter(many)) if len(many) == 1 else None
    if together is not None:
        together([(locator.name, task) for locator, task in asked], progress, arrived)
        return
    for place, (locator, task) in enumerate(asked):

        def advance(done: int, total: int, *, place: int = place) -> None:
            progress(1000 * place + 1000 * done // total, 1000 * len(asked))

        arrived(place, locator.run(replace(task, progress=advance)))


def shared_task(asked: Sequence[tuple[str, LocateTask]]) -> LocateTask:
    """A task whose settings are those of all.

    Raises:
        OptionError: If two tasks differ in more than their fact.
    """
    first = asked[0][1]
    for _, task in asked:
        alike = replace(task, fact=first.fact, progress=first.progress, partial=first.partial)
        if alike != first:
            raise OptionError("tasks that are done at once must differ in their facts alone")
    return first
