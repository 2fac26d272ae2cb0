"""Sums of k k^T over a corpus, in two halves, one layer after the other; by how much the one half misses the other.

The sums of a layer take 20 d_mlp^2 bytes (819 MB on GPT2-XL), so they are made, used and dropped before the next
layer's. Where it fits a quarter of the free memory, the residual stream of the whole corpus waits between two layers
and climbs from the one to the other, so each block runs once, as in one pass for all layers. A corpus that is too
large for that is run from its tokens for every group of layers whose sums fit half of the free memory. The numbers
are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.shrinkage import ledoit_wolf, shrunk
from interp.engine.batches import free_bytes
from interp.engine.suffix import run_rows
from interp.errors import NumericalError

__all__ = ["Sums", "held_out_error", "sums_by_layer"]

BLOCKS = 8
STREAM_SHARE, SUMS_SHARE = 1 / 4, 1 / 2
"""Of the free memory: what the waiting residual stream may take, and what sums may take where it does not wait."""


@dataclass(frozen=True)
class Sums:
    """Sums over the two halves of a corpus, of one layer.

    Args:
        products: k k^T.
        fourth: |k|^4.
        counts: Tokens.
    """

    products: Float[Tensor, "half d_mlp d_mlp"]
    fourth: Float[Tensor, "half"]
    counts: Float[Tensor, "half"]


def sums_by_layer(
    model: HookedTransformer,
    layers: Sequence[int],
    batches: Sequence[Int[Tensor, "_ token"]],
    *,
    max_batch_tokens: int = 1024,
    beat: Callable[[float], None] = lambda share: None,
) -> Iterator[tuple[int, Sums]]:
    """Sums of k k^T and of |k|^4 for the two halves of the rows, layer by layer from the lowest up.

    Args:
        model: The model.
        layers: Which layers, in ascending order.
        batches: Rows of tokens; every other half of a batch belongs to the same half of the corpus.
        max_batch_tokens: The most tokens that go up the network at once.
        beat: Called after each of these with the share of the work that is done; may raise to stop the work.

    Raises:
        NumericalError: If an activation is not finite.
    """
    parts = [part for rows in batches for part in rows.split(-(-len(rows) // 2))]
    waiting = [list(part.split(max(1, max_batch_tokens // part.shape[1]))) for part in parts]
    climbs, together = _plan(model, len(layers), sum(part.numel() for part in parts))
    groups = [layers[first : first + together] for first in range(0, len(layers), together)]
    starts = [0, *(group[-1] + 1 for group in groups[:-1])] if climbs else [0] * len(groups)
    work = sum(group[-1] + 1 - start for group, start in zip(groups, starts, strict=True)) * sum(map(len, waiting))
    done = 0
    for group, start in zip(groups, starts, strict=True):
        hooks = {layer: f"blocks.{layer}.mlp.hook_post" for layer in group}
        sums = {layer: _Growing(model) for layer in group}
        for index, chunks in enumerate(waiting):
            for place, chunk in enumerate(chunks):
                after, seen = run_rows(model, chunk, start=start, stop=group[-1] + 1, record=list(hooks.values()))
                for layer, hook in hooks.items():
                    sums[layer].add(seen[hook], index % 2)
                if climbs:
                    chunks[place] = after
                done += group[-1] + 1 - start
                beat(done / work)
            for layer in group:
                sums[layer].part_ends(index % 2, parts[index].numel())
        for layer in group:
            yield layer, sums.pop(layer).whole(layer)


def _plan(model: HookedTransformer, n_layers: int, n_tokens: int) -> tuple[bool, int]:
    """Whether the residual stream waits between layers, and how many layers are summed at once."""
    free, cfg = free_bytes(model.W_E.device), model.cfg
    assert cfg.d_mlp is not None
    if free is None or n_tokens * cfg.d_model * model.W_E.element_size() <= STREAM_SHARE * free:
        return n_layers > 1, 1
    return False, max(1, int(SUMS_SHARE * free / (20 * cfg.d_mlp**2)))


class _Growing:
    """The sums of a layer while they grow: a few thousand tokens in float32, all of them in float64."""

    def __init__(self, model: HookedTransformer) -> None:
        device, d_mlp = model.W_E.device, model.cfg.d_mlp
        assert d_mlp is not None
        # sums of thousands of products: float64 where the device has it
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.products = torch.zeros(2, d_mlp, d_mlp, dtype=wide, device=device)
        self.fourth = torch.zeros(2, dtype=wide, device=device)
        self.counts = torch.zeros(2, dtype=torch.float64)
        self.recent = torch.zeros(d_mlp, d_mlp, device=device)

    def add(self, value: Float[Tensor, "row token d_mlp"], half: int) -> None:
        """What entered W_out in some rows."""
        keys = value.reshape(-1, value.shape[-1]).float()
        _add_gram(self.recent, keys)
        self.fourth[half] += keys.square().sum(-1).square().sum()

    def part_ends(self, half: int, n_tokens: int) -> None:
        """Half a batch has been added."""
        self.products[half] += self.recent
        self.recent.zero_()
        self.counts[half] += n_tokens

    def whole(self, layer: int) -> Sums:
        """The sums, both sides of the diagonal.

        Raises:
            NumericalError: If an activation was not finite.
        """
        for half_sum in self.products:
            half_sum.triu_()  # within a block on the diagonal, a matrix product need not be symmetric to the bit
            half_sum += half_sum.triu(1).T
        if not torch.isfinite(self.products.sum()):  # any NaN or infinity survives a sum
            raise NumericalError(f"the activations that enter W_out of layer {layer} are not finite")
        return Sums(self.products, self.fourth, self.counts)


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
