"""GPT-Neo: attention without a scale, every other layer of it within a window."""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_neo_weights

from interp.errors import ModelError, excerpt
from interp.models.families.family import Family
from interp.models.families.fields import context, summary_head
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    width = given.whole("hidden_size")
    kinds = given.value("attention_layers")
    if not isinstance(kinds, list) or any(kind not in ("global", "local") for kind in kinds):
        raise ModelError(f"attention_types must speak of global and local attention, got {excerpt(kinds)}")
    given.without_effect("attention_types")  # the same, shorter
    given.without_effect("resid_dropout", "embed_dropout")
    summary_head(given)
    return {
        "d_model": width,
        "d_head": given.divided("hidden_size", "num_heads"),
        "n_heads": given.whole("num_heads"),
        "d_mlp": given.whole("intermediate_size", 4 * width),
        "n_layers": given.whole("num_layers"),
        "n_ctx": context(given.whole("max_position_embeddings")),
        "eps": given.value("layer_norm_epsilon"),
        "d_vocab": given.whole("vocab_size"),
        "act_fn": given.value("activation_function"),
        "normalization_type": "LN",
        "use_attn_scale": False,
        "use_local_attn": True,
        "attn_types": kinds,
        "window_size": given.whole("window_size"),
    }


FAMILY = Family(
    architecture="GPTNeoForCausalLM",
    model_type="gpt_neo",
    known={"EleutherAI/gpt-neo-125m": "GPT-Neo, 12 layers", "EleutherAI/gpt-neo-1.3B": "GPT-Neo, 24 layers"},
    settings=_settings,
    convert=convert_neo_weights,
    block="transformer.h.{}",
    down_projection="mlp.c_proj",
)
