"""Tiny GGUF files, written with the package gguf from models in Hugging Face format, and the weights that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

KINDS = {
    "qwen2": MODEL_ARCH.QWEN2,
    "llama": MODEL_ARCH.LLAMA,
    "gpt2": MODEL_ARCH.GPT2,
    "gemma3_text": MODEL_ARCH.GEMMA3,
}
BLOCK = 32


def written(
    path: Path,
    folder: Path,
    quantised: str = "F32",
    *,
    settings: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    tensors: Callable[[dict[str, np.ndarray]], None] = lambda found: None,
) -> PreTrainedModel:
    """Write a model as a GGUF file; the model with the weights that are in it comes back.

    Args:
        path: Where to.
        folder: The model, a Llama, a Qwen2 or a GPT-2 with a byte-level tokenizer; of a Gemma 3 the tokenizer is of
            pieces (:func:`_pieces`), with as many tokens.
        quantised: The format of matrices; rows that its blocks do not fit, and vectors, stay as float16 and float32.
        settings, tokenizer: Settings to add or, as None, to leave out, by their names after the architecture and
            ``tokenizer.ggml``.
        tensors: Changes what is written.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, kind = model.config, model.config.model_type
    names = get_tensor_name_map(KINDS[kind], config.num_hidden_layers)
    format_ = GGMLQuantizationType[quantised]
    arrays: dict[str, np.ndarray] = {}
    for name, weight in model.named_parameters():
        stem, _, end = name.rpartition(".")
        value = _as_written(kind, config, name, weight.detach())
        kept = _formatted(value.numpy(), format_)
        weight.data = _as_read(kind, config, name, torch.from_numpy(quants.dequantize(*kept)).clone())
        arrays[f"{names.get_name(stem)}.{end}"] = kept
    if config.tie_word_embeddings:
        arrays.pop("output.weight", None)
    tensors(arrays)
    named = MODEL_ARCH_NAMES[KINDS[kind]]
    writer = GGUFWriter(path, named)
    for name, value in {**_settings(config), **(settings or {})}.items():
        _add(writer, f"{named}.{name}", value)
    own = _pieces(config.vocab_size) if kind == "gemma3_text" else _tokenizer(folder)
    for name, value in {**own, **(tokenizer or {})}.items():
        _add(writer, f"tokenizer.ggml.{name}", value)
    for name, (data, raw) in arrays.items():
        writer.add_tensor(name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model.eval()


def _formatted(value: np.ndarray, format_: GGMLQuantizationType) -> tuple[np.ndarray, GGMLQuantizationType]:
    if value.ndim < 2 or format_.name == "F32":
        return value.astype(np.float32), GGMLQuantizationType.F32
    if format_.name != "F16" and value.shape[-1] % BLOCK == 0:
        return quants.quantize(value, format_), format_
    return value.astype(np.float16), GGMLQuantizationType.F16


def _heads(config: Any, name: str) -> int | None:
    """Of a Llama's queries and keys, which are written with their halves interleaved, how many heads there are."""
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])


def _as_written(kind: str, config: Any, name: str, weight: Tensor) -> Tensor:
    if kind == "llama" and (heads := _heads(config, name)):
        return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()
    if kind == "gemma3_text" and name.endswith("norm.weight"):
        return weight + 1
    return weight.T.contiguous() if kind == "gpt2" and _is_conv1d(name) else weight.contiguous()


def _as_read(kind: str, config: Any, name: str, weight: Tensor) -> Tensor:
    if kind == "llama" and (heads := _heads(config, name)):
        return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
    if kind == "gemma3_text" and name.endswith("norm.weight"):
        return weight - 1
    return weight.T.contiguous() if kind == "gpt2" and _is_conv1d(name) else weight


def _is_conv1d(name: str) -> bool:
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def _settings(config: Any) -> dict[str, Any]:
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
    }
    if config.model_type == "gpt2":
        return {**found, "feed_forward_length": 4 * config.n_embd, "attention.layer_norm_epsilon": 1e-5}
    found |= {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    if config.model_type == "gemma3_text":
        rope = config.rope_parameters["full_attention"]
        return {
            **found,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "attention.sliding_window": config.sliding_window,
            "rope.freq_base": rope["rope_theta"],
            "rope.scaling.type": "linear",
            "rope.scaling.factor": rope["factor"],
        }
    return {**found, "rope.freq_base": config.rope_parameters["rope_theta"]}


def _tokenizer(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
    special = {token["id"] for token in content["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3 if place in special else 1 for place in range(len(tokens))],
        "merges": merges,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "add_bos_token": False,
    }


def _pieces(size: int) -> dict[str, Any]:
    """Tokens as Gemma has them: five of control, all bytes, letters and some pairs of them, and what is never used."""
    letters = [chr(place) for place in range(ord("a"), ord("z") + 1)]
    pieces = ["\u2581", *letters, "ei", "el", "to"]
    control, each = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], [f"<0x{byte:02X}>" for byte in range(256)]
    unused = [f"<unused{place}>" for place in range(size - len(control) - len(each) - len(pieces))]
    kinds = [*[3] * len(control), *[6] * len(each), *[1] * len(pieces), *[3] * len(unused)]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [*control, *each, *pieces, *unused],
        "scores": [-float(place) if kind == 1 else -1000.0 for place, kind in enumerate(kinds)],
        "token_type": kinds,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "unknown_token_id": 3,
        "padding_token_id": 0,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": False,
    }


def _add(writer: GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif value is not None:
        writer.add_array(name, value)
