"""The model below the patches that are on it.

Second moments and contexts are those of the unedited model, also when a model is edited that carries patches already
(as published for edits in turn), so that they are neither estimated again nor bent by earlier edits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from transformer_lens import HookedTransformer

from interp.patches.patch import Patch, applied_patches, unpatched_hash
from interp.results.record import Provenance, provenance

__all__ = ["unedited", "unedited_provenance"]


@contextmanager
def unedited(model: HookedTransformer) -> Iterator[HookedTransformer]:
    """The model without its patches within a ``with`` block; afterwards, also after an exception, they are back."""
    taken_off: list[Patch] = []
    try:
        for patch in reversed(applied_patches(model)):
            taken_off.append(patch)
            patch.revert(model)
        yield model
    finally:
        on = applied_patches(model)
        for patch in reversed(taken_off):
            if not any(other is patch for other in on):
                patch.apply(model)


def unedited_provenance(model: HookedTransformer, described: Provenance | None = None) -> Provenance:
    """Of the model without its patches.

    Args:
        model: The model.
        described: Of the model as it is, to spare hashing the weights.
    """
    below = unpatched_hash(model)
    if described is None:
        described = provenance(model)
    return described if below is None else replace(described, weights_hash=below, patches=[])
