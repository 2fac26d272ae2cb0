"""The second moments that an editor is given, in whatever form: checked, and described for the patch's record."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from interp.editing.moments_cache import SecondMoments
from interp.editing.whitening import Moments
from interp.errors import OptionError
from interp.results.record import Provenance, check_same_weights

__all__ = ["GivenMoments", "described_moments", "given_moments"]

GivenMoments = Mapping[Any, Any] | SecondMoments | Literal["identity"]
"""C by layer, of torch or numpy; or the identity."""


def given_moments(given: object, layers: Sequence[int], unedited: Provenance) -> Moments:
    """C of some layers, at least; those of a :class:`SecondMoments` stay where they are until they are asked for.

    Args:
        given: A :class:`SecondMoments`, a mapping from layers to matrices (of torch or numpy), or ``"identity"``.
        layers: Those that are edited.
        unedited: Of the model without patches: C is that of the unedited model, also where edits follow edits.

    Raises:
        OptionError: If it is none of these, or lacks a layer.
        ModelError: If the second moments are those of other weights.
    """
    if isinstance(given, SecondMoments):
        check_same_weights("the second moments", given.provenance, unedited)
        _check_there(layers, given.moments, given.moments)
        return given.moments
    if isinstance(given, str) and given == "identity":
        return "identity"
    if not isinstance(given, Mapping):
        what = repr(given) if isinstance(given, str) else type(given).__name__
        raise OptionError(f"second_moments must map layers to C, or be 'identity', got {what}")
    found: dict[int, Tensor] = {}
    for key, value in given.items():
        try:
            layer = operator.index(key)
        except TypeError as error:
            raise OptionError(f"second_moments must map whole numbers (layers) to C, got the key {key!r}") from error
        if layer in layers:
            found[layer] = _matrix(layer, value)
    _check_there(layers, found, given)
    return found


def _check_there(layers: Sequence[int], found: Mapping[int, Tensor], given: Mapping[Any, Any]) -> None:
    missing = [layer for layer in layers if layer not in found]
    if missing:
        raise OptionError(f"layer {missing[0]} has no second moment; given are layers {sorted(given)}")


def described_moments(given: object, moments: Moments, layers: Sequence[int]) -> dict[str, Any]:
    """What a patch records of them: the source and, by edited layer, a hash (xxh3) of C as float32."""
    if isinstance(moments, str):
        return {"source": "identity"}
    edited = [layer for layer in moments if layer in layers]
    hashes = {str(layer): _hash(moments[layer]) for layer in edited}
    if not isinstance(given, SecondMoments):
        return {"source": "given", "hash": hashes}
    errors = dict(zip(given.layers, given.held_out_error, strict=True))
    return {
        "source": given.corpus.get("source"),
        "corpus": dict(given.corpus),
        "n_tokens": given.n_tokens,
        "weights_hash": given.provenance.weights_hash,
        "dtype": given.provenance.dtype,
        "held_out_error": {str(layer): errors.get(layer) for layer in edited},
        "shrinkage": given.shrinkage,
        "hash": hashes,
    }


def _matrix(layer: int, value: object) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or value.is_complex():
        raise OptionError(
            f"the second moment of layer {layer} must be a real matrix of torch or numpy, got {type(value).__name__}"
        )
    if value.ndim != 2:
        raise OptionError(f"the second moment of layer {layer} is {tuple(value.shape)}, expected a square matrix")
    return value.detach()


def _hash(C: Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(C.float().cpu().contiguous().numpy().data)
