"""Target values: what a layer should return at the last subject token, so that the model gives the new answer.

1. Run every row (each request in each context, with its target; and "{subject} is a") once up to the edited layer.
2. Add delta to what the layer returns at the last subject token of every row and minimise, with Adam,

       mean over contexts of NLL(target) / tokens + kl_weight * KL(current || initial) + decay * |delta| / |v0|^2

   where v0 is what it returns in the bare prompt and the divergence is taken after "{subject}" of "{subject} is a".
3. Stop below ``stop_loss``; after each step project delta onto the ball of radius clamp * |v0|.

Where a norm stands after the MLP, what enters the residual stream is norm(u) = g * u / sqrt(mean(u^2) + eps) of what
W_out returns, u = w W_out + b_out, and only a value of that form can be reached by writing W_out: one with v / g of
length sqrt(d_model), all but, and 0 where g is 0. So delta is added to u, before the norm, and passes it in the
optimisation as it will in the patched model. The norm takes the length of u away; it keeps the one that it had, as a
longer change of W_out would do nothing more here, and more to other tokens:

    u* = |u| (u + delta) / |u + delta|
    v = norm(u*)                for ``mlp_out``,
    z = resid_mid + norm(u*)    for ``resid_post``.

What W_out must return is then u* itself, exactly. v0 is u too; u and delta are measured in units in which u of the bare
prompt is as long as norm(u), so that learning rate, decay and clamp mean what they mean without a norm. To the
attention's output, for which nothing is written, delta is added after its norm.

Nothing below the edited layer and nothing before the last subject token depends on delta, and logits are needed
only where a target token is predicted: one step runs the suffixes through the upper blocks, no more
(:mod:`interp.engine.suffix`). Requests do not touch each other, so a batch of them shares the matrix products, rows of
like length together, and a request that has converged leaves the batch.

Sources: ROME (Meng et al. 2022, section 3.1), MEMIT (Meng et al. 2023, section 4.3), PMET (Li et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.editing.config import TargetConfig
from interp.editing.contexts import Contexts
from interp.editing.rows import EditRows, edit_rows, subject_keys
from interp.engine.batches import groups, halving
from interp.engine.forward import unembed, wide
from interp.engine.mlp_outputs import mlp_output
from interp.engine.suffix import Suffixes, passes, suffixes
from interp.errors import NumericalError
from interp.facts.records import EditRequest
from interp.options import Progress

__all__ = ["TargetValue", "target_values"]


@dataclass(frozen=True, kw_only=True)
class TargetValue:
    """The optimised output of one request, and what was read beside it.

    Args:
        delta, initial: What is added and what there was, by site: ``mlp_out`` (what W_out returns, before any norm),
            ``resid_post`` and ``attn_out``.
        keys, outputs: What enters W_out and what it returns at the last subject token, in each context.
        loss, probability, divergence: At the last evaluation; the probability of the target is a mean over contexts,
            that of several tokens their geometric mean.
        steps: Evaluations.
        converged: Whether the target was the top answer in every context.
    """

    delta: dict[str, Float[Tensor, "d_model"]]
    initial: dict[str, Float[Tensor, "d_model"]]
    keys: Float[Tensor, "context d_mlp"]
    outputs: Float[Tensor, "context d_model"]
    loss: float
    probability: float
    divergence: float
    steps: int
    converged: bool

    def value(self, site: str) -> Float[Tensor, "d_model"]:
        """What there should be at a site."""
        return self.initial[site] + self.delta[site]


def target_values(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    layer: int,
    sites: tuple[str, ...],
    config: TargetConfig,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> list[TargetValue]:
    """Optimise the target values of several requests, each as if alone.

    Args:
        model: The model; its parameters need no gradients.
        requests: The edits.
        contexts: Kinds of context, the bare prompt first.
        layer: The edited layer.
        sites: ``("mlp_out",)``, ``("resid_post",)`` or ``("attn_out", "mlp_out")``; behind a norm the first two move
            the same.
        config: Of the optimisation.
        max_batch_tokens: The most tokens that go up the network at once; with gradients, those from the subject's end
            on. The rows of one request are not cut there.
        progress: Called with (evaluations done, at most).

    Raises:
        FactError: If a row does not fit the model.
        NumericalError: If a loss or the logits are not finite, or nothing that W_out returns would enter the stream.
    """
    rows = [edit_rows(model, [request], contexts) for request in requests]
    tokens = [sum(len(ids) - last for ids, last in zip(row.ids, row.subject_last, strict=True)) for row in rows]
    total = len(requests) * config.steps
    results: dict[int, TargetValue] = {}

    def advance(done: int) -> None:
        if progress:
            progress(len(results) * config.steps + done, total)

    def work(limit: int) -> list[TargetValue]:
        results.clear()
        for members in groups(range(len(requests)), tokens, 1, limit):
            together = edit_rows(model, [requests[i] for i in members], contexts)
            found = _Optimisation(model, together, layer, sites, config, members, limit).run(advance)
            results.update(zip(members, found, strict=True))
            advance(0)
        return [results[i] for i in range(len(requests))]

    return halving(work, max_batch_tokens) if requests else []


@dataclass(frozen=True)
class _Pass:
    """Rows that go up the network together.

    Args:
        rows: Which.
        suffix: Theirs.
        reads: Per row, where a target token is predicted (in the essence prompt: where the divergence is taken).
    """

    rows: list[int]
    suffix: Suffixes
    reads: list[range]


class _Optimisation:
    """Requests that are optimised together; see the module for the steps."""

    def __init__(
        self,
        model: HookedTransformer,
        rows: EditRows,
        layer: int,
        sites: tuple[str, ...],
        config: TargetConfig,
        members: Sequence[int],
        max_batch_tokens: int,
    ) -> None:
        self.model, self.rows, self.layer, self.sites, self.config = model, rows, layer, sites, config
        self.max_batch_tokens = max_batch_tokens
        self.members = members  # the requests' places in the caller's list, for messages
        n, per = len(rows.targets), rows.n_contexts + 1
        after, keys, outputs = subject_keys(model, rows, layer, max_batch_tokens)
        self.keys = keys.reshape(n, per, -1)[:, :-1]
        self.outputs = outputs
        self.resid_post = outputs["resid_post"].reshape(n, per, -1)[:, 0].float()
        self.mlp_out = outputs["mlp_out"].reshape(n, per, -1)[:, :-1]
        self.output = mlp_output(model, layer)
        self.v0 = torch.stack([outputs[site].reshape(n, per, -1)[:, 0].float() for site in self._moved])
        self.unit = self._units()
        self.initial = self.v0 / self.unit
        self.passes = list(self._plan(after))
        self.initial_essence: Tensor | None = None

    @property
    def _moved(self) -> tuple[str, ...]:
        """What the deltas are added to, by site: behind a norm the MLP moves the stream through it alone."""
        behind = {} if self.output.norm is None else {"resid_post": "mlp_out"}
        return tuple(behind.get(site, site) for site in self.sites)

    def _units(self) -> Float[Tensor, "site request 1"]:
        """What deltas are measured in."""
        units = torch.ones_like(self.v0[..., :1])
        if self.output.norm is None:
            return units
        for index, site in enumerate(self._moved):
            if site == "mlp_out":
                u = self.v0[index]
                units[index] = u.norm(dim=-1, keepdim=True) / self.output.entering(u).norm(dim=-1, keepdim=True)
        if not torch.isfinite(units).all():
            bad = self.members[int((~torch.isfinite(units)).nonzero()[0][1])]
            raise NumericalError(
                f"layer {self.layer} cannot be edited for request {bad}: what its MLP returns at the subject, or the"
                " gain of the norm behind it, is 0"
            )
        return units

    def _added(self, deltas: Float[Tensor, "site request d_model"]) -> Float[Tensor, "site request d_model"]:
        """What is added: the deltas, or what turns u to where they point (see the module)."""
        if self.output.norm is None:
            return deltas
        added = []
        for site, was, delta in zip(self._moved, self.v0, deltas * self.unit, strict=True):
            if site == "mlp_out":
                aimed = was + delta
                delta = aimed * (was.norm(dim=-1, keepdim=True) / aimed.norm(dim=-1, keepdim=True)) - was
            added.append(delta)
        return torch.stack(added)

    def run(self, advance: Any) -> list[TargetValue]:
        """Minimise; the requests' values in their order."""
        config, n = self.config, len(self.rows.targets)
        radius = config.clamp * self.initial.norm(dim=-1, keepdim=True)
        deltas = torch.zeros_like(self.initial, requires_grad=True)
        adam = torch.optim.Adam([deltas], lr=config.learning_rate)
        factor = torch.ones(n, device=deltas.device)
        active = list(range(n))
        finished: dict[int, TargetValue] = {}
        for step in range(config.steps):
            last = step == config.steps - 1
            with torch.enable_grad():
                nll, divergence, probability, top = self._evaluate(deltas, active)
                kept = torch.tensor(active, device=deltas.device)
                decay = config.weight_decay * (deltas.norm(dim=-1) / self.initial.norm(dim=-1) ** 2).sum(0)[kept]
                losses = factor[kept] * nll + config.kl_weight * divergence + decay
            if not torch.isfinite(losses).all():
                bad = self.members[active[int((~torch.isfinite(losses)).nonzero()[0])]]
                raise NumericalError(f"the target value of request {bad} has the loss {losses.tolist()} at step {step}")
            stop = losses < config.stop_loss
            if (eased := config.once_on_top()) is not None:
                factor[kept[top]], least = eased
                stop |= top & (config.kl_weight * divergence <= least)
            for place, request in enumerate(active):
                if last or stop[place]:
                    finished[request] = self._finish(
                        request,
                        deltas.detach().clone(),
                        loss=float(losses[place].detach()),
                        probability=float(probability[place]),
                        divergence=float(divergence[place].detach()),
                        steps=step + 1,
                        converged=bool(top[place]),
                    )
            advance(sum(finished[r].steps if r in finished else step + 1 for r in range(n)))
            going = [place for place, request in enumerate(active) if request not in finished]
            if not going:
                break
            with torch.enable_grad():  # the caller's gradients may be off, as they often are in a notebook
                (deltas.grad,) = torch.autograd.grad(losses[going].sum(), [deltas])
            adam.step()
            with torch.no_grad():
                norms = deltas.norm(dim=-1, keepdim=True)
                deltas.copy_(torch.where(norms > radius, deltas * (radius / norms), deltas))
            active = [active[place] for place in going]
        return [finished[request] for request in range(n)]

    def _plan(self, after: Float[Tensor, "row token d_model"]) -> Iterator[_Pass]:
        rows, per = self.rows, self.rows.n_contexts + 1
        starts, ends = rows.subject_last, [len(ids) for ids in rows.ids]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        for members in passes(lengths, after.device):
            yield _Pass(
                members,
                suffixes(
                    self.model,
                    after[members],
                    [starts[row] for row in members],
                    self.layer + 1,
                    lengths=[ends[row] for row in members],
                    max_batch_tokens=self.max_batch_tokens,
                ),
                [
                    range(
                        first := rows.n_prompt[row] - 1 - starts[row],
                        first + (len(rows.targets[row // per]) if (row + 1) % per else 1),
                    )
                    for row in members
                ],
            )

    def _read(
        self, deltas: Tensor, active: set[int]
    ) -> tuple[Float[Tensor, "read d_model"], Int[Tensor, "read"], Int[Tensor, "read"]]:
        """Final residual streams where something is read in the active requests; the row of each, and its place among
        the row's reads."""
        per, device = self.rows.n_contexts + 1, deltas.device
        finals, rows, places = [], [], []
        added = self._added(deltas)
        for part in self.passes:
            kept = [i for i, row in enumerate(part.rows) if row // per in active]
            if not kept:
                continue
            index = torch.tensor([part.rows[i] for i in kept], device=device)
            suffix = part.suffix if len(kept) == len(part.rows) else part.suffix.rows(torch.tensor(kept, device=device))
            request = torch.div(index, per, rounding_mode="floor")
            entering = self._entering(suffix, added[:, request], index)
            reads = [(row, place, token) for row, i in enumerate(kept) for place, token in enumerate(part.reads[i])]
            finals.append(suffix.run(self.model, entering, [row for row, *_ in reads], [token for *_, token in reads]))
            rows += [part.rows[kept[row]] for row, *_ in reads]
            places += [place for _, place, _ in reads]
        return torch.cat(finals), torch.tensor(rows, device=device), torch.tensor(places, device=device)

    def _evaluate(self, deltas: Tensor, active: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per active request: NLL a target token, divergence, probability, whether the target is top everywhere."""
        targets, per, device = self.rows.targets, self.rows.n_contexts + 1, deltas.device
        final, row, place = self._read(deltas, set(active))
        log_p = unembed(self.model, final).float().log_softmax(-1)
        request, context = torch.div(row, per, rounding_mode="floor"), row % per

        essence = context == per - 1
        current = log_p[essence][request[essence].argsort()]
        if self.initial_essence is None:
            self.initial_essence = current.detach()
        kept = torch.tensor(active, device=device)
        divergence = (current.exp() * (current - self.initial_essence[kept])).sum(-1)

        row, place, log_p = row[~essence], place[~essence], log_p[~essence]
        wanted = torch.tensor(
            [targets[r // per][i] for r, i in zip(row.tolist(), place.tolist(), strict=True)], device=device
        )
        target_log_p = log_p.gather(-1, wanted[:, None])[:, 0]

        def by_row(values: Tensor) -> Float[Tensor, "request context"]:
            sums = torch.zeros(len(targets) * per, device=device).index_add(0, row, values)
            return sums.reshape(len(targets), per)[kept, :-1]

        lengths = torch.tensor([len(targets[i]) for i in active], device=device)
        nll_rows = -by_row(target_log_p) / lengths[:, None]
        misses = by_row((log_p.argmax(-1) != wanted).float())
        return nll_rows.mean(1), divergence, nll_rows.detach().neg().exp().mean(1), misses.sum(1) == 0

    def _entering(
        self, suffix: Suffixes, deltas: Float[Tensor, "site row d_model"], index: Int[Tensor, "row"]
    ) -> Tensor:
        """What enters the block above if what the layer returns at the last subject token is moved by the deltas.

        The deltas stay in float32; in a narrower format it is the sum that is rounded, once.
        """
        if "attn_out" not in self.sites and self.output.norm is None:  # it is added to the stream as it is
            first = _plus(suffix.resid[:, 0], deltas[0])
        elif "attn_out" not in self.sites:
            u = wide(self.outputs["mlp_out"][index])
            first = _plus(suffix.resid[:, 0], self.output.entering(u + deltas[0]) - self.output.entering(u))
        else:
            attn_out = _plus(self.outputs["attn_out"][index], deltas[self.sites.index("attn_out")])
            mlp_delta = deltas[self.sites.index("mlp_out")]

            def put(value: Tensor, hook: HookPoint) -> Tensor:
                return attn_out[:, None].expand(value.shape).contiguous()

            def add(value: Tensor) -> Tensor:
                return _plus(value, mlp_delta[:, None])

            block = f"blocks.{self.layer}.hook_"
            first = self.model.run_with_hooks(
                self.outputs["resid_pre"][index][:, None],
                start_at_layer=self.layer,
                stop_at_layer=self.layer + 1,
                fwd_hooks=[(block + "attn_out", put), *self.output.changed(add)],
            )[:, 0]
        return torch.cat([first[:, None], suffix.resid[:, 1:]], 1)

    def _finish(self, request: int, deltas: Tensor, **measured: Any) -> TargetValue:
        added = self._added(deltas)
        delta = {site: added[i, request] for i, site in enumerate(self.sites)}
        initial = {site: self.v0[i, request] for i, site in enumerate(self.sites)}
        if self._moved != self.sites:
            u = initial["resid_post"]
            initial["resid_post"] = self.resid_post[request]
            delta["resid_post"] = self.output.entering(u + delta["resid_post"]) - self.output.entering(u)
        return TargetValue(
            delta=delta,
            initial=initial,
            keys=self.keys[request],
            outputs=self.mlp_out[request],
            **measured,
        )


def _plus(value: Tensor, delta: Tensor) -> Tensor:
    """A value of the model plus a change that may be finer than its number format."""
    return (wide(value) + delta).to(value.dtype)
