"""Phi-3, to Phi-4: as Llama, with one weight for queries, keys and values, and one for the MLP's gate and input."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import attention, decoder, gated_mlp, linear, norm, rows
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields, partly_rotary
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given)
    given.without_effect("original_max_position_embeddings", "partial_rotary_factor")  # as in rope_parameters
    given.must_be(full_attn_mod=1, interpolate_factor=1, lm_head_bias=False)  # of Phi-4's configs
    return {**fields, "rotary_dim": partly_rotary(given, fields["d_head"])}


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    assert cfg.n_key_value_heads is not None
    few = cfg.n_key_value_heads * cfg.d_head

    def block(layer: Any) -> dict[str, Tensor]:
        gate, up = layer.mlp.gate_up_proj.weight.chunk(2)
        queries, keys, values = rows(layer.self_attn.qkv_proj, cfg.n_heads * cfg.d_head, few, few)
        return {
            **norm("ln1", layer.input_layernorm),
            **norm("ln2", layer.post_attention_layernorm),
            **attention(cfg, queries, keys, values, linear(layer.self_attn.o_proj)),
            **gated_mlp(gate, up, layer.mlp.down_proj.weight),
        }

    return decoder(hf_model, block, norm("ln_final", hf_model.model.norm))


FAMILY = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    known={
        "microsoft/Phi-3-mini-4k-instruct": "Phi-3 mini, 32 layers",
        "microsoft/Phi-4-mini-instruct": "Phi-4 mini, 32 layers",
    },
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
