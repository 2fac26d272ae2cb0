"""Sums of k k^T over a corpus, in two halves, and by how much the one half misses the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.editing.shrinkage import ledoit_wolf, shrunk
from interp.errors import NumericalError

__all__ = ["Sums", "accumulate", "held_out_error"]

BLOCKS = 8


@dataclass(frozen=True)
class Sums:
    """Sums over the two halves of a corpus.

    Args:
        products: k k^T by layer.
        fourth: |k|^4 by layer.
        counts: Tokens.
    """

    products: dict[int, Float[Tensor, "half d_mlp d_mlp"]]
    fourth: dict[int, Float[Tensor, "half"]]
    counts: Float[Tensor, "half"]


def accumulate(
    model: HookedTransformer,
    layers: Sequence[int],
    batches: Iterable[Int[Tensor, "row token"]],
    *,
    max_batch_tokens: int = 1024,
    beat: Callable[[], None] = lambda: None,
) -> Sums:
    """Sums of k k^T and of |k|^4 by layer, for the two halves of the rows, and the tokens in each.

    Args:
        model: The model.
        layers: Which layers.
        batches: Rows of tokens.
        max_batch_tokens: The most tokens that go up the network at once.
        beat: Called after each of these; may raise to stop the work.

    Raises:
        NumericalError: If an activation is not finite.
    """
    device, d_mlp = model.W_E.device, model.cfg.d_mlp
    assert d_mlp is not None
    # sums of thousands of products: float64 where the device has it
    wide = torch.float32 if device.type == "mps" else torch.float64
    sums = {layer: torch.zeros(2, d_mlp, d_mlp, dtype=wide, device=device) for layer in layers}
    fourth = {layer: torch.zeros(2, dtype=wide, device=device) for layer in layers}
    counts = torch.zeros(2, dtype=torch.float64)
    recent = {layer: torch.zeros(d_mlp, d_mlp, device=device) for layer in layers}  # float32, of one part

    def add(value: Tensor, hook: HookPoint, *, layer: int) -> None:
        keys = value.reshape(-1, value.shape[-1]).float()
        _add_gram(recent[layer], keys)
        fourth[layer][half] += keys.square().sum(-1).square().sum()

    hooks: list[Any] = [(f"blocks.{layer}.mlp.hook_post", partial(add, layer=layer)) for layer in layers]
    half = 0
    for rows in batches:
        for part in rows.split(-(-len(rows) // 2)):
            for chunk in part.split(max(1, max_batch_tokens // rows.shape[1])):
                with torch.no_grad():
                    model.run_with_hooks(chunk, prepend_bos=False, stop_at_layer=max(layers) + 1, fwd_hooks=hooks)
                beat()
            for layer in layers:
                sums[layer][half] += recent[layer]
                recent[layer].zero_()
            counts[half] += part.numel()
            half = 1 - half
    for layer in layers:
        for half_sum in sums[layer]:
            half_sum.triu_()  # within a block on the diagonal, a matrix product need not be symmetric to the bit
            half_sum += half_sum.triu(1).T
        if not torch.isfinite(sums[layer].sum()):  # any NaN or infinity survives a sum
            raise NumericalError(f"the activations that enter W_out of layer {layer} are not finite")
    return Sums(sums, fourth, counts)


def _add_gram(total: Tensor, keys: Float[Tensor, "token d_mlp"]) -> None:
    """Add K^T K to the upper blocks of ``total``; the rest follows by symmetry."""
    for first, last in _blocks(keys.shape[1]):
        total[first:last, first:].addmm_(keys[:, first:last].T, keys[:, first:])


def _blocks(d_mlp: int) -> list[tuple[int, int]]:
    edges = [round(i * d_mlp / BLOCKS) for i in range(BLOCKS + 1)]
    return [(first, last) for first, last in pairwise(edges) if last > first]


def held_out_error(halves: Tensor, n_tokens: Tensor, fourth: Tensor | None = None) -> float:
    """tr(C_a^-1 C_b) / d - 1, averaged over the two ways round; C_a shrunk if the sums of |k|^4 are given."""
    errors = []
    for a, b in ((0, 1), (1, 0)):
        if not n_tokens[a] or not n_tokens[b]:
            return float("inf")
        seen = (halves[a] / n_tokens[a]).double()
        if fourth is not None:
            seen = shrunk(seen, ledoit_wolf(seen, float(n_tokens[a]), float(fourth[a] / n_tokens[a])))
        factor, failed = torch.linalg.cholesky_ex(seen)
        if int(failed):
            return float("inf")
        solved = torch.cholesky_solve((halves[b] / n_tokens[b]).double(), factor)
        errors.append(float(solved.diagonal().mean()) - 1)
    return sum(errors) / len(errors)
