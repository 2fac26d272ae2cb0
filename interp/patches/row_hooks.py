"""Patches as hooks: every row of a batch under a patch of its own, the weights as they are.

What a patch adds to what W_out returns, before any norm, is what enters W_out times its delta: in float32 that is the
patched model, but for last bits. In a narrower format W_out + delta is rounded when the patch is applied, which can be
as much as the delta itself; there :func:`under_patches` applies each patch in its turn, so that what is asked is what
would be used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.engine.base_runs import Hook
from interp.engine.mlp_outputs import MlpOutput, mlp_output
from interp.patches.patch import Patch

__all__ = ["row_hooks", "under_patches"]

R = TypeVar("R")


def under_patches(
    model: HookedTransformer,
    patches: Sequence[Patch | None],
    work: Callable[[list[int], list[Patch | None]], Sequence[R]],
) -> list[R]:
    """Do something under patches, each member under its own.

    Args:
        model: The model; afterwards it is as before.
        patches: One per member; None: under the model as it is.
        work: From members and the patches that it has to put on as hooks itself to a result for each. It is called
            once with all members, or, where the model's format is narrower than float32, once for each patch while
            that is applied.

    Returns:
        The results, in the order of the patches.

    Raises:
        ModelError: If a patch does not fit the model.
    """
    exact = model.W_E.dtype in (torch.float32, torch.float64)
    if exact or not any(patch is not None for patch in patches):
        return list(work(list(range(len(patches))), list(patches)))
    members: dict[int, list[int]] = {}
    for place, patch in enumerate(patches):
        members.setdefault(id(patch), []).append(place)
    found: dict[int, R] = {}
    for places in members.values():
        patch = patches[places[0]]
        if patch is None:
            part = work(places, [None] * len(places))
        else:
            with patch.applied(model):
                part = work(places, [None] * len(places))
        found.update(zip(places, part, strict=True))
    return [found[place] for place in range(len(patches))]


def row_hooks(model: HookedTransformer, patches: Sequence[Patch | None]) -> list[Hook]:
    """Hooks under which row r of a batch sees the model with ``patches[r]`` (None: as it is), weights untouched.

    What a patch adds to what W_out returns is what enters W_out times its delta, so different edits share a batch.
    """
    layers = sorted({layer for patch in patches if patch is not None for layer in patch.layers})
    hooks: list[Hook] = []
    for layer in layers:
        groups: dict[int, tuple[Patch, list[int]]] = {}
        for row, patch in enumerate(patches):
            if patch is not None and layer in patch.layers:
                groups.setdefault(id(patch), (patch, []))[1].append(row)
        hooks += _layer_hooks(mlp_output(model, layer), list(groups.values()))
    return hooks


def _layer_hooks(output: MlpOutput, groups: list[tuple[Patch, list[int]]]) -> list[Hook]:
    entering: list[Tensor] = []
    layer = output.layer

    def keep(value: Tensor, hook: HookPoint) -> None:
        entering[:] = [value]

    def add(value: Tensor) -> Tensor:
        value, w = value.clone(), entering.pop()
        for patch, rows in groups:
            at = torch.tensor(rows, device=value.device)
            if layer in patch.left:
                left, right = patch.left[layer].to(w), patch.right[layer].to(w)
                value[at] += w[at] @ left @ right
            if layer in patch.dense:
                value[at] += w[at] @ patch.dense[layer].to(w)
        return value

    return [(f"blocks.{layer}.mlp.hook_post", keep), *output.changed(add)]
