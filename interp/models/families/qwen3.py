"""Qwen3: as Llama, with a norm of each head's queries and keys, and heads of any width."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import llama_weights
from interp.models.families.family import Family
from interp.models.families.fields import alike_within_the_window, llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    alike_within_the_window(given)
    return {**llama_fields(given, attention_bias=True), "use_qk_norm": True}


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    state = llama_weights(hf_model, cfg)
    for layer, block in enumerate(hf_model.model.layers):
        state[f"blocks.{layer}.attn.q_norm.w"] = block.self_attn.q_norm.weight
        state[f"blocks.{layer}.attn.k_norm.w"] = block.self_attn.k_norm.weight
    return state


FAMILY = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    known={"Qwen/Qwen3-0.6B-Base": "Qwen3, 28 layers", "Qwen/Qwen3-8B-Base": "Qwen3, 36 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
