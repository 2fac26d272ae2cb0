"""What is left of a patch in a narrow number format: W_out + delta is rounded when the patch is applied.

W_out itself lies on the grid of its format. Where the delta of an entry is below half a step of the grid, rounding
gives W_out back, and nothing of that entry is left; so small changes of many entries are lost, not blurred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.patches.on_model import Change, state_of

__all__ = ["MUCH", "Rounding", "rounding_of"]

MUCH = 0.5
"""The share of a patch that rounding may change without a warning."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What rounding W_out + delta to the model's number format does to the delta of one layer.

    Args:
        changed: |rounded - delta| / |delta|, Frobenius: 0 if nothing is lost, about 1 if everything is.
        kept: <rounded, delta> / |delta|^2: how much of the delta is left along itself.
        largest: The largest change of an entry of W_out + delta by rounding, relative to it (to the smallest normal
            number of the format, if that is larger).
    """

    changed: float
    kept: float
    largest: float


def rounding_of(change: Change, model: HookedTransformer) -> dict[int, Rounding]:
    """By layer, what is left of a change on a model as it is; nothing for float32 and wider, where all of it is."""
    if model.W_E.element_size() >= 4:
        return {}
    on = state_of(model)
    found = {}
    for layer in change.layers:
        block: Any = model.blocks[layer]
        W_out: Tensor = block.mlp.W_out.detach()
        before = W_out.float() if on is None else on.sums.get(layer, W_out.float())
        delta = change.delta(layer).to(before)
        rounded = (before + delta).to(W_out.dtype).float()
        left, size = rounded - W_out.float(), float(delta.norm())
        if not size:
            continue
        relative = (rounded - before - delta).abs() / (before + delta).abs().clamp(min=torch.finfo(W_out.dtype).tiny)
        found[layer] = Rounding(
            changed=float((left - delta).norm()) / size,
            kept=float((left.double() * delta.double()).sum()) / size**2,
            largest=float(relative.max()),
        )
    return found
