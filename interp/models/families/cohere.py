"""Cohere (Command R): attention and MLP side by side under one norm, neighbouring pairs turn, and scaled logits.

The scale of the logits is in the weights here: W_U is the scaled unembedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import llama_weights
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given, attention_bias=True)
    given.must_be(use_qk_norm=False)
    given.positive("logit_scale")  # in the weights, below
    given.without_effect("pretraining_tp", "model_max_length")
    return {
        **fields,
        "eps": given.value("layer_norm_eps"),
        "rotary_adjacent_pairs": True,
        "parallel_attn_mlp": True,
        "normalization_type": "LN",
        "final_rms": False,
    }


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    state = llama_weights(hf_model, cfg, ln2="input_layernorm")
    norms = ["ln_final", *(f"blocks.{layer}.{name}" for layer in range(cfg.n_layers) for name in ("ln1", "ln2"))]
    state |= {f"{name}.b": torch.zeros_like(state[f"{name}.w"]) for name in norms}
    return state | {"unembed.W_U": state["unembed.W_U"] * hf_model.config.logit_scale}


FAMILY = Family(
    architecture="CohereForCausalLM",
    model_type="cohere",
    known={"CohereLabs/c4ai-command-r-v01": "Command R, 40 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
    own_unembedding=True,
)
