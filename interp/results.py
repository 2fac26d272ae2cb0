"""Results: frozen records of named tensors with what produced them, one safetensors file each.

The tensors are stored as such, everything else as JSON in the file's header, so that a record can be read without
this package.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import typing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.errors import DataError, InterpError, ModelError
from interp.models import weights_hash
from interp.shown import Shown

__all__ = [
    "Provenance",
    "Record",
    "check_same_weights",
    "load_record",
    "provenance",
    "save_record",
    "write_atomically",
]

FORMAT = 1

R = TypeVar("R", bound="Record")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which weights, number format and versions a result comes from."""

    model: str
    weights_hash: str
    dtype: str
    device: str
    versions: dict[str, str]


def provenance(model: HookedTransformer) -> Provenance:
    """Describe a model for the results computed with it. Reads all weights once (for their hash)."""
    parameter = next(model.parameters())
    return Provenance(
        model=model.cfg.model_name,
        weights_hash=weights_hash(model),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=parameter.device.type,
        versions={name: version(name) for name in ("interp", "torch", "transformer-lens", "transformers")},
    )


def check_same_weights(what: str, found: Provenance, expected: Provenance) -> None:
    """Refuse to put together what was computed with different weights or in different number formats.

    Args:
        what: What was found, for the error, such as ``"the second moments"``.
        found: Where it comes from.
        expected: Where it is to be used.

    Raises:
        ModelError: Naming both models, their hashes and number formats.
    """
    if (found.weights_hash, found.dtype) != (expected.weights_hash, expected.dtype):
        raise ModelError(
            f"{what} come from {found.model} with weights {found.weights_hash} in {found.dtype}; expected"
            f" {expected.model} with weights {expected.weights_hash} in {expected.dtype}"
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Record(Shown):
    """Base of all results; each shows itself.

    Fields are tensors, mappings from layers to tensors, or what JSON can hold.
    """

    provenance: Provenance

    def save(self, path: str | Path) -> None:
        """Write the record to one safetensors file, atomically (see :func:`save_record`)."""
        save_record(self, path)

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a record of this class back (see :func:`load_record`)."""
        return load_record(cls, path)


def save_record(record: Record, path: str | Path) -> None:
    """Write a record to one file; a reader sees either nothing or all of it.

    Raises:
        DataError: If the place cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = _stored(value)
        elif value == {}:
            continue  # its type may not be one that JSON can hold
        elif _is_by_layer(value):
            tensors |= {f"{field.name}.{layer}": _stored(tensor) for layer, tensor in value.items()}
        else:
            plain[field.name] = cattrs.unstructure(value)
    header = {"format": str(FORMAT), "kind": type(record).__name__, "fields": json.dumps(plain)}
    write_atomically(Path(path), to_safetensors(tensors, metadata=header))


def load_record(cls: type[R], path: str | Path) -> R:
    """Read a record written by :func:`save_record`.

    Raises:
        DataError: If the file is missing, damaged, of another format version or holds another kind of record.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is not a readable record: {error}") from error
    if header.get("format") != str(FORMAT) or header.get("kind") != cls.__name__:
        raise DataError(
            f"{path} holds {header.get('kind')!r} in format {header.get('format')!r}; expected"
            f" {cls.__name__!r} in format {str(FORMAT)!r}"
        )
    try:
        plain = json.loads(header["fields"])
        # shape strings evaluate to tensor types, which are never structured
        hints = typing.get_type_hints(cls)
        fields = {name: cattrs.structure(value, hints[name]) for name, value in plain.items()}
        for name, tensor in tensors.items():
            field, _, layer = name.partition(".")
            if layer:
                fields.setdefault(field, {})[int(layer)] = tensor
            else:
                fields[field] = tensor
        return cls(**fields)
    except (AttributeError, KeyError, TypeError, ValueError, InterpError, cattrs.BaseValidationError) as error:
        raise DataError(f"{path}: its fields are not those of a {cls.__name__}: {error!r}") from error


def _is_by_layer(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary file beside ``path`` and rename it.

    Raises:
        DataError: If the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's files are private; these are to be shared
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
