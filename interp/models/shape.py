"""A model's shape, from its config alone: how many numbers its weights are, and how wide everything is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoConfig, PreTrainedConfig

from interp.errors import InterpError, ModelError, OptionError, excerpt
from interp.models import embedded
from interp.models.adapter import ADAPTER, adapter_base, adapter_settings, check_whole
from interp.models.config import checked_family, hooked_config
from interp.models.families import FAMILIES, family_named
from interp.models.folder import config_source
from interp.models.gguf_file import gguf_config
from interp.models.hub import fetched, unreadable

__all__ = ["Shape", "model_shape", "shape_of"]


_GROUPED = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
PUBLISHED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("gpt2", {"n_layer": 12, "n_embd": 768, "n_head": 12}),
    "gpt2-medium": ("gpt2", {"n_layer": 24, "n_embd": 1024, "n_head": 16}),
    "gpt2-large": ("gpt2", {"n_layer": 36, "n_embd": 1280, "n_head": 20}),
    "gpt2-xl": ("gpt2", {"n_layer": 48, "n_embd": 1600, "n_head": 25}),
    "EleutherAI/gpt-j-6b": ("gptj", {"n_layer": 28, "n_embd": 4096, "n_head": 16, "tie_word_embeddings": False}),
    "meta-llama/Llama-2-7b-hf": ("llama", {**_GROUPED, "num_key_value_heads": 32, "intermediate_size": 11_008}),
    "meta-llama/Llama-3.1-8B": ("llama", {**_GROUPED, "intermediate_size": 14_336, "vocab_size": 128_256}),
    "mistralai/Mistral-7B-v0.1": ("mistral", {**_GROUPED, "intermediate_size": 14_336, "vocab_size": 32_000}),
}
"""Shapes that are known without asking: ``model_type`` and what differs from its defaults."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What memory depends on.

    Args:
        name: Of the model.
        n_layers, d_model, d_mlp, n_heads, kv_heads, d_head, d_vocab, n_ctx: As TransformerLens has them.
        gated: Whether the MLPs are.
        dtype: Of the weights.
        weight_bytes: Of all of them; what shares its memory counts once.
    """

    name: str
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    kv_heads: int
    d_head: int
    d_vocab: int
    n_ctx: int
    gated: bool
    dtype: torch.dtype
    weight_bytes: int

    @property
    def bytes_each(self) -> int:
        """Of a weight."""
        return self.dtype.itemsize


def shape_of(model: HookedTransformer) -> Shape:
    """The shape of a loaded model."""
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    return _shape(model.cfg, model.cfg.model_name, model.W_E.dtype, sum(held.values()))


def model_shape(
    name: str | Path, dtype: torch.dtype | Literal["auto"] = torch.float32, *, base: str | Path | None = None
) -> Shape:
    """The shape of a model that may be far too large to load: its config is read, its weights are not.

    Args:
        name: A folder with a ``config.json``, a GGUF file, the folder of an adapter (whose base's shape it is), a
            Hugging Face name, or the embedded model's. The shapes of :data:`PUBLISHED` are known without a network; of
            a GGUF file on the hub the whole file is fetched.
        dtype: In which it would be loaded; ``"auto"`` for what the config says.
        base: Of an adapter, in place of the one that its settings name.

    Raises:
        ModelError: If the name is unknown, cannot be reached, or its architecture or a setting is not supported; or if
            ``dtype`` is ``"auto"`` and the config says none.
        OptionError: If there is a base and ``name`` is no adapter.
    """
    source = _source(name)
    if isinstance(source, Path) and (source / ADAPTER).is_file():
        label = f"adapter {excerpt(str(source), 240)}"
        try:
            below = adapter_base(adapter_settings(source), base)
            return _shape_from(check_whole(_source(below), below), str(name), dtype)
        except ModelError as error:
            raise ModelError(f"{label}: {error}") from error
    if base is not None:
        raise OptionError(f"base would do nothing: {excerpt(str(name), 240)} is no adapter")
    return _shape_from(source, str(name), dtype)


def _shape_from(source: str | Path, name: str, dtype: torch.dtype | Literal["auto"]) -> Shape:
    """Of a folder, a file or a name that holds a whole model."""
    is_folder = isinstance(source, Path) and source.is_dir()
    label = f"model {'folder ' if is_folder else ''}{excerpt(str(source), 240)}"
    try:
        config = _config(source)
        family = checked_family(config)
        fields = hooked_config(family, config)
    except MemoryError:
        raise
    except ModelError as error:
        raise ModelError(f"{label}: {error}") from error
    except Exception as error:  # files of others make the libraries that read them raise anything
        raise ModelError(unreadable(str(source), label, isinstance(source, Path), error)) from error
    tied = bool(getattr(config, "tie_word_embeddings", False)) and not family.own_unembedding
    own = _own_format(config, source) if dtype == "auto" else dtype
    try:
        return _counted(fields, name, own, tied)
    except (InterpError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(unreadable(str(source), label, True, error)) from error


def _source(name: str | Path) -> str | Path:
    """The folder or file of a model, or its name."""
    if str(name) == embedded.NAME:
        return embedded.folder()
    source = config_source(name)
    return source if source in PUBLISHED else fetched(source)


def _config(source: str | Path) -> PreTrainedConfig:
    if isinstance(source, Path) and source.is_file():
        return gguf_config(source)
    config: PreTrainedConfig = _published(source) or AutoConfig.from_pretrained(source, trust_remote_code=False)
    return config


def _own_format(config: PreTrainedConfig, source: str | Path) -> torch.dtype:
    """That of the checkpoint, as its config says it; of a GGUF file the one that it is dequantised to."""
    if isinstance(source, Path) and source.is_file():
        return torch.float32
    if not isinstance(config.dtype, torch.dtype):
        raise ModelError(f"the config of {excerpt(str(source), 240)} does not say its number format: say which (dtype)")
    return config.dtype


def _published(source: str | Path) -> PreTrainedConfig | None:
    if not isinstance(source, str) or source not in PUBLISHED:
        return None
    kind, settings = PUBLISHED[source]
    architecture = next(name for name in FAMILIES if family_named(name).model_type == kind)
    config: PreTrainedConfig = AutoConfig.for_model(kind, architectures=[architecture], **settings)
    return config


def _counted(fields: Mapping[str, Any], name: str, dtype: torch.dtype, tied: bool) -> Shape:
    """Built without memory, as TransformerLens would build it, and counted."""
    cfg = HookedTransformerConfig(**fields, model_name=name, dtype=dtype, device="meta", init_weights=False)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        model = HookedTransformer(cfg, move_to_device=False)
    numbers = sum(each.numel() for label, each in model.named_parameters() if not (tied and label == "unembed.W_U"))
    return _shape(cfg, name, dtype, numbers * dtype.itemsize)


def _shape(cfg: HookedTransformerConfig, name: str, dtype: torch.dtype, weight_bytes: int) -> Shape:
    return Shape(
        name=name,
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_mlp=cfg.d_mlp or 0,
        n_heads=cfg.n_heads,
        kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        d_head=cfg.d_head,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        gated=cfg.gated_mlp,
        dtype=dtype,
        weight_bytes=weight_bytes,
    )
