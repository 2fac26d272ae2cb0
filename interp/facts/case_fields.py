"""Fields of records of edit cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import DataError, excerpt
from interp.facts.json_records import Notes, texts

__all__ = [
    "Record",
    "case_id",
    "first_text",
    "inner",
    "kinds",
    "pairs",
    "whole_prompt",
    "whole_prompts",
    "without_nulls",
]


@dataclass(frozen=True)
class Record:
    """A record with what its errors and notes name."""

    fields: Mapping[str, Any]
    index: int
    source: str
    notes: Notes

    @property
    def where(self) -> str:
        """The record, for errors."""
        return f"{self.source}: record {self.index}"

    def note(self, reason: str, path: str = "") -> None:
        """Note something about the record, or about a field of it."""
        self.notes.add(reason, f"record {self.index}{path and f' {excerpt(path)[1:-1]}'}")


def case_id(record: Record) -> str:
    """The record's own id, or its number."""
    for name in ("case_id", "id"):
        if name in record.fields:
            value = record.fields[name]
            if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
                raise DataError(f"{record.where}: field {name!r} must be a number or a text, got {excerpt(value)}")
            return str(value)
    return str(record.index)


def whole_prompt(value: str, field: str, where: str) -> str:
    """The whole prompt; an error if it is empty, ends in white space or has a slot for a subject."""
    if not value.strip():
        raise DataError(f"{where}: field {field!r}: a prompt is empty")
    if "{}" in value:
        raise DataError(f"{where}: field {field!r}: a whole prompt must not contain {{}}, got {excerpt(value)}")
    if value != value.rstrip():
        raise DataError(f"{where}: field {field!r}: a prompt must not end in white space, got {excerpt(value)}")
    return value


def whole_prompts(fields: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    """The whole prompts of a field that holds one, several or none; stripped at the end, blank ones dropped."""
    value = fields.get(field, ())
    several = [entry for entry in value if entry is not None] if isinstance(value, (list, tuple)) else value
    prompts = texts({field: [value] if isinstance(value, str) else several}, field, where)
    return tuple(whole_prompt(prompt.rstrip(), field, where) for prompt in prompts if prompt.strip())


def kinds(fields: Mapping[str, Any], field: str, where: str) -> Mapping[str, Any]:
    """A field that holds lists by name; empty if it is missing."""
    value = fields.get(field, {})
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: field {field!r} must be an object of kinds, got {excerpt(value)}")
    for kind, entries in value.items():
        if not kind.strip():
            raise DataError(f"{where}: field {field!r}: a kind has no name")
        if not isinstance(entries, (list, tuple)):
            name = excerpt(f"{field}.{kind}")
            raise DataError(f"{where}: field {name} must be a list of probes, got {excerpt(entries)}")
    return value


def inner(value: Any, path: str, where: str) -> Mapping[str, Any]:
    """An object inside of a record."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: field {excerpt(path)} must be an object with fields, got {excerpt(value)}")
    return value


def first_text(value: Any, field: str, where: str) -> str | None:
    """The first text that is not blank in a text, a list of texts, a list of lists of texts, and so on."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: field {excerpt(field)} must be a text or a list of texts, got {excerpt(value)}")
    found = [first_text(entry, field, where) for entry in value]  # all of them: each is checked
    return next((entry for entry in found if entry is not None), None)


def pairs(
    record: Record, prompt: str, answer: str, *, within: str = "", entry: Mapping[str, Any] | None = None
) -> list[tuple[str, str]]:
    """Prompts and answers of two fields, each stripped: one to one, or several prompts with one answer.

    A single prompt takes the first of several answers, which are then different names of one.

    Raises:
        DataError: If there are several of both and not as many of one as of the other.
    """
    entry, where, path = record.fields if entry is None else entry, record.where, within and f"{within}."
    prompts, answers = entry.get(prompt), entry.get(answer)
    asked = prompts if isinstance(prompts, (list, tuple)) else [prompts]
    if not all(isinstance(value, str) or value is None for value in asked):
        raise DataError(f"{where}: field {path + prompt!r} must be a list of texts, got {excerpt(prompts)}")
    given = [answers] * len(asked)
    if len(asked) > 1 and isinstance(answers, (list, tuple)) and len(answers) > 1:
        if len(asked) != len(answers):
            raise DataError(
                f"{where}: field {path + prompt!r} has {len(asked)} texts and {path + answer!r} {len(answers)};"
                " expected as many, or one answer for all"
            )
        given = list(answers)
    found: list[tuple[str, str]] = []
    for question, value in zip(asked, given, strict=True):
        name = first_text(value, path + answer, where)
        if question is None or not question.strip() or name is None:
            record.note("left out probes without a prompt or an answer", within)
        else:
            found.append((whole_prompt(question.rstrip(), path + prompt, where), name))
    if not asked:
        record.note("left out probes without a prompt or an answer", within)
    return found


def without_nulls(value: Any) -> Any:
    """The value without null fields, with which a table stands in for missing ones; lists keep theirs, to be paired."""
    if isinstance(value, Mapping):
        return {name: without_nulls(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(entry) for entry in value]
    return value
