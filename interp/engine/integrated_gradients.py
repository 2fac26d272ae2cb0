"""Integrated gradients of the answer's probability along scaled MLP activations, for all layers in one sweep.

The arithmetic of :mod:`interp.locate.methods.attribution`, which has the formula: nodes and weights of the quadrature,
the rows that join (resid + (a - 1) * (mlp_out - b_out)), one backward pass for all layers and scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.base_runs import BaseRun
from interp.engine.batches import batch_cost, groups
from interp.engine.sweep import Join, sweep, unembed, wide
from interp.options import Progress, check_choice, whole_number

__all__ = ["RULES", "Rule", "integrate", "quadrature"]

Rule = Literal["riemann", "gauss-legendre"]

RULES: tuple[Rule, ...] = ("riemann", "gauss-legendre")
MOST_NODES = 1_000


def quadrature(rule: Rule, steps: int) -> tuple[Float[np.ndarray, "step"], Float[np.ndarray, "step"]]:
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
        return np.arange(1, steps + 1) / steps, np.full(steps, 1 / steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def integrate(
    model: HookedTransformer,
    base: BaseRun,
    w: Float[Tensor, "layer token neuron"],
    clean: Float[Tensor, "answer"],
    answer_ids: Tensor,
    answers_at: int,
    scaled: tuple[int, int],
    answers: tuple[int, int],
    nodes: Iterable[float],
    weights: Iterable[float],
    max_batch_tokens: int,
    progress: Progress,
    arrived: Callable[[Tensor, Tensor], None],
) -> tuple[Float[Tensor, "layer scaled neuron"], Float[Tensor, "layer"]]:
    """Scores of the scaled tokens, jointly, for some of the answer tokens; and the exact change P(w) - P(0).

    Both are sums over the answer tokens divided by the number of *all* answer tokens, so that parts add up.
    """
    n_layers, n_answers = model.cfg.n_layers, len(answer_ids)
    mlps: list[Any] = [block.mlp for block in model.blocks]
    start, stop = scaled
    wanted = answer_ids[answers[0] : answers[1]]
    # nothing after the last answer is read
    first_read, end = answers_at + answers[0], answers_at + answers[1]
    truncated = base if end == base.resid.shape[2] else _until(base, end)
    read_at = range(first_read - start, end - start)
    # nodes, sums and scores in float32 whatever the model's number format: bfloat16 would round the nodes to 3 digits
    exact: Any = {"dtype": torch.promote_types(w.dtype, torch.float32), "device": w.device}
    scale, weight = torch.tensor([*nodes], **exact), torch.tensor([*weights], **exact)

    def rows(layer: int, scales: Tensor) -> Tensor:
        bias = mlps[layer].b_out.detach()
        before = truncated.resid[layer + 1, :, start:]
        contribution = wide(truncated.output("mlp_out")[layer, 0, start:stop]) - wide(bias)
        resid = wide(before).expand(len(scales), -1, -1).clone()
        resid[:, : stop - start] += (scales - 1)[:, None, None] * contribution
        return resid.to(before.dtype)

    def probability(joins: list[Join]) -> Float[Tensor, "row"]:
        final = sweep(model, truncated, start, joins, read_at)
        logits = unembed(model, final)
        index = wanted[None, :, None].expand(len(final), -1, 1)
        log_probability = logits.gather(-1, index)[..., 0] - logits.logsumexp(-1)
        return log_probability.exp().sum(-1) / n_answers

    def samples(count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.long, device=w.device)

    layers = list(range(n_layers))
    # no token reads another above the last attention: there, scaling acts only if a scaled token is itself read
    if not max(start, first_read) < min(stop, end):
        layers = layers[:-1]
    length = end - start
    cost = batch_cost(length, end)
    scores = torch.zeros(n_layers, stop - start, w.shape[-1], **exact)
    activations = wide(w[:, start:stop])
    without = (clean[answers[0] : answers[1]].sum() / n_answers).repeat(n_layers)
    change = without.clone()

    zero = torch.zeros(1, **exact)
    for group in groups(layers, [1] * len(layers), cost, max_batch_tokens):
        with torch.no_grad():
            joins = [Join(layer=layer + 1, resid=rows(layer, zero), samples=samples(1)) for layer in group]
            without[group] = probability(joins)
        progress(0, n_layers)
    change = change - without

    chunks = [(layer, chosen) for layer in layers for chosen in _chunks(len(scale), cost, max_batch_tokens)]
    sizes = [len(range(*chosen.indices(len(scale)))) for _, chosen in chunks]
    done = 0.0
    for pieces in groups(chunks, sizes, cost, max_batch_tokens):
        leaves = [rows(layer, scale[chosen]).requires_grad_() for layer, chosen in pieces]
        with torch.enable_grad():
            joins = [
                Join(layer=layer + 1, resid=leaf, samples=samples(len(leaf)))
                for (layer, _), leaf in zip(pieces, leaves, strict=True)
            ]
            gradients = torch.autograd.grad(probability(joins).sum(), leaves)
        for (layer, chosen), gradient in zip(pieces, gradients, strict=True):
            mean = torch.einsum("r,rtm->tm", weight[chosen], wide(gradient[:, : stop - start]))
            scores[layer] += mean @ wide(mlps[layer].W_out.detach()).T
            done += len(gradient) / len(scale)
        progress(round(done), n_layers)
        arrived(*_until_layer(scores * activations, change, int(done + 1e-6)))
    progress(n_layers, n_layers)
    return scores * activations, change


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
