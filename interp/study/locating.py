"""Locate many facts with every locator of a study; interrupted, a second call does what is missing.

A unit of work is one fact under one locator, a plain call that returns a record. A process runs them in a loop; they
are independent of each other, and several processes may share them (:mod:`interp.study.shard`). What was found is read
by :mod:`interp.study.located`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path

import cattrs
from transformer_lens import HookedTransformer

from interp.engine.corruption import noise_level, replacement_facts
from interp.errors import FactError
from interp.facts.records import Fact
from interp.locate.knowledge import known_facts, spread_over_relations
from interp.locate.method import LocateTask
from interp.locate.methods import locator_named
from interp.models.tokens import tokenize
from interp.options import Progress
from interp.results.record import Provenance, Record, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import SKIPPABLE, Skips
from interp.study.located import Selection, kept, selection, unit_of
from interp.study.settings import LocateSettings
from interp.study.shard import WHOLE, Shard
from interp.study.stage import Stage

__all__ = ["StudyProgress", "locate_fact", "locate_facts"]

logger = logging.getLogger(__name__)

StudyProgress = Callable[[float, int, str], None]
"""Called with (units done, units in all, what is being done); nothing is where a unit was there already, and a
:class:`~interp.study.stage.Stage` as long as no unit advances."""


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
    return locator_named(locator).run(
        LocateTask(
            model=model,
            fact=fact,
            noise=noise,
            samples=settings.samples,
            window=settings.window,
            seed=settings.seed,
            corruption=settings.corruption,
            reference_facts=reference_facts,
            tokens=settings.attribution_tokens,
            steps=settings.steps,
            rule=settings.rule,
            model_provenance=model_provenance,
            progress=progress,
        )
    )


def locate_facts(
    model: HookedTransformer,
    facts: Sequence[Fact],
    folder: str | Path,
    settings: LocateSettings | None = None,
    *,
    source: str = "given facts",
    shard: Shard | None = None,
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

    Args:
        model: The model.
        facts: Candidates; the first ``limit`` known ones count, in an order spread over relations.
        folder: The run folder.
        settings: See :class:`~interp.study.settings.LocateSettings`.
        source: Where the facts come from, for the record.
        shard: The share of the units that is done here; all of them by default. What is left is told by
            :func:`~interp.study.left.locating_left`.
        progress: Called as units advance.

    Raises:
        FactError: If the model knows none of the facts, or none fits it (says why the first does not).
        DataError: If the folder cannot be written or holds another run.
    """
    settings = settings or LocateSettings()
    report = progress or (lambda *_: None)
    report(0, 1, "the hash of the weights")
    described = provenance(model)
    digest = hashlib.sha256(repr(list(facts)).encode()).hexdigest()[:16]
    run = RunFolder.open(
        folder, {**asdict(settings), "facts": source, "facts_sha256": digest, "provenance": asdict(described)}
    )
    skips = Skips.of(run)
    facts = _fitting(model, facts, skips)
    if not (run.path / "selection.json").exists():
        _select(model, facts, settings, run, report)
    chosen = selection(run)
    units = _units(chosen, shard or WHOLE)
    for done, (index, name) in enumerate(units):
        fact = chosen.facts[index]
        unit, label = unit_of(index, name), f"{fact.prompt} · {name}"
        if unit in skips or kept(run.has, index, fact, name):
            report(done, len(units), "")  # nothing is being done
            continue
        report(done, len(units), label)
        try:
            record = locate_fact(
                model,
                fact,
                name,
                settings,
                noise=chosen.noise,
                reference_facts=facts,
                model_provenance=described,
                progress=partial(_report_part, report, done, len(units), label),
            )
        except SKIPPABLE as error:
            skips.add({unit: error})
        else:
            run.put(unit, locator_named(name).kept(record))
    report(len(units), len(units), "done")
    return run


def _units(chosen: Selection, shard: Shard) -> list[tuple[int, str]]:
    """The shard's units, fact by fact; those of one locator are dealt out in turn, as locators take different times."""
    facts = range(len(chosen.facts))
    own = set(shard.share([(index, name) for name, index in product(chosen.locators, facts)]))
    return [unit for unit in product(facts, chosen.locators) if unit in own]


def _select(
    model: HookedTransformer, facts: Sequence[Fact], settings: LocateSettings, run: RunFolder, report: StudyProgress
) -> None:
    """Choose the facts that the model knows, and the noise level; the first of several processes says what holds."""

    def asked(done: int, total: int) -> None:
        report(0, 1, Stage("which facts the model knows", done, total, "asked"))

    asked(0, len(facts))
    candidates = spread_over_relations(facts, settings.selection_seed)
    usable = partial(_can_be_corrupted, model, facts) if settings.corruption == "symmetric" else None
    chosen = list(known_facts(model, candidates, limit=settings.limit, accept=usable, progress=asked))
    if not chosen:
        raise FactError(
            f"{model.cfg.model_name} knows none of the {len(facts)} facts that can be corrupted: nothing to locate"
        )
    level = 0.0
    if settings.corruption != "symmetric":
        level = noise_level(model, facts) if settings.noise == "3sigma" else float(settings.noise)
    run.write_json(
        "selection.json",
        {
            "noise": level,
            "locators": settings.locators,
            "facts": [cattrs.unstructure(answer.fact) for answer in chosen],
        },
        replace=False,
    )


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


def _report_part(report: StudyProgress, done: int, total: int, label: str, part: int, whole: int) -> None:
    report(done + part / whole, total, label)


def _can_be_corrupted(model: HookedTransformer, reference: Sequence[Fact], fact: Fact) -> bool:
    """Whether symmetric replacement finds another subject; if not, the fact is left out and the log says so."""
    try:
        replacement_facts(model, fact, reference, 1)
    except FactError as error:
        logger.warning("left out: %s", error)
        return False
    return True
