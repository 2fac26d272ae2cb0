"""Gemma, the first: as Llama, with embeddings times the root of their width and norms that multiply by 1 + w.

Both are in the weights here: W_E is the scaled embedding, a norm's gain is 1 + w.
"""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_gemma_weights

from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given)
    given.must_be(use_bidirectional_attention=False)
    given.must_be(hidden_activation=fields["act_fn"])  # of its first configs, for what hidden_act meant
    return fields


FAMILY = Family(
    architecture="GemmaForCausalLM",
    model_type="gemma",
    known={"google/gemma-2b": "Gemma, 18 layers", "google/gemma-7b": "Gemma, 28 layers"},
    settings=_settings,
    convert=convert_gemma_weights,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
    own_unembedding=True,
)
