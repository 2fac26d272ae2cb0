"""What locating many facts found, from the records of a run folder alone: each fact's, and the averages of Figure 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cattrs

from interp.errors import DataError
from interp.facts.records import Fact
from interp.locate.class_average import Averaging, ClassAverage
from interp.locate.methods import locator_named
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study import paper
from interp.system.files import exists

__all__ = [
    "Located",
    "Selection",
    "class_averages",
    "count_located",
    "each_located",
    "kept",
    "left_out",
    "located",
    "selection",
    "unit_of",
]


@dataclass(frozen=True, kw_only=True)
class Located:
    """All records of one fact, by locator; each has a ``map()``."""

    fact: Fact
    records: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a run locates.

    Args:
        facts: The facts.
        locators: Names of locators.
        noise: Its level.
        together: How many facts are located together.
        batch_tokens: How many tokens go up the network at once, by locator; its own choice where it is not named.
    """

    facts: tuple[Fact, ...]
    locators: tuple[str, ...]
    noise: float
    together: int = 1
    batch_tokens: Mapping[str, int] = field(default_factory=dict)


def located(run: RunFolder) -> list[Located]:
    """The records of every fact whose units are all finished.

    Raises:
        DataError: If the folder is not a run, no fact is finished, or a record is damaged or not what its name says.
    """
    return list(each_located(run))


def each_located(run: RunFolder) -> Iterator[Located]:
    """As :func:`located`, one fact after the other: for runs whose records do not fit the memory.

    Raises: See :func:`located`; a damaged record when its turn comes.
    """
    chosen, none_yet = selection(run), True
    for index, fact in enumerate(chosen.facts):
        if all(exists(run.record_path(unit_of(index, name))) for name in chosen.locators):
            yield Located(fact=fact, records={name: kept(run.read, index, fact, name) for name in chosen.locators})
            none_yet = False
    if none_yet:
        why = left_out(run)
        raise DataError(f"{run.path}: no fact is finished yet" + (f"; left out: {why[0]}" if why else ""))


def count_located(run: RunFolder) -> tuple[int, int]:
    """How many facts are located so far, and how many will be: all that were chosen but those that were left out.

    No record is read.

    Raises:
        DataError: If the folder is not a run, or damaged.
    """
    chosen, skips, done, left = selection(run), Skips.of(run), 0, 0
    for index in range(len(chosen.facts)):
        units = [unit_of(index, name) for name in chosen.locators]
        done += all(exists(run.record_path(unit)) for unit in units)
        left += any(unit in skips for unit in units)
    return done, len(chosen.facts) - left


def class_averages(run: RunFolder) -> list[ClassAverage]:
    """The maps of Figure 1 from a run folder alone, one a locator; of an unfinished run those of the facts so far.

    The records are read one fact at a time, and each one's content hash is checked; memory does not grow with them.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> for average in interp.class_averages(run):
        ...     print(average.method, average.mean.shape)  # [class of token, layer]
        attribution torch.Size([6, 6])
        resid torch.Size([6, 6])
        mlp torch.Size([6, 6])
        attn torch.Size([6, 6])

    Raises:
        DataError: As :func:`located`. :func:`~interp.study.locating.locate_facts` on the folder computes what is
            damaged again.
    """
    missing = left_out(run)
    sums = {name: Averaging() for name in selection(run).locators}
    for fact in each_located(run):
        for name, record in fact.records.items():
            sums[name].add(locator_named(name).averaged(record), record.provenance)
    return [averaging.result(left_out=missing) for averaging in sums.values()]


def left_out(run: RunFolder) -> list[str]:
    """The chosen facts that could not be located, each with the reason."""
    skips, chosen, found = Skips.of(run), selection(run), []
    for index, fact in enumerate(chosen.facts):
        reasons = [skips.reasons[unit] for name in chosen.locators if (unit := unit_of(index, name)) in skips]
        found += [f"{fact.prompt}: {reason}" for reason in reasons[:1]]
    return found


def selection(run: RunFolder) -> Selection:
    """What a run locates; a run of an earlier version has the paper's locators, fact by fact.

    Raises:
        DataError: If the folder is not a run, or damaged.
    """
    return run.read_json("selection.json", _parsed)


def _parsed(stored: Any) -> Selection:
    return Selection(
        facts=tuple(cattrs.structure(fact, Fact) for fact in stored["facts"]),
        locators=tuple(map(str, stored.get("locators", paper.MAPS))),
        noise=float(stored["noise"]),
        together=int(stored.get("together", 1)),
        batch_tokens={str(name): int(tokens) for name, tokens in stored.get("batch_tokens", {}).items()},
    )


def unit_of(index: int, locator: str) -> str:
    """The name of a unit's record."""
    return f"{index:04d}-{locator}"


def kept(read: Callable[..., Any], index: int, fact: Fact, name: str) -> Any:
    """What a run folder's ``read``, ``get`` or ``has`` says of a unit's record, which must be about its fact."""
    locator = locator_named(name)
    return read(locator.record, unit_of(index, name), **locator.about(fact))
