"""Qwen2 and Qwen2.5: as Llama, with biases of queries, keys and values."""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_qwen2_weights

from interp.errors import ModelError, excerpt
from interp.models.families.family import Family
from interp.models.families.settings import Settings, llama_fields

__all__ = ["FAMILY"]

ATTENTION = ("full_attention", "sliding_attention")
"""Alike within the window, and no prompt is longer."""


def _settings(given: Settings) -> dict[str, Any]:
    given.must_be(use_mrope=False)
    kinds = given.value("layer_types", [])
    if not isinstance(kinds, list) or any(kind not in ATTENTION for kind in kinds):
        raise ModelError(f"layer_types must be a list of {' and '.join(ATTENTION)}, got {excerpt(kinds)}")
    given.without_effect("use_sliding_window", "max_window_layers")  # which of them slide
    return llama_fields(given)


FAMILY = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    known={"Qwen/Qwen2-0.5B": "Qwen2, 24 layers", "Qwen/Qwen2.5-1.5B": "Qwen2.5, 28 layers"},
    settings=_settings,
    convert=convert_qwen2_weights,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
