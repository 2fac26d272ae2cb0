"""Mixtral: as Mistral, with a mixture of experts for an MLP.

There is no single W_out, so models of this family are traced and patched with activations, but not attributed to
neurons or edited.
"""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_mixtral_weights

from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given)
    given.without_effect("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # training
    return {
        **fields,
        "num_experts": given.whole("num_local_experts"),
        "experts_per_token": given.whole("num_experts_per_tok"),
        "norm_topk_prob": True,
    }


FAMILY = Family(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    known={"mistralai/Mixtral-8x7B-v0.1": "Mixtral, 32 layers: to locate, not to edit"},
    settings=_settings,
    convert=convert_mixtral_weights,
    block="model.layers.{}",
    down_projection=None,
)
