"""Phi, to Phi-2: attention and MLP side by side under one norm, biases everywhere, a share of each head turns."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import decoder, mlp, norm, projections
from interp.models.families.family import Family
from interp.models.families.fields import partly_rotary, rotary_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = rotary_fields(given)
    given.must_be(qk_layernorm=False)
    given.divided("num_attention_heads", "num_key_value_heads")
    return {
        **fields,
        "eps": given.value("layer_norm_eps"),
        "rotary_dim": partly_rotary(given, fields["d_head"]),
        "n_key_value_heads": given.whole("num_key_value_heads"),
        "parallel_attn_mlp": True,
        "normalization_type": "LN",
    }


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    def block(layer: Any) -> dict[str, Tensor]:
        return {
            **norm("ln1", layer.input_layernorm),
            **norm("ln2", layer.input_layernorm),
            **projections(cfg, layer.self_attn, "dense"),
            **mlp(layer.mlp.fc1, layer.mlp.fc2),
        }

    return decoder(hf_model, block, norm("ln_final", hf_model.model.final_layernorm))


FAMILY = Family(
    architecture="PhiForCausalLM",
    model_type="phi",
    known={"microsoft/phi-1_5": "Phi-1.5, 24 layers", "microsoft/phi-2": "Phi-2, 32 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.fc2",
)
