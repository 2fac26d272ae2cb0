"""Gemma 3, where it reads text alone: as Gemma 2, with norms of queries and keys, rotary positions by kind of layer."""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_gemma_weights

from interp.models.families.family import Family
from interp.models.families.gemma2 import gemma_fields, soft_cap
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    given.must_be(attn_logit_softcapping=None)  # its attention does not look at it
    given.without_effect("sliding_window_pattern")  # what layer_types follow from where they are not given
    return {
        **gemma_fields(given),
        "use_qk_norm": True,
        **_rope_fields(given.part("rope_parameters")),
        **soft_cap(given, "final_logit_softcapping", "output_logits_soft_cap"),
    }


def _rope_fields(rope: Settings) -> dict[str, Any]:
    """Layers that slide turn faster, and only the others may be scaled."""
    sliding, full = rope.part("sliding_attention"), rope.part("full_attention")
    sliding.must_be(rope_type="default")
    for part in (sliding, full):
        part.without_effect("type")  # a former name of rope_type
    fields = {"rotary_base": full.positive("rope_theta"), "rotary_base_local": sliding.positive("rope_theta")}
    if full.value("rope_type", "default") == "linear":
        return {**fields, "rotary_scaling_factor": full.positive("factor")}
    full.must_be(rope_type="default")
    return fields


FAMILY = Family(
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    known={"google/gemma-3-270m": "Gemma 3, 18 layers", "google/gemma-3-1b-pt": "Gemma 3, 26 layers"},
    settings=_settings,
    convert=convert_gemma_weights,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
    own_unembedding=True,
)
