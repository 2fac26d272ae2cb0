"""Models that were converted once, kept in the user's cache as safetensors folders.

A folder is written to a temporary place and renamed, and every file in it is checked by hash when it is used. Of
several processes that find it missing or damaged one converts it and the others wait. What a killed one left is
removed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash
from platformdirs import user_cache_path
from safetensors import SafetensorError

from interp.errors import ModelError
from interp.system.files import only_one, reason, remove_abandoned, temporary_folder
from interp.system.quiet import without_bars

__all__ = ["MANIFEST", "converted", "file_hash", "manifest_of", "models_cache", "write_manifest"]

logger = logging.getLogger(__name__)

MANIFEST = "interp-manifest.json"


def models_cache() -> Path:
    """Where converted models are kept, unless another place is named."""
    return user_cache_path("interp") / "models"


def converted(
    source: Path,
    name: str,
    convert: Callable[[Path, Path], Mapping[str, Any]],
    cache: Path | None = None,
    *,
    takes: str = "a while",
) -> Path:
    """The folder that a file was converted into; converted now if it is not there or is damaged.

    Args:
        source: The file. What counts is its content: another one of this name gets a folder of its own.
        name: Of the model, for the folder's name and for messages.
        convert: Writes the folder (its second argument) from the file, and returns what the manifest says beside.
        cache: Folder to keep it in; :func:`models_cache` by default.
        takes: How long that is, for the log.

    Raises:
        ModelError: If the cache cannot be written, and what ``convert`` raises.
    """
    cache = cache or models_cache()
    place = cache / f"{name}-{file_hash(source)[:16]}"
    try:
        if place.exists() and _damage(place) is None:
            return place
        cache.mkdir(parents=True, exist_ok=True)
        remove_abandoned(cache)
        with only_one(cache):
            problem = _damage(place) if place.exists() else "not converted yet"
            if problem is None:
                return place  # another process did it meanwhile
            if place.exists():
                logger.warning("the cached %s is damaged (%s): converting it again", name, problem)
            else:
                logger.info("preparing %s, once: %s", name, takes)
            with temporary_folder(place) as temporary:
                with without_bars():
                    said = convert(source, temporary)
                write_manifest(temporary, {"source": source.name, **said})
                _replace(temporary, place)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the model cache {cache} cannot be written: {reason(error)}") from error
    return place


def manifest_of(place: Path) -> dict[str, Any]:
    """What the manifest of a converted folder says."""
    return dict(json.loads((place / MANIFEST).read_text("utf-8")))


def write_manifest(folder: Path, said: Mapping[str, Any]) -> None:
    """Write what is to be known of a folder and the hash of each file in it."""
    hashes = {file.name: file_hash(file) for file in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({**said, "xxh3_128": hashes}, indent=1), "utf-8")


def file_hash(path: Path) -> str:
    """A 128-bit hash (xxh3) of a file's bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


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
        expected = dict(manifest_of(place)["xxh3_128"])
    except (OSError, ValueError, KeyError, TypeError):
        return "no readable manifest"
    for name, value in expected.items():
        try:
            found = file_hash(place / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:
            return f"{name} cannot be read: {reason(error)}"
        if found != value:
            return f"{name} does not have the hash it was written with"
    return None
