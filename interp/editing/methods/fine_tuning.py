"""FT-L, a baseline: fine-tune the W_out of one layer on the new answer, no entry moving further than a limit.

1. Run the prompts with their targets once up to the edited layer, in batches.
2. Minimise the mean over requests of the target's NLL per token over D, what is added to W_out, with Adam; after each
   step clamp every entry of D to [-limit, limit] (Zhu et al. 2020; Meng et al. 2022, appendix E.1). The gradients of
   the batches add up to that of all requests: how many there are changes no update but in its last bits.
3. Stop below ``stop_loss``.

In a narrow number format W_out + D is rounded, by as much as D is large: the loss is that of the rounded weights (its
gradient is taken as if they were not), and the patch is what the rounding leaves, so that what is optimised is what is
applied. Rounding may carry an entry beyond the limit by half a unit in its last place.

All requests of a call are trained on together. The patch is dense. A norm after the MLP is passed as it is in the
patched model: D is added to what W_out returns, before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.editing.bare_rows import BareRows, bare_rows
from interp.editing.config import AtOneLayer, check_numbers
from interp.editing.method import Change, Editor, Task
from interp.editing.published import published_or_rule
from interp.engine.batches import halving
from interp.engine.forward import unembed
from interp.engine.mlp_outputs import mlp_output
from interp.engine.suffix import padded, run_rows
from interp.errors import NumericalError
from interp.facts.records import EditRequest
from interp.options import Progress, check_positive, python_numbers, whole_number
from interp.patches.patch import Outcome

__all__ = ["EDITOR", "FtConfig", "fine_tune"]

WOut = Float[Tensor, "d_mlp d_model"]


@dataclass(frozen=True, kw_only=True)
class FtConfig(AtOneLayer):
    """FT-L: fine-tune one W_out, no entry moving further than ``limit``.

    Args:
        layer: The layer.
        steps, learning_rate: Of Adam.
        limit: Radius of the L-infinity ball around the original weights.
        stop_loss: The optimisation ends below this loss.
        origin: See :class:`~interp.editing.config.EditConfig`.
    """

    layer: int
    steps: int = 25
    learning_rate: float = 5e-4
    limit: float = 5e-4
    stop_loss: float = 0.01
    origin: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        python_numbers(self)
        check_positive(steps=self.steps)
        whole_number("layer", self.layer, least=0)
        check_numbers(self, learning_rate=(1e-12, 1e3), limit=(1e-12, 1e3), stop_loss=(0, 1e6))


def fine_tune(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    config: FtConfig,
    *,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> tuple[WOut, tuple[Outcome, ...]]:
    """What is added to W_out of ``config.layer``, and how each request ended.

    Args:
        model: The model, left as it is.
        requests: The edits.
        config: See :class:`FtConfig`.
        max_batch_tokens: The most tokens that go up the network at once.
        progress: Called with (steps done, at most).

    Raises:
        FactError: If a prompt does not fit the model.
        NumericalError: If the loss is not finite.
    """
    rows = bare_rows(model, requests)
    return halving(lambda limit: _optimise(model, rows, config, limit, progress), max_batch_tokens)


@dataclass(frozen=True)
class _Batch:
    """Rows that go up the network together, and what enters the edited layer."""

    rows: list[int]
    entering: Float[Tensor, "row token d_model"]


def _optimise(
    model: HookedTransformer, rows: BareRows, config: FtConfig, max_batch_tokens: int, progress: Progress | None
) -> tuple[WOut, tuple[Outcome, ...]]:
    device, n = model.W_E.device, len(rows.ids)
    batches = [_entering(model, rows, batch, config.layer) for batch in rows.batches(max_batch_tokens)]
    block: Any = model.blocks[config.layer]
    W_out: Tensor = block.mlp.W_out.detach()
    change = torch.zeros(W_out.shape, device=device, requires_grad=True)
    adam = torch.optim.Adam([change], lr=config.learning_rate)
    nll, misses = torch.zeros(n, device=device), torch.zeros(n, device=device)
    steps = 0
    for step in range(config.steps):
        last = step == config.steps - 1
        gradient = torch.zeros_like(change)
        for batch in batches:
            with torch.enable_grad():
                logits = _logits(model, rows, batch, config.layer, _rounded(W_out, change))
                each, missed = rows.scores(logits, batch.rows)
                if not last:
                    gradient += torch.autograd.grad(each.sum() / n, [change])[0]
            nll[batch.rows], misses[batch.rows] = each.detach(), missed
        loss = float(nll.mean())
        steps = step + 1
        if progress:
            progress(steps, config.steps)
        if not torch.isfinite(nll).all():
            raise NumericalError(f"fine-tuning layer {config.layer}: the loss is {loss} at step {step}")
        if loss < config.stop_loss or last:
            break
        change.grad = gradient
        adam.step()
        with torch.no_grad():
            change.clamp_(-config.limit, config.limit)
    outcomes = tuple(
        Outcome(converged=not miss, probability=None, loss=each, steps=steps, optimised_probability=math.exp(-each))
        for miss, each in zip(misses.tolist(), nll.tolist(), strict=True)
    )
    return _rounded(W_out, change.detach()), outcomes


def _rounded(W_out: Tensor, change: WOut) -> WOut:
    """What is added to W_out once the sum is rounded to its format; the gradient passes as if it were not."""
    if W_out.dtype == torch.float32:
        return change
    rounded = (W_out.float() + change.detach()).to(W_out.dtype).float() - W_out.float()
    return change + (rounded - change.detach()) if change.requires_grad else rounded


def _entering(model: HookedTransformer, rows: BareRows, batch: list[int], layer: int) -> _Batch:
    tokens, _ = padded([rows.ids[row] for row in batch], model.W_E.device)
    if layer:
        return _Batch(batch, run_rows(model, tokens, stop=layer)[0])
    _, seen = run_rows(model, tokens, stop=1, record=["blocks.0.hook_resid_pre"])
    return _Batch(batch, seen["blocks.0.hook_resid_pre"])


def _logits(
    model: HookedTransformer, rows: BareRows, batch: _Batch, layer: int, change: WOut
) -> Float[Tensor, "read d_vocab"]:
    """Where the targets of a batch are predicted, with the change in W_out."""
    seen: list[Tensor] = []

    def keep(value: Tensor, hook: HookPoint) -> None:
        seen[:] = [value]

    def add(value: Tensor) -> Tensor:
        return value + (seen.pop().float() @ change).to(value.dtype)

    final = model.run_with_hooks(
        batch.entering,
        start_at_layer=layer,
        stop_at_layer=model.cfg.n_layers,
        fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", keep), *mlp_output(model, layer).changed(add)],
    )
    places, positions = rows.reads(batch.rows)
    return unembed(model, final[places, positions])


def _default(model: HookedTransformer) -> FtConfig:
    return published_or_rule(model, _PUBLISHED, lambda where: FtConfig(layer=where.layer))


_PUBLISHED = {"gpt2-xl": FtConfig(layer=0), "gpt-j-6b": FtConfig(layer=0, limit=5e-5)}


def _change(task: Task) -> Change:
    change, outcomes = fine_tune(
        task.model, task.requests, task.config, max_batch_tokens=task.max_batch_tokens, progress=task.progress
    )
    return Change(dense={task.config.layer: change}, outcomes=outcomes)


EDITOR = Editor(name="ft-l", title="FT-L", config=FtConfig, default=_default, change=_change)
