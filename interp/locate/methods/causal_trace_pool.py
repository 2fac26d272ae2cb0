"""Causal traces of several facts and states at once: their runs stand side by side, their cells share the sweeps.

One trace is the case of one fact and one state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.base_runs import check_decoder, check_site, run_bytes, sublayers
from interp.engine.batches import batch_tokens, check_fits, halving, pools, warn_if_long
from interp.engine.cells import SITES, STATES, State
from interp.engine.pairs import Corrupting, Pool, RunPair, pooled_runs
from interp.engine.restorations import Restored, Tracing, restored_scores
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.locate.methods.causal_trace_record import CausalTrace
from interp.models.tokens import token_text, tokenize
from interp.options import Progress, check_choice, whole_number
from interp.results.record import Provenance

__all__ = ["METRICS", "Metric", "TraceOptions", "check_states", "traced"]

Metric = Literal["probability", "log_probability", "logit_difference"]

METRICS: tuple[Metric, ...] = ("probability", "log_probability", "logit_difference")

Make = Callable[[], CausalTrace]
Arrived = Callable[[State, int, Make, bool], None]
"""Called with (state, place of the fact, what makes its result so far, whether all of it is there)."""


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """How facts are traced; :func:`interp.causal_trace` says what each means."""

    window: int
    corrupting: Corrupting
    metric: Metric = "probability"
    sever: Literal["mlp", "attn"] | None = None
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        check_choice("metric", self.metric, METRICS)
        check_choice("sever", self.sever, (None, "mlp", "attn"))
        object.__setattr__(self, "window", whole_number("window", self.window))
        if self.max_batch_tokens is not None:
            object.__setattr__(self, "max_batch_tokens", whole_number("max_batch_tokens", self.max_batch_tokens))

    def restored(self, state: State) -> Restored:
        """What is put back."""
        return Restored(state=state, window=self.window, sever=self.sever)


def check_states(model: HookedTransformer, states: Sequence[State], sever: str | None) -> None:
    """Refuse to restore or sever what the model does not have, and to sever what is restored.

    Raises:
        ModelError: If the model's runs cannot be continued.
        OptionError: Naming what cannot be.
    """
    for state in states:
        check_choice("state", state, STATES)
    check_decoder(model)
    for state in states:
        for name, kind in (("state", state), ("sever", sever)):
            if kind is not None and kind in SITES:
                check_site(model, SITES[kind], f"{name}={kind!r}")
        if sever is not None and sever == state:
            raise OptionError(f"sever={sever!r} would undo the restored state={state!r}; choose another pair")


def traced(
    model: HookedTransformer,
    facts: Sequence[Fact],
    states: Mapping[State, Sequence[int]],
    options: TraceOptions,
    described: Provenance,
    progress: Progress,
    arrived: Arrived,
) -> None:
    """Trace facts through the model.

    Args:
        model: The model.
        facts: The facts.
        states: What is restored, and in which of the facts.
        options: How.
        described: The model's provenance.
        progress: Called with (work done, work in all): cells, each times the tokens that run for it.
        arrived: Called when a token of a fact is there.

    Raises: See :func:`interp.causal_trace`.
    """
    check_decoder(model)
    check_states(model, [*states], options.sever)
    limit = options.max_batch_tokens or batch_tokens(model)
    tokenized = [tokenize(model, fact) for fact in facts]
    reach = [len(own.ids) - own.subject_span[0] for own in tokenized]
    work = [reach[i] * (reach[i] + 1) // 2 * sum(i in asked for asked in states.values()) for i in range(len(facts))]
    before, total = 0, sum(work) * model.cfg.n_layers
    record = () if [*states] == ["resid"] and options.sever is None else sublayers(model)
    for members in pools(model, [len(own.ids) for own in tokenized]):
        places = {state: tuple(p for p, i in enumerate(members) if i in asked) for state, asked in states.items()}
        pool = pooled_runs(
            model,
            [facts[i] for i in members],
            [tokenized[i] for i in members],
            options.corrupting,
            record=record,
            max_batch_tokens=limit,
        )
        _announce(pool, places, limit)

        def advance(done: int, _: int, *, before: int = before) -> None:
            progress(before + done, total)

        def noted(state: State, place: int, make: Make, complete: bool, *, members: Sequence[int] = members) -> None:
            arrived(state, members[place], make, complete)

        _trace(pool, places, options, described, limit, advance, noted)
        del pool  # or it would stand beside the next one
        before += sum(work[i] for i in members) * model.cfg.n_layers


def _trace(
    pool: Pool,
    places: Mapping[State, tuple[int, ...]],
    options: TraceOptions,
    described: Provenance,
    limit: int,
    progress: Progress,
    arrived: Arrived,
) -> None:
    """All cells of a pool."""
    reading = _Reading.of(pool, options.metric)
    tracings = [Tracing(restored=options.restored(state), facts=facts) for state, facts in places.items() if facts]

    def noted(which: int, place: int, scores: Tensor, complete: bool) -> None:
        restored = tracings[which].restored
        make = partial(_found, pool.pairs[place], restored, reading, place, described, scores)
        arrived(restored.state, place, make, complete)

    halving(lambda most: restored_scores(pool, tracings, reading, most, progress, noted), limit)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reading:
    """What is read off the logits after a run.

    Args:
        metric: Which number.
        answers: The answer of each fact.
        foils: What its logit is compared with, if that is the metric.
    """

    metric: Metric
    answers: Int[Tensor, "fact"]
    foils: Int[Tensor, "fact"] | None = None

    @classmethod
    def of(cls, pool: Pool, metric: Metric) -> _Reading:
        """The metric of each fact's answer; its foil is the likeliest other answer of the corrupted runs."""
        device = pool.pairs[0].base_logits.device
        answers = torch.tensor([pair.answer_id for pair in pool.pairs], device=device)
        if metric != "logit_difference":
            return cls(metric=metric, answers=answers)
        foils = []
        for pair in pool.pairs:
            alternatives = pair.base_logits.softmax(-1).mean(0)
            alternatives[pair.answer_id] = -1
            foils.append(int(alternatives.argmax()))
        return cls(metric=metric, answers=answers, foils=torch.tensor(foils, device=device))

    def __call__(self, logits: Float[Tensor, "row d_vocab"], fact: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        answers = self.answers[fact][:, None]
        if self.foils is not None:
            return (logits.gather(-1, answers) - logits.gather(-1, self.foils[fact][:, None]))[:, 0]
        log_probability = logits.log_softmax(-1).gather(-1, answers)[:, 0]
        return log_probability if self.metric == "log_probability" else log_probability.exp()


def _found(
    pair: RunPair,
    restored: Restored,
    reading: _Reading,
    place: int,
    described: Provenance,
    scores: Float[Tensor, "token layer sample"],
) -> CausalTrace:
    """The result, from what was read off the restored runs."""
    model, answer_id = pair.model, pair.answer_id
    foil_id = None if reading.foils is None else int(reading.foils[place])
    of_fact = torch.full((len(pair.base_logits),), place, device=scores.device)
    clean, corrupted = reading(pair.source_logits[None], of_fact[:1]), reading(pair.base_logits, of_fact)
    effect, n = scores - corrupted, len(corrupted)
    return CausalTrace(
        provenance=described,
        fact=pair.fact,
        scores=scores.mean(-1).cpu(),
        standard_error=(effect.std(-1) / n**0.5 if n > 1 else torch.full_like(effect[..., 0], torch.nan)).cpu(),
        clean_score=float(clean),
        corrupted_score=float(corrupted.mean()),
        clean_probability=float(pair.source_logits.softmax(-1)[answer_id]),
        corrupted_probability=float(pair.base_logits.softmax(-1)[:, answer_id].mean()),
        tokens=pair.tokenized.strings,
        subject_span=pair.tokenized.subject_span,
        answer=token_text(model, answer_id),
        answer_id=answer_id,
        top_answer=token_text(model, pair.top_id),
        known=answer_id == pair.top_id,
        foil=None if foil_id is None else token_text(model, foil_id),
        foil_id=foil_id,
        replacements=pair.replacements,
        state=restored.state,
        window=1 if restored.state == "resid" else restored.window,
        samples=n,
        noise=pair.noise,
        seed=pair.seed,
        corruption=pair.corruption,
        replace=pair.replace,
        metric=reading.metric,
        sever=restored.sever,
    )


def _announce(pool: Pool, states: Mapping[State, tuple[int, ...]], max_batch_tokens: int) -> None:
    """Say beforehand that traces will not fit, or will take hours."""
    model, scores, entered, block_tokens, longest = pool.pairs[0].model, 0, 0, 0.0, 1
    n_layers = model.cfg.n_layers
    for state, facts in states.items():
        for pair in (pool.pairs[place] for place in facts):
            n_tokens, n_samples = len(pair.tokenized.ids), len(pair.base_logits)
            lengths = range(1, n_tokens - pair.tokenized.subject_span[0] + 1)
            scores += 4 * 3 * n_tokens * n_layers * n_samples
            entered += 0 if state == "resid" else run_bytes(model, n_samples, max(lengths), ())
            block_tokens += sum(lengths) * n_samples * n_layers * n_layers / 2
            longest = max(longest, *lengths)
    first, *others = pool.pairs
    what = f"the trace of {len(first.tokenized.ids)} tokens with {len(first.base_logits)} samples"
    if others:
        what = f"the trace of {len(pool.pairs)} facts with {len(first.base_logits)} samples"
    check_fits(what, scores + entered, model.W_E.device, "take fewer samples or a shorter prompt")
    named = ", ".join(repr(state) for state in states)
    warn_if_long(f"{what} (state={named})", model, block_tokens, longest, max_batch_tokens, stacklevel=5)
