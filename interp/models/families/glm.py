"""GLM, to GLM-4-9B: as Llama, with biases of queries, keys and values; neighbouring pairs of a share of heads turn."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import decoder, gated_mlp, norm, projections
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields, partly_rotary
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given, attention_bias=True)
    return {**fields, "rotary_dim": partly_rotary(given, fields["d_head"]), "rotary_adjacent_pairs": True}


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    def block(layer: Any) -> dict[str, Tensor]:
        gate, up = layer.mlp.gate_up_proj.weight.chunk(2)
        return {
            **norm("ln1", layer.input_layernorm),
            **norm("ln2", layer.post_attention_layernorm),
            **projections(cfg, layer.self_attn),
            **gated_mlp(gate, up, layer.mlp.down_proj.weight),
        }

    return decoder(hf_model, block, norm("ln_final", hf_model.model.norm))


FAMILY = Family(
    architecture="GlmForCausalLM",
    model_type="glm",
    known={"zai-org/glm-4-9b-hf": "GLM-4, 40 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
