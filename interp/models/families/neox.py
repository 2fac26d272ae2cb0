"""GPT-NeoX and Pythia: rotary positions in a share of each head, attention and MLP side by side or in turn."""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_neox_weights

from interp.models.families.family import Family
from interp.models.families.fields import partly_rotary, rotary_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = rotary_fields(given)
    given.must_be(attention_bias=True)
    given.without_effect("is_decoder")
    return {
        **fields,
        "eps": given.value("layer_norm_eps"),
        "rotary_dim": partly_rotary(given, fields["d_head"]),
        "parallel_attn_mlp": given.value("use_parallel_residual"),
        "normalization_type": "LN",
    }


FAMILY = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    known={
        "EleutherAI/pythia-160m": "Pythia, 12 layers",
        "EleutherAI/pythia-1b": "Pythia, 16 layers",
        "EleutherAI/pythia-2.8b": "Pythia, 32 layers",
        "EleutherAI/gpt-neox-20b": "GPT-NeoX, 44 layers",
    },
    settings=_settings,
    convert=convert_neox_weights,
    block="gpt_neox.layers.{}",
    down_projection="mlp.dense_4h_to_h",
)
