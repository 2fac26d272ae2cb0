"""Spread a change over layers (MEMIT, algorithm 1; PMET with another divisor and another site).

1. For layer l of the edited layers, in order: K = keys of all facts there (mean within each kind of context, then
   over kinds), read with the layers below already changed.
2. R = (target - current state at the last edited layer) / divisor(layers left). Behind a norm R is what W_out must
   return for it, see below.
3. dW_l = (weight C_l + K K^T)^-1 K R^T, before the next layer's keys are read. Editors that solve otherwise give a
   solve of their own (:func:`spread_editor`): what it returns takes the place of (...)^-1 K.

Where a norm stands after the MLPs, what a layer brings to the stream lies on an ellipsoid
(:mod:`interp.engine.mlp_outputs`), and

    R = nearest(norm(u) + share) - u,    share = (target - state) / divisor,

where u is what W_out returns and nearest(v) the u' of u's length whose norm comes nearest to v. A single layer so
reaches the targets of :mod:`interp.editing.target_value` exactly. With several, of a target in the stream each but the
last takes, beside its share, what would leave the rest beyond the reach of the last one:

    share = need - norm(nearest(need - (target - state) / divisor)),

need being what the last MLP would have to bring by itself. What stays open is what those layers miss of that.

The weights of the model stay as they are: what a change of W_out adds to what it returns is the layer's keys times the
change, so one pass up the network carries all of it. Rows that do not fit one batch wait in main memory
between their turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import OverLayers
from interp.editing.method import Change, Editor, Task
from interp.editing.rows import edit_rows, key_weights
from interp.editing.whitening import Whitening
from interp.engine.batches import groups, halving
from interp.engine.forward import wide
from interp.engine.mlp_outputs import MlpOutput, mlp_output
from interp.engine.suffix import padded, run_rows

__all__ = ["Kept", "Keys", "Solve", "Spread", "regularised", "spread", "spread_editor"]


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What a layer's change is solved from.

    Args:
        layer: Which.
        keys: K, one column a fact.
        config: The editor's settings.
        whitening: The second moments.
        earlier: What was kept of the edits before (see :class:`Kept`), one column a fact.
        first: The number of the first request, for the errors.
    """

    layer: int
    keys: Float[Tensor, "d_mlp fact"]
    config: Any
    whitening: Whitening
    earlier: Float[Tensor, "d_mlp earlier"] | None = None
    first: int = 0


class Solved(NamedTuple):
    """A layer's change of W_out, ``left @ right``, and what ``left`` was solved from."""

    left: Float[Tensor, "d_mlp fact"]
    right: Float[Tensor, "fact d_model"]
    given: Keys


Solve = Callable[[Keys], Float[Tensor, "d_mlp fact"]]
"""From a layer's keys to L, so that dW = L R^T with the residual R."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of the solves beside their changes.

    Args:
        for_later: From a layer's keys to what the solves of later turns are to know of them.
        for_the_record: From those of all layers to what a patch records of them, as JSON.
    """

    for_later: Callable[[Keys], Float[Tensor, "d_mlp fact"]]
    for_the_record: Callable[[Sequence[Keys]], Mapping[str, Any]]


def regularised(given: Keys) -> Float[Tensor, "d_mlp fact"]:
    """(weight C + K K^T)^-1 K (Meng et al. 2023, equation 14)."""
    return given.whitening.regularised(given.layer, given.keys, given.config.second_moment_weight)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a change is spread.

    Args:
        site: What the layers bring to its target, one of ``resid_post`` and ``mlp_out``.
        divisor: Of the residual, from the number of layers left.
        solve: From a layer's keys to what is multiplied with the residual.
    """

    site: str
    divisor: Callable[[int], float]
    solve: Solve = regularised


def spread(task: Task, targets: Float[Tensor, "fact d_model"], how: Spread) -> dict[int, Solved]:
    """The changes of W_out that bring a site at the last edited layer to its targets.

    Args:
        task: The edits, one solve for all of them; its settings name the edited layers.
        targets: The values wanted in the bare prompts.
        how: Which site, and what each layer does for it.

    Returns:
        Each layer's change.
    """
    model, layers = task.model, task.config.layers
    rows = edit_rows(model, task.requests, task.contexts)
    per = rows.n_contexts + 1
    # nothing after the last subject token is read
    ids = [rows.ids[row][: rows.subject_last[row] + 1] for row in range(len(rows.ids)) if (row + 1) % per]
    weights = key_weights(task.contexts, model.W_E.device)

    def work(limit: int) -> dict[int, Solved]:
        batches = _batches(model, ids, rows.n_contexts, limit)
        solved: dict[int, Solved] = {}
        for index, layer in enumerate(layers):
            read = [batch.climb(model, layer) for batch in batches]
            current = [batch.current(model, layers[-1]) for batch in batches]
            state = _State(*(_in_order(batches, parts, bare=True) for parts in zip(*current, strict=True)))
            keys = torch.einsum("c,fck->kf", weights, _in_order(batches, read).unflatten(0, (-1, rows.n_contexts)))
            ends = mlp_output(model, layer), mlp_output(model, layers[-1])
            residual = _residual(*ends, state, targets, how, layers_left=len(layers) - index)
            given = Keys(
                layer=layer,
                keys=keys,
                config=task.config,
                whitening=task.whitening,
                earlier=task.earlier.get(layer),
                first=task.first,
            )
            solved[layer] = Solved(how.solve(given).float(), residual, given)
            for batch in batches:
                batch.change(solved[layer].left, residual)
        return solved

    return halving(work, task.max_batch_tokens)


class _State(NamedTuple):
    """The present state in the bare prompts: what W_out returns in the layer whose turn it is and in the last edited
    one, and the residual stream after that."""

    own: Float[Tensor, "fact d_model"]
    last: Float[Tensor, "fact d_model"]
    stream: Float[Tensor, "fact d_model"]


def _residual(
    own: MlpOutput,
    last: MlpOutput,
    state: _State,
    targets: Float[Tensor, "fact d_model"],
    how: Spread,
    *,
    layers_left: int,
) -> Float[Tensor, "fact d_model"]:
    """What the W_out of a layer is to return beside what it does; see the module for what a norm makes of it."""
    divisor, in_stream = how.divisor(layers_left), how.site == "resid_post"
    if own.norm is None:
        return (targets - (state.stream if in_stream else state.last)) / divisor
    brings = last.entering(state.last)
    missing = targets - state.stream if in_stream else last.entering(targets) - brings
    share = missing / divisor
    if in_stream and own.layer != last.layer:
        rest = last.reaching(brings + missing - share, state.last)
        share = brings + missing - last.entering(rest)
    return own.reaching(own.entering(state.own) + share, state.own) - state.own


class _Batch:
    """Rows on their way up the network, each until its last subject token.

    Args:
        index: Which rows.
        bare: Which of these are bare prompts.
        lengths: Tokens of each.
        x: Token ids, later the residual stream.
        place: Where it is kept between the layers.
    """

    def __init__(self, index: list[int], bare: list[int], lengths: list[int], x: Tensor, place: torch.device) -> None:
        self.index, self.bare, self.x, self.place, self.reached = index, bare, x, place, 0
        self.device = x.device
        self.at = (torch.arange(len(index), device=self.device), torch.tensor(lengths, device=self.device) - 1)
        self.entering = self.after = self.returned = x  # what the last layer saw

    def climb(self, model: HookedTransformer, layer: int) -> Float[Tensor, "row d_mlp"]:
        """Run up to a layer, with its W_out as it is; the keys there."""
        self.output = mlp_output(model, layer)
        record = [f"blocks.{layer}.mlp.hook_post", *self.output.names]
        after, seen = run_rows(model, self.x.to(self.device), start=self.reached, stop=layer + 1, record=record)
        self.reached = layer + 1
        returned = self.output.returned(seen)
        if self.output.norm is None:  # else its change depends on what was there, in all rows
            returned = returned[self.bare]
        self.after, self.returned = after.to(self.place), returned.to(self.place)
        self.entering = seen[record[0]].to(self.place)
        return seen[record[0]][self.at].float()

    def current(self, model: HookedTransformer, last: int) -> tuple[Float[Tensor, "bare d_model"], ...]:
        """The present :class:`_State` in the bare prompts, what is above the layer as it is."""
        if not self.bare:
            return (self.after.new_zeros(0, model.cfg.d_model, device=self.device, dtype=torch.float32),) * 3
        after = self.after.to(self.device)[self.bare]
        own = (self.returned if self.output.norm is None else self.returned[self.bare]).to(self.device)
        states = (own, own, after) if self.output.layer == last else (own, *_until(model, after, self.reached, last))
        at = (torch.arange(len(self.bare)), self.at[1][self.bare])
        own, returned, stream = (state[at].float() for state in states)
        return own, returned, stream

    def change(self, left: Tensor, right: Tensor) -> None:
        """Add what the layer's change of W_out adds to what it returns."""
        added = self.entering.to(self.device).float() @ left @ right
        if self.output.norm is not None:
            returned = wide(self.returned.to(self.device))
            added = self.output.entering(returned + added) - self.output.entering(returned)
        self.x = (wide(self.after.to(self.device)) + added).to(self.after.dtype).to(self.place)
        self.entering = self.after = self.returned = self.x[:0]


def _batches(
    model: HookedTransformer, ids: Sequence[Sequence[int]], n_contexts: int, max_batch_tokens: int
) -> list[_Batch]:
    """Rows of like length together."""
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]), reverse=True)
    batches: list[list[int]] = []
    while order:
        batches.append(next(groups(order, [1] * len(order), len(ids[order[0]]), max_batch_tokens)))
        order = order[len(batches[-1]) :]
    place = model.W_E.device if len(batches) == 1 else torch.device("cpu")
    found = []
    for batch in batches:
        rows = sorted(batch)
        tokens, _ = padded([ids[row] for row in rows], model.W_E.device)
        bare = [i for i, row in enumerate(rows) if row % n_contexts == 0]
        found.append(_Batch(rows, bare, [len(ids[row]) for row in rows], tokens, place))
    return found


def _in_order(batches: Sequence[_Batch], parts: Sequence[Tensor], *, bare: bool = False) -> Tensor:
    """What was read in batches, in the order of the rows."""
    index = [row for batch in batches for row in ([batch.index[i] for i in batch.bare] if bare else batch.index)]
    return torch.cat(list(parts))[torch.tensor(index, device=parts[0].device).argsort()]


def _until(
    model: HookedTransformer, after: Tensor, start: int, last: int
) -> tuple[Float[Tensor, "fact token d_model"], Float[Tensor, "fact token d_model"]]:
    """What W_out returns in the last edited layer and the residual stream after it, the layers from ``start`` on as
    they are."""
    output = mlp_output(model, last)
    final, seen = run_rows(model, after, start=start, stop=last + 1, record=output.names)
    return output.returned(seen), final


def spread_editor(
    *,
    name: str,
    title: str,
    config: type[OverLayers],
    default: Callable[[HookedTransformer], OverLayers],
    sites: tuple[str, ...],
    spread_site: str,
    divisor: Callable[[int], float],
    solve: Solve = regularised,
    kept: Kept | None = None,
    **others: Any,
) -> Editor:
    """An editor that spreads its change over layers.

    Args:
        name, title, config, default, sites: See :class:`~interp.editing.method.Editor`.
        spread_site, divisor, solve: See :class:`Spread`, whose ``site`` is the first; MEMIT's solve if it is left out.
        kept: What is kept of the solves; nothing if it is left out.
        others: Further fields of the editor.
    """

    how = Spread(site=spread_site, divisor=divisor, solve=solve)

    def change(task: Task) -> Change:
        solved = spread(task, torch.stack([target.value(spread_site) for target in task.targets]), how)
        return Change(
            left={layer: each.left for layer, each in solved.items()},
            right={layer: each.right for layer, each in solved.items()},
            keys={} if kept is None else {layer: kept.for_later(each.given) for layer, each in solved.items()},
            about={} if kept is None else kept.for_the_record([each.given for each in solved.values()]),
        )

    return Editor(name=name, title=title, config=config, default=default, change=change, sites=sites, **others)
