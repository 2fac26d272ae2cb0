import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from interp.errors import FactError
from interp.facts import Fact, spaced_answer


def test_prompt_and_subject_characters() -> None:
    fact = Fact(template="In {}, the Seine flows through", subject="France", target=" Paris")
    assert fact.prompt == "In France, the Seine flows through"
    start, end = fact.subject_characters
    assert (start, end) == (3, 9)
    assert fact.prompt[start:end] == "France"


def test_a_brace_beside_the_slot_stays() -> None:
    fact = Fact(template="the set {{}} holds", subject="x")
    assert fact.prompt == "the set {x} holds"
    assert fact.subject_characters == (9, 10)


def test_from_prompt_takes_the_first_occurrence() -> None:
    fact = Fact.from_prompt("Rome, yes, Rome is in", "Rome", " Italy", relation="city-country")
    assert fact == Fact(template="{}, yes, Rome is in", subject="Rome", target=" Italy", relation="city-country")
    assert fact.prompt == "Rome, yes, Rome is in"
    assert fact.subject_characters == (0, 4)


def test_paraphrased_keeps_all_but_the_template() -> None:
    fact = Fact(
        template="{} is governed from",
        subject="Norway",
        target=" Oslo",
        relation="capital",
        paraphrases=("Go to {} via",),
    )
    assert fact.paraphrased() == (Fact(template="Go to {} via", subject="Norway", target=" Oslo", relation="capital"),)


def test_frozen() -> None:
    fact = Fact(template="{} is", subject="Norway")
    with pytest.raises(FrozenInstanceError):
        fact.subject = "Sweden"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "Norway is"}, "a template needs exactly one {} for the subject, got 'Norway is'"),
        ({"template": "{} and {} are"}, "a template needs exactly one {} for the subject, got '{} and {} are'"),
        ({"template": ""}, "a template needs exactly one {} for the subject, got ''"),
        ({"template": "{} is "}, "must not end in white space (it belongs to the target), got '{} is '"),
        ({"template": "{} is\n"}, "must not end in white space"),
        ({"paraphrases": ("{} lies in", "it lies in")}, "exactly one {} for the subject, got 'it lies in'"),
        (
            {"paraphrases": ("{} lies in ",)},
            "must not end in white space (it belongs to the target), got '{} lies in '",
        ),
        ({"subject": ""}, "the subject of '{} is' is empty"),
        ({"subject": " \t"}, "the subject of '{} is' is empty"),
        ({"subject": "Norway "}, "the subject 'Norway ' starts or ends in white space"),
        ({"subject": "\u3000Norway"}, "starts or ends in white space"),
        ({"target": ""}, "the target of 'Norway is' is empty"),
        ({"target": " "}, "the target of 'Norway is' is empty"),
    ],
)
def test_malformed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FactError, match=re.escape(message)):
        Fact(**{"template": "{} is", "subject": "Norway", "target": " cold", **fields})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fields", [{"template": 5}, {"subject": None}, {"target": 7}])
def test_not_a_text(fields: dict[str, Any]) -> None:
    with pytest.raises(FactError):
        Fact(**{"template": "{} is", "subject": "Norway", **fields})


@pytest.mark.parametrize(
    ("prompt", "subject", "message"),
    [
        ("Norway is", "Sweden", "the subject 'Sweden' does not occur in the prompt 'Norway is'"),
        ("Norway is", "norway", "the subject 'norway' does not occur"),
        ("Norway is", " ", "the subject of the prompt 'Norway is' is empty"),
        ("{} and Norway are", "Norway", "the prompt '{} and Norway are' contains {}"),
        ("Norway is ", "Norway", "must not end in white space"),
    ],
)
def test_malformed_prompt(prompt: str, subject: str, message: str) -> None:
    with pytest.raises(FactError, match=re.escape(message)):
        Fact.from_prompt(prompt, subject)


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("The capital of France is", "Paris", " Paris"),
        ("The capital of France is ", "  Paris \n", " Paris"),
        ("The capital of France is", "東京", " 東京"),  # one side alone has no spaces
        ("日本の首都は", "Tokyo", " Tokyo"),
        ("日本の首都は", "東京", "東京"),
        ("日本の首都は", " 東京", "東京"),
        ("カタカナは", "ア", "ア"),
        ("答え：", "東京", "東京"),
        ("東京オリンピックの年は", "1964", "1964"),
        ("東京オリンピックの年は", "1964年", "1964年"),
        ("The year of the games was", "1964年", " 1964年"),
        ("東京オリンピックの年は昭和39", "年", "年"),
        ("เมืองหลวงของญี่ปุ่นคือ", "โตเกียว", "โตเกียว"),
        ("ເມືອງຫຼວງແມ່ນ", "ວຽງຈັນ", "ວຽງຈັນ"),
        ("대한민국의 수도는", "서울", " 서울"),  # Korean has spaces
        ("הבירה היא", "ירושלים", " ירושלים"),
        ("It is called the (", "Louvre", "Louvre"),
        ('He said: "', "Paris", "Paris"),
        ('The play "Hamlet" and the play "', "Macbeth", "Macbeth"),
        ('The author of the play "Hamlet"', "is", " is"),
        ("He said: '", "Paris", "Paris"),
        ("It is the boys'", "school", " school"),
        ("He said: “", "Paris", "Paris"),
        ("The play “Hamlet”", "is", " is"),
        ("Das Stück „", "Faust", "Faust"),
        ("Das Stück „Faust“", "ist", " ist"),
        ("La ville de « ", "Paris", "Paris"),
        ("La ville de « Paris »", "est", " est"),
        ("Byen »", "Aarhus", "Aarhus"),
        ("Byen »Aarhus«", "er", " er"),
        ("他说“", "Paris", "Paris"),
        ("首都は「", "Tokyo", "Tokyo"),
        ("首都は「東京」", "です", "です"),
        ("3 is less than", "5", " 5"),
        ("1 2 3", "4", " 4"),
        ("", "Paris", " Paris"),
        ("…", "東京", " 東京"),
    ],
)
def test_an_answer_gets_the_space_that_its_language_puts(prompt: str, answer: str, expected: str) -> None:
    assert spaced_answer(prompt, answer) == expected
