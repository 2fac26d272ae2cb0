"""Causal tracing: corrupt the subject, restore one state, see how much of the answer comes back.

1. Clean run: the model's probability p(answer) on the prompt.
2. Corrupted run: the embeddings of the subject's tokens get noise (``samples`` draws), or the subject is replaced
   by another one of the same length (symmetric token replacement). The answer becomes unlikely.
3. Restored run of cell (t, l): as the corrupted run, but one state is put back to its clean value: the residual
   stream at token t after block l, or the MLP or attention outputs at token t in a window of blocks around l.
4. Score of a cell: p(answer) in the restored run, averaged over samples. Indirect effect: score - corrupted.

Cells of tokens before the subject equal the corrupted run (nothing there was corrupted), and so do states after
the last block of other tokens than the last: neither is computed. The rest is one :func:`interp.sweep.sweep`
per token: about T*L/4 block rows of full length instead of T*L*L.

Sources: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2 and appendix B;
symmetric replacement and logit difference: Zhang & Nanda 2023, "Towards Best Practices of Activation Patching".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.cells import SITES, STATES, State, window_layers
from interp.corruption import Corruption
from interp.errors import OptionError
from interp.facts import Fact
from interp.options import Progress, check_choice, check_positive
from interp.results import Provenance, Record, provenance
from interp.run_pairs import SUBLAYERS, RunPair, clean_and_corrupted
from interp.sweep import BaseRun, Join, Pin, enter_block, groups, halving, sweep, unembed
from interp.tokens import token_text

__all__ = ["CausalTrace", "causal_trace"]

Metric = Literal["probability", "log_probability", "logit_difference"]

METRICS: tuple[Metric, ...] = ("probability", "log_probability", "logit_difference")
_READOUT_ROWS = 512  # rows of logits held at once


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CausalTrace(Record):
    """What :func:`causal_trace` found, per token and layer.

    Args:
        scores: The metric after restoring a cell, averaged over samples.
        standard_error: Of the indirect effect over samples; NaN for a single sample.
        clean_score, corrupted_score: The metric in the clean and in the corrupted run.
        clean_probability, corrupted_probability: The answer's probability in them, whatever the metric.
        tokens: The text of each token.
        subject_span: The subject's tokens, end exclusive.
        answer, answer_id: The token whose probability is traced: the first of the target, or the model's own
            top answer if the fact has no target.
        top_answer: What the model answers in the clean run.
        known: Whether that is the answer; only such facts belong into an average.
        foil, foil_id: What the logit difference compares with: the answer under corruption.
        replacements: The subjects that replaced this one (symmetric corruption).
        noise: Standard deviation (half the width, if uniform) of the noise; 0 for symmetric corruption.
    """

    fact: Fact
    scores: Float[Tensor, "token layer"]
    standard_error: Float[Tensor, "token layer"]
    clean_score: float
    corrupted_score: float
    clean_probability: float
    corrupted_probability: float
    tokens: tuple[str, ...]
    subject_span: tuple[int, int]
    answer: str
    answer_id: int
    top_answer: str
    known: bool
    foil: str | None
    foil_id: int | None
    replacements: tuple[str, ...]
    state: str
    window: int
    samples: int
    noise: float
    seed: int
    corruption: str
    replace: bool
    metric: str
    sever: str | None

    @property
    def indirect_effect(self) -> Float[Tensor, "token layer"]:
        """Restored minus corrupted (Meng et al. 2022, section 2.1)."""
        return self.scores - self.corrupted_score

    @property
    def total_effect(self) -> float:
        """Clean minus corrupted."""
        return self.clean_score - self.corrupted_score


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

    Args:
        model: Any HookedTransformer decoder; left as it was found.
        fact: What to trace. Its answer is the first token of its target, or the model's own top answer.
        state: What is restored: the residual stream after one block, or the MLP or attention outputs of
            ``window`` blocks.
        window: Number of blocks for ``mlp`` and ``attn``, centred as in the published code
            (:func:`window_layers`); not used for ``resid``.
        samples: Noise draws, or (symmetric) at most so many other subjects.
        noise: Standard deviation of the noise, or ``"3sigma"``: three times that of the subject embeddings of
            ``reference_facts``.
        seed: Of the noise: ``numpy.random.RandomState(seed)``, the same in every cell, as published.
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
        OptionError: If an option is not one of the above, or ``sever`` is what is restored.
        FactError: If the fact does not fit the model, or no replacement subject is found.
        NumericalError: If the model returns NaN or infinite logits.
    """
    check_choice("state", state, STATES)
    check_choice("metric", metric, METRICS)
    check_choice("sever", sever, (None, "mlp", "attn"))
    check_positive(window=window, max_batch_tokens=max_batch_tokens)
    if sever is not None and sever == state:
        raise OptionError(f"sever={sever!r} would undo the restored state={state!r}; choose another pair")

    pair = clean_and_corrupted(
        model,
        fact,
        samples=samples,
        noise=noise,
        seed=seed,
        corruption=corruption,
        replace=replace,
        reference_facts=reference_facts,
        record=() if state == "resid" and sever is None else SUBLAYERS,
    )
    tokenized, answer_id = pair.tokenized, pair.answer_id
    foil_id = None
    if metric == "logit_difference":
        alternatives = pair.base_logits.softmax(-1).mean(0)
        alternatives[answer_id] = -1
        foil_id = int(alternatives.argmax())

    def read(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row"]:
        if metric == "logit_difference":
            return logits[:, answer_id] - logits[:, foil_id]
        log_probability = logits.log_softmax(-1)[:, answer_id]
        return log_probability if metric == "log_probability" else log_probability.exp()

    clean, corrupted = read(pair.source_logits[None]), read(pair.base_logits)
    n = len(corrupted)
    described = model_provenance or provenance(model)

    def result(restored: Float[Tensor, "token layer sample"]) -> CausalTrace:
        effect = restored - corrupted
        return CausalTrace(
            provenance=described,
            fact=fact,
            scores=restored.mean(-1).cpu(),
            standard_error=(effect.std(-1) / n**0.5 if n > 1 else torch.full_like(effect[..., 0], torch.nan)).cpu(),
            clean_score=float(clean),
            corrupted_score=float(corrupted.mean()),
            clean_probability=float(pair.source_logits.softmax(-1)[answer_id]),
            corrupted_probability=float(pair.base_logits.softmax(-1)[:, answer_id].mean()),
            tokens=tokenized.strings,
            subject_span=tokenized.subject_span,
            answer=token_text(model, answer_id),
            answer_id=answer_id,
            top_answer=token_text(model, pair.top_id),
            known=answer_id == pair.top_id,
            foil=None if foil_id is None else token_text(model, foil_id),
            foil_id=foil_id,
            replacements=pair.replacements,
            state=state,
            window=1 if state == "resid" else window,
            samples=n,
            noise=pair.noise,
            seed=seed,
            corruption=corruption,
            replace=replace,
            metric=metric,
            sever=sever,
        )

    restored = halving(
        lambda limit: _restored(
            pair,
            state,
            window,
            sever,
            read,
            corrupted,
            limit,
            progress or (lambda *_: None),
            (lambda so_far: partial(result(so_far))) if partial else (lambda _: None),
        ),
        max_batch_tokens,
    )
    return result(restored)


def _restored(
    pair: RunPair,
    state: State,
    window: int,
    sever: str | None,
    read: Callable[[Tensor], Tensor],
    corrupted: Float[Tensor, "sample"],
    max_batch_tokens: int,
    progress: Progress,
    arrived: Callable[[Tensor], None],
) -> Float[Tensor, "token layer sample"]:
    """The metric of every restored run: one sweep per token from the last one back to the subject.

    The last tokens come first because their suffixes are short: something is there at once.
    """
    model, clean, base = pair.model, pair.source, pair.base
    n_layers, n_tokens = model.cfg.n_layers, len(pair.tokenized.ids)
    first = pair.tokenized.subject_span[0]
    scores = corrupted.expand(n_tokens, n_layers, -1).clone()
    scores[first:] = torch.nan
    # a cell costs as much as the tokens that run for it
    total = sum(n_tokens - token for token in range(first, n_tokens)) * n_layers
    before = 0
    with torch.no_grad():
        entered = _entered(model, clean, base, first, state, window, sever)
    for token in reversed(range(first, n_tokens)):
        after_entry = {layer: after[:, token - first] for layer, after in entered.items()}
        cells = _joins(clean, base, token, n_layers, state, window, sever, after_entry)
        if token < n_tokens - 1:  # after the last block only the last token is read
            cells = {layers: join for layers, join in cells.items() if join.layer < n_layers}
        length = n_tokens - token
        values = corrupted.expand(n_layers, -1).clone()
        n_cells = 0
        for group in groups(list(cells), [len(corrupted)] * len(cells), length, max_batch_tokens):
            with torch.no_grad():
                final = sweep(model, base, token, [cells[layers] for layers in group], [length - 1])[:, 0]
                rows = torch.cat([read(unembed(model, part)) for part in final.split(_READOUT_ROWS)])
            for layers, value in zip(group, rows.split(len(corrupted)), strict=True):
                values[list(layers)] = value
            n_cells += sum(len(layers) for layers in group)
            progress(before + n_cells * length, total)
        scores[token] = values
        before += n_layers * length
        progress(before, total)
        arrived(scores)
    return scores


def _entered(
    model: HookedTransformer,
    clean: BaseRun,
    base: BaseRun,
    first: int,
    state: State,
    window: int,
    sever: str | None,
) -> dict[int, Float[Tensor, "sample token d_model"]]:
    """What restored windows make of the tokens from ``first`` on in the first block of each window, by block."""
    if state == "resid":
        return {}
    n_layers = model.cfg.n_layers
    tokens = slice(first, None)
    site = SITES[state]
    after = {}
    for layer in sorted({window_layers(layer, window, n_layers).start for layer in range(n_layers)}):
        outputs = {kind: base.output(kind)[layer, :, tokens] for kind in ("attn_out", "mlp_out")}
        restored = clean.output(site)[layer, :, tokens].expand_as(outputs[site])
        after[layer] = enter_block(
            model,
            base,
            layer,
            tokens,
            attn_out=restored if site == "attn_out" else outputs["attn_out"],
            # a restored attention output changes what the MLP reads, unless the MLP is severed from it
            mlp_out=restored if site == "mlp_out" else outputs["mlp_out"] if sever == "mlp" else None,
        )
    return after


def _joins(
    clean: BaseRun,
    base: BaseRun,
    token: int,
    n_layers: int,
    state: State,
    window: int,
    sever: str | None,
    after_entry: dict[int, Float[Tensor, "sample d_model"]],
) -> dict[tuple[int, ...], Join]:
    """The distinct restored runs of one token, by the layers whose cells they are, lowest first."""
    samples = torch.arange(base.resid.shape[1], device=base.resid.device)
    held: tuple[Pin, ...] = ()
    if sever is not None:
        site = SITES[sever]
        held = (Pin(site=site, layers=range(n_layers), values=base.output(site)[:, :, token]),)

    def join(layer: int, at_token: Tensor, pins: tuple[Pin, ...]) -> Join:
        resid = base.resid[layer, :, token:].clone()
        resid[:, 0] = at_token
        return Join(layer=layer, resid=resid, samples=samples, pins=pins)

    if state == "resid":
        return {(layer,): join(layer + 1, clean.resid[layer + 1, :, token], held) for layer in range(n_layers)}

    site = SITES[state]
    layers_of: dict[range, list[int]] = {}
    for layer in range(n_layers):  # near the ends, neighbouring windows can be the same
        layers_of.setdefault(window_layers(layer, window, n_layers), []).append(layer)
    joins = {}
    for blocks, layers in layers_of.items():
        restored = Pin(site=site, layers=blocks, values=clean.output(site)[blocks.start : blocks.stop, :, token])
        joins[tuple(layers)] = join(blocks.start + 1, after_entry[blocks.start], (*held, restored))
    return joins
