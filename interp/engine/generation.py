"""Continue prompts: greedily, or by sampling with draws that do not depend on what else is in the batch.

One pass over the prompts (padded on the left), then one token at a time with a key-value cache. Sampling takes the
k likeliest tokens and inverts their distribution at a uniform number that depends on the row's seed and the step
alone, so a row is continued the same way in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from interp.engine.base_runs import Hook
from interp.engine.forward import unembed
from interp.engine.suffix import padded
from interp.errors import OptionError
from interp.options import check_positive, check_seed

__all__ = ["generate"]


def generate(
    model: HookedTransformer,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    *,
    top_k: int | None = 1,
    seeds: Sequence[int] | None = None,
    hooks: Sequence[Hook] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Int[Tensor, "row token"]:
    """Continue prompts by ``n_tokens`` tokens each; an end-of-text token does not stop a row.

    Args:
        model: The model.
        prompts: Token ids of each row.
        n_tokens: How many tokens to add.
        top_k: Sample among this many likeliest tokens: 1 is greedy, None takes all.
        seeds: One per row, for sampling.
        hooks: Interventions during all passes.
        progress: Called with (tokens done, in all).

    Returns:
        The new tokens.

    Raises:
        OptionError: If a prompt is empty, the context is too short, or sampling lacks its seeds.
        NumericalError: If logits are NaN or infinite.
    """
    check_positive(n_tokens=n_tokens, **({} if top_k is None else {"top_k": top_k}))
    _check_room(model, prompts, n_tokens)
    uniform = None if top_k == 1 else _uniform(seeds, len(prompts), n_tokens)
    device = model.W_E.device
    tokens, present = padded(prompts, device, side="left")
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, device, len(prompts))
    n_layers = model.cfg.n_layers
    added: list[Tensor] = []
    fwd_hooks: list[Any] = list(hooks)
    with torch.no_grad():
        for step in range(n_tokens):
            final = model.run_with_hooks(
                tokens,
                prepend_bos=False,
                stop_at_layer=n_layers,
                past_kv_cache=cache,
                attention_mask=present,
                fwd_hooks=fwd_hooks,
            )
            logits = unembed(model, final[:, -1])
            chosen = logits.argmax(-1) if uniform is None else _draw(logits, top_k, uniform[:, step])
            added.append(chosen)
            tokens, present = chosen[:, None], torch.ones_like(chosen[:, None])
            if progress:
                progress(step + 1, n_tokens)
    return torch.stack(added, 1)


def _check_room(model: HookedTransformer, prompts: Sequence[Sequence[int]], n_tokens: int) -> None:
    """Refuse prompts that do not fit the context with what is added."""
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= model.cfg.n_ctx - n_tokens:
            raise OptionError(
                f"prompt {row} has {len(prompt)} tokens: with {n_tokens} more, the model's context holds 1 to"
                f" {model.cfg.n_ctx - n_tokens}"
            )


def _uniform(seeds: Sequence[int] | None, n_prompts: int, n_tokens: int) -> Float[np.ndarray, "row token"]:
    """Each row's own numbers, one a step."""
    if seeds is None or len(seeds) != n_prompts:
        raise OptionError(f"sampling needs one seed per prompt: {n_prompts} prompts, {seeds!r}")
    for seed in seeds:
        check_seed(seed)
    return np.stack([np.random.RandomState(seed).random_sample(n_tokens) for seed in seeds])


def _draw(
    logits: Float[Tensor, "row d_vocab"], top_k: int | None, uniform: Float[np.ndarray, "row"]
) -> Int[Tensor, "row"]:
    indices: Tensor | None = None
    if top_k is not None and top_k < logits.shape[-1]:
        logits, indices = logits.topk(top_k, -1)
    cumulated = logits.softmax(-1).double().cumsum(-1)  # tens of thousands of terms
    at = torch.from_numpy(uniform).to(cumulated)[:, None] * cumulated[:, -1:]
    place = torch.searchsorted(cumulated, at, right=True).clamp(max=cumulated.shape[-1] - 1)
    return (place if indices is None else indices.gather(-1, place))[:, 0]
