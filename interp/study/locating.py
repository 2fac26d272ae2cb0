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

from interp.engine.cells import State
from interp.engine.corruption import CORRUPTIONS, Corruption, noise_level, replacement_facts
from interp.engine.integrated_gradients import RULES, Rule
from interp.errors import DataError, FactError
from interp.facts.records import Fact
from interp.locate.class_average import ClassAverage, TokenLayerMap, class_average
from interp.locate.knowledge import known_facts, spread_over_relations
from interp.locate.methods.attribution import Attribution, attribute
from interp.locate.methods.causal_trace import CausalTrace, causal_trace
from interp.models.tokens import tokenize
from interp.options import Progress, check_choice, check_noise, check_positive, check_seed
from interp.results.record import Provenance, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import SKIPPABLE, Skips

__all__ = [
    "METHODS",
    "LocateSettings",
    "Located",
    "class_averages",
    "left_out",
    "locate_fact",
    "locate_facts",
    "located",
    "selection",
]

Method = Literal["attribution", "resid", "mlp", "attn"]
logger = logging.getLogger(__name__)

METHODS: tuple[Method, ...] = ("attribution", "resid", "mlp", "attn")
ATTRIBUTION_SCALE = 10_000  # Figure 1 shows attribution scores multiplied by this

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
    """All records of one fact."""

    fact: Fact
    attribution: Attribution
    traces: dict[str, CausalTrace]


def locate_fact(
    model: HookedTransformer,
    fact: Fact,
    method: Method,
    settings: LocateSettings,
    *,
    noise: float,
    reference_facts: Sequence[Fact],
    model_provenance: Provenance | None = None,
    progress: Progress | None = None,
) -> Attribution | CausalTrace:
    """One unit of work: one fact under one method.

    Args:
        model: The model.
        fact: The fact.
        method: ``attribution``, or the state that causal tracing restores.
        settings: The study's settings.
        noise: The level that ``settings.noise`` came to.
        reference_facts: Where replacement subjects come from (symmetric corruption).
        model_provenance: To spare hashing the weights.
        progress: Called with (done, in all).
    """
    check_choice("method", method, METHODS)
    if method == "attribution":
        return attribute(
            model,
            fact,
            tokens=settings.attribution_tokens,
            steps=settings.steps,
            rule=settings.rule,
            model_provenance=model_provenance,
            progress=progress,
        )
    state: State = method
    return causal_trace(
        model,
        fact,
        state=state,
        window=settings.window,
        samples=settings.samples,
        noise=noise,
        seed=settings.seed,
        corruption=settings.corruption,
        reference_facts=reference_facts,
        model_provenance=model_provenance,
        progress=progress,
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
    total = len(selected) * len(METHODS)
    done = 0
    for index, fact in enumerate(selected):
        for method in METHODS:
            unit = _unit(index, method)
            label = f"{fact.prompt} · {method}"
            report(done, total, label)
            if unit not in skips and run.get(_record_type(method), unit, **_about(fact, method)) is None:
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
        attribution = run.read(Attribution, _unit(index, "attribution"), **_about(fact, "attribution"))
        traces = {state: run.read(CausalTrace, _unit(index, state), **_about(fact, state)) for state in METHODS[1:]}
        if attribution is not None and all(trace is not None for trace in traces.values()):
            finished.append(
                Located(
                    fact=fact,
                    attribution=attribution,
                    traces={k: v for k, v in traces.items() if v is not None},
                )
            )
    if not finished:
        why = left_out(run)
        raise DataError(f"{run.path}: no fact is finished yet" + (f"; left out: {why[0]}" if why else ""))
    return finished


def class_averages(run: RunFolder) -> list[ClassAverage]:
    """The maps of Figure 1 from a run folder alone: attribution x 10,000, then the three causal traces."""
    facts, missing = located(run), left_out(run)
    attributions = [fact.attribution for fact in facts]
    averages = [
        class_average(
            [
                TokenLayerMap(values=a.per_token("mean") * ATTRIBUTION_SCALE, subject_span=a.subject_span)
                for a in attributions
            ],
            attributions,
            method="attribution",
            title="Attribution score",
            unit="mean over neurons × 10,000",
            left_out=missing,
        )
    ]
    titles = {"resid": "Residual stream", "mlp": "MLP output", "attn": "Attention output"}
    for state, title in titles.items():
        traces = [fact.traces[state] for fact in facts]
        where = "one layer" if state == "resid" else f"window of {traces[0].window}"
        averages.append(
            class_average(
                [TokenLayerMap(values=t.indirect_effect, subject_span=t.subject_span) for t in traces],
                traces,
                method=state,
                title=f"Causal tracing: {title} ({where})",
                unit="indirect effect on P(answer)",
                left_out=missing,
            )
        )
    return averages


def left_out(run: RunFolder) -> list[str]:
    """The chosen facts that could not be located, each with the reason."""
    skips, (selected, _) = Skips.of(run), selection(run)
    found = []
    for index, fact in enumerate(selected):
        reasons = [skips.reasons[unit] for method in METHODS if (unit := _unit(index, method)) in skips]
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


def _about(fact: Fact, method: str) -> dict[str, Any]:
    """What the record of a unit must be about."""
    return {"fact": fact} if method == "attribution" else {"fact": fact, "state": method}


def _record_type(method: str) -> type[Attribution] | type[CausalTrace]:
    return Attribution if method == "attribution" else CausalTrace
