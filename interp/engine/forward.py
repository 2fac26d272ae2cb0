"""What every run of a model ends with: only what is read goes on to the top, and logits that can be computed with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.engine.base_runs import Hook
from interp.errors import NumericalError

__all__ = ["check_finite", "unembed", "until_read", "wide"]


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


def wide(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if that is what they are: what sums and probabilities are computed in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unembed(model: HookedTransformer, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """Logits of final residual streams: the last norm and the unembedding, nothing else.

    They come in float32 whatever the model's number format, so that every probability, score and mean that is read off
    them is computed in float32.

    Raises:
        NumericalError: If a logit is NaN or infinite.
    """
    flat = resid.reshape(-1, 1, resid.shape[-1])
    logits = model(flat, start_at_layer=model.cfg.n_layers)
    check_finite(logits)
    return wide(logits).reshape(*resid.shape[:-1], -1)


def check_finite(logits: Float[Tensor, "*batch d_vocab"]) -> None:
    """Refuse to go on with numbers that mean nothing.

    Raises:
        NumericalError: If a logit is NaN or infinite.
    """
    # one pass; any NaN or infinity survives a sum
    if torch.isfinite(logits.detach().sum(dtype=torch.promote_types(logits.dtype, torch.float32))):
        return
    bad = int((~torch.isfinite(logits)).sum())
    if bad:
        narrow = torch.finfo(logits.dtype).bits < 32
        format_ = str(logits.dtype).removeprefix("torch.")
        raise NumericalError(
            f"{bad} of {logits.numel()} logits are NaN or infinite: the weights are damaged"
            + (f", or {format_} is too narrow for this model (try float32)" if narrow else "")
        )
