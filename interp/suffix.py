"""Rows whose beginnings cannot change any more: only their suffixes go up the network, in one batch.

An intervention at token s_r of row r above block l leaves alone everything before s_r and everything below block
l. So a method that asks the same rows again and again (the optimisation of a target value) runs the whole rows
once, keeps

- the residual stream that enters block l, from s_r on (padded on the right; causal attention never reads that), and
- keys and values of the tokens before s_r in the blocks from l on (padded on the left, with a mask; the rotary
  angles follow the mask),

and each time runs the suffixes alone through the blocks from l on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.sweep import frozen_cache

__all__ = ["Suffixes", "padded", "run_rows", "suffixes"]


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
        self, model: HookedTransformer, resid: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """The residual stream after the last block if ``resid`` enters block ``layer``. Differentiable."""
        n_layers, n_prefix = model.cfg.n_layers, self.present.shape[1]
        if self.layer == n_layers:
            return resid
        cache, mask = None, None
        if n_prefix:
            cache = frozen_cache(model, self.prefix, self.present)
            here = torch.ones(resid.shape[:2], dtype=self.present.dtype, device=resid.device)
            mask = torch.cat([self.present, here], 1)
        return model(resid, start_at_layer=self.layer, stop_at_layer=n_layers, past_kv_cache=cache, attention_mask=mask)


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


def run_rows(
    model: HookedTransformer,
    x: Tensor,
    *,
    start: int = 0,
    stop: int,
    record: Sequence[str] = (),
    hooks: Sequence[Any] = (),
) -> tuple[Float[Tensor, "row token d_model"], dict[str, Tensor]]:
    """Run some blocks on whole rows that are padded on the right, without gradients.

    Args:
        model: The model.
        x: Token ids (``start`` is 0), or the residual stream that enters block ``start``.
        start: The first block.
        stop: The block before which to stop.
        record: Names of hooks to read.
        hooks: Interventions, as HookedTransformer takes them.

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
) -> Suffixes:
    """Cut rows at their starts.

    Args:
        model: The model.
        entering: The residual stream of whole rows before block ``layer``, padded on the right.
        starts: The first token of each row that may change.
        layer: The first block that may see a change.
        lengths: Tokens of each row without its padding; what is padded in all suffixes is left out.
    """
    n_prefix, n_layers = max(starts), model.cfg.n_layers
    first = torch.tensor(starts, device=entering.device)
    prefix: dict[int, tuple[Tensor, Tensor]] = {}
    reach = torch.arange(n_prefix, device=entering.device)[None] - (n_prefix - first)[:, None]
    present = (reach >= 0).long()
    if n_prefix and layer < n_layers:
        names = [f"blocks.{i}.attn.hook_{kind}" for i in range(layer, n_layers) for kind in "kv"]
        _, seen = run_rows(model, entering[:, :n_prefix], start=layer, stop=n_layers, record=names)
        index = reach.clamp(min=0)[:, :, None, None]

        def moved(states: Tensor) -> Tensor:
            return states.gather(1, index.expand(-1, -1, *states.shape[2:]))

        for block in range(layer, n_layers):
            keys, values = (seen[f"blocks.{block}.attn.hook_{kind}"] for kind in "kv")
            prefix[block] = (moved(keys), moved(values))
    ends = lengths or [entering.shape[1]] * len(starts)
    length = max(end - start for start, end in zip(starts, ends, strict=True))
    onward = (first[:, None] + torch.arange(length, device=entering.device)[None]).clamp(max=entering.shape[1] - 1)
    resid = entering.gather(1, onward[:, :, None].expand(-1, -1, entering.shape[-1]))
    return Suffixes(layer=layer, resid=resid, prefix=prefix, present=present)
