"""BLOOM: a norm of the embeddings, and positions as a slope over distance (ALiBi)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_bloom_weights

from interp.errors import ModelError
from interp.models.families.family import Family
from interp.models.families.fields import MAX_CONTEXT, context
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    width, heads = given.whole("hidden_size"), given.whole("n_head")
    if heads & (heads - 1):
        raise ModelError(f"n_head must be a power of 2 (or slopes of positions are others here), got {heads}")
    given.must_be(apply_residual_connection_post_layernorm=False, skip_bias_add_qkv=False)
    given.without_effect("pretraining_tp", "slow_but_exact")  # how products are summed
    given.without_effect("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "skip_bias_add")
    given.without_effect("offset_alibi", "n_inner")  # of its first configs
    return {
        "d_model": width,
        "d_head": given.divided("hidden_size", "n_head"),
        "n_heads": heads,
        "d_mlp": 4 * width,
        "n_layers": given.whole("n_layer"),
        "n_ctx": context(given.whole("seq_length", MAX_CONTEXT)),
        "eps": given.value("layer_norm_epsilon"),
        "d_vocab": given.whole("vocab_size"),
        "act_fn": "gelu_fast",
        "normalization_type": "LN",
        "post_embedding_ln": True,
        "positional_embedding_type": "alibi",
    }


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    # HookedTransformer makes room for learned positions, and adds none where they are slopes
    unused = torch.zeros(cfg.n_ctx, cfg.d_model)
    return {**convert_bloom_weights(hf_model, cfg), "pos_embed.W_pos": unused}


FAMILY = Family(
    architecture="BloomForCausalLM",
    model_type="bloom",
    known={"bigscience/bloom-560m": "BLOOM, 24 layers", "bigscience/bloom-7b1": "BLOOM, 30 layers"},
    settings=_settings,
    convert=_convert,
    block="transformer.h.{}",
    down_projection="mlp.dense_4h_to_h",
)
