"""Records of a JSON source, and checks of their fields whose errors name the source, the record and the field."""

from __future__ import annotations

import difflib
import json
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp.errors import DataError, InterpWarning, OptionError, excerpt
from interp.facts.records import Fact
from interp.facts.sources import check_hub_name, hub_failure, read_text, shown_name

__all__ = [
    "CHOSEN",
    "Notes",
    "check_known",
    "fact_of_prompt",
    "fields",
    "optional_text",
    "read_records",
    "text",
    "texts",
]

CHOSEN = "took the first place of a subject that is there several times, or is a part of a longer word"

MAX_DEPTH = 32
"""Lists and objects inside of each other, at most: far more than any format has."""


@dataclass
class Notes:
    """What a reader left out or had to choose: for each reason, where."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Note one more."""
        self.found.setdefault(reason, []).append(where)

    def lines(self) -> list[str]:
        """One line for each reason: how many, and which."""
        shown = ((reason, where, ", ".join(where[:5])) for reason, where in self.found.items())
        return [
            f"{reason}: {len(where)} ({first}{f' and {len(where) - 5} more' if len(where) > 5 else ''})"
            for reason, where, first in shown
        ]


def read_records(
    source: str | Path, *, builtin: str, check_whole: Callable[[Mapping[str, Any], str], None] | None = None
) -> Sequence[Any]:
    """The records of a source, unchecked but for what no field of any format may hold.

    A file is UTF-8, with or without a byte order mark, and holds one list or, whatever its name, one record a line.

    Args:
        source: ``"builtin"``, a ``.json`` (one list) or ``.jsonl`` (one record a line) file, or
            ``"hub:OWNER/NAME"`` for a data set on the Hugging Face hub (its train split).
        builtin: The file in the package's data folder that ``"builtin"`` stands for.
        check_whole: Called with a file that holds one object in place of a list, and its name, before it is refused.

    Raises:
        DataError: If the source is missing, cannot be read, is not JSON or holds no records, or if a record has a
            field twice, a lone surrogate in a text, or more than 32 lists and objects inside of each other.
        OptionError: If the source is neither a text nor a path.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise OptionError(f"a source is a path, 'builtin' or 'hub:OWNER/NAME', got {excerpt(source)}")
    name = shown_name(source)
    if name == "builtin":
        records = _parse(files("interp.facts").joinpath("data", builtin).read_text("utf-8"), name, lines=True)
    elif name.startswith("hub:"):
        records = _from_hub(str(source).removeprefix("hub:"))
    else:
        lines = str(source).endswith(".jsonl")
        records = _parse(read_text(source), name, lines=lines, check_whole=check_whole)
    if not records:
        raise DataError(f"{name}: holds no records")
    return records


def _parse(
    content: str,
    name: str,
    *,
    lines: bool,
    check_whole: Callable[[Mapping[str, Any], str], None] | None = None,
) -> Sequence[Any]:
    start = content.lstrip()[:1]
    if (lines and start != "[") or (start == "{" and _is_object_lines(content)):
        split = [line for line in content.split("\n") if line.strip()]  # not splitlines: a text may hold U+2028
        return [_json(line, f"{name}: record {number}") for number, line in enumerate(split)]
    records = _json(content, name, depth=-1)
    if isinstance(records, Mapping):
        if check_whole is not None:
            check_whole(records, name)
        raise DataError(
            f"{name}: expected a list of records, got dict with the fields {excerpt(list(records))}"
            " (a file of one record is a list of one)"
        )
    if not isinstance(records, list):
        raise DataError(f"{name}: expected a list of records, got {type(records).__name__}")
    return records


def _is_object_lines(content: str) -> bool:
    """Whether the first of several lines is an object of its own."""
    first, _, rest = content.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _json(content: str, where: str, *, depth: int = 0) -> Any:
    """A JSON value.

    Args:
        content: The text.
        where: Source and, if it is one, record, for errors.
        depth: -1 for a list of records, which does not count.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{where}: field {excerpt(twice)} is there twice in one object")
        return found

    try:
        value = json.loads(content, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{where}: lists and objects are more than {MAX_DEPTH} deep in each other") from error
    except ValueError as error:
        digits = sys.get_int_max_str_digits()
        raise DataError(f"{where}: holds a number of more than {digits} digits") from error
    if depth < 0 and isinstance(value, list):
        for number, record in enumerate(value):
            _check_values(record, f"{where}: record {number}")
    else:
        _check_values(value, where)
    return value


def _check_values(value: Any, where: str) -> None:
    """Refuse what fails much later otherwise: lone surrogates (in the tokenizer) and deep nesting (in recursions)."""
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        entry, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise DataError(f"{where}: lists and objects are more than {MAX_DEPTH} deep in each other")
        if isinstance(entry, str):
            if not entry.isascii() and any("\ud800" <= character <= "\udfff" for character in entry):
                raise DataError(f"{where}: a text holds half a character (a lone surrogate): {excerpt(entry)}")
        elif isinstance(entry, Mapping):
            todo += [(part, depth + 1) for pair in entry.items() for part in pair]
        elif isinstance(entry, list):
            todo += [(part, depth + 1) for part in entry]


def _from_hub(name: str) -> Sequence[Any]:
    check_hub_name(name)
    import datasets

    try:
        return list(datasets.load_dataset(name, split="train"))
    except MemoryError:
        raise
    except Exception as error:  # whatever a foreign data set makes the library raise
        raise DataError(hub_failure(name, error)) from error


def fact_of_prompt(prompt: str, subject: str, target: str | None, relation: str | None = None) -> tuple[Fact, bool]:
    """The fact of a whole prompt; and whether the place of its subject was a choice, to be noted once for a file.

    Raises:
        FactError: As :meth:`interp.facts.records.Fact.from_prompt`.
    """
    with warnings.catch_warnings(record=True) as chosen:
        warnings.simplefilter("always", InterpWarning)
        fact = Fact.from_prompt(prompt, subject, target, relation)
    return fact, bool(chosen)


def fields(record: Any, where: str) -> Mapping[str, Any]:
    """A record that is known to have fields.

    Raises:
        DataError: If it is not a JSON object.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object with fields, got {type(record).__name__}")
    return record


def check_known(record: Mapping[str, Any], known: Collection[str], where: str, *, within: str = "") -> None:
    """Refuse fields that the format does not have.

    Raises:
        DataError: Naming the first of them, and the field of the format that is most like it.
    """
    unknown = sorted(set(record) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0][:80], known, n=1, cutoff=0.75)
        hint = f"; did you mean {within + near[0]!r}?" if near and near[0] not in record else ""
        raise DataError(f"{where}: unknown field {excerpt(within + unknown[0])}{hint}")


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
        raise DataError(f"{where}: field {within + field!r} must be a non-empty text, got {excerpt(value)}")
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
        raise DataError(f"{where}: field {field!r} must be a list of texts, got {excerpt(values)}")
    return tuple(values)
