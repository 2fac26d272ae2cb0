"""The norm after an MLP, by means of torch alone: what a test compares with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from transformer_lens import HookedTransformer


def norm_after(model: HookedTransformer, layer: int) -> nn.Module | None:
    """The module that a layer's W_out output passes before it enters the stream."""
    block: Any = model.blocks[layer]
    if model.cfg.original_architecture == "Olmo2ForCausalLM":
        return block.ln2
    return getattr(block, "ln2_post", None)


@contextmanager
def changing(model: HookedTransformer, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block W_out of a layer returns ``change`` of what it returns."""
    norm = norm_after(model, layer)
    if norm is None:
        with model.hooks([(f"blocks.{layer}.hook_mlp_out", lambda value, hook: change(value))]):
            yield
        return
    handle = norm.register_forward_pre_hook(lambda module, given: (change(given[0]),))
    try:
        yield
    finally:
        handle.remove()


def returned_by_w_out(model: HookedTransformer, layer: int, tokens: Tensor) -> Tensor:
    """u = w W_out + b_out of every token, by a full pass."""
    _, cache = model.run_with_cache(tokens, prepend_bos=False)
    mlp: Any = model.blocks[layer].mlp
    return cache[f"blocks.{layer}.mlp.hook_post"] @ mlp.W_out + mlp.b_out


def nearest(model: HookedTransformer, layer: int, wanted: Tensor, u: Tensor) -> Tensor:
    """The vector as long as u whose norm comes nearest to a value, one by one, by a root of Lagrange's condition."""
    norm: Any = norm_after(model, layer)
    gain, found = norm.w.double().numpy(), []
    for value, was in zip(wanted.double().numpy(), u.double().numpy(), strict=True):
        rms = np.sqrt((was**2).mean())
        axes = gain * rms / np.sqrt(rms**2 + norm.eps)

        def longer(m: float, axes: Any = axes, value: Any = value) -> float:
            return float(((axes * value / (axes**2 + m)) ** 2).mean() - 1)

        least = (axes**2).min()
        m = brentq(longer, -least * (1 - 1e-12), np.abs(axes * value).max() * len(axes) + 1, xtol=1e-15)
        found.append(rms * axes * value / (axes**2 + m))
    return torch.tensor(np.array(found), dtype=u.dtype)
