"""Whether the tokenizer that transformers makes of a GGUF file is the one that the file describes.

transformers takes vocabulary, merges and control tokens. How a text is cut before the merges (``tokenizer.ggml.pre``)
it knows for some names only, and takes GPT-2's way for all others; whether a space is put in front it does not ask.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from interp.errors import ModelError, excerpt
from interp.models.gguf_settings import Metadata
from interp.models.tokens import front_tokens

__all__ = ["check_tokenizer", "tokenizer_options"]

_LLAMA_3 = ("llama3", "llama-v3", "llama-bpe")
CUTS = (*_LLAMA_3, "falcon3", "smaug-bpe", "qwen2", "deepseek-r1-qwen", "tekken", "gpt-4o", "llama4")
"""Names whose way to cut a text transformers knows."""
AS_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais")
"""Names of GPT-2's way."""
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""Names of GPT-2's way with every digit by itself: the same, if no token joins a digit to anything."""


def tokenizer_options(said: Metadata) -> dict[str, Any]:
    """What transformers has to be told beside the file: that Llama 3 puts a token in front, if the file does not.

    Raises:
        ModelError: If the file cuts texts in a way that transformers does not know.
    """
    cut = said.get("tokenizer.ggml.pre")
    if said.get("tokenizer.ggml.model") == "gpt2" and not (cut is None and said["general.architecture"] == "gpt2"):
        _check_cut(cut, said.get("tokenizer.ggml.tokens", ()))
    unsaid = "tokenizer.ggml.add_bos_token" not in said and cut in _LLAMA_3
    return {"add_bos_token": True} if unsaid else {}


def check_tokenizer(tokenizer: Any, said: Metadata) -> None:
    """Refuse a tokenizer that is not the file's.

    Raises:
        ModelError: Naming the setting of the file that was dropped.
    """
    own = {name.removeprefix("tokenizer.ggml."): value for name, value in said.items()}
    kind, cut = own.get("model"), own.get("pre")
    if kind == "gpt2":
        # a text that is a token is that token, whatever the merges
        tokenizer.backend_tokenizer.model.ignore_merges = cut in _LLAMA_3
    first = own.get("add_bos_token", kind == "llama" or cut in _LLAMA_3)
    wanted = [own["bos_token_id"]] if first and "bos_token_id" in own else []
    if (found := front_tokens(tokenizer)) != wanted:
        raise ModelError(
            f"its tokenizer must put the tokens {wanted} in front of a text (tokenizer.ggml.add_bos_token); what"
            f" transformers makes of it puts {found}"
        )
    space = own.get("add_space_prefix", True)
    if kind == "llama" and _puts_space(tokenizer) != space:
        raise ModelError(
            f"setting tokenizer.ggml.add_space_prefix is {space}, and transformers drops it: load the model in Hugging"
            " Face format instead"
        )


def _check_cut(cut: Any, tokens: Iterable[str]) -> None:
    if cut in (*CUTS, *AS_GPT2):
        return
    where = "load the model in Hugging Face format instead"
    if cut not in DIGITS_APART:
        raise ModelError(
            f"setting tokenizer.ggml.pre is {excerpt(cut)}, and how that cuts a text is not known: {where}"
        )
    bytes_of = {sign: byte for byte, sign in bytes_to_unicode().items()}
    for token in tokens:
        if not all(sign in bytes_of for sign in token):
            continue  # no piece of a text
        text = bytes(bytes_of[sign] for sign in token).decode("utf-8", "replace")
        if len(text) > 1 and any(unicodedata.category(character)[0] == "N" for character in text):
            raise ModelError(
                f"setting tokenizer.ggml.pre is {cut!r}, which sets digits apart, and transformers drops it; token"
                f" {excerpt(text)} joins one: {where}"
            )


def _puts_space(tokenizer: Any) -> bool:
    first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])[0]
    return str(first).startswith("▁")
