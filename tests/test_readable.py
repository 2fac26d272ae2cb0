"""Texts as people see them: nothing in them steers a terminal, and parts of characters are named by their bytes."""

from __future__ import annotations

import random
import unicodedata

import pytest
from rich.cells import cell_len
from transformer_lens import HookedTransformer

from interp.engine.pairs import clean_and_corrupted
from interp.facts.records import Fact
from interp.models.tokens import decode, encode, token_text, tokenize
from interp.system.readable import bytes_of_token, neutral, token_label, with_bytes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[2J\x1b[31mred", "\\x1b[2J\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),  # one character that starts a command as well
        ("a\rb\x08c\x7f\x00", "a\\x0db\\x08c\\x7f\\x00"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("a\u2028b\ud800\ufeff", "a\\u2028b\\ud800\\ufeff"),
        ("line\n\tanother", "line\n\tanother"),
        ("Zürich 東京 مدينة नई 👩\u200d🔬 e\u0301", "Zürich 東京 مدينة नई 👩\u200d🔬 e\u0301"),
    ],
)
def test_nothing_steers_a_terminal(text: str, shown: str) -> None:
    assert neutral(text) == shown


def test_no_control_character_is_left() -> None:
    every = "".join(map(chr, [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000)]))
    for text in (neutral(every, kept=""), token_label(every[:40])):
        assert not {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
        assert not {
            c for c in text if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")
        }


def test_parts_of_characters_are_named_by_their_bytes() -> None:
    assert with_bytes("東京".encode()) == "東京"
    assert with_bytes("東".encode()[:2]) == "⟨E6 9D⟩"
    assert with_bytes(b"\xb1\xe4" + "é".encode() + b"\xff!") == "⟨B1 E4⟩é⟨FF⟩!"
    assert with_bytes("�".encode()) == "�"  # the sign itself, where a text has it
    assert bytes_of_token("<0xE6>") == b"\xe6"
    assert bytes_of_token("ĠÃ©") == " é".encode()
    assert bytes_of_token("▁Paris") is None
    assert bytes_of_token("") is None


@pytest.mark.parametrize("text", ["東京 is a city", "Москва é 👍", "नई दिल्ली", "ab"])
def test_tokens_of_a_text_give_its_bytes(tiny: HookedTransformer, text: str) -> None:
    ids = encode(tiny, text)
    shown = [token_text(tiny, i) for i in ids]
    assert "\ufffd" not in "".join(shown)
    assert token_text(tiny, *ids) == text
    for one, i in zip(shown, ids, strict=True):
        plain = decode(tiny, [i])
        assert ("⟨" in one) == ("\ufffd" in plain)
        if "\ufffd" not in plain:
            assert one == plain
    assert any("⟨" in one for one in shown) == (not text.isascii())


def test_every_token_of_a_vocabulary_has_a_label(tiny: HookedTransformer) -> None:
    for i in random.Random(0).sample(range(tiny.cfg.d_vocab), 300):
        label = token_label(token_text(tiny, i))
        assert label
        assert "\ufffd" not in label
        assert neutral(label, kept="") == label
        assert cell_len(label) > 0


def test_prompts_name_bytes_too(tiny: HookedTransformer) -> None:
    fact = Fact(template="The mayor of {} is", subject="東京")
    strings = tokenize(tiny, fact).strings
    assert any("⟨" in string for string in strings)
    pair = clean_and_corrupted(tiny, fact, samples=1, noise=0.3)
    assert pair.tokenized.strings == strings
