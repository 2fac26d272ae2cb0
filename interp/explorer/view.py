"""A second model over the same weights: with hooks of its own, and free to change layers of its own.

What the explorer runs in the background must not meet hooks that a notebook cell puts on the model meanwhile, and its
edits must not reach the model at all. So it works on a copy whose parameters *are* those of the model (no second copy
in memory), and gets its own W_out where it edits.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformer_lens import HookedTransformer

from interp.patches.patch import Patch

__all__ = ["EditedLayers", "private_view"]


def private_view(model: HookedTransformer) -> HookedTransformer:
    """A model that shares every parameter, buffer and the tokenizer with ``model``, but no hook and no patch list."""
    shared: list[Any] = [*model.parameters(), *model.buffers(), model.tokenizer]
    view: HookedTransformer = copy.deepcopy(model, {id(part): part for part in shared})
    view.__dict__.pop("interp_patches", None)  # its weights are what they are now, whatever patches made them so
    view.reset_hooks(including_permanent=True)
    return view


class EditedLayers:
    """Layers of a view that have a W_out of their own while a patch is on it."""

    def __init__(self, view: HookedTransformer, patch: Patch) -> None:
        """Put the patch on the view; the model that it shares weights with stays as it is."""
        self._view, self._patch = view, patch
        self._shared = {layer: _mlp(view, layer).W_out for layer in patch.layers}
        try:
            for layer, parameter in self._shared.items():
                _mlp(view, layer).W_out = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            patch.apply(view)
        except BaseException:
            self._share()
            raise

    def undo(self) -> None:
        """Take the patch back and share the layers again."""
        try:
            self._patch.revert(self._view)
        finally:
            self._share()

    def _share(self) -> None:
        for layer, parameter in self._shared.items():
            _mlp(self._view, layer).W_out = parameter


def _mlp(view: HookedTransformer, layer: int) -> Any:
    block: Any = view.blocks[layer]
    return block.mlp
