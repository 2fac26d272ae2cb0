"""Mistral: as Llama, with attention that may slide."""

from __future__ import annotations

from transformer_lens.pretrained.weight_conversions import convert_mistral_weights

from interp.models.families.family import Family
from interp.models.families.fields import llama_fields

__all__ = ["FAMILY"]

FAMILY = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    known={"mistralai/Mistral-7B-v0.3": "Mistral, 32 layers"},
    settings=llama_fields,
    convert=convert_mistral_weights,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
