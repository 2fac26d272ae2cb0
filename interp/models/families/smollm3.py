"""SmolLM3: as Llama, with some layers in which nothing turns."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.errors import ModelError, excerpt
from interp.models.families.blocks import llama_weights
from interp.models.families.family import Family
from interp.models.families.fields import alike_within_the_window, llama_fields
from interp.models.families.rope import unturned_tables
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    alike_within_the_window(given)
    fields = llama_fields(given, attention_bias=True)
    turning = given.value("no_rope_layers")  # 1 where a layer turns, for all that its name says
    right = isinstance(turning, list) and all(mark in (0, 1) for mark in turning)
    if not right or len(turning) < fields["n_layers"]:
        raise ModelError(f"no_rope_layers must hold 0 or 1 for each layer, got {excerpt(turning)}")
    given.without_effect("no_rope_layer_interval")  # the same, shorter
    given.without_effect("pretraining_tp")
    return fields


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    turning = hf_model.config.no_rope_layers
    still = [layer for layer in range(cfg.n_layers) if not turning[layer]]
    return {**llama_weights(hf_model, cfg), **unturned_tables(cfg, still)}


FAMILY = Family(
    architecture="SmolLM3ForCausalLM",
    model_type="smollm3",
    known={"HuggingFaceTB/SmolLM3-3B-Base": "SmolLM3, 36 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
