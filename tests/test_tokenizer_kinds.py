"""What texts become under every kind of tokenizer, against its own encodings; and that every caller takes these ids."""

import copy
import re
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from interp.editing import KnConfig
from interp.editing.contexts import context_kinds
from interp.editing.corpora import Corpus, corpus_rows
from interp.editing.methods.knowledge_neurons import scale_neurons
from interp.editing.rows import check_requests, edit_rows
from interp.errors import FactError, InterpWarning, ModelError
from interp.evaluation.measures import questions
from interp.evaluation.protocol import ask
from interp.facts.records import EditCase, EditRequest, Fact, Probe, runs_into
from interp.locate.knowledge import top_answers
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.tokens import decode, encode, encode_continuation, front_tokens, tokenize
from interp.results.record import provenance
from tests.tokenizer_kinds import ALL_KINDS, AROUND, KINDS

Models = Callable[..., HookedTransformer]

SCRIPTS = {
    "Latin": ["Paris", "Zürich", "Zu\u0308rich", "the city of", "Ærø"],
    "Cyrillic": ["Москва", "столица России", "Осло"],
    "Greek": ["Αθήνα", "της Ελλάδας", "ΟΔΟΣ"],
    "Arabic": ["القاهرة", "عاصمة مصر", "بَارِيس"],
    "Devanagari": ["दिल्ली", "भारत की", "क़लम"],
    "Han and Kana": ["東京", "首都は", "パリ", "が゛"],
    "Hangul": ["서울", "수도는", "\u1112\u1161\u11ab"],
    "none": ["1889", "🇳🇴", "«x»", "(", "e\u0301"],
}
words = st.one_of(st.sampled_from(pieces) for pieces in SCRIPTS.values())
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)
kinds = pytest.mark.parametrize("kind", KINDS)
each_around = pytest.mark.parametrize("around", AROUND)
slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def raw(model: HookedTransformer, text: str) -> list[int]:
    """Ids by the tokenizers library itself, nothing put around them."""
    return model.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def expected(model: HookedTransformer, prompt: str, target: str) -> tuple[list[int], tuple[int, ...]] | None:
    """The prompt's ids and the target's, or None if the seam lies inside a token, or the target is unknown in part."""
    before, both = raw(model, prompt), raw(model, prompt + target)
    added = both[len(before) :]
    return (before, tuple(added)) if both[: len(before)] == before and added and 0 not in added else None


def squeezed(model: HookedTransformer, text: str) -> str:
    """A text as the tokenizer's normaliser leaves it, without white space."""
    normalizer = model.tokenizer.backend_tokenizer.normalizer
    return "".join((normalizer.normalize_str(text) if normalizer else text).replace("▁", " ").split())


@kinds
@slow
@given(
    before=st.sampled_from(["", "In ", "(", "的"]) | phrases.map(lambda text: text + " "),
    subject=phrases,
    after=st.sampled_from(["", ",", " is", " is called “"]) | phrases.map(lambda text: " " + text),
    space=st.sampled_from(["", " ", " ", "  "]),
    target=phrases,
)
def test_a_target_is_what_its_prompt_makes_of_it(
    kind: str, kind_model: Models, before: str, subject: str, after: str, space: str, target: str
) -> None:
    model = kind_model(kind, "both")
    fact = Fact(template=before + "{}" + after, subject=subject, target=space + target)
    wanted = expected(model, fact.prompt, fact.target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if wanted is None:
            with pytest.raises(FactError, match=re.escape(repr(fact.target))):
                tokenize(model, fact)
            return
        found = tokenize(model, fact)
    assert (found.ids.tolist(), found.target_ids) == ([1, *wanted[0]], wanted[1])
    assert encode_continuation(model, fact.prompt, fact.target, quiet=True) == ([1, *wanted[0]], wanted[1])
    assert encode(model, fact.prompt) == [1, *wanted[0]]
    messages = [str(warning.message) for warning in caught]
    assert any("runs into the last word" in message for message in messages) == runs_into(fact.prompt, fact.target)
    assert any("does not know a part of the prompt" in message for message in messages) == (0 in wanted[0])

    start, end = found.subject_span
    tokens = found.ids.tolist()
    assert 1 <= start < end <= len(tokens)
    if 0 in wanted[0]:
        return
    read = {
        part: squeezed(model, model.tokenizer.decode(tokens[slice(*part)]))
        for part in ((start, end), (1, end), (1, end - 1), (start, None), (start + 1, None))
    }
    assert squeezed(model, subject) in read[start, end]
    assert read[1, end].startswith(squeezed(model, before + subject))
    assert not read[1, end - 1].startswith(squeezed(model, before + subject))  # no token too many
    assert read[start, None].endswith(squeezed(model, subject + after))
    assert not read[start + 1, None].endswith(squeezed(model, subject + after))


@pytest.mark.parametrize("kind", ALL_KINDS)
@each_around
def test_bos_is_there_exactly_if_the_tokenizer_puts_it_in_front(kind: str, around: str, kind_model: Models) -> None:
    model = kind_model(kind, around)
    front = {"bos": [1], "both": [1], "two": [0, 1]}.get(around, [])
    assert front_tokens(model.tokenizer) == front
    assert model.cfg.default_prepend_bos == bool(front)
    prompt = "The city of Paris is in"
    assert encode(model, prompt) == front + raw(model, prompt)
    found = tokenize(model, Fact(template="The city of {} is in", subject="Paris", target=" France"))
    assert found.ids.tolist() == front + raw(model, prompt)
    assert [found.strings[i] for i in range(*found.subject_span)] == [" Paris"]
    assert found.target_strings == (" France",)
    assert 2 not in (*found.ids.tolist(), *found.target_ids)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_strings_keep_their_space(kind: str, kind_model: Models) -> None:
    model = kind_model(kind, "both")
    found = tokenize(model, Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"))
    assert "".join(found.strings[1:]).lstrip() == "The Eiffel Tower is located in the city of"
    assert found.strings[slice(*found.subject_span)] == (" Eiffel", " Tower")
    assert "".join(found.strings[1 : found.subject_span[0]]).lstrip() == "The"
    assert found.target_strings == (" Paris",)
    assert decode(model, found.target_ids) == " Paris"
    assert decode(model, [1, *found.target_ids], special=False) == " Paris"
    assert found.strings[0] == "<s>"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_mark_before_a_text_is_not_the_subject(kind: str, kind_model: Models) -> None:
    found = tokenize(kind_model(kind), Fact(template="{}は", subject="京東"))
    assert found.strings == (" ", "京", "東", "は")
    assert found.subject_span == (1, 3)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_parts_of_characters_show_their_bytes(kind: str, kind_model: Models) -> None:
    found = tokenize(kind_model(kind), Fact(template="The {} is", subject="鷗"))
    shown = "".join(found.strings[slice(*found.subject_span)])
    assert "\ufffd" not in shown
    assert re.findall("[0-9A-F]{2}", shown) == ["E9", "B7", "97"]


@kinds
def test_a_seam_inside_a_token_is_refused(kind: str, kind_model: Models) -> None:
    model = kind_model(kind)
    message = r"the target 'ris' does not begin at a token of its own after the prompt 'The city of Pa': .* goes on as"
    with pytest.raises(FactError, match=message) as caught:
        tokenize(model, Fact(template="The {} of Pa", subject="city", target="ris"))
    assert "of'" not in str(caught.value).split("ends in")[1]  # only what differs is shown
    with pytest.raises(FactError, match=message):
        encode_continuation(model, "The city of Pa", "ris")


@kinds
def test_a_target_that_runs_into_the_prompt_is_said(kind: str, kind_model: Models) -> None:
    model = kind_model(kind)
    with pytest.warns(InterpWarning, match="target 'Осло' has no leading space and runs into .* 'The city of Paris'"):
        found = tokenize(model, Fact(template="The city of {}", subject="Paris", target="Осло"))
    assert found.target_ids == tuple(raw(model, "The city of ParisОсло")[len(raw(model, "The city of Paris")) :])
    for prompt, target in [("日本の首都は", "東京"), ("The city (", "Paris"), ("The city of Paris", ", France")]:
        encode_continuation(model, prompt, target)  # no warning, which would be an error here


@kinds
def test_text_of_control_tokens(kind: str, kind_model: Models) -> None:
    model = kind_model(kind)
    for text in ("<s>", "</s>"):
        with pytest.warns(InterpWarning, match=f"prompt '{text} The .*' holds the text of the control token '{text}'"):
            assert tokenize(model, Fact(template=text + " The {} of", subject="city")).subject_span[0] > 1
        with pytest.warns(InterpWarning, match="holds the text of the control token"):
            encode_continuation(model, f"The city {text} of", " Paris")
        with pytest.raises(FactError, match=f"the target ' Paris{text}' holds the text of the control token '{text}'"):
            encode_continuation(model, "The city of", f" Paris{text}")
        with (
            pytest.warns(InterpWarning, match="control token"),
            pytest.raises(FactError, match=f"the subject 'Eiffel{text}' of .* control token '{text}'"),
        ):
            tokenize(model, Fact(template="The {} is", subject=f"Eiffel{text}"))


def test_an_unknown_part_is_said(kind_model: Models) -> None:
    model = kind_model("unigram")
    with pytest.warns(InterpWarning, match="not know a part of the prompt 'The 鷗 is': the model reads '<unk>' there"):
        found = tokenize(model, Fact(template="The {} is", subject="鷗"))
    assert 0 in found.ids[slice(*found.subject_span)]
    with pytest.raises(FactError, match="does not know a part of the target ' 鷗'"):
        encode_continuation(model, "The city of", " 鷗")


def test_offsets_that_point_elsewhere_are_refused(tiny: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    import interp.models.tokens

    encoding = interp.models.tokens._encode

    def shifted(tokenizer: object, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, offsets = encoding(tokenizer, text)
        return ids, [(first + 7, last + 7) for first, last in offsets]

    fact = Fact(template="In {} they eat noodles", subject="Tokyo")
    tokenize(tiny, fact)
    monkeypatch.setattr(interp.models.tokens, "_encode", shifted)
    with pytest.raises(FactError, match=r"offsets cannot be trusted: by them the subject 'Tokyo' of .* is in"):
        tokenize(tiny, fact)


def test_a_bos_token_that_does_not_exist(tiny: HookedTransformer) -> None:
    wrong = copy.copy(tiny)
    wrong.cfg, wrong.tokenizer = copy.deepcopy(tiny.cfg), copy.deepcopy(tiny.tokenizer)
    wrong.cfg.default_prepend_bos = True
    wrong.tokenizer.bos_token = None
    with pytest.raises(ModelError, match="wants a BOS token"):
        encode(wrong, "The")


@pytest.fixture(params=["prepend", "metaspace"])
def marked(request: pytest.FixtureRequest, kind_model: Models) -> HookedTransformer:
    """A model whose tokenizer gives " Paris", by itself, other tokens than after a prompt (prepend)."""
    return kind_model(request.param, "bos")


FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
REQUEST = EditRequest(FACT, new_target=" Rome")
CASE = EditCase(
    id="tower",
    request=REQUEST,
    paraphrases=("Eiffel Tower is in",),
    locality={"near": (Probe(prompt="The capital of France is", target=" Paris"),)},
)


def test_every_caller_takes_the_continuation(marked: HookedTransformer) -> None:
    vocabulary = marked.tokenizer.get_vocab()
    paris, rome = vocabulary["▁Paris"], vocabulary["▁Rome"]
    described = provenance(marked)
    trace = causal_trace(marked, FACT, samples=1, noise=0.1, model_provenance=described)
    assert (trace.answer_id, trace.answer) == (paris, " Paris")
    for tokens in ("last", "all", "each"):
        attribution = attribute(marked, FACT, tokens=tokens, steps=2, model_provenance=described)
        assert attribution.answer == " Paris"
        assert attribution.tokens == trace.tokens  # no target token is read but the only one
    (answer,) = top_answers(marked, [FACT])
    assert answer.expected == " Paris"

    check_requests(marked, [REQUEST])
    rows = edit_rows(marked, [REQUEST], context_kinds(["{}", "Oslo. {}"]))
    assert rows.targets == ((rome,),)
    assert [len(ids) for ids in rows.ids[:2]] == list(rows.n_prompt[:2])
    config = KnConfig(threshold=0.01, attribution_steps=2, scale=1.0, remove=1.0, insert=1.0)
    _, right = scale_neurons(marked, REQUEST, config, model_provenance=described)
    moved = marked.W_U[:, rome] - marked.W_U[:, paris]
    torch.testing.assert_close(next(iter(right.values()))[0], moved)

    (given_answers,) = ask(marked, [CASE], fluency_tokens=0, model_provenance=described)
    for question, reading in zip(questions(CASE), given_answers.readings, strict=True):
        ids = torch.tensor([[1, *raw(marked, question.prompt)]])
        with torch.no_grad():
            log_p = marked(ids, prepend_bos=False)[0, -1].log_softmax(-1)
        assert reading.log_probability == pytest.approx(
            float(log_p[vocabulary[f"▁{question.target.strip()}"]]), abs=1e-4
        )


def test_a_context_that_changes_a_target_is_refused(kind_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    import interp.editing.rows

    reading = interp.editing.rows.tokenize

    def changed(model: HookedTransformer, fact: Fact, *, quiet: bool = False):  # type: ignore[no-untyped-def]
        target = " Paris" if fact.template.startswith("Oslo") else fact.target
        return reading(model, Fact(template=fact.template, subject=fact.subject, target=target), quiet=quiet)

    monkeypatch.setattr(interp.editing.rows, "tokenize", changed)
    with pytest.raises(FactError, match=r"target ' Rome' of .* becomes the tokens \[' Paris'\] in the context 'Oslo"):
        edit_rows(kind_model("prepend"), [REQUEST], context_kinds(["{}", "Oslo. {}"]))


@kinds
def test_lines_of_a_corpus_go_on_without_a_mark(kind: str, kind_model: Models, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = kind_model(kind, "bos")
    (tmp_path / "text.txt").write_text("The city\nParis is in France\nthe capital\n" * 3)
    (rows,) = corpus_rows(model, Corpus(source=str(tmp_path / "text.txt"), tokens=24, row=12))
    assert rows[:, 0].tolist() == [1, 1]
    written = [i for row in rows.tolist() for i in row[1:]]
    whole = raw(model, "The city\nParis is in France\nthe capital\n" * 3)
    if kind != "unigram":  # which makes a space of a line's end, and puts a mark before the next line by itself
        assert written == whole[: len(written)]


@kinds
def test_half_a_character_is_refused(kind: str, kind_model: Models) -> None:
    model = kind_model(kind)
    for fact in (Fact(template="The {} is", subject="\ud800"), Fact(template="\udcff {} is", subject="city")):
        with pytest.raises(FactError, match="holds half a character"):
            tokenize(model, fact)
    with pytest.raises(FactError, match="holds half a character"):
        encode_continuation(model, "The city of", " Par\udfffis")
