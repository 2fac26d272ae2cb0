"""Where should one edit? Edit every case at the layers that each locator points to, and measure what it did.

1. Every editor at the layers of each locator, and at control layers (:mod:`interp.study.layers`).
2. Layer sweep: the first editor at every ``stride``-th layer.
3. Every case is edited by itself, on the unedited model, and evaluated before and after (:mod:`interp.study.work`).
4. One edited model is located again.

A case that cannot be asked or edited is left out, and the folder says why (:mod:`interp.results.skips`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from transformer_lens import HookedTransformer

from interp.errors import OptionError
from interp.facts.records import EditCase
from interp.locate.class_average import ClassAverage
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.again import locate_again
from interp.study.layers import config_at, peak_layers
from interp.study.plan import check_cases, planned, write_plan
from interp.study.settings import EditStudySettings
from interp.study.shard import Shard
from interp.study.work import Work
from interp.study.workers import StudyProgress, Workers, workers_of

__all__ = ["edit_cases"]


def edit_cases(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    averages: Sequence[ClassAverage],
    folder: str | Path,
    settings: EditStudySettings | None = None,
    *,
    noise: float,
    source: str = "given cases",
    shard: Shard | Workers | None = None,
    progress: StudyProgress | None = None,
) -> RunFolder:
    """Edit and evaluate cases at every layer of the study; interrupted, a second call does what is missing.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> settings = interp.EditStudySettings(limit=1, stride=5, fluency_tokens=20, corpus=interp.Corpus(tokens=2560))
        >>> edits = interp.edit_cases(model, cases, interp.class_averages(run), "edited", settings, noise=0.3)
        >>> len(list(edits.path.glob("records/*")))
        11

    A case that does not fit the model, or whose edit gives numbers that are not finite, is left out: the folder's
    ``skipped/`` says why, and the tables count it.

    Args:
        model: The model; it is left as it is.
        cases: What to edit; the first ``limit`` count.
        averages: The class-averaged maps of the locating part.
        folder: The run folder.
        settings: See :class:`~interp.study.settings.EditStudySettings`.
        noise: Of the tracing before and after an edit.
        source: Where the cases come from, for the record.
        shard: The share of the units that is done here; all of them by default. What is left is told by
            :func:`~interp.study.left.editing_left`. Or workers that do all
            (:func:`~interp.study.on_ray.start.ray_workers`).
        progress: Called as units advance.

    Raises:
        OptionError: If there are no cases, two have one id, a given layer does not exist, the map of a locator is
            missing, or all editors choose their layers.
        DataError: If the folder cannot be written or holds another run.
        FactError: If no case fits the model (says why the first does not).
        NumericalError: If no case of several can be edited at the same layers (says why the first cannot).
    """
    settings = settings or EditStudySettings()
    assert model.cfg.d_mlp is not None
    settings = replace(settings, corpus=settings.corpus.sized(model.cfg.d_mlp))
    cases = list(cases)[: settings.limit]
    check_cases(cases)
    workers = workers_of(model, shard)
    chosen = dict(settings.layers or peak_layers(averages, settings.locators))
    for name, layer in chosen.items():
        if layer >= (n_layers := model.cfg.n_layers):
            raise OptionError(
                f"{name}: layer {layer} does not exist: {model.cfg.model_name} has layers 0 to {n_layers - 1}"
            )
    plan = planned([case.id for case in cases], chosen, model.cfg.n_layers, settings)
    for row in plan.rows():
        config_at(model, row.editor, row.layers[0])
    run = RunFolder.open(
        folder,
        {
            **asdict(settings),
            "cases": source,
            "cases_sha256": hashlib.sha256(repr(cases).encode()).hexdigest()[:16],
            "chosen": chosen,
            "noise": noise,
            "provenance": asdict(workers.described),
        },
    )
    write_plan(run, plan)
    report = progress or (lambda *_: None)
    work = Work(model, cases, run, settings, plan, Skips.of(run), workers, report)
    work.do_all()
    locate_again(work, noise)
    report(work.total, work.total, "done")
    return run
