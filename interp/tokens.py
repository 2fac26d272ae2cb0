"""From a prompt to tokens, the subject's span among them, and the token classes of Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.errors import FactError, ModelError
from interp.facts import Fact
from interp.readable import bytes_of_token, with_bytes

__all__ = [
    "TOKEN_CLASSES",
    "TokenizedFact",
    "decode",
    "encode",
    "subject_span",
    "token_classes",
    "token_text",
    "tokenize",
    "tokenize_target",
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
    """A prompt as the model reads it.

    Args:
        ids: Token ids of the prompt, with the beginning-of-sequence token if the model takes one.
        strings: The text of each token; bytes that are a part of a character only show as ``"⟨E6 9D⟩"``.
        subject_span: First token of the subject and the one after its last.
        target_ids: Token ids of the target as it continues the prompt; empty if the fact has none.
    """

    ids: Int[Tensor, "token"]
    strings: tuple[str, ...]
    subject_span: tuple[int, int]
    target_ids: tuple[int, ...]


def tokenize(model: HookedTransformer, fact: Fact) -> TokenizedFact:
    """Tokenise a fact the way the model was trained: its own rule says whether a BOS token comes first.

    Raises:
        FactError: If the prompt (with the target) is longer than the model's context, the target turns into
            no token, or the subject covers none.
        ModelError: If the model has no tokenizer that knows character offsets.
    """
    ids, offsets = _encode(model, fact.prompt)
    target_ids = tokenize_target(model, fact.target) if fact.target is not None else ()
    bos = 0
    if model.cfg.default_prepend_bos:
        bos = 1
        ids = [_tokenizer(model).bos_token_id, *ids]
    if len(ids) + max(len(target_ids) - 1, 0) > model.cfg.n_ctx:
        raise FactError(
            f"the prompt {_shortened(fact.prompt)!r} takes {len(ids)} tokens and its target"
            f" {len(target_ids)}; the model's context holds {model.cfg.n_ctx}"
        )
    span = subject_span(offsets, fact.subject_characters)
    if span is None:
        raise FactError(f"no token of the prompt {fact.prompt!r} covers the subject {fact.subject!r}")
    return TokenizedFact(
        ids=torch.tensor(ids, device=model.W_E.device),
        strings=tuple(token_text(model, i) for i in ids),
        subject_span=(span[0] + bos, span[1] + bos),
        target_ids=target_ids,
    )


def tokenize_target(model: HookedTransformer, target: str) -> tuple[int, ...]:
    """Token ids of an answer that continues a prompt.

    Raises:
        FactError: If the target turns into no token.
    """
    ids, _ = _encode(model, target)
    if not ids:
        raise FactError(f"the target {target!r} turns into no token")
    return tuple(ids)


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


def encode(model: HookedTransformer, text: str) -> list[int]:
    """Token ids of a text that begins a prompt, with the BOS token if the model takes one."""
    ids, _ = _encode(model, text)
    return [_tokenizer(model).bos_token_id, *ids] if model.cfg.default_prepend_bos else ids


def decode(model: HookedTransformer, ids: Sequence[int], *, special: bool = True) -> str:
    """The text of some tokens; without those of the tokenizer's own (BOS, end of text) if ``special`` is false."""
    return str(_tokenizer(model).decode(list(ids), skip_special_tokens=not special))


def token_text(model: HookedTransformer, *ids: int) -> str:
    """A token, or some in a row, as people see them; bytes that are a part of a character show as ``"⟨E6 9D⟩"``."""
    text = decode(model, ids)
    if "\ufffd" not in text:
        return text
    raw = [bytes_of_token(piece) for piece in _tokenizer(model).convert_ids_to_tokens(list(ids))]
    whole = [part for part in raw if part is not None]
    return with_bytes(b"".join(whole)) if len(whole) == len(raw) else text


def _tokenizer(model: HookedTransformer) -> Any:
    tokenizer = model.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise ModelError("locating a subject needs a fast tokenizer (one that knows character offsets)")
    return tokenizer


def _encode(model: HookedTransformer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = _tokenizer(model)(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [tuple(pair) for pair in encoded["offset_mapping"]]


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
