import json
import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp.errors import DataError, OptionError
from interp.facts.case_files import case_around, load_cases
from interp.facts.fact_files import load_facts
from interp.facts.records import EditCase, EditRequest, Fact, Probe

OWN: dict[str, Any] = {
    "id": "capital-norway",
    "template": "{} is governed from",
    "subject": "Norway",
    "target": " Oslo",
    "relation": "capital",
    "new_target": " Rome",
    "paraphrases": ["The seat of Norway is", "In Norway, laws come from"],
    "locality": {
        "near": [{"prompt": "Sweden is governed from", "target": " Stockholm"}],
        "far": [{"prompt": "The cat says", "target": " meow"}],
    },
    "portability": {"alias": [{"prompt": "Norge is governed from", "target": " Rome"}]},
}
COUNTERFACT: dict[str, Any] = {
    "case_id": 17,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native ", "Danielle Darrieux spoke\u00a0\n"],
    "neighborhood_prompts": ["The mother tongue of Léon Blum is", "Montesquieu is a native speaker of "],
    "attribute_prompts": ["J.R.R. Tolkien is a native speaker of"],
    "generation_prompts": ["Danielle Darrieux was born in"],
}
ZSRE: list[dict[str, Any]] = [
    {
        "subject": "Watts Humphrey",
        "src": "What university did Watts Humphrey attend?",
        "pred": "Trinity College",
        "rephrase": "What university did Watts Humphrey take part in?",
        "alt": "University of Michigan",
        "answers": ["Illinois Institute of Technology"],
        "loc": "nq question: who played desmond doss father in hacksaw ridge",
        "loc_ans": "Hugo Weaving",
        "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
    },
    {
        "subject": "Claire Clairmont",
        "src": "Who is Claire Clairmont's sister?",
        "pred": "Claire Clairmont",
        "rephrase": "- Who was Claire Clairmont's sister?",
        "alt": " Clairmont-Mayer",
        "answers": ["Mary Shelley"],
        "loc": "nq question: who were the first non native settlers in the us?",
        "loc_ans": "West Norse sailors",
        "cond": "Claire Clairmont >>  Clairmont-Mayer || Who is Claire Clairmont's sister?",
    },
]
KNOWEDIT: dict[str, Any] = {
    "subject": "Frederic Piesch",
    "prompt": "The name of the position held by Frederic Piesch is",
    "target_new": "Archbishop of León, Mexico",
    "ground_truth": ["mayor of Vienna", "mayor"],
    "rephrase_prompt": "Frederic Piesch holds the position of ",
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The gender of Frederic Piesch is", "ground_truth": [["male", "man"], ["masculine"]]},
            {"prompt": ["Frederic Piesch is a citizen of", "Frederic Piesch lived in"], "ground_truth": ["Austria"]},
        ],
        "Forgetfulness": [{"prompt": "The other position held by Frederic Piesch is", "ground_truth": "mayor"}],
    },
    "portability": {
        "Subject_Aliasing": [{"prompt": "Frederic of Pieschen held the position of", "ground_truth": "Archbishop"}],
        "Reasoning": [{"prompt": "The church of Frederic Piesch is in", "ground_truth": [["Mexico"]]}],
        "Logical_Generalization": [{"prompt": "The archbishop of León is", "ground_truth": [["Frederic Piesch"]]}],
        "Two_Hops": [{"prompt": "The continent of Frederic Piesch's church is", "ground_truth": "America"}],
    },
}
FIRST = {"counterfact": COUNTERFACT, "zsre": ZSRE[0], "knowedit": KNOWEDIT}


def written(folder: Path, records: list[Any], name: str = "cases.json") -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    else:
        path.write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    return path


def without(record: dict[str, Any], *path: str) -> dict[str, Any]:
    if len(path) == 1:
        return {name: value for name, value in record.items() if name != path[0]}
    return {**record, path[0]: without(record[path[0]], *path[1:])}


def probe(prompt: str, target: str) -> Probe:
    return Probe(prompt=prompt, target=target)


@pytest.mark.parametrize("name", ["cases.json", "cases.jsonl"])
@pytest.mark.parametrize("format", [None, "interp"])
def test_own_format(tmp_path: Path, name: str, format: Any) -> None:
    least = {"id": "b", "template": "{} barks like a", "subject": "Rex", "new_target": " cat"}
    fact = Fact(template="{} is governed from", subject="Norway", target=" Oslo", relation="capital")
    assert load_cases(written(tmp_path, [OWN, least], name), format=format) == [
        EditCase(
            id="capital-norway",
            request=EditRequest(fact, new_target=" Rome"),
            paraphrases=("The seat of Norway is", "In Norway, laws come from"),
            locality={
                "near": (probe("Sweden is governed from", " Stockholm"),),
                "far": (probe("The cat says", " meow"),),
            },
            portability={"alias": (probe("Norge is governed from", " Rome"),)},
        ),
        EditCase(id="b", request=EditRequest(Fact(template="{} barks like a", subject="Rex"), new_target=" cat")),
    ]


def test_kinds_without_probes_are_dropped(tmp_path: Path) -> None:
    (case,) = load_cases(written(tmp_path, [{**OWN, "locality": {"near": []}, "portability": {}}]))
    assert (case.locality, case.portability) == ({}, {})


@pytest.mark.parametrize("format", [None, "counterfact"])
def test_counterfact(tmp_path: Path, format: Any) -> None:
    fact = Fact(template="The mother tongue of {} is", subject="Danielle Darrieux", target=" French", relation="P103")
    assert load_cases(written(tmp_path, [COUNTERFACT]), format=format) == [
        EditCase(
            id="17",
            request=EditRequest(fact, new_target=" English"),
            paraphrases=("Shayna does this. Danielle Darrieux, a native", "Danielle Darrieux spoke"),
            locality={
                "near": (
                    probe("The mother tongue of Léon Blum is", " French"),
                    probe("Montesquieu is a native speaker of", " French"),
                )
            },
        )
    ]


def test_counterfact_with_stray_spaces(tmp_path: Path) -> None:
    rewrite = {
        "prompt": "The mother tongue of {} is ",
        "relation_id": "P103",
        "target_new": {"str": " English "},
        "target_true": {"str": "French "},
        "subject": " Danielle Darrieux",
    }
    record = {**COUNTERFACT, "requested_rewrite": rewrite}
    assert load_cases(written(tmp_path, [record])) == load_cases(written(tmp_path, [COUNTERFACT], "clean.json"))


@pytest.mark.parametrize("format", [None, "zsre"])
def test_zsre(tmp_path: Path, format: Any, caplog: pytest.LogCaptureFixture) -> None:
    first = Fact(
        template="What university did {} attend?", subject="Watts Humphrey", target=" Illinois Institute of Technology"
    )
    second = Fact(template="Who is {}'s sister?", subject="Claire Clairmont", target=" Mary Shelley")
    assert load_cases(written(tmp_path, ZSRE), format=format) == [
        EditCase(
            id="0",
            request=EditRequest(first, new_target=" University of Michigan"),
            paraphrases=("What university did Watts Humphrey take part in?",),
            locality={
                "far": (probe("nq question: who played desmond doss father in hacksaw ridge?", " Hugo Weaving"),)
            },
        ),
        EditCase(
            id="1",
            request=EditRequest(second, new_target=" Clairmont-Mayer"),
            paraphrases=("- Who was Claire Clairmont's sister?",),
            locality={
                "far": (probe("nq question: who were the first non native settlers in the us?", " West Norse sailors"),)
            },
        ),
    ]
    assert caplog.messages == []


def test_zsre_with_less(tmp_path: Path) -> None:
    record = {"subject": "Rex", "src": "What is Rex?", "alt": "a cat", "answers": [], "rephrase": "", "loc": None}
    assert load_cases(written(tmp_path, [record])) == [
        EditCase(id="0", request=EditRequest(Fact(template="What is {}?", subject="Rex"), new_target=" a cat"))
    ]


def test_zsre_leaves_out_what_is_no_edit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = ZSRE[0]
    true = record["answers"][0]
    records = [
        {**record, "alt": ""},
        {**record, "alt": None},
        {**record, "alt": "  "},
        record,
        {**record, "subject": "watts humphrey"},
        {**record, "subject": "Ada Lovelace"},
        {**record, "alt": f" {true} "},
        {**record, "loc_ans": ""},
    ]
    path = written(tmp_path, records)
    cases = load_cases(path)
    assert [case.id for case in cases] == ["3", "7"]  # as in the file
    assert cases[1].locality == {}
    assert caplog.record_tuples == [
        ("interp.facts.case_files", logging.WARNING, f"{path}: left out {rest}")
        for rest in (
            "records without a new target: 3 (record 0, record 1, record 2)",
            "records whose subject is not in their prompt: 2 (record 4, record 5)",
            "records whose new target is the true answer: 1 (record 6)",
            "probes without a prompt or an answer: 1 (record 7)",
        )
    ]
    message = f"{path}: all 3 records were left out (left out records without a new target: 3 (record 0, record 1"
    with pytest.raises(DataError, match=re.escape(message)):
        load_cases(written(tmp_path, records[:3]))


@pytest.mark.parametrize("format", [None, "knowedit"])
def test_knowedit(tmp_path: Path, format: Any, caplog: pytest.LogCaptureFixture) -> None:
    fact = Fact(template="The name of the position held by {} is", subject="Frederic Piesch", target=" mayor of Vienna")
    assert load_cases(written(tmp_path, [KNOWEDIT]), format=format) == [
        EditCase(
            id="0",
            request=EditRequest(fact, new_target=" Archbishop of León, Mexico"),
            paraphrases=("Frederic Piesch holds the position of",),
            locality={
                "near": (
                    probe("The gender of Frederic Piesch is", " male"),
                    probe("Frederic Piesch is a citizen of", " Austria"),
                    probe("Frederic Piesch lived in", " Austria"),
                ),
                "far": (probe("The other position held by Frederic Piesch is", " mayor"),),
            },
            portability={
                "alias": (probe("Frederic of Pieschen held the position of", " Archbishop"),),
                "reasoning": (probe("The church of Frederic Piesch is in", " Mexico"),),
                "logical": (probe("The archbishop of León is", " Frederic Piesch"),),
                "two_hops": (probe("The continent of Frederic Piesch's church is", " America"),),
            },
        )
    ]
    assert caplog.messages == []


@pytest.mark.parametrize("rest", [{}, {"locality": {}, "portability": {"Reasoning": []}}])
def test_knowedit_with_less(tmp_path: Path, rest: dict[str, Any]) -> None:
    record = {"subject": "Rex", "prompt": "Rex is a ", "target_new": "cat", **rest}
    assert load_cases(written(tmp_path, [record])) == [
        EditCase(id="0", request=EditRequest(Fact(template="{} is a", subject="Rex"), new_target=" cat"))
    ]


def test_nulls_are_missing_fields(tmp_path: Path) -> None:
    record = {
        **KNOWEDIT,
        "id": None,
        "ground_truth": None,
        "rephrase_prompt": None,
        "locality": {"Relation_Specificity": None, "Forgetfulness": [None]},
        "portability": None,
    }
    (case,) = load_cases(written(tmp_path, [record]))
    assert (case.id, case.request.fact.target, case.paraphrases) == ("0", None, ())
    assert (case.locality, case.portability) == ({}, {})


def test_knowedit_counts_probes_that_ask_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = [
        {"prompt": "Rex says", "ground_truth": [[""], ["meow"]]},
        {"prompt": "Rex eats", "ground_truth": [[]]},
        {"prompt": "Rex eats"},
        {"prompt": "", "ground_truth": "fish"},
        {"prompt": [], "ground_truth": "fish"},
    ]
    path = written(tmp_path, [{**KNOWEDIT, "locality": {}, "portability": {"Reasoning": entries}}])
    (case,) = load_cases(path)
    assert case.portability == {"reasoning": (probe("Rex says", " meow"),)}
    where = ", ".join(f"record 0 portability.Reasoning[{number}]" for number in (1, 2, 3, 4))
    assert caplog.messages == [f"{path}: left out probes without a prompt or an answer: 4 ({where})"]


def test_knowedit_leaves_out_what_is_no_edit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [
        {**KNOWEDIT, "target_new": ""},
        {**KNOWEDIT, "subject": "Rex"},
        {**KNOWEDIT, "target_new": "mayor of Vienna"},
        {**KNOWEDIT, "id": "x"},
    ]
    assert [case.id for case in load_cases(written(tmp_path, records))] == ["x"]
    assert len(caplog.messages) == 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        *((without(OWN, name), f"field {name!r} is missing") for name in ("id", "template", "subject", "new_target")),
        ({**OWN, "id": 5}, "field 'id' must be a non-empty text, got 5"),
        ({**OWN, "subject": ""}, "field 'subject' must be a non-empty text, got ''"),
        ({**OWN, "target": ""}, "field 'target' must be a non-empty text, got ''"),
        ({**OWN, "colour": "red"}, "unknown field 'colour'"),
        ({**OWN, "template": "no slot"}, "a template needs exactly one {}"),
        ({**OWN, "new_target": "Oslo"}, "the new target of 'Norway is governed from' is its target already"),
        ({**OWN, "paraphrases": "The seat is"}, "field 'paraphrases' must be a list of texts"),
        ({**OWN, "paraphrases": ["The seat of {} is"]}, "field 'paraphrases': a whole prompt must not contain {}"),
        ({**OWN, "paraphrases": ["The seat is "]}, "field 'paraphrases': a prompt must not end in white space"),
        ({**OWN, "paraphrases": [" "]}, "field 'paraphrases': a prompt is empty"),
        ({**OWN, "locality": []}, "field 'locality' must be an object of kinds, got []"),
        ({**OWN, "locality": {" ": []}}, "field 'locality': a kind has no name"),
        ({**OWN, "locality": {"near": {}}}, "field 'locality.near' must be a list of probes, got {}"),
        ({**OWN, "locality": {"near": ["x"]}}, "field 'locality.near[0]' must be an object with fields, got 'x'"),
        (
            {**OWN, "portability": {"alias": [*OWN["portability"]["alias"], {"prompt": "a"}]}},
            "field 'portability.alias[1].target' is missing",
        ),
        (
            {**OWN, "locality": {"near": [{"prompt": "a {} b", "target": " c"}]}},
            "field 'locality.near[0].prompt': a whole prompt must not contain {}, got 'a {} b'",
        ),
        (
            {**OWN, "locality": {"near": [{"prompt": "a ", "target": " c"}]}},
            "field 'locality.near[0].prompt': a prompt must not end in white space, got 'a '",
        ),
        (
            {**OWN, "locality": {"near": [{"prompt": "a", "ground_truth": " c"}]}},
            "locality.near[0]: unknown field 'ground_truth'",
        ),
        ([], "expected an object with fields, got list"),
    ],
)
def test_bad_record(tmp_path: Path, record: Any, message: str) -> None:
    path = written(tmp_path, [*({**OWN, "id": str(index)} for index in range(17)), record], "cases.jsonl")
    with pytest.raises(DataError, match=re.escape(f"{path}: record 17: {message}")) as raised:
        load_cases(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("format", "change", "message"),
    [
        ("counterfact", {"requested_rewrite": None}, "field 'requested_rewrite' is missing"),
        ("counterfact", {"requested_rewrite": "x"}, "field 'requested_rewrite' must be an object with fields"),
        (
            "counterfact",
            {"requested_rewrite": {**COUNTERFACT["requested_rewrite"], "prompt": "no slot"}},
            "a template needs exactly one {}",
        ),
        (
            "counterfact",
            {"requested_rewrite": without(COUNTERFACT["requested_rewrite"], "target_new")},
            "field 'requested_rewrite.target_new.str' is missing",
        ),
        (
            "counterfact",
            {"requested_rewrite": {**COUNTERFACT["requested_rewrite"], "target_true": "French"}},
            "field 'requested_rewrite.target_true' must be an object with fields, got 'French'",
        ),
        (
            "counterfact",
            {"requested_rewrite": without(COUNTERFACT["requested_rewrite"], "subject")},
            "field 'requested_rewrite.subject' is missing",
        ),
        ("counterfact", {"case_id": 1.5}, "field 'case_id' must be a number or a text, got 1.5"),
        ("counterfact", {"case_id": True}, "field 'case_id' must be a number or a text, got True"),
        ("counterfact", {"case_id": ""}, "field 'case_id' must be a number or a text, got ''"),
        ("counterfact", {"paraphrase_prompts": [5]}, "field 'paraphrase_prompts' must be a list of texts"),
        ("counterfact", {"paraphrase_prompts": ["a {} b"]}, "field 'paraphrase_prompts': a whole prompt must not"),
        ("counterfact", {"neighborhood_prompts": ["a {}"]}, "field 'neighborhood_prompts': a whole prompt must not"),
        ("zsre", {"src": None}, "field 'src' is missing"),
        ("zsre", {"subject": None}, "field 'subject' is missing"),
        ("zsre", {"src": "Is {} Watts Humphrey?"}, "field 'src': a whole prompt must not contain {}"),
        ("zsre", {"alt": 5}, "field 'alt' must be a text or a list of texts, got 5"),
        ("zsre", {"loc": "who is {}"}, "field 'loc': a whole prompt must not contain {}"),
        ("zsre", {"rephrase": "Is it {}?"}, "field 'rephrase': a whole prompt must not contain {}"),
        ("knowedit", {"prompt": None}, "field 'prompt' is missing"),
        ("knowedit", {"prompt": "Is {} Frederic Piesch"}, "field 'prompt': a whole prompt must not contain {}"),
        ("knowedit", {"ground_truth": {}}, "field 'ground_truth' must be a text or a list of texts, got {}"),
        ("knowedit", {"locality": []}, "field 'locality' must be an object of kinds, got []"),
        ("knowedit", {"locality": {"Forgetfulness": "x"}}, "field 'locality.Forgetfulness' must be a list of probes"),
        (
            "knowedit",
            {"portability": {"Reasoning": [{"prompt": "a {}", "ground_truth": "b"}]}},
            "field 'portability.Reasoning[0].prompt': a whole prompt must not contain {}, got 'a {}'",
        ),
        (
            "knowedit",
            {"portability": {"Reasoning": [{"prompt": 5, "ground_truth": "b"}]}},
            "field 'portability.Reasoning[0].prompt' must be a list of texts, got 5",
        ),
        (
            "knowedit",
            {"portability": {"Reasoning": [{"prompt": "a", "ground_truth": [[1]]}]}},
            "field 'portability.Reasoning[0].ground_truth' must be a text or a list of texts, got 1",
        ),
    ],
)
def test_bad_record_of_others(tmp_path: Path, format: str, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path, [FIRST[format], {**FIRST[format], "case_id": 1, **change}])
    with pytest.raises(DataError, match=re.escape(f"{path}: record 1: {message}")):
        load_cases(path)


def test_ids_are_unique(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 2: the id 'capital-norway' is the id of record 1 already"):
        load_cases(written(tmp_path, [{**OWN, "id": "a"}, OWN, OWN]))
    with pytest.raises(DataError, match="record 2: the id '17' is the id of record 0 already"):
        load_cases(written(tmp_path, [COUNTERFACT, {**COUNTERFACT, "case_id": "18"}, {**COUNTERFACT, "case_id": "17"}]))


def test_no_known_format(tmp_path: Path) -> None:
    message = "cases.json: record 0: no known format of edit cases has its fields ('question', 'answer')"
    with pytest.raises(DataError, match=re.escape(message)):
        load_cases(written(tmp_path, [{"question": "a", "answer": "b"}]))
    with pytest.raises(DataError, match="record 0: expected an object with fields, got str"):
        load_cases(written(tmp_path, ["a"]))
    with pytest.raises(DataError, match="holds no records"):
        load_cases(written(tmp_path, []))
    with pytest.raises(DataError, match=r"nowhere\.json: no such file"):
        load_cases(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match=r"^hub:interp-tests/nothing: cannot be loaded"):
        load_cases("hub:interp-tests/nothing")


def test_the_first_record_tells_the_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 1: field 'src' is missing"):
        load_cases(written(tmp_path, [ZSRE[0], KNOWEDIT]))
    with pytest.raises(DataError, match="record 0: field 'requested_rewrite' is missing"):
        load_cases(written(tmp_path, [ZSRE[0]]), format="counterfact")


@pytest.mark.usefixtures("unchecked")
def test_unknown_format() -> None:
    with pytest.raises(OptionError, match=r"format must be one of .* got 'knowdit'; did you mean 'knowedit'"):
        load_cases(format="knowdit")  # type: ignore[arg-type]


def test_builtin_set() -> None:
    cases = load_cases()
    assert len(cases) >= 100
    assert len({case.request.fact.relation for case in cases} - {None}) >= 8
    assert [name for name, n in Counter(case.id for case in cases).items() if n > 1] == []
    assert [case.id for case in cases if len(case.paraphrases) != 2] == []
    assert [case.id for case in cases if sum(map(len, case.locality.values())) < 2] == []
    facts = {replace(fact, paraphrases=()) for fact in load_facts("builtin")}
    assert [case.id for case in cases if case.request.fact not in facts] == []


def test_a_case_around_a_fact():
    facts = [
        Fact(template="{} is in", subject="Paris", target=" France", relation="country", paraphrases=("{} lies in",)),
        Fact(template="{} is in", subject="Rome", target=" Italy", relation="country"),
        Fact(template="{} is in", subject="Lima", target=" Peru", relation="country"),
        Fact(template="{} is in", subject="Oslo", relation="country"),  # no answer: not asked
        Fact(template="The sky is as {} as", subject="blue", target=" ever", relation="colour"),
        Fact(template="Grass is as {} as", subject="green", target=" ever", relation="colour"),
    ]
    request = EditRequest(Fact(template="The city of {} belongs to", subject="Paris"), new_target=" Spain")
    case = case_around(request, facts, neighbours=1)
    assert case.request == request
    assert case.paraphrases == ("Paris is in", "Paris lies in")  # of the given fact about the same subject
    assert case.locality == {
        "near": (Probe(prompt="Rome is in", target=" Italy"),),
        "far": (Probe(prompt="The sky is as blue as", target=" ever"),),
    }
    assert case.portability == {}
    own = EditRequest(facts[0], new_target=" Spain")
    assert case_around(own, facts).paraphrases == ("Paris lies in",)
    assert [probe.prompt for probe in case_around(own, facts).locality["near"]] == ["Rome is in", "Lima is in"]
    strange = EditRequest(Fact(template="{} is", subject="Nobody"), new_target=" here")
    found = case_around(strange, facts)
    assert found.paraphrases == ()
    assert set(found.locality) == {"far"}
