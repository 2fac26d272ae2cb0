"""What locating many facts found, from the records of a run folder alone: each fact's, and the averages of Figure 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cattrs

from interp.errors import DataError
from interp.facts.records import Fact
from interp.locate.class_average import ClassAverage, class_average
from interp.locate.methods import locator_named
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study import paper

__all__ = ["Located", "Selection", "class_averages", "kept", "left_out", "located", "selection", "unit_of"]


@dataclass(frozen=True, kw_only=True)
class Located:
    """All records of one fact, by locator; each has a ``map()``."""

    fact: Fact
    records: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a run locates: the facts, the locators' names, and the noise level."""

    facts: tuple[Fact, ...]
    locators: tuple[str, ...]
    noise: float


def located(run: RunFolder) -> list[Located]:
    """The records of every fact whose units are all finished.

    Raises:
        DataError: If the folder is not a run, no fact is finished, or a record is damaged or not what its name says.
    """
    chosen, finished = selection(run), []
    for index, fact in enumerate(chosen.facts):
        records = {name: kept(run.read, index, fact, name) for name in chosen.locators}
        if all(record is not None for record in records.values()):
            finished.append(Located(fact=fact, records=records))
    if not finished:
        why = left_out(run)
        raise DataError(f"{run.path}: no fact is finished yet" + (f"; left out: {why[0]}" if why else ""))
    return finished


def class_averages(run: RunFolder) -> list[ClassAverage]:
    """The maps of Figure 1 from a run folder alone, one a locator.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> for average in interp.class_averages(run):
        ...     print(average.method, average.mean.shape)  # [class of token, layer]
        attribution torch.Size([6, 6])
        resid torch.Size([6, 6])
        mlp torch.Size([6, 6])
        attn torch.Size([6, 6])
    """
    facts, missing = located(run), left_out(run)
    averages = []
    for name in facts[0].records:
        records = [fact.records[name] for fact in facts]
        averages.append(class_average([locator_named(name).averaged(r) for r in records], records, left_out=missing))
    return averages


def left_out(run: RunFolder) -> list[str]:
    """The chosen facts that could not be located, each with the reason."""
    skips, chosen, found = Skips.of(run), selection(run), []
    for index, fact in enumerate(chosen.facts):
        reasons = [skips.reasons[unit] for name in chosen.locators if (unit := unit_of(index, name)) in skips]
        found += [f"{fact.prompt}: {reason}" for reason in reasons[:1]]
    return found


def selection(run: RunFolder) -> Selection:
    """What a run locates; a run of an earlier version has the paper's locators.

    Raises:
        DataError: If the folder is not a run, or damaged.
    """
    return run.read_json("selection.json", _parsed)


def _parsed(stored: Any) -> Selection:
    return Selection(
        facts=tuple(cattrs.structure(fact, Fact) for fact in stored["facts"]),
        locators=tuple(map(str, stored.get("locators", paper.MAPS))),
        noise=float(stored["noise"]),
    )


def unit_of(index: int, locator: str) -> str:
    """The name of a unit's record."""
    return f"{index:04d}-{locator}"


def kept(read: Callable[..., Any], index: int, fact: Fact, name: str) -> Any:
    """A unit's record, which must be about its fact; None if it is not there."""
    locator = locator_named(name)
    return read(locator.record, unit_of(index, name), **locator.about(fact))
