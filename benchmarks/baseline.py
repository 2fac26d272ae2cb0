"""What a faithful implementation without the sweep does: full forward passes with all logits.

The same model in the same layout: one pass per cell, batched over noise samples as the published code of Meng et al.
does, and over steps as that of Dai et al.; for an edit, one full forward and backward pass of all contexts per step.
The tests compare the numbers, the benchmarks the time.
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
    along: Int[Tensor, "longer"] | None = None,
) -> Float[Tensor, "layer token neuron"]:
    """Equation (3) by one batched full forward and backward pass per layer, right Riemann sum.

    Where a norm stands after the MLP, the sum is over steps of t, with scale c sinh(t); c is that of the positions in
    ``along`` (what is read, if None).
    """
    batch = ids.expand(steps, -1)
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        _, clean = model.run_with_cache(ids[None], prepend_bos=False)
        _, longer = model.run_with_cache((ids if along is None else along)[None], prepend_bos=False)
    scores = []
    for layer, name in enumerate(names):
        w = clean[name][0, positions]
        scales, weights = _riemann(model, longer, layer, positions, steps)
        leaf = (scales[:, None, None] * w).requires_grad_()

        def put(value: Tensor, hook: HookPoint, *, leaf: Tensor = leaf) -> Tensor:
            value = value.clone()
            value[:, positions] = leaf
            return value

        logits = model.run_with_hooks(batch, prepend_bos=False, fwd_hooks=[(name, put)])
        probability = logits[:, -1].softmax(-1)[:, answer_id]
        (gradient,) = torch.autograd.grad(probability.sum(), leaf)
        scores.append(w * (weights[:, None, None] * gradient).sum(0))
    return torch.stack(scores)


def _riemann(
    model: HookedTransformer, clean: Any, layer: int, positions: slice, steps: int
) -> tuple[Float[Tensor, "step"], Float[Tensor, "step"]]:
    """Scales from 0 to 1 and what each counts."""
    even = torch.arange(1, steps + 1, device=model.W_E.device) / steps
    norm = "ln2" if model.cfg.original_architecture == "Olmo2ForCausalLM" else "ln2_post"
    if norm == "ln2_post" and not model.cfg.use_normalization_before_and_after:
        return even, torch.full_like(even, 1 / steps)
    scale, eps = clean[f"blocks.{layer}.{norm}.hook_scale"][0, positions], model.cfg.eps
    rms = (scale**2 - eps).sqrt().prod() ** (1 / len(scale))
    width = torch.arcsinh(rms / eps**0.5)
    return eps**0.5 / rms * torch.sinh(width * even), eps**0.5 / rms * torch.cosh(width * even) * width / steps


def rome_value(
    model: HookedTransformer,
    prompts: list[str],
    subject_last: list[int],
    target_ids: tuple[int, ...],
    *,
    layer: int,
    config: Any,
) -> tuple[Float[Tensor, "d_model"], Float[Tensor, "d_model"], float]:
    """ROME's optimisation by full passes over whole prompts: (v0, delta, loss).

    Args:
        model: The model.
        prompts: The prompt in every context, then "{subject} is a".
        subject_last: Position of the last subject token in each.
        target_ids: The new answer.
        layer: The edited layer.
        config: A RomeConfig.
    """
    rows = [model.to_tokens(prompt, prepend_bos=model.cfg.default_prepend_bos)[0].tolist() for prompt in prompts]
    lengths = [len(row) for row in rows]
    rows = [row + list(target_ids[:-1]) for row in rows[:-1]] + rows[-1:]
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device=model.W_E.device)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    everyone = torch.arange(len(rows))
    at = torch.tensor(subject_last)
    delta = torch.zeros(model.cfg.d_model, requires_grad=True, device=tokens.device)
    adam = torch.optim.Adam([delta], lr=config.learning_rate)
    seen: list[Tensor] = []

    def add(value: Tensor, hook: HookPoint) -> Tensor:
        if not seen:
            seen.append(value[0, subject_last[0]].detach().clone())
        value = value.clone()
        value[everyone, at] += delta
        return value

    initial: Tensor | None = None
    loss = torch.tensor(0.0)
    for step in range(config.steps):
        logits = model.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=[(f"blocks.{layer}.hook_mlp_out", add)])
        log_p = logits.log_softmax(-1)
        essence = log_p[-1, subject_last[-1]]
        initial = essence.detach() if initial is None else initial
        nll = torch.stack(
            [
                -log_p[row, torch.arange(len(target_ids)) + lengths[row] - 1, torch.tensor(target_ids)].mean()
                for row in range(len(rows) - 1)
            ]
        ).mean()
        divergence = (essence.exp() * (essence - initial)).sum()
        v0 = seen[0]
        decay = config.weight_decay * delta.norm() / v0.norm() ** 2
        loss = nll + config.kl_weight * divergence + decay
        if loss < config.stop_loss or step == config.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            if delta.norm() > config.clamp * v0.norm():
                delta *= config.clamp * v0.norm() / delta.norm()
    return seen[0], delta.detach(), float(loss.detach())


def second_moment(
    model: HookedTransformer, rows: Int[Tensor, "row token"], layer: int, batch: int
) -> Float[Tensor, "d_mlp d_mlp"]:
    """One pass over the corpus for one layer, stopped at that layer, as the published code of Meng et al. does."""
    total = torch.zeros(model.cfg.d_mlp, model.cfg.d_mlp, dtype=torch.float64, device=rows.device)  # type: ignore[arg-type]

    def add(value: Tensor, hook: HookPoint) -> None:
        keys = value.reshape(-1, value.shape[-1])
        total.add_(keys.T @ keys)

    with torch.no_grad():
        for first in range(0, len(rows), batch):
            model.run_with_hooks(
                rows[first : first + batch],
                prepend_bos=False,
                stop_at_layer=layer + 1,
                fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", add)],
            )
    return (total / rows.numel()).float()
