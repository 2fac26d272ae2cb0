"""Results: frozen records of named tensors with what produced them, one safetensors file each.

The tensors are stored as such, everything else as JSON in the file's header, so that a record can be read without
this package. The header also holds a hash of all content, so that a flipped bit is refused instead of believed, and,
in a run folder, which unit of which run the record is. Equal content gives equal bytes.
"""

from __future__ import annotations

import dataclasses
import json
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import cattrs
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.errors import DataError, InterpError, InterpWarning, ModelError
from interp.models.precision import current_precision
from interp.models.source import said_of, source_of
from interp.models.weights import weights_hash
from interp.results.shown import Shown
from interp.system.files import write_atomically

__all__ = [
    "NOTHING_SAID",
    "Provenance",
    "Record",
    "check_about",
    "check_record",
    "check_same_weights",
    "checked_hash",
    "content_hash",
    "load_record",
    "provenance",
    "save_record",
    "write_atomically",
]

ON_MODEL = "interp_patches"
"""The attribute under which a model keeps which patches are on it (:mod:`interp.patches.on_model`)."""
FORMAT = 2
_UNHASHED = "1"  # the format before records had a hash of their content

R = TypeVar("R", bound="Record")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which weights, number format and versions a result comes from.

    Args:
        weights_hash: Of the weights as they were, with the patches that were on the model.
        patches: Content hashes of these patches, in their order.
        matmul_precision: Of products of float32 matrices (:func:`interp.models.matmul_precision`).
        source: Where the weights come from, if the model's name does not say it: the GGUF file that they were
            dequantised from, the adapter and its base, the object that was given (:mod:`interp.models.source`).
    """

    model: str
    weights_hash: str
    dtype: str
    device: str
    versions: dict[str, str]
    patches: list[str] = dataclasses.field(default_factory=list)
    matmul_precision: str = "highest"
    source: dict[str, Any] = dataclasses.field(default_factory=dict)

    def said_of_source(self) -> str:
        """Where the weights come from, in one line; empty if the model's name says it."""
        return said_of(self.source)


NOTHING_SAID: Mapping[str, Any] = {"matmul_precision": "highest", "source": {}}
"""What a provenance says if there is nothing to say; what was written before there was such a thing says nothing."""


def provenance(model: HookedTransformer) -> Provenance:
    """Describe a model for the results computed with it. Reads all weights once (for their hash)."""
    parameter = next(model.parameters())
    on = model.__dict__.get(ON_MODEL)
    return Provenance(
        model=model.cfg.model_name,
        weights_hash=weights_hash(model),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=parameter.device.type,
        versions={name: version(name) for name in ("interp", "torch", "transformer-lens", "transformers")},
        patches=[] if on is None else list(on.hashes),
        matmul_precision=current_precision(),
        source=source_of(model),
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


def save_record(record: Record, path: str | Path, *, unit: str = "", run: str = "") -> None:
    """Write a record to one file; a reader sees either nothing or all of it.

    Args:
        record: The record.
        path: Where to.
        unit: Which unit of work it is the record of, where it is one of several; it is then read as that one only.
        run: The content hash of the settings of the run that the unit belongs to.

    Raises:
        DataError: If the place cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = _stored(value)
        elif isinstance(value, Mapping) and not value:
            continue  # its type may not be one that JSON can hold
        elif _is_by_layer(value):
            tensors |= {f"{field.name}.{layer}": _stored(tensor) for layer, tensor in value.items()}
        else:
            plain[field.name] = _plain(value)
    header = {"format": str(FORMAT), "kind": type(record).__name__, "fields": json.dumps(plain)}
    header |= {name: value for name, value in (("unit", unit), ("run", run)) if value}
    header["content_hash"] = content_hash(tensors, header)
    write_atomically(Path(path), _serialised(tensors, header))


def load_record(
    cls: type[R],
    path: str | Path,
    *,
    unit: str | None = None,
    run: str | None = None,
    unhashed: bool = True,
) -> R:
    """Read a record written by :func:`save_record`.

    Args:
        cls: What it is a record of; it may be of a class that is derived from this one.
        path: Where it is.
        unit: The unit of work that it must be the record of; any if None.
        run: The content hash of the settings of the run that it must belong to; any if None.
        unhashed: Whether to take a record of the format that had no hash, with a warning that nothing shows whether
            it is whole.

    Raises:
        DataError: If the file is missing, damaged (names the hash expected and found), of another format version,
            holds another kind of record, or the record of another unit or run.
    """
    stored = _read(cls, Path(path), unit=unit, run=run, unhashed=unhashed)
    with stored.structuring():
        fields = {name: stored.field(name) for name in stored.plain}
        for name, tensor in stored.tensors.items():
            field, _, layer = name.partition(".")
            if layer:
                fields.setdefault(field, {})[int(layer)] = tensor
            else:
                fields[field] = tensor
        return stored.kind(**fields)


def check_record(cls: type[Record], path: str | Path, *, unit: str, run: str, about: Mapping[str, Any]) -> None:
    """Find out whether a file is the record of a unit, whole and undamaged, without making the record.

    The file is read once and its content hash compared, so that what passes can be loaded later, unless it is damaged
    in between. Of the fields only those that are asked for are made.

    Args:
        cls, path, unit, run: See :func:`load_record`.
        about: Fields that it must have with these values.

    Raises:
        DataError: As :func:`load_record`, and if a field has another value (names it).
    """
    stored = _read(cls, Path(path), unit=unit, run=run, unhashed=True)
    with stored.structuring():
        found = {name: stored.field(name) for name in about}
    check_about(Path(path), found, about)


def check_about(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a record that is about something else.

    Raises:
        DataError: Naming the first field that differs.
    """
    for name, value in expected.items():
        if found[name] != value:
            raise DataError(f"{path} holds a record of {name} {found[name]!r}; expected {value!r}")


def checked_hash(path: str | Path, *, unit: str, run: str) -> str:
    """The content hash of a record of any class, which must be whole.

    Args: See :func:`load_record`.

    Raises:
        DataError: If the file is missing, damaged, has no hash, or is the record of another unit or run.
    """
    path = Path(path)
    _, header, there, found = _opened(path)
    if there is None:
        raise DataError(f"{path}: its content hash is missing: nothing shows whether it is whole")
    _check_whose(path, header, unit, run)
    return found


def _opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str | None, str]:
    """Tensors, header, and the content hashes that it was written with and that it has."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # a damaged header makes the library raise anything
        raise DataError(f"{path} is not a readable record: {' '.join(str(error).split())[:200]}") from error
    there, found = header.pop("content_hash", None), content_hash(tensors, header)
    if there not in (None, found):
        raise DataError(f"{path} is damaged: it was written with content hash {there}, its content has {found}")
    return tensors, header, there, found


def _check_whose(path: Path, header: Mapping[str, str], unit: str | None, run: str | None) -> None:
    for what, wanted in (("unit", unit), ("run", run)):
        if wanted is not None and header.get(what, "") != wanted:
            raise DataError(f"{path} holds the record of {what} {header.get(what, '')!r}; expected {wanted!r}")


@dataclass(frozen=True)
class _Stored(typing.Generic[R]):
    """A record's file, read and checked.

    Args:
        path: Where it is.
        kind: The class of the record.
        plain: What JSON says of its fields.
        tensors: Its tensors, by field, those of a layer as ``field.layer``.
    """

    path: Path
    kind: type[R]
    plain: dict[str, Any]
    tensors: dict[str, Tensor]

    def field(self, name: str) -> Any:
        """A field that is no tensor."""
        kind: Any = self.kind
        return cattrs.structure(self.plain[name], _hints(kind)[name])

    @contextmanager
    def structuring(self) -> Iterator[None]:
        """Whatever making the fields raises is an error that names the file."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError, InterpError, cattrs.BaseValidationError) as error:
            raise DataError(f"{self.path}: its fields are not those of a {self.kind.__name__}: {error!r}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a record's fields; shape strings evaluate to tensor types, which are never structured."""
    return typing.get_type_hints(kind)


def _read(cls: type[R], path: Path, *, unit: str | None, run: str | None, unhashed: bool) -> _Stored[R]:
    """Read a record's file and check all that can be checked without making the record (see :func:`load_record`)."""
    tensors, header, there, found = _opened(path)
    old = there is None and header.get("format") == _UNHASHED and unhashed
    kind = _kind_named(cls, header.get("kind"))
    if (header.get("format") != str(FORMAT) and not old) or kind is None:
        raise DataError(
            f"{path} holds {header.get('kind')!r} in format {header.get('format')!r}; expected"
            f" {cls.__name__!r} in format {str(FORMAT)!r}"
        )
    if old:
        _warn_unhashed(path if unit is None else path.parent)
    elif there is None:
        raise DataError(f"{path} is damaged: its content hash is missing, its content has {found}")
    if not old:
        _check_whose(path, header, unit, run)
    try:
        plain = dict(json.loads(header["fields"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: its fields are not those of a {kind.__name__}: {error!r}") from error
    return _Stored(path=path, kind=kind, plain=plain, tensors=tensors)


def _kind_named(cls: type[R], name: str | None) -> type[R] | None:
    """The class of that name among this one and those that are derived from it."""
    if cls.__name__ == name:
        return cls
    return next((found for derived in cls.__subclasses__() if (found := _kind_named(derived, name))), None)


def content_hash(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """A 128-bit hash (xxh3) of names, number formats, shapes and bytes of tensors and of what JSON says beside them."""
    names = sorted(tensors)
    axes = {name: [str(tensors[name].dtype), list(tensors[name].shape)] for name in names}
    text = json.dumps({"header": header, "tensors": axes}, sort_keys=True, separators=(",", ":"))
    digest = xxhash.xxh3_128(text.encode())
    for name in names:
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _serialised(tensors: dict[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on nothing but its content: the library's own header has any order."""
    plain = to_safetensors(tensors)
    end = 8 + int.from_bytes(plain[:8], "little")
    entries = {"__metadata__": dict(sorted(header.items())), **json.loads(plain[8:end])}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(plain)[end:]))


def _warn_unhashed(path: Path) -> None:
    warnings.warn(
        f"{path}: written before records had a hash of their content: nothing shows whether it is whole, and which"
        " unit of work it is",
        InterpWarning,
        stacklevel=5,
    )


def _is_by_layer(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(next(iter(value.values()), None), Tensor)


def _plain(value: Any) -> Any:
    """What JSON can hold; a provenance does not say what says nothing, so that files keep the bytes that they had."""
    plain = cattrs.unstructure(value)
    if isinstance(value, Provenance):
        for name, nothing in NOTHING_SAID.items():
            if plain[name] == nothing:
                del plain[name]
    return plain


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
