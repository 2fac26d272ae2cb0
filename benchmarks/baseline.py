"""What a faithful implementation without the sweep does: one full forward pass per cell, with all logits.

The same model in the same layout, batched over noise samples as the published code of Meng et al. does, and over
steps as the published code of Dai et al. does. The tests compare the numbers, the benchmark the time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint


def trace_cells(
    model: HookedTransformer,
    ids: Int[Tensor, "token"],
    span: tuple[int, int],
    answer_id: int,
    *,
    state: str,
    window: int,
    samples: int,
    noise: float,
    seed: int,
    sever: str | None = None,
    cells: list[tuple[int, int]] | None = None,
) -> Float[Tensor, "token layer"]:
    """Probability of the answer after restoring each cell (NaN for cells that were not asked for)."""
    names = {"resid": "hook_resid_post", "mlp": "hook_mlp_out", "attn": "hook_attn_out"}
    start, end = span
    n_tokens, n_layers = len(ids), model.cfg.n_layers
    drawn = np.random.RandomState(seed).randn(samples, end - start, model.cfg.d_model)
    offset = torch.from_numpy(drawn).to(model.W_E) * noise
    batch = ids.expand(1 + samples, -1)

    def corrupt(embedding: Tensor, hook: HookPoint) -> Tensor:
        embedding[1:, start:end] += offset
        return embedding

    def restore(value: Tensor, hook: HookPoint, *, token: int) -> Tensor:
        value[1:, token] = value[0, token]  # row 0 is the clean run
        return value

    def pin(value: Tensor, hook: HookPoint, *, token: int, corrupted: Tensor) -> Tensor:
        value[1:, token] = corrupted[1:, token]
        return value

    with torch.no_grad():
        pinned: dict[str, Tensor] = {}
        if sever is not None:
            with model.hooks(fwd_hooks=[("hook_embed", corrupt)]):
                _, cache = model.run_with_cache(batch, names_filter=lambda name: name.endswith(names[sever]))
            pinned = dict(cache.items())
        scores = torch.full((n_tokens, n_layers), torch.nan)
        for token, layer in cells or [(t, layer) for t in range(n_tokens) for layer in range(n_layers)]:
            low, high = layer, layer + 1
            if state != "resid":
                low, high = max(0, layer - window // 2), min(n_layers, layer - (-window // 2))
            hooks: list[Any] = [("hook_embed", corrupt)]
            hooks += [(name, partial(pin, token=token, corrupted=value)) for name, value in pinned.items()]
            for block in range(low, high):
                hooks.append((f"blocks.{block}.{names[state]}", partial(restore, token=token)))
            logits = model.run_with_hooks(batch, prepend_bos=False, fwd_hooks=hooks)
            scores[token, layer] = logits[1:, -1].softmax(-1)[:, answer_id].mean()
    return scores


def attribute_layers(
    model: HookedTransformer,
    ids: Int[Tensor, "token"],
    answer_id: int,
    *,
    steps: int,
    positions: slice,
) -> Float[Tensor, "layer token neuron"]:
    """Equation (3) by one batched full forward and backward pass per layer, right Riemann sum."""
    scales = torch.arange(1, steps + 1, device=ids.device) / steps
    batch = ids.expand(steps, -1)
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        _, clean = model.run_with_cache(ids[None], prepend_bos=False, names_filter=lambda name: name in names)
    scores = []
    for name in names:
        w = clean[name][0, positions]
        leaf = (scales[:, None, None] * w).requires_grad_()

        def put(value: Tensor, hook: HookPoint, *, leaf: Tensor = leaf) -> Tensor:
            value = value.clone()
            value[:, positions] = leaf
            return value

        logits = model.run_with_hooks(batch, prepend_bos=False, fwd_hooks=[(name, put)])
        probability = logits[:, -1].softmax(-1)[:, answer_id]
        (gradient,) = torch.autograd.grad(probability.sum(), leaf)
        scores.append(w * gradient.mean(0))
    return torch.stack(scores)
