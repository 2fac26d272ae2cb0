"""What is located together: a few neighbouring facts under the locators that share their work.

Bundles follow from the selection alone, whatever is finished: what is computed together depends on it in its last bits,
so a bundle of which a part is there is computed as a whole, and what is missing is kept. The first is small, so that
there is something to look at soon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lens import HookedTransformer

from interp.engine.base_runs import run_bytes, sublayers
from interp.engine.batches import free_bytes
from interp.facts.records import Fact
from interp.locate.method import LocateTask, locate_each
from interp.locate.methods import locator_named
from interp.models.tokens import tokenize
from interp.results.mapped import MapRecord
from interp.results.record import Provenance
from interp.results.skips import SKIPPABLE
from interp.study.located import Selection, kept, unit_of
from interp.study.settings import LocateSettings
from interp.study.shard import Shard
from interp.study.workers import Bench, Job, Ledger

__all__ = ["bundles", "facts_together", "locate_task", "missing_bundles", "own_bundles"]

FIRST = 3
MOST = 64
"""Facts of a bundle: so many fill a large card with a small model."""

Unit = tuple[int, str]
"""Which fact, and the locator's name."""
Shared = Callable[[], tuple[LocateSettings, Sequence[Fact]]]


def facts_together(model: HookedTransformer, facts: Sequence[Fact], settings: LocateSettings, at_once: int) -> int:
    """How many facts to locate together: as many as fill a batch with their shortest suffixes, and fit.

    Args:
        model: The model.
        facts: All that are to be located.
        settings: The study's.
        at_once: Tokens of a batch.
    """
    longest = max(len(tokenize(model, fact, quiet=True).ids) for fact in facts)
    rows = model.cfg.n_layers * settings.samples * max(map(len, _sharing(settings.locators)))
    fill = -(-at_once // rows)
    free = free_bytes(model.W_E.device)
    # the runs, and as much again for what enters windows and for results
    each = 2 * run_bytes(model, 1 + settings.samples, longest, sublayers(model))
    return max(1, min(MOST, fill, MOST if free is None else free // 4 // each))


def bundles(chosen: Selection) -> list[list[Unit]]:
    """The units of a selection as they are computed together, fact by fact."""
    found: list[list[Unit]] = []
    for facts in _neighbours(len(chosen.facts), chosen.together):
        for names in _sharing(chosen.locators):
            if locator_named(names[0]).run_many is None:
                found += [[(index, names[0])] for index in facts]
            else:
                found.append([(index, name) for index in facts for name in names])
    return found


def own_bundles(chosen: Selection, shard: Shard) -> list[list[Unit]]:
    """The shard's; those of one locator are dealt out in turn, as locators take different times."""
    everything = bundles(chosen)
    by_locator = sorted(range(len(everything)), key=lambda place: chosen.locators.index(everything[place][0][1]))
    return [everything[place] for place in sorted(shard.share(by_locator))]


def _neighbours(n_facts: int, together: int) -> Iterator[range]:
    first = min(FIRST, together)
    yield range(min(first, n_facts))
    for begin in range(first, n_facts, together):
        yield range(begin, min(begin + together, n_facts))


def _sharing(locators: Sequence[str]) -> list[list[str]]:
    """Locators that share their work."""
    found: dict[Any, list[str]] = {}
    for name in locators:
        found.setdefault(locator_named(name).run_many or name, []).append(name)
    return [*found.values()]


def missing_bundles(own: Sequence[Sequence[Unit]], chosen: Selection, shared: Shared, ledger: Ledger) -> Iterator[Job]:
    """The bundles of which a unit has no whole record and is not left out either.

    Args:
        own: Which bundles.
        chosen: The selection.
        shared: The study's settings, and where replacement subjects come from.
        ledger: What is there, and told so.
    """
    for units in own:
        going = [unit for unit in units if unit_of(*unit) not in ledger.skips]
        missing = frozenset(
            unit_of(index, name) for index, name in going if not kept(ledger.run.has, index, chosen.facts[index], name)
        )
        if len(missing) < len(units):
            ledger.there(len(units) - len(missing))
        if missing:
            yield _LocateTogether(
                units=tuple((unit_of(index, name), name, chosen.facts[index]) for index, name in going),
                missing=missing,
                noise=chosen.noise,
                batch_tokens=chosen.batch_tokens,
                shared=shared,
            )


@dataclass(frozen=True, kw_only=True)
class _LocateTogether:
    """A bundle: all of it is computed, and what is missing is kept.

    Args:
        units: Name, locator and fact of each.
        missing: Of which there is no record.
        noise: Its level.
        batch_tokens: How many tokens go up the network at once, by locator.
        shared: The study's settings, and where replacement subjects come from.
    """

    units: tuple[tuple[str, str, Fact], ...]
    missing: frozenset[str]
    noise: float
    batch_tokens: Mapping[str, int]
    shared: Shared

    @property
    def size(self) -> int:
        """Units that are missing."""
        return len(self.missing)

    @property
    def label(self) -> str:
        """What is being done."""
        names = ", ".join(dict.fromkeys(name for _, name, _ in self.units))
        prompts = list(dict.fromkeys(fact.prompt for *_, fact in self.units))
        more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
        return f"{prompts[0]}{more} · {names}"

    def __call__(self, bench: Bench) -> None:
        """Do it. Units that make it fail are left out, and the others done without them."""
        bench.report(0.0, self.label)
        waiting = set(self.missing)
        try:
            self._locate(bench, self.units, waiting)
        except SKIPPABLE as error:
            failed: dict[str, Exception] = {self.units[0][0]: error} if len(self.units) == 1 else {}
            for each in self.units if len(self.units) > 1 else ():
                try:
                    self._locate(bench, [each], set())
                except SKIPPABLE as own:
                    failed[each[0]] = own
            if not failed:
                raise
            bench.leave_out(failed)
            rest = [each for each in self.units if each[0] not in failed]
            if waiting & {unit for unit, *_ in rest}:
                self._locate(bench, rest, waiting)

    def _locate(self, bench: Bench, units: Sequence[tuple[str, str, Fact]], waiting: set[str]) -> None:
        """Compute some units, and keep those that are waited for."""
        settings, reference_facts = self.shared()
        asked = [
            (
                locator_named(name),
                locate_task(
                    bench.model,
                    fact,
                    settings,
                    noise=self.noise,
                    reference_facts=reference_facts,
                    model_provenance=bench.described,
                    max_batch_tokens=self.batch_tokens.get(name),
                ),
            )
            for _, name, fact in units
        ]

        def progress(part: int, whole: int) -> None:
            bench.report(self.size * part / whole, self.label)

        def arrived(place: int, record: MapRecord) -> None:
            unit, locator = units[place][0], asked[place][0]
            if unit in waiting:
                bench.keep(unit, locator.kept(record))
                waiting.remove(unit)

        locate_each(asked, progress, arrived)


def locate_task(
    model: HookedTransformer,
    fact: Fact,
    settings: LocateSettings,
    *,
    noise: float,
    reference_facts: Sequence[Fact],
    model_provenance: Provenance | None,
    max_batch_tokens: int | None = None,
) -> LocateTask:
    """A fact to locate as a study does.

    Args:
        model: The model.
        fact: The fact.
        settings: The study's settings.
        noise: The level that ``settings.noise`` came to.
        reference_facts: Where replacement subjects come from (symmetric corruption).
        model_provenance: To spare hashing the weights.
        max_batch_tokens: The most tokens that go up the network at once; the locator's own choice if None.
    """
    return LocateTask(
        model=model,
        fact=fact,
        noise=noise,
        samples=settings.samples,
        window=settings.window,
        seed=settings.seed,
        corruption=settings.corruption,
        reference_facts=reference_facts,
        tokens=settings.attribution_tokens,
        steps=settings.steps,
        rule=settings.rule,
        max_batch_tokens=max_batch_tokens,
        model_provenance=model_provenance,
    )
