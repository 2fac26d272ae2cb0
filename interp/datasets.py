"""Readers of facts: the built-in set, a local file, or a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from interp.errors import DataError, FactError
from interp.facts import Fact
from interp.json_records import check_known, fields, optional_text, read_records, text, texts
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
    records = read_records(source, builtin="facts.jsonl")
    if format is None:
        first = records[0]
        format = "known" if isinstance(first, Mapping) and "attribute" in first else "interp"
    return [_fact(record, format, f"{source}: record {index}") for index, record in enumerate(records)]


def _fact(record: Any, format: Format, where: str) -> Fact:
    record = fields(record, where)
    try:
        if format == "known":
            return Fact.from_prompt(
                text(record, "prompt", where).rstrip(),
                text(record, "subject", where).strip(),
                " " + text(record, "attribute", where).strip(),
                relation=optional_text(record, "relation_id", where),
            )
        check_known(record, ("template", "subject", "target", "relation", "paraphrases"), where)
        return Fact(
            template=text(record, "template", where),
            subject=text(record, "subject", where),
            target=text(record, "target", where),
            relation=optional_text(record, "relation", where),
            paraphrases=texts(record, "paraphrases", where),
        )
    except FactError as error:
        raise DataError(f"{where}: {error}") from error
