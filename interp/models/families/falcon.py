"""Falcon: attention and MLP side by side, under one norm or two, keys and values of one head or of few."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import Linear, attention, linear, mlp, named, norm
from interp.models.families.family import Family
from interp.models.families.fields import context, rotary_dim
from interp.models.families.rope import longest_context, rope_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    given.must_be(alibi=False, apply_residual_connection_post_layernorm=False)
    width, heads = given.whole("hidden_size"), given.whole("num_attention_heads")
    d_head = given.divided("hidden_size", "num_attention_heads")
    if given.value("new_decoder_architecture"):
        given.must_be(parallel_attn=True)
        given.divided("num_attention_heads", "num_kv_heads")
    else:
        given.must_be(num_ln_in_parallel_attn=1)
    given.without_effect("num_ln_in_parallel_attn", "bias")  # found with the weights
    given.without_effect("multi_query", "num_kv_heads")  # below
    rope = given.part("rope_parameters")
    return {
        "d_model": width,
        "d_head": d_head,
        "n_heads": heads,
        "d_mlp": given.whole("ffn_hidden_size"),
        "n_layers": given.whole("num_hidden_layers"),
        "n_ctx": context(given.whole("max_position_embeddings"), longest_context(rope)),
        "eps": given.value("layer_norm_epsilon"),
        "d_vocab": given.whole("vocab_size"),
        "act_fn": given.value("activation"),
        "normalization_type": "LN",
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": rotary_dim(d_head, d_head),
        "n_key_value_heads": _key_value_heads(given),
        "parallel_attn_mlp": bool(given.value("parallel_attn")),
        **rope_fields(rope),
    }


def _key_value_heads(given: Settings) -> int:
    if given.value("new_decoder_architecture"):
        return given.whole("num_kv_heads")
    return 1 if given.value("multi_query") else given.whole("num_attention_heads")


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    def block(layer: Any) -> dict[str, Tensor]:
        queries, keys, values = _by_group(layer.self_attention.query_key_value, cfg)
        before = getattr(layer, "ln_attn", None) or layer.input_layernorm
        beside = getattr(layer, "ln_mlp", None) or before
        return {
            **norm("ln1", before),
            **norm("ln2", beside if cfg.parallel_attn_mlp else layer.post_attention_layernorm),
            **attention(cfg, queries, keys, values, linear(layer.self_attention.dense)),
            **mlp(layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h),
        }

    inner = hf_model.transformer
    blocks = (block(layer) for layer in inner.h)
    return named(inner.word_embeddings.weight, blocks, norm("ln_final", inner.ln_f), linear(hf_model.lm_head))


def _by_group(fused: nn.Linear, cfg: HookedTransformerConfig) -> list[Linear]:
    """Queries, keys and values, of which each group of heads has its own below each other: queries, a key, a value."""
    assert cfg.n_key_value_heads is not None
    in_group = cfg.n_heads // cfg.n_key_value_heads

    def part(rows: slice, of: Tensor) -> Tensor:
        return of.unflatten(0, (-1, in_group + 2, cfg.d_head))[:, rows].flatten(0, 2)

    kinds = (slice(None, in_group), slice(in_group, in_group + 1), slice(in_group + 1, None))
    return [
        (part(rows, fused.weight), None if fused.bias is None else part(rows, fused.bias))  # a copy: rows lie apart
        for rows in kinds
    ]


FAMILY = Family(
    architecture="FalconForCausalLM",
    model_type="falcon",
    known={"tiiuae/falcon-7b": "Falcon, 32 layers", "tiiuae/falcon-40b": "Falcon, 60 layers"},
    settings=_settings,
    convert=_convert,
    block="transformer.h.{}",
    down_projection="mlp.dense_4h_to_h",
)
