"""The study: locate many facts with both methods, average by token class; resumable, drawn from records alone.

A unit of work is one fact under one method, a plain call that returns a record. This machine runs them in a loop;
they are independent of each other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cattrs
from transformer_lens import HookedTransformer

from interp.engine.corruption import CORRUPTIONS, Corruption, noise_level, replacement_facts
from interp.engine.integrated_gradients import RULES, Rule
from interp.errors import DataError, FactError
from interp.facts.records import Fact
from interp.locate.class_average import ClassAverage, class_average
from interp.locate.knowledge import known_facts, spread_over_relations
from interp.locate.method import LocateTask
from interp.locate.methods import LOCATORS, locator_named
from interp.models.tokens import tokenize
from interp.options import Progress, check_choice, check_noise, check_positive, check_seed
from interp.results.record import Provenance, Record, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import SKIPPABLE, Skips

__all__ = [
    "LocateSettings",
    "Located",
    "class_averages",
    "left_out",
    "locate_fact",
    "locate_facts",
    "located",
    "selection",
]

logger = logging.getLogger(__name__)

StudyProgress = Callable[[float, int, str], None]
"""Called with (units done, units in all, what is being done)."""


@dataclass(frozen=True, kw_only=True)
class LocateSettings:
    """Everything that the numbers of Figure 1 depend on, besides the model and the facts.

    Args:
        samples, window, corruption, seed: Of causal tracing.
        noise: Standard deviation, or ``"3sigma"`` over all facts that were given.
        attribution_tokens: ``"all"`` tokens on one joint path, or ``"each"`` by itself (several times slower).
        steps, rule: Of the quadrature.
        limit: How many known facts to take; all if None.
        selection_seed: Of the order in which facts are tried.
    """

    samples: int = 10
    window: int = 10
    corruption: Corruption = "gaussian"
    noise: float | Literal["3sigma"] = "3sigma"
    seed: int = 1
    attribution_tokens: Literal["all", "each"] = "all"
    steps: int = 20
    rule: Rule = "riemann"
    limit: int | None = 12
    selection_seed: int = 0

    def __post_init__(self) -> None:
        check_positive(samples=self.samples, window=self.window, steps=self.steps)
        check_choice("corruption", self.corruption, CORRUPTIONS)
        check_noise(self.noise)
        check_seed(self.seed)
        check_seed(self.selection_seed)
        check_choice("attribution_tokens", self.attribution_tokens, ("all", "each"))
        check_choice("rule", self.rule, RULES)
        if self.limit is not None:
            check_positive(limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class Located:
    """All records of one fact, by locator; each has a ``map()``."""

    fact: Fact
    records: dict[str, Any]


def locate_fact(
    model: HookedTransformer,
    fact: Fact,
    method: str,
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
        method: The locator's name.
        settings: The study's settings.
        noise: The level that ``settings.noise`` came to.
        reference_facts: Where replacement subjects come from (symmetric corruption).
        model_provenance: To spare hashing the weights.
        progress: Called with (done, in all).
    """
    return locator_named(method).run(
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
    progress: StudyProgress | None = None,
) -> RunFolder:
    """Locate known facts with every method; interrupted, a second call does what is missing.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> [located.fact.subject for located in interp.study.located(run)]
        ['Parthenon', 'Serena Williams']

    A fact that does not fit the model is no candidate; one that cannot be located (its numbers are not finite) is left
    out. The folder's ``skipped.json`` says why, and the averages count it.

    Args:
        model: The model.
        facts: Candidates; the first ``limit`` known ones count, in an order spread over relations.
        folder: The run folder.
        settings: See :class:`LocateSettings`.
        source: Where the facts come from, for the record.
        progress: Called as units advance.

    Raises:
        FactError: If the model knows none of the facts, or none fits it (says why the first does not).
        DataError: If the folder cannot be written or holds another run.
    """
    settings = settings or LocateSettings()
    report = progress or (lambda *_: None)
    described = provenance(model)
    digest = hashlib.sha256(repr(list(facts)).encode()).hexdigest()[:16]
    run = RunFolder.open(
        folder, {**asdict(settings), "facts": source, "facts_sha256": digest, "provenance": asdict(described)}
    )
    skips = Skips.of(run)
    facts = _fitting(model, facts, skips)
    if not (run.path / "selection.json").exists():
        report(0, 1, "which facts the model knows")
        candidates = spread_over_relations(facts, settings.selection_seed)
        usable = partial(_can_be_corrupted, model, facts) if settings.corruption == "symmetric" else None
        chosen = list(known_facts(model, candidates, limit=settings.limit, accept=usable))
        if not chosen:
            raise FactError(
                f"{described.model} knows none of the {len(facts)} facts that can be corrupted: nothing to locate"
            )
        level = 0.0
        if settings.corruption != "symmetric":
            level = noise_level(model, facts) if settings.noise == "3sigma" else float(settings.noise)
        run.write_json(
            "selection.json",
            {"noise": level, "facts": [cattrs.unstructure(answer.fact) for answer in chosen]},
        )
    selected, level = selection(run)
    total = len(selected) * len(LOCATORS)
    done = 0
    for index, fact in enumerate(selected):
        for method in LOCATORS:
            unit = _unit(index, method)
            label = f"{fact.prompt} · {method}"
            report(done, total, label)
            if unit not in skips and _kept(run.get, index, fact, method) is None:
                try:
                    record = locate_fact(
                        model,
                        fact,
                        method,
                        settings,
                        noise=level,
                        reference_facts=facts,
                        model_provenance=described,
                        progress=partial(_report_part, report, done, total, label),
                    )
                except SKIPPABLE as error:
                    skips.add({unit: error})
                else:
                    run.put(unit, record)
            done += 1
    report(total, total, "done")
    return run


def located(run: RunFolder) -> list[Located]:
    """The records of every fact whose units are all finished.

    Raises:
        DataError: If the folder is not a run, no fact is finished, or a record is damaged or not what its name says.
    """
    selected, _ = selection(run)
    finished = []
    for index, fact in enumerate(selected):
        records = {method: _kept(run.read, index, fact, method) for method in LOCATORS}
        if all(record is not None for record in records.values()):
            finished.append(Located(fact=fact, records=records))
    if not finished:
        why = left_out(run)
        raise DataError(f"{run.path}: no fact is finished yet" + (f"; left out: {why[0]}" if why else ""))
    return finished


def class_averages(run: RunFolder) -> list[ClassAverage]:
    """The maps of Figure 1 from a run folder alone, one a locator.

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> for average in interp.class_averages(run):
        ...     print(average.method, average.mean.shape)  # [class of token, layer]
        attribution torch.Size([6, 6])
        resid torch.Size([6, 6])
        mlp torch.Size([6, 6])
        attn torch.Size([6, 6])
    """
    facts, missing = located(run), left_out(run)
    averages = []
    for method in LOCATORS:
        records = [fact.records[method] for fact in facts]
        averages.append(class_average([locator_named(method).averaged(r) for r in records], records, left_out=missing))
    return averages


def left_out(run: RunFolder) -> list[str]:
    """The chosen facts that could not be located, each with the reason."""
    skips, (selected, _) = Skips.of(run), selection(run)
    found = []
    for index, fact in enumerate(selected):
        reasons = [skips.reasons[unit] for method in LOCATORS if (unit := _unit(index, method)) in skips]
        found += [f"{fact.prompt}: {reason}" for reason in reasons[:1]]
    return found


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


def selection(run: RunFolder) -> tuple[list[Fact], float]:
    """The facts that a run locates, and its noise level.

    Raises:
        DataError: If the folder is not a run, or damaged.
    """
    return run.read_json("selection.json", _parsed_selection)


def _parsed_selection(stored: Any) -> tuple[list[Fact], float]:
    return [cattrs.structure(fact, Fact) for fact in stored["facts"]], float(stored["noise"])


def _unit(index: int, method: str) -> str:
    return f"{index:04d}-{method}"


def _kept(read: Callable[..., Any], index: int, fact: Fact, method: str) -> Any:
    """A unit's record, which must be about its fact; None if it is not there."""
    locator = locator_named(method)
    return read(locator.record, _unit(index, method), **locator.about(fact))
