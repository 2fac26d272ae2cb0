"""More of what stands in ``config.json`` of models to start from: those of the families that came later."""

from typing import Any

__all__ = ["LATER"]


def _config(
    kind: tuple[str, str], layers: int, width: int, heads: int, mlp: int, vocabulary: int, **others: Any
) -> dict[str, Any]:
    architecture, model_type = kind
    return {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": mlp,
        "model_type": model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0",
        "use_cache": True,
        "vocab_size": vocabulary,
        **others,
    }


def _qwen3(layers: int, width: int, heads: int, mlp: int, **others: Any) -> dict[str, Any]:
    return _config(
        *(("Qwen3ForCausalLM", "qwen3"), layers, width, heads, mlp, 151936),
        attention_bias=False,
        bos_token_id=151643,
        eos_token_id=151643,
        head_dim=128,
        max_position_embeddings=32768,
        max_window_layers=layers,
        num_key_value_heads=8,
        rms_norm_eps=1e-06,
        rope_scaling=None,
        **{"rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False, **others},
    )


def _gemma(layers: int, width: int, heads: int, few: int, mlp: int, **others: Any) -> dict[str, Any]:
    return _config(
        *(("GemmaForCausalLM", "gemma"), layers, width, heads, mlp, 256000),
        attention_bias=False,
        bos_token_id=2,
        eos_token_id=1,
        head_dim=256,
        max_position_embeddings=8192,
        num_key_value_heads=few,
        pad_token_id=0,
        rms_norm_eps=1e-06,
        rope_scaling=None,
        **{"hidden_act": "gelu", "hidden_activation": None, "tie_word_embeddings": True, **others},
    )


def _phi(layers: int, width: int, mlp: int, share: float) -> dict[str, Any]:
    return _config(
        *(("PhiForCausalLM", "phi"), layers, width, 32, mlp, 51200),
        _name_or_path="microsoft/phi",
        bos_token_id=None,
        embd_pdrop=0.0,
        eos_token_id=None,
        layer_norm_eps=1e-05,
        max_position_embeddings=2048,
        num_key_value_heads=None,
        partial_rotary_factor=share,
        qk_layernorm=False,
        resid_pdrop=0.0,
        rope_scaling=None,
        hidden_act="gelu_new",
    )


def _phi3(vocabulary: int, few: int, theta: float, **others: Any) -> dict[str, Any]:
    return _config(
        *(("Phi3ForCausalLM", "phi3"), 32, 3072, {8: 24, 32: 32}[few], 8192, vocabulary),
        auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
        embd_pdrop=0.0,
        num_key_value_heads=few,
        original_max_position_embeddings=4096,
        resid_pdrop=0.0,
        rms_norm_eps=1e-05,
        **{"rope_theta": theta, **others},
    )


def _olmo(architecture: str, model_type: str, mlp: int, **others: Any) -> dict[str, Any]:
    return _config(
        *((architecture, model_type), 16, 2048, 16, mlp, 50304),
        attention_bias=False,
        clip_qkv=None,
        eos_token_id=50279,
        num_key_value_heads=16,
        pad_token_id=1,
        rope_scaling=None,
        **others,
    )


def _falcon(layers: int, width: int, heads: int, **others: Any) -> dict[str, Any]:
    return {
        "alibi": False,
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["FalconForCausalLM"],
        "attention_dropout": 0.0,
        "bias": False,
        "bos_token_id": 11,
        "eos_token_id": 11,
        "hidden_dropout": 0.0,
        "hidden_size": width,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "falcon",
        "multi_query": True,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "parallel_attn": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.27.4",
        "use_cache": True,
        "vocab_size": 65024,
        **others,
    }


def _neo(layers: int, width: int, heads: int, **others: Any) -> dict[str, Any]:
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * (layers // 2),
        "attention_types": [[["global", "local"], layers // 2]],
        "bos_token_id": 50256,
        "embed_dropout": 0,
        "eos_token_id": 50256,
        "gradient_checkpointing": False,
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neo",
        "num_heads": heads,
        "num_layers": layers,
        "resid_dropout": 0,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "transformers_version": "4.9.0.dev0",
        "use_cache": True,
        "vocab_size": 50257,
        "window_size": 256,
        **others,
    }


def _opt(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 4 * width,
        "hidden_size": width,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "transformers_version": "4.21.0.dev0",
        "use_cache": True,
        "vocab_size": 50272,
        "word_embed_proj_dim": width,
    }


def _bloom(layers: int, width: int, heads: int, **others: Any) -> dict[str, Any]:
    return {
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["BloomForCausalLM"],
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_dropout": 0.0,
        "hidden_size": width,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "masked_softmax_fusion": True,
        "model_type": "bloom",
        "n_head": heads,
        "n_inner": None,
        "n_layer": layers,
        "offset_alibi": 100,
        "pad_token_id": 3,
        "pretraining_tp": 1,
        "skip_bias_add": True,
        "skip_bias_add_qkv": False,
        "transformers_version": "4.20.0",
        "unk_token_id": 0,
        "use_cache": True,
        "vocab_size": 250880,
        **others,
    }


_LONGROPE = {"long_factor": [1.1] * 48, "short_factor": [1.0] * 48, "type": "longrope"}
_PHI4 = {
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "sliding_window": 262144,
}

LATER: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B-Base": _qwen3(28, 1024, 16, 3072, tie_word_embeddings=True),
    "Qwen/Qwen3-8B-Base": _qwen3(36, 4096, 32, 12288),
    "google/gemma-2b": _gemma(18, 2048, 8, 1, 16384),
    "google/gemma-7b": _gemma(28, 3072, 16, 16, 24576, hidden_activation="gelu_pytorch_tanh"),
    "microsoft/phi-1_5": _phi(24, 2048, 8192, 0.5),
    "microsoft/phi-2": _phi(32, 2560, 10240, 0.4),
    "microsoft/Phi-3-mini-4k-instruct": _phi3(
        *(32064, 32, 10000.0),
        attention_bias=False,
        max_position_embeddings=4096,
        rope_scaling=None,
        sliding_window=2047,
        bos_token_id=1,
        eos_token_id=32000,
        pad_token_id=32000,
    ),
    "microsoft/Phi-4-mini-instruct": _phi3(
        *(200064, 8, 10000.0),
        attention_bias=False,
        bos_token_id=199999,
        eos_token_id=199999,
        max_position_embeddings=131072,
        pad_token_id=199999,
        partial_rotary_factor=0.75,
        rope_scaling=_LONGROPE,
        tie_word_embeddings=True,
        **_PHI4,
    ),
    "allenai/OLMo-1B-hf": _olmo(
        *("OlmoForCausalLM", "olmo", 8192), max_position_embeddings=2048, pretraining_tp=1, tie_word_embeddings=True
    ),
    "allenai/OLMo-7B-hf": {
        **_olmo("OlmoForCausalLM", "olmo", 11008, max_position_embeddings=2048, pretraining_tp=1),
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
    },
    "HuggingFaceTB/SmolLM3-3B-Base": _config(
        *(("SmolLM3ForCausalLM", "smollm3"), 36, 2048, 16, 11008, 128256),
        attention_bias=False,
        bos_token_id=128000,
        eos_token_id=128001,
        layer_types=["full_attention"] * 36,
        max_position_embeddings=65536,
        max_window_layers=28,
        mlp_bias=False,
        no_rope_layer_interval=4,
        no_rope_layers=[1, 1, 1, 0] * 9,
        num_key_value_heads=4,
        pad_token_id=128004,
        pretraining_tp=2,
        rms_norm_eps=1e-06,
        rope_scaling=None,
        sliding_window=None,
        use_sliding_window=False,
        rope_theta=5000000.0,
        tie_word_embeddings=True,
    ),
    "stabilityai/stablelm-2-1_6b": _config(
        *(("StableLmForCausalLM", "stablelm"), 24, 2048, 32, 5632, 100352),
        bos_token_id=100257,
        eos_token_id=100257,
        layer_norm_eps=1e-05,
        max_position_embeddings=4096,
        num_key_value_heads=32,
        partial_rotary_factor=0.25,
        use_qkv_bias=True,
    ),
    "zai-org/glm-4-9b-hf": _config(
        *(("GlmForCausalLM", "glm"), 40, 4096, 32, 13696, 151552),
        attention_bias=True,
        eos_token_id=[151329, 151336, 151338],
        head_dim=128,
        max_position_embeddings=8192,
        num_key_value_heads=2,
        pad_token_id=151329,
        partial_rotary_factor=0.5,
        rms_norm_eps=1.5625e-07,
    ),
    "CohereLabs/c4ai-command-r-v01": _config(
        *(("CohereForCausalLM", "cohere"), 40, 8192, 64, 22528, 256000),
        attention_bias=False,
        bos_token_id=5,
        eos_token_id=255001,
        layer_norm_eps=1e-05,
        logit_scale=0.0625,
        max_position_embeddings=8192,
        model_max_length=131072,
        num_key_value_heads=64,
        pad_token_id=0,
        pretraining_tp=1,
        use_qk_norm=False,
        rope_theta=8000000.0,
        tie_word_embeddings=True,
    ),
    "tiiuae/falcon-7b": _falcon(32, 4544, 71, new_decoder_architecture=False),
    "tiiuae/falcon-40b": _falcon(60, 8192, 128, new_decoder_architecture=True, num_kv_heads=8),
    "bigcode/starcoder2-3b": _config(
        *(("Starcoder2ForCausalLM", "starcoder2"), 30, 3072, 24, 12288, 49152),
        bos_token_id=0,
        embedding_dropout=0.1,
        eos_token_id=0,
        max_position_embeddings=16384,
        mlp_type="default",
        norm_epsilon=1e-05,
        norm_type="layer_norm",
        num_key_value_heads=2,
        residual_dropout=0.1,
        sliding_window=4096,
        use_bias=True,
        hidden_act="gelu_pytorch_tanh",
        rope_theta=999999.4420358813,
        tie_word_embeddings=True,
    ),
    "EleutherAI/gpt-neo-125m": _neo(12, 768, 12),
    "EleutherAI/gpt-neo-1.3B": _neo(24, 2048, 16, tokenizer_class="GPT2Tokenizer"),
    "facebook/opt-125m": _opt(12, 768, 12),
    "facebook/opt-1.3b": _opt(24, 2048, 32),
    "bigscience/bloom-560m": _bloom(24, 1024, 16, seq_length=2048),
    "bigscience/bloom-7b1": _bloom(30, 4096, 32, slow_but_exact=False),
    "mistralai/Mixtral-8x7B-v0.1": _config(
        *(("MixtralForCausalLM", "mixtral"), 32, 4096, 32, 14336, 32000),
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=32768,
        num_experts_per_tok=2,
        num_key_value_heads=8,
        num_local_experts=8,
        output_router_logits=False,
        rms_norm_eps=1e-05,
        router_aux_loss_coef=0.02,
        sliding_window=None,
        rope_theta=1000000.0,
    ),
    "allenai/OLMoE-1B-7B-0924": _olmo(
        *("OlmoeForCausalLM", "olmoe", 1024),
        max_position_embeddings=4096,
        norm_topk_prob=False,
        num_experts=64,
        num_experts_per_tok=8,
        output_router_logits=False,
        rms_norm_eps=1e-05,
        router_aux_loss_coef=0.01,
    ),
}
