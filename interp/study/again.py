"""One case located before and after its edit: does a locator still point to where the fact was, or to the edit?"""

from __future__ import annotations

from collections.abc import Mapping
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
from interp.study.plan import LOCATED_AGAIN, Plan, again_unit, finished, read_plan, unit_name
from interp.study.work import Work

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


def locate_again(work: Work, noise: float) -> None:
    """Locate the first case that is left, before and after the edit by the first editor where the last locator points.

    Nothing happens where that case is another shard's.

    Args:
        work: The study; its shard's units are done.
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
    for index, (when, fact) in enumerate(zip(LOCATED_AGAIN, facts, strict=True)):
        there = [
            run.get(locator_named(name).record, again_unit(plan, name, when), **_about(name, fact))
            for name in plan.again
        ]
        if all(record is not None for record in there):
            continue
        work.report(work.total - len(LOCATED_AGAIN) + index, work.total, f"locating again: {when} the edit")
        if when == "before":
            _locate(work, plan, fact, when, noise, work.described)
        else:
            patch = finished(run, Patch, unit_name("patch", *plan.edit_located_again, case))
            with patch.applied(work.model):
                _locate(work, plan, fact, when, noise, provenance(work.model))


def _about(name: str, fact: Fact) -> dict[str, Any]:
    return locator_named(name).about(fact)


def _locate(work: Work, plan: Plan, fact: Fact, when: str, noise: float, described: Provenance) -> None:
    for name in plan.again:
        task = LocateTask(model=work.model, fact=fact, noise=noise, model_provenance=described)
        work.run.put(again_unit(plan, name, when), locator_named(name).run(task))


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
