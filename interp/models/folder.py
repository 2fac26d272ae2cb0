"""Model folders of others: what is in them, and whether their files fit each other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from interp.errors import ModelError, OptionError, excerpt
from interp.models.adapter import ADAPTER
from interp.models.families.family import Family

__all__ = ["TOKENIZERS", "check_vocabulary", "check_weights", "config_source", "has_tokenizer", "model_source"]

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""Files of which one holds a tokenizer's vocabulary."""

COUNTS = (
    *("n_embd", "n_head", "n_layer", "n_positions", "n_inner", "vocab_size", "hidden_size", "num_attention_heads"),
    *("num_hidden_layers", "intermediate_size", "max_position_embeddings", "num_key_value_heads", "head_dim"),
)
"""Settings that are positive whole numbers; Hugging Face divides by some as it reads them."""


def model_source(name: str | Path) -> str | Path:
    """The folder or GGUF file that a name means, checked, or the name as one for the Hugging Face hub.

    A name means a folder or a file if there is one, or if it can mean nothing else (``/...``, ``./...``, ``~...``). The
    folder may be that of an adapter.

    Raises:
        ModelError: If it does not exist, holds no model, or one in a form that is not read: pickled weights.
        OptionError: If the name is neither a text nor a path.
    """
    source = _folder_or_name(name)
    if isinstance(source, Path) and source.is_dir():
        _check_folder(source)
    return source


def config_source(name: str | Path) -> str | Path:
    """As :func:`model_source`, of which the config alone will be read: a folder needs no more than that.

    Raises:
        ModelError: If the folder does not exist, or is neither an adapter's nor holds a readable ``config.json``.
        OptionError: If the name is neither a text nor a path.
    """
    source = _folder_or_name(name)
    if isinstance(source, Path) and source.is_dir() and not (source / ADAPTER).is_file():
        label = f"model folder {excerpt(str(source), 240)}"
        if not (source / "config.json").is_file():
            raise ModelError(f"{label} has no config.json")
        _check_config(source / "config.json", label)
    return source


def _folder_or_name(name: str | Path) -> str | Path:
    if not isinstance(name, (str, os.PathLike)):
        raise OptionError(f"a model is a name or a folder, got {excerpt(name)}")
    if not str(name).strip():
        raise ModelError("the name of the model is empty")
    try:
        path = Path(name).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, no such home
        path, is_folder, exists = Path(name), False, False
    if is_folder or (exists and path.suffix.lower() == ".gguf"):
        return path
    if path.is_absolute() or str(name).startswith((".", "~")) or exists:
        raise ModelError(f"model folder {excerpt(str(name), 240)} does not exist or is not a folder")
    return str(name)


def _check_folder(path: Path) -> None:
    label = f"model folder {excerpt(str(path), 240)}"
    try:
        names = set(os.listdir(path))
    except OSError as error:
        raise ModelError(f"{label} cannot be read: {error.strerror or error}") from error
    if ADAPTER in names:
        return
    if not (path / "config.json").is_file():
        raise ModelError(f"{label} has no config.json")
    _check_config(path / "config.json", label)
    if not names & {"model.safetensors", "model.safetensors.index.json"}:
        others = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf")))
        found = f"its weights are in {excerpt(others[0])[1:-1]}" if others else "there are no weights"
        raise ModelError(
            f"{label} cannot be read: {found}; expected model.safetensors (other formats, some of which run code when"
            " read, are not supported: convert the folder with transformers' from_pretrained and save_pretrained)"
        )
    if not names & set(TOKENIZERS):
        raise ModelError(f"{label} has no tokenizer; expected one of {', '.join(TOKENIZERS)}")


def _check_config(path: Path, label: str) -> None:
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{label} cannot be read: config.json: {excerpt(str(error), 200)[1:-1]}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{label} cannot be read: config.json must hold an object, got {type(settings).__name__}")
    for name in COUNTS:
        value = settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ModelError(f"{label}: setting {name} must be a positive whole number, got {excerpt(value)}")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZERS)


def check_vocabulary(tokenizer: Any, config: PreTrainedConfig) -> None:
    """Refuse a tokenizer that can give token ids which the embedding does not have.

    Raises:
        ModelError: Naming the token, its id and the size of the vocabulary.
    """
    size = config.vocab_size
    beyond = {text: token for text, token in tokenizer.get_vocab().items() if token >= size}
    if beyond:
        text = min(beyond, key=lambda name: beyond[name])
        raise ModelError(
            f"its tokenizer does not fit its weights: token {excerpt(text)} has id {beyond[text]}, expected ids below"
            f" vocab_size {size} ({len(beyond)} such tokens)"
        )


def check_weights(family: Family, hf_model: PreTrainedModel, loading: dict[str, Any]) -> None:
    """Refuse weights that are not those of the config.

    Args:
        family: Which the model is of.
        hf_model: The model as its config makes it.
        loading: What transformers says of the weights it found.

    Raises:
        ModelError: Naming weights that are missing, of another shape, or of layers that the config does not have.
    """
    missing = sorted(loading["missing_keys"])
    mismatched = sorted(loading["mismatched_keys"], key=str)
    if mismatched:
        name, found, expected = mismatched[0]
        raise ModelError(
            f"weight {name} has shape {tuple(found)}, the config expects {tuple(expected)}"
            f" ({len(mismatched)} such weights)"
        )
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(f"the weights lack {', '.join(missing[:3])}{more}")
    layers = hf_model.config.num_hidden_layers
    numbers = [(family.layer_of(name), name) for name in loading["unexpected_keys"]]
    beyond = sorted((number, name) for number, name in numbers if number is not None and number >= layers)
    if beyond:
        raise ModelError(f"the weights hold {beyond[0][1]}, the config has {layers} layers (from 0 on)")
