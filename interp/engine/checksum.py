"""A checksum of a model's weights that tells, in a moment and where they are, whether they were changed."""

from __future__ import annotations

import torch
import xxhash
from torch import Tensor
from transformer_lens import HookedTransformer

__all__ = ["weights_checksum"]

_CHECKED_AT_ONCE = 2**24


def weights_checksum(model: HookedTransformer) -> str:
    """A checksum of all parameters' content, computed where they are.

    Unlike :func:`interp.models.weights.weights_hash` it may depend on the layout in memory and the device, and copies
    nothing."""
    digest = xxhash.xxh3_128()
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        strides = value.stride()
        value = value.permute(sorted(range(value.ndim), key=lambda axis: -strides[axis]))  # no copy where it is dense
        flat = value.contiguous().view(-1)
        if flat.device.type == "cpu":
            digest.update(flat.view(torch.uint8).numpy().data)
        else:
            digest.update(repr(_checksum(flat)).encode())
    return digest.hexdigest()


def _checksum(flat: Tensor) -> list[int]:
    """Sums modulo 2^64 of the bits, each times an odd number of its own: any one that changes changes its sum."""
    bits = flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    sums = []
    for part in bits.split(_CHECKED_AT_ONCE):
        place = torch.arange(len(part), device=flat.device)
        mixed = (place + 1) * 0x2545F4914F6CDD1D
        sums.append((part.to(torch.int64) * ((mixed ^ (mixed >> 29)) | 1)).sum())
    return torch.stack(sums).tolist() if sums else []
