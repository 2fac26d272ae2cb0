"""Rows whose beginnings cannot change any more: only their suffixes go up the network, in one batch.

An intervention at token s_r of row r above block l leaves alone everything before s_r and everything below block
l. So a method that asks the same rows again and again (the optimisation of a target value) runs the whole rows
once, keeps

- the residual stream that enters block l, from s_r on (padded on the right; causal attention never reads that), and
- keys and values of the tokens before s_r in the blocks from l on (padded on the left, with a mask; the rotary
  angles follow the mask),

and each time runs the suffixes alone through the blocks from l on; above the last attention only what is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.hook_points import HookPoint

from interp.engine.base_runs import check_decoder, frozen_cache, noting_cache
from interp.engine.forward import until_read

__all__ = ["Suffixes", "padded", "passes", "run_rows", "suffixes"]

PASS_TOKENS = 128
"""What one more pass costs on a CPU, in tokens (measured: it reads the weights again, and every call has its price). On
other devices the calls cost more than any padding, and all rows share one pass."""


@dataclass(frozen=True, kw_only=True)
class Suffixes:
    """Suffixes ready to go up the network from block ``layer``.

    Args:
        layer: The first block that runs on them.
        resid: The residual stream that enters it, from each row's own start on, padded on the right.
        prefix: Keys and values of the tokens before, per block from ``layer`` on, padded on the left.
        present: 1 where a row has a token, 0 at the padding on the left.
    """

    layer: int
    resid: Float[Tensor, "row token d_model"]
    prefix: dict[int, tuple[Tensor, Tensor]]
    present: Int[Tensor, "row prefix"]

    def rows(self, index: Int[Tensor, "kept"]) -> Suffixes:
        """Some of the rows."""
        return Suffixes(
            layer=self.layer,
            resid=self.resid[index],
            prefix={layer: (keys[index], values[index]) for layer, (keys, values) in self.prefix.items()},
            present=self.present[index],
        )

    def run(
        self,
        model: HookedTransformer,
        resid: Float[Tensor, "row token d_model"],
        row: Sequence[int],
        token: Sequence[int],
    ) -> Float[Tensor, "read d_model"]:
        """The residual stream after the last block if ``resid`` enters block ``layer``. Differentiable.

        Args:
            model: The model.
            resid: The residual stream of all rows, as long as :attr:`resid`.
            row, token: Which tokens to return: the row of each, and its place in the suffix.
        """
        n_layers, n_prefix = model.cfg.n_layers, self.present.shape[1]
        if self.layer == n_layers:
            return resid[row, token]
        cache, mask = None, None
        if n_prefix:
            cache = frozen_cache(model, self.prefix, self.present)
            here = torch.ones(resid.shape[:2], dtype=self.present.dtype, device=resid.device)
            mask = torch.cat([self.present, here], 1)
        taken: Any = until_read(model, lambda states: states[row, token][:, None])
        final = model.run_with_hooks(
            resid,
            start_at_layer=self.layer,
            stop_at_layer=n_layers,
            past_kv_cache=cache,
            attention_mask=mask,
            fwd_hooks=list(taken),
        )
        return final[:, 0] if taken else final[row, token]


def padded(
    rows: Sequence[Sequence[int]], device: torch.device | str, *, side: str = "right"
) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row token"]]:
    """Token ids as one tensor, and 1 where a row has a token.

    Args:
        rows: Token ids per row.
        device: Where to put it.
        side: Where short rows are filled up (with token 0).
    """
    length = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    present = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        tokens[index, where] = torch.tensor(row, dtype=torch.long)
        present[index, where] = 1
    return tokens.to(device), present.to(device)


def passes(lengths: Sequence[int], device: torch.device, limit: int | None = None) -> list[list[int]]:
    """Which rows to run together, so that padding and passes cost least.

    A pass costs its longest row for each of its rows, and :data:`PASS_TOKENS`.

    Args:
        lengths: Tokens of each row.
        device: Where they run.
        limit: The most tokens of a pass, padding included (one row at least); a larger one is cut.

    Returns:
        The rows of each pass, in their order; the shortest rows first.
    """
    found = _cheapest(lengths, device)
    if limit is None:
        return found
    return [part for members in found for part in _cut(members, lengths, limit)]


def _cut(members: list[int], lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """The rows of a pass, if it is larger than the limit in the fewest that are not."""
    longest = max(lengths[row] for row in members)
    size = max(1, limit // max(1, longest))
    if len(members) > size:
        members = sorted(members, key=lambda row: lengths[row])
    for first in range(0, len(members), size):
        yield sorted(members[first : first + size])


def _cheapest(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    if device.type != "cpu":
        return [list(range(len(lengths)))]
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    costs, begins = [0], [0]  # of the first n rows: the least cost, and where the last of their passes begins
    for n in range(1, len(order) + 1):
        longest = lengths[order[n - 1]]
        cost, begin = min((costs[first] + PASS_TOKENS + (n - first) * longest, first) for first in range(n))
        costs.append(cost)
        begins.append(begin)
    found: list[list[int]] = []
    n = len(order)
    while n:
        found.append(sorted(order[begins[n] : n]))
        n = begins[n]
    return found[::-1]


def run_rows(
    model: HookedTransformer,
    x: Tensor,
    *,
    start: int = 0,
    stop: int,
    record: Sequence[str] = (),
    hooks: Sequence[Any] = (),
    cache: TransformerLensKeyValueCache | None = None,
) -> tuple[Float[Tensor, "row token d_model"], dict[str, Tensor]]:
    """Run some blocks on whole rows that are padded on the right, without gradients.

    Args:
        model: The model.
        x: Token ids (``start`` is 0), or the residual stream that enters block ``start``.
        start: The first block.
        stop: The block before which to stop.
        record: Names of hooks to read.
        hooks: Interventions, as HookedTransformer takes them.
        cache: Notes what attention reads (:func:`interp.engine.base_runs.noting_cache`).

    Returns:
        The residual stream that enters block ``stop``, and what the hooks saw.
    """
    seen: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        seen[str(hook.name)] = value

    embedded = x.is_floating_point()
    if embedded and start == stop:
        return x, seen
    at: dict[str, Any] = {"start_at_layer": start} if embedded else {"prepend_bos": False}
    if cache is not None:
        at["past_kv_cache"] = cache
    with torch.no_grad():
        after = model.run_with_hooks(x, stop_at_layer=stop, fwd_hooks=[*hooks, *((n, keep) for n in record)], **at)
    return after, seen


def suffixes(
    model: HookedTransformer,
    entering: Float[Tensor, "row token d_model"],
    starts: Sequence[int],
    layer: int,
    *,
    lengths: Sequence[int] | None = None,
    max_batch_tokens: int | None = None,
) -> Suffixes:
    """Cut rows at their starts.

    Args:
        model: The model.
        entering: The residual stream of whole rows before block ``layer``, padded on the right.
        starts: The first token of each row that may change.
        layer: The first block that may see a change.
        lengths: Tokens of each row without its padding; what is padded in all suffixes is left out.
        max_batch_tokens: The most tokens before the starts that run at once; all of them if None.
    """
    n_prefix, n_layers = max(starts), model.cfg.n_layers
    first = torch.tensor(starts, device=entering.device)
    reach = torch.arange(n_prefix, device=entering.device)[None] - (n_prefix - first)[:, None]
    present = (reach >= 0).long()
    prefix = _prefix(model, entering, starts, layer, max_batch_tokens) if n_prefix and layer < n_layers else {}
    ends = lengths or [entering.shape[1]] * len(starts)
    length = max(end - start for start, end in zip(starts, ends, strict=True))
    onward = (first[:, None] + torch.arange(length, device=entering.device)[None]).clamp(max=entering.shape[1] - 1)
    resid = entering.gather(1, onward[:, :, None].expand(-1, -1, entering.shape[-1]))
    return Suffixes(layer=layer, resid=resid, prefix=prefix, present=present)


def _prefix(
    model: HookedTransformer,
    entering: Float[Tensor, "row token d_model"],
    starts: Sequence[int],
    layer: int,
    max_batch_tokens: int | None,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and values of the tokens before the starts in the blocks from ``layer`` on, padded on the left."""
    check_decoder(model)
    blocks, n_prefix = range(layer, model.cfg.n_layers), max(starts)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for members in passes(starts, entering.device, max_batch_tokens):
        longest = max(starts[row] for row in members)
        if not longest:
            continue
        cache, noted = noting_cache(model, len(members), blocks)
        # what comes out of the last block is not needed
        run_rows(
            model,
            entering[members, :longest],
            start=layer,
            stop=model.cfg.n_layers,
            hooks=until_read(model, lambda resid: resid[:, :1]),
            cache=cache,
        )
        first = torch.tensor([starts[row] for row in members], device=entering.device)
        reach = torch.arange(longest, device=entering.device)[None] - (longest - first)[:, None]
        index = reach.clamp(min=0)[:, :, None, None]
        for block in blocks:
            read = noted[block].read
            if block not in found:
                keys, values = (states.new_zeros(len(starts), n_prefix, *states.shape[2:]) for states in read)
                found[block] = (keys, values)
            for kept, states in zip(found[block], read, strict=True):
                kept[members, n_prefix - longest :] = states.gather(1, index.expand(-1, -1, *states.shape[2:]))
    return found
