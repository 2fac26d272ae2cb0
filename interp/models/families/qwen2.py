"""Qwen2 and Qwen2.5: as Llama, with biases of queries, keys and values."""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_qwen2_weights

from interp.models.families.family import Family
from interp.models.families.fields import alike_within_the_window, llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    given.must_be(use_mrope=False)
    alike_within_the_window(given)
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
