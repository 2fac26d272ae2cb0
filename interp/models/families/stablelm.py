"""StableLM: as Llama, with norms that centre, a share of each head that turns, and sublayers side by side in some."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import llama_weights
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields, partly_rotary
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given)
    given.must_be(qk_layernorm=False)
    given.without_effect("use_qkv_bias")  # found with the weights
    return {
        **fields,
        "eps": given.value("layer_norm_eps"),
        "rotary_dim": partly_rotary(given, fields["d_head"]),
        "parallel_attn_mlp": given.value("use_parallel_residual"),
        "normalization_type": "LN",
        "final_rms": False,
    }


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    return llama_weights(hf_model, cfg, ln2="input_layernorm" if cfg.parallel_attn_mlp else "post_attention_layernorm")


FAMILY = Family(
    architecture="StableLmForCausalLM",
    model_type="stablelm",
    known={"stabilityai/stablelm-2-1_6b": "StableLM 2, 24 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
