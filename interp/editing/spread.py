"""Spread a change over layers (MEMIT, algorithm 1; PMET with another divisor and another site).

1. For layer l of the edited layers, in order: K = keys of all facts there (mean within each kind of context, then
   over kinds), read with the layers below already changed.
2. R = (target - current state at the last edited layer) / divisor(layers left).
3. dW_l = (weight C_l + K K^T)^-1 K R^T, before the next layer's keys are read.

The weights of the model stay as they are: what a change of W_out adds to the residual stream is the layer's keys
times the change, so one pass up the network carries all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.contexts import Contexts
from interp.editing.rows import edit_rows, key_weights
from interp.editing.whitening import Whitening
from interp.facts import EditRequest
from interp.suffix import padded, run_rows

__all__ = ["spread"]

Factors = dict[int, tuple[Float[Tensor, "d_mlp fact"], Float[Tensor, "fact d_model"]]]


def spread(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    targets: Float[Tensor, "fact d_model"],
    *,
    layers: Sequence[int],
    site: str,
    divisor: Callable[[int], float],
    weight: float,
    whitening: Whitening,
) -> Factors:
    """The changes of W_out that bring ``site`` at the last edited layer to its targets.

    Args:
        model: The model, left as it is.
        requests: The edits; one solve for all of them.
        contexts: Kinds of context.
        targets: The values wanted in the bare prompts.
        layers: The edited layers, rising.
        site: ``resid_post`` or ``mlp_out``.
        divisor: Of the residual, from the number of layers left.
        weight: Of the second moment.
        whitening: The second moments.

    Returns:
        Per layer the factors of dW = left @ right.
    """
    rows = edit_rows(model, requests, contexts)
    per = rows.n_contexts + 1
    in_context = [row for row in range(len(rows.ids)) if (row + 1) % per]
    # nothing after the last subject token is read
    ids = [rows.ids[row][: rows.subject_last[row] + 1] for row in in_context]
    tokens, _ = padded(ids, model.W_E.device)
    at = (
        torch.arange(len(ids), device=tokens.device),
        torch.tensor([len(row) - 1 for row in ids], device=tokens.device),
    )
    bare = torch.arange(0, len(ids), rows.n_contexts, device=tokens.device)
    weights = key_weights(contexts, tokens.device)

    last = layers[-1]
    x: Tensor = tokens
    reached = 0
    factors: Factors = {}
    for index, layer in enumerate(layers):
        block = f"blocks.{layer}."
        after, seen = run_rows(
            model, x, start=reached, stop=layer + 1, record=[f"{block}mlp.hook_post", f"{block}hook_mlp_out"]
        )
        entering_w_out = seen[f"{block}mlp.hook_post"]
        keys = torch.einsum(
            "c,fck->kf", weights, entering_w_out[at].reshape(len(requests), rows.n_contexts, -1).float()
        )
        current = _current(model, after[bare], seen[f"{block}hook_mlp_out"][bare], layer, last, site)
        residual = (targets - current[torch.arange(len(bare)), at[1][bare]].float()) / divisor(len(layers) - index)
        left = whitening.regularised(layer, keys, weight).float()
        factors[layer] = (left, residual)
        x = after + (entering_w_out.float() @ left @ residual).to(after.dtype)
        reached = layer + 1
    return factors


def _current(
    model: HookedTransformer, after: Tensor, mlp_out: Tensor, layer: int, last: int, site: str
) -> Float[Tensor, "fact token d_model"]:
    """The site's present state at the last edited layer, the layers from ``layer`` on unchanged."""
    if layer == last:
        return after if site == "resid_post" else mlp_out
    hook = f"blocks.{last}.hook_mlp_out"
    final, seen = run_rows(model, after, start=layer + 1, stop=last + 1, record=[hook])
    return final if site == "resid_post" else seen[hook]


def by_layer(factors: Mapping[int, tuple[Tensor, Tensor]]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Left and right factors as a patch keeps them."""
    return {k: left for k, (left, _) in factors.items()}, {k: right for k, (_, right) in factors.items()}
