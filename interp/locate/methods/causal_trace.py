"""Causal tracing: corrupt the subject, restore one state, see how much of the answer comes back.

1. Clean run: the model's probability p(answer) on the prompt.
2. Corrupted run: the embeddings of the subject's tokens get noise (``samples`` draws), or the subject is replaced
   by another one of the same length (symmetric token replacement). The answer becomes unlikely.
3. Restored run of cell (t, l): as the corrupted run, but one state is put back to its clean value: the residual
   stream at token t after block l, or the MLP or attention outputs at token t in a window of blocks around l.
4. Score of a cell: p(answer) in the restored run, averaged over samples. Indirect effect: score - corrupted.

Cells of tokens before the subject equal the corrupted run (nothing there was corrupted), and so do states after
the last block of other tokens than the last: neither is computed. The rest is one :func:`interp.engine.sweep.sweep`
per token: about T*L/4 block rows of full length instead of T*L*L.

Sources: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2 and appendix B;
symmetric replacement and logit difference: Zhang & Nanda 2023, "Towards Best Practices of Activation Patching".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial as bound
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.base_runs import check_decoder, check_site, run_bytes, sublayers
from interp.engine.batches import check_fits, halving, warn_if_long
from interp.engine.cells import SITES, STATE_NAMES, STATES, Cell, State
from interp.engine.corruption import Corruption
from interp.engine.pairs import RunPair, clean_and_corrupted
from interp.engine.restorations import Restored, restored_scores
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.locate.method import LocateTask, Locator
from interp.locate.methods.causal_trace_record import HUES, CausalTrace
from interp.models.tokens import token_text
from interp.options import Progress, check_choice, check_seed, whole_number
from interp.results.record import Provenance, provenance
from interp.results.token_map import TokenMap

__all__ = ["ATTN", "MLP", "RESID", "CausalTrace", "causal_trace"]

Metric = Literal["probability", "log_probability", "logit_difference"]

METRICS: tuple[Metric, ...] = ("probability", "log_probability", "logit_difference")


def causal_trace(
    model: HookedTransformer,
    fact: Fact,
    *,
    state: State = "resid",
    window: int = 10,
    samples: int = 10,
    noise: float | Literal["3sigma"] = "3sigma",
    seed: int = 1,
    corruption: Corruption = "gaussian",
    replace: bool = False,
    metric: Metric = "probability",
    sever: Literal["mlp", "attn"] | None = None,
    reference_facts: Sequence[Fact] | None = None,
    max_batch_tokens: int = 4096,
    model_provenance: Provenance | None = None,
    progress: Progress | None = None,
    partial: Callable[[CausalTrace], None] | None = None,
) -> CausalTrace:
    """Trace a fact through the model (see the module for the steps).

    Example:
        >>> trace = interp.causal_trace(model, fact, state="mlp", window=3)
        >>> round(trace.clean_probability, 2), round(trace.corrupted_probability, 2)
        (0.99, 0.13)
        >>> trace.indirect_effect.shape  # [token, layer]
        torch.Size([10, 6])

    Args:
        model: A HookedTransformer decoder (:func:`interp.engine.base_runs.check_decoder`); left as it was found.
        fact: What to trace. Its answer is the first token of its target, or the model's own top answer.
        state: What is restored: the residual stream after one block, or the MLP or attention outputs of
            ``window`` blocks.
        window: Number of blocks for ``mlp`` and ``attn``, centred as in the published code
            (:func:`window_layers`); not used for ``resid``.
        samples: Noise draws, or (symmetric) at most so many other subjects.
        noise: Standard deviation of the noise, or ``"3sigma"``: three times that of the subject embeddings of
            ``reference_facts``.
        seed: Of the noise: ``numpy.random.RandomState(seed)``, the same in every cell, as published; or of the
            draw of other subjects.
        corruption: ``gaussian`` or ``uniform`` noise on the subject's embeddings, or ``symmetric``
            replacement by other subjects of the same relation and token length with another answer.
        replace: Put the noise in the place of the embeddings instead of adding it.
        metric: What is read off: the answer's probability, its log, or its logit minus the foil's.
        sever: Also hold the MLP or attention outputs at the restored token to their corrupted values in all
            blocks, to see what carries the effect.
        reference_facts: Where ``"3sigma"`` and replacement subjects come from; the built-in facts if None.
        max_batch_tokens: The most tokens a block runs on at once; bounds memory, does not change numbers.
        model_provenance: To spare hashing the weights in a loop.
        progress: Called from time to time with (work done, work in all): cells, each times the tokens that run for
            it. What it raises stops the work.
        partial: Called with the result so far, after each token, from the last one back to the subject; what is not
            there yet is NaN.

    Raises:
        OptionError: If an option is not one of the above, ``sever`` is what is restored, the model does not have what
            is restored or severed, or the runs do not fit into memory.
        FactError: If the fact does not fit the model, or no replacement subject is found.
        ModelError: If the model's runs cannot be continued.
        NumericalError: If the model returns NaN or infinite logits.

    Warns:
        InterpWarning: If it will take hours.
    """
    check_choice("state", state, STATES)
    check_choice("metric", metric, METRICS)
    check_choice("sever", sever, (None, "mlp", "attn"))
    window, seed = whole_number("window", window), check_seed(seed)
    max_batch_tokens = whole_number("max_batch_tokens", max_batch_tokens)
    check_decoder(model)
    _check_sublayers(model, state, sever)
    pair = clean_and_corrupted(
        model,
        fact,
        samples=samples,
        noise=noise,
        seed=seed,
        corruption=corruption,
        replace=replace,
        reference_facts=reference_facts,
        record=() if state == "resid" and sever is None else sublayers(model),
        max_batch_tokens=max_batch_tokens,
    )
    restored = Restored(state=state, window=window, sever=sever)
    reading = _Reading.of(pair, metric)
    _announce(pair, state, max_batch_tokens)
    found = bound(_found, pair, restored, reading, model_provenance or provenance(model))
    scores = halving(
        lambda limit: restored_scores(
            pair,
            restored,
            reading,
            limit,
            progress or (lambda *_: None),
            (lambda so_far: partial(found(so_far))) if partial else (lambda _: None),
        ),
        max_batch_tokens,
    )
    return found(scores)


def _check_sublayers(model: HookedTransformer, state: State, sever: str | None) -> None:
    """Refuse to restore or sever what the model does not have, and to sever what is restored."""
    for name, kind in (("state", state), ("sever", sever)):
        if kind is not None and kind in SITES:
            check_site(model, SITES[kind], f"{name}={kind!r}")
    if sever is not None and sever == state:
        raise OptionError(f"sever={sever!r} would undo the restored state={state!r}; choose another pair")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What is read off the logits after a run.

    Args:
        metric: Which number.
        answer_id: The answer.
        foil_id: What its logit is compared with, if that is the metric.
    """

    metric: Metric
    answer_id: int
    foil_id: int | None = None

    @classmethod
    def of(cls, pair: RunPair, metric: Metric) -> _Reading:
        """The metric of a pair's answer; its foil is the likeliest other answer of the corrupted runs."""
        if metric != "logit_difference":
            return cls(metric=metric, answer_id=pair.answer_id)
        alternatives = pair.base_logits.softmax(-1).mean(0)
        alternatives[pair.answer_id] = -1
        return cls(metric=metric, answer_id=pair.answer_id, foil_id=int(alternatives.argmax()))

    def __call__(self, logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row"]:
        if self.metric == "logit_difference":
            return logits[:, self.answer_id] - logits[:, self.foil_id]
        log_probability = logits.log_softmax(-1)[:, self.answer_id]
        return log_probability if self.metric == "log_probability" else log_probability.exp()


def _found(
    pair: RunPair,
    restored: Restored,
    reading: _Reading,
    described: Provenance,
    scores: Float[Tensor, "token layer sample"],
) -> CausalTrace:
    """The result, from what was read off the restored runs."""
    model, answer_id, foil_id = pair.model, pair.answer_id, reading.foil_id
    clean, corrupted = reading(pair.source_logits[None]), reading(pair.base_logits)
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


def _announce(pair: RunPair, state: State, max_batch_tokens: int) -> None:
    """Say beforehand that a trace will not fit, or will take hours."""
    n_layers, n_tokens = pair.model.cfg.n_layers, len(pair.tokenized.ids)
    n_samples, first = len(pair.base_logits), pair.tokenized.subject_span[0]
    what = f"the trace of {n_tokens} tokens with {n_samples} samples"
    scores = 4 * 3 * n_tokens * n_layers * n_samples
    entered = 0 if state == "resid" else run_bytes(pair.model, n_samples, n_tokens - first, ())
    check_fits(what, scores + entered, pair.model.W_E.device, "take fewer samples or a shorter prompt")
    lengths = range(1, n_tokens - first + 1)
    block_tokens = sum(lengths) * n_samples * n_layers * n_layers / 2
    warn_if_long(f"{what} (state={state!r})", pair.model, block_tokens, max(lengths), max_batch_tokens)


def _run(task: LocateTask, state: State) -> CausalTrace:
    return causal_trace(
        task.model,
        task.fact,
        state=state,
        window=task.window,
        samples=task.samples,
        noise=task.noise,
        seed=task.seed,
        corruption=task.corruption,  # type: ignore[arg-type]
        reference_facts=task.reference_facts,
        **task.shared(),
    )


def _averaged(trace: CausalTrace) -> TokenMap:
    where = "one layer" if trace.state == "resid" else f"window of {trace.window}"
    title = f"Causal tracing: {_AVERAGED[trace.state]} ({where})"
    return replace_fields(trace.map(), title=title, unit="indirect effect on P(answer)")


_LOCATED_BY = {"resid": "Causal tracing (states)", "mlp": "Causal tracing", "attn": "Causal tracing (attention)"}
_AVERAGED = {"resid": "Residual stream", "mlp": "MLP output", "attn": "Attention output"}


def _locator(state: State, turn: int, doing: str) -> Locator:
    """The locator that restores a state."""

    def cell(token: int, layer: int, window: int) -> Cell:
        return (
            Cell(token=token, layer=layer)
            if state == "resid"
            else Cell(token=token, layer=layer, state=state, window=window)
        )

    return Locator(
        name=state,
        title=STATE_NAMES[state],
        hue=HUES[state],
        row=1,
        turn=turn,
        doing=doing,
        record=CausalTrace,
        run=bound(_run, state=state),
        averaged=_averaged,
        beside=lambda trace: trace.map("scores"),  # an edited model has another clean run: no effect is common to both
        about=lambda fact: {"fact": fact, "state": state},
        cell=cell,
        depends=frozenset({"noise", "samples", "seed"} | (set() if state == "resid" else {"window"})),
        located_by=_LOCATED_BY[state],
    )


RESID = _locator("resid", 0, "tracing the residual stream")
MLP = _locator("mlp", 2, "tracing MLP outputs")
ATTN = _locator("attn", 3, "tracing attention outputs")
