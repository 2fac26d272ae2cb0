"""A tiny model of every family, and of variants of some: settings, and weights of which none hides behind a zero."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from interp.models.families import family_named

__all__ = ["CORE", "GROUPED", "TINY", "random_model", "tiny_config"]

_GPT = {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64}
_HIDDEN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
}
GROUPED = {**_HIDDEN, "num_key_value_heads": 2}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_GEMMA = {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 12}
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
CORE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", _GPT),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "neox": ("GPTNeoXForCausalLM", {**_HIDDEN, "rotary_pct": 0.5}),
    "neox-sequential": ("GPTNeoXForCausalLM", {**_HIDDEN, "use_parallel_residual": False}),
    "llama": ("LlamaForCausalLM", GROUPED),
    "llama-mha": ("LlamaForCausalLM", {**_HIDDEN, "num_key_value_heads": 4}),
    "llama3-rope": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": _LLAMA3}),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    # a norm after each MLP; windows shorter, and longer, than the prompts of most tests; caps that bend what they cap
    "gemma2": (
        "Gemma2ForCausalLM",
        {
            **_GEMMA,
            "sliding_window": 4,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **_GEMMA,
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": _GEMMA3_ROPE,
        },
    ),
    "olmo2": ("Olmo2ForCausalLM", {**_HIDDEN, "num_key_value_heads": 4}),
}
"""Those that the tests of every floor run over: they differ in what the floors look at."""

_PAD = {"pad_token_id": 0}
_PART = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
_MSCALE = {**_YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 8, "beta_slow": 2, "truncate": False}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 2.5],
    "long_factor": [3.0, 9.0],
    "original_max_position_embeddings": 64,
}
_LONG = {"max_position_embeddings": 256, "original_max_position_embeddings": 64, "rope_parameters": _LONGROPE}
_EXPERTS = {**GROUPED, "num_experts_per_tok": 2}
_NEO = {"hidden_size": 32, "num_heads": 4, "num_layers": 3, "max_position_embeddings": 64, "window_size": 5}
_WIDTHS = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": 64}
_OPT = {**_WIDTHS, "ffn_dim": 48, "word_embed_proj_dim": 32}
_BLOOM = {"hidden_size": 32, "n_layer": 3, "n_head": 4}
_FALCON = {**_WIDTHS, "ffn_hidden_size": 48}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    **CORE,
    "llama-biases": ("LlamaForCausalLM", {**GROUPED, "attention_bias": True}),
    "llama-linear": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": _LINEAR}),
    "llama-dynamic": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": _DYNAMIC}),
    "llama-yarn": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": _YARN}),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 12, "attention_bias": True}),
    "qwen3-yarn": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 12, "rope_parameters": _MSCALE}),
    "gemma": ("GemmaForCausalLM", {**GROUPED, "num_key_value_heads": 1, "head_dim": 12}),
    "phi": ("PhiForCausalLM", {**GROUPED, "rope_parameters": _PART}),
    "phi3": ("Phi3ForCausalLM", {**GROUPED, **_PAD, "sliding_window": 64}),
    "phi3-longrope": ("Phi3ForCausalLM", {**GROUPED, **_PAD, **_LONG}),
    "olmo": ("OlmoForCausalLM", {**GROUPED, "clip_qkv": 0.8}),
    "olmo2-grouped": ("Olmo2ForCausalLM", GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", {**GROUPED, **_PAD, "no_rope_layers": [1, 0, 1]}),
    "stablelm": ("StableLmForCausalLM", {**GROUPED, "use_qkv_bias": True, "rope_parameters": _PART}),
    "stablelm-parallel": ("StableLmForCausalLM", {**GROUPED, "use_parallel_residual": True}),
    "glm": ("GlmForCausalLM", {**GROUPED, **_PAD, "head_dim": 12, "rope_parameters": _PART}),
    "cohere": ("CohereForCausalLM", {**GROUPED, "attention_bias": True, "logit_scale": 0.3}),
    "falcon": ("FalconForCausalLM", {**_FALCON}),
    "falcon-groups": ("FalconForCausalLM", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-sequential": (
        *("FalconForCausalLM", {**_FALCON, "parallel_attn": False, "multi_query": False, "bias": True}),
    ),
    "starcoder2": ("Starcoder2ForCausalLM", {**GROUPED}),
    "gpt-neo": ("GPTNeoForCausalLM", {**_NEO, "attention_types": [[["global", "local", "local"], 1]]}),
    "opt": ("OPTForCausalLM", _OPT),
    "bloom": ("BloomForCausalLM", _BLOOM),
    "mixtral": ("MixtralForCausalLM", {**_EXPERTS, "num_local_experts": 4}),
    "olmoe": ("OlmoeForCausalLM", {**_EXPERTS, "num_experts": 4, "clip_qkv": 1.5}),
}
"""Every family in the table; all have 3 layers and room for 64 tokens."""


def tiny_config(name: str) -> PreTrainedConfig:
    """The config of one of :data:`TINY`, for the tokenizer of the trained tiny model."""
    architecture, settings = TINY[name]
    special = {"vocab_size": 600, "bos_token_id": 0, "eos_token_id": 0}
    config: PreTrainedConfig = AutoConfig.for_model(family_named(architecture).model_type, **settings, **special)
    return config


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model whose parameters are all random, biases and norms too: none hides behind a zero or a one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:
                centre = 1.0 if name.endswith("weight") else 0.0
                parameter.data = centre + 0.3 * torch.randn_like(parameter)
            else:
                parameter.data = 0.2 * torch.randn_like(parameter)
    return model
