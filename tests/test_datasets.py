import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from interp.datasets import load_facts
from interp.errors import DataError, OptionError
from interp.facts import Fact
from interp.tokens import tokenize

RECORD = {"template": "{} is governed from", "subject": "Norway", "target": " Oslo"}
KNOWN = [
    {
        "known_id": 0,
        "subject": "Vinson Massif",
        "attribute": "Antarctica",
        "template": "{} is located in the continent",
        "prediction": " of Antarctica. It is",
        "prompt": "Vinson Massif is located in the continent of ",
        "relation_id": "P30",
    },
    {"subject": " Beats Music", "attribute": " Apple", "prompt": "Beats Music is owned by"},
]


def written(folder: Path, records: list[Any], name: str = "facts.json") -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    else:
        path.write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    return path


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
def test_own_format(tmp_path: Path, name: str) -> None:
    full = {**RECORD, "relation": "capital", "paraphrases": ["The seat of {} is", "In {}, laws come from"]}
    assert load_facts(written(tmp_path, [RECORD, full], name)) == [
        Fact(template="{} is governed from", subject="Norway", target=" Oslo"),
        Fact(
            template="{} is governed from",
            subject="Norway",
            target=" Oslo",
            relation="capital",
            paraphrases=("The seat of {} is", "In {}, laws come from"),
        ),
    ]


def test_path_as_text(tmp_path: Path) -> None:
    path = written(tmp_path, [RECORD])
    assert load_facts(str(path)) == load_facts(path)


def test_lines_may_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("\n" + json.dumps(RECORD) + "\n\n" + json.dumps(RECORD) + "\r\n", "utf-8")
    assert len(load_facts(path)) == 2


def test_a_line_separator_inside_a_text_is_no_line_end(tmp_path: Path) -> None:
    subject = "New\u2028York\x85City"
    (fact,) = load_facts(written(tmp_path, [{**RECORD, "subject": subject}], "facts.jsonl"))
    assert fact.subject == subject


@pytest.mark.parametrize("format", [None, "known"])
def test_known_facts_of_rome(tmp_path: Path, format: Any) -> None:
    assert load_facts(written(tmp_path, KNOWN), format=format) == [
        Fact(
            template="{} is located in the continent of",
            subject="Vinson Massif",
            target=" Antarctica",
            relation="P30",
        ),
        Fact(template="{} is owned by", subject="Beats Music", target=" Apple"),
    ]


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in RECORD.items() if name != field}


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (without("template"), "record 17: field 'template' is missing"),
        (without("subject"), "record 17: field 'subject' is missing"),
        (without("target"), "record 17: field 'target' is missing"),
        ({**RECORD, "target": ""}, "record 17: field 'target' must be a non-empty text, got ''"),
        ({**RECORD, "target": None}, "record 17: field 'target' must be a non-empty text, got None"),
        ({**RECORD, "subject": 5}, "record 17: field 'subject' must be a non-empty text, got 5"),
        ({**RECORD, "colour": "red"}, "record 17: unknown field 'colour'"),
        ({**RECORD, "template": "no slot"}, "record 17: a template needs exactly one {}"),
        ({**RECORD, "paraphrases": "In {}"}, "record 17: field 'paraphrases' must be a list of texts"),
        ({**RECORD, "paraphrases": [1]}, "record 17: field 'paraphrases' must be a list of texts"),
        ({**RECORD, "paraphrases": 5}, "record 17: field 'paraphrases' must be a list of texts"),
        ({**RECORD, "paraphrases": None}, "record 17: field 'paraphrases' must be a list of texts"),
        ({**RECORD, "relation": 5}, "record 17: field 'relation' must be"),
        ([], "record 17: expected an object with fields, got list"),
    ],
)
def test_bad_record(tmp_path: Path, name: str, record: Any, message: str) -> None:
    path = written(tmp_path, [RECORD] * 17 + [record] + [RECORD] * 3, name)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")) as raised:
        load_facts(path)
    assert "\n" not in str(raised.value)


def test_bad_record_of_rome(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"record 2: field 'attribute' is missing"):
        load_facts(written(tmp_path, [*KNOWN, {"subject": "a", "prompt": "a is"}]))
    with pytest.raises(DataError, match=r"record 2: the subject 'b' does not occur in the prompt 'a is'"):
        load_facts(written(tmp_path, [*KNOWN, {"subject": "b", "prompt": "a is", "attribute": "c"}]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("facts.json", "[{]", r"facts\.json: not JSON"),
        ("facts.json", '{"template": "{}"}', r"expected a list of records, got dict"),
        ("facts.json", "[]", r"holds no records"),
        ("facts.jsonl", "\n \n", r"holds no records"),
        ("facts.jsonl", json.dumps(RECORD) + "\n{oops\n", r"record 1: not JSON"),
        ("facts.jsonl", "\n" + json.dumps(RECORD) + "\n\n{oops\n", r"record 1: not JSON"),
    ],
)
def test_bad_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=message):
        load_facts(tmp_path / name)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: no such file"):
        load_facts(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="cannot be read"):
        load_facts(tmp_path)
    (tmp_path / "latin.json").write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        load_facts(tmp_path / "latin.json")


def test_hub_without_network() -> None:
    with pytest.raises(DataError, match=r"^hub:interp-tests/nothing: cannot be loaded .*$"):
        load_facts("hub:interp-tests/nothing")


@pytest.mark.usefixtures("unchecked")
def test_unknown_format() -> None:
    with pytest.raises(OptionError, match=r"format must be one of .* got 'know'; did you mean 'known'"):
        load_facts(format="know")  # type: ignore[arg-type]


def test_builtin_set() -> None:
    facts = load_facts()
    assert len(facts) >= 300
    assert len({fact.relation for fact in facts} - {None}) >= 12
    assert all(fact.relation for fact in facts)
    assert [prompt for prompt, n in Counter(fact.prompt for fact in facts).items() if n > 1] == []
    assert [fact.prompt for fact in facts if not re.fullmatch(r" \S.*", fact.target or "")] == []
    # the subject is named once, or it would stay readable where a method hides it
    assert [fact.prompt for fact in facts if fact.prompt.count(fact.subject) > 1] == []
    assert [fact.prompt for fact in facts if (fact.target or "").strip() in fact.template] == []


def test_builtin_relations_share_templates() -> None:
    templates = defaultdict(set)
    for fact in load_facts("builtin"):
        templates[fact.relation].add((fact.template, fact.paraphrases))
    assert {relation: len(found) for relation, found in templates.items() if len(found) != 1} == {}


@pytest.mark.real_model
def test_builtin_facts_are_known(real_model: HookedTransformer) -> None:
    by_length = defaultdict(list)
    for fact in load_facts():
        tokens = tokenize(real_model, fact)
        by_length[len(tokens.ids)].append(tokens)
    known = 0
    for length in sorted(by_length):
        for batch in torch.arange(len(by_length[length])).split(32):
            rows = [by_length[length][i] for i in batch.tolist()]
            with torch.inference_mode():
                best = real_model(torch.stack([row.ids for row in rows]))[:, -1].argmax(-1)
            known += sum(guess == row.target_ids[0] for guess, row in zip(best.tolist(), rows, strict=True))
        if known >= 150:
            return
    pytest.fail(f"only {known} of the built-in facts are known")
