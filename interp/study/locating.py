"""Locate many facts with every locator of a study; interrupted, a second call does what is missing.

A unit of work is one fact under one locator; a few are computed together (:mod:`interp.study.bundles`). Bundles are
independent of each other: one process does them all, several have a share each (:mod:`interp.study.shard`), or workers
are given one after the other (:mod:`interp.study.workers`). What was found is read by :mod:`interp.study.located`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import cattrs
from transformer_lens import HookedTransformer

from interp.engine.corruption import noise_level, replacement_facts
from interp.errors import FactError
from interp.facts.records import Fact
from interp.locate.knowledge import known_facts, spread_over_relations
from interp.locate.methods import locator_named
from interp.models.tokens import tokenize
from interp.options import Progress
from interp.results.record import Provenance, Record
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.bundles import facts_together, locate_task, missing_bundles, own_bundles
from interp.study.located import Selection, selection
from interp.study.precision import is_narrow, keep_precision_distances
from interp.study.settings import LocateSettings
from interp.study.shard import Shard
from interp.study.stage import Stage
from interp.study.workers import Ledger, StudyProgress, Workers, workers_of

__all__ = ["locate_fact", "locate_facts"]

logger = logging.getLogger(__name__)


def locate_fact(
    model: HookedTransformer,
    fact: Fact,
    locator: str,
    settings: LocateSettings,
    *,
    noise: float,
    reference_facts: Sequence[Fact],
    model_provenance: Provenance | None = None,
    progress: Progress | None = None,
) -> Record:
    """One unit of work: one fact under one locator.

    Args:
        model: The model.
        fact: The fact.
        locator: Its name.
        settings: The study's settings.
        noise: The level that ``settings.noise`` came to.
        reference_facts: Where replacement subjects come from (symmetric corruption).
        model_provenance: To spare hashing the weights.
        progress: Called with (done, in all).
    """
    task = locate_task(
        model, fact, settings, noise=noise, reference_facts=reference_facts, model_provenance=model_provenance
    )
    return locator_named(locator).run(replace(task, progress=progress))


def locate_facts(
    model: HookedTransformer,
    facts: Sequence[Fact],
    folder: str | Path,
    settings: LocateSettings | None = None,
    *,
    source: str = "given facts",
    shard: Shard | Workers | None = None,
    progress: StudyProgress | None = None,
) -> RunFolder:
    """Locate known facts with every locator; interrupted, a second call does what is missing.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> [located.fact.subject for located in interp.study.located(run)]
        ['Parthenon', 'Serena Williams']

    A unit is done if its record is there and whole: each file is read once and its content hash compared; what is
    damaged is computed again. Of attribution scores the folder keeps the sums over neurons, which maps and averages
    show, and the highest (:class:`~interp.locate.AttributionSums`).

    A fact that does not fit the model is no candidate; one that cannot be located (its numbers are not finite) is left
    out. The folder's ``skipped/`` says why, and the averages count it.

    Where the model computes with less than float32, its first fact is located in float32 too, and the folder keeps how
    far the maps differ (:func:`~interp.study.precision.precision_distances`).

    Args:
        model: The model.
        facts: Candidates; the first ``limit`` known ones count, in an order spread over relations.
        folder: The run folder.
        settings: See :class:`~interp.study.settings.LocateSettings`.
        source: Where the facts come from, for the record.
        shard: The share of the units that is done here; all of them by default. What is left is told by
            :func:`~interp.study.left.locating_left`. Or workers that do all
            (:func:`~interp.study.on_ray.start.ray_workers`).
        progress: Called as units advance.

    Raises:
        FactError: If the model knows none of the facts, or none fits it (says why the first does not).
        DataError: If the folder cannot be written or holds another run.
    """
    settings = settings or LocateSettings()
    report = progress or (lambda *_: None)
    if not isinstance(shard, Workers):
        report(0, 1, "the hash of the weights")
    workers = workers_of(model, shard)
    digest = hashlib.sha256(repr(list(facts)).encode()).hexdigest()[:16]
    run = RunFolder.open(
        folder, {**asdict(settings), "facts": source, "facts_sha256": digest, "provenance": asdict(workers.described)}
    )
    skips = Skips.of(run)
    facts = _fitting(model, facts, skips)
    if not (run.path / "selection.json").exists():

        def asked(done: int, whole: int) -> None:
            report(0, 1, Stage("which facts the model knows", done, whole, "asked"))

        asked(0, len(facts))
        # the first of several processes says what holds
        found = workers.ask(partial(_selected, facts, settings), progress=asked)
        run.write_json("selection.json", found, replace=False)
    chosen = selection(run)
    own = own_bundles(chosen, workers.shard)
    total = sum(map(len, own))
    ledger = Ledger(run=run, skips=skips, report=report, total=total)
    first = [name for bundle in own for index, name in bundle if index == 0]
    if first and is_narrow(workers.described):
        report(0, total, "distance from float32, on the first fact")
        locate = partial(_first_located, chosen, settings, facts, workers.described)
        keep_precision_distances(run, chosen.facts[0], first, workers, locate)
    workers.do(missing_bundles(own, chosen, workers.share((settings, facts)), ledger), ledger)
    report(total, total, "done")
    return run


def _first_located(
    chosen: Selection,
    settings: LocateSettings,
    facts: Sequence[Fact],
    described: Provenance,
    model: HookedTransformer,
    name: str,
) -> Record:
    """The first fact by itself, under any model with these weights; the record is compared and not kept."""
    return locate_fact(
        model,
        chosen.facts[0],
        name,
        settings,
        noise=chosen.noise,
        reference_facts=facts,
        model_provenance=described,
    )


def _selected(
    facts: Sequence[Fact], settings: LocateSettings, model: HookedTransformer, *, progress: Progress | None = None
) -> dict[str, Any]:
    """The facts that the model knows, and the noise level."""
    candidates = spread_over_relations(facts, settings.selection_seed)
    usable = partial(_can_be_corrupted, model, facts) if settings.corruption == "symmetric" else None
    chosen = list(known_facts(model, candidates, limit=settings.limit, accept=usable, progress=progress))
    if not chosen:
        raise FactError(
            f"{model.cfg.model_name} knows none of the {len(facts)} facts that can be corrupted: nothing to locate"
        )
    level = 0.0
    if settings.corruption != "symmetric":
        level = noise_level(model, facts) if settings.noise == "3sigma" else float(settings.noise)
    at_once = {name: locator_named(name).batch_tokens(model) for name in settings.locators}
    found = [answer.fact for answer in chosen]
    return {
        "noise": level,
        "locators": settings.locators,
        "batch_tokens": at_once,
        "together": facts_together(model, found, settings, max(at_once.values())),
        "facts": [cattrs.unstructure(fact) for fact in found],
    }


def _fitting(model: HookedTransformer, facts: Sequence[Fact], skips: Skips) -> list[Fact]:
    """The facts that the model can read; the others are left out."""
    fitting: list[Fact] = []
    errors: dict[str, Exception] = {}
    for index, fact in enumerate(facts):
        try:
            tokenize(model, fact)
        except FactError as error:
            errors[f"fact {index}: {fact.prompt[:80]}"] = error
        else:
            fitting.append(fact)
    skips.add(errors)
    if errors and not fitting:
        raise FactError(f"none of the {len(facts)} facts fits the model; the first: {next(iter(errors.values()))}")
    return fitting


def _can_be_corrupted(model: HookedTransformer, reference: Sequence[Fact], fact: Fact) -> bool:
    """Whether symmetric replacement finds another subject; if not, the fact is left out and the log says so."""
    try:
        replacement_facts(model, fact, reference, 1)
    except FactError as error:
        logger.warning("left out: %s", error)
        return False
    return True
