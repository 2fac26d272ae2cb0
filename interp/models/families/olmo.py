"""OLMo, the first: as Llama, with norms that have no parameters, and queries, keys and values that may be clipped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import decoder, gated_mlp, projections
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given, attention_bias=True)
    given.without_effect("pretraining_tp")
    return {
        **fields,
        "eps": 1e-5,
        "normalization_type": "LN",
        "final_rms": False,
        "clip_qkv": None if given.value("clip_qkv") is None else given.positive("clip_qkv"),
    }


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.w": torch.ones(cfg.d_model), f"{name}.b": torch.zeros(cfg.d_model)}

    def block(layer: Any) -> dict[str, Tensor]:
        gated = layer.mlp
        return {
            **norm("ln1"),
            **norm("ln2"),
            **projections(cfg, layer.self_attn),
            **gated_mlp(gated.gate_proj.weight, gated.up_proj.weight, gated.down_proj.weight),
        }

    return decoder(hf_model, block, norm("ln_final"))


FAMILY = Family(
    architecture="OlmoForCausalLM",
    model_type="olmo",
    known={"allenai/OLMo-1B-hf": "OLMo, 16 layers", "allenai/OLMo-7B-hf": "OLMo, 32 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
