"""A model's weights: their hash, how they lie in memory, and what may be done with them."""

from __future__ import annotations

from typing import Any

import torch
import xxhash
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components import RMSNorm
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from interp.errors import OptionError

__all__ = [
    "as_matmul_wants",
    "check_differentiable",
    "check_linear_output",
    "norm_after_mlp",
    "processing",
    "share_buffers",
    "weights_hash",
]


def weights_hash(model: HookedTransformer) -> str:
    """A 128-bit hash (xxh3) of every parameter's name, dtype, shape and bytes, as 32 hexadecimal digits.

    It depends on the values alone, not on their layout in memory or the device. It reads all weights: about
    0.1 s for the embedded model; pass an :class:`interp.Provenance` to locators that are called in a loop.
    """
    digest = xxhash.xxh3_128()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        value = parameter.detach()
        # hash the contiguous orientation and say which: W_out and W_out.T share bytes but not the axis order
        digest.update(value.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_linear_output(model: HookedTransformer) -> None:
    """Refuse a model whose MLPs do not return ``w @ W_out + b_out``, which enters the residual stream as it is or
    through an RMS norm.

    Raises:
        OptionError: Naming the model.
    """
    cfg = model.cfg
    if cfg.attn_only or cfg.num_experts:
        has = f" has {cfg.num_experts} experts a layer" if cfg.num_experts else ""
        raise OptionError(f"{cfg.model_name}{has}: attribution and editing need MLPs whose output is w @ W_out + b_out")
    norm_after_mlp(model)


def norm_after_mlp(model: HookedTransformer) -> str | None:
    """The name, within a block, of the norm between W_out and the residual stream; None if there is none.

    Raises:
        OptionError: If there is one of another kind than RMS norm.
    """
    cfg = model.cfg
    if cfg.use_normalization_before_and_after:
        name = "ln2_post"
    elif cfg.original_architecture in POST_NORM_ARCHITECTURES:
        name = "ln2"
    else:
        return None
    for block in model.blocks:
        norm = getattr(block, name)
        if not isinstance(norm, RMSNorm):
            raise OptionError(
                f"{cfg.model_name}: attribution and editing need an RMS norm with a gain, or none, after the MLP, got a"
                f" {type(norm).__name__}"
            )
    return name


def processing(model: HookedTransformer) -> tuple[str, ...]:
    """What TransformerLens did to the weights of a model, as far as it can be seen; nothing to those of ``load_model``.

    Neither changes a logit, but W_out and what it reads and writes are not those of the published model any more.
    """
    found = []
    kind = str(model.cfg.normalization_type)
    if kind.endswith("Pre"):
        found.append("norms folded into weights")
    if kind.startswith("LN") and not model.cfg.attn_only:
        block: Any = model.blocks[0]
        W_out: Tensor = block.mlp.W_out.detach()
        rounding = max(1e-6, torch.finfo(W_out.dtype).eps if W_out.element_size() < 4 else 0.0)
        if W_out.float().mean(-1).abs().max() < rounding * W_out.float().std():
            found.append("writing weights centred")
    return tuple(found)


def check_differentiable(model: HookedTransformer) -> None:
    """Refuse weights that no gradient can pass.

    Raises:
        OptionError: Naming the model.
    """
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise OptionError(
            f"the weights of {model.cfg.model_name} were made under torch.inference_mode, where no gradient passes"
            " them: load the model outside of it"
        )


def as_matmul_wants(key: str, value: Tensor) -> Tensor:
    """The same values in the memory layout that HookedTransformer's forward multiplies with, without a copy.

    Per weight: W_Q, W_K, W_V are used as [(head d_head), d_model], W_O as [d_model, (head d_head)], the
    weights of gated MLPs and of the unembedding as [d_out, d_in].
    """
    kind = key.rsplit(".", 1)[-1].lstrip("_")
    if kind in ("W_Q", "W_K", "W_V"):
        return value.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "W_O":
        return value.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if kind == "W_U" or (kind in ("W_in", "W_gate", "W_out")):
        return value if _either_way_contiguous(value) else value.T.contiguous().T
    return value.contiguous()


def _either_way_contiguous(value: Tensor) -> bool:
    return value.is_contiguous() or value.T.is_contiguous()


def share_buffers(model: HookedTransformer) -> None:
    """Masks and rotary tables are the same in every block: keep one of each."""
    first = model.blocks[0].attn
    for block in model.blocks[1:]:
        for name, buffer in first.named_buffers(recurse=False):
            other = getattr(block.attn, name)
            if other.shape == buffer.shape and torch.equal(other, buffer):
                setattr(block.attn, name, buffer)
