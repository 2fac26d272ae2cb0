"""ROME: a rank-one change of one W_out that makes one subject's key return a new value.

1. k: what enters W_out at the last subject token, averaged over contexts; k0 and W k0 (bias included): the same in
   the bare prompt.
2. v: the target value, optimised so that the model gives the new answer (:mod:`interp.editing.target_value`).
3. left = C^-1 k, normalised; right = (v - W k0) / <k0, left>; W_out += outer(left, right).

So the bare prompt's key is mapped to v exactly, and C keeps other keys where they were as well as one direction can.
R-ROME (Gupta et al. 2024) uses the averaged key, and the output at it, on both sides.

Cost: one pass to the edited layer, then per step the suffixes through the blocks above; one Cholesky of C.
Source: Meng et al. 2022, sections 3.1 and appendix E.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import AtOneLayer, TargetConfig
from interp.editing.method import Change, Editor, Task
from interp.editing.published import LIKE_LLAMA, LLAMA_3, published_or_rule
from interp.editing.target_value import TargetValue
from interp.editing.whitening import Whitening
from interp.errors import NumericalError
from interp.options import whole_number

__all__ = ["EDITOR", "R_ROME", "RomeConfig", "rank_one"]

DEGENERATE = 1e-12


@dataclass(frozen=True, kw_only=True)
class RomeConfig(TargetConfig, AtOneLayer):
    """ROME and R-ROME: one layer."""

    layer: int

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("layer", self.layer, least=0)


def rank_one(
    target: TargetValue, whitening: Whitening, layer: int, *, average_key: bool = False
) -> tuple[Float[Tensor, "d_mlp 1"], Float[Tensor, "1 d_model"]]:
    """The factors of ROME's change.

    Args:
        target: The optimised value, with the keys and outputs in each context.
        whitening: The second moments.
        layer: The edited layer.
        average_key: R-ROME.

    Returns:
        left, of length 1, and right.

    Raises:
        NumericalError: If the keys do not see each other through C, so that no change would do.
    """
    keys, outputs = target.keys.double(), target.outputs.double()
    left = whitening.solve(layer, keys.mean(0)[:, None])[:, 0]
    left = left / left.norm()
    key, output = (keys.mean(0), outputs.mean(0)) if average_key else (keys[0], outputs[0])
    seen = torch.dot(key, left)
    if not abs(float(seen)) > DEGENERATE * float(key.norm()):
        raise NumericalError(
            f"the subject's key in layer {layer} is invisible to its own direction: <k, left> = {seen}"
        )
    right = (target.value("mlp_out").double() - output) / seen
    return left.float()[:, None], right.float()[None]


def _default(model: HookedTransformer) -> RomeConfig:
    return published_or_rule(model, _PUBLISHED, lambda where: RomeConfig(layer=where.layer))


_LLAMA = RomeConfig(layer=5, steps=25, weight_decay=1e-3)
_PUBLISHED = {
    "gpt2-xl": RomeConfig(layer=17),
    "gpt-j-6b": RomeConfig(layer=5),
    **dict.fromkeys((*LIKE_LLAMA, *LLAMA_3), _LLAMA),
}


def _change(task: Task, *, average_key: bool = False) -> Change:
    layer = task.config.layer
    left, right = rank_one(task.targets[0], task.whitening, layer, average_key=average_key)
    return Change(left={layer: left}, right={layer: right})


EDITOR = Editor(
    name="rome",
    title="ROME",
    config=RomeConfig,
    default=_default,
    change=_change,
    sites=("mlp_out",),
    one_at_a_time=True,
)
R_ROME = replace(EDITOR, name="r-rome", title="R-ROME", change=partial(_change, average_key=True))
