"""Names of models: those to start from, whether one is in the cache or can be reached, and what is said if not."""

from __future__ import annotations

import difflib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import constants, file_exists, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from interp.errors import ModelError, excerpt
from interp.models import embedded
from interp.models.adapter import ADAPTER
from interp.models.families import FAMILIES, family_named
from interp.models.folder import TOKENIZERS

__all__ = ["KNOWN_MODELS", "check_reachable", "fetched", "unreadable"]

HUB = constants.ENDPOINT
_OF_AN_ADAPTER = (
    *("adapter_*.json", "adapter_model.safetensors"),
    *(*TOKENIZERS, "token*", "added_tokens.json", "merges*", "special*", "*.jinja"),
)


class _KnownModels(Mapping[str, str]):
    """The embedded model, then those of each family in the table, as it is when asked."""

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    @staticmethod
    def _all() -> dict[str, str]:
        known = {embedded.NAME: "SmolLM2-135M-Instruct, embedded: 30 layers, needs no network"}
        for architecture in FAMILIES:
            known.update(family_named(architecture).known)
        return known


KNOWN_MODELS: Mapping[str, str] = _KnownModels()
"""Names to start from; any other Hugging Face name or folder of the same families works as well."""


def check_reachable(name: str, *files: str) -> None:
    """Refuse a name that is not in the local cache where the hub does not answer.

    It is one quick question, so that a machine without network gets its answer at once and not after retries.

    Args:
        name: The name.
        files: Any of which is what is wanted of it; those that say what a model is by default.

    Raises:
        ModelError: With the nearest known names.
    """
    if any(_is_cached(name, file) for file in files or ("config.json", ADAPTER)):
        return
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError as answer:  # it answers
        answer.close()
    except OSError as error:
        raise ModelError(_unreachable(name, error)) from error


def fetched(source: str | Path) -> str | Path:
    """What a name on the hub stands for: itself, or, fetched, the GGUF file or the adapter's folder that it names.

    Raises:
        ModelError: If it is not in the cache and cannot be reached, or has no such file.
    """
    if isinstance(source, Path):
        return source
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    try:
        if file.lower().endswith(".gguf"):
            check_reachable(f"{owner}/{name}", file)
            return Path(hf_hub_download(f"{owner}/{name}", file))
        check_reachable(source)
        if _is_cached(source, "config.json") and not _is_cached(source, ADAPTER):
            return source
        if not _is_cached(source, ADAPTER) and not file_exists(source, ADAPTER):
            return source
        return Path(snapshot_download(source, allow_patterns=list(_OF_AN_ADAPTER)))
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises anything
        raise ModelError(unreadable(source, f"model {excerpt(source, 240)}", False, error)) from error


def unreadable(name: str, label: str, is_folder: bool, error: Exception) -> str:
    """What is said of files that could not be read, or not be reached, and why."""
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = reason if isinstance(error, OSError) else f"{type(error).__name__}: {reason}"
    if is_folder or not isinstance(error, (OSError, HFValidationError)):
        return f"{label} cannot be read: {reason if len(reason) <= 400 else reason[:399] + '…'}"
    return _unreachable(name, error)


def _is_cached(name: str, file: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(name, file), str)
    except (ValueError, OSError) as error:  # no name that a hub could have
        raise ModelError(_unreachable(name, HFValidationError(str(error)))) from error


def _unreachable(name: str, error: Exception) -> str:
    near = difflib.get_close_matches(name[:80], KNOWN_MODELS, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near and name not in KNOWN_MODELS else ""
    causes = set()
    cause: BaseException | None = error
    while cause is not None:
        causes.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    shown = excerpt(name, 240)
    if causes & {"RepositoryNotFoundError", "GatedRepoError", "HFValidationError"}:
        return f"model {shown} is not on the Hugging Face hub (or needs a login){hint}"
    if causes & {"EntryNotFoundError", "RemoteEntryNotFoundError"}:
        return f"model {shown} on the Hugging Face hub lacks a file: {' '.join(str(error).split())[:300]}"
    return (
        f"model {shown} is neither embedded nor in the local cache, and the Hugging Face hub cannot be "
        f"reached{hint} (embedded, without network: {embedded.NAME})"
    )
