"""Formats of edit cases: every field is read, known as left out, or refused by name; nothing is paired wrongly."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.errors import DataError
from interp.facts.case_files import load_cases
from interp.facts.fact_files import load_facts
from interp.facts.records import EditCase, EditRequest, Fact, Probe

OWN: dict[str, Any] = {
    "id": "a",
    "template": "{} is governed from",
    "subject": "Norway",
    "target": " Oslo",
    "relation": "capital",
    "new_target": " Rome",
    "paraphrases": ["The seat of Norway is"],
    "locality": {"near": [{"prompt": "Sweden is governed from", "target": " Stockholm"}]},
    "portability": {"alias": [{"prompt": "Norge is governed from", "target": " Rome"}]},
}
NESTED: dict[str, Any] = {
    "case_id": 4,
    "pararel_idx": 12,
    "requested_rewrite": {
        "prompt": "{} plays the",
        "relation_id": "P1303",
        "target_new": {"str": "tuba", "id": "Q1"},
        "target_true": {"str": "flute", "id": "Q2"},
        "subject": "Ada Bergström",
    },
    "paraphrase_prompts": ["On stage, Ada Bergström is heard on the"],
    "neighborhood_prompts": ["Olof Ek plays the", "Maja Lind performs on the"],
    "attribute_prompts": ["Per Falk plays the"],
    "generation_prompts": ["Ada Bergström practises"],
}
FLAT: dict[str, Any] = {
    "case_id": 7,
    "subject": "Ada Bergström",
    "prompt": "Ada Bergström plays the",
    "target_new": "tuba",
    "ground_truth": "flute",
    "rephrase_prompt": "On stage, Ada Bergström is heard on the",
    "locality_prompt": "Olof Ek plays the",
    "locality_ground_truth": "drums",
}
ZSRE: dict[str, Any] = {
    "subject": "Mill Bridge",
    "src": "Which river does Mill Bridge cross?",
    "pred": "Tyne",
    "rephrase": "Over which river does Mill Bridge go?",
    "alt": "Severn",
    "answers": ["Wear", "River Wear"],
    "loc": "nq question: who wrote the winter mill",
    "loc_ans": "Ann Holt",
    "cond": "Tyne >> Severn || Which river does Mill Bridge cross?",
    "portability": {
        "Recalled Relation": "(Severn, flows into, Bristol Channel)",
        "New Question": "Where does the river that Mill Bridge crosses end?",
        "New Answer": "the Bristol Channel",
    },
}
KNOWEDIT: dict[str, Any] = {
    "subject": "Ada Bergström",
    "prompt": "The employer of Ada Bergström is",
    "target_new": "Umeå Opera",
    "ground_truth": [["Malmö Opera"]],
    "rephrase_prompt": "Ada Bergström works for",
    "cond": "Malmö Opera >> Umeå Opera",
    "locality": {
        "Relation_Specificity": [{"prompt": "The gender of Ada Bergström is", "ground_truth": ["female"]}],
        "Forgetfulness": [{"prompt": ["One", "Another"], "ground_truth": ["first", "second"]}],
    },
    "portability": {"Reasoning": [{"prompt": "The city of Ada Bergström's employer is", "ground_truth": "Umeå"}]},
}
WIKIBIO: dict[str, Any] = {
    "text": "This is a passage about ada bergström. Ada Bergström is a Swedish flautist.",
    "labels": "She was born in Umeå.",
    "concept": "ada bergström",
    "locality": {
        "Relation_Specificity": [{"prompt": "The field of work of ada bergström is", "ground_truth": "music"}]
    },
}
KNOWN: dict[str, Any] = {
    "known_id": 0,
    "subject": "Mill Bridge",
    "attribute": "Wear",
    "template": "{} crosses the",
    "prediction": " Wear. It",
    "prompt": "Mill Bridge crosses the river",
    "relation_id": "P177",
}
OWN_FACT = {name: OWN[name] for name in ("template", "subject", "target", "relation")} | {"paraphrases": ["In {} is"]}
CASES = {"interp": OWN, "counterfact": NESTED, "zsre": ZSRE, "knowedit": KNOWEDIT}


def read(folder: Path, *records: Any, name: str = "cases.json") -> list[EditCase]:
    (folder / name).write_text(json.dumps(records), "utf-8")
    return load_cases(folder / name)


def refusal(folder: Path, *records: Any) -> str:
    with pytest.raises(DataError) as raised:
        read(folder, *records)
    return str(raised.value)


def probe(prompt: str, target: str) -> Probe:
    return Probe(prompt=prompt, target=target)


def test_counterfact_without_nesting(tmp_path: Path) -> None:
    fact = Fact(template="{} plays the", subject="Ada Bergström", target=" flute")
    expected = EditCase(
        id="7",
        request=EditRequest(fact, new_target=" tuba"),
        paraphrases=("On stage, Ada Bergström is heard on the",),
        locality={"near": (probe("Olof Ek plays the", " drums"),)},
    )
    assert read(tmp_path, FLAT) == [expected]
    (tmp_path / "cases.json").write_text(json.dumps([FLAT]))
    assert load_cases(tmp_path / "cases.json", format="counterfact") == [expected]


def test_natural_questions_without_nesting_are_far(tmp_path: Path) -> None:
    (case,) = read(tmp_path, {**FLAT, "locality_prompt": "nq question: who sang it", "locality_ground_truth": "Bo"})
    assert case.locality == {"far": (probe("nq question: who sang it?", " Bo"),)}


@pytest.mark.parametrize("beside", [True, False])
def test_portability_of_one_hop(tmp_path: Path, beside: bool) -> None:
    hop = ZSRE["portability"]
    rest = {name: value for name, value in ZSRE.items() if name != "portability"}
    (case,) = read(tmp_path, {**rest, **hop} if beside else ZSRE)
    question = "Where does the river that Mill Bridge crosses end?"
    assert case.portability == {"reasoning": (probe(question, " the Bristol Channel"),)}
    (flat,) = read(tmp_path, {**FLAT, **hop} if beside else {**FLAT, "portability": hop})
    assert flat.portability == case.portability


def test_passages_of_wikibio(tmp_path: Path) -> None:
    (case,) = read(tmp_path, WIKIBIO)
    assert case.request == EditRequest(
        Fact(
            template="This is a passage about {}. Ada Bergström is a Swedish flautist.", subject="ada bergström"
        ),
        new_target=" She was born in Umeå.",
    )  # fmt: skip
    assert case.locality == {"near": (probe("The field of work of ada bergström is", " music"),)}


def test_prompts_and_answers_are_paired(tmp_path: Path) -> None:
    (case,) = read(tmp_path, KNOWEDIT)
    assert case.locality["far"] == (probe("One", " first"), probe("Another", " second"))
    entry = {"prompt": ["One", "", "Third", None], "ground_truth": [["first", "1st"], ["x"], [["third"]], ["y"]]}
    (case,) = read(tmp_path, {**KNOWEDIT, "locality": {"Forgetfulness": [entry]}})
    assert case.locality["far"] == (probe("One", " first"), probe("Third", " third"))
    (case,) = read(tmp_path, {**ZSRE, "loc": ["nq question: a", "nq question: b"], "loc_ans": ["A", None]})
    assert case.locality == {"far": (probe("nq question: a?", " A"),)}
    (case,) = read(tmp_path, {**FLAT, "locality_prompt": ["Olof is", "Per is"], "locality_ground_truth": ["a", "b"]})
    assert case.locality == {"near": (probe("Olof is", " a"), probe("Per is", " b"))}


def test_one_answer_may_be_shared_and_several_answers_to_one_prompt_are_its_names(tmp_path: Path) -> None:
    entries = [
        {"prompt": ["One", "Another"], "ground_truth": "same"},
        {"prompt": ["A third"], "ground_truth": ["name", "other name"]},
    ]
    (case,) = read(tmp_path, {**KNOWEDIT, "locality": {"Forgetfulness": entries}})
    assert case.locality["far"] == (probe("One", " same"), probe("Another", " same"), probe("A third", " name"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {**KNOWEDIT, "locality": {"Forgetfulness": [{"prompt": ["a", "b", "c"], "ground_truth": ["x", "y"]}]}},
            "field 'locality.Forgetfulness[0].prompt' has 3 texts and 'locality.Forgetfulness[0].ground_truth' 2",
        ),
        ({**ZSRE, "loc": ["nq question: a", "b"], "loc_ans": ["A", "B", "C"]}, "'loc' has 2 texts and 'loc_ans' 3"),
        (
            {**FLAT, "locality_prompt": ["a", "b", "c"], "locality_ground_truth": ["x", "y"]},
            "'locality_prompt' has 3 texts and 'locality_ground_truth' 2",
        ),
    ],
)
def test_differing_counts_are_named(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    assert message in refusal(tmp_path, record)


@pytest.mark.parametrize(
    ("record", "typo", "near"),
    [
        (OWN, "paraphrase", "paraphrases"),
        (NESTED, "neighbourhood_prompts", "neighborhood_prompts"),
        (FLAT, "locality_promt", "locality_prompt"),
        (ZSRE, "rephrases", "rephrase"),
        (ZSRE, "portabilty", "portability"),
        (KNOWEDIT, "rephrase_prompts", "rephrase_prompt"),
        (WIKIBIO, "localities", "locality"),
    ],
)
def test_an_unknown_field_is_named(tmp_path: Path, record: dict[str, Any], typo: str, near: str) -> None:
    renamed = {typo if name == near else name: value for name, value in record.items()}
    assert refusal(tmp_path, record, renamed | {"id": "2"}).endswith(
        f"record 1: unknown field {typo!r}; did you mean {near!r}?"
    )


def test_an_unknown_field_is_named_in_a_record_that_is_left_out(tmp_path: Path) -> None:
    assert "record 1: unknown field 'rephrases'" in refusal(tmp_path, ZSRE, {**ZSRE, "alt": "", "rephrases": "a"})


@pytest.mark.parametrize(
    ("record", "path"),
    [
        ({**NESTED, "requested_rewrite": {**NESTED["requested_rewrite"], "colour": 1}}, "requested_rewrite.colour"),
        (
            {**NESTED, "requested_rewrite": {**NESTED["requested_rewrite"], "target_new": {"str": "tuba", "is": 1}}},
            "requested_rewrite.target_new.is",
        ),
        (
            {**KNOWEDIT, "locality": {"Forgetfulness": [{"prompt": "a", "ground_truth": "b", "answers": "c"}]}},
            "locality.Forgetfulness[0].answers",
        ),
        ({**ZSRE, "portability": {**ZSRE["portability"], "Old Answer": "b"}}, "portability.Old Answer"),
    ],
)
def test_an_unknown_field_inside_is_named(tmp_path: Path, record: dict[str, Any], path: str) -> None:
    assert f"record 0: unknown field {path!r}" in refusal(tmp_path, record)


def test_fields_that_are_not_read_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "interp.facts.case_files")
    read(tmp_path, NESTED)
    assert caplog.messages == [
        f"{tmp_path / 'cases.json'}: fields that are not read: attribute_prompts, generation_prompts, pararel_idx"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"case_id": 1, "requested_rewrite": [{"prompt": "{} is"}], "questions": ["a"]}], "MQuAKE is not supported"),
        ([{"example_type": "popular", "edit": {"prompt": "a is b."}}], "RippleEdits is not supported"),
        ({"success": [{"question": "a"}], "locality": []}, "KnowEdit's sanitation is not supported"),
        ([{"question": "a", "target_new": "b", "ground_truth": "c"}], "KnowEdit's sanitation is not supported"),
        ([KNOWN], "these are known facts, with nothing to edit; read them with load_facts"),
    ],
)
def test_other_benchmarks_are_refused_by_name(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_cases(tmp_path / "cases.json")


@pytest.mark.parametrize("record", [OWN, NESTED, FLAT, ZSRE])
def test_edit_cases_are_no_facts(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "facts.json").write_text(json.dumps([OWN_FACT, record]))
    with pytest.raises(DataError, match="record 1: this is an edit case, not a fact; read it with load_cases"):
        load_facts(tmp_path / "facts.json")


def test_a_record_that_changes_nothing_does_not_stop_counterfact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite = {**NESTED["requested_rewrite"], "target_new": {"str": " flute"}}
    same = {**NESTED, "case_id": 5, "requested_rewrite": rewrite}
    assert [case.id for case in read(tmp_path, same, NESTED)] == ["4"]
    assert caplog.messages == [
        f"{tmp_path / 'cases.json'}: left out records whose new target is the true answer: 1 (record 0)"
    ]
    assert "all 1 records were left out" in refusal(tmp_path, same)


def test_only_the_first_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, *[{**ZSRE, "alt": ""}] * 900, ZSRE)
    (message,) = caplog.messages
    assert message.endswith("900 (record 0, record 1, record 2, record 3, record 4 and 895 more)")


def test_answers_get_the_space_of_their_language(tmp_path: Path) -> None:
    record = {"subject": "日本", "prompt": "日本の首都は", "target_new": "京都", "ground_truth": "東京"}
    (case,) = read(tmp_path, {**record, "locality": {"Forgetfulness": [{"prompt": "He said “", "ground_truth": "no"}]}})
    assert case.request.fact.target == "東京"
    assert case.locality["far"] == (probe("He said “", "no"),)
    (tmp_path / "facts.json").write_text(json.dumps([{**KNOWN, "prompt": "Mill Bridge (", "attribute": "Wear"}]))
    assert load_facts(tmp_path / "facts.json")[0].target == "Wear"


def test_answers_without_a_space_in_our_own_format_are_taken_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    near = {"near": [{"prompt": "Sweden is governed from", "target": "Stockholm"}]}
    (case,) = read(tmp_path, {**OWN, "target": "Oslo", "locality": near})
    assert case.request.fact.target == "Oslo"
    assert case.locality["near"][0].target == "Stockholm"
    assert caplog.messages == [
        f"{tmp_path / 'cases.json'}: read answers as they are, without a space between them and their prompt: 2"
        " (record 0 target, record 0 locality.near[0])"
    ]


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "{}", "a {} b", "\ud800", "\x1b[31m", "é", "e\u0301", "Ada Bergström", "東京", "x" * 999]
    ),
)
JSON = st.recursive(
    HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoilt(draw: st.DrawFn, record: Any) -> Any:
    """A record with one value anywhere in it replaced, taken away or added."""
    if isinstance(record, dict) and record and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(record)))
        change = draw(st.integers(0, 9))
        if change == 0:
            return {key: value for key, value in record.items() if key != name}
        if change == 1:
            return {**record, draw(st.text(max_size=6)): draw(JSON)}
        return {**record, name: draw(spoilt(record[name]))}
    if isinstance(record, list) and record and draw(st.integers(0, 3)):
        return [draw(spoilt(record[0])), *record[1:], *([draw(JSON)] if draw(st.booleans()) else [])]
    return draw(JSON)


@pytest.mark.parametrize("record", [OWN, NESTED, FLAT, ZSRE, KNOWEDIT, WIKIBIO], ids=str)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_field_is_read_or_refused(tmp_path: Path, record: dict[str, Any], data: st.DataObject) -> None:
    changed = data.draw(spoilt(record))
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([changed, {**record, "id": "other"}]))
    try:
        cases = load_cases(path)
    except DataError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert message.isprintable()
        assert len(message.removeprefix(str(path))) < 600
    else:
        assert all(case.request.fact.subject in case.request.fact.prompt for case in cases)
        assert all(case.request.new_target.strip() for case in cases)


@pytest.mark.parametrize("record", [OWN_FACT, KNOWN], ids=str)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_field_of_a_fact(tmp_path: Path, record: dict[str, Any], data: st.DataObject) -> None:
    changed = data.draw(spoilt(record))
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([changed]))
    try:
        (fact,) = load_facts(path)
    except DataError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message.removeprefix(str(path))) < 600
    else:
        assert fact.subject in fact.prompt
        assert re.search(r"\S", fact.target or "")


def test_a_subject_in_another_unicode_form_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = {**ZSRE, "subject": "Caf\u00e9 Holt", "src": "Who runs Cafe\u0301 Holt?"}
    read(tmp_path, record, ZSRE)
    (message,) = caplog.messages
    assert "left out records whose subject is in their prompt in another Unicode form only: 1 (record 0)" in message


def test_a_subject_that_is_there_twice_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twice = {**ZSRE, "src": "Is Mill Bridge on Mill Bridge Road?"}
    inside = {**ZSRE, "subject": "Mill", "src": "Who runs Millbridge?"}
    whole = {**ZSRE, "subject": "Mill", "src": "Is Millbridge near Mill?"}
    cases = read(tmp_path, ZSRE, twice, inside, whole)
    assert [case.request.fact.template for case in cases[1:]] == [
        "Is {} on Mill Bridge Road?",
        "Who runs {}bridge?",
        "Is Millbridge near {}?",
    ]
    message = "took the first place of a subject that is there several times, or is a part of a longer word: 2"
    assert caplog.messages == [f"{tmp_path / 'cases.json'}: {message} (record 1, record 2)"]
    caplog.clear()
    (tmp_path / "facts.json").write_text(json.dumps([KNOWN, {**KNOWN, "prompt": "Mill Bridge, or Mill Bridge, is"}]))
    load_facts(tmp_path / "facts.json")
    assert caplog.messages == [f"{tmp_path / 'facts.json'}: {message[:-1]}1 (record 1)"]
