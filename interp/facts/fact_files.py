"""Readers of facts: the built-in set, a local file, or a data set on the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from interp.errors import DataError, FactError
from interp.facts.json_records import (
    CHOSEN,
    Notes,
    check_known,
    fact_of_prompt,
    fields,
    optional_text,
    read_records,
    text,
    texts,
)
from interp.facts.records import Fact, spaced_answer
from interp.facts.sources import shorten, shown_name
from interp.options import check_choice

__all__ = ["FACT_FORMATS", "load_facts"]

logger = logging.getLogger(__name__)

FactFormat = Literal["interp", "known"]
FACT_FORMATS: tuple[FactFormat, ...] = ("interp", "known")


def load_facts(source: str | Path = "builtin", *, format: FactFormat | None = None) -> list[Fact]:
    """Read facts.

    Example:
        >>> fact = interp.load_facts("builtin")[0]
        >>> fact.prompt, fact.subject, fact.target
        ('The government of France sits in its capital city of', 'France', ' Paris')

    Args:
        source: ``"builtin"``, a ``.json`` (one list) or ``.jsonl`` (one record a line) file, or
            ``"hub:OWNER/NAME"`` for a data set on the Hugging Face hub (its train split).
        format: ``"interp"`` (the fields of :class:`Fact`) or ``"known"`` (ROME's known facts:
            ``subject``, ``attribute``, ``prompt`` and, if wanted, ``relation_id``; ``known_id``, ``template`` and
            ``prediction`` are not read; a space is put before the attribute,
            :func:`interp.facts.records.spaced_answer`); told from the first record's fields if None. Of several places
            of a subject in a prompt the first as whole words is taken; a warning says in which records.

    Raises:
        DataError: If the source is missing, not JSON, empty, or a record lacks a field, has an unknown one or is
            malformed (names the record, counted from 0, and the field).
        OptionError: If the format does not exist.
    """
    check_choice("format", format, (None, *FACT_FORMATS))
    records = read_records(source, builtin="facts.jsonl", check_whole=_check_facts)
    if format is None:
        first = records[0]
        format = "known" if isinstance(first, Mapping) and "attribute" in first else "interp"
    name, notes = shown_name(source), Notes()
    found = [_fact(record, format, f"{name}: record {index}") for index, record in enumerate(records)]
    for index, (_, chosen) in enumerate(found):
        if chosen:
            notes.add(CHOSEN, f"record {index}")
    for line in notes.lines():
        logger.warning("%s: %s", name, line)
    return [fact for fact, _ in found]


def _fact(record: Any, format: FactFormat, where: str) -> tuple[Fact, bool]:
    record = fields(record, where)
    _check_facts(record, where)
    try:
        return _known(record, where) if format == "known" else (_own(record, where), False)
    except FactError as error:
        raise DataError(f"{where}: {shorten(error)}") from error


def _own(record: Mapping[str, Any], where: str) -> Fact:
    check_known(record, ("template", "subject", "target", "relation", "paraphrases"), where)
    return Fact(
        template=text(record, "template", where),
        subject=text(record, "subject", where),
        target=text(record, "target", where),
        relation=optional_text(record, "relation", where),
        paraphrases=texts(record, "paraphrases", where),
    )


def _known(record: Mapping[str, Any], where: str) -> tuple[Fact, bool]:
    prompt = text(record, "prompt", where).rstrip()
    found = fact_of_prompt(
        prompt,
        text(record, "subject", where).strip(),
        spaced_answer(prompt, text(record, "attribute", where)),
        relation=optional_text(record, "relation_id", where),
    )
    unused = ("known_id", "template", "prediction")
    check_known(record, ("prompt", "subject", "attribute", "relation_id", *unused), where)
    return found


def _check_facts(record: Mapping[str, Any], where: str) -> None:
    """Refuse edit cases by name: read as facts they would lose what is to be edited and asked."""
    if {"requested_rewrite", "target_new", "new_target", "alt"} & set(record):
        raise DataError(f"{where}: this is an edit case, not a fact; read it with load_cases")
