"""Readers of edit cases: the built-in set, and the formats of CounterFact, ZsRE (MEND) and KnowEdit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from interp.errors import DataError, FactError
from interp.facts import EditCase, EditRequest, Fact, Probe
from interp.json_records import check_known, fields, optional_text, read_records, text, texts
from interp.options import check_choice

__all__ = ["FORMATS", "case_around", "load_cases"]

logger = logging.getLogger(__name__)

Format = Literal["interp", "counterfact", "zsre", "knowedit"]
FORMATS: tuple[Format, ...] = ("interp", "counterfact", "zsre", "knowedit")

_MARKS: dict[str, Format] = {
    "requested_rewrite": "counterfact",
    "alt": "zsre",
    "target_new": "knowedit",
    "new_target": "interp",
    "template": "interp",
}
"""Fields that only one format has."""

_FIELDS = ("id", "template", "subject", "target", "relation", "new_target", "paraphrases", "locality", "portability")
_KINDS = {
    "Relation_Specificity": "near",
    "Forgetfulness": "far",
    "Subject_Aliasing": "alias",
    "Reasoning": "reasoning",
    "Logical_Generalization": "logical",
}
"""KnowEdit's names of kinds, and ours."""

_NO_ANSWER = "probes without a prompt or an answer"


def load_cases(source: str | Path = "builtin", *, format: Format | None = None) -> list[EditCase]:
    """Read edit cases.

    - ``"interp"``: the fields ``id``, ``template``, ``subject``, ``new_target``, and if wanted ``target``,
      ``relation``, ``paraphrases`` (whole prompts), ``locality`` and ``portability`` (lists of ``prompt`` and
      ``target`` by kind).
    - ``"counterfact"``: CounterFact (Meng et al. 2022). Neighbourhood prompts become locality ``near`` with the
      true target.
    - ``"zsre"``: Zero-shot relation extraction as in MEND (Mitchell et al. 2022). Natural questions become
      locality ``far``.
    - ``"knowedit"``: ZsRE and WikiData of KnowEdit (Zhang et al. 2024). The first of several right answers is
      taken.

    The last three get one space before each target. In the last two, records without a new target, whose subject
    is not in their prompt, or whose new target is the true answer are left out, and so are probes without a prompt
    or an answer; one warning each says how many.

    Args:
        source: ``"builtin"``, a ``.json`` (one list) or ``.jsonl`` (one record a line) file, or
            ``"hub:OWNER/NAME"`` for a data set on the Hugging Face hub (its train split).
        format: One of the above; told from the first record's fields if None.

    Raises:
        DataError: If the source is missing, not JSON, empty or of no known format, if a record lacks a field or is
            malformed (names the record, counted from 0, and the field), if two records have one id, or if every
            record was left out.
        OptionError: If the format does not exist.
    """
    check_choice("format", format, (None, *FORMATS))
    records = read_records(source, builtin="cases.jsonl")
    read = _READERS[format or _format(fields(records[0], f"{source}: record 0"), f"{source}: record 0")]
    cases: list[EditCase] = []
    seen: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    for index, record in enumerate(records):
        where = f"{source}: record {index}"
        try:
            case = read(fields(record, where), index, where, left_out)
        except FactError as error:
            raise DataError(f"{where}: {error}") from error
        if case is None:
            continue
        if case.id in seen:
            raise DataError(f"{where}: the id {case.id!r} is the id of record {seen[case.id]} already")
        seen[case.id] = index
        cases.append(case)
    for what, n in left_out.items():
        logger.warning("%s: left out %s: %d", source, what, n)
    if not cases:
        raise DataError(f"{source}: all {len(records)} records were left out")
    return cases


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


def _format(first: Mapping[str, Any], where: str) -> Format:
    for mark, format in _MARKS.items():
        if mark in first:
            return format
    found = ", ".join(map(repr, first)) or "none"
    raise DataError(f"{where}: no known format of edit cases has its fields ({found})")


def _interp(record: Mapping[str, Any], index: int, where: str, left_out: Counter[str]) -> EditCase:
    check_known(record, _FIELDS, where)
    fact = Fact(
        template=text(record, "template", where),
        subject=text(record, "subject", where),
        target=optional_text(record, "target", where),
        relation=optional_text(record, "relation", where),
    )
    return EditCase(
        id=text(record, "id", where),
        request=EditRequest(fact, new_target=text(record, "new_target", where)),
        paraphrases=tuple(_prompt(value, "paraphrases", where) for value in texts(record, "paraphrases", where)),
        locality=_interp_probes(record, "locality", where),
        portability=_interp_probes(record, "portability", where),
    )


def _interp_probes(record: Mapping[str, Any], field: str, where: str) -> dict[str, tuple[Probe, ...]]:
    probes = {}
    for kind, entries in _kinds(record, field, where).items():
        found = []
        for number, entry in enumerate(entries):
            path = f"{field}.{kind}[{number}]"
            entry = _inner(entry, path, where)
            check_known(entry, ("prompt", "target"), f"{where}: {path}")
            prompt = _prompt(text(entry, "prompt", where, within=f"{path}."), f"{path}.prompt", where)
            found.append(Probe(prompt=prompt, target=text(entry, "target", where, within=f"{path}.")))
        if found:
            probes[kind] = tuple(found)
    return probes


def _counterfact(record: Mapping[str, Any], index: int, where: str, left_out: Counter[str]) -> EditCase:
    record = _without_nulls(record)
    if "requested_rewrite" not in record:
        raise DataError(f"{where}: field 'requested_rewrite' is missing")
    rewrite = _inner(record["requested_rewrite"], "requested_rewrite", where)
    answers = []
    for name in ("target_true", "target_new"):
        path = f"requested_rewrite.{name}"
        answers.append(text(_inner(rewrite.get(name, {}), path, where), "str", where, within=f"{path}."))
    true, new = map(_spaced, answers)
    fact = Fact(
        template=text(rewrite, "prompt", where, within="requested_rewrite.").rstrip(),
        subject=text(rewrite, "subject", where, within="requested_rewrite.").strip(),
        target=true,
        relation=optional_text(rewrite, "relation_id", where),
    )
    near = tuple(Probe(prompt=prompt, target=true) for prompt in _stripped(record, "neighborhood_prompts", where))
    return EditCase(
        id=_id(record, index, where),
        request=EditRequest(fact, new_target=new),
        paraphrases=_stripped(record, "paraphrase_prompts", where),
        locality={"near": near} if near else {},
    )


def _zsre(record: Mapping[str, Any], index: int, where: str, left_out: Counter[str]) -> EditCase | None:
    record = _without_nulls(record)
    request = _request(
        _prompt(text(record, "src", where).rstrip(), "src", where),
        text(record, "subject", where),
        target=_first_text(record.get("answers"), "answers", where),
        new_target=_first_text(record.get("alt"), "alt", where),
        left_out=left_out,
    )
    if request is None:
        return None
    far: list[Probe] = []
    for question in _stripped(record, "loc", where):
        answer = _first_text(record.get("loc_ans"), "loc_ans", where)
        if answer is None:
            left_out[_NO_ANSWER] += 1
        else:
            far.append(Probe(prompt=question if question.endswith("?") else f"{question}?", target=_spaced(answer)))
    return EditCase(
        id=_id(record, index, where),
        request=request,
        paraphrases=_stripped(record, "rephrase", where),
        locality={"far": tuple(far)} if far else {},
    )


def _knowedit(record: Mapping[str, Any], index: int, where: str, left_out: Counter[str]) -> EditCase | None:
    record = _without_nulls(record)
    request = _request(
        _prompt(text(record, "prompt", where).rstrip(), "prompt", where),
        text(record, "subject", where),
        target=_first_text(record.get("ground_truth"), "ground_truth", where),
        new_target=_first_text(record.get("target_new"), "target_new", where),
        left_out=left_out,
    )
    if request is None:
        return None
    return EditCase(
        id=_id(record, index, where),
        request=request,
        paraphrases=_stripped(record, "rephrase_prompt", where),
        locality=_knowedit_probes(record, "locality", where, left_out),
        portability=_knowedit_probes(record, "portability", where, left_out),
    )


def _knowedit_probes(
    record: Mapping[str, Any], field: str, where: str, left_out: Counter[str]
) -> dict[str, tuple[Probe, ...]]:
    probes: dict[str, tuple[Probe, ...]] = {}
    for name, entries in _kinds(record, field, where).items():
        kind = _KINDS.get(name, name.lower())
        for number, entry in enumerate(entries):
            path = f"{field}.{name}[{number}]"
            entry = _inner(entry, path, where)
            answer = _first_text(entry.get("ground_truth"), f"{path}.ground_truth", where)
            prompts = _stripped(entry, "prompt", where, within=f"{path}.")
            if answer is None or not prompts:
                left_out[_NO_ANSWER] += 1
                continue
            found = tuple(Probe(prompt=prompt, target=_spaced(answer)) for prompt in prompts)
            probes[kind] = probes.get(kind, ()) + found
    return probes


def _request(
    prompt: str, subject: str, *, target: str | None, new_target: str | None, left_out: Counter[str]
) -> EditRequest | None:
    """The request of a whole prompt; None, and counted, where there is nothing to edit."""
    subject = subject.strip()
    if new_target is None:
        left_out["records without a new target"] += 1
    elif subject not in prompt:
        left_out["records whose subject is not in their prompt"] += 1
    elif new_target == target:
        left_out["records whose new target is the true answer"] += 1
    else:
        fact = Fact.from_prompt(prompt, subject, None if target is None else _spaced(target))
        return EditRequest(fact, new_target=_spaced(new_target))
    return None


def _id(record: Mapping[str, Any], index: int, where: str) -> str:
    for field in ("case_id", "id"):
        if field in record:
            value = record[field]
            if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
                raise DataError(f"{where}: field {field!r} must be a number or a text, got {value!r}")
            return str(value)
    return str(index)


def _spaced(answer: str) -> str:
    return " " + answer.strip()


def _prompt(value: str, field: str, where: str) -> str:
    """The whole prompt; an error if it is empty, ends in white space or has a slot for a subject."""
    if not value.strip():
        raise DataError(f"{where}: field {field!r}: a prompt is empty")
    if "{}" in value:
        raise DataError(f"{where}: field {field!r}: a whole prompt must not contain {{}}, got {value!r}")
    if value != value.rstrip():
        raise DataError(f"{where}: field {field!r}: a prompt must not end in white space, got {value!r}")
    return value


def _stripped(record: Mapping[str, Any], field: str, where: str, *, within: str = "") -> tuple[str, ...]:
    """The whole prompts of a field that holds one, several or none; stripped at the end, blank ones dropped."""
    value = record.get(field, ())
    prompts = texts({within + field: [value] if isinstance(value, str) else value}, within + field, where)
    return tuple(_prompt(prompt.rstrip(), within + field, where) for prompt in prompts if prompt.strip())


def _kinds(record: Mapping[str, Any], field: str, where: str) -> Mapping[str, Any]:
    value = record.get(field, {})
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: field {field!r} must be an object of kinds, got {value!r}")
    for kind, entries in value.items():
        if not kind.strip():
            raise DataError(f"{where}: field {field!r}: a kind has no name")
        if not isinstance(entries, (list, tuple)):
            raise DataError(f"{where}: field '{field}.{kind}' must be a list of probes, got {entries!r}")
    return value


def _inner(value: Any, path: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: field {path!r} must be an object with fields, got {value!r}")
    return value


def _first_text(value: Any, field: str, where: str) -> str | None:
    """The first text that is not blank in a text, a list of texts, a list of lists of texts, and so on."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: field {field!r} must be a text or a list of texts, got {value!r}")
    found = (_first_text(entry, field, where) for entry in value)
    return next((entry for entry in found if entry is not None), None)


def _without_nulls(value: Any) -> Any:
    """The value without null fields and entries, with which a table stands in for missing ones."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(entry) for entry in value if entry is not None]
    return value


_READERS: dict[Format, Callable[[Mapping[str, Any], int, str, Counter[str]], EditCase | None]] = {
    "interp": _interp,
    "counterfact": _counterfact,
    "zsre": _zsre,
    "knowedit": _knowedit,
}
