"""The engine: base runs, and one pass up the network in which rows join at their layer.

A restored (or scaled) run differs from a finished *base run* only at tokens >= t and above some block. So:

1. Run the base (the clean or the corrupted run) once; keep its residual stream before every block, and the
   keys and values of every block.
2. For a token t, take the suffix t.. only. The keys and values of the tokens before t come from the base run
   (a frozen ``past_kv_cache``).
3. Go up the network once. Before block l, append to the batch the rows that differ from the base from there on
   (a :class:`Join`); then run block l (``start_at_layer=l, stop_at_layer=l+1``) on everything that has joined.
4. After the attention of the last block only the tokens that are read go on
   (:func:`interp.engine.forward.until_read`); unembed those.

One block call per (token, layer) instead of one forward pass per cell, large matrix products, and no arithmetic
that the answer does not depend on: for T tokens and L layers about T*L/4 block rows of full length instead of
T*L*L. While rows are on their way, a :class:`Pin` can hold an attention or MLP output at a token of the
suffix (windows, severing). Everything goes through HookedTransformer, so any hooked family works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.engine.base_runs import BaseRun, frozen_cache
from interp.engine.forward import until_read

__all__ = ["Join", "Pin", "Place", "sweep"]

Place = Literal["attn_out", "mlp_out", "resid_post"]


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Holds a sublayer's output, or the residual stream after a block, at one token while the rows pass some blocks.

    Args:
        site: What is held.
        layers: The blocks in which it holds.
        values: What it is set to, per block of ``layers`` and row (or for all rows alike).
        token: Counted from the first token of the suffix.
        of_row: For each row of the join, which of the values' rows it is; None if they are the same rows.
    """

    site: Place
    layers: range
    values: Float[Tensor, "layer #some_row d_model"]
    token: int = 0
    of_row: Int[Tensor, "row"] | None = None

    def at(self, layer: int) -> Float[Tensor, "#row d_model"]:
        """What it is set to in one block."""
        values = self.values[layer - self.layers.start]
        return values if self.of_row is None else values[self.of_row]


@dataclass(frozen=True, kw_only=True)
class Join:
    """Rows that enter the pass before block ``layer`` (``n_layers``: straight at the unembedding).

    Args:
        layer: The first block that runs on them.
        resid: Their residual stream before that block, from the suffix's first token on; None if they part from others.
        samples: Which sample of the base run each row continues.
        pins: What is held on their way up.
        parts_from: Which join's rows they are until that block, where they part from them; that join's block is lower.
    """

    layer: int
    resid: Float[Tensor, "row token d_model"] | None
    samples: Int[Tensor, "row"]
    pins: tuple[Pin, ...] = ()
    parts_from: int | None = None


def sweep(
    model: HookedTransformer,
    base: BaseRun,
    start: int,
    joins: Sequence[Join],
    read: Sequence[int],
    *,
    entering: dict[int, Tensor] | None = None,
) -> Float[Tensor, "row read d_model"]:
    """One pass up the network over the tokens ``start``.. in which rows join at their layer.

    Differentiable with respect to the joins' residual streams.

    Args:
        model: The model of the base run.
        base: The run whose keys and values stand for the tokens before ``start``. Its samples may be of several
            prompts, the short ones padded on the left, so that all end together.
        start: First token of the suffix; padding of no sample that is continued.
        joins: The rows; they need not be sorted.
        read: Which tokens to return, counted from the first token of the suffix.
        entering: Is given what enters each block, and (of the tokens that are read) the unembedding, rows in the order
            in which they joined.

    Returns:
        The residual stream after the last block, rows in the order of ``joins``.
    """
    n_layers, read = model.cfg.n_layers, list(read)
    order = sorted(range(len(joins)), key=lambda i: joins[i].layer)
    waiting = [joins[i] for i in order]
    first_row: list[int] = []
    n_rows = 0
    for join in waiting:
        first_row.append(n_rows)
        n_rows += len(join.samples)
    prefix = _Prefix.of(base, start, torch.cat([join.samples for join in waiting]))

    n_joined = 0
    x: Tensor | None = None
    for layer in range(waiting[0].layer, n_layers + 1):
        arriving = []
        while n_joined < len(waiting) and waiting[n_joined].layer == layer:
            join = waiting[n_joined]
            if join.resid is None:
                assert x is not None
                assert join.parts_from is not None
                first = first_row[order.index(join.parts_from)]
                arriving.append(x[first : first + len(join.samples)])
            else:
                arriving.append(join.resid if layer < n_layers else join.resid[:, read])
            n_joined += 1
        if arriving:
            x = torch.cat([*([] if x is None else [x]), *arriving])
        if entering is not None and x is not None:
            entering[layer] = x
        if layer == n_layers:
            break
        if x is not None:
            pins = [
                (pin, slice(first, first + len(join.samples)))
                for join, first in zip(waiting[:n_joined], first_row, strict=False)
                for pin in join.pins
                if layer in pin.layers
            ]
            x = _run_block(model, prefix, layer, x, pins, read)
    assert x is not None
    blocks = [x[first : first + len(join.samples)] for first, join in zip(first_row, waiting, strict=True)]
    return torch.cat([blocks[order.index(i)] for i in range(len(joins))])


def _run_block(
    model: HookedTransformer,
    prefix: _Prefix,
    layer: int,
    x: Float[Tensor, "row token d_model"],
    pins: Sequence[tuple[Pin, slice]],
    read: list[int],
) -> Float[Tensor, "row token_or_read d_model"]:
    tokens = list(range(x.shape[1]))
    taken = (
        until_read(model, lambda resid: resid[:, read]) if layer == model.cfg.n_layers - 1 and read != tokens else ()
    )
    hooks: list[Any] = list(taken)
    for site in get_args(Place):
        there = read if taken and site != "attn_out" else tokens
        here = [
            (rows, there.index(pin.token), pin.at(layer))
            for pin, rows in pins
            if pin.site == site and pin.token in there
        ]
        if here:
            hooks.append((f"blocks.{layer}.hook_{site}", partial(_hold, held=here)))
    x = model.run_with_hooks(
        x, start_at_layer=layer, stop_at_layer=layer + 1, fwd_hooks=hooks, **prefix.attended(model, layer, x)
    )
    return x if taken or layer < model.cfg.n_layers - 1 else x[:, read]


def _hold(
    output: Float[Tensor, "row token d_model"],
    hook: HookPoint,
    *,
    held: Sequence[tuple[slice, int, Float[Tensor, "_ d_model"]]],
) -> Float[Tensor, "row token d_model"]:
    output = output.clone()
    for rows, token, value in held:
        output[rows, token] = value
    return output


@dataclass(frozen=True, kw_only=True)
class _Prefix:
    """What rows attend to before their suffix: tokens of the base run.

    Args:
        base: The base run.
        tokens: Which of its tokens: those before the suffix, from the first that is any row's own.
        samples: Which of its samples each row continues.
        present: 1 where a row has a token, 0 where it is padded; None where none is.
    """

    base: BaseRun
    tokens: slice
    samples: Int[Tensor, "row"]
    present: Int[Tensor, "row prefix"] | None

    @classmethod
    def of(cls, base: BaseRun, start: int, samples: Int[Tensor, "row"]) -> _Prefix:
        """The prefix of rows whose suffixes begin at ``start``."""
        if base.begins is None:
            return cls(base=base, tokens=slice(0, start), samples=samples, present=None)
        begins = torch.tensor(base.begins, device=samples.device)[samples]
        first, last = (int(bound) for bound in begins.aminmax())
        present = torch.arange(first, start, device=samples.device) >= begins[:, None]
        return cls(
            base=base, tokens=slice(first, start), samples=samples, present=present.int() if first < last else None
        )

    def attended(self, model: HookedTransformer, layer: int, x: Float[Tensor, "row token d_model"]) -> dict[str, Any]:
        """The keys and values that those of the rows that have joined attend to in one block, and where they have any.

        Returns:
            As HookedTransformer takes them.
        """
        n_prefix = self.tokens.stop - self.tokens.start
        if not n_prefix:
            return {}
        samples = self.samples[: len(x)]
        one_sample = self.base.keys[layer].shape[0] == 1

        def prefix(states: Tensor) -> Tensor:
            states = states[:, self.tokens]
            return states.expand(len(samples), -1, -1, -1) if one_sample else states[samples]

        keys_and_values = prefix(self.base.keys[layer]), prefix(self.base.values[layer])
        if self.present is None:
            present = torch.ones(len(samples), n_prefix, dtype=torch.int, device=samples.device)
            return {"past_kv_cache": frozen_cache(model, {layer: keys_and_values}, present)}
        present = self.present[: len(x)]
        cache = frozen_cache(model, {layer: keys_and_values}, present)
        return {"past_kv_cache": cache, "attention_mask": torch.cat([present, present.new_ones(x.shape[:2])], 1)}
