"""What a study of edited layers found, from its records alone: Table 1, the locators compared, the layer sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from interp.errors import DataError
from interp.evaluation.protocol import CaseEvaluation
from interp.evaluation.summary import Comparison, TableRow, compare, table_row
from interp.locate.class_average import ClassAverage
from interp.results.run_folder import RunFolder
from interp.results.shown import Shown
from interp.results.skips import Skips
from interp.statistics.estimates import Interval, rank_correlation
from interp.study.layers import LAST_SUBJECT
from interp.study.plan import CONTROL, Plan, PlannedRow, finished, layers_of, read_plan, unit_name

__all__ = ["EditResults", "Strength", "read_edit_results", "strength"]


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strongly a locator points to each layer, at the last subject token.

    Args:
        locator, title, unit: What it is.
        mean, low, high: By layer, over the facts, with 95% intervals (NaN where there is none).
        chosen: The layer that the locator chose.
        correlation: Spearman's, with the edit score over the layers of the sweep; it has no interval
            (:func:`~interp.statistics.estimates.rank_correlation` says why).
    """

    locator: str
    title: str
    unit: str
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chosen: int
    correlation: Interval


@dataclass(frozen=True, kw_only=True, repr=False)
class EditResults(Shown):
    """What the study found.

    Args:
        rows: Table 1: before any edit, then each locator with each editor.
        comparisons: The locators against each other and against the control, paired by case.
        by_layer: The layer sweep.
        strengths: Of each locator.
        same_cases: Whether all rows of Table 1 rest on the same cases. Of an unfinished study they need not, and where
            cases were left out of some rows.
    """

    rows: tuple[TableRow, ...]
    comparisons: tuple[Comparison, ...]
    by_layer: Mapping[int, TableRow]
    strengths: tuple[Strength, ...]
    same_cases: bool = True


def read_edit_results(run: RunFolder, averages: Sequence[ClassAverage], *, so_far: bool = False) -> EditResults:
    """Table 1 and the layer sweep from records alone.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> averages = interp.class_averages(run)
        >>> settings = interp.EditStudySettings(limit=1, stride=5, fluency_tokens=20, corpus=interp.Corpus(tokens=2560))
        >>> edits = interp.edit_cases(model, cases, averages, "edited", settings, noise=0.3)
        >>> [(row.locator, row.method) for row in interp.read_edit_results(edits, averages).rows[:3]]
        [('Before any edit', 'none'), ('Attribution score', 'rome'), ('Attribution score', 'memit')]

    Args:
        run: The folder.
        averages: The class-averaged maps of the locating part.
        so_far: Take of an unfinished study the cases that are there. Every row then has its own n, comparisons are over
            the cases that both rows have (those without any are missing), and so are the layers of the sweep without
            a case.

    Raises:
        DataError: If the study is not finished (names the first missing record); with ``so_far`` only if a row of
            Table 1 has no case yet. If every case of a row was left out.
    """
    plan = read_plan(run)
    reader = _Reader(run, plan, Skips.of(run), int(run.settings()["seed"]), so_far)
    rows, found = {}, {}
    for planned in plan.rows():
        key = planned.locator, planned.editor
        rows[key], found[key] = reader.row(planned)
    by_layer = {layer: row for layer in plan.swept if (row := reader.swept(layer)) is not None}
    located_again = list(plan.layers)[-1], plan.placed[0]
    unedited = table_row(
        found[located_again],
        locator="Before any edit",
        layers="-",
        edited=False,
        skipped=rows[located_again].skipped,
        seed=reader.seed,
    )
    return EditResults(
        rows=(unedited, *rows.values()),
        comparisons=tuple(reader.comparisons(found)),
        by_layer=by_layer,
        strengths=tuple(_strengths(plan, by_layer, averages)),
        same_cases=len({frozenset(each.case for each in row) for row in found.values()}) == 1,
    )


@dataclass(frozen=True)
class _Reader:
    """Rows of a study's table from its records."""

    run: RunFolder
    plan: Plan
    skips: Skips
    seed: int
    so_far: bool

    def row(self, planned: PlannedRow) -> tuple[TableRow, list[CaseEvaluation]]:
        """A row of Table 1, and the cases that it is the mean of."""
        found, skipped = self._cases(planned)
        if not found:
            raise DataError(f"{self._about(planned)}: no case is finished yet")
        row = table_row(found, locator=planned.located_by, layers=planned.span, skipped=skipped, seed=self.seed)
        return row, found

    def swept(self, layer: int) -> TableRow | None:
        """A row of the layer sweep; None as long as it has no case."""
        planned = self.plan.sweep_row(layer)
        found, skipped = self._cases(planned)
        if not found:
            return None
        return table_row(found, locator="Layer sweep", layers=planned.span, skipped=skipped, seed=self.seed)

    def comparisons(self, found: Mapping[tuple[str, str], Sequence[CaseEvaluation]]) -> Iterator[Comparison]:
        """The locators against each other, later ones against earlier, and each against the control."""
        names = {row.locator: row.located_by for row in self.plan.rows()}
        order = [*reversed(list(self.plan.layers)), CONTROL]
        for editor in self.plan.placed:
            for first, second in combinations(order, 2):
                pair = _in_both(found[first, editor], found[second, editor])
                if self.so_far and not pair[0]:
                    continue
                yield compare(*pair, names=(names[first], names[second]), seed=self.seed)

    def _cases(self, planned: PlannedRow) -> tuple[list[CaseEvaluation], list[str]]:
        """The evaluated cases of a row, and why others are left out; of a study so far there may be none yet."""
        found, skipped = [], []
        for i, (case, layers) in enumerate(zip(self.plan.cases, planned.layers, strict=True)):
            reason = self.plan.why_not(self.skips, planned.editor, layers, i)
            if reason is not None:
                skipped.append(f"case {case}: {reason}")
                continue
            unit = unit_name("case", planned.editor, layers, i)
            expected = {"case": case, "method": planned.editor, **layers_of(layers)}
            if not self.so_far:
                found.append(finished(self.run, CaseEvaluation, unit, **expected))
            elif (evaluation := self.run.read(CaseEvaluation, unit, **expected)) is not None:
                found.append(evaluation)
        if len(skipped) == len(self.plan.cases):
            raise DataError(f"{self._about(planned)}: every case was left out; {skipped[0]}")
        return found, skipped

    def _about(self, planned: PlannedRow) -> str:
        return f"{self.run.path}: {planned.located_by}, {planned.editor} at {planned.span}"


def _strengths(plan: Plan, by_layer: Mapping[int, TableRow], averages: Sequence[ClassAverage]) -> Iterator[Strength]:
    maps = {average.method: average for average in averages}
    names = {row.locator: row.located_by for row in plan.rows()}
    for name, chosen in plan.chosen.items():
        yield strength(maps[name], names[name], chosen, by_layer)


def strength(average: ClassAverage, locator: str, chosen: int, by_layer: Mapping[int, TableRow]) -> Strength:
    """How strongly a locator points to each layer, against what editing there did.

    Args:
        average: Its map.
        locator: As tables name it.
        chosen: The layer that it chose.
        by_layer: The layer sweep.
    """
    mean, low, high = (
        tuple(float(x) for x in values[LAST_SUBJECT]) for values in (average.mean, average.low, average.high)
    )
    scores = [row.scores["teacher-forced"]["score"].mean for row in by_layer.values()]
    return Strength(
        locator=locator,
        title=average.title,
        unit=average.unit,
        mean=mean,
        low=low,
        high=high,
        chosen=chosen,
        correlation=rank_correlation([mean[layer] for layer in by_layer], scores),
    )


def _in_both(
    first: Sequence[CaseEvaluation], second: Sequence[CaseEvaluation]
) -> tuple[list[CaseEvaluation], list[CaseEvaluation]]:
    """The cases that neither left out."""
    both = {e.case for e in first} & {e.case for e in second}
    return [e for e in first if e.case in both], [e for e in second if e.case in both]
