import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from interp.errors import DataError, OptionError
from interp.facts.fact_files import load_facts
from interp.facts.records import Fact
from interp.models.tokens import tokenize

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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl", "facts.txt"])
def test_lines_and_lists_are_read_under_any_name(tmp_path: Path, name: str, end: str) -> None:
    lines = end.join(json.dumps({**RECORD, "subject": subject}) for subject in ("Norway", "Sweden"))
    (tmp_path / name).write_bytes(lines.encode())
    assert [fact.subject for fact in load_facts(tmp_path / name)] == ["Norway", "Sweden"]
    (tmp_path / name).write_text(json.dumps([RECORD, RECORD], indent=1))
    assert len(load_facts(tmp_path / name)) == 2


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
def test_a_byte_order_mark_is_accepted(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, [RECORD], name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_facts(path) == load_facts(written(tmp_path, [RECORD], "plain.json"))


DEEP = "[" * 200 + "]" * 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([RECORD]).encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (json.dumps([RECORD]).encode("utf-16-le"), "it holds NUL bytes; expected text in UTF-8"),
        (b'["\xe9"]', r"it is not UTF-8 (byte 0xe9 at 2)"),
        (b"[" * 100_000, "lists and objects are more than 32 deep in each other"),
        (f'[{{"a": {DEEP}}}]'.encode(), "record 0: lists and objects are more than 32 deep in each other"),
        (b"[" + b"9" * 5000 + b"]", "holds a number of more than 4300 digits"),
        (rb'[{"subject": "a\ud800"}]', r"record 0: a text holds half a character (a lone surrogate): 'a\ud800'"),
        (rb'[{"\udfff": 1}]', r"record 0: a text holds half a character (a lone surrogate): '\udfff'"),
        (b'[{"subject": "a", "subject": "b"}]', "field 'subject' is there twice in one object"),
        (b'{"template": "{}"}', "expected a list of records, got dict with the fields ['template']"),
        (b'{"template": 1}\n{"a"', "record 1: not JSON"),
        (b"null", "expected a list of records, got NoneType"),
        (b"", "not JSON"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_no_file_may_hold(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        load_facts(path)
    assert str(raised.value).startswith(str(path))


def test_errors_show_the_start_of_a_value_only(tmp_path: Path) -> None:
    for record in (
        {**RECORD, "target": ["x" * 100_000]},
        {**RECORD, "x" * 100_000: 1},
        {**RECORD, "template": "x" * 100_000},
        {**RECORD, "subject": " " + "x" * 100_000},
        {**RECORD, "relation": "\x1b[31m" * 1000 + " ", "target": {"\x1b]0;": 5}},
    ):
        with pytest.raises(DataError) as raised:
            load_facts(written(tmp_path, [record]))
        message = str(raised.value).removeprefix(str(tmp_path))
        assert len(message) < 500
        assert message.isprintable()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the name of the file is empty"),
        ("a\0b", r"a\x00b: cannot be read"),
        ("x" * 300, "cannot be read: File name too long"),
        ("a\ud800", r"a\ud800: cannot be read"),
        ("~no-such-user-here/a.json", "~no-such-user-here/a.json: cannot be read"),
        ("hub:", "'hub:' is no data set of the Hugging Face hub; expected 'hub:OWNER/NAME'"),
        ("hub:..", "'hub:..' is no data set of the Hugging Face hub"),
        ("hub:a/b/c", "'hub:a/b/c' is no data set of the Hugging Face hub"),
        ("hub:" + "a" * 300, "is no data set of the Hugging Face hub"),
    ],
)
def test_sources_that_cannot_be(source: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        load_facts(source)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


def test_a_folder_is_no_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(DataError, match="'owner/name' is here and would be read instead"):
        load_facts("hub:owner/name")


def test_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, [RECORD])
    assert len(load_facts("~/facts.json")) == 1


@pytest.mark.skipif("os.geteuid() == 0", reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = written(tmp_path, [RECORD])
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load_facts(path)


def test_a_path_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(DataError, match=r"facts\.json: cannot be read: Permission denied"):
        load_facts(tmp_path / "facts.json")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("source", [None, 5, [RECORD]])
def test_a_source_of_another_type(source: Any) -> None:
    with pytest.raises(OptionError, match="a source is a path, 'builtin' or 'hub:OWNER/NAME', got"):
        load_facts(source)
