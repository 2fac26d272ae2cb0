"""What a GGUF file says of its model, put into a Hugging Face config; what finds no place there is refused by name.

transformers reads such a file, but not all of it: how positions are scaled, the width of heads, sliding windows, biases
and what else its table lacks is dropped without a word, and the model is then another one. So every setting in the
file is read here once more. What has a name in the config is set there; what has none, and every tensor without a
parameter, is refused.

The scaling of Llama 3's positions is in a tensor (``rope_freqs.weight``), the factors themselves; they are taken if
they are those of the formula with the published ends.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map, quants
from transformers import PreTrainedConfig

from interp.errors import ModelError, excerpt

__all__ = ["ARCHITECTURES", "Metadata", "check_places", "own_settings", "quantisation", "set_settings"]

Metadata = Mapping[str, Any]
"""Settings of a GGUF file by name."""

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2", "gemma3")
"""Architectures, as these files name them, of which has been looked at what their files leave unsaid."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "context_length": ("n_positions", "max_position_embeddings"),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("n_inner", "intermediate_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}
"""Settings of the file, by their names after the architecture, and the names that a config may have for each."""

WITHOUT_EFFECT = frozenset(("rope.scaling.finetuned", "tensor_data_layout", "attention.causal"))
GEMMA_27B_LAYERS = 62
"""By which llama.cpp knows the one Gemma 3 whose queries are not scaled by the width of a head."""
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The ends between which its frequencies are scaled, in every published model."""


def quantisation(reader: GGUFReader) -> dict[str, int]:
    """How many tensors are stored in which number format.

    Raises:
        ModelError: If one cannot be dequantised, naming it and its format.
    """
    plain = ("F32", "F16", "F64")
    for tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.values():
        kind = tensor.tensor_type
        if kind.name in plain:
            continue
        _, type_size = GGML_QUANT_SIZES[kind]
        try:
            quants.dequantize(np.zeros((1, type_size), dtype=np.uint8), kind)
        except NotImplementedError:
            raise ModelError(
                f"tensor {tensor.name} is stored as {kind.name}, which the package gguf cannot dequantise: take a file"
                " in another quantisation (Q4_K_M, Q8_0, F16, ...)"
            ) from None
    return dict(Counter(tensor.tensor_type.name for tensor in reader.tensors).most_common())


def own_settings(said: Metadata) -> dict[str, Any]:
    """What the file says of its architecture, by the names after that.

    Raises:
        ModelError: If a setting differs from layer to layer.
    """
    front = f"{said['general.architecture']}."
    return {
        (own := name.removeprefix(front)): _one(own, value) for name, value in said.items() if name.startswith(front)
    }


def set_settings(config: PreTrainedConfig, said: Metadata, reader: GGUFReader) -> None:
    """Put all that the file says into the config that transformers made of a part of it.

    Raises:
        ModelError: Naming a setting that has no place there, or whose value is none that a config can have.
    """
    architecture, own = said["general.architecture"], own_settings(said)
    if "attention.head_count_kv" not in own and architecture == "llama":
        raise ModelError("attention.head_count_kv is missing: how its queries and keys are permuted is not said")
    if hasattr(config, "num_key_value_heads"):
        own.setdefault("attention.head_count_kv", own.get("attention.head_count"))
    config.__dict__.pop("feed_forward_length", None)  # which transformers takes as it is called in the file
    for name, value in own.items():
        if name in WITHOUT_EFFECT or name.startswith("rope."):
            continue
        _set(config, name, value)
    if hasattr(config, "head_dim"):  # which transformers may have taken from rope.dimension_count
        config.head_dim = own.get("attention.key_length", config.hidden_size // config.num_attention_heads)
    if hasattr(config, "query_pre_attn_scalar"):  # which no file says
        whole = config.num_hidden_layers == GEMMA_27B_LAYERS
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if whole else config.head_dim
    names = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" in names:
        config.vocab_size = int(names["token_embd.weight"].shape[-1])
    for kind, flag in (("attn_q.bias", "attention_bias"), ("ffn_down.bias", "mlp_bias")):
        if hasattr(config, flag):  # the file says it by having them
            setattr(config, flag, f"blk.0.{kind}" in names)
    if hasattr(config, "rope_parameters"):
        _set_rotation(config, own, names.get("rope_freqs.weight"))
    elif rope := sorted(name for name in own if name.startswith("rope.") and name not in WITHOUT_EFFECT):
        raise ModelError(f"setting {rope[0]} has no place in a {type(config).__name__}, got {excerpt(own[rope[0]])}")


def check_places(parameters: Collection[str], said: Metadata, reader: GGUFReader, layers: int) -> None:
    """Refuse a file with a tensor that no parameter of the model takes.

    Raises:
        ModelError: Naming the tensors.
    """
    architecture = said["general.architecture"]
    number = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(number, layers)
    taken = {"rope_freqs.weight"}  # read as settings
    for parameter in parameters:
        stem, _, kind = parameter.rpartition(".")
        taken.add(f"{names.get_name(stem)}.{kind}")
    left = [tensor.name for tensor in reader.tensors if tensor.name not in taken]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ModelError(f"tensors {', '.join(left[:3])}{more} have no place in a model of its settings")


def _one(name: str, value: Any) -> Any:
    """A setting that is given by layer and the same in all of them, as one."""
    if isinstance(value, list):
        if len({repr(item) for item in value}) != 1:
            raise ModelError(f"setting {name} differs from layer to layer, got {excerpt(value)}")
        return value[0]
    return value


def _set(config: PreTrainedConfig, name: str, value: Any) -> None:
    place = next((each for each in PLACES.get(name, ()) if hasattr(config, each)), None)
    if place is not None:
        setattr(config, place, value)
    elif name in ("attention.key_length", "attention.value_length"):
        if value * config.num_attention_heads != config.hidden_size:
            raise ModelError(f"setting {name} must be hidden_size / num_attention_heads, got {excerpt(value)}")
    elif name == "attention.head_count_kv":
        if value != config.num_attention_heads:
            raise ModelError(f"setting {name} must be that of attention.head_count, got {excerpt(value)}")
    else:
        raise ModelError(f"setting {name} has no place in a {type(config).__name__}, got {excerpt(value)}")


def _set_rotation(config: PreTrainedConfig, own: Mapping[str, Any], factors: Any) -> None:
    """Its positions: the base, and how the angles are scaled."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if own.get("rope.dimension_count", head) != head:
        raise ModelError(
            f"setting rope.dimension_count must be the width of a head, {head}, got"
            f" {excerpt(own['rope.dimension_count'])}"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(own.get("rope.freq_base", 10_000.0))}
    read = {"rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", *WITHOUT_EFFECT}
    if other := sorted(name for name in own if name.startswith("rope.") and name not in read):
        raise ModelError(f"setting {other[0]} is not known here, got {excerpt(own[other[0]])}")
    kind, factor = own.get("rope.scaling.type", "none"), own.get("rope.scaling.factor", 1.0)
    if kind == "linear" and factor != 1:
        rope |= {"rope_type": "linear", "factor": float(factor)}
    elif kind not in ("none", "linear") or factor != 1:
        raise ModelError(f"setting rope.scaling.type must be none or linear, got {excerpt(kind)} (factor {factor:g})")
    if factors is not None:
        rope |= _llama_3(np.asarray(factors.data, dtype=np.float64).ravel(), rope["rope_theta"], head)
    by_kind = config.rope_parameters
    if isinstance(by_kind, Mapping) and "full_attention" in by_kind:  # the local base is the same in all files
        config.rope_parameters = {**by_kind, "full_attention": rope}
    else:
        config.rope_parameters = rope


def _llama_3(factors: np.ndarray, base: float, head: int) -> dict[str, Any]:
    """The settings that give these divisors of the frequencies.

    Raises:
        ModelError: If the published ends do not.
    """
    factor = float(factors.max())
    if factor == float(factors.min()) == 1.0:
        return {}
    waves = 2 * math.pi * base ** (np.arange(0, head, 2) / head)
    low, high, length = (
        LLAMA_3["low_freq_factor"],
        LLAMA_3["high_freq_factor"],
        LLAMA_3["original_max_position_embeddings"],
    )
    smooth = ((length / waves - low) / (high - low)).clip(0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise ModelError(
            f"tensor rope_freqs.weight holds divisors of its frequencies (up to {factor:g}) that are not Llama 3's"
            f" with {LLAMA_3}"
        )
    return {"rope_type": "llama3", "factor": factor, **LLAMA_3}
