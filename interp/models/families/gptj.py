"""GPT-J: GPT-2's settings, rotary positions of neighbouring pairs, attention and MLP side by side."""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_gptj_weights

from interp.models.families.family import Family
from interp.models.families.fields import gpt_fields, rotary_dim
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    given.must_be(rotary=True, scale_attn_weights=True)  # of its first configs
    fields = gpt_fields(given)
    return {
        **fields,
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": rotary_dim(given.value("rotary_dim"), fields["d_head"]),
        "rotary_adjacent_pairs": True,
    }


FAMILY = Family(
    architecture="GPTJForCausalLM",
    model_type="gptj",
    known={"EleutherAI/gpt-j-6b": "GPT-J, 28 layers"},
    settings=_settings,
    convert=convert_gptj_weights,
    block="transformer.h.{}",
    down_projection="mlp.fc_out",
)
