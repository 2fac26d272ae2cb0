"""Rotary positions: which kinds of scaling there are, and how a HookedTransformer gets each exactly.

Where TransformerLens has fields for a kind (``linear``, ``llama3``), they are set. ``dynamic`` scaling begins beyond
the context that a model was trained at, and none here is longer. What has no fields, or fields that do less (``yarn``,
``longrope``), comes as tables of sines and cosines, in place of those that HookedTransformer computes: they are buffers
of each block's attention, as long as the context, and transformers' own frequencies fill them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from interp.errors import ModelError, excerpt
from interp.models.families.settings import Settings

__all__ = ["longest_context", "rope_fields", "rotary_tables", "unturned_tables"]


def _default(rope: Settings) -> dict[str, Any]:
    return {}


def _linear(rope: Settings) -> dict[str, Any]:
    return {"rotary_scaling_factor": float(rope.positive("factor"))}


def _dynamic(rope: Settings) -> dict[str, Any]:
    rope.positive("factor")  # of no effect up to max_position_embeddings
    return {}


def _llama3(rope: Settings) -> dict[str, Any]:
    return {
        "use_NTK_by_parts_rope": True,
        "NTK_original_ctx_len": rope.positive("original_max_position_embeddings"),
        "NTK_by_parts_low_freq_factor": rope.positive("low_freq_factor"),
        "NTK_by_parts_high_freq_factor": rope.positive("high_freq_factor"),
        "NTK_by_parts_factor": rope.positive("factor"),
    }


def _yarn(rope: Settings) -> dict[str, Any]:
    rope.positive("factor")
    rope.positive("original_max_position_embeddings")
    rope.without_effect("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")  # tables
    return {}


def _longrope(rope: Settings) -> dict[str, Any]:
    rope.whole("original_max_position_embeddings")
    rope.without_effect("short_factor", "attention_factor", "factor")  # in the tables
    rope.without_effect("long_factor")  # beyond the original context, where nothing is run
    return {}


_KINDS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}
_AS_TABLES = ("yarn", "longrope")


def rope_fields(rope: Settings) -> dict[str, Any]:
    """The fields of a HookedTransformerConfig that ``rope_parameters`` (or those of one type of layer) set.

    Raises:
        ModelError: If the kind of scaling is not known, or naming the setting of it that is impossible.
    """
    rope.without_effect("type")  # a former name of rope_type
    kind = _kind(rope)
    return {"rotary_base": rope.positive("rope_theta"), **_KINDS[kind](rope)}


def longest_context(rope: Settings) -> int | None:
    """Up to how many tokens one set of frequencies holds: ``longrope`` takes others beyond; None if all do."""
    return rope.whole("original_max_position_embeddings") if _kind(rope) == "longrope" else None


def _kind(rope: Settings) -> str:
    kind = rope.value("rope_type", "default")
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise ModelError(f"{rope.architecture} with {excerpt(kind)} rotary scaling is not supported; known are {known}")
    return kind


def rotary_tables(
    hf: PreTrainedConfig, cfg: HookedTransformerConfig
) -> dict[str, Float[Tensor, "position rotary_dim"]]:
    """Sines and cosines for scaling that the fields of ``cfg`` do not say, by the names of HookedTransformer's buffers.

    Args:
        hf: The Hugging Face config.
        cfg: What was made of it.

    Returns:
        Nothing for the kinds that the fields say.
    """
    rope = getattr(hf, "rope_parameters", None)
    kind = rope.get("rope_type") if isinstance(rope, dict) else None
    if kind not in _AS_TABLES:
        return {}
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](hf)
    angles = torch.arange(cfg.n_ctx, dtype=torch.float32)[:, None] * frequencies[None, :]
    angles = angles.repeat_interleave(2, 1) if cfg.rotary_adjacent_pairs else angles.repeat(1, 2)
    return _in_layers(angles.sin() * scale, angles.cos() * scale, range(cfg.n_layers))


def unturned_tables(
    cfg: HookedTransformerConfig, layers: Iterable[int]
) -> dict[str, Float[Tensor, "position rotary_dim"]]:
    """Tables for layers whose queries and keys do not turn: each is multiplied by 1, and 0 is added."""
    assert cfg.rotary_dim is not None
    zeros = torch.zeros(cfg.n_ctx, cfg.rotary_dim)
    return _in_layers(zeros, torch.ones_like(zeros), layers)


def _in_layers(sines: Tensor, cosines: Tensor, layers: Iterable[int]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layer in layers:
        found |= {f"blocks.{layer}.attn.rotary_sin": sines, f"blocks.{layer}.attn.rotary_cos": cosines}
    return found
