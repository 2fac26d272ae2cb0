"""OPT: learned positions whose first two rows no token has, and a ReLU."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import linear, mlp, named, norm, projections
from interp.models.families.family import Family
from interp.models.families.fields import context
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]

OFFSET = 2
"""Rows of the position embedding that stand before that of the first token."""


def _settings(given: Settings) -> dict[str, Any]:
    width = given.whole("hidden_size")
    given.must_be(do_layer_norm_before=True, _remove_final_layer_norm=False, layer_norm_elementwise_affine=True)
    given.must_be(word_embed_proj_dim=width)
    given.without_effect("enable_bias")  # found with the weights
    given.without_effect("dropout", "activation_dropout", "layerdrop", "init_std")  # training
    return {
        "d_model": width,
        "d_head": given.divided("hidden_size", "num_attention_heads"),
        "n_heads": given.whole("num_attention_heads"),
        "d_mlp": given.whole("ffn_dim"),
        "n_layers": given.whole("num_hidden_layers"),
        "n_ctx": context(given.whole("max_position_embeddings")),
        "eps": 1e-5,
        "d_vocab": given.whole("vocab_size"),
        "act_fn": given.value("activation_function"),
        "normalization_type": "LN",
    }


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    def block(layer: Any) -> dict[str, Tensor]:
        return {
            **norm("ln1", layer.self_attn_layer_norm),
            **norm("ln2", layer.final_layer_norm),
            **projections(cfg, layer.self_attn, "out_proj"),
            **mlp(layer.fc1, layer.fc2),
        }

    inner = hf_model.model.decoder
    blocks = (block(layer) for layer in inner.layers)
    state = named(inner.embed_tokens.weight, blocks, norm("ln_final", inner.final_layer_norm), linear(hf_model.lm_head))
    return state | {"pos_embed.W_pos": inner.embed_positions.weight[OFFSET : OFFSET + cfg.n_ctx]}


FAMILY = Family(
    architecture="OPTForCausalLM",
    model_type="opt",
    known={"facebook/opt-125m": "OPT, 12 layers", "facebook/opt-1.3b": "OPT, 24 layers"},
    settings=_settings,
    convert=_convert,
    block="model.decoder.layers.{}",
    down_projection="fc2",
)
