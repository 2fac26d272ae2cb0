"""GGUF files: read by transformers, dequantised to float32, converted once into a folder in the user's cache.

The weights are those of the file, exactly: each format says which numbers its codes stand for. They are not those that
the model had before it was quantised.

1. Settings: all that the file says must find its place (:mod:`interp.models.gguf_settings`).
2. Weights: every tensor must find its parameter, every parameter its tensor.
3. Tokenizer: what the file says of it must be what came out (:mod:`interp.models.gguf_tokenizer`).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from interp.errors import ModelError, excerpt
from interp.models.config import checked_family
from interp.models.converted import converted, manifest_of
from interp.models.families import FAMILIES, family_named
from interp.models.folder import check_vocabulary, check_weights
from interp.models.gguf_settings import ARCHITECTURES, Metadata, check_places, own_settings, quantisation, set_settings
from interp.models.gguf_tokenizer import check_tokenizer, tokenizer_options

__all__ = ["converted_gguf", "gguf_config", "gguf_source"]


def converted_gguf(file: Path, name: str | None = None, cache: Path | None = None, *, takes: str = "a minute") -> Path:
    """The folder, in Hugging Face format, that a GGUF file was converted into; converted now if need be.

    Args:
        file: The file.
        name: Of the model, in the cache and in messages; the file's by default.
        cache: See :func:`interp.models.converted.converted`.
        takes: How long that is, for the log.

    Raises:
        ModelError: If it is no such file, its architecture or number format cannot be read, or something in it would
            be dropped (names it); or if the cache cannot be written.
    """
    return converted(file, name or file.stem, _convert, cache, takes=takes)


def gguf_source(folder: Path) -> dict[str, Any]:
    """What provenance says of a converted file: its name, its hash, in which formats its tensors are."""
    said = manifest_of(folder)
    return {
        "kind": "gguf",
        "file": said["source"],
        "sha256": said["sha256"],
        "quantisation": said["quantisation"],
        "dequantised": "float32",
    }


def gguf_config(file: Path) -> PreTrainedConfig:
    """The config of the model that a GGUF file holds; its weights are not dequantised.

    Raises:
        ModelError: See :func:`converted_gguf`, of settings alone.
    """
    with _naming(file), _alone(file) as folder:
        return _config(folder, file.name, *_opened(file))


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Whatever is wrong in a file is said with its name."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except ModelError as error:
        raise ModelError(f"GGUF file {source.name}: {error}") from error
    except Exception as error:  # files of others make the libraries that read them raise anything
        why = " ".join(str(error).split())[:400]
        raise ModelError(f"GGUF file {source.name} cannot be read: {type(error).__name__}: {why}") from error


def _convert(source: Path, destination: Path) -> Mapping[str, Any]:
    with _naming(source):
        reader, said = _opened(source)
        formats = quantisation(reader)
        with _alone(source) as folder:
            quantised, tokenizer = _read(folder, source.name, reader, said)
    # save_pretrained refuses a model that came from GGUF; a fresh one with the same weights it takes
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(destination)
    tokenizer.init_kwargs.pop("local_files_only", None)  # how it was read, not what it is
    tokenizer.save_pretrained(destination)
    return {"sha256": _sha256(source), "quantisation": formats}


def _config(folder: Path, name: str, reader: GGUFReader, said: Metadata) -> PreTrainedConfig:
    """With all that the file says."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, gguf_file=name)
    config.architectures = [_architecture(config.model_type)]
    set_settings(config, said, reader)
    return config


def _read(folder: Path, name: str, reader: GGUFReader, said: Metadata) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer of a file, all of which was taken."""
    files: dict[str, Any] = {"pretrained_model_name_or_path": folder, "gguf_file": name}
    config = _config(folder, name, reader, said)
    family = checked_family(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    check_places([*model.state_dict()], said, reader, config.num_hidden_layers)
    tokenizer = AutoTokenizer.from_pretrained(**files, **tokenizer_options(said))
    check_vocabulary(tokenizer, config)
    check_tokenizer(tokenizer, said)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **files, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
    )
    check_weights(family, *loaded)
    return loaded[0], tokenizer


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A folder with this file and no other: transformers would read configs and adapters that lie beside it."""
    with tempfile.TemporaryDirectory(prefix="interp-gguf-") as folder:
        (Path(folder) / file.name).symlink_to(file.resolve())
        yield Path(folder)


def _opened(source: Path) -> tuple[GGUFReader, Metadata]:
    """The file and all settings in it.

    Raises:
        ModelError: If it cannot be read, is a part of a model, holds none, or one of an architecture that is not read.
    """
    try:
        reader = GGUFReader(source)
        said = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # a damaged file makes the library raise anything
        raise ModelError(f"it cannot be read: {' '.join(str(error).split())[:200] or type(error).__name__}") from error
    kind = said.get("general.type", "model")
    if kind != "model":
        raise ModelError(f"general.type must be 'model', got {excerpt(kind)}: it is no model of its own")
    if (parts := said.get("split.count", 1)) > 1:
        raise ModelError(f"it is one of {parts} parts of a model: join them first (llama-gguf-split --merge)")
    architecture = said.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"GGUF files of architecture {excerpt(architecture)} are not read here; those of {', '.join(ARCHITECTURES)}"
            " are: load the model in Hugging Face format instead"
        )
    own_settings(said)
    return reader, said


def _architecture(model_type: str) -> str:
    """The architecture whose configs have this type."""
    for name in FAMILIES:
        if family_named(name).model_type == model_type:
            return name
    raise ModelError(f"models of type {excerpt(model_type)} are not supported; supported are {', '.join(FAMILIES)}")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while chunk := data.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
