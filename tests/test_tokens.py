import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from interp.errors import FactError, ModelError
from interp.facts.records import Fact
from interp.models.tokens import TOKEN_CLASSES, decode, encode_continuation, subject_span, token_classes, tokenize

BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
PIECES = [
    "The ",
    "city",
    " of ",
    "Tokyo",
    "東京",
    "e\u0301",
    "é",
    "👩\u200d👧",
    "🇳🇴",
    " ",
    "  ",
    ",",
    "'s",
    "(",
    "-",
    "{",
    "\n",
    "1889",
]

texts = st.one_of(st.text(max_size=6), st.lists(st.sampled_from(PIECES), max_size=4).map("".join))
subjects = texts.map(str.strip).filter(bool)


def test_golden(tiny: HookedTransformer, golden: Path) -> None:
    for record in json.loads((golden / "causal_trace.json").read_text("utf-8"))["facts"]:
        tokens = tokenize(tiny, Fact.from_prompt(record["prompt"], record["subject"], record["target"]))
        assert list(tokens.strings) == record["tokens"]
        assert list(tokens.subject_span) == record["subject_range"]
        assert decode(tiny, tokens.target_ids) == record["target"]


@settings(max_examples=400, deadline=None)
@given(before=texts, subject=subjects, after=texts)
@example(before="", subject="Tokyo", after="")
@example(before="(", subject="東京", after=")")
@example(before="Tokyo and ", subject="Tokyo", after=", Tokyo")
@example(before="a", subject="\u0301", after="b")
@example(before="👩\u200d", subject="👧", after="")
@example(before="T", subject="ok", after="yo")
@example(before="  ", subject="x", after="")
def test_span_by_bytes(tiny: HookedTransformer, before: str, subject: str, after: str) -> None:
    template = before + "{}" + after.rstrip()
    assume(template.count("{}") == 1)
    assume(template.index("{}") == len(before))
    fact = Fact(template=template, subject=subject)
    assume(len(fact.prompt.encode()) <= tiny.cfg.n_ctx)
    tokens = tokenize(tiny, fact)

    first_byte = len(before.encode())
    last_byte = first_byte + len(subject.encode())
    position, spelled, overlapping = 0, b"", []
    for index, token in enumerate(tiny.tokenizer.convert_ids_to_tokens(tokens.ids.tolist())):
        piece = bytes(BYTE_OF[character] for character in token)
        if position < last_byte and position + len(piece) > first_byte:
            overlapping.append(index)
        position += len(piece)
        spelled += piece
    assert spelled.decode() == fact.prompt
    assert tokens.subject_span == (overlapping[0], overlapping[-1] + 1)
    assert overlapping == list(range(*tokens.subject_span))
    assert tokens.ids.tolist() == tiny.to_tokens(fact.prompt, prepend_bos=False)[0].tolist()
    assert len(tokens.strings) == len(tokens.ids)


@settings(deadline=None)
@given(st.data())
def test_classes_of_any_span(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    start = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(start + 1, n))
    classes = token_classes(n, (start, end))
    assert tuple(classes) == TOKEN_CLASSES
    for positions in classes.values():
        assert sorted(set(positions)) == list(positions)
    assert {token for positions in classes.values() for token in positions} == set(range(start, n))
    assert sum(map(len, classes.values())) - (n - start) == sum(
        (end - start == 1, end == n, end == n - 1)  # first is last; last subject or first subsequent is the last token
    )


@pytest.mark.parametrize(
    ("n", "span", "expected"),
    [
        (9, (1, 5), [(1,), (2, 3), (4,), (5,), (6, 7), (8,)]),
        (9, (1, 3), [(1,), (), (2,), (3,), (4, 5, 6, 7), (8,)]),
        (5, (1, 2), [(1,), (), (1,), (2,), (3,), (4,)]),  # a subject of one token
        (4, (1, 4), [(1,), (2,), (3,), (), (), (3,)]),  # nothing after it
        (4, (0, 3), [(0,), (1,), (2,), (3,), (), (3,)]),  # one token after it
        (1, (0, 1), [(0,), (), (0,), (), (), (0,)]),
    ],
)
def test_classes(n: int, span: tuple[int, int], expected: list[tuple[int, ...]]) -> None:
    assert list(token_classes(n, span).values()) == expected


@pytest.mark.parametrize("span", [(2, 2), (3, 2), (-1, 2), (2, 6), (5, 6)])
def test_classes_of_no_span(span: tuple[int, int]) -> None:
    with pytest.raises(FactError, match="does not lie within 5 tokens"):
        token_classes(5, span)


def test_span_of_no_token() -> None:
    assert subject_span([(0, 3), (3, 3), (5, 8)], (3, 5)) is None
    assert subject_span([(0, 3), (3, 4), (3, 4), (4, 8)], (3, 4)) == (1, 3)


def test_subject_without_a_token(tiny: HookedTransformer) -> None:
    from tokenizers.normalizers import Replace

    deaf = copy.copy(tiny)
    deaf.tokenizer = copy.deepcopy(tiny.tokenizer)
    deaf.tokenizer.backend_tokenizer.normalizer = Replace("Tokyo", "")
    with pytest.raises(FactError, match="no token of the prompt 'In Tokyo they eat' covers the subject 'Tokyo'"):
        tokenize(deaf, Fact(template="In {} they eat", subject="Tokyo"))
    with pytest.raises(FactError, match="the target 'Tokyo' turns into no token after the prompt 'It is \\('"):
        encode_continuation(deaf, "It is (", "Tokyo")


def test_targets(tiny: HookedTransformer) -> None:
    assert tokenize(tiny, Fact(template="{} is", subject="Japan")).target_ids == ()
    found = tokenize(tiny, Fact(template="{} is", subject="Japan", target=" Tokyo, 東京"))
    assert found.target_ids == tuple(tiny.tokenizer(" Tokyo, 東京")["input_ids"])  # byte-level: the same by itself
    assert decode(tiny, found.target_ids) == " Tokyo, 東京"
    assert found.target_strings[0] == " Tokyo"
    assert len(found.target_strings) == len(found.target_ids)


def test_context(tiny: HookedTransformer) -> None:
    n = tiny.cfg.n_ctx
    full = Fact(template="{}" + "," * (n - 1), subject="!")
    assert len(tokenize(tiny, full).ids) == n
    one = Fact(template=full.template, subject="!", target="?")  # predicted from the last position: it fits
    assert len(tokenize(tiny, one).target_ids) == 1
    with pytest.raises(FactError, match=rf"the prompt '!,+…?'? takes {n} tokens and its target 2; .* holds {n}"):
        tokenize(tiny, Fact(template=full.template, subject="!", target="?!"))
    with pytest.raises(FactError, match=rf"takes {n + 1} tokens and its target 0; the model's context holds {n}"):
        tokenize(tiny, Fact(template=full.template + ",", subject="!"))


def test_beginning_of_sequence(tiny: HookedTransformer, bos_model: HookedTransformer) -> None:
    fact = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    plain, begun = tokenize(tiny, fact), tokenize(bos_model, fact)
    assert begun.ids.tolist() == [bos_model.tokenizer.bos_token_id, *plain.ids.tolist()]
    assert begun.strings == ("<|endoftext|>", *plain.strings)
    assert begun.subject_span == (plain.subject_span[0] + 1, plain.subject_span[1] + 1)
    assert begun.target_ids == plain.target_ids
    assert torch.equal(begun.ids, bos_model.to_tokens(fact.prompt)[0])


def test_beginning_of_sequence_takes_room(bos_model: HookedTransformer) -> None:
    n = bos_model.cfg.n_ctx
    assert len(tokenize(bos_model, Fact(template="{}" + "," * (n - 2), subject="!")).ids) == n
    with pytest.raises(FactError, match=f"the model's context holds {n}"):
        tokenize(bos_model, Fact(template="{}" + "," * (n - 1), subject="!"))


def test_no_tokenizer(tiny: HookedTransformer) -> None:
    mute = copy.copy(tiny)
    mute.tokenizer = None
    with pytest.raises(ModelError, match="needs a fast tokenizer"):
        tokenize(mute, Fact(template="{} is", subject="Japan"))


def test_tokens_without_a_character_cover_no_subject() -> None:
    """At either end of it; in the middle they make no difference."""
    subject = (4, 9)
    assert subject_span([(0, 3), (5, 5), (5, 9), (9, 12)], subject) == (2, 3)
    assert subject_span([(0, 3), (4, 8), (8, 8), (9, 12)], subject) == (1, 2)
    assert subject_span([(0, 3), (4, 6), (6, 6), (6, 9)], subject) == (1, 4)
    assert subject_span([(0, 3), (6, 6), (9, 12)], subject) is None
