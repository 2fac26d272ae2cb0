"""What is left to do of a study, by any shard: units without a record that were not left out either."""

from __future__ import annotations

from collections.abc import Iterator

from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.located import selection, unit_of
from interp.study.plan import LOCATED_AGAIN, Plan, again_unit, read_plan, unit_name
from interp.system.files import exists

__all__ = ["editing_left", "editing_units", "locating_left", "rows_begun"]


def locating_left(run: RunFolder) -> list[str]:
    """The units of a run of :func:`~interp.study.locating.locate_facts` that are still to be done.

    Example:
        >>> settings = interp.LocateSettings(limit=2, samples=2)
        >>> run = interp.locate_facts(model, facts, "shared", settings, shard=interp.study.Shard(1, 2))
        >>> interp.study.locating_left(run)
        ['0000-resid', '0000-mlp', '0000-attn', '0001-resid', '0001-mlp', '0001-attn']

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
    return [unit for unit in editing_units(run) if not run.record_path(unit).exists()]


def editing_units(run: RunFolder) -> list[str]:
    """All units of a run of :func:`~interp.study.editing.edit_cases` but those that were left out.

    Raises:
        DataError: If the folder is not such a run, or damaged.
    """
    plan, skips = read_plan(run), Skips.of(run)
    return list(dict.fromkeys((*_cases(plan, skips), *_again(plan))))


def rows_begun(run: RunFolder) -> tuple[int, int]:
    """How many rows of Table 1 have a case so far, and how many there are. No record is read.

    Raises:
        DataError: If the folder is not a run of :func:`~interp.study.editing.edit_cases`, or damaged.
    """
    rows = list(read_plan(run).rows())
    begun = [
        any(
            exists(run.record_path(unit_name("case", row.editor, layers, case)))
            for case, layers in enumerate(row.layers)
        )
        for row in rows
    ]
    return sum(begun), len(rows)


def _cases(plan: Plan, skips: Skips) -> Iterator[str]:
    for editor, layers, case in plan.to_edit():
        if plan.why_not(skips, editor, layers, case) is None:
            yield unit_name("case", editor, layers, case)


def _again(plan: Plan) -> Iterator[str]:
    for name in plan.again:
        for when in LOCATED_AGAIN:
            yield again_unit(plan, name, when)
