"""What is left to do of a study, by any shard: units without a record that were not left out either."""

from __future__ import annotations

from collections.abc import Iterator

from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.located import selection, unit_of
from interp.study.plan import LOCATED_AGAIN, Plan, again_unit, read_plan, unit_name

__all__ = ["editing_left", "locating_left"]


def locating_left(run: RunFolder) -> list[str]:
    """The units of a run of :func:`~interp.study.locating.locate_facts` that are still to be done.

    Example:
        >>> settings = interp.LocateSettings(limit=2, samples=2)
        >>> run = interp.locate_facts(model, facts, "shared", settings, shard=interp.study.Shard(1, 2))
        >>> interp.study.locating_left(run)
        ['0001-attribution', '0001-resid', '0001-mlp', '0001-attn']

    Raises:
        DataError: If the folder is not such a run, or damaged.
    """
    chosen, skips = selection(run), Skips.of(run)
    units = [unit_of(index, name) for index in range(len(chosen.facts)) for name in chosen.locators]
    return [unit for unit in units if unit not in skips and not run.record_path(unit).exists()]


def editing_left(run: RunFolder) -> list[str]:
    """The units of a run of :func:`~interp.study.editing.edit_cases` that are still to be done.

    Raises:
        DataError: If the folder is not such a run, or damaged.
    """
    plan, skips = read_plan(run), Skips.of(run)
    units = dict.fromkeys((*_cases(plan, skips), *_again(plan)))
    return [unit for unit in units if not run.record_path(unit).exists()]


def _cases(plan: Plan, skips: Skips) -> Iterator[str]:
    for editor, layers, case in plan.to_edit():
        if plan.why_not(skips, editor, layers, case) is None:
            yield unit_name("case", editor, layers, case)


def _again(plan: Plan) -> Iterator[str]:
    for name in plan.again:
        for when in LOCATED_AGAIN:
            yield again_unit(plan, name, when)
