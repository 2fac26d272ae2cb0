"""The engine: base runs, and one pass up the network in which rows join at their layer.

A restored (or scaled) run differs from a finished *base run* only at tokens >= t and above some block. So:

1. Run the base (the clean or the corrupted run) once; keep its residual stream before every block, and the
   keys and values of every block.
2. For a token t, take the suffix t.. only. The keys and values of the tokens before t come from the base run
   (a frozen ``past_kv_cache``).
3. Go up the network once. Before block l, append to the batch the rows that differ from the base from there on
   (a :class:`Join`); then run block l (``start_at_layer=l, stop_at_layer=l+1``) on everything that has joined.
4. After the attention of the last block only the tokens that are read go on (:func:`until_read`); unembed those.

One block call per (token, layer) instead of one forward pass per cell, large matrix products, and no arithmetic
that the answer does not depend on: for T tokens and L layers about T*L/4 block rows of full length instead of
T*L*L. While rows are on their way, a :class:`Pin` can hold an attention or MLP output at a token of the
suffix (windows, severing). Everything goes through HookedTransformer, so any hooked family works.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry
from transformer_lens.hook_points import HookPoint

from interp.errors import NumericalError, OptionError

__all__ = [
    "BaseRun",
    "Hook",
    "Join",
    "Pin",
    "Place",
    "Site",
    "base_run",
    "check_finite",
    "enter_block",
    "frozen_cache",
    "groups",
    "halving",
    "sweep",
    "unembed",
    "until_read",
]

logger = logging.getLogger(__name__)

Site = Literal["attn_out", "mlp_out"]
Place = Literal["attn_out", "mlp_out", "resid_post"]
Hook = tuple[str, Callable[[Tensor, HookPoint], Tensor | None]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BaseRun:
    """A finished run that others join.

    Args:
        resid: The residual stream before each block; the last entry is what the final norm reads.
        keys: Per block, before any rotation (the cache of HookedTransformer holds them so).
        values: Per block.
        attn_out: Attention outputs, if asked for.
        mlp_out: MLP outputs, if asked for.
    """

    resid: Float[Tensor, "boundary sample token d_model"]
    keys: tuple[Float[Tensor, "sample token kv_head d_head"], ...]
    values: tuple[Float[Tensor, "sample token kv_head d_head"], ...]
    attn_out: Float[Tensor, "layer sample token d_model"] | None = None
    mlp_out: Float[Tensor, "layer sample token d_model"] | None = None

    def rows(self, index: slice) -> BaseRun:
        """The same run for some of its samples."""
        return BaseRun(
            resid=self.resid[:, index],
            keys=tuple(k[index] for k in self.keys),
            values=tuple(v[index] for v in self.values),
            attn_out=None if self.attn_out is None else self.attn_out[:, index],
            mlp_out=None if self.mlp_out is None else self.mlp_out[:, index],
        )

    def output(self, site: Site) -> Float[Tensor, "layer sample token d_model"]:
        """The recorded outputs of one kind of sublayer."""
        recorded = self.attn_out if site == "attn_out" else self.mlp_out
        if recorded is None:
            raise OptionError(f"the base run did not record {site}")
        return recorded


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Holds a sublayer's output, or the residual stream after a block, at one token while the rows pass some blocks.

    Args:
        site: What is held.
        layers: The blocks in which it holds.
        values: What it is set to, per block of ``layers`` and row (or for all rows alike).
        token: Counted from the first token of the suffix.
    """

    site: Place
    layers: range
    values: Float[Tensor, "layer #row d_model"]
    token: int = 0


@dataclass(frozen=True, kw_only=True)
class Join:
    """Rows that enter the pass before block ``layer`` (``n_layers``: straight at the unembedding).

    Args:
        layer: The first block that runs on them.
        resid: Their residual stream before that block, from the suffix's first token on.
        samples: Which sample of the base run each row continues.
        pins: What is held on their way up.
    """

    layer: int
    resid: Float[Tensor, "row token d_model"]
    samples: Int[Tensor, "row"]
    pins: tuple[Pin, ...] = ()


def base_run(
    model: HookedTransformer,
    tokens: Int[Tensor, "sample token"],
    *,
    hooks: Sequence[Hook] = (),
    record: Sequence[Site] = (),
) -> BaseRun:
    """Run whole prompts once and keep what other runs join to.

    Args:
        model: Any HookedTransformer decoder.
        tokens: One row per sample.
        hooks: Interventions during this run (noise on embeddings, say).
        record: Which sublayer outputs to keep as well.
    """
    n_layers = model.cfg.n_layers
    kept = {f"blocks.{i}.hook_{site}" for i in range(n_layers) for site in record}
    for layer in range(n_layers):
        kept |= {f"blocks.{layer}.{name}" for name in ("hook_resid_pre", "attn.hook_k", "attn.hook_v")}
    stored: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        stored[str(hook.name)] = value

    with torch.no_grad():
        final = model.run_with_hooks(
            tokens,
            prepend_bos=False,
            stop_at_layer=n_layers,
            fwd_hooks=[*hooks, *((name, keep) for name in sorted(kept))],
        )
    at = [f"blocks.{layer}." for layer in range(n_layers)]
    outputs = {site: torch.stack([stored[f"{block}hook_{site}"] for block in at]) for site in record}
    return BaseRun(
        resid=torch.stack([*(stored[f"{block}hook_resid_pre"] for block in at), final]),
        keys=tuple(stored[f"{block}attn.hook_k"] for block in at),
        values=tuple(stored[f"{block}attn.hook_v"] for block in at),
        **outputs,
    )


def sweep(
    model: HookedTransformer, base: BaseRun, start: int, joins: Sequence[Join], read: Sequence[int]
) -> Float[Tensor, "row read d_model"]:
    """One pass up the network over the tokens ``start``.. in which rows join at their layer.

    Differentiable with respect to the joins' residual streams.

    Args:
        model: The model of the base run.
        base: The run whose keys and values stand for the tokens before ``start``.
        start: First token of the suffix.
        joins: The rows; they need not be sorted.
        read: Which tokens to return, counted from the first token of the suffix.

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
        n_rows += len(join.resid)
    samples = torch.cat([join.samples for join in waiting])

    n_joined = 0
    x: Tensor | None = None
    for layer in range(waiting[0].layer, n_layers + 1):
        arriving = []
        while n_joined < len(waiting) and waiting[n_joined].layer == layer:
            resid = waiting[n_joined].resid
            arriving.append(resid if layer < n_layers else resid[:, read])
            n_joined += 1
        if arriving:
            x = torch.cat([*([] if x is None else [x]), *arriving])
        if layer == n_layers:
            break
        if x is not None:
            pins = [
                (pin, slice(first, first + len(join.resid)))
                for join, first in zip(waiting[:n_joined], first_row, strict=False)
                for pin in join.pins
                if layer in pin.layers
            ]
            x = _run_block(model, base, start, layer, x, samples[: len(x)], pins, read)
    assert x is not None
    blocks = [x[first : first + len(join.resid)] for first, join in zip(first_row, waiting, strict=True)]
    return torch.cat([blocks[order.index(i)] for i in range(len(joins))])


def enter_block(
    model: HookedTransformer,
    base: BaseRun,
    layer: int,
    tokens: slice,
    *,
    attn_out: Float[Tensor, "sample token d_model"],
    mlp_out: Float[Tensor, "sample token d_model"] | None = None,
) -> Float[Tensor, "sample token d_model"]:
    """The residual stream after block ``layer`` if each of some tokens, by itself, had other sublayer outputs there.

    What is restored inside a block changes that block's output at its own token alone; with the attention output
    given, no token reads another, so all tokens go through the block at once, as rows of one token.

    Args:
        model: The model of the base run.
        base: The run whose residual stream enters the block.
        layer: The block.
        tokens: Which tokens.
        attn_out: The attention output at each.
        mlp_out: The MLP output at each; what the block computes if None.
    """
    x = base.resid[layer, :, tokens]

    def put(output: Tensor, hook: HookPoint, *, value: Tensor) -> Tensor:
        return value.expand(x.shape).reshape(output.shape)

    hooks: list[Any] = [(f"blocks.{layer}.hook_attn_out", partial(put, value=attn_out))]
    if mlp_out is not None:
        hooks.append((f"blocks.{layer}.hook_mlp_out", partial(put, value=mlp_out)))
    rows = x.reshape(-1, 1, x.shape[-1])
    after = model.run_with_hooks(rows, start_at_layer=layer, stop_at_layer=layer + 1, fwd_hooks=hooks)
    return after.reshape(x.shape)


def until_read(model: HookedTransformer, take: Callable[[Tensor], Tensor]) -> tuple[Hook, ...]:
    """Lets only what is read go on after the attention of the last block: no token reads another above it.

    Args:
        model: The model. Where a block's MLP runs beside its attention there is nothing to save, and no hook.
        take: Picks tokens (and rows) out of a residual stream.
    """
    name = f"blocks.{model.cfg.n_layers - 1}.hook_resid_mid"

    def hook(resid: Tensor, hook: HookPoint) -> Tensor:
        return take(resid)

    return ((name, hook),) if name in model.hook_dict else ()


def unembed(model: HookedTransformer, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """Logits of final residual streams: the last norm and the unembedding, nothing else.

    Raises:
        NumericalError: If a logit is NaN or infinite.
    """
    flat = resid.reshape(-1, 1, resid.shape[-1])
    logits = model(flat, start_at_layer=model.cfg.n_layers)
    check_finite(logits)
    return logits.reshape(*resid.shape[:-1], -1)


def frozen_cache(
    model: HookedTransformer,
    prefix: Mapping[int, tuple[Tensor, Tensor]],
    present: Int[Tensor, "row prefix"],
) -> TransformerLensKeyValueCache:
    """What HookedTransformer attends to before the tokens that it is given, left as it is by the run.

    Args:
        model: The model.
        prefix: Keys (before any rotation) and values per block; only these blocks may run.
        present: 1 where a row has a token, 0 where it is padded.
    """
    entries = {
        layer: TransformerLensKeyValueCacheEntry(past_keys=keys, past_values=values, frozen=True)
        for layer, (keys, values) in prefix.items()
    }
    some = next(iter(entries.values()))
    return TransformerLensKeyValueCache(
        entries=[entries.get(layer, some) for layer in range(model.cfg.n_layers)],
        previous_attention_mask=present,
        frozen=True,
    )


def check_finite(logits: Float[Tensor, "*batch d_vocab"]) -> None:
    """Refuse to go on with numbers that mean nothing.

    Raises:
        NumericalError: If a logit is NaN or infinite.
    """
    if torch.isfinite(logits.detach().sum()):  # one pass; any NaN or infinity survives a sum
        return
    bad = int((~torch.isfinite(logits)).sum())
    if bad:
        raise NumericalError(
            f"{bad} of {logits.numel()} logits are NaN or infinite: the weights are damaged, or {logits.dtype}"
            " is too narrow for this model (try float32)"
        )


def groups(joins: Sequence[T], rows: Sequence[int], length: int, max_batch_tokens: int) -> Iterator[list[T]]:
    """Cut joins into consecutive groups of at most ``max_batch_tokens`` tokens (at least one join each).

    Args:
        joins: Anything, in the order in which it joins.
        rows: How many rows each of them has.
        length: Tokens per row.
        max_batch_tokens: The most tokens that a block may be run on at once.

    Raises:
        OptionError: If ``max_batch_tokens`` is not positive.
    """
    if max_batch_tokens < 1:
        raise OptionError(f"max_batch_tokens must be positive, got {max_batch_tokens}")
    group: list[T] = []
    size = 0
    for join, count in zip(joins, rows, strict=True):
        if group and size + count * length > max_batch_tokens:
            yield group
            group, size = [], 0
        group.append(join)
        size += count * length
    if group:
        yield group


def halving(work: Callable[[int], T], max_batch_tokens: int) -> T:
    """Do some work with a batch limit; when memory runs out, halve the limit, say so and try again.

    Raises:
        torch.OutOfMemoryError, RuntimeError: If even a limit of one token does not fit.
    """
    while True:
        try:
            return work(max_batch_tokens)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU allocator raises a plain one
            if max_batch_tokens <= 1 or not _is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        max_batch_tokens //= 2
        logger.warning("out of memory: going on with max_batch_tokens=%d", max_batch_tokens)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _run_block(
    model: HookedTransformer,
    base: BaseRun,
    start: int,
    layer: int,
    x: Float[Tensor, "row token d_model"],
    samples: Int[Tensor, "row"],
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
            (rows, there.index(pin.token), pin.values[layer - pin.layers.start])
            for pin, rows in pins
            if pin.site == site and pin.token in there
        ]
        if here:
            hooks.append((f"blocks.{layer}.hook_{site}", partial(_hold, held=here)))
    cache = _frozen_prefix(model, base, start, layer, samples) if start > 0 else None
    x = model.run_with_hooks(x, start_at_layer=layer, stop_at_layer=layer + 1, past_kv_cache=cache, fwd_hooks=hooks)
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


def _frozen_prefix(
    model: HookedTransformer, base: BaseRun, start: int, layer: int, samples: Int[Tensor, "row"]
) -> TransformerLensKeyValueCache:
    """The base run's keys and values of the tokens before ``start`` in one block."""
    one_sample = base.keys[layer].shape[0] == 1

    def prefix(states: Tensor) -> Tensor:
        states = states[:, :start]
        return states.expand(len(samples), -1, -1, -1) if one_sample else states[samples]

    present = torch.ones(len(samples), start, dtype=torch.int, device=samples.device)
    return frozen_cache(model, {layer: (prefix(base.keys[layer]), prefix(base.values[layer]))}, present)
