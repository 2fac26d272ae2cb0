"""Every restored run of a trace: one sweep per token, in which each cell's rows join at their layer.

The arithmetic of :mod:`interp.locate.methods.causal_trace`. A join is cut over its samples where the batch limit asks
for it, and made only when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from interp.engine.batches import batch_cost, groups
from interp.engine.cells import SITES, State, window_layers
from interp.engine.forward import unembed
from interp.engine.pairs import RunPair
from interp.engine.sweep import Join, Pin, sweep
from interp.options import Progress

__all__ = ["Restored", "restored_scores"]

_READOUT_ROWS = 512  # rows of logits held at once


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What every cell of a trace puts back, and what is held meanwhile.

    Args:
        state: The residual stream after one block, or the MLP or attention outputs of ``window`` blocks.
        window: Number of blocks; not used for ``resid``.
        sever: The sublayer whose outputs are held to their corrupted values at the restored token.
    """

    state: State
    window: int
    sever: Literal["mlp", "attn"] | None


def restored_scores(
    pair: RunPair,
    restored: Restored,
    read: Callable[[Tensor], Tensor],
    max_batch_tokens: int,
    progress: Progress,
    arrived: Callable[[Tensor], None],
) -> Float[Tensor, "token layer sample"]:
    """What ``read`` reads off every restored run: one sweep per token from the last one back to the subject.

    The last tokens come first because their suffixes are short: something is there at once.
    """
    n_layers, n_tokens = pair.model.cfg.n_layers, len(pair.tokenized.ids)
    first = pair.tokenized.subject_span[0]
    corrupted = read(pair.base_logits)
    scores = corrupted.expand(n_tokens, n_layers, -1).clone()
    scores[first:] = torch.nan
    # a cell costs as much as the tokens that run for it
    total = sum(n_tokens - token for token in range(first, n_tokens)) * n_layers
    before = 0
    with torch.no_grad():
        entered = _entered(pair, restored, max_batch_tokens)
    for token in reversed(range(first, n_tokens)):
        after_entry = {layer: after[:, token - first] for layer, after in entered.items()}
        runs = _restored_runs(pair, restored, token, after_entry)
        length = n_tokens - token
        values = corrupted.expand(n_layers, -1).clone()
        n_cells = 0.0
        for group in _together(runs, len(corrupted), batch_cost(length, n_tokens), max_batch_tokens):
            for (run, part), reading in zip(group, _read_off(pair, token, group, read), strict=True):
                values[list(run.layers), part] = reading
                n_cells += len(run.layers) * len(reading) / len(corrupted)
            progress(before + round(n_cells * length), total)
        scores[token] = values
        before += n_layers * length
        progress(before, total)
        arrived(scores)
    return scores


def _together(
    runs: Sequence[_RestoredRun], n_samples: int, cost: int, max_batch_tokens: int
) -> Iterator[list[tuple[_RestoredRun, slice]]]:
    """Restored runs that go up the network together, each with the samples it is run for."""
    pieces = [(run, part) for run in runs for part in _parts(n_samples, cost, max_batch_tokens)]
    yield from groups(pieces, [part.stop - part.start for _, part in pieces], cost, max_batch_tokens)


def _parts(n_samples: int, cost: int, max_batch_tokens: int) -> list[slice]:
    """The samples, all together if the batch limit allows it."""
    size = max(1, max_batch_tokens // cost)
    return [slice(first, min(first + size, n_samples)) for first in range(0, n_samples, size)]


def _read_off(
    pair: RunPair, token: int, group: Sequence[tuple[_RestoredRun, slice]], read: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "sample"], ...]:
    """One sweep: what is read off each run of a group, for its samples."""
    last = len(pair.tokenized.ids) - 1 - token
    with torch.no_grad():
        final = sweep(pair.model, pair.base, token, [run.join(part) for run, part in group], [last])[:, 0]
        rows = torch.cat([read(unembed(pair.model, part)) for part in final.split(_READOUT_ROWS)])
    return rows.split([part.stop - part.start for _, part in group])


def _entered(
    pair: RunPair, restored: Restored, max_batch_tokens: int
) -> dict[int, Float[Tensor, "sample token d_model"]]:
    """What restored windows make of the tokens from the subject on in the first block of each window, by block."""
    if restored.state == "resid":
        return {}
    base, site = pair.base, SITES[restored.state]
    tokens = slice(pair.tokenized.subject_span[0], None)
    after = {}
    for layer in sorted({blocks.start for blocks in _windows(pair, restored)}):
        put_back = pair.source.output(site)[layer, :, tokens]
        after[layer] = _enter_block(
            pair,
            layer,
            tokens,
            attn_out=put_back if site == "attn_out" else base.output("attn_out")[layer, :, tokens],
            # a restored attention output changes what the MLP reads, unless the MLP is severed from it
            mlp_out=put_back
            if site == "mlp_out"
            else base.output("mlp_out")[layer, :, tokens]
            if restored.sever == "mlp"
            else None,
            max_batch_tokens=max_batch_tokens,
        )
    return after


def _enter_block(
    pair: RunPair,
    layer: int,
    tokens: slice,
    *,
    attn_out: Float[Tensor, "#sample token d_model"],
    mlp_out: Float[Tensor, "#sample token d_model"] | None,
    max_batch_tokens: int,
) -> Float[Tensor, "sample token d_model"]:
    """The corrupted runs after block ``layer`` if each of some tokens, by itself, had other sublayer outputs there.

    What is restored inside a block changes that block's output at its own token alone; with the attention output
    given, no token reads another, so all tokens go through the block at once, as rows of one token.

    Args:
        pair: The runs.
        layer: The block.
        tokens: Which tokens.
        attn_out: The attention output at each.
        mlp_out: The MLP output at each; what the block computes if None.
        max_batch_tokens: The most tokens at once.
    """
    x = pair.base.resid[layer, :, tokens]

    def rows(of: Tensor) -> Tensor:
        return of.expand(x.shape).reshape(-1, 1, x.shape[-1])

    def put(output: Tensor, hook: HookPoint, *, value: Tensor) -> Tensor:
        return value.reshape(output.shape)

    entering, put_in = rows(x), {"attn_out": rows(attn_out)}
    if mlp_out is not None:
        put_in["mlp_out"] = rows(mlp_out)
    after = []
    for first in range(0, len(entering), max_batch_tokens):
        part = slice(first, first + max_batch_tokens)
        hooks: list[Any] = [
            (f"blocks.{layer}.hook_{site}", partial(put, value=value[part])) for site, value in put_in.items()
        ]
        after.append(
            pair.model.run_with_hooks(entering[part], start_at_layer=layer, stop_at_layer=layer + 1, fwd_hooks=hooks)
        )
    return torch.cat(after).reshape(x.shape)


def _windows(pair: RunPair, restored: Restored) -> dict[range, list[int]]:
    """The layers of each distinct window; near the ends, neighbouring windows can be the same."""
    n_layers = pair.model.cfg.n_layers
    layers_of: dict[range, list[int]] = {}
    for layer in range(n_layers):
        layers_of.setdefault(window_layers(layer, restored.window, n_layers), []).append(layer)
    return layers_of


@dataclass(frozen=True, kw_only=True)
class _RestoredRun:
    """One restored run of one token: the layers whose cells it is, and what makes its rows join.

    Args:
        layers: The layers.
        layer: The first block that runs on it.
        join: Its rows for some of the samples; made when they are needed, for all of them would take the memory of the
            base run once more.
    """

    layers: tuple[int, ...]
    layer: int
    join: Callable[[slice], Join]


def _restored_runs(
    pair: RunPair, restored: Restored, token: int, after_entry: dict[int, Float[Tensor, "sample d_model"]]
) -> list[_RestoredRun]:
    """The distinct restored runs of one token that its answer depends on, lowest first."""
    clean, base, n_layers = pair.source, pair.base, pair.model.cfg.n_layers
    samples = torch.arange(base.resid.shape[1], device=base.resid.device)

    def join(layer: int, at_token: Tensor, put_back: tuple[Pin, ...], part: slice) -> Join:
        resid = base.resid[layer, part, token:].clone()
        resid[:, 0] = at_token.expand(len(samples), -1)[part]
        held: tuple[Pin, ...] = ()
        if restored.sever is not None:
            site = SITES[restored.sever]
            held = (Pin(site=site, layers=range(n_layers), values=base.output(site)[:, part, token]),)
        return Join(layer=layer, resid=resid, samples=samples[part], pins=(*held, *put_back))

    def run(layers: Sequence[int], layer: int, at_token: Tensor, *put_back: Pin) -> _RestoredRun:
        return _RestoredRun(layers=tuple(layers), layer=layer, join=partial(join, layer, at_token, put_back))

    if restored.state == "resid":
        found = [run([layer], layer + 1, clean.resid[layer + 1, :, token]) for layer in range(n_layers)]
    else:
        site, found = SITES[restored.state], []
        for blocks, layers in _windows(pair, restored).items():
            pin = Pin(site=site, layers=blocks, values=clean.output(site)[blocks.start : blocks.stop, :, token])
            found.append(run(layers, blocks.start + 1, after_entry[blocks.start], pin))
    if token == len(pair.tokenized.ids) - 1:
        return found
    return [each for each in found if each.layer < n_layers]  # after the last block only the last token is read
