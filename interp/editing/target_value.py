"""Target values: what a layer should return at the last subject token, so that the model gives the new answer.

1. Run every row (each request in each context, with its target; and "{subject} is a") once up to the edited layer.
2. Add delta to the layer's output at the last subject token of every row and minimise, with Adam,

       mean over contexts of NLL(target) / tokens + kl_weight * KL(current || initial) + decay * |delta| / |v0|^2

   where v0 is that output in the bare prompt and the divergence is taken after "{subject}" of "{subject} is a".
3. Stop below ``stop_loss``; after each step project delta onto the ball of radius clamp * |v0|.

Nothing below the edited layer and nothing before the last subject token depends on delta, and logits are needed
only where a target token is predicted: one step runs the suffixes through the upper blocks, no more
(:mod:`interp.suffix`). Requests do not touch each other, so a batch of them shares the matrix products, and a request
that has converged leaves the batch.

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
from interp.errors import NumericalError
from interp.facts import EditRequest
from interp.options import Progress
from interp.suffix import Suffixes, suffixes
from interp.sweep import halving, unembed

__all__ = ["TargetValue", "target_values"]

PMET_NLL_FACTOR = 0.1
PMET_KL = 0.01
ENOUGH_TOKENS = 192  # more in one batch no longer speed up the matrix products


@dataclass(frozen=True, kw_only=True)
class TargetValue:
    """The optimised output of one request, and what was read beside it.

    Args:
        delta, initial: What is added and v0, by site (``mlp_out``, ``resid_post``, ``attn_out``).
        keys, outputs: What enters W_out and what the MLP returns at the last subject token, in each context.
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
        """What the layer should return."""
        return self.initial[site] + self.delta[site]


def target_values(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    layer: int,
    sites: tuple[str, ...],
    config: TargetConfig,
    max_batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> list[TargetValue]:
    """Optimise the target values of several requests, each as if alone.

    Args:
        model: The model; its parameters need no gradients.
        requests: The edits.
        contexts: Kinds of context, the bare prompt first.
        layer: The edited layer.
        sites: ``("mlp_out",)`` (ROME), ``("resid_post",)`` (MEMIT) or ``("attn_out", "mlp_out")`` (PMET, which also
            lowers the weight of the target once it is the top answer).
        config: Of the optimisation.
        max_batch_tokens: The most suffix tokens that go up the network at once.
        progress: Called with (evaluations done, at most).

    Raises:
        FactError: If a row does not fit the model.
        NumericalError: If a loss or the logits are not finite.
    """
    rows = [edit_rows(model, [request], contexts) for request in requests]
    lengths = [max(len(ids) - last for ids, last in zip(row.ids, row.subject_last, strict=True)) for row in rows]
    total = len(requests) * config.steps
    results: dict[int, TargetValue] = {}

    def advance(done: int) -> None:
        if progress:
            progress(len(results) * config.steps + done, total)

    def work(limit: int) -> list[TargetValue]:
        results.clear()
        for members in _groups(lengths, rows[0].n_contexts + 1, limit):
            together = edit_rows(model, [requests[i] for i in members], contexts)
            found = _Optimisation(model, together, layer, sites, config, members).run(advance)
            results.update(zip(members, found, strict=True))
            advance(0)
        return [results[i] for i in range(len(requests))]

    return halving(work, max_batch_tokens) if requests else []


def _groups(lengths: Sequence[int], n_rows: int, limit: int) -> Iterator[list[int]]:
    """Requests that are optimised together: of like suffix length, so that little is padded, but not too few."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        longer = bool(group) and lengths[i] > lengths[group[0]]
        too_many = (len(group) + 1) * n_rows * lengths[i] > limit
        if group and (too_many or (longer and len(group) * n_rows * lengths[group[-1]] >= ENOUGH_TOKENS)):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


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
    ) -> None:
        self.model, self.rows, self.layer, self.sites, self.config = model, rows, layer, sites, config
        self.members = members  # the requests' places in the caller's list, for messages
        n, per = len(rows.targets), rows.n_contexts + 1
        after, keys, outputs = subject_keys(model, rows, layer)
        self.keys = keys.reshape(n, per, -1)[:, :-1]
        self.outputs = outputs
        self.mlp_out = outputs["mlp_out"].reshape(n, per, -1)[:, :-1]
        self.initial = torch.stack([outputs[site].reshape(n, per, -1)[:, 0].float() for site in sites])
        self.suffix = suffixes(model, after, rows.subject_last, layer + 1, lengths=[len(ids) for ids in rows.ids])
        self.initial_essence: Tensor | None = None

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
            if len(self.sites) == 2:  # PMET
                factor[kept[top]] = PMET_NLL_FACTOR
                stop |= top & (config.kl_weight * divergence <= PMET_KL)
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
            (deltas.grad,) = torch.autograd.grad(losses[going].sum(), [deltas])
            adam.step()
            with torch.no_grad():
                norms = deltas.norm(dim=-1, keepdim=True)
                deltas.copy_(torch.where(norms > radius, deltas * (radius / norms), deltas))
            active = [active[place] for place in going]
        return [finished[request] for request in range(n)]

    def _evaluate(self, deltas: Tensor, active: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per active request: NLL a target token, divergence, probability, whether the target is top everywhere."""
        rows, per, device = self.rows, self.rows.n_contexts + 1, deltas.device
        chosen = [request * per + context for request in active for context in range(per)]
        index = torch.tensor(chosen, device=device)
        whole = len(active) == len(rows.targets)
        suffix = self.suffix if whole else self.suffix.rows(index)
        request_of = torch.div(index, per, rounding_mode="floor")
        final = suffix.run(self.model, self._entering(suffix, deltas[:, request_of], index))

        row_at: list[int] = []
        position: list[int] = []
        token: list[int] = []
        for place, row in enumerate(chosen):
            if (row + 1) % per:  # not the essence
                first = rows.n_prompt[row] - 1 - rows.subject_last[row]
                target = rows.targets[row // per]
                row_at += [place] * len(target)
                position += range(first, first + len(target))
                token += target
        essence = [place for place, row in enumerate(chosen) if (row + 1) % per == 0]
        read = torch.cat([final[row_at, position], final[essence, [0] * len(essence)]])
        log_p = unembed(self.model, read).float().log_softmax(-1)

        current = log_p[len(row_at) :]
        if self.initial_essence is None:
            self.initial_essence = current.detach()
        kept = torch.tensor(active, device=device)
        divergence = (current.exp() * (current - self.initial_essence[kept])).sum(-1)

        wanted = torch.tensor(token, device=device)
        target_log_p = log_p[: len(row_at)].gather(-1, wanted[:, None])[:, 0]
        is_top = log_p[: len(row_at)].argmax(-1) == wanted
        lengths = torch.tensor([len(rows.targets[row // per]) for row in chosen], device=device)
        at = torch.tensor(row_at, device=device)
        sums = torch.zeros(len(chosen), device=device).index_add(0, at, target_log_p)
        nll_rows = (-sums / lengths).reshape(len(active), per)[:, :-1]
        misses = torch.zeros(len(chosen), device=device).index_add(0, at, (~is_top).float())
        top = misses.reshape(len(active), per)[:, :-1].sum(1) == 0
        return nll_rows.mean(1), divergence, nll_rows.detach().neg().exp().mean(1), top

    def _entering(
        self, suffix: Suffixes, deltas: Float[Tensor, "site row d_model"], index: Int[Tensor, "row"]
    ) -> Tensor:
        """What enters the block above if the layer's outputs at the last subject token are moved by the deltas."""
        deltas = deltas.to(suffix.resid.dtype)
        if "attn_out" not in self.sites:  # an MLP output or the residual stream: it is added as it is
            first = suffix.resid[:, 0] + deltas[0]
        else:
            attn_out = self.outputs["attn_out"][index] + deltas[self.sites.index("attn_out")]
            mlp_delta = deltas[self.sites.index("mlp_out")]

            def put(value: Tensor, hook: HookPoint) -> Tensor:
                return attn_out[:, None].expand(value.shape).contiguous()

            def add(value: Tensor, hook: HookPoint) -> Tensor:
                return value + mlp_delta[:, None]

            block = f"blocks.{self.layer}.hook_"
            first = self.model.run_with_hooks(
                self.outputs["resid_pre"][index][:, None],
                start_at_layer=self.layer,
                stop_at_layer=self.layer + 1,
                fwd_hooks=[(block + "attn_out", put), (block + "mlp_out", add)],
            )[:, 0]
        return torch.cat([first[:, None], suffix.resid[:, 1:]], 1)

    def _finish(self, request: int, deltas: Tensor, **measured: Any) -> TargetValue:
        return TargetValue(
            delta={site: deltas[i, request] for i, site in enumerate(self.sites)},
            initial={site: self.initial[i, request] for i, site in enumerate(self.sites)},
            keys=self.keys[request],
            outputs=self.mlp_out[request],
            **measured,
        )
