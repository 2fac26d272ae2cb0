"""One case located before and after its edit: does a locator still point to where the fact was, or to the edit?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import DataError
from interp.facts.records import Fact
from interp.locate.method import LocateTask
from interp.locate.methods import locator_named
from interp.patches.patch import Patch
from interp.results.record import Provenance, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.results.token_map import TokenMap
from interp.study.plan import LOCATED_AGAIN, Plan, again_unit, finished, read_plan, unit_name
from interp.study.work import Work
from interp.study.workers import Bench, Job

__all__ = ["Relocated", "locate_again", "relocated"]


@dataclass(frozen=True, kw_only=True)
class Relocated:
    """The first case located before and after its edit.

    Args:
        case: Its id.
        records: By locator, before and after.
    """

    case: str
    records: Mapping[str, tuple[Any, Any]]

    def maps(self) -> list[tuple[TokenMap, TokenMap]]:
        """Each locator's maps before and after the edit, to stand beside each other."""
        pairs = ((locator_named(name).beside, pair) for name, pair in self.records.items())
        return [(beside(before), beside(after)) for beside, (before, after) in pairs]


def locate_again(work: Work, noise: float) -> None:
    """Locate the first case that is left, before and after the edit by the first editor where the last locator points.

    Nothing happens where that case is another shard's.

    Args:
        work: The study; the units of its workers' shard are done.
        noise: Of tracing.
    """
    if not work.locates_again():
        return
    run, plan = work.run, work.plan
    assert isinstance(plan, Plan)
    case = plan.case_located_again(work.skips)
    request = work.cases[case].request
    old = request.fact
    facts = old, Fact(template=old.template, subject=old.subject, target=request.new_target)

    def jobs() -> Iterator[Job]:
        for when, fact in zip(LOCATED_AGAIN, facts, strict=True):
            units = {name: again_unit(plan, name, when) for name in plan.again}
            if all(
                run.get(locator_named(name).record, unit, **locator_named(name).about(fact)) is not None
                for name, unit in units.items()
            ):
                ledger.done += 1
                continue
            patch = None
            if when == "after":
                patch = finished(run, Patch, unit_name("patch", *plan.edit_located_again, case))
            yield _LocateAgain(fact=fact, noise=noise, units=units, when=when, patch=patch)

    ledger = work.ledger(work.total - len(LOCATED_AGAIN))
    work.workers.do(jobs(), ledger)


@dataclass(frozen=True, kw_only=True)
class _LocateAgain:
    """A fact located by several locators, on the model with a patch or without any."""

    fact: Fact
    noise: float
    units: Mapping[str, str]
    when: str
    patch: Patch | None
    size: int = 1

    @property
    def label(self) -> str:
        return f"locating again: {self.when} the edit"

    def __call__(self, bench: Bench) -> None:
        bench.report(0.0, self.label)
        if self.patch is None:
            self._locate(bench, bench.described)
        else:
            with self.patch.applied(bench.model):
                self._locate(bench, provenance(bench.model))

    def _locate(self, bench: Bench, described: Provenance) -> None:
        for name, unit in self.units.items():
            task = LocateTask(model=bench.model, fact=self.fact, noise=self.noise, model_provenance=described)
            bench.keep(unit, locator_named(name).run(task))


def relocated(run: RunFolder) -> Relocated:
    """The records of the first case that was edited, before and after its edit.

    Raises:
        DataError: If the study is not finished, or a record is damaged or not what its name says.
    """
    plan = read_plan(run)
    case = plan.cases[plan.case_located_again(Skips.of(run))]
    first, *others = plan.again
    records = {first: tuple(_found(run, plan, first, when) for when in LOCATED_AGAIN)}
    for name in others:
        records[name] = tuple(
            _found(run, plan, name, when, fact=one.fact, provenance=one.provenance)
            for when, one in zip(LOCATED_AGAIN, records[first], strict=True)
        )
    expected = run.settings().get("provenance", {}).get("weights_hash")
    if (found := records[first][0].provenance.weights_hash) != expected:
        raise DataError(
            f"{run.path}: {again_unit(plan, first, 'before')} is of weights {found}; the study has {expected}"
        )
    return Relocated(case=case, records={name: (before, after) for name, (before, after) in records.items()})


def _found(run: RunFolder, plan: Plan, name: str, when: str, **expected: Any) -> Any:
    return finished(run, locator_named(name).record, again_unit(plan, name, when), **expected)
