"""Contexts: texts that the model writes itself, put before a prompt so that an edit holds in company.

A context is a template with one ``{}`` for the prompt; the first is always the bare ``"{}"``. They come in kinds
(ROME, MEMIT: by length), because MEMIT averages keys within a kind and then over kinds.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformer_lens import HookedTransformer

from interp.engine.generation import generate
from interp.errors import OptionError
from interp.models.tokens import decode, encode

__all__ = ["Contexts", "context_kinds", "write_contexts"]

Contexts = tuple[tuple[str, ...], ...]
"""Kinds of context; the first kind is ``("{}",)``, or at least begins with it."""

OPENINGS = (
    "The most important thing",
    "Therefore, many people",
    "Because of the weather",
    "I was told that",
    "You can see the",
)
"""What the texts start with: MEMIT's first words, and enough to go on with where no BOS token comes before them."""


def write_contexts(
    model: HookedTransformer, *, kinds: Sequence[tuple[int, int]] = ((10, 5),), seed: int = 0
) -> Contexts:
    """Let the model write short texts.

    Example:
        >>> contexts = interp.write_contexts(model, kinds=((5, 3), (10, 2)))
        >>> contexts[0], [len(kind) for kind in contexts]
        (('{}',), [1, 3, 2])

    Args:
        model: The model.
        kinds: (tokens, texts) of each kind beside the bare prompt. MEMIT's: ``((10, 5),)``; ROME's
            ``((5, 10), (10, 10))``.
        seed: Of the sampling (among the 5 likeliest tokens).

    Returns:
        Kinds of templates, ``("{}",)`` first.
    """
    contexts: list[tuple[str, ...]] = [("{}",)]
    drawn = 0
    for length, count in kinds:
        openings = [OPENINGS[i % len(OPENINGS)] for i in range(count)]
        prompts = [encode(model, opening) for opening in openings]
        seeds = [(seed + 7919 * (drawn + i)) % 2**32 for i in range(count)]
        drawn += count
        added = generate(model, prompts, length, top_k=5, seeds=seeds)
        rows = [[*prompt, *new] for prompt, new in zip(prompts, added.tolist(), strict=True)]
        # a BOS or end-of-text token, written out, would become one again in the middle of a prompt
        texts = [decode(model, row, special=False) for row in rows]
        contexts.append(tuple(_as_template(text) for text in texts))
    return tuple(contexts)


def context_kinds(contexts: Sequence[str] | Sequence[Sequence[str]]) -> Contexts:
    """Bring contexts into kinds; a flat list is one kind.

    Raises:
        OptionError: If they are no lists, a context does not have exactly one ``{}``, or the first is not the bare
            ``"{}"``.
    """
    if isinstance(contexts, str | bytes) or not isinstance(contexts, Sequence):
        raise OptionError(f"contexts must be a list of templates, or of lists of templates, got {contexts!r}")
    flat = [context for context in contexts if isinstance(context, str)]
    if flat and len(flat) != len(contexts):
        raise OptionError("contexts must be templates or lists of templates, not both")
    for kind in () if flat else contexts:
        if not isinstance(kind, Sequence):
            raise OptionError(f"contexts must be templates or lists of templates, got {kind!r} among them")
    kinds: Contexts = (tuple(flat),) if flat else tuple(tuple(kind) for kind in contexts)
    if not kinds or not all(kinds) or kinds[0][0] != "{}":
        raise OptionError("the first context must be the bare prompt '{}', and no kind may be empty")
    for kind in kinds:
        for context in kind:
            if not isinstance(context, str) or context.count("{}") != 1:
                raise OptionError(f"a context needs exactly one {{}} for the prompt, got {context!r}")
    return kinds


def _as_template(text: str) -> str:
    text = " ".join(text.split())
    return text.replace("{", " ").replace("}", " ") + ". {}"
