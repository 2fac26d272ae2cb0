"""Integrated gradients of the answer's probability along scaled MLP activations, for all layers in one sweep.

The arithmetic of :mod:`interp.locate.methods.attribution`, which has the formula: nodes and weights of the quadrature,
the rows that join (resid + (a - 1) * (mlp_out - b_out), or through the norm after the MLP: both in
:mod:`interp.engine.mlp_outputs`), one backward pass for all layers and scales. Facts whose prompts and answers are
equally long share the sweeps: the score is a sum over rows, so their gradients stay apart.

At a node of scale 1 nothing is scaled, in whichever layer: one row of each fact goes all the way up, and its gradient
where it enters each block is that of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.engine.base_runs import BaseRun, base_run
from interp.engine.batches import batch_cost, filled
from interp.engine.forward import unembed, wide
from interp.engine.mlp_outputs import Placed, mlp_output
from interp.engine.sweep import Join, sweep
from interp.models.tokens import TokenizedFact
from interp.options import Progress, check_choice, whole_number

__all__ = ["RULES", "AnsweredRuns", "Quadrature", "Rule", "Scaled", "answered_runs", "integrate", "quadrature"]

Rule = Literal["riemann", "gauss-legendre"]

RULES: tuple[Rule, ...] = ("riemann", "gauss-legendre")
MOST_NODES = 1_000


class Quadrature(NamedTuple):
    """Nodes a_k and weights c_k on [0, 1]."""

    nodes: Float[np.ndarray, "step"]
    weights: Float[np.ndarray, "step"]


def quadrature(rule: Rule, steps: int) -> Quadrature:
    """Nodes a_k and weights c_k on [0, 1].

    Raises:
        OptionError: If the rule does not exist, or ``steps`` is not positive or more than can help.
    """
    check_choice("rule", rule, RULES)
    most, why = None, ""
    if rule == "gauss-legendre":
        most, why = MOST_NODES, "a hundred nodes are exact to what float32 keeps, and finding them takes steps^2 memory"
    steps = whole_number("steps", steps, most=most, why=why)
    if rule == "riemann":
        return Quadrature(np.arange(1, steps + 1) / steps, np.full(steps, 1 / steps))
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return Quadrature((nodes + 1) / 2, weights / 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class AnsweredRuns:
    """The clean runs over prompts and their answers, all of the same lengths.

    Args:
        model: The model that ran.
        ids: What it read: the prompt and all tokens of the answer but the last.
        base: Its runs, with MLP outputs; a sample is a fact.
        w: What entered W_out.
        answers_at: The first position that predicts a token of the answer.
        answer_ids: The answers.
        probabilities: Of their tokens, each given those before it.
        top_ids: What the model answers first.
    """

    model: HookedTransformer
    ids: Int[Tensor, "fact token"]
    base: BaseRun
    w: Float[Tensor, "layer fact token neuron"]
    answers_at: int
    answer_ids: Int[Tensor, "fact answer"]
    probabilities: Float[Tensor, "fact answer"]
    top_ids: tuple[int, ...]

    @property
    def exact(self) -> dict[str, Any]:
        """What sums and scores are kept in: float32 whatever the model's number format, or what is wider."""
        return {"dtype": torch.promote_types(self.w.dtype, torch.float32), "device": self.w.device}


def answered_runs(model: HookedTransformer, facts: Sequence[TokenizedFact]) -> AnsweredRuns:
    """Run prompts with their targets; without one the model's own top answer is the answer.

    Args:
        model: The model.
        facts: Prompts of one length, with answers of one length.

    Raises:
        ModelError: If the model's runs cannot be continued.
        NumericalError: If the model returns NaN or infinite logits.
    """
    prompts = torch.stack([fact.ids for fact in facts])
    answered = torch.tensor([fact.target_ids[:-1] for fact in facts], dtype=prompts.dtype, device=prompts.device)
    ids = torch.cat([prompts, answered.reshape(len(facts), -1)], 1)
    stored: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        stored[str(hook.name)] = value

    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    base = base_run(model, ids, hooks=[(name, keep) for name in names], record=("mlp_out",))
    answers_at = prompts.shape[1] - 1
    with torch.no_grad():
        logits = unembed(model, base.resid[-1, :, answers_at:])
    top_ids = tuple(logits[:, 0].argmax(-1).tolist())
    answers = [fact.target_ids or (top,) for fact, top in zip(facts, top_ids, strict=True)]
    answer_ids = torch.tensor(answers, device=prompts.device)
    return AnsweredRuns(
        model=model,
        ids=ids,
        base=base,
        w=torch.stack([stored[name] for name in names]),
        answers_at=answers_at,
        answer_ids=answer_ids,
        probabilities=logits.softmax(-1).gather(-1, answer_ids[..., None])[..., 0],
        top_ids=top_ids,
    )


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Tokens that are scaled together, and for which of the answer's tokens.

    Args:
        tokens: Their places in what the model read.
        answers: Places in the answer.
    """

    tokens: range
    answers: range


def integrate(
    run: AnsweredRuns,
    scaled: Scaled,
    points: Quadrature,
    max_batch_tokens: int,
    progress: Progress,
    arrived: Callable[[Tensor, Tensor], None],
) -> tuple[Float[Tensor, "fact layer scaled neuron"], Float[Tensor, "fact layer"]]:
    """Scores of the scaled tokens, jointly, for some of the answer tokens; and the exact change P(w) - P(0).

    Both are sums over the answer tokens divided by the number of *all* answer tokens, so that parts add up.
    """
    path, n_layers, n_facts = _path(run, scaled), run.model.cfg.n_layers, len(run.ids)
    # in the wider format: bfloat16 would round the nodes to 3 digits
    scales, weights = (torch.tensor([*values], **run.exact) for values in points)
    activations = wide(run.w[:, :, scaled.tokens.start : scaled.tokens.stop]).transpose(0, 1)
    change = _change(path, max_batch_tokens, lambda: progress(0, n_layers))

    scores = torch.zeros(activations.shape, **run.exact)

    def add(layer: int, gradient: Tensor, facts: Tensor, weight: Tensor) -> None:
        """The weighted sum over each fact's rows comes first, one product after."""
        shares = torch.zeros(n_facts, len(facts), **run.exact)
        shares[facts, torch.arange(len(facts), device=scales.device)] = weight
        W_out: Any = run.model.blocks[layer].mlp.W_out
        scores[:, layer] += torch.einsum("fr,rtm->ftm", shares, wide(gradient)) @ wide(W_out.detach()).T

    placed = {layer: path.placed(layer, scales, weights) for layer in path.layers}
    whole, scaled_by = ((scales == 1).nonzero()[:, 0], (scales != 1).nonzero()[:, 0])
    of_fact = torch.arange(n_facts, device=scales.device).repeat_interleave(len(scaled_by))
    everyone = torch.arange(n_facts if len(whole) and path.layers else 0, device=scales.device)
    done = 0.0
    # first, a row of each fact with nothing scaled; then those of each layer
    for batch in filled([len(everyone), *[len(of_fact)] * len(path.layers)], path.cost, max_batch_tokens):
        unscaled = torch.cat([everyone[part] for item, part in batch if not item] or [everyone[:0]])
        parts = [(path.layers[item - 1], part) for item, part in batch if item]
        nodes = [placed[layer].nodes[:, scaled_by].flatten()[part] for layer, part in parts]
        pieces = [(layer, of_fact[part], at) for (layer, part), at in zip(parts, nodes, strict=True)]
        found = path.gradients(pieces, unscaled)
        for (layer, part), gradient in zip(parts, found.scaled, strict=True):
            add(layer, gradient, of_fact[part], placed[layer].weights[:, scaled_by].flatten()[part])
            done += len(gradient) / len(of_fact)
        for layer, gradient in found.unscaled.items():
            add(layer, gradient, unscaled, placed[layer].weights[unscaled][:, whole].sum(1))
        progress(round(done), n_layers)
        arrived(*_until_layer(scores * activations, change, int(done + 1e-6)))
    progress(n_layers, n_layers)
    return scores * activations, change


class _Gradients(NamedTuple):
    """dP/d(w W_out) of the scaled tokens: of each piece, row by row; and of each layer with nothing scaled, by fact."""

    scaled: list[Float[Tensor, "_ scaled d_model"]]
    unscaled: dict[int, Float[Tensor, "fact scaled d_model"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Path:
    """The path of some scaled tokens in each layer: the rows that lie on it, and the probabilities that they end in.

    Args:
        run: The clean runs, with which it ends.
        base: These runs until the last token that is read: nothing after it is.
        scaled: What is scaled, and for which answers.
        read: The tokens that predict these answers.
    """

    run: AnsweredRuns
    base: BaseRun
    scaled: Scaled
    read: range

    @property
    def cost(self) -> int:
        """What a row takes of a batch limit."""
        return batch_cost(self.read.stop - self.scaled.tokens.start, self.read.stop)

    @property
    def layers(self) -> list[int]:
        """The layers in which scaling can act."""
        layers, tokens = list(range(self.run.model.cfg.n_layers)), self.scaled.tokens
        # no token reads another above the last attention: there, scaling acts only if a scaled token is itself read
        is_read = max(tokens.start, self.read.start) < min(tokens.stop, self.read.stop)
        return layers if is_read else layers[:-1]

    def w(self, layer: int) -> Float[Tensor, "fact scaled neuron"]:
        """What enters W_out at the scaled tokens."""
        return self.run.w[layer, :, self.scaled.tokens.start : self.scaled.tokens.stop]

    def placed(self, layer: int, nodes: Float[Tensor, "step"], weights: Float[Tensor, "step"]) -> Placed:
        """Nodes and weights where each fact's path through a layer turns."""
        return mlp_output(self.run.model, layer).placed(self.w(layer), nodes, weights)

    def rows(
        self, layer: int, facts: Int[Tensor, "row"], scales: Float[Tensor, "row"]
    ) -> Float[Tensor, "row token d_model"]:
        """The residual stream after a layer with the scaled tokens' w there times some scale, of some facts."""
        start, stop = self.scaled.tokens.start, self.scaled.tokens.stop
        after = self.base.resid[layer + 1][facts, start:]
        mlp_out = self.base.output("mlp_out")[layer][:, start:stop]
        resid = wide(after).clone()
        resid[:, : stop - start] += mlp_output(self.run.model, layer).moved(self.w(layer), mlp_out, facts, scales)
        return resid.to(after.dtype)

    def probability(
        self,
        pieces: Sequence[tuple[int, Int[Tensor, "_"], Float[Tensor, "_ token d_model"]]],
        entering: dict[int, Tensor] | None = None,
    ) -> Float[Tensor, "row"]:
        """What the answers' tokens add to the probability of the answer if rows of facts join above some layers."""
        start = self.scaled.tokens.start
        joins = [Join(layer=layer + 1, resid=resid, samples=facts) for layer, facts, resid in pieces]
        read = range(self.read.start - start, self.read.stop - start)
        final = sweep(self.run.model, self.base, start, joins, read, entering=entering)
        logits = unembed(self.run.model, final)
        wanted = self.run.answer_ids[:, self.scaled.answers.start : self.scaled.answers.stop]
        index = wanted[torch.cat([facts for _, facts, _ in pieces]), :, None]
        log_probability = logits.gather(-1, index)[..., 0] - logits.logsumexp(-1)
        return log_probability.exp().sum(-1) / self.run.answer_ids.shape[1]

    def gradients(
        self, pieces: Sequence[tuple[int, Int[Tensor, "_"], Float[Tensor, "_"]]], unscaled: Int[Tensor, "fact"]
    ) -> _Gradients:
        """One sweep, one backward pass.

        Args:
            pieces: Layers, and the facts and scales of their rows; the lowest first.
            unscaled: The facts of which a row goes up with nothing scaled.
        """
        joining = [(layer, facts, self.rows(layer, facts, scales)) for layer, facts, scales in pieces]
        lowest, start, n_scaled = self.layers[0], self.scaled.tokens.start, len(self.scaled.tokens)
        if len(unscaled):
            joining.insert(0, (lowest, unscaled, self.base.resid[lowest + 1][unscaled, start:]))
        for _, _, rows in joining:
            rows.requires_grad_()
        entering: dict[int, Tensor] = {}
        with torch.enable_grad():
            probability = self.probability(joining, entering if len(unscaled) else None)
            above = [layer for layer in self.layers if layer + 1 in entering]
            sources = [*(rows for *_, rows in joining), *(entering[layer + 1] for layer in above)]
            found = torch.autograd.grad(probability.sum(), sources)
        first = len(joining) - len(pieces)
        own = [
            mlp_output(self.run.model, layer).before(gradient[:, :n_scaled], self.w(layer), facts, scales)
            for (layer, facts, scales), gradient in zip(pieces, found[first : len(joining)], strict=True)
        ]
        ones, whole = torch.ones(len(unscaled), **self.run.exact), {}
        for layer, gradient in zip(above, found[len(joining) :], strict=True):
            # these joined first, so they stand first
            of_scaled = self._of_scaled(layer, gradient[: len(unscaled)])
            whole[layer] = mlp_output(self.run.model, layer).before(of_scaled, self.w(layer), unscaled, ones)
        return _Gradients(own, whole)

    def _of_scaled(self, layer: int, gradient: Float[Tensor, "fact _ d_model"]) -> Float[Tensor, "fact scaled d_model"]:
        """The scaled tokens' part of a gradient; at the unembedding there are only the tokens that are read."""
        n_scaled, start = len(self.scaled.tokens), self.scaled.tokens.start
        if layer + 1 < self.run.model.cfg.n_layers:
            return gradient[:, :n_scaled]
        of_read = gradient.new_zeros(len(gradient), n_scaled, gradient.shape[-1])
        for place, token in enumerate(self.read):
            if token - start < n_scaled:
                of_read[:, token - start] = gradient[:, place]
        return of_read


def _path(run: AnsweredRuns, scaled: Scaled) -> _Path:
    read = range(run.answers_at + scaled.answers.start, run.answers_at + scaled.answers.stop)
    base = run.base if read.stop == run.base.resid.shape[2] else _until(run.base, read.stop)
    return _Path(run=run, base=base, scaled=scaled, read=read)


def _change(path: _Path, max_batch_tokens: int, beat: Callable[[], None]) -> Float[Tensor, "fact layer"]:
    """P(w) - P(0) of each layer."""
    run, answers, n_facts = path.run, path.scaled.answers, len(path.run.ids)
    share = run.probabilities[:, answers.start : answers.stop].sum(-1) / run.answer_ids.shape[1]
    clean = share[:, None].repeat(1, run.model.cfg.n_layers)
    without, everyone = clean.clone(), torch.arange(n_facts, device=clean.device)
    for batch in filled([n_facts] * len(path.layers), path.cost, max_batch_tokens):
        with torch.no_grad():
            pieces = []
            for place, part in batch:
                zeros = torch.zeros(len(everyone[part]), **run.exact)
                layer = path.layers[place]
                pieces.append((layer, everyone[part], path.rows(layer, everyone[part], zeros)))
            found = path.probability(pieces).split([len(facts) for _, facts, _ in pieces])
        for (layer, facts, _), probability in zip(pieces, found, strict=True):
            without[facts, layer] = probability
        beat()
    return clean - without


def _until_layer(scores: Tensor, change: Tensor, n_done: int) -> tuple[Tensor, Tensor]:
    """Scores and changes of the layers that are finished; NaN above them."""
    finished = torch.arange(scores.shape[1], device=scores.device) < n_done
    return torch.where(finished[:, None, None], scores, torch.nan), torch.where(finished, change, torch.nan)


def _until(base: BaseRun, end: int) -> BaseRun:
    """The base run without the tokens from ``end`` on."""
    return BaseRun(
        resid=base.resid[:, :, :end],
        keys=tuple(keys[:, :end] for keys in base.keys),
        values=tuple(values[:, :end] for values in base.values),
        mlp_out=base.output("mlp_out")[:, :, :end],
    )
