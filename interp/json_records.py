"""Records of a JSON source, and checks of their fields whose errors name the source, the record and the field."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp.errors import DataError, OptionError, excerpt

__all__ = ["check_known", "fields", "optional_text", "read_records", "shorten", "shown_name", "text", "texts"]

MAX_DEPTH = 32
"""Lists and objects inside of each other, at most: far more than any format has."""


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
        records = _parse(files("interp").joinpath("data", builtin).read_text("utf-8"), name, lines=True)
    elif name.startswith("hub:"):
        records = _from_hub(str(source).removeprefix("hub:"))
    else:
        records = _from_file(source, name, check_whole)
    if not records:
        raise DataError(f"{name}: holds no records")
    return records


def shown_name(source: str | Path) -> str:
    """A source's name for messages: as it is, with escapes for what a terminal would not show."""
    name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(source))
    return name if len(name) <= 240 else f"{name[:120]}…{name[-119:]}"


def _from_file(
    source: str | Path, name: str, check_whole: Callable[[Mapping[str, Any], str], None] | None
) -> Sequence[Any]:
    if not str(source).strip():
        raise DataError("the name of the file is empty")
    try:
        path = Path(source).expanduser()
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{name}: cannot be read: it is a folder") from error
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a lone surrogate, a home that does not exist
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return _parse(_decoded(data, name), name, lines=path.suffix == ".jsonl", check_whole=check_whole)


def _decoded(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: cannot be read: it is UTF-16; save it as UTF-8")
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise DataError(f"{name}: cannot be read: it is not UTF-8 ({at})") from error
    if "\0" in content:
        raise DataError(f"{name}: cannot be read: it holds NUL bytes; expected text in UTF-8")
    return content


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
    part = r"[A-Za-z0-9][A-Za-z0-9_.\-]*"
    if not re.fullmatch(f"{part}(/{part})?", name) or len(name) > 96:
        raise DataError(f"{excerpt('hub:' + name)} is no data set of the Hugging Face hub; expected 'hub:OWNER/NAME'")
    if Path(name).exists():
        raise DataError(f"hub:{name}: a file or folder {name!r} is here and would be read instead; give its path")
    import datasets

    try:
        return list(datasets.load_dataset(name, split="train"))
    except MemoryError:
        raise
    except Exception as error:  # whatever a foreign data set makes the library raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"hub:{name}: cannot be loaded from the Hugging Face hub: {reason}") from error


def shorten(message: object, limit: int = 400) -> str:
    """A message about a record, which may quote whole texts of it, cut to a length that fits a screen."""
    shown = str(message)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


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
