"""FT-L, a baseline: fine-tune the W_out of one layer on the new answer, no entry moving further than a limit.

1. Run the prompt with its target once up to the edited layer.
2. Minimise the target's NLL per token over D, what is added to W_out, with Adam; after each step clamp every entry of
   D to [-limit, limit] (Zhu et al. 2020; Meng et al. 2022, appendix E.1).
3. Stop below ``stop_loss``.

All requests of a call are trained on together. The patch is dense.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.editing.config import FtConfig
from interp.editing.patch import Outcome
from interp.editing.rows import edit_rows
from interp.errors import NumericalError
from interp.facts import EditRequest
from interp.options import Progress
from interp.suffix import padded, run_rows
from interp.sweep import unembed

__all__ = ["fine_tune"]


def fine_tune(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    config: FtConfig,
    *,
    progress: Progress | None = None,
) -> tuple[Float[Tensor, "d_mlp d_model"], tuple[Outcome, ...]]:
    """What is added to W_out of ``config.layer``, and how each request ended.

    Raises:
        FactError: If a prompt does not fit the model.
        NumericalError: If the loss is not finite.
    """
    rows = edit_rows(model, requests, (("{}",),))
    ids = rows.ids[:: rows.n_contexts + 1]  # without the essence prompts
    n_prompt = rows.n_prompt[:: rows.n_contexts + 1]
    tokens, _ = padded(ids, model.W_E.device)
    entering = run_rows(model, tokens, stop=config.layer)[0] if config.layer else _embedded(model, tokens)
    row = [r for r, target in enumerate(rows.targets) for _ in target]
    position = [n_prompt[r] - 1 + i for r, target in enumerate(rows.targets) for i in range(len(target))]
    wanted = torch.tensor([i for target in rows.targets for i in target], device=tokens.device)
    lengths = torch.tensor([len(target) for target in rows.targets], device=tokens.device)
    row_at = torch.tensor(row, device=tokens.device)

    cfg = model.cfg
    assert cfg.d_mlp is not None
    change = torch.zeros(cfg.d_mlp, cfg.d_model, device=tokens.device, requires_grad=True)
    adam = torch.optim.Adam([change], lr=config.learning_rate)
    seen: list[Tensor] = []

    def keep(value: Tensor, hook: HookPoint) -> None:
        seen[:] = [value]

    def add(value: Tensor, hook: HookPoint) -> Tensor:
        w = seen.pop()
        return value + (w.float() @ change).to(value.dtype)

    block = f"blocks.{config.layer}."
    steps = 0
    for step in range(config.steps):
        with torch.enable_grad():
            final = model.run_with_hooks(
                entering,
                start_at_layer=config.layer,
                stop_at_layer=cfg.n_layers,
                fwd_hooks=[(f"{block}mlp.hook_post", keep), (f"{block}hook_mlp_out", add)],
            )
            log_p = unembed(model, final[row, position]).float().log_softmax(-1)
            chosen = log_p.gather(-1, wanted[:, None])[:, 0]
            nll = -torch.zeros(len(ids), device=tokens.device).index_add(0, row_at, chosen) / lengths
            loss = nll.mean()
        misses = torch.zeros(len(ids), device=tokens.device).index_add(0, row_at, (log_p.argmax(-1) != wanted).float())
        steps = step + 1
        if progress:
            progress(steps, config.steps)
        if not torch.isfinite(loss):
            raise NumericalError(f"fine-tuning layer {config.layer}: the loss is {float(loss)} at step {step}")
        if loss < config.stop_loss or step == config.steps - 1:
            break
        (change.grad,) = torch.autograd.grad(loss, [change])
        adam.step()
        with torch.no_grad():
            change.clamp_(-config.limit, config.limit)
    outcomes = tuple(
        Outcome(
            converged=not bool(miss),
            probability=None,
            loss=float(each),
            steps=steps,
            optimised_probability=float(torch.exp(-each)),
        )
        for miss, each in zip(misses, nll.detach(), strict=True)
    )
    return change.detach(), outcomes


def _embedded(model: HookedTransformer, tokens: Tensor) -> Float[Tensor, "row token d_model"]:
    """What enters block 0."""
    _, seen = run_rows(model, tokens, stop=1, record=["blocks.0.hook_resid_pre"])
    return seen["blocks.0.hook_resid_pre"]
