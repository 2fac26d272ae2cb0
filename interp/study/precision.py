"""What a narrower arithmetic costs: the first fact of a study located in float32 too, and how far the maps differ.

A study in bfloat16 or float16, or with products of float32 matrices below the highest precision, computes the maps of
its first fact twice more by themselves: as it computes all of them, and in float32 with the highest precision on the
same weights. The distance of the two is the arithmetic's alone, not that of other weights. It is kept in the run
folder, one small record for each locator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.batches import check_fits
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.locate.methods import locator_named
from interp.models.precision import in_float32, matmul_precision
from interp.results.record import Provenance, Record
from interp.results.run_folder import RunFolder
from interp.results.skips import SKIPPABLE
from interp.statistics.estimates import rank_correlation
from interp.study.located import selection
from interp.study.workers import Workers

__all__ = ["PrecisionDistance", "is_narrow", "keep_precision_distances", "precision_distances", "precision_line"]

Locate = Callable[[HookedTransformer, str], Record]
"""From a model and a locator's name to its record of the first fact."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PrecisionDistance(Record):
    """How far one locator's map of the first fact is from the same in float32.

    Args:
        locator: Its name.
        fact: The fact.
        largest_difference: Of a cell, as a share of the largest value (without its sign) of the map in float32; NaN
            where it was not measured.
        rank_correlation: Spearman's, over all cells; NaN where it was not measured, or one map is constant.
        why_not: Why it was not measured; empty where it was.
    """

    locator: str
    fact: Fact
    largest_difference: float
    rank_correlation: float
    why_not: str = ""

    @property
    def arithmetic(self) -> str:
        """What differs from float32, in words."""
        made = self.provenance
        return made.dtype if made.dtype != "float32" else f"float32 with products of {made.matmul_precision} precision"

    def __str__(self) -> str:
        if self.why_not:
            return f"{self.locator} not measured ({self.why_not})"
        if not self.largest_difference:
            return f"{self.locator} none"
        return (
            f"{self.locator} {self.largest_difference:.2g} of the largest value, rank correlation"
            f" {self.rank_correlation:.4f}"
        )


def is_narrow(described: Provenance) -> bool:
    """Whether numbers are computed with less than float32."""
    if described.dtype == "float32":
        return described.matmul_precision != "highest"
    return described.dtype in ("bfloat16", "float16")


def precision_distances(run: RunFolder) -> list[PrecisionDistance]:
    """The distances that a run folder has, in the order of its locators; none where it was computed in float32.

    Example:
        >>> settings = interp.LocateSettings(limit=2, samples=2, locators=("resid",))
        >>> with interp.models.matmul_precision("high"):
        ...     run = interp.locate_facts(model, facts, "precise", settings)
        >>> [distance.locator for distance in interp.study.precision_distances(run)]
        ['resid']

    Raises:
        DataError: If the folder is not a run, or a record is damaged.
    """
    found = (run.read(PrecisionDistance, _unit(name), locator=name) for name in selection(run).locators)
    return [distance for distance in found if distance is not None]


def precision_line(distances: Sequence[PrecisionDistance]) -> str:
    """One line that says what the arithmetic of a run costs, from its distances; at least one."""
    first = distances[0]
    return f"{first.arithmetic}: distance from float32 on {first.fact.prompt!r}: {'; '.join(map(str, distances))}"


def keep_precision_distances(
    run: RunFolder, fact: Fact, locators: Sequence[str], workers: Workers, locate: Locate
) -> None:
    """Measure what is missing, and keep it.

    Args:
        run: The run folder.
        fact: The first fact.
        locators: Whose distances are to be there.
        workers: Whoever has the model; nothing happens where its numbers are no narrower than float32.
        locate: Locates the fact.
    """
    if not is_narrow(workers.described):
        return
    missing = [name for name in locators if not run.has(PrecisionDistance, _unit(name), locator=name, fact=fact)]
    if not missing:
        return
    for distance in workers.ask(partial(_distances, fact, missing, workers.described, locate)):
        run.put(_unit(distance.locator), distance)


def _distances(
    fact: Fact, locators: Sequence[str], described: Provenance, locate: Locate, model: HookedTransformer
) -> list[PrecisionDistance]:
    """Of some locators, measured on the model that a worker has."""
    try:
        wide = _wide(model)
    except OptionError as error:
        return [_unknown(name, fact, described, error) for name in locators]
    found = []
    for name in locators:
        try:
            narrow = locate(model, name)
            with matmul_precision("highest"):
                exact = locate(wide, name)
            found.append(distance_of(narrow, exact, name, described))
        except SKIPPABLE as error:
            found.append(_unknown(name, fact, described, error))
    return found


def distance_of(narrow: Record, exact: Record, locator: str, described: Provenance) -> PrecisionDistance:
    """The distance of one map from another one of the same fact.

    Args:
        narrow: As the study computes it.
        exact: In float32.
        locator: Its name.
        described: The study's model.
    """
    method = locator_named(locator)
    records = [method.kept(record) for record in (narrow, exact)]
    maps = [method.averaged(record).values.detach().double().cpu() for record in records]
    there = torch.isfinite(maps[0]) & torch.isfinite(maps[1])
    found, expected = (values[there] for values in maps)
    return PrecisionDistance(
        provenance=described,
        locator=locator,
        fact=records[1].fact,
        largest_difference=_relative(found, expected),
        rank_correlation=rank_correlation(found.tolist(), expected.tolist()).mean,
    )


def _relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value; 0 where nothing differs."""
    if not len(expected):
        return math.nan
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    return difference / largest if largest else (math.inf if difference else 0.0)


def _wide(model: HookedTransformer) -> HookedTransformer:
    """The model in float32, where it fits beside the model.

    Raises:
        OptionError: If it does not.
    """
    if model.W_E.dtype == torch.float32:
        return model
    n_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    check_fits("the same model in float32", n_bytes, model.W_E.device, "its distance is not known")
    return in_float32(model)


def _unknown(name: str, fact: Fact, described: Provenance, error: Exception) -> PrecisionDistance:
    return PrecisionDistance(
        provenance=described,
        locator=name,
        fact=fact,
        largest_difference=math.nan,
        rank_correlation=math.nan,
        why_not=" ".join(str(error).split()),
    )


def _unit(locator: str) -> str:
    return f"precision-{locator}"
