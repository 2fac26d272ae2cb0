"""OLMo 2: norms stand after attention and MLP, and none before; queries and keys are normalised over all heads at once.

TransformerLens applies its ``ln1`` and ``ln2`` there, by the architecture's name: what enters the residual stream is
the norm of what an MLP or an attention returns.
"""

from __future__ import annotations

from typing import Any

from transformer_lens.pretrained.weight_conversions import convert_olmo3_weights

from interp.errors import ModelError
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings

__all__ = ["FAMILY"]


def _settings(given: Settings) -> dict[str, Any]:
    fields = llama_fields(given)
    if fields["d_head"] * fields["n_heads"] != fields["d_model"]:  # TransformerLens takes the norm of queries to be it
        raise ModelError(
            f"head_dim must be hidden_size / num_attention_heads in {given.architecture}, got {fields['d_head']}"
        )
    if fields["n_key_value_heads"] == fields["n_heads"]:
        fields["n_key_value_heads"] = None  # keys and values of each head's own
    return {**fields, "eps": given.positive("rms_norm_eps")}  # or an MLP that returns nothing would give NaN


FAMILY = Family(
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    known={"allenai/OLMo-2-0425-1B": "OLMo 2, 16 layers", "allenai/OLMo-2-1124-7B": "OLMo 2, 32 layers"},
    settings=_settings,
    convert=convert_olmo3_weights,  # names and shapes are the same; that for OLMo 2 knows no grouped keys
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)
