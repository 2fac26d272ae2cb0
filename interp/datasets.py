"""Readers of facts: the built-in set, a local file, or a data set on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from interp.errors import DataError, FactError
from interp.facts import Fact
from interp.options import check_choice

__all__ = ["FORMATS", "load_facts"]

Format = Literal["interp", "known"]
FORMATS: tuple[Format, ...] = ("interp", "known")


def load_facts(source: str | Path = "builtin", *, format: Format | None = None) -> list[Fact]:
    """Read facts.

    Args:
        source: ``"builtin"``, a ``.json`` (one list) or ``.jsonl`` (one record a line) file, or
            ``"hub:OWNER/NAME"`` for a data set on the Hugging Face hub (its train split).
        format: ``"interp"`` (the fields of :class:`Fact`) or ``"known"`` (ROME's known facts:
            ``subject``, ``attribute``, ``prompt``); told from the first record's fields if None.

    Raises:
        DataError: If the source is missing, not JSON, empty, or a record lacks a field or is malformed (names
            the record, counted from 0, and the field).
        OptionError: If the format does not exist.
    """
    check_choice("format", format, (None, *FORMATS))
    name = str(source)
    if name == "builtin":
        records = _parse(files("interp").joinpath("data/facts.jsonl").read_text("utf-8"), "builtin", lines=True)
    elif name.startswith("hub:"):
        records = _from_hub(name.removeprefix("hub:"))
    else:
        records = _from_file(Path(source))
    if not records:
        raise DataError(f"{name}: holds no records")
    if format is None:
        first = records[0]
        format = "known" if isinstance(first, Mapping) and "attribute" in first else "interp"
    return [_fact(record, format, f"{name}: record {index}") for index, record in enumerate(records)]


def _from_file(path: Path) -> Sequence[Any]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return _parse(text, str(path), lines=path.suffix == ".jsonl")


def _parse(text: str, name: str, *, lines: bool) -> Sequence[Any]:
    if lines:
        records: list[Any] = []
        for line in text.split("\n"):  # not splitlines: JSON may hold U+2028 and the like as they are
            if line.strip():
                records.append(_json(line, f"{name}: record {len(records)}"))
        return records
    records = _json(text, name)
    if not isinstance(records, list):
        raise DataError(f"{name}: expected a list of records, got {type(records).__name__}")
    return records


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _from_hub(name: str) -> Sequence[Any]:
    import datasets

    try:
        return list(datasets.load_dataset(name, split="train"))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"hub:{name}: cannot be loaded from the Hugging Face hub: {reason}") from error


def _fact(record: Any, format: Format, where: str) -> Fact:
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object with fields, got {type(record).__name__}")
    try:
        if format == "known":
            return Fact.from_prompt(
                _text(record, "prompt", where).rstrip(),
                _text(record, "subject", where).strip(),
                " " + _text(record, "attribute", where).strip(),
                relation=_relation(record, "relation_id", where),
            )
        unknown = sorted(set(record) - {"template", "subject", "target", "relation", "paraphrases"})
        if unknown:
            raise DataError(f"{where}: unknown field {unknown[0]!r}")
        return Fact(
            template=_text(record, "template", where),
            subject=_text(record, "subject", where),
            target=_text(record, "target", where),
            relation=_relation(record, "relation", where),
            paraphrases=tuple(_texts(record.get("paraphrases", ()), where)),
        )
    except FactError as error:
        raise DataError(f"{where}: {error}") from error


def _text(record: Mapping[str, Any], field: str, where: str) -> str:
    if field not in record:
        raise DataError(f"{where}: field {field!r} is missing")
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {field!r} must be a non-empty text, got {value!r}")
    return value


def _relation(record: Mapping[str, Any], field: str, where: str) -> str | None:
    return None if record.get(field) is None else _text(record, field, where)


def _texts(values: Any, where: str) -> Iterable[str]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: field 'paraphrases' must be a list of texts, got {values!r}")
    return values
