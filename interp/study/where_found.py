"""What ``interp where`` found, from its records alone: scores by layer, which are told apart, where locators point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.editing.measured import LayerScore, LocatorPeak, WhereToEdit
from interp.errors import DataError
from interp.evaluation.case_evaluation import CaseEvaluation
from interp.evaluation.measures import measure_named
from interp.evaluation.summary import TableRow, compare, table_row
from interp.locate.class_average import ClassAverage
from interp.locate.methods import locator_named
from interp.results.run_folder import RunFolder
from interp.results.shown import Shown
from interp.results.skips import Skips
from interp.statistics.best import worse_than_best
from interp.statistics.estimates import Interval
from interp.study.edited import Strength, strength
from interp.study.layers import LAST_SUBJECT, layer_span, layers_around, swept_layers
from interp.study.located import class_averages
from interp.study.plan import finished, layers_of, unit_name, why_not

__all__ = [
    "COST_FILE",
    "EDITED",
    "LOCATED",
    "SCORE",
    "WHERE_FILE",
    "Tried",
    "WhereResults",
    "read_where",
    "write_tried",
]

WHERE_FILE, COST_FILE = "where.json", "where-cost.json"
LOCATED, EDITED = "located", "edits"
"""The run folders within the folder."""
FILE = "selection.json"
SCORE = measure_named("score")
"""What layers are compared by."""

Layers = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The edits of a run of :func:`~interp.study.where.where_to_edit`, as far as they are finished.

    Args:
        run: The run folder.
        editor: The editor's name.
        n_layers: Of the model.
        cases: Their ids, in the order in which they are taken.
        shares: How many of them are for every layer, for those in question, and held out.
        seed: Of intervals and exchanges.
    """

    run: RunFolder
    editor: str
    n_layers: int
    cases: tuple[str, ...]
    shares: tuple[int, int, int]
    seed: int

    @cached_property
    def possible(self) -> dict[int, Layers]:
        """By the last layer that is edited, all of them."""
        return swept_layers(self.editor, self.n_layers, 1)

    @property
    def first(self) -> range:
        """The cases that every measured layer is edited on."""
        return range(self.shares[0])

    @property
    def more(self) -> range:
        """Those for layers in question besides."""
        return range(self.shares[0], self.shares[0] + self.shares[1])

    @property
    def choosing(self) -> range:
        """Those two."""
        return range(self.shares[0] + self.shares[1])

    @property
    def held_out(self) -> range:
        """Those that have no part in the choice."""
        return range(self.shares[0] + self.shares[1], len(self.cases))

    def score(self, layer: int, members: Sequence[int]) -> Interval:
        """In percent, over some of the cases."""
        return self.row(layer, members).measured(SCORE.name)

    def row(self, layer: int, members: Sequence[int]) -> TableRow:
        """What editing at a layer did to some of the cases."""
        found = list(self._evaluated(layer, members).values())
        layers = layer_span(self.possible[layer])
        return table_row(found, locator="Layer sweep", layers=layers, seed=self.seed)

    def lacking(self, layer: int, members: Sequence[int]) -> list[str]:
        """The parts of the score that none of these cases has."""
        parts = _parts(list(self._evaluated(layer, members).values()))
        return [name for name, values in zip(SCORE.parts, parts, strict=True) if np.isnan(values).all()]

    def p_values(self, layers: Sequence[int], members: Sequence[int]) -> dict[int, float]:
        """For each layer, that it is not worse than the best of them, over the cases that were edited at all."""
        found = [self._evaluated(layer, members) for layer in layers]
        shared = sorted(set.intersection(*(set(each) for each in found)))
        parts = [_parts([each[i] for i in shared]) for each in found]
        return dict(zip(layers, worse_than_best(parts, seed=self.seed), strict=True))

    def scores(self, chosen: int, p_values: Mapping[int, float]) -> tuple[LayerScore, ...]:
        """Every measured layer, beside the chosen one."""
        return tuple(
            LayerScore(
                layer=layer,
                layers=self.possible[layer],
                score=self.score(layer, self.edited(layer)),
                difference=None if layer == chosen else self._difference(chosen, layer),
                p=p_values[layer],
            )
            for layer in sorted(p_values)
        )

    def edited(self, layer: int) -> list[int]:
        """The cases of the choice that were edited at a layer."""
        unit = [unit_name("case", self.editor, self.possible[layer], i) for i in self.choosing]
        return [i for i, name in zip(self.choosing, unit, strict=True) if self.run.record_path(name).exists()]

    def peaks(self, averages: Sequence[ClassAverage]) -> tuple[LocatorPeak, ...]:
        """Where each locator points, and where the editor edits then."""
        return tuple(self._peak(average) for average in averages)

    def _peak(self, average: ClassAverage) -> LocatorPeak:
        locator = locator_named(average.method)
        peak, low, high = (
            None if values[LAST_SUBJECT] < 0 else values[LAST_SUBJECT]
            for values in (average.peak, average.peak_low, average.peak_high)
        )
        edited = None if peak is None else layers_around(average.method, self.editor, peak, self.n_layers)[-1]
        return LocatorPeak(
            locator=average.method,
            title=locator.located_by or locator.title,
            layer=peak,
            low=low,
            high=high,
            n_facts=average.n_facts[LAST_SUBJECT],
            edited=edited,
        )

    def _difference(self, chosen: int, layer: int) -> Interval:
        one, other = (self._evaluated(each, self.edited(each)) for each in (chosen, layer))
        both = [i for i in one if i in other]
        found = compare(
            [one[i] for i in both], [other[i] for i in both], names=("chosen", f"layer {layer}"), seed=self.seed
        )
        return found.differences[SCORE.name]

    def _evaluated(self, layer: int, members: Sequence[int]) -> dict[int, CaseEvaluation]:
        """Those of some cases that were not left out."""
        skips, layers, found = Skips.of(self.run), self.possible[layer], {}
        for i in members:
            if why_not(skips, self.editor, layers, i) is None:
                expected: dict[str, Any] = {"case": self.cases[i], "method": self.editor, **layers_of(layers)}
                found[i] = finished(self.run, CaseEvaluation, unit_name("case", self.editor, layers, i), **expected)
        return found


def _parts(found: Sequence[CaseEvaluation]) -> Float[np.ndarray, "part case"]:
    """What the score is made of, a share per case; NaN where a case has no such questions."""
    each = [evaluation.scores() for evaluation in found]
    rows = [[np.nan if scores[name] is None else scores[name] for scores in each] for name in SCORE.parts]
    return np.array(rows, dtype=float)


@dataclass(frozen=True, kw_only=True, repr=False)
class WhereResults(Shown):
    """All that a folder of ``interp where`` has to show.

    Args:
        found: The result.
        by_layer: A row of numbers for each measured layer.
        strengths: Of each locator that points somewhere.
        seconds: What it took; NaN if that is not known.
    """

    found: WhereToEdit
    by_layer: Mapping[int, TableRow]
    strengths: tuple[Strength, ...]
    seconds: float


def read_where(folder: str | Path) -> WhereResults:
    """The result and what its figure shows, from the records of a finished run.

    Raises:
        DataError: If the folder holds no finished run, or is damaged.
    """
    root = Path(folder)
    found = WhereToEdit.load(root / WHERE_FILE)
    tried = RunFolder(root / EDITED).read_json(FILE, lambda stored: _parsed(RunFolder(root / EDITED), stored))
    averages = {average.method: average for average in class_averages(RunFolder(root / LOCATED))}
    by_layer = {each.layer: tried.row(each.layer, tried.edited(each.layer)) for each in found.by_layer}
    strengths = tuple(
        strength(averages[peak.locator], peak.title, peak.layer, by_layer)
        for peak in found.peaks
        if peak.layer is not None
    )
    try:
        seconds = RunFolder(root).read_json(COST_FILE, lambda stored: float(stored["seconds"]))
    except DataError:  # it counts for nothing but the report
        seconds = math.nan
    return WhereResults(found=found, by_layer=by_layer, strengths=strengths, seconds=seconds)


def write_tried(tried: Tried) -> None:
    """Keep what is tried, so that it can be read from the folder alone."""
    tried.run.write_json(
        FILE,
        {
            "editor": tried.editor,
            "n_layers": tried.n_layers,
            "cases": tried.cases,
            "shares": tried.shares,
            "seed": tried.seed,
        },
    )


def _parsed(run: RunFolder, stored: Any) -> Tried:
    first, more, held_out = (int(share) for share in stored["shares"])
    return Tried(
        run=run,
        editor=str(stored["editor"]),
        n_layers=int(stored["n_layers"]),
        cases=tuple(str(case) for case in stored["cases"]),
        shares=(first, more, held_out),
        seed=int(stored["seed"]),
    )
