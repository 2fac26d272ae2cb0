"""Every restored run of a trace, of several facts and states at once: one sweep per length of suffix.

The arithmetic of :mod:`interp.locate.methods.causal_trace`. Prompts end together (:class:`interp.engine.pairs.Pool`),
so a suffix of some length begins at one place, whichever fact it is of and whatever is restored. Each cell's rows join
at their layer, the lowest first, and rows of other cells fill the products that a fact alone would leave small. Rows
are cut into batches where the limit asks for it, and made only when their turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.engine.batches import batch_cost, filled
from interp.engine.cells import SITES, State, window_layers
from interp.engine.forward import unembed
from interp.engine.pairs import Pool, RunPair
from interp.engine.sweep import Join, Pin, sweep
from interp.options import Progress

__all__ = ["Restored", "Tracing", "restored_scores"]

_READOUT_ROWS = 512  # rows of logits held at once

Read = Callable[[Tensor, Tensor], Tensor]
"""From logits, and which fact each row is of, to a number a row."""

Arrived = Callable[[int, int, Float[Tensor, "token layer sample"], bool], None]
"""Called with (which of the tracings, which of its facts, its scores so far, whether they are all there)."""


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


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """What is restored, and in which facts of a pool."""

    restored: Restored
    facts: tuple[int, ...]


def restored_scores(
    pool: Pool,
    tracings: Sequence[Tracing],
    read: Read,
    max_batch_tokens: int,
    progress: Progress,
    arrived: Arrived,
) -> None:
    """What ``read`` reads off every restored run, fact by fact, from the last token of each back to its subject.

    The last tokens come first because their suffixes are short: something is there at once.
    """
    works = [_Work.of(pool, tracing, read, max_batch_tokens) for tracing in tracings]
    n_layers, n_tokens = pool.pairs[0].model.cfg.n_layers, pool.runs.resid.shape[2]
    # a cell costs as much as the tokens that run for it
    total = sum(length * len(rows.facts) for work in works for length, rows in enumerate(work.rows, 1)) * n_layers
    before = 0
    for length in range(1, max((len(work.rows) for work in works), default=0) + 1):
        going = [work for work in works if length <= len(work.rows)]
        cost = batch_cost(length, n_tokens)
        most = max_batch_tokens // cost
        runs = [(work, run) for work in going for run in _restored_runs(pool, work, length, most)]
        runs.sort(key=lambda entry: entry[1].layer)
        values = {id(work): work.untouched(length) for work in going}
        cells = 0.0
        counts = [len(work.rows[length - 1].runs) for work, _ in runs]
        for batch in filled(counts, cost, max_batch_tokens, [len(run.layers) for _, run in runs]):
            group = [(*runs[item], part) for item, part in batch]
            for work, layers, part, reading in _read_off(pool, length, group, read):
                for layer in layers:
                    values[id(work)][layer, part] = reading
                rows = work.rows[length - 1]
                cells += len(layers) * len(rows.facts) * len(reading) / len(rows.runs)
            progress(before + round(cells * length), total)
        before += length * n_layers * sum(len(work.rows[length - 1].facts) for work in going)
        progress(before, total)
        for which, work in enumerate(works):
            if length <= len(work.rows):
                for fact in work.note(length, values[id(work)]):
                    arrived(which, fact, work.scores[fact], length == _reach(pool.pairs[fact]))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The rows of the facts that have a suffix of some length to restore.

    Args:
        facts: Which facts, and where their rows stand.
        runs: Which of the pool's runs each row continues.
        clean: Which of them its states come from.
        of_fact: Which fact it is of.
    """

    facts: dict[int, slice]
    runs: Int[Tensor, "row"]
    clean: Int[Tensor, "row"]
    of_fact: Int[Tensor, "row"]

    @classmethod
    def of(cls, pool: Pool, facts: Sequence[int]) -> _Rows:
        places: dict[int, slice] = {}
        runs: list[int] = []
        clean: list[int] = []
        of_fact: list[int] = []
        for fact in facts:
            samples = len(pool.pairs[fact].base_logits)
            places[fact] = slice(len(runs), len(runs) + samples)
            runs += range(pool.clean[fact] + 1, pool.clean[fact] + 1 + samples)
            clean += [pool.clean[fact]] * samples
            of_fact += [fact] * samples
        device = pool.runs.resid.device
        return cls(
            facts=places,
            runs=torch.tensor(runs, device=device),
            clean=torch.tensor(clean, device=device),
            of_fact=torch.tensor(of_fact, device=device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """One tracing on its way.

    Args:
        restored: What is restored.
        rows: By length of suffix, from 1 on.
        corrupted: What is read off the corrupted runs, by fact.
        scores: What is there so far, by fact; NaN what is not.
        entered: What restored windows make of the first token of each suffix in their first block: by block, then by
            length.
    """

    restored: Restored
    rows: tuple[_Rows, ...]
    corrupted: dict[int, Float[Tensor, "_"]]
    scores: dict[int, Float[Tensor, "_ layer _"]]
    entered: dict[int, tuple[Float[Tensor, "_ d_model"], ...]]

    @classmethod
    def of(cls, pool: Pool, tracing: Tracing, read: Read, max_batch_tokens: int) -> _Work:
        reach = {fact: _reach(pool.pairs[fact]) for fact in tracing.facts}
        rows = tuple(
            _Rows.of(pool, [fact for fact in tracing.facts if reach[fact] >= length])
            for length in range(1, max(reach.values(), default=0) + 1)
        )
        corrupted, scores = {}, {}
        for fact in tracing.facts:
            pair = pool.pairs[fact]
            n_samples = len(pair.base_logits)
            of_fact = torch.full((n_samples,), fact, device=pair.base_logits.device)
            corrupted[fact] = read(pair.base_logits, of_fact)
            scores[fact] = corrupted[fact].expand(len(pair.tokenized.ids), pair.model.cfg.n_layers, -1).clone()
            scores[fact][pair.tokenized.subject_span[0] :] = torch.nan
        with torch.no_grad():
            entered = _entered(pool, tracing.restored, rows, max_batch_tokens)
        return cls(restored=tracing.restored, rows=rows, corrupted=corrupted, scores=scores, entered=entered)

    def untouched(self, length: int) -> Float[Tensor, "layer row"]:
        """What cells score that nothing depends on."""
        corrupted = torch.cat([self.corrupted[fact] for fact in self.rows[length - 1].facts])
        n_layers = next(iter(self.scores.values())).shape[1]
        return corrupted.expand(n_layers, -1).clone()

    def note(self, length: int, values: Float[Tensor, "layer row"]) -> list[int]:
        """Keep what was read off the suffixes of a length, and say of which facts."""
        facts = self.rows[length - 1].facts
        for fact, rows in facts.items():
            self.scores[fact][-length] = values[:, rows]
        return [*facts]


def _reach(pair: RunPair) -> int:
    """The length of the suffix from the subject on."""
    return len(pair.tokenized.ids) - pair.tokenized.subject_span[0]


def _read_off(
    pool: Pool, length: int, group: Sequence[tuple[_Work, _RestoredRun, slice]], read: Read
) -> Iterator[tuple[_Work, tuple[int, ...], slice, Float[Tensor, "_"]]]:
    """One sweep: what is read off each cell of a group, for some of its rows."""
    model = pool.pairs[0].model
    start = pool.runs.resid.shape[2] - length
    joins: list[Join] = []
    cells = []
    for work, run, part in group:
        joins += run.joins(part, len(joins))
        cells += [(work, layers, part) for layers in run.layers]
    of_fact = torch.cat([work.rows[length - 1].of_fact[part] for work, _, part in cells])
    with torch.no_grad():
        final = sweep(model, pool.runs, start, joins, [length - 1])[:, 0]
        parts = zip(final.split(_READOUT_ROWS), of_fact.split(_READOUT_ROWS), strict=True)
        rows = torch.cat([read(unembed(model, part), facts) for part, facts in parts])
    readings = rows.split([part.stop - part.start for *_, part in cells])
    for (work, layers, part), reading in zip(cells, readings, strict=True):
        yield work, layers, part, reading


def _entered(
    pool: Pool, restored: Restored, rows: Sequence[_Rows], max_batch_tokens: int
) -> dict[int, tuple[Float[Tensor, "_ d_model"], ...]]:
    """What restored windows make of the first token of each suffix in their first block, by that block and by length.

    What is restored inside a block changes that block's output at its own token alone; with the attention output
    given, no token reads another, so all tokens go through the block at once, as rows of one token.
    """
    if restored.state == "resid" or not rows:
        return {}
    runs, site, n_tokens = pool.runs, SITES[restored.state], pool.runs.resid.shape[2]
    counts = [len(some.runs) for some in rows]
    token = torch.cat([torch.full_like(some.runs, n_tokens - length) for length, some in enumerate(rows, 1)])
    own, clean = torch.cat([some.runs for some in rows]), torch.cat([some.clean for some in rows])
    model, after = pool.pairs[0].model, {}
    for layer in sorted({blocks.start for blocks in _windows(model, restored)}):
        put_back = runs.output(site)[layer][clean, token]
        put_in = {"attn_out": put_back if site == "attn_out" else runs.output("attn_out")[layer][own, token]}
        # a restored attention output changes what the MLP reads, unless the MLP is severed from it
        if site == "mlp_out":
            put_in["mlp_out"] = put_back
        elif restored.sever == "mlp":
            put_in["mlp_out"] = runs.output("mlp_out")[layer][own, token]
        entering = runs.resid[layer][own, token]
        after[layer] = _through_block(model, layer, entering, put_in, max_batch_tokens).split(counts)
    return after


def _through_block(
    model: HookedTransformer,
    layer: int,
    entering: Float[Tensor, "row d_model"],
    put_in: dict[str, Float[Tensor, "row d_model"]],
    max_batch_tokens: int,
) -> Float[Tensor, "row d_model"]:
    """Single tokens after a block in which some sublayers' outputs are given."""

    def put(output: Tensor, hook: HookPoint, *, value: Tensor) -> Tensor:
        return value.reshape(output.shape)

    after = []
    for first in range(0, len(entering), max_batch_tokens):
        part = slice(first, first + max_batch_tokens)
        hooks: list[Any] = [
            (f"blocks.{layer}.hook_{site}", partial(put, value=value[part])) for site, value in put_in.items()
        ]
        x = entering[part, None]
        after.append(model.run_with_hooks(x, start_at_layer=layer, stop_at_layer=layer + 1, fwd_hooks=hooks)[:, 0])
    return torch.cat(after)


def _windows(model: HookedTransformer, restored: Restored) -> dict[range, list[int]]:
    """The layers of each distinct window; near the ends, neighbouring windows can be the same."""
    n_layers = model.cfg.n_layers
    layers_of: dict[range, list[int]] = {}
    for layer in range(n_layers):
        layers_of.setdefault(window_layers(layer, restored.window, n_layers), []).append(layer)
    return layers_of


@dataclass(frozen=True, kw_only=True)
class _RestoredRun:
    """One restored run of the suffixes of a length, and those that are the same until a window ends.

    Args:
        layers: Of each of them, the layers whose cells it is.
        layer: The first block that runs on it.
        joins: Some of their rows, for a sweep's joins from some place on; made when they are needed, for all of them
            would take the memory of the base run once more.
    """

    layers: tuple[tuple[int, ...], ...]
    layer: int
    joins: Callable[[slice, int], list[Join]]


def _restored_runs(pool: Pool, work: _Work, length: int, most: int) -> list[_RestoredRun]:
    """The distinct restored runs of the suffixes of a length that an answer depends on, lowest first.

    Windows that are cut off at the first block begin alike: their rows go up as one until the shorter ones end.

    Args:
        pool, work, length: See above.
        most: Rows that a batch holds.
    """
    model, n_layers = pool.pairs[0].model, pool.pairs[0].model.cfg.n_layers
    if work.restored.state == "resid":
        found = [_run(pool, work, length, layer + 1, [(None, [layer])]) for layer in range(n_layers)]
    else:
        alike: dict[tuple[int, int], list[tuple[range, list[int]]]] = {}
        windows = _windows(model, work.restored)
        begun = [blocks.start for blocks in windows if len(blocks) > 1]  # what one block restores ends as it joins
        for blocks, layers in windows.items():
            apart = len(blocks) == 1 or begun.count(blocks.start) > most
            alike.setdefault((blocks.start, blocks.stop if apart else -1), []).append((blocks, layers))
        for those in alike.values():
            those.sort(key=lambda each: -each[0].stop)
        found = [_run(pool, work, length, start + 1, those) for (start, _), those in alike.items()]
    if length == 1:
        return found
    return [each for each in found if each.layer < n_layers]  # after the last block only the last token is read


def _run(
    pool: Pool, work: _Work, length: int, layer: int, those: Sequence[tuple[range | None, Sequence[int]]]
) -> _RestoredRun:
    """The restored runs that join before a block.

    Args:
        pool, work, length: See above.
        layer: The block.
        those: The windows of a sublayer that are restored from the block below on, the longest first, and the layers
            whose cells they are; None for the residual stream.
    """
    runs, restored, rows = pool.runs, work.restored, work.rows[length - 1]
    token = runs.resid.shape[2] - length

    def joins(part: slice, place: int) -> list[Join]:
        own, clean = rows.runs[part], rows.clean[part]
        resid = runs.resid[layer][own, token:]
        pins: list[Pin] = []
        if restored.sever is not None:
            held = SITES[restored.sever]
            values = runs.output(held)[:, :, token]
            pins.append(Pin(site=held, layers=range(len(values)), values=values, of_row=own))
        window = those[0][0]
        if window is None:
            resid[:, 0] = runs.resid[layer][clean, token]
            return [Join(layer=layer, resid=resid, samples=own, pins=tuple(pins))]
        resid[:, 0] = work.entered[window.start][length - 1][part]
        site = SITES[restored.state]
        values = runs.output(site)[window.start : window.stop, :, token]
        put_back = Pin(site=site, layers=window, values=values, of_row=clean)
        shorter = [blocks.stop for blocks, _ in those[1:] if blocks is not None]
        return [
            Join(layer=layer, resid=resid, samples=own, pins=(*pins, put_back)),
            *(Join(layer=stop, resid=None, samples=own, pins=tuple(pins), parts_from=place) for stop in shorter),
        ]

    return _RestoredRun(layers=tuple(tuple(layers) for _, layers in those), layer=layer, joins=joins)
