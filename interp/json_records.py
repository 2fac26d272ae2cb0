"""Records of a JSON source, and checks of their fields whose errors name the source, the record and the field."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp.errors import DataError

__all__ = ["check_known", "fields", "optional_text", "read_records", "text", "texts"]


def read_records(source: str | Path, *, builtin: str) -> Sequence[Any]:
    """The records of a source, unchecked.

    Args:
        source: ``"builtin"``, a ``.json`` (one list) or ``.jsonl`` (one record a line) file, or
            ``"hub:OWNER/NAME"`` for a data set on the Hugging Face hub (its train split).
        builtin: The file in the package's data folder that ``"builtin"`` stands for.

    Raises:
        DataError: If the source is missing, cannot be read, is not JSON or holds no records.
    """
    name = str(source)
    if name == "builtin":
        records = _parse(files("interp").joinpath("data", builtin).read_text("utf-8"), name, lines=True)
    elif name.startswith("hub:"):
        records = _from_hub(name.removeprefix("hub:"))
    else:
        records = _from_file(Path(source))
    if not records:
        raise DataError(f"{name}: holds no records")
    return records


def _from_file(path: Path) -> Sequence[Any]:
    try:
        content = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return _parse(content, str(path), lines=path.suffix == ".jsonl")


def _parse(content: str, name: str, *, lines: bool) -> Sequence[Any]:
    if lines:
        records: list[Any] = []
        for line in content.split("\n"):  # not splitlines: JSON may hold U+2028 and the like as they are
            if line.strip():
                records.append(_json(line, f"{name}: record {len(records)}"))
        return records
    records = _json(content, name)
    if not isinstance(records, list):
        raise DataError(f"{name}: expected a list of records, got {type(records).__name__}")
    return records


def _json(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _from_hub(name: str) -> Sequence[Any]:
    import datasets

    try:
        return list(datasets.load_dataset(name, split="train"))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"hub:{name}: cannot be loaded from the Hugging Face hub: {reason}") from error


def fields(record: Any, where: str) -> Mapping[str, Any]:
    """A record that is known to have fields.

    Raises:
        DataError: If it is not a JSON object.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object with fields, got {type(record).__name__}")
    return record


def check_known(record: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse fields that the format does not have.

    Raises:
        DataError: Naming the first of them.
    """
    unknown = sorted(set(record) - set(known))
    if unknown:
        raise DataError(f"{where}: unknown field {unknown[0]!r}")


def text(record: Mapping[str, Any], field: str, where: str, *, within: str = "") -> str:
    """A field that has to be there and hold more than white space.

    Args:
        record: The record, or an object inside of it.
        field: The field's name in ``record``.
        where: Source and record, for errors.
        within: Path of an object inside of the record, for errors, such as ``"locality.near[0]."``.

    Raises:
        DataError: If it is missing, not a text or blank.
    """
    if field not in record:
        raise DataError(f"{where}: field {within + field!r} is missing")
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {within + field!r} must be a non-empty text, got {value!r}")
    return value


def optional_text(record: Mapping[str, Any], field: str, where: str) -> str | None:
    """None if the field is missing or null; otherwise as :func:`text`."""
    return None if record.get(field) is None else text(record, field, where)


def texts(record: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    """A list of texts; none if the field is missing.

    Raises:
        DataError: If it is anything else.
    """
    values = record.get(field, ())
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: field {field!r} must be a list of texts, got {values!r}")
    return tuple(values)
