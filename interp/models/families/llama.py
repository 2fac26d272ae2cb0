"""Llama, and all that took its architecture as it is: SmolLM2, the embedded model, among them."""

from __future__ import annotations

from typing import Any

from interp.models.families.blocks import llama_weights
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given, attention_bias=True)
    given.must_be(rope_interleaved=False)  # of SmolLM2's configs
    given.without_effect("pretraining_tp", "is_llama_config", "max_sequence_length")
    if fields["n_key_value_heads"] == fields["n_heads"]:
        fields["n_key_value_heads"] = None  # keys and values of each head's own
    return fields


FAMILY = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    known={
        "HuggingFaceTB/SmolLM2-360M": "SmolLM2, 32 layers",
        "HuggingFaceTB/SmolLM2-1.7B": "SmolLM2, 24 layers",
        "meta-llama/Llama-3.2-1B": "Llama 3.2, 16 layers",
        "meta-llama/Llama-3.1-8B": "Llama 3.1, 32 layers",
    },
    settings=_settings,
    convert=llama_weights,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
