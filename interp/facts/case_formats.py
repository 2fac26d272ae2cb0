"""The formats of edit cases: which fields each has, and how a record becomes an :class:`EditCase`.

Every field of a record is read, or known and left out (``Shape.unused``), or an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal
from unicodedata import normalize

from interp.errors import DataError, excerpt
from interp.facts.case_fields import Record, case_id, first_text, inner, kinds, pairs, whole_prompt, whole_prompts
from interp.facts.json_records import CHOSEN, check_known, fact_of_prompt, optional_text, text, texts
from interp.facts.records import EditCase, EditRequest, Fact, Probe, runs_into, spaced_answer

__all__ = ["CASE_FORMATS", "CaseFormat", "Shape", "check_supported", "format_of", "shape_of"]

CaseFormat = Literal["interp", "counterfact", "zsre", "knowedit"]
CASE_FORMATS: tuple[CaseFormat, ...] = ("interp", "counterfact", "zsre", "knowedit")

_MARKS: dict[str, CaseFormat] = {
    "requested_rewrite": "counterfact",
    "alt": "zsre",
    "target_new": "knowedit",
    "labels": "knowedit",
    "new_target": "interp",
    "template": "interp",
}
"""Fields that only one format has."""

_KINDS = {
    "Relation_Specificity": "near",
    "Forgetfulness": "far",
    "Subject_Aliasing": "alias",
    "Reasoning": "reasoning",
    "Logical_Generalization": "logical",
}
"""KnowEdit's names of kinds, and ours."""

_NO_CHANGE = "left out records whose new target is the true answer"
_ONE_HOP = ("New Question", "New Answer", "Recalled Relation")
"""The fields of EasyEdit's portability files; the last one only explains the others."""


def _own(record: Record) -> EditCase:
    fields, where = record.fields, record.where
    fact = Fact(
        template=text(fields, "template", where),
        subject=text(fields, "subject", where),
        target=optional_text(fields, "target", where),
        relation=optional_text(fields, "relation", where),
    )
    request = EditRequest(fact, new_target=text(fields, "new_target", where))
    for name, target in (("target", fact.target), ("new_target", request.new_target)):
        _note_glued(record, fact.prompt, target, name)
    return EditCase(
        id=text(fields, "id", where),
        request=request,
        paraphrases=tuple(whole_prompt(value, "paraphrases", where) for value in texts(fields, "paraphrases", where)),
        locality=_own_probes(record, "locality"),
        portability=_own_probes(record, "portability"),
    )


def _own_probes(record: Record, name: str) -> dict[str, tuple[Probe, ...]]:
    where = record.where
    probes = {}
    for kind, entries in kinds(record.fields, name, where).items():
        found = []
        for number, entry in enumerate(entries):
            path = f"{name}.{kind}[{number}]"
            entry = inner(entry, path, where)
            check_known(entry, ("prompt", "target"), f"{where}: {path}")
            prompt = whole_prompt(text(entry, "prompt", where, within=f"{path}."), f"{path}.prompt", where)
            target = text(entry, "target", where, within=f"{path}.")
            _note_glued(record, prompt, target, path)
            found.append(Probe(prompt=prompt, target=target))
        if found:
            probes[kind] = tuple(found)
    return probes


def _note_glued(record: Record, prompt: str, target: str | None, path: str) -> None:
    if target is not None and runs_into(prompt, target):
        record.note("read answers as they are, without a space between them and their prompt", path)


def _nested(record: Record) -> EditCase | None:
    """A record of CounterFact as ROME publishes it."""
    fields, where, within = record.fields, record.where, "requested_rewrite."
    if "requested_rewrite" not in fields:
        raise DataError(f"{where}: field 'requested_rewrite' is missing")
    rewrite = inner(fields["requested_rewrite"], "requested_rewrite", where)
    answers = []
    for name in ("target_true", "target_new"):
        path = f"{within}{name}"
        target = inner(rewrite.get(name, {}), path, where)
        answers.append(text(target, "str", where, within=f"{path}.").strip())
        check_known(target, ("str", "id"), where, within=f"{path}.")
    true, new = answers
    bare = Fact(
        template=text(rewrite, "prompt", where, within=within).rstrip(),
        subject=text(rewrite, "subject", where, within=within).strip(),
        relation=optional_text(rewrite, "relation_id", where),
    )
    check_known(rewrite, ("prompt", "relation_id", "target_new", "target_true", "subject"), where, within=within)
    near = tuple(_probe(prompt, true) for prompt in whole_prompts(fields, "neighborhood_prompts", where))
    if true == new:
        record.note(_NO_CHANGE)
        return None
    fact = replace(bare, target=spaced_answer(bare.prompt, true))
    return EditCase(
        id=case_id(record),
        request=EditRequest(fact, new_target=spaced_answer(bare.prompt, new)),
        paraphrases=whole_prompts(fields, "paraphrase_prompts", where),
        locality=_grouped({"near": near}),
    )


def _zsre(record: Record) -> EditCase | None:
    """A record of ZsRE as MEND publishes it, also with EasyEdit's portability."""
    prompts = pairs(record, "loc", "loc_ans") if {"loc", "loc_ans"} & set(record.fields) else []
    questions = tuple(_probe(p if p.endswith("?") else f"{p}?", answer) for p, answer in prompts)
    return _case(
        record, prompt="src", subject="subject", true="answers", new="alt", rephrased="rephrase",
        locality={"far": questions},
    )  # fmt: skip


def _flat(record: Record) -> EditCase | None:
    """A record of KnowEdit, or one of CounterFact as EasyEdit publishes it, without nesting."""
    names = ("locality_prompt", "locality_ground_truth")
    near, far = [], []
    for prompt, answer in pairs(record, *names) if set(names) & set(record.fields) else []:
        if prompt.startswith("nq question"):  # ZsRE's
            far.append(_probe(prompt if prompt.endswith("?") else f"{prompt}?", answer))
        else:
            near.append(_probe(prompt, answer))
    return _case(
        record, prompt="prompt", subject="subject", true="ground_truth", new="target_new",
        rephrased="rephrase_prompt", locality={"near": tuple(near), "far": tuple(far)},
    )  # fmt: skip


def _passage(record: Record) -> EditCase | None:
    """A record of KnowEdit's WikiBio: a passage about a concept, and the sentence that should follow."""
    return _case(record, prompt="text", subject="concept", true=None, new="labels")


def _case(
    record: Record,
    *,
    prompt: str,
    subject: str,
    true: str | None,
    new: str,
    rephrased: str | None = None,
    locality: Mapping[str, tuple[Probe, ...]] = MappingProxyType({}),
) -> EditCase | None:
    """The case of a whole prompt, from the names of its fields; None, and noted, where there is nothing to edit."""
    fields, where = record.fields, record.where
    whole = whole_prompt(text(fields, prompt, where).rstrip(), prompt, where)
    about = text(fields, subject, where).strip()
    old = None if true is None else first_text(fields.get(true), true, where)
    wanted = first_text(fields.get(new), new, where)
    named = _named_probes(record, "locality")
    portability = _portability(record)
    paraphrases = () if rephrased is None else whole_prompts(fields, rephrased, where)
    if wanted is None:
        record.note("left out records without a new target")
    elif about not in whole and normalize("NFC", about) in normalize("NFC", whole):
        record.note("left out records whose subject is in their prompt in another Unicode form only")
    elif about not in whole:
        record.note("left out records whose subject is not in their prompt")
    elif wanted == old:
        record.note(_NO_CHANGE)
    else:
        fact, chosen = fact_of_prompt(whole, about, None if old is None else spaced_answer(whole, old))
        if chosen:
            record.note(CHOSEN)
        return EditCase(
            id=case_id(record),
            request=EditRequest(fact, new_target=spaced_answer(whole, wanted)),
            paraphrases=paraphrases,
            locality=_grouped(named, locality),
            portability=portability,
        )
    return None


def _named_probes(record: Record, name: str) -> dict[str, tuple[Probe, ...]]:
    """Probes by KnowEdit's kinds."""
    probes: dict[str, tuple[Probe, ...]] = {}
    for kind, entries in kinds(record.fields, name, record.where).items():
        ours = _KINDS.get(kind, kind.lower())
        for number, entry in enumerate(entries):
            if entry is not None:
                path = f"{name}.{kind}[{number}]"
                entry = inner(entry, path, record.where)
                found = pairs(record, "prompt", "ground_truth", within=path, entry=entry)
                check_known(entry, ("prompt", "ground_truth"), record.where, within=f"{path}.")
                probes[ours] = (*probes.get(ours, ()), *(_probe(*pair) for pair in found))
    return _grouped(probes)


def _portability(record: Record) -> dict[str, tuple[Probe, ...]]:
    """Probes by KnowEdit's kinds, or EasyEdit's one question, beside the other fields or in one of its own."""
    inner = record.fields.get("portability")
    within, entry = ("portability", inner) if isinstance(inner, Mapping) else ("", record.fields)
    if not set(_ONE_HOP) & set(entry):
        return _named_probes(record, "portability")
    found = pairs(record, *_ONE_HOP[:2], within=within, entry=entry)
    if within:
        check_known(entry, _ONE_HOP, record.where, within=f"{within}.")
    return _grouped({"reasoning": tuple(_probe(*pair) for pair in found)})


def _probe(prompt: str, answer: str) -> Probe:
    return Probe(prompt=prompt, target=spaced_answer(prompt, answer))


def _grouped(*parts: Mapping[str, tuple[Probe, ...]]) -> dict[str, tuple[Probe, ...]]:
    """Probes by kind, without kinds that have none."""
    kinds = dict.fromkeys(kind for part in parts for kind in part)
    found = {kind: tuple(probe for part in parts for probe in part.get(kind, ())) for kind in kinds}
    return {kind: probes for kind, probes in found.items() if probes}


@dataclass(frozen=True)
class Shape:
    """One layout of a record: its reader, and its fields."""

    read: Callable[[Record], EditCase | None]
    used: tuple[str, ...]
    unused: tuple[str, ...] = ()
    """Published fields that say nothing about an edit or its probes."""


_IDS = ("case_id", "id")
_OWN = Shape(
    _own, ("id", "template", "subject", "target", "relation", "new_target", "paraphrases", "locality", "portability")
)
_NESTED = Shape(
    _nested,
    (*_IDS, "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"),
    ("pararel_idx", "attribute_prompts", "generation_prompts"),
)
_ZSRE = Shape(
    _zsre,
    (*_IDS, "subject", "src", "alt", "answers", "rephrase", "loc", "loc_ans", "locality", "portability", *_ONE_HOP[:2]),
    ("pred", "cond", _ONE_HOP[2]),
)
_FLAT = Shape(
    _flat,
    (
        *_IDS,
        "subject",
        "prompt",
        "target_new",
        "ground_truth",
        "rephrase_prompt",
        "locality_prompt",
        "locality_ground_truth",
        "locality",
        "portability",
        *_ONE_HOP[:2],
    ),
    ("cond", _ONE_HOP[2]),
)
_PASSAGE = Shape(_passage, (*_IDS, "text", "labels", "concept", "locality", "portability"))


def shape_of(format: CaseFormat, fields: Mapping[str, Any]) -> Shape:
    """The layout of one record of a format."""
    if format == "counterfact":
        return _FLAT if "requested_rewrite" not in fields and "target_new" in fields else _NESTED
    if format == "knowedit":
        return _PASSAGE if "labels" in fields and "prompt" not in fields else _FLAT
    return _OWN if format == "interp" else _ZSRE


def format_of(fields: Mapping[str, Any], where: str) -> CaseFormat:
    """The format that a record's fields tell.

    Raises:
        DataError: If they tell none; names the fields.
    """
    for mark, format in _MARKS.items():
        if mark in fields:
            return format
    found = ", ".join(map(excerpt, list(fields)[:12])) or "none"
    raise DataError(f"{where}: no known format of edit cases has its fields ({found})")


def check_supported(fields: Mapping[str, Any], where: str) -> None:
    """Refuse records of benchmarks whose meaning an edit case cannot hold.

    Raises:
        DataError: Naming the benchmark and what it needs.
    """
    if isinstance(fields.get("requested_rewrite"), (list, tuple)):
        reason = "MQuAKE is not supported: its edits only together give an answer, which counts in any of its phrasings"
    elif isinstance(fields.get("edit"), Mapping):
        reason = "RippleEdits is not supported: it names subjects and targets by id, and its tests have conditions"
    elif "success" in fields or ("question" in fields and "target_new" in fields and "subject" not in fields):
        reason = "KnowEdit's sanitation is not supported: its questions have no subject to edit at"
    elif "attribute" in fields and "prompt" in fields:
        reason = "these are known facts, with nothing to edit; read them with load_facts"
    else:
        return
    raise DataError(f"{where}: {reason}")
