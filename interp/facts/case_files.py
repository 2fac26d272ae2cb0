"""Edit cases: read from the built-in set, a file or a data set on the hub, or made around a request."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.errors import DataError, FactError, excerpt
from interp.facts.case_fields import Record, without_nulls
from interp.facts.case_formats import FORMATS, Format, Shape, check_supported, format_of, shape_of
from interp.facts.json_records import Notes, check_known, fields, read_records
from interp.facts.records import EditCase, EditRequest, Fact, Probe
from interp.facts.sources import shorten, shown_name
from interp.options import check_choice

__all__ = ["FORMATS", "case_around", "load_cases"]

logger = logging.getLogger(__name__)


def load_cases(source: str | Path = "builtin", *, format: Format | None = None) -> list[EditCase]:
    """Read edit cases.

    - ``"interp"``: the fields ``id``, ``template``, ``subject``, ``new_target``, and if wanted ``target``,
      ``relation``, ``paraphrases`` (whole prompts), ``locality`` and ``portability`` (lists of ``prompt`` and
      ``target`` by kind). Its texts are taken as they are, with the space before an answer; answers that seem to
      lack it are warned of.
    - ``"counterfact"``: CounterFact (Meng et al. 2022). Neighbourhood prompts become locality ``near`` with the
      true target. Attribute and generation prompts are not read. Also as in EasyEdit, without nesting
      (``prompt``, ``target_new``, ``ground_truth``, ``rephrase_prompt``, ``locality_prompt``,
      ``locality_ground_truth``).
    - ``"zsre"``: Zero-shot relation extraction as in MEND (Mitchell et al. 2022). Natural questions become
      locality ``far``; EasyEdit's ``New Question`` and ``New Answer`` portability ``reasoning``. ``pred`` and
      ``cond`` are not read.
    - ``"knowedit"``: ZsRE, WikiData and WikiBio of KnowEdit (Zhang et al. 2024). ``cond`` is not read.

    Another field is an error that names it. MQuAKE, RippleEdits and KnowEdit's sanitation are refused by name: an
    edit case cannot hold what they mean.

    The last three formats get the space before each answer that their files leave out
    (:func:`interp.facts.records.spaced_answer`). Several prompts with several answers are paired one to one, and
    several prompts may share one answer; of several answers to one prompt, which are names of the same, the first is
    taken. The subject's place in a prompt is its first as whole words (:meth:`interp.facts.records.Fact.from_prompt`);
    where there are several, or none but inside of a longer word, a warning says in which records.
    Records without a new target, whose subject is not in their prompt, or whose new target is the true answer are
    left out, and so are probes without a prompt or an answer; one warning for each reason says how many and which.

    Args:
        source: ``"builtin"``, a ``.json`` (one list) or ``.jsonl`` (one record a line) file, or
            ``"hub:OWNER/NAME"`` for a data set on the Hugging Face hub (its train split).
        format: One of the above; told from the first record's fields if None.

    Raises:
        DataError: If the source is missing, not JSON, empty or of no known format, if a record lacks a field, has an
            unknown one or is malformed (names the record, counted from 0, and the field), if prompts and answers
            differ in number, if two records have one id, or if every record was left out.
        OptionError: If the format does not exist.
    """
    check_choice("format", format, (None, *FORMATS))
    records = read_records(source, builtin="cases.jsonl", check_whole=check_supported)
    name, notes = shown_name(source), Notes()
    if format is None:
        format = _format_told(records[0], f"{name}: record 0")
    cases: list[EditCase] = []
    seen: dict[str, int] = {}
    unused: set[str] = set()
    for index, found in enumerate(records):
        where = f"{name}: record {index}"
        checked = _checked(found, format, where)
        case, ignored = _read(Record(checked, index, name, notes), shape_of(format, checked))
        unused |= ignored
        if case is None:
            continue
        if case.id in seen:
            raise DataError(f"{where}: the id {excerpt(case.id)} is the id of record {seen[case.id]} already")
        seen[case.id] = index
        cases.append(case)
    for line in notes.lines():
        logger.warning("%s: %s", name, line)
    if unused:
        logger.info("%s: fields that are not read: %s", name, ", ".join(sorted(unused)))
    if not cases:
        raise DataError(f"{name}: all {len(records)} records were left out ({'; '.join(notes.lines())})")
    return cases


def _format_told(found: object, where: str) -> Format:
    """The format that the first record's fields tell."""
    first = fields(found, where)
    check_supported(first, where)
    return format_of(first, where)


def _checked(found: object, format: Format, where: str) -> Mapping[str, Any]:
    """A record's fields; in a published format those without a value count as not there."""
    checked = fields(found, where)
    if format == "interp":
        return checked
    check_supported(checked, where)
    return without_nulls(checked)


def _read(record: Record, shape: Shape) -> tuple[EditCase | None, set[str]]:
    """The case that a record is, None if it is left out; and which of its fields are not read."""
    try:
        case = shape.read(record)
    except FactError as error:
        raise DataError(f"{record.where}: {shorten(error)}") from error
    check_known(record.fields, (*shape.used, *shape.unused), record.where)
    return case, set(shape.unused) & set(record.fields)


def case_around(request: EditRequest, facts: Sequence[Fact], *, neighbours: int = 4, far: int = 2) -> EditCase:
    """An edit case from facts at hand: the fact's own paraphrases, and other facts as locality prompts.

    A request that says no relation gets that of a given fact with the same subject, and its prompts as paraphrases.

    Args:
        request: The edit.
        facts: Where neighbours come from: those of the same relation are ``near``, others ``far``, one of each
            relation; in their order, those without a target and those about the subject left out.
        neighbours: How many near ones at most.
        far: How many far ones at most.
    """
    fact = request.fact
    same = [f for f in facts if f.subject == fact.subject and (fact.relation is None or f.relation == fact.relation)]
    relation = fact.relation if fact.relation is not None or not same else same[0].relation
    templates = [t for f in (fact, *(f for f in same if f.relation == relation)) for t in (f.template, *f.paraphrases)]
    prompts = [template.replace("{}", fact.subject) for template in templates]
    paraphrases = tuple(dict.fromkeys(prompt for prompt in prompts if prompt != fact.prompt))
    near: dict[str, Probe] = {}
    others: dict[str, Probe] = {}
    for other in facts:
        if other.target is None or other.subject == fact.subject:
            continue
        probe = Probe(prompt=other.prompt, target=other.target)
        if relation is not None and other.relation == relation:
            near.setdefault(other.subject, probe)
        elif other.relation is not None:
            others.setdefault(other.relation, probe)
    locality = {"near": tuple(near.values())[:neighbours], "far": tuple(others.values())[:far]}
    return EditCase(
        id=f"{fact.prompt} -> {request.new_target.strip()}",
        request=request,
        paraphrases=paraphrases,
        locality={kind: probes for kind, probes in locality.items() if probes},
    )
