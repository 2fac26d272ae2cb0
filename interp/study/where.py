"""Which layers should one edit in this model? Locate, try an editor at more and more layers, name the best.

1. Facts that the model knows are located (:func:`~interp.study.locating.locate_facts`): where each locator points.
2. The cases, in a seeded order, are cut into three: those that every measured layer is edited on, more for the layers
   that stay in question, and those that are held out.
3. Rounds over the layers, from coarse to fine (:mod:`interp.study.rounds`); in each, the cases are edited one by one on
   the unedited model and evaluated, as in any study (:mod:`interp.study.work`).
4. Layers that are told to be worse drop out; the best of the others are edited on more cases. The one of the highest
   score is chosen, and edited on the cases that were held out: its score in the sample by which it was chosen is too
   high, that one is not.

Every edit is a unit with a record in the folder; interrupted, a second call does what is missing and ends with the same
file. What is found in the records is in :mod:`interp.study.where_found`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from transformer_lens import HookedTransformer

from interp.editing.measured import TOLD, WhereToEdit
from interp.errors import DataError
from interp.facts.records import EditCase, Fact
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.statistics.estimates import Interval
from interp.study.located import class_averages
from interp.study.locating import locate_facts
from interp.study.plan import check_cases
from interp.study.rounds import Round, coarse_layers, finer_layers, most_layers
from interp.study.settings import LocateSettings
from interp.study.where_found import COST_FILE, EDITED, LOCATED, SCORE, WHERE_FILE, Tried, write_tried
from interp.study.where_settings import Budget, WhereSettings
from interp.study.work import Work
from interp.study.workers import Here, StudyProgress, Workers

__all__ = ["where_to_edit"]


def where_to_edit(
    model: HookedTransformer,
    facts: Sequence[Fact],
    cases: Sequence[EditCase],
    folder: str | Path,
    settings: WhereSettings | None = None,
    *,
    sources: tuple[str, str] = ("given facts", "given cases"),
    progress: StudyProgress | None = None,
) -> WhereToEdit:
    """Find the layers at which an editor edits a model best; interrupted, a second call does what is missing.

    Example:
        >>> settings = interp.study.WhereSettings(corpus=interp.Corpus(tokens=2560))
        >>> found = interp.where_to_edit(model, facts, cases, "where", settings)
        >>> interp.default_config(model, "rome", where=found).layer == found.layer
        True

    Args:
        model: The model; it is left as it is.
        facts: Candidates; those that the model knows are located.
        cases: What to edit.
        folder: The run folder. The result is kept in it as ``where.json``, which :func:`interp.default_config` takes.
        settings: See :class:`~interp.study.where_settings.WhereSettings`.
        sources: Where facts and cases come from, for the record.
        progress: Called as units advance; the total is the most that the budget allows.

    Raises:
        OptionError: If there are no cases, or two have one id.
        FactError: If the model knows none of the facts, or no fact or case fits it.
        DataError: If the folder cannot be written or holds another run, or no case has what the score is made of.
        NumericalError: If no case of several can be edited at the same layers (says why the first cannot).
    """
    settings = settings or WhereSettings()
    assert model.cfg.d_mlp is not None
    settings = replace(settings, corpus=settings.corpus.sized(model.cfg.d_mlp))
    ordered, root, report = _in_order(cases, settings.seed), Path(folder), progress or (lambda *_: None)
    hashes = [hashlib.sha256(repr(list(given)).encode()).hexdigest()[:16] for given in (facts, cases)]
    with _counted(root):
        workers = Here(model)
        described = workers.described
        located = _located(workers, model, facts, root, settings, sources[0], report)
        about = {"cases": sources[1], "cases_sha256": hashes[1], "provenance": asdict(described)}
        run = RunFolder.open(root / EDITED, {**asdict(settings), "allowed": asdict(settings.allowed), **about})
        shares = settings.allowed.of(len(ordered))
        ordered = ordered[: sum(shares)]
        tried = Tried(
            run=run,
            editor=settings.editor,
            n_layers=model.cfg.n_layers,
            cases=tuple(case.id for case in ordered),
            shares=shares,
            seed=settings.seed,
        )
        write_tried(tried)
        peaks = tried.peaks(class_averages(located))
        search = _Search(model, ordered, settings, workers, tried, report)
        layer, p_values = search.chosen([peak.edited for peak in peaks if peak.edited is not None])
        after = tried.row(layer, tried.held_out or tried.choosing)
        result = WhereToEdit(
            provenance=described,
            n_layers=model.cfg.n_layers,
            editor=settings.editor,
            layer=layer,
            layers=tried.possible[layer],
            held_out=after.measured(SCORE.name) if tried.held_out else None,
            n_asked=after.n_cases,
            n_took=after.n_took or 0,
            by_layer=tried.scores(layer, p_values),
            peaks=peaks,
            budget={"name": settings.budget, **asdict(settings.allowed)},
            facts=(sources[0], hashes[0]),
            cases=(sources[1], hashes[1]),
            left_out=len(Skips.of(run).reasons) + len(Skips.of(located).reasons),
        )
        result.save(root / WHERE_FILE)
    return result


def _in_order(cases: Sequence[EditCase], seed: int) -> list[EditCase]:
    """The cases in a seeded order, so that its parts are alike.

    Raises:
        OptionError: If there are none, or two have one id.
    """
    check_cases(cases)
    return [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]


def _located(
    workers: Workers,
    model: HookedTransformer,
    facts: Sequence[Fact],
    root: Path,
    settings: WhereSettings,
    source: str,
    report: StudyProgress,
) -> RunFolder:
    locating = LocateSettings(locators=settings.locators, limit=settings.allowed.facts, selection_seed=settings.seed)
    return locate_facts(model, facts, root / LOCATED, locating, source=source, shard=workers, progress=report)


@contextmanager
def _counted(root: Path) -> Iterator[None]:
    """Add up the seconds of all sessions until there is a result, in a file beside it: it is to hold no times."""
    done, began = (root / WHERE_FILE).exists(), time.monotonic()
    try:
        yield
    finally:
        if not done and root.exists():
            folder = RunFolder(root)
            try:
                before = float(folder.read_json(COST_FILE)["seconds"])
            except (DataError, LookupError, TypeError, ValueError):
                before = 0.0
            folder.write_json(COST_FILE, {"seconds": round(before + time.monotonic() - began, 1)})


@dataclass(frozen=True)
class _Search:
    """The search over the layers of one model."""

    model: HookedTransformer
    cases: list[EditCase]
    settings: WhereSettings
    workers: Workers
    tried: Tried
    report: StudyProgress

    def chosen(self, peaks: Sequence[int]) -> tuple[int, dict[int, float]]:
        """The layer of the highest score, edited on what is held out, and the p-value of each measured layer.

        Args:
            peaks: The layers that are edited where locators point.
        """
        tried, budget, possible = self.tried, self.settings.allowed, list(self.tried.possible)
        first = coarse_layers(possible, budget.coarse, peaks)
        most = most_layers(possible, first, budget.layers)
        steps = _Steps(self.report, self._most_units(budget, most))
        scores: dict[int, Interval] = {}
        while new := finer_layers(possible, scores, most - len(scores)) if scores else first:
            self._edit(new, tried.first, steps)
            scores |= {layer: tried.score(layer, tried.first) for layer in new}
            self._check(scores)
        looks = 2 if tried.more else 1  # whoever looks twice is misled twice as often
        p_values = {layer: min(1.0, looks * p) for layer, p in tried.p_values(list(scores), tried.first).items()}
        open_ = [layer for layer in scores if p_values[layer] > TOLD]
        open_ = sorted(sorted(open_, key=lambda layer: (-scores[layer].mean, layer))[: budget.in_question])
        if tried.more:
            self._edit(open_, tried.more, steps)
            again = tried.p_values(open_, tried.choosing)
            p_values |= {layer: min(p_values[layer], looks * p, 1.0) for layer, p in again.items()}
        means = {layer: tried.score(layer, tried.choosing if tried.more else tried.first).mean for layer in open_}
        layer = max(open_, key=lambda layer: (means[layer], -layer))
        if tried.held_out:
            self._edit([layer], tried.held_out, steps)
        self.report(steps.total, steps.total, "done")
        return layer, p_values

    def _most_units(self, budget: Budget, most: int) -> int:
        first, more, held_out = self.tried.shares
        return most * first + min(most, budget.in_question) * more + held_out

    def _edit(self, layers: Sequence[int], members: range, steps: _Steps) -> None:
        """One round."""
        units = {self.tried.possible[layer]: members for layer in layers}
        work = Work(
            self.model,
            self.cases,
            self.tried.run,
            self.settings,
            Round(editor=self.settings.editor, units=units),
            Skips.of(self.tried.run),
            self.workers,
            steps.of_a_round,
        )
        work.do_all()
        steps.round_ends(len(layers) * len(members))

    def _check(self, scores: Mapping[int, Interval]) -> None:
        """Refuse cases that have no score.

        Raises:
            DataError: Naming what they lack.
        """
        if any(math.isnan(score.mean) for score in scores.values()):
            layer = next(iter(scores))
            lacking = self.tried.lacking(layer, self.tried.first)
            raise DataError(
                f"the cases have no score, which is made of {', '.join(SCORE.parts)}: none of the first"
                f" {len(self.tried.first)} has questions of {', '.join(lacking)}"
            )


class _Steps:
    """Progress over several rounds, of which each counts for itself."""

    def __init__(self, report: StudyProgress, total: int) -> None:
        self._report, self.total, self._before = report, total, 0

    def of_a_round(self, done: float, total: int, label: str) -> None:
        """Where the round is."""
        self._report(self._before + done, self.total, label)

    def round_ends(self, units: int) -> None:
        """So many units are done."""
        self._before += units
        self._report(self._before, self.total, "")
