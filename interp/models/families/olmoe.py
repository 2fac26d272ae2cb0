"""OLMoE: as Llama, with a mixture of experts for an MLP, and a norm of all heads' queries and keys.

There is no single W_out, so models of this family are traced and patched with activations, but not attributed to
neurons or edited.
"""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_olmoe_weights

from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given)
    given.divided("hidden_size", "num_attention_heads")  # its norms are as wide as all heads
    given.without_effect("output_router_logits", "router_aux_loss_coef")  # training
    return {
        **fields,
        "num_experts": given.whole("num_experts"),
        "experts_per_token": given.whole("num_experts_per_tok"),
        "norm_topk_prob": given.value("norm_topk_prob"),
        "clip_qkv": None if given.value("clip_qkv") is None else given.positive("clip_qkv"),
    }


FAMILY = Family(
    architecture="OlmoeForCausalLM",
    model_type="olmoe",
    known={"allenai/OLMoE-1B-7B-0924": "OLMoE, 16 layers: to locate, not to edit"},
    settings=_settings,
    convert=convert_olmoe_weights,
    block="model.layers.{}",
    down_projection=None,
)
