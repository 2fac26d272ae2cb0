"""Every restored run of a trace: one sweep per token, in which each cell's rows join at their layer.

The arithmetic of :mod:`interp.locate.methods.causal_trace`. A join is cut over its samples where the batch limit asks
for it, and made only when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.base_runs import BaseRun
from interp.engine.batches import batch_cost, groups
from interp.engine.cells import SITES, State, window_layers
from interp.engine.pairs import RunPair
from interp.engine.sweep import Join, Pin, enter_block, sweep, unembed
from interp.options import Progress

__all__ = ["restored_scores"]

_READOUT_ROWS = 512  # rows of logits held at once


def restored_scores(
    pair: RunPair,
    state: State,
    window: int,
    sever: str | None,
    read: Callable[[Tensor], Tensor],
    corrupted: Float[Tensor, "sample"],
    max_batch_tokens: int,
    progress: Progress,
    arrived: Callable[[Tensor], None],
) -> Float[Tensor, "token layer sample"]:
    """The metric of every restored run: one sweep per token from the last one back to the subject.

    The last tokens come first because their suffixes are short: something is there at once.
    """
    model, clean, base = pair.model, pair.source, pair.base
    n_layers, n_tokens, n_samples = model.cfg.n_layers, len(pair.tokenized.ids), len(corrupted)
    first = pair.tokenized.subject_span[0]
    scores = corrupted.expand(n_tokens, n_layers, -1).clone()
    scores[first:] = torch.nan
    # a cell costs as much as the tokens that run for it
    total = sum(n_tokens - token for token in range(first, n_tokens)) * n_layers
    before = 0
    with torch.no_grad():
        entered = _entered(model, clean, base, first, state, window, sever, max_batch_tokens)
    for token in reversed(range(first, n_tokens)):
        after_entry = {layer: after[:, token - first] for layer, after in entered.items()}
        cells = _restorations(clean, base, token, n_layers, state, window, sever, after_entry)
        if token < n_tokens - 1:  # after the last block only the last token is read
            cells = [cell for cell in cells if cell.layer < n_layers]
        length = n_tokens - token
        cost = batch_cost(length, n_tokens)
        values = corrupted.expand(n_layers, -1).clone()
        n_cells = 0.0
        pieces = [(cell, part) for cell in cells for part in _parts(n_samples, cost, max_batch_tokens)]
        sizes = [part.stop - part.start for _, part in pieces]
        for group in groups(pieces, sizes, cost, max_batch_tokens):
            with torch.no_grad():
                final = sweep(model, base, token, [cell.join(part) for cell, part in group], [length - 1])[:, 0]
                rows = torch.cat([read(unembed(model, part)) for part in final.split(_READOUT_ROWS)])
            done = 0
            for cell, part in group:
                n = part.stop - part.start
                values[list(cell.layers), part] = rows[done : done + n]
                n_cells += len(cell.layers) * n / n_samples
                done += n
            progress(before + round(n_cells * length), total)
        scores[token] = values
        before += n_layers * length
        progress(before, total)
        arrived(scores)
    return scores


def _parts(n_samples: int, cost: int, max_batch_tokens: int) -> list[slice]:
    """The samples, all together if the batch limit allows it."""
    size = max(1, max_batch_tokens // cost)
    return [slice(first, min(first + size, n_samples)) for first in range(0, n_samples, size)]


def _entered(
    model: HookedTransformer,
    clean: BaseRun,
    base: BaseRun,
    first: int,
    state: State,
    window: int,
    sever: str | None,
    max_batch_tokens: int,
) -> dict[int, Float[Tensor, "sample token d_model"]]:
    """What restored windows make of the tokens from ``first`` on in the first block of each window, by block."""
    if state == "resid":
        return {}
    n_layers = model.cfg.n_layers
    tokens = slice(first, None)
    site = SITES[state]
    after = {}
    for layer in sorted({window_layers(layer, window, n_layers).start for layer in range(n_layers)}):
        restored = clean.output(site)[layer, :, tokens]
        after[layer] = enter_block(
            model,
            base,
            layer,
            tokens,
            attn_out=restored if site == "attn_out" else base.output("attn_out")[layer, :, tokens],
            # a restored attention output changes what the MLP reads, unless the MLP is severed from it
            mlp_out=restored
            if site == "mlp_out"
            else base.output("mlp_out")[layer, :, tokens]
            if sever == "mlp"
            else None,
            max_batch_tokens=max_batch_tokens,
        )
    return after


@dataclass(frozen=True, kw_only=True)
class _Restoration:
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


def _restorations(
    clean: BaseRun,
    base: BaseRun,
    token: int,
    n_layers: int,
    state: State,
    window: int,
    sever: str | None,
    after_entry: dict[int, Float[Tensor, "sample d_model"]],
) -> list[_Restoration]:
    """The distinct restored runs of one token, lowest first."""
    samples = torch.arange(base.resid.shape[1], device=base.resid.device)

    def join(layer: int, at_token: Tensor, restored: tuple[Pin, ...], part: slice) -> Join:
        resid = base.resid[layer, part, token:].clone()
        resid[:, 0] = at_token.expand(len(samples), -1)[part]
        held: tuple[Pin, ...] = ()
        if sever is not None:
            site = SITES[sever]
            held = (Pin(site=site, layers=range(n_layers), values=base.output(site)[:, part, token]),)
        return Join(layer=layer, resid=resid, samples=samples[part], pins=(*held, *restored))

    def restoration(layers: tuple[int, ...], layer: int, at_token: Tensor, *restored: Pin) -> _Restoration:
        return _Restoration(layers=layers, layer=layer, join=partial(join, layer, at_token, restored))

    if state == "resid":
        return [restoration((layer,), layer + 1, clean.resid[layer + 1, :, token]) for layer in range(n_layers)]

    site = SITES[state]
    layers_of: dict[range, list[int]] = {}
    for layer in range(n_layers):  # near the ends, neighbouring windows can be the same
        layers_of.setdefault(window_layers(layer, window, n_layers), []).append(layer)
    found = []
    for blocks, layers in layers_of.items():
        pin = Pin(site=site, layers=blocks, values=clean.output(site)[blocks.start : blocks.stop, :, token])
        found.append(restoration(tuple(layers), blocks.start + 1, after_entry[blocks.start], pin))
    return found
