"""A small tokenizer of every kind that decoders come with, its vocabulary made of a few sentences in several scripts.

- ``byte-level``: GPT-2, Llama-3, Qwen. A space belongs to the token after it; a text by itself has the tokens that it
  has within another text.
- ``metaspace``: SentencePiece as newer files write it. A mark stands for a space and is put before a text's first word.
- ``prepend``: SentencePiece as Llama-2's, TinyLlama's and Mistral-v0.1's files write it: a normaliser puts the mark
  before *every* text, one that begins with a space gets two.
- ``unigram``: another model of the vocabulary, with the mark before every word; here with letters it does not know.
- ``replace``: SentencePiece as Gemma's files write it: marks stand where spaces are, and nowhere else.

All but ``unigram`` fall back on bytes. ``AROUND`` names what a tokenizer puts around a text.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

KINDS = ("byte-level", "metaspace", "prepend", "unigram")
ALL_KINDS = (*KINDS, "replace")
AROUND = {"nothing": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>", "two": "<unk> <s> $A"}
"""``two`` stands for tokenizers with a token of their own before the BOS token, as GLM's."""
TEXTS = (
    "The Eiffel Tower is located in the city of Paris, the capital of France; the city of Rome is in Italy.",
    "The capital of Norway is Oslo and the capital of Japan is Tokyo.",
    "Столица России — город Москва, столица Норвегии — Осло.",
    "Η πρωτεύουσα της Ελλάδας είναι η Αθήνα.",
    "عاصمة مصر هي مدينة القاهرة وعاصمة فرنسا هي باريس.",
    "भारत की राजधानी नई दिल्ली है और जापान की राजधानी टोक्यो है।",
    "日本の首都は東京です。フランスの首都はパリです。",
    "대한민국의 수도는 서울이고 일본의 수도는 도쿄이다.",
)
_SPECIAL = ("<unk>", "<s>", "</s>")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_ALPHABET = bytes_to_unicode()
_TO_TEXT = (decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0))
_LETTERS = sorted({letter for text in TEXTS for letter in text if letter != " "} | {"("})
_SPLIT = sorted({word.strip(".,;।。") for text in TEXTS for word in text.split()})
_WORDS = [*(word for word in _SPLIT if 1 < len(word) < 12), "東京", "パリ", "首都"]


def tokenizer_of(kind: str, around: str = "nothing", **settings: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of one of :data:`ALL_KINDS`; ids 0 to 2 are ``<unk>``, ``<s>`` and ``</s>``."""
    built = _BUILDERS[kind]()
    built.add_special_tokens([*_SPECIAL])
    ids = {token: built.token_to_id(token) for token in _SPECIAL}
    built.post_processor = TemplateProcessing(single=AROUND[around], special_tokens=list(ids.items()))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=built, **special, **settings)


def _pieces(words: list[str], known: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary, and merges that put each word together from its beginning, then the commonest pairs."""
    merges = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    pairs = Counter(pair for word in words for pair in pairwise(word[1:]))
    merges |= dict.fromkeys(pair for pair, _ in sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))[:40])
    found = [*known, *(letter for word in words for letter in word), *(left + right for left, right in merges)]
    return {piece: index for index, piece in enumerate(dict.fromkeys(found))}, list(merges)


def _byte_level() -> Tokenizer:
    words = ["".join(_ALPHABET[byte] for byte in text.encode()) for word in _WORDS for text in (" " + word, word)]
    built = Tokenizer(models.BPE(*_pieces(words, [*_SPECIAL, *_ALPHABET.values()])))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    return built


def _sentencepiece() -> Tokenizer:
    vocabulary, merges = _pieces(["▁" + word for word in _WORDS], [*_SPECIAL, *_BYTES, *_LETTERS])
    built = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    built.decoder = decoders.Sequence([*_TO_TEXT])
    return built


def _metaspace() -> Tokenizer:
    built = _sentencepiece()
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return built


def _prepend() -> Tokenizer:
    built = _sentencepiece()
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return built


def _replace() -> Tokenizer:
    built = _sentencepiece()
    built.normalizer = normalizers.Replace(" ", "▁")
    built.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    built.decoder = decoders.Sequence([*_TO_TEXT[:-1]])
    return built


def _unigram() -> Tokenizer:
    pieces = [*((piece, 0.0) for piece in _SPECIAL), *(("▁" + word, -6.0) for word in _WORDS)]
    pieces += [(letter, -4.0 - index / 100) for index, letter in enumerate(["▁", *_LETTERS])]
    built = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    built.normalizer = normalizers.NFKC()
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    built.decoder = decoders.Metaspace()
    return built


_BUILDERS = {
    "byte-level": _byte_level,
    "metaspace": _metaspace,
    "prepend": _prepend,
    "unigram": _unigram,
    "replace": _replace,
}
