import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from interp.errors import FactError, InterpWarning
from interp.facts.records import EditRequest, Fact, Probe, spaced_answer


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


def test_from_prompt_says_which_of_several_places_it_takes() -> None:
    prompt = "Rome, yes, Rome is in"
    with pytest.warns(InterpWarning, match=r"'Rome' of 'Rome, yes, .*' is taken at character 0, the first of 2 places"):
        fact = Fact.from_prompt(prompt, "Rome", " Italy", relation="city-country")
    assert fact == Fact(template="{}, yes, Rome is in", subject="Rome", target=" Italy", relation="city-country")
    assert fact.prompt == prompt
    assert fact.subject_characters == (0, 4)
    assert Fact.from_prompt(prompt, "Rome", occurrence=0).subject_characters == (0, 4)
    assert Fact.from_prompt(prompt, "Rome", occurrence=1).subject_characters == (11, 15)
    for occurrence in (-1, 2):
        with pytest.raises(
            FactError, match=f"occurrence {occurrence} of the subject 'Rome': .* has it 2 times, so 0 to 1"
        ):
            Fact.from_prompt(prompt, "Rome", occurrence=occurrence)


@pytest.mark.parametrize(
    ("prompt", "subject", "start"),
    [
        ("Romeo lives near Rome and", "Rome", 17),
        ("CheRome near Rome", "Rome", 13),
        ("Rome2 near Rome", "Rome", 11),
        ("Rom\u00e9, Rome\u0301o, Rom", "Rom", 14),
        ("Rome\u0301 is not Rome", "Rome", 13),  # the mark makes another letter of the last one
        ("Athens' port, Rome's port", "Rome", 14),
        ("Москвариум: Москва", "Москва", 12),
        ("東京都の東京", "京都", 1),  # nothing marks words: the first place
        ("新しいApple製品", "Apple", 3),
        ("Pineapple is not apple", "apple", 17),
        ("서울은 큰 도시", "서울", 0),  # a particle follows without a space
        ("동서울은 서울 아니다", "서울", 5),
        ("दिल्लीवासी दिल्ली में", "दिल्ली", 11),
    ],
)
def test_whole_words_come_first(prompt: str, subject: str, start: int) -> None:
    assert Fact.from_prompt(prompt, subject).subject_characters == (start, start + len(subject))


def test_a_subject_inside_of_a_word_is_said() -> None:
    with pytest.warns(InterpWarning, match="'Rome' of 'In Romeo' is taken at character 3 inside of a longer word$"):
        assert Fact.from_prompt("In Romeo", "Rome").template == "In {}o"
    with pytest.warns(InterpWarning, match="character 0 inside of a longer word, the first of 2 places"):
        Fact.from_prompt("Romeo, Romeo", "Rome")
    assert Fact.from_prompt("Romeo, Romeo", "Rome", occurrence=1).template == "Romeo, {}o"


def test_unicode_forms_are_told_apart() -> None:
    with pytest.raises(FactError) as raised:
        Fact.from_prompt("In Z\u00fcrich they", "Zu\u0308rich")
    assert "the subject is 'Zu\\u0308rich', the prompt has 'Z\\xfcrich'; bring both into one form" in str(raised.value)
    with pytest.raises(FactError, match=r"the prompt has 'Zu.u0308rich'"):
        Fact.from_prompt("In Zu\u0308rich they", "Z\u00fcrich")
    with pytest.raises(FactError, match=r"does not occur in the prompt 'In Bern they'$"):
        Fact.from_prompt("In Bern they", "Zu\u0308rich")


def test_targets_are_taken_as_given() -> None:
    fact = Fact(template="日本の{}は", subject="首都")
    assert EditRequest(fact, new_target="東京").new_target == "東京"
    assert EditRequest(fact, new_target=" 東京").new_target == " 東京"
    for target in (" Rome ", " Rome\n", "Rome\u3000"):
        message = re.escape(f"ends in white space, which would be a token of its own: {target!r}")
        with pytest.raises(FactError, match=message):
            Fact(template="{} is", subject="Norway", target=target)
        with pytest.raises(FactError, match=message):
            EditRequest(fact, new_target=target)
        with pytest.raises(FactError, match=message):
            Probe(prompt="Norway is", target=target)


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
