"""Text to tokens, in one place: a prompt, the target that continues it, the subject's span, and Figure 1's classes.

A target has no tokens of its own, only those it becomes after its prompt: ``ids(prompt + target)`` after
``ids(prompt)``. For a tokenizer that puts a mark in front of every text (SentencePiece) the two differ, and for any
tokenizer the seam may fall inside a token; such a pair is refused. Text is taken exactly as it is given.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.errors import FactError, InterpWarning, ModelError, excerpt
from interp.facts.records import Fact, runs_into
from interp.system.readable import bytes_of_token, with_bytes

__all__ = [
    "TOKEN_CLASSES",
    "TokenizedFact",
    "decode",
    "encode",
    "encode_continuation",
    "front_tokens",
    "subject_span",
    "subject_tokens",
    "token_classes",
    "token_text",
    "tokenize",
]

TOKEN_CLASSES = (
    "First subject token",
    "Middle subject tokens",
    "Last subject token",
    "First subsequent token",
    "Further tokens",
    "Last token",
)
"""The rows of Figure 1, in order (Meng et al. 2022, Figure 1; Chun & Hur, Figure 1)."""


@dataclass(frozen=True, kw_only=True)
class TokenizedFact:
    """What became of a fact's text: the prompt and the target as the model reads them.

    Args:
        ids: Token ids of the prompt, behind whatever the tokenizer puts in front of a text (a BOS token, or nothing).
        strings: The text of each token, with its leading space; bytes that are a part of a character only show as
            ``"⟨E6 9D⟩"``.
        subject_span: First token of the subject and the one after its last.
        target_ids: Token ids of the target as it continues the prompt; empty if the fact has none.
        target_strings: Their texts.
    """

    ids: Int[Tensor, "token"]
    strings: tuple[str, ...]
    subject_span: tuple[int, int]
    target_ids: tuple[int, ...]
    target_strings: tuple[str, ...]


def tokenize(model: HookedTransformer, fact: Fact, *, quiet: bool = False) -> TokenizedFact:
    """Tokenise a fact the way the model was trained: its tokenizer says whether a BOS token comes first.

    Example:
        >>> tokenized = interp.tokenize(model, fact)
        >>> tokenized.strings
        ('The', ' Eiff', 'el', ' Tower', ' is', ' located', ' in', ' the', ' city', ' of')
        >>> tokenized.subject_span
        (1, 4)

    Args:
        model: The model.
        fact: The fact.
        quiet: Without the warnings of :func:`encode_continuation`, where they were given already.

    Raises:
        FactError: If the prompt (with the target) is longer than the model's context, the target has no tokens of its
            own after the prompt (see :func:`encode_continuation`), the subject covers no token or holds the text of a
            control token, or the tokens that the tokenizer names for the subject do not read as the subject.
        ModelError: If the model has no tokenizer that knows character offsets.
    """
    tokenizer = _tokenizer(model)
    ids, offsets, target_ids = _split(tokenizer, fact.prompt, fact.target)
    _check(tokenizer, fact.prompt, fact.target, ids, target_ids, quiet=quiet)
    front = _front(model)
    n_prompt = len(front) + len(ids)
    if n_prompt + max(len(target_ids) - 1, 0) > model.cfg.n_ctx:
        raise FactError(
            f"the prompt {excerpt(fact.prompt)} takes {n_prompt} tokens and its target"
            f" {len(target_ids)}; the model's context holds {model.cfg.n_ctx}"
        )
    span = _span_of(tokenizer, fact, ids, offsets)
    whole = [*front, *ids]
    return TokenizedFact(
        ids=torch.tensor(whole, device=model.W_E.device),
        strings=tuple(token_text(model, i) for i in whole),
        subject_span=(span[0] + len(front), span[1] + len(front)),
        target_ids=target_ids,
        target_strings=tuple(token_text(model, i) for i in target_ids),
    )


def encode_continuation(
    model: HookedTransformer, prompt: str, target: str | None, *, quiet: bool = False
) -> tuple[list[int], tuple[int, ...]]:
    """Token ids of a prompt, and of the target as the text right after it.

    Warns (:class:`interp.errors.InterpWarning`) where the tokens are right and yet may not be what is meant: the
    prompt ends within a word of a script that puts spaces between words and the target goes on without one; the
    prompt holds the text of a control token, which becomes that token (a chat template needs this); the tokenizer
    does not know a part of the prompt and puts its unknown token.

    Args:
        model: The model.
        prompt: What begins the text; what the tokenizer puts in front of a text (BOS) comes first.
        target: What continues it, exactly; a leading space is the target's.
        quiet: Without these warnings.

    Returns:
        The prompt's ids, and the ids of prompt and target together after them (none without a target).

    Raises:
        FactError: If the prompt's own ids are not how prompt and target together begin (the seam falls inside a
            token), or if the target adds no token, holds the text of a control token, or is unknown in part.
        ModelError: If the model has no fast tokenizer.
    """
    tokenizer = _tokenizer(model)
    ids, _, target_ids = _split(tokenizer, prompt, target)
    _check(tokenizer, prompt, target, ids, target_ids, quiet=quiet)
    return [*_front(model), *ids], target_ids


def encode(model: HookedTransformer, text: str) -> list[int]:
    """Token ids of a text that begins a prompt, behind what the tokenizer puts in front (BOS)."""
    return [*_front(model), *_encode(_tokenizer(model), text)[0]]


def decode(model: HookedTransformer, ids: Sequence[int], *, special: bool = True) -> str:
    """The text that some tokens add to a text, a leading space included.

    A SentencePiece tokenizer drops the space of the first token that it decodes; here another token comes before it.

    Args:
        model: The model.
        ids: The tokens.
        special: With the tokenizer's own tokens (BOS, end of text).
    """
    tokenizer = _tokenizer(model)
    options = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
    before, shown = [tokenizer.convert_tokens_to_ids(_LETTER)], _LETTER
    if before[0] in (None, tokenizer.unk_token_id):  # the vocabulary has it in other pieces
        before = _encode(tokenizer, _LETTER)[0]
        shown = tokenizer.decode(before, **options)
    text = str(tokenizer.decode([*before, *ids], **options))
    return text[len(shown) :] if shown and text.startswith(shown) else str(tokenizer.decode(list(ids), **options))


def token_text(model: HookedTransformer, *ids: int) -> str:
    """A token, or some in a row, as people see them; bytes that are a part of a character show as ``"⟨E6 9D⟩"``."""
    text = decode(model, ids)
    if "\ufffd" not in text:
        return text
    parts = [decode(model, [i]) for i in ids]
    pieces = _tokenizer(model).convert_ids_to_tokens(list(ids))
    raw = [
        bytes_of_token(piece) if "\ufffd" in part else part.encode() for piece, part in zip(pieces, parts, strict=True)
    ]
    whole = [part for part in raw if part is not None]
    return with_bytes(b"".join(whole)) if len(whole) == len(raw) else text


def front_tokens(tokenizer: Any) -> list[int]:
    """What a tokenizer itself puts in front of a text: a BOS token, or nothing; what it appends does not count."""
    encoded = tokenizer(_LETTER, return_special_tokens_mask=True)
    mask = list(encoded["special_tokens_mask"])
    return list(encoded["input_ids"])[: mask.index(0) if 0 in mask else 0]


_LETTER = "a"
"""A text that every tokenizer knows and that no special token is."""


def subject_tokens(model: HookedTransformer, facts: Sequence[Fact]) -> list[list[int]]:
    """Token ids of each fact's subject within its prompt, by one call of the tokenizer for all of them.

    Raises:
        FactError: As :func:`tokenize` for a subject.
        ModelError: If the model has no tokenizer that knows character offsets.
    """
    tokenizer = _tokenizer(model)
    encoded = tokenizer([fact.prompt for fact in facts], add_special_tokens=False, return_offsets_mapping=True)
    rows = zip(facts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [
        list(ids)[slice(*_span_of(tokenizer, fact, list(ids), [tuple(pair) for pair in offsets]))]
        for fact, ids, offsets in rows
    ]


def subject_span(offsets: Sequence[tuple[int, int]], subject_characters: tuple[int, int]) -> tuple[int, int] | None:
    """First token that covers a character of the subject, and the one after the last that does.

    Args:
        offsets: Start and end character of each token; tokens that split a character all name that one.
        subject_characters: Start and end character of the subject, end exclusive.

    Returns:
        The span, end exclusive, or ``None`` if no token covers the subject.
    """
    start, end = subject_characters
    covering = [index for index, (first, last) in enumerate(offsets) if first < end and last > start and first < last]
    return (covering[0], covering[-1] + 1) if covering else None


def token_classes(n_tokens: int, span: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Which tokens belong to each class of :data:`TOKEN_CLASSES`, as in the published average maps.

    A token may be in two classes: the only token of a subject is its first and its last, the only token after
    a subject is the first subsequent and the last one. Tokens before the subject are in none.

    Args:
        n_tokens: Number of prompt tokens.
        span: The subject's tokens, end exclusive.

    Returns:
        Class name to token positions; ``()`` where the prompt has no such token.

    Raises:
        FactError: If the span is empty or outside of the prompt.
    """
    start, end = span
    if not 0 <= start < end <= n_tokens:
        raise FactError(f"the subject span {span} does not lie within {n_tokens} tokens")
    last = n_tokens - 1
    positions = (
        (start,),
        tuple(range(start + 1, end - 1)),
        (end - 1,),
        (end,) if end < n_tokens else (),
        tuple(range(end + 1, last)),
        (last,),
    )
    return dict(zip(TOKEN_CLASSES, positions, strict=True))


def _tokenizer(model: HookedTransformer) -> Any:
    tokenizer = model.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise ModelError("locating a subject needs a fast tokenizer (one that knows character offsets)")
    return tokenizer


def _front(model: HookedTransformer) -> list[int]:
    """What comes before a text: :func:`front_tokens`, unless the model's configuration says otherwise."""
    if not model.cfg.default_prepend_bos:
        return []
    tokenizer = _tokenizer(model)
    front = front_tokens(tokenizer)
    if not front and tokenizer.bos_token_id is None:
        raise ModelError("the model's configuration wants a BOS token (default_prepend_bos); its tokenizer has none")
    return front or [tokenizer.bos_token_id]


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FactError(f"the text {excerpt(text)} holds half a character (a lone surrogate)") from error
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [tuple(pair) for pair in encoded["offset_mapping"]]


def _split(tokenizer: Any, prompt: str, target: str | None) -> tuple[list[int], list[tuple[int, int]], tuple[int, ...]]:
    """The prompt's ids and offsets, and the target's ids after it."""
    ids, offsets = _encode(tokenizer, prompt)
    if target is None:
        return ids, offsets, ()
    both, _ = _encode(tokenizer, prompt + target)
    if both[: len(ids)] != ids:
        pieces = [tokenizer.convert_ids_to_tokens(part) for part in (ids, both)]
        same = next(i for i, pair in enumerate(zip(*pieces, strict=False)) if pair[0] != pair[1])
        alone, joined = (" ".join(map(repr, part[same:])) for part in pieces)
        raise FactError(
            f"the target {excerpt(target)} does not begin at a token of its own after the prompt {excerpt(prompt)}: the"
            f" prompt alone ends in {alone}, with the target it goes on as {joined}; move the seam, for example to"
            " before a space"
        )
    if len(both) == len(ids):
        raise FactError(f"the target {excerpt(target)} turns into no token after the prompt {excerpt(prompt)}")
    return ids, offsets, tuple(both[len(ids) :])


def _check(
    tokenizer: Any, prompt: str, target: str | None, ids: list[int], target_ids: tuple[int, ...], *, quiet: bool
) -> None:
    """Refuse a target that holds a control or unknown token; warn of what in a prompt is easily misread."""
    if control := _control_tokens(tokenizer, target_ids, target or ""):
        raise FactError(
            f"the target {excerpt(target)} holds the text of the control token {excerpt(control[0])} and would become"
            " that token"
        )
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in target_ids:
        raise FactError(
            f"the tokenizer does not know a part of the target {excerpt(target)}: it would be asked as unknown"
        )
    if quiet:
        return
    if target is not None and runs_into(prompt, target):
        warnings.warn(
            f"the target {excerpt(target)} has no leading space and runs into the last word of the prompt"
            f" {excerpt(prompt)}: text is taken as it is, so put the space into the target if one is meant",
            InterpWarning,
            stacklevel=3,
        )
    control = _control_tokens(tokenizer, ids, prompt)
    if control:
        warnings.warn(
            f"the prompt {excerpt(prompt)} holds the text of the control token {excerpt(control[0])}, which the model"
            " reads as that token, not as text",
            InterpWarning,
            stacklevel=3,
        )
    elif unknown is not None and unknown in ids:
        warnings.warn(
            f"the tokenizer does not know a part of the prompt {excerpt(prompt)}: the model reads"
            f" {tokenizer.unk_token!r} there",
            InterpWarning,
            stacklevel=3,
        )


def _control_tokens(tokenizer: Any, ids: Sequence[int], text: str) -> list[str]:
    """The tokens among these that steer the model (BOS, end of text, roles of a chat) and that the text spelled out."""
    special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    unknown = tokenizer.unk_token_id  # stands for any text; only as its own text is it a control token
    return [special[i] for i in ids if i in special and (i != unknown or special[i] in text)]


def _span_of(tokenizer: Any, fact: Fact, ids: list[int], offsets: list[tuple[int, int]]) -> tuple[int, int]:
    """The subject's tokens, without marks that hold none of its characters; checked against what they read."""
    span = subject_span(offsets, fact.subject_characters)
    if span is None:
        raise FactError(f"no token of the prompt {excerpt(fact.prompt)} covers the subject {excerpt(fact.subject)}")
    start, end = span
    # the mark that SentencePiece puts before a text, on its own, names the first character as its place
    while end - start > 1 and not _plain(tokenizer, ids[start : start + 1]):
        start += 1
    while end - start > 1 and not _plain(tokenizer, ids[end - 1 : end]):
        end -= 1
    subject = ids[start:end]
    if control := _control_tokens(tokenizer, subject, fact.prompt):
        raise FactError(
            f"the subject {excerpt(fact.subject)} of {excerpt(fact.prompt)} holds the text of the control token"
            f" {excerpt(control[0])} and would become that token"
        )
    normalizer = tokenizer.backend_tokenizer.normalizer
    wanted = _comparable(fact.subject if normalizer is None else normalizer.normalize_str(fact.subject))
    if tokenizer.unk_token_id not in subject and wanted not in _plain(tokenizer, subject):
        raise FactError(
            f"the tokenizer's character offsets cannot be trusted: by them the subject {excerpt(fact.subject)} of"
            f" {excerpt(fact.prompt)} is in the tokens {tokenizer.convert_ids_to_tokens(subject)}, which read"
            f" {tokenizer.decode(subject)!r}"
        )
    return start, end


def _plain(tokenizer: Any, ids: list[int]) -> str:
    return _comparable(str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)))


def _comparable(text: str) -> str:
    """A text without white space (and SentencePiece's sign for it), in one case and one Unicode form."""
    return "".join(unicodedata.normalize("NFKD", text).casefold().replace("▁", " ").split())
