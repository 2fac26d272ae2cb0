"""What a run folder holds so far, for its report: of a study that is finished, that runs or that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import DataError
from interp.facts.records import Fact
from interp.locate.class_average import ClassAverage
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.again import Relocated, relocated
from interp.study.edited import EditResults, read_edit_results
from interp.study.left import editing_left, editing_units, rows_begun
from interp.study.located import class_averages, count_located, left_out, selection
from interp.study.plan import CONTROL, LOCATED_AGAIN, again_unit, read_plan
from interp.system.files import exists

__all__ = ["FEWEST_FACTS", "Contents", "EditsPart", "FactsPart", "read_contents"]

FEWEST_FACTS = 3
"""The facts from which on maps are averaged, where there will be as many."""


@dataclass(frozen=True, kw_only=True)
class FactsPart:
    """What is known of the locating.

    Args:
        settings: Of the run.
        facts: What was chosen; nothing as long as that is being found out.
        noise: The level that was chosen.
        n_located, n_expected: How many are located, and how many will be.
        averages: Of those that are located; none where they are too few for a figure.
        left_out: The facts that could not be located, and why.
        unfit: The candidates that do not fit the model, and why.
    """

    settings: Mapping[str, Any]
    facts: tuple[Fact, ...] = ()
    noise: float | None = None
    n_located: int = 0
    n_expected: int | None = None
    averages: tuple[ClassAverage, ...] = ()
    left_out: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every fact is located or left out."""
        return self.n_located == self.n_expected


@dataclass(frozen=True, kw_only=True)
class EditsPart:
    """What is known of the edits.

    Args:
        settings: Of the run.
        cases: Their ids.
        chosen: The layer that each locator points to.
        control: What Table 1 calls the control.
        n_done, n_units: How many units of work are done, and how many there are.
        n_begun, n_rows: How many rows of Table 1 have a case, and how many there are.
        n_swept: How many layers the sweep edits.
        results: As far as every row has a case.
        again: One case located before and after its edit.
        left_out: What was left out, and why.
    """

    settings: Mapping[str, Any]
    cases: tuple[str, ...]
    chosen: Mapping[str, int]
    control: str
    n_done: int
    n_units: int
    n_begun: int
    n_rows: int
    n_swept: int
    results: EditResults | None = None
    again: Relocated | None = None
    left_out: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every unit is done or left out."""
        return self.n_done == self.n_units


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a report is about.

    Args:
        name: Of the folder.
        located: The locating.
        edited: The edits; None as long as there are none.
        edits_follow: Whether cases are to be edited.
        began, latest: When the folder was begun and when its latest record was written, in seconds since 1970; None
            where that is not known.
    """

    name: str
    located: FactsPart
    edited: EditsPart | None = None
    edits_follow: bool = False
    began: float | None = None
    latest: float | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        edits = self.edited.finished if self.edited is not None else not self.edits_follow
        return self.located.finished and edits


def read_contents(
    path: str | Path, *, averages: Sequence[ClassAverage] | None = None, edits_follow: bool | None = None
) -> Contents:
    """Read what a run folder holds so far.

    Args:
        path: A folder that ``interp study`` or ``interp figure1`` writes, finished or not, or several merged.
        averages: Of its facts, to spare reading them again.
        edits_follow: Whether cases are to be edited; by default if the folder holds edits.

    Raises:
        DataError: If it is no such folder, or something in it is damaged (names it).
    """
    run = RunFolder(Path(path))
    edits = RunFolder(run.path / "edits")
    begun = exists(edits.path / "selection.json")
    dates = [date for folder in (run, edits) for date in _dates(folder)]
    located = _facts_part(run, averages)
    return Contents(
        name=run.path.resolve().name,
        located=located,
        edited=_edits_part(edits, located.averages or class_averages(run)) if begun else None,
        edits_follow=begun if edits_follow is None else edits_follow,
        began=min(dates, default=None),
        latest=max(dates, default=None),
    )


def _facts_part(run: RunFolder, averages: Sequence[ClassAverage] | None) -> FactsPart:
    settings = run.settings()
    if "editors" in settings:
        raise DataError(f"{run.path} holds the edits of a study: name the folder that it lies in")
    unfit = tuple(f"{unit}: {why}" for unit, why in Skips.of(run).reasons.items() if unit.startswith("fact "))
    if not exists(run.path / "selection.json"):
        return FactsPart(settings=settings, unfit=unfit)
    chosen = selection(run)
    located, expected = count_located(run)
    if averages is None:
        averages = class_averages(run) if located >= min(FEWEST_FACTS, max(expected, 1)) else ()
    return FactsPart(
        settings=settings,
        facts=chosen.facts,
        noise=chosen.noise,
        n_located=located,
        n_expected=expected,
        averages=tuple(averages),
        left_out=tuple(left_out(run)),
        unfit=unfit,
    )


def _edits_part(run: RunFolder, averages: Sequence[ClassAverage]) -> EditsPart:
    plan, units, left = read_plan(run), editing_units(run), set(editing_left(run))
    begun, rows = rows_begun(run)
    results = read_edit_results(run, averages, so_far=bool(left)) if begun == rows else None
    again = {again_unit(plan, name, when) for name in plan.again for when in LOCATED_AGAIN}
    return EditsPart(
        settings=run.settings(),
        cases=plan.cases,
        chosen=plan.chosen,
        control=next(row.located_by for row in plan.rows() if row.locator == CONTROL),
        n_done=len(units) - len(left),
        n_units=len(units),
        n_begun=begun,
        n_rows=rows,
        n_swept=len(plan.swept),
        results=results,
        again=None if left & again else relocated(run),
        left_out=tuple(f"{_with_case(unit, plan.cases)}: {why}" for unit, why in Skips.of(run).reasons.items()),
    )


def _with_case(unit: str, cases: Sequence[str]) -> str:
    """A unit's name and the case that it is about."""
    place = unit.rpartition("-")[2]
    known = place.isdecimal() and int(place) < len(cases)
    return f"{unit} ({cases[int(place)]})" if known else unit


def _dates(run: RunFolder) -> list[float]:
    """When its settings and its records were written."""
    found = []
    for path in (run.path / "run.json", *(run.path / "records").glob("[!.]*.safetensors")):
        try:
            found.append(path.stat().st_mtime)
        except OSError:  # replaced meanwhile
            continue
    return found
