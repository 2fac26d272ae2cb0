"""Integrated gradients of the answer's probability along scaled MLP activations, for all layers in one sweep.

The arithmetic of :mod:`interp.locate.methods.attribution`, which has the formula: nodes and weights of the quadrature,
the rows that join (resid + (a - 1) * (mlp_out - b_out), or through the norm after the MLP: both in
:mod:`interp.engine.mlp_outputs`), one backward pass for all layers and scales.
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
from interp.engine.batches import batch_cost, groups
from interp.engine.forward import unembed, wide
from interp.engine.mlp_outputs import mlp_output
from interp.engine.sweep import Join, sweep
from interp.models.tokens import TokenizedFact
from interp.options import Progress, check_choice, whole_number

__all__ = ["RULES", "AnsweredRun", "Quadrature", "Rule", "Scaled", "answered_run", "integrate", "quadrature"]

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
class AnsweredRun:
    """The clean run over a prompt and its answer.

    Args:
        model: The model that ran.
        ids: What it read: the prompt and all tokens of the answer but the last.
        base: Its run, with MLP outputs.
        w: What entered W_out.
        answers_at: The first position that predicts a token of the answer.
        answer_ids: The answer.
        probabilities: Of its tokens, each given those before it.
        top_id: What the model answers first.
    """

    model: HookedTransformer
    ids: Int[Tensor, "token"]
    base: BaseRun
    w: Float[Tensor, "layer token neuron"]
    answers_at: int
    answer_ids: Int[Tensor, "answer"]
    probabilities: Float[Tensor, "answer"]
    top_id: int

    @property
    def exact(self) -> dict[str, Any]:
        """What sums and scores are kept in: float32 whatever the model's number format, or what is wider."""
        return {"dtype": torch.promote_types(self.w.dtype, torch.float32), "device": self.w.device}


def answered_run(model: HookedTransformer, tokenized: TokenizedFact) -> AnsweredRun:
    """Run a prompt with its target; without one the model's own top answer is the answer.

    Raises:
        ModelError: If the model's runs cannot be continued.
        NumericalError: If the model returns NaN or infinite logits.
    """
    prompt = tokenized.ids
    ids = torch.cat([prompt, torch.tensor(tokenized.target_ids[:-1], dtype=prompt.dtype, device=prompt.device)])
    stored: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        stored[str(hook.name)] = value[0]

    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    base = base_run(model, ids[None], hooks=[(name, keep) for name in names], record=("mlp_out",))
    answers_at = len(prompt) - 1
    with torch.no_grad():
        logits = unembed(model, base.resid[-1, 0, answers_at:])
    top_id = int(logits[0].argmax())
    answer_ids = torch.tensor(tokenized.target_ids or (top_id,), device=prompt.device)
    return AnsweredRun(
        model=model,
        ids=ids,
        base=base,
        w=torch.stack([stored[name] for name in names]),
        answers_at=answers_at,
        answer_ids=answer_ids,
        probabilities=logits.softmax(-1).gather(-1, answer_ids[:, None])[:, 0],
        top_id=top_id,
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
    run: AnsweredRun,
    scaled: Scaled,
    points: Quadrature,
    max_batch_tokens: int,
    progress: Progress,
    arrived: Callable[[Tensor, Tensor], None],
) -> tuple[Float[Tensor, "layer scaled neuron"], Float[Tensor, "layer"]]:
    """Scores of the scaled tokens, jointly, for some of the answer tokens; and the exact change P(w) - P(0).

    Both are sums over the answer tokens divided by the number of *all* answer tokens, so that parts add up.
    """
    path, n_layers = _path(run, scaled), run.model.cfg.n_layers
    # in the wider format: bfloat16 would round the nodes to 3 digits
    nodes, weights = (torch.tensor([*values], **run.exact) for values in points)
    activations = wide(run.w[:, scaled.tokens.start : scaled.tokens.stop])
    placed = {layer: mlp_output(run.model, layer).placed(path.w(layer), nodes, weights) for layer in path.layers}
    change = _change(path, max_batch_tokens, lambda: progress(0, n_layers))

    scores = torch.zeros(activations.shape, **run.exact)
    chunks = [(layer, part) for layer in path.layers for part in _chunks(len(nodes), path.cost, max_batch_tokens)]
    sizes = [len(range(*part.indices(len(nodes)))) for _, part in chunks]
    done = 0.0
    for pieces in groups(chunks, sizes, path.cost, max_batch_tokens):
        gradients = path.gradients([(layer, placed[layer][0][part]) for layer, part in pieces])
        for (layer, part), gradient in zip(pieces, gradients, strict=True):
            mean = torch.einsum("r,rtm->tm", placed[layer][1][part], wide(gradient))
            W_out: Any = run.model.blocks[layer].mlp.W_out
            scores[layer] += mean @ wide(W_out.detach()).T
            done += len(gradient) / len(nodes)
        progress(round(done), n_layers)
        arrived(*_until_layer(scores * activations, change, int(done + 1e-6)))
    progress(n_layers, n_layers)
    return scores * activations, change


@dataclass(frozen=True, kw_only=True, eq=False)
class _Path:
    """The path of some scaled tokens in each layer: the rows that lie on it, and the probabilities that they end in.

    Args:
        run: The clean run, with which it ends.
        base: That run until the last token that is read: nothing after it is.
        scaled: What is scaled, and for which answers.
        read: The tokens that predict these answers.
    """

    run: AnsweredRun
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

    def w(self, layer: int) -> Float[Tensor, "scaled neuron"]:
        """What enters W_out at the scaled tokens."""
        return self.run.w[layer, self.scaled.tokens.start : self.scaled.tokens.stop]

    def rows(self, layer: int, scales: Float[Tensor, "scale"]) -> Float[Tensor, "scale token d_model"]:
        """The residual stream after a layer with the scaled tokens' w there times each of some scales."""
        start, stop = self.scaled.tokens.start, self.scaled.tokens.stop
        after = self.base.resid[layer + 1, :, start:]
        resid = wide(after).expand(len(scales), -1, -1).clone()
        mlp_out = self.base.output("mlp_out")[layer, 0, start:stop]
        resid[:, : stop - start] += mlp_output(self.run.model, layer).moved(self.w(layer), mlp_out, scales)
        return resid.to(after.dtype)

    def probability(self, layers: Sequence[int], rows: Sequence[Tensor]) -> Float[Tensor, "row"]:
        """What the answers' tokens add to the probability of the answer if rows join above some layers."""
        start, device = self.scaled.tokens.start, self.run.w.device
        joins = [
            Join(layer=layer + 1, resid=resid, samples=torch.zeros(len(resid), dtype=torch.long, device=device))
            for layer, resid in zip(layers, rows, strict=True)
        ]
        read = range(self.read.start - start, self.read.stop - start)
        final = sweep(self.run.model, self.base, start, joins, read)
        logits = unembed(self.run.model, final)
        wanted = self.run.answer_ids[self.scaled.answers.start : self.scaled.answers.stop]
        index = wanted[None, :, None].expand(len(final), -1, 1)
        log_probability = logits.gather(-1, index)[..., 0] - logits.logsumexp(-1)
        return log_probability.exp().sum(-1) / len(self.run.answer_ids)

    def gradients(self, pieces: Sequence[tuple[int, Float[Tensor, "_"]]]) -> list[Float[Tensor, "_ scaled d_model"]]:
        """dP/d(w W_out) of the scaled tokens at some scales of some layers: one sweep, one backward pass."""
        leaves = [self.rows(layer, scales).requires_grad_() for layer, scales in pieces]
        with torch.enable_grad():
            probability = self.probability([layer for layer, _ in pieces], leaves)
            gradients = torch.autograd.grad(probability.sum(), leaves)
        return [
            mlp_output(self.run.model, layer).before(gradient[:, : len(self.scaled.tokens)], self.w(layer), scales)
            for (layer, scales), gradient in zip(pieces, gradients, strict=True)
        ]


def _path(run: AnsweredRun, scaled: Scaled) -> _Path:
    read = range(run.answers_at + scaled.answers.start, run.answers_at + scaled.answers.stop)
    base = run.base if read.stop == run.base.resid.shape[2] else _until(run.base, read.stop)
    return _Path(run=run, base=base, scaled=scaled, read=read)


def _change(path: _Path, max_batch_tokens: int, beat: Callable[[], None]) -> Float[Tensor, "layer"]:
    """P(w) - P(0) of each layer."""
    run, answers = path.run, path.scaled.answers
    share = run.probabilities[answers.start : answers.stop].sum() / len(run.answer_ids)
    clean = share.repeat(run.model.cfg.n_layers)
    without, zero = clean.clone(), torch.zeros(1, **run.exact)
    for layers in groups(path.layers, [1] * len(path.layers), path.cost, max_batch_tokens):
        with torch.no_grad():
            without[layers] = path.probability(layers, [path.rows(layer, zero) for layer in layers])
        beat()
    return clean - without


def _until_layer(scores: Tensor, change: Tensor, n_done: int) -> tuple[Tensor, Tensor]:
    """Scores and changes of the layers that are finished; NaN above them."""
    finished = torch.arange(len(scores), device=scores.device) < n_done
    return torch.where(finished[:, None, None], scores, torch.nan), torch.where(finished, change, torch.nan)


def _until(base: BaseRun, end: int) -> BaseRun:
    """The base run without the tokens from ``end`` on."""
    return BaseRun(
        resid=base.resid[:, :, :end],
        keys=tuple(keys[:, :end] for keys in base.keys),
        values=tuple(values[:, :end] for values in base.values),
        mlp_out=base.output("mlp_out")[:, :, :end],
    )


def _chunks(steps: int, length: int, max_batch_tokens: int) -> list[slice]:
    size = max(1, min(steps, max_batch_tokens // length))
    return [slice(first, first + size) for first in range(0, steps, size)]
