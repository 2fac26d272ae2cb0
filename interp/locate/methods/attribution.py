"""Attribution scores of MLP neurons: integrated gradients of the answer's probability.

w is the activation that enters the MLP's output projection W_out (``blocks.l.mlp.hook_post``), P(w) the probability
of the answer with w in place. Equation (3) of Chun & Hur, after Dai et al. 2022 ("Knowledge Neurons in Pretrained
Transformers", equation 2):

    Attr(w_i) = w_i * sum_k c_k * dP(a_k * w) / dw_i,    a_k = k/n, c_k = 1/n   (k = 1..n)

1. Clean run; keep the residual stream, keys, values and w of every block.
2. Scaling w by a changes block l's output linearly, to resid + (a - 1) * (mlp_out - b_out): no block has to run to
   find the row that joins above block l with scale a. Where a norm stands after the MLP (Gemma 2 and 3, OLMo 2) it is
   resid - mlp_out + norm(a (w W_out) + b_out), the norm's real output (:mod:`interp.engine.mlp_outputs`).
3. One :func:`interp.engine.sweep.sweep` carries the rows of all layers and scales to the answer; one backward pass
   gives dP/d(mlp_out) of each, and through the norm dP/du of u = w W_out + b_out. The probability is unembedded where
   the answer stands and nowhere else.
4. dP/dw = dP/du W_out^T is linear too: the weighted sum over k comes first, one product per layer after.
5. Completeness: summed over all scaled components, Attr approaches P(w) - P(0). What is missing is the error of the
   quadrature and is reported as the completeness gap.

Gauss-Legendre nodes reach a given error with far fewer steps than the right Riemann sum of the paper.

Behind a norm the integral is the same, its nodes are not: norm(a u) grows to its full length while a is below about a
thousandth, where no node of the paper's sum is, and stays there. So both rules take their nodes in t, a = c sinh(t),
c = sqrt(eps) / rms(u). Scores of single neurons then mostly say how each *turns* what enters the stream: large, of both
signs, and summing to a small P(w) - P(0).

Answers of several tokens: P is the mean over the answer's tokens of each one's probability given those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial as bound
from typing import Literal

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.base_runs import check_decoder, run_bytes
from interp.engine.batches import batch_tokens, check_fits, halving, warn_if_long
from interp.engine.cells import Cell
from interp.engine.integrated_gradients import (
    AnsweredRuns,
    Quadrature,
    Rule,
    Scaled,
    answered_runs,
    integrate,
    quadrature,
)
from interp.facts.records import Fact
from interp.locate.method import LocateTask, Locator, shared_task
from interp.locate.methods.attribution_record import HUE, NAME, Attribution, AttributionMap, AttributionSums, Neuron
from interp.models.tokens import TokenizedFact, token_text, tokenize
from interp.models.weights import check_differentiable, check_linear_output
from interp.options import Progress, check_choice, whole_number
from interp.results.record import Provenance, provenance
from interp.results.token_map import TokenMap

__all__ = ["LOCATOR", "TOKENS", "Attribution", "AttributionSums", "Neuron", "attribute"]

Tokens = Literal["last", "all", "each"]
TOKENS: tuple[Tokens, ...] = ("last", "all", "each")
_AVERAGED_TIMES = 10_000  # Figure 1 shows mean scores multiplied by this


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What :func:`attribute` is asked for, checked."""

    tokens: Tokens
    points: Quadrature
    rule: Rule
    max_batch_tokens: int | None


_Integrated = tuple[Tensor, Tensor]
"""Scores and changes by layer, as :func:`interp.engine.integrated_gradients.integrate` returns them for each fact."""

Make = Callable[[], Attribution]


def attribute(
    model: HookedTransformer,
    fact: Fact,
    *,
    tokens: Tokens = "last",
    steps: int = 20,
    rule: Rule = "riemann",
    max_batch_tokens: int | None = None,
    model_provenance: Provenance | None = None,
    progress: Progress | None = None,
    partial: Callable[[Attribution], None] | None = None,
) -> Attribution:
    """Attribution scores of all MLP neurons of all layers (see the module for the steps).

    Example:
        >>> found = interp.attribute(model, fact)
        >>> found.scores.shape  # [layer, neuron]
        torch.Size([6, 256])
        >>> [(neuron.layer, neuron.neuron) for neuron in found.top_neurons(2)]
        [(0, 142), (0, 81)]

    Args:
        model: A HookedTransformer decoder (:func:`interp.engine.base_runs.check_decoder`) with plain or gated MLPs;
            left as it was found.
        fact: The statement; without a target, the model's own top answer is attributed.
        tokens: What is scaled: the ``last`` token of what the model reads (for each answer token its own, as
            published for GPT models), ``all`` tokens jointly (one path), or ``each`` token by itself.
        steps: Quadrature nodes n; at most 1,000 of ``gauss-legendre``.
        rule: ``riemann`` (right sum, equation 3) or ``gauss-legendre``.
        max_batch_tokens: The most tokens a block runs on at once; bounds memory, does not change numbers. Chosen from
            the memory that is free if None.
        model_provenance: To spare hashing the weights in a loop.
        progress: Called with (rows done, rows in all) from time to time. What it raises stops the work.
        partial: Called with the result so far, from time to time; what is not there yet is NaN. Layers come from
            the lowest up, with ``tokens="each"`` token after token.

    Raises:
        OptionError: If an option is not one of the above, or the model's MLPs are of another kind.
        FactError: If the fact does not fit the model.
        ModelError: If the model's runs cannot be continued.
        NumericalError: If the model returns NaN or infinite logits.

    Warns:
        InterpWarning: If it will take hours.
    """
    check_choice("tokens", tokens, TOKENS)
    if max_batch_tokens is not None:
        max_batch_tokens = whole_number("max_batch_tokens", max_batch_tokens)
    asked = _Asked(tokens=tokens, points=quadrature(rule, steps), rule=rule, max_batch_tokens=max_batch_tokens)
    found: list[Attribution] = []

    def arrived(_: int, make: Make, complete: bool) -> None:
        if complete:
            found.append(make())
        elif partial:
            partial(make())

    _attributed(model, [fact], asked, model_provenance, progress or (lambda *_: None), arrived)
    return found[0]


@torch.inference_mode(False)
def _attributed(
    model: HookedTransformer,
    facts: Sequence[Fact],
    asked: _Asked,
    model_provenance: Provenance | None,
    progress: Progress,
    arrived: Callable[[int, Make, bool], None],
) -> None:
    """Attribution scores of several facts; those with prompts and answers of the same lengths go up together.

    Args:
        model: The model.
        facts: The facts.
        asked: What is asked of each.
        model_provenance: To spare hashing the weights.
        progress: Called with (done, in all).
        arrived: Called with the place of a fact, what makes its result so far, and whether all of it is there.
    """
    check_decoder(model)
    check_linear_output(model)
    check_differentiable(model)
    limit = asked.max_batch_tokens or batch_tokens(model, gradients=True)
    tokenized = [tokenize(model, fact) for fact in facts]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, own in enumerate(tokenized):
        alike.setdefault((len(own.ids), len(own.target_ids) or 1), []).append(place)
    stages = [(members, _scaled_together(asked.tokens, *lengths)) for lengths, members in alike.items()]
    for lengths, members in alike.items():
        _check_memory(model, *lengths, len(members), asked.tokens)
    _announce(model, alike, asked, limit)
    described = model_provenance or provenance(model)
    before, n_layers = 0, model.cfg.n_layers
    total = n_layers * sum(len(members) * len(parts) for members, parts in stages)
    for members, parts in stages:
        run = answered_runs(model, [tokenized[place] for place in members])

        def advance(done: int, *, before: int = before, n_facts: int = len(members)) -> None:
            progress(before + done * n_facts, total)

        def noted(
            found: Sequence[_Integrated],
            complete: bool,
            *,
            run: AnsweredRuns = run,
            members: Sequence[int] = members,
        ) -> None:
            for row, place in enumerate(members):
                own = [(scores[row], change[row]) for scores, change in found]
                arrived(
                    place,
                    bound(_attribution, asked, facts[place], tokenized[place], run, row, own, described),
                    complete,
                )

        _integrate_parts(run, parts, asked.points, limit, advance, noted)
        before += n_layers * len(members) * len(parts)
        del run, noted  # or these runs would stand beside the next ones


def _integrate_parts(
    run: AnsweredRuns,
    parts: Sequence[Scaled],
    points: Quadrature,
    limit: int,
    progress: Callable[[int], None],
    noted: Callable[[Sequence[_Integrated], bool], None],
) -> None:
    """Scores and changes of each part that is scaled together; what is not there yet is NaN."""
    found: list[_Integrated] = []
    for index, part in enumerate(parts):

        def advance(done: int, n_layers: int, *, before: int = index) -> None:
            progress(before * n_layers + done)

        def arrived(scores: Tensor, change: Tensor, *, after: int = len(parts) - index - 1) -> None:
            missing = (torch.full_like(scores, torch.nan), torch.full_like(change, torch.nan))
            noted([*found, (scores, change), *[missing] * after], False)

        found.append(halving(bound(integrate, run, part, points, progress=advance, arrived=arrived), limit))
    noted(found, True)


def _announce(
    model: HookedTransformer, alike: Mapping[tuple[int, int], Sequence[int]], asked: _Asked, limit: int
) -> None:
    """Say beforehand that it will take hours."""
    n_layers, n_steps, tokens, longest = model.cfg.n_layers, len(asked.points.nodes), 0, 1
    for (n_prompt, n_answers), members in alike.items():
        parts = _scaled_together(asked.tokens, n_prompt, n_answers)
        lengths = [n_prompt - 1 + part.answers.stop - part.tokens.start for part in parts]
        tokens += len(members) * sum(lengths)
        longest = max(longest, *lengths)
    n_tokens = max(n_prompt + n_answers - 1 for n_prompt, n_answers in alike)
    warn_if_long(
        f"attribution over {n_tokens} tokens with {n_steps} steps{_of_facts(sum(map(len, alike.values())))}",
        model,
        tokens * n_steps * n_layers * n_layers / 2,
        longest,
        limit,
        stacklevel=6,  # of it one is of torch, which wraps what runs without inference mode
        passes=3,
    )


def _of_facts(n_facts: int) -> str:
    return f" for {n_facts} facts" if n_facts > 1 else ""


def _check_memory(model: HookedTransformer, n_prompt: int, n_answer: int, n_facts: int, tokens: Tokens) -> None:
    """Refuse prompts whose runs, activations and scores do not fit."""
    cfg = model.cfg
    assert cfg.d_mlp is not None
    n_tokens = n_prompt + n_answer - 1
    copies = 1 if tokens == "last" else 3
    check_fits(
        f"attribution with tokens={tokens!r} over {n_tokens} tokens of {cfg.model_name}{_of_facts(n_facts)}",
        run_bytes(model, n_facts, n_tokens, ("mlp_out",)) + 4 * copies * cfg.n_layers * n_facts * n_tokens * cfg.d_mlp,
        model.W_E.device,
        "take a shorter prompt, tokens='last' or a machine with more memory",
    )


def _scaled_together(tokens: Tokens, n_prompt: int, n_answers: int) -> list[Scaled]:
    """What is scaled together, and the answer tokens that it is scaled for."""
    at, n_tokens = n_prompt - 1, n_prompt + n_answers - 1
    if tokens == "last":
        return [Scaled(tokens=range(at + j, at + j + 1), answers=range(j, j + 1)) for j in range(n_answers)]
    if tokens == "all":
        return [Scaled(tokens=range(n_tokens), answers=range(n_answers))]
    return [Scaled(tokens=range(t, t + 1), answers=range(max(0, t - at), n_answers)) for t in range(n_tokens)]


def _joined(tokens: Tokens, found: Sequence[_Integrated]) -> _Integrated:
    """Scores and changes of all that was scaled; for the last tokens of each answer token they add up."""
    if tokens == "last":
        scores = torch.stack([part[:, 0] for part, _ in found]).sum(0)
        return scores, torch.stack([change for _, change in found]).sum(0)
    if tokens == "all":
        return found[0]
    return torch.cat([part for part, _ in found], 1), torch.stack([change for _, change in found], 1)


def _attribution(
    asked: _Asked,
    fact: Fact,
    tokenized: TokenizedFact,
    run: AnsweredRuns,
    row: int,
    found: Sequence[_Integrated],
    described: Provenance,
) -> Attribution:
    """The result of one of the runs, from what was integrated of each part that is scaled together."""
    scores, change = _joined(asked.tokens, found)
    gap = change - scores.sum((-1, -2) if asked.tokens == "all" else -1)
    return Attribution(
        provenance=described,
        fact=fact,
        scores=scores.cpu(),
        change=change.cpu(),
        completeness_gap=gap.cpu(),
        probability=float(run.probabilities[row].mean()),
        tokens=tuple(token_text(run.model, i) for i in run.ids[row].tolist()),
        n_prompt_tokens=len(tokenized.ids),
        subject_span=tokenized.subject_span,
        answer=token_text(run.model, *run.answer_ids[row].tolist()),
        top_answer=token_text(run.model, run.top_ids[row]),
        known=bool(run.top_ids[row] == run.answer_ids[row, 0]),
        scaled_tokens=asked.tokens,
        steps=len(asked.points.nodes),
        rule=asked.rule,
    )


def _run(task: LocateTask) -> Attribution:
    return attribute(
        task.model,
        task.fact,
        tokens=task.tokens,  # type: ignore[arg-type]
        steps=task.steps,
        rule=task.rule,  # type: ignore[arg-type]
        **task.shared(),
    )


def _run_many(
    asked: Sequence[tuple[str, LocateTask]], progress: Progress, arrived: Callable[[int, Attribution], None]
) -> None:
    task = shared_task(asked)

    def noted(place: int, make: Make, complete: bool) -> None:
        if complete:
            arrived(place, make())

    options = _Asked(
        tokens=task.tokens,  # type: ignore[arg-type]
        points=quadrature(task.rule, task.steps),  # type: ignore[arg-type]
        rule=task.rule,  # type: ignore[arg-type]
        max_batch_tokens=task.max_batch_tokens,
    )
    _attributed(task.model, [each.fact for _, each in asked], options, task.model_provenance, progress, noted)


def _averaged(found: AttributionMap) -> TokenMap:
    shown = found.map("mean")
    return replace(
        shown,
        title="Attribution score",
        unit=f"mean over neurons × {_AVERAGED_TIMES:,}",
        values=shown.values * _AVERAGED_TIMES,
    )


LOCATOR = Locator(
    name=NAME,
    title="attribution scores",
    hue=HUE,
    row=0,
    turn=1,
    doing="computing attribution scores",
    record=AttributionMap,  # type: ignore[type-abstract]  # whole, or what a study keeps
    run=_run,
    kept=AttributionSums.of,
    averaged=_averaged,
    beside=lambda found: replace(found.map(), title="Attribution score"),
    about=lambda fact: {"fact": fact},
    cell=lambda token, layer, window: Cell(token=token, layer=layer, state="mlp"),  # one block's MLP output
    depends=frozenset({"tokens", "steps", "rule"}),
    located_by="Attribution score",
    run_many=_run_many,
    batch_tokens=bound(batch_tokens, gradients=True),
    window="from",  # the paper: 1-5 for layer 1, where tracing has 13-17 for layer 17
)
