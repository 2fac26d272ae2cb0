"""GPT-2: learned positions, a norm before each sublayer, weights as a Conv1D keeps them."""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

from interp.models.families.family import Family
from interp.models.families.fields import gpt_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    given.must_be(add_cross_attention=False)
    given.without_effect("reorder_and_upcast_attn")  # how attention is summed where numbers are narrow
    given.without_effect("n_special", "predict_special_tokens", "output_past")  # of its first configs
    return {
        **gpt_fields(given),
        "use_attn_scale": given.value("scale_attn_weights"),
        "scale_attn_by_inverse_layer_idx": given.value("scale_attn_by_inverse_layer_idx"),
    }


FAMILY = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    known={
        "gpt2": "GPT-2 small, 12 layers",
        "gpt2-medium": "GPT-2 medium, 24 layers",
        "gpt2-large": "GPT-2 large, 36 layers",
        "gpt2-xl": "GPT-2 XL, 48 layers: the paper's model",
    },
    settings=_settings,
    convert=convert_gpt2_weights,
    block="transformer.h.{}",
    down_projection="mlp.c_proj",
    d_in_first=True,
)
