"""Settings of Hugging Face models as those of a HookedTransformer, checked: what is not covered is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from interp.errors import ModelError, excerpt

__all__ = ["MODEL_TYPES", "architecture_of", "hooked_config"]

MAX_CONTEXT = 2048
"""Longest context that is set up: HookedTransformer keeps an n_ctx x n_ctx mask, and facts are short."""

MODEL_TYPES: Mapping[str, str] = {
    "GPT2LMHeadModel": "gpt2",
    "GPTJForCausalLM": "gptj",
    "GPTNeoXForCausalLM": "gpt_neox",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
}
"""Supported architectures, and the ``model_type`` that each goes with."""

ACTIVATIONS = ("gelu_new", "gelu_fast", "silu", "relu", "gelu", "gelu_pytorch_tanh", "relu2")
"""Activations that Hugging Face and TransformerLens compute alike."""

MOST_LAYERS = 10_000


def architecture_of(hf: PreTrainedConfig) -> str:
    """The supported architecture that a config names.

    Raises:
        ModelError: If it names none or another one, if its ``model_type`` is that of another one, or if its weights
            are quantised.
    """
    architecture = (getattr(hf, "architectures", None) or ["unknown"])[0]
    if architecture not in MODEL_TYPES:
        supported = ", ".join(MODEL_TYPES)
        raise ModelError(f"architecture {excerpt(architecture)[1:-1]} is not supported; supported are {supported}")
    if hf.model_type != MODEL_TYPES[architecture]:
        expected = MODEL_TYPES[architecture]
        raise ModelError(f"architecture {architecture} expects model_type {expected!r}, got {hf.model_type!r}")
    quantised = getattr(hf, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise ModelError(
            f"its weights are quantised (quantization_config, quant_method {excerpt(method)}); expected plain float32,"
            " float16 or bfloat16 weights: load the model that was quantised"
        )
    return architecture


def hooked_config(architecture: str, hf: PreTrainedConfig) -> dict[str, Any]:
    """The HookedTransformerConfig fields of a Hugging Face config.

    Raises:
        ModelError: Naming the setting that is not covered or impossible, what was expected and what it is.
    """
    fields = (
        _gpt(architecture, hf) if architecture in ("GPT2LMHeadModel", "GPTJForCausalLM") else _rotary(architecture, hf)
    )
    if fields["act_fn"] not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise ModelError(f"activation {excerpt(fields['act_fn'])} is not supported; supported are {supported}")
    eps = fields["eps"]
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ModelError(f"the epsilon of its normalization must be a number from 0 on, got {excerpt(eps)}")
    if fields["n_layers"] > MOST_LAYERS:
        raise ModelError(f"it has {fields['n_layers']} layers; expected at most {MOST_LAYERS}")
    return fields


def _gpt(architecture: str, hf: PreTrainedConfig) -> dict[str, Any]:
    width, heads = _whole(hf, "n_embd"), _whole(hf, "n_head")
    fields = {
        "d_model": width,
        "d_head": _divided(width, heads, "n_embd", "n_head"),
        "n_heads": heads,
        "d_mlp": 4 * width if getattr(hf, "n_inner", None) is None else _whole(hf, "n_inner"),
        "n_layers": _whole(hf, "n_layer"),
        "n_ctx": min(_whole(hf, "n_positions"), MAX_CONTEXT),
        "eps": hf.layer_norm_epsilon,
        "d_vocab": _whole(hf, "vocab_size"),
        "act_fn": hf.activation_function,
        "normalization_type": "LN",
    }
    if architecture == "GPTJForCausalLM":
        return fields | {
            "parallel_attn_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_dim": _rotary_dim(hf.rotary_dim, fields["d_head"]),
            "rotary_adjacent_pairs": True,
        }
    if getattr(hf, "add_cross_attention", False):
        raise ModelError("GPT-2 with cross attention (add_cross_attention) is not supported")
    return fields | {
        "use_attn_scale": hf.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": hf.scale_attn_by_inverse_layer_idx,
    }


def _rotary(architecture: str, hf: PreTrainedConfig) -> dict[str, Any]:
    width, heads = _whole(hf, "hidden_size"), _whole(hf, "num_attention_heads")
    if getattr(hf, "head_dim", None) is not None:
        d_head = _whole(hf, "head_dim")
    else:
        d_head = _divided(width, heads, "hidden_size", "num_attention_heads")
    window = MAX_CONTEXT if getattr(hf, "sliding_window", None) is None else _whole(hf, "sliding_window")
    common = {
        "d_model": width,
        "d_head": d_head,
        "n_heads": heads,
        "d_mlp": _whole(hf, "intermediate_size"),
        "n_layers": _whole(hf, "num_hidden_layers"),
        "n_ctx": min(_whole(hf, "max_position_embeddings"), MAX_CONTEXT, window),
        "d_vocab": _whole(hf, "vocab_size"),
        "act_fn": hf.hidden_act,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        **_rope(architecture, hf),
    }
    if architecture == "GPTNeoXForCausalLM":
        if not getattr(hf, "attention_bias", True):
            raise ModelError("GPT-NeoX without attention bias is not supported")
        share = hf.rope_parameters.get("partial_rotary_factor", 1.0)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ModelError(f"partial_rotary_factor must be a number above 0 and up to 1, got {excerpt(share)}")
        return {
            **common,
            "eps": hf.layer_norm_eps,
            "rotary_dim": _rotary_dim(int(d_head * share), d_head),
            "parallel_attn_mlp": hf.use_parallel_residual,
            "normalization_type": "LN",
        }
    if getattr(hf, "attention_bias", False) or getattr(hf, "mlp_bias", False):
        raise ModelError(f"{architecture} with attention_bias or mlp_bias is not supported")
    groups = _whole(hf, "num_key_value_heads")
    _divided(heads, groups, "num_attention_heads", "num_key_value_heads")
    # Llama's converter takes n_key_value_heads=None for plain multi-head attention; the others want a number
    grouped = architecture != "LlamaForCausalLM" or groups != heads
    return {
        **common,
        "eps": hf.rms_norm_eps,
        "rotary_dim": _rotary_dim(d_head, d_head),
        "n_key_value_heads": groups if grouped else None,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
    }


def _rope(architecture: str, hf: PreTrainedConfig) -> dict[str, Any]:
    rope = hf.rope_parameters
    if not isinstance(rope, Mapping):
        raise ModelError(f"rope_parameters must be an object of settings, got {excerpt(rope)}")
    kind = rope.get("rope_type", "default")
    fields: dict[str, Any] = {"rotary_base": _positive(rope, "rope_theta")}
    if kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": _positive(rope, "original_max_position_embeddings"),
            "NTK_by_parts_low_freq_factor": _positive(rope, "low_freq_factor"),
            "NTK_by_parts_high_freq_factor": _positive(rope, "high_freq_factor"),
            "NTK_by_parts_factor": _positive(rope, "factor"),
        }
    elif kind != "default":
        raise ModelError(f"{architecture} with {excerpt(kind)} rotary scaling is not supported")
    return fields


def _whole(hf: PreTrainedConfig, name: str) -> int:
    value = getattr(hf, name, None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"setting {name} must be a positive whole number, got {excerpt(value)}")
    return value


def _positive(settings: Mapping[str, Any], name: str) -> Any:
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ModelError(f"rope_parameters: setting {name} must be a positive number, got {excerpt(value)}")
    return value


def _divided(whole: int, parts: int, name: str, by: str) -> int:
    if whole % parts:
        raise ModelError(f"{name} {whole} cannot be divided by {by} {parts}")
    return whole // parts


def _rotary_dim(value: Any, d_head: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= d_head or value % 2:
        raise ModelError(f"rotary dimensions must be an even number from 2 to {d_head}, got {excerpt(value)}")
    return value
