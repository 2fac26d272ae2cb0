"""StarCoder2: grouped keys and values, norms that centre, an MLP without a gate, and biases everywhere."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.blocks import decoder, mlp, norm, projections
from interp.models.families.family import Family
from interp.models.families.fields import rotary_dim, rotary_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = rotary_fields(given)
    given.divided("num_attention_heads", "num_key_value_heads")
    given.must_be(mlp_type="default", norm_type="layer_norm")  # of its first configs
    given.without_effect("use_bias")  # found with the weights
    given.without_effect("residual_dropout", "embedding_dropout")
    return {
        **fields,
        "eps": given.value("norm_epsilon"),
        "rotary_dim": rotary_dim(fields["d_head"], fields["d_head"]),
        "n_key_value_heads": given.whole("num_key_value_heads"),
        "normalization_type": "LN",
    }


def _convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    def block(layer: Any) -> dict[str, Tensor]:
        return {
            **norm("ln1", layer.input_layernorm),
            **norm("ln2", layer.post_attention_layernorm),
            **projections(cfg, layer.self_attn),
            **mlp(layer.mlp.c_fc, layer.mlp.c_proj),
        }

    return decoder(hf_model, block, norm("ln_final", hf_model.model.norm))


FAMILY = Family(
    architecture="Starcoder2ForCausalLM",
    model_type="starcoder2",
    known={"bigcode/starcoder2-3b": "StarCoder2, 30 layers"},
    settings=_settings,
    convert=_convert,
    block="model.layers.{}",
    down_projection="mlp.c_proj",
)
