"""Ways to corrupt a subject: noise on its embeddings, or another subject in its place.

Sources: Meng et al. 2022, section 2 and appendix B (noise of three standard deviations); Zhang & Nanda 2023
(symmetric token replacement).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.engine.base_runs import Hook
from interp.engine.forward import unembed, wide
from interp.errors import FactError
from interp.facts.records import Fact
from interp.models.tokens import TokenizedFact, subject_tokens, tokenize

__all__ = [
    "CORRUPTIONS",
    "CorruptedRows",
    "Corruption",
    "RowsTogether",
    "noise_hook",
    "noise_level",
    "replacement_facts",
    "side_by_side",
    "with_noise",
    "with_other_subjects",
]

Corruption = Literal["gaussian", "uniform", "symmetric"]
CORRUPTIONS: tuple[Corruption, ...] = ("gaussian", "uniform", "symmetric")


@dataclass(frozen=True, kw_only=True, eq=False)
class CorruptedRows:
    """A prompt and its corrupted forms, ready to run.

    Args:
        ids: The clean prompt first.
        hooks: What corrupts some of the rows while they run.
        noise: Its level; 0 without.
        replacements: The subjects in the place of this one, if that is how they are corrupted.
    """

    ids: Int[Tensor, "row token"]
    hooks: Callable[[slice], list[Hook]]
    noise: float = 0.0
    replacements: tuple[str, ...] = ()


def with_noise(
    model: HookedTransformer,
    tokenized: TokenizedFact,
    samples: int,
    level: float,
    seed: int,
    corruption: Corruption,
    replace: bool,
) -> CorruptedRows:
    """A prompt whose subject gets noise (:func:`noise_hook` has the arguments)."""
    return CorruptedRows(
        ids=tokenized.ids.expand(1 + samples, -1),
        hooks=lambda rows: [noise_hook(model, tokenized, samples, level, seed, corruption, replace, rows)],
        noise=level,
    )


def with_other_subjects(tokenized: TokenizedFact, others: Sequence[tuple[Fact, Int[Tensor, "token"]]]) -> CorruptedRows:
    """A prompt and those with another subject, as :func:`replacement_facts` finds them."""
    return CorruptedRows(
        ids=torch.stack([tokenized.ids, *(ids for _, ids in others)]),
        hooks=lambda rows: [],
        replacements=tuple(other.subject for other, _ in others),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RowsTogether:
    """Rows of several prompts, the short ones padded on the left.

    Args:
        ids: All of them, prompt after prompt.
        hooks: What corrupts some of them while they run.
        begins: The first token of each row.
        firsts: The first row of each prompt.
    """

    ids: Int[Tensor, "row token"]
    hooks: Callable[[slice], list[Hook]]
    begins: tuple[int, ...]
    firsts: tuple[int, ...]


def side_by_side(prompts: Sequence[CorruptedRows]) -> RowsTogether:
    """The rows of several prompts as those of one batch."""
    length = max(rows.ids.shape[1] for rows in prompts)
    padding = [length - rows.ids.shape[1] for rows in prompts]
    firsts = tuple(accumulate((len(rows.ids) for rows in prompts), initial=0))[:-1]

    def hooks(index: slice) -> list[Hook]:
        found: list[Hook] = []
        for rows, begin, first in zip(prompts, padding, firsts, strict=True):
            low, high = max(index.start, first), min(index.stop, first + len(rows.ids))
            if low < high:
                there = slice(low - index.start, high - index.start), slice(begin, None)
                found += [_there(hook, there) for hook in rows.hooks(slice(low - first, high - first))]
        return found

    return RowsTogether(
        ids=torch.cat([pad(rows.ids, (begin, 0)) for rows, begin in zip(prompts, padding, strict=True)]),
        hooks=hooks,
        begins=tuple(begin for rows, begin in zip(prompts, padding, strict=True) for _ in rows.ids),
        firsts=firsts,
    )


def _there(corruption: Hook, there: tuple[slice, slice]) -> Hook:
    """A hook that acts on some rows and tokens alone."""
    name, corrupt = corruption

    def act(value: Tensor, hook: HookPoint) -> Tensor:
        value = value.clone()
        corrupted = corrupt(value[there], hook)
        if corrupted is not None:
            value[there] = corrupted
        return value

    return name, act


def noise_level(model: HookedTransformer, facts: Sequence[Fact], *, deviations: float = 3.0) -> float:
    """Three (or ``deviations``) standard deviations of all subject-token embeddings, pooled (Meng et al. 2022).

    Example:
        >>> round(interp.noise_level(model, interp.load_facts()), 3)
        0.306

    Raises:
        FactError: If there are no facts.
    """
    if not facts:
        raise FactError("the noise level needs at least one fact")
    ids = [token for own in subject_tokens(model, facts) for token in own]
    with torch.no_grad():
        return deviations * float(model.embed(torch.tensor(ids, device=model.W_E.device)).float().std())


def noise_hook(
    model: HookedTransformer,
    tokenized: TokenizedFact,
    samples: int,
    level: float,
    seed: int,
    corruption: Corruption,
    replace: bool,
    rows: slice | None = None,
) -> Hook:
    """The hook that corrupts all rows but the first: noise on the embeddings of the subject's tokens.

    Args:
        model: The model.
        tokenized: Whose subject.
        samples: Rows after the first.
        level: Standard deviation (half the width, if uniform).
        seed: Of the published generator.
        corruption: ``gaussian`` or ``uniform``.
        replace: Put the noise in the place of the embeddings instead of adding it.
        rows: Which of the rows run; all of them if None.
    """
    start, end = tokenized.subject_span
    rows = slice(0, 1 + samples) if rows is None else rows
    generator = np.random.RandomState(seed)  # the published generator, so that numbers can be compared
    shape = (samples, end - start, model.cfg.d_model)
    drawn = generator.randn(*shape) if corruption == "gaussian" else generator.uniform(-1, 1, shape)
    weights = model.W_E
    scaled = torch.from_numpy(drawn).to(wide(weights[:0])) * level

    def corrupt(embedding: Tensor, hook: HookPoint) -> Tensor:
        # of the rows that run, which are noisy: all of them but the first of all
        clean = 1 if rows.start == 0 else 0
        noise = scaled[max(0, rows.start - 1) : rows.stop - 1]
        embedding = embedding.clone()
        # in a narrow number format rounded once, at the end
        noisy = noise if replace else wide(embedding[clean:, start:end]) + noise
        embedding[clean:, start:end] = noisy.to(embedding.dtype)
        return embedding

    return "hook_embed", corrupt


def replacement_facts(
    model: HookedTransformer,
    fact: Fact,
    candidates: Sequence[Fact],
    limit: int,
    *,
    seed: int = 1,
    max_batch_tokens: int = 4096,
) -> list[tuple[Fact, Int[Tensor, "token"]]]:
    """Other subjects that fit into this prompt token by token and for which the model does not give the answer traced.

    Which of them are taken, and in which order, is drawn by the seed; the order of the candidates does not matter.

    Args:
        model: The model.
        fact: Whose subject is to be replaced. Its answer is the first token of its target, or the model's own top
            answer.
        candidates: Facts of the same relation and another target are considered. Where either has no relation, the
            same template stands for one: facts without a relation have nothing in common.
        limit: At most so many.
        seed: Of the draw.
        max_batch_tokens: The most tokens that are asked at once.

    Returns:
        The fact with each other subject, and its prompt's token ids.

    Raises:
        FactError: If there is none.
    """
    tokenized = tokenize(model, fact, quiet=True)
    found = _fitting(model, fact, tokenized, candidates)
    if not found:
        kind = f"relation {fact.relation!r}" if fact.relation is not None else "its template (it has no relation)"
        start, end = tokenized.subject_span
        raise FactError(
            f"no replacement for {fact.subject!r}: among {len(candidates)} facts none of {kind} has a subject of"
            f" {end - start} tokens and another answer"
        )
    order = np.random.RandomState(seed).permutation(len(found))
    asked = [found[index] for index in order]
    answer = tokenized.target_ids[0] if tokenized.target_ids else _top_answers(model, [tokenized.ids])[0]
    # the model must answer differently for it, or nothing was corrupted
    different: list[tuple[Fact, Tensor]] = []
    size = max(1, max_batch_tokens // len(tokenized.ids))
    for first in range(0, len(asked), size):
        part = asked[first : first + size]
        tops = _top_answers(model, [ids for _, ids in part])
        different += [pair for pair, top in zip(part, tops, strict=True) if top != answer]
        if len(different) >= limit:
            break
    if not different:
        raise FactError(
            f"no replacement for {fact.subject!r}: the model gives the answer that is traced for all"
            f" {len(found)} other subjects of its length"
        )
    return different[:limit]


def _fitting(
    model: HookedTransformer, fact: Fact, tokenized: TokenizedFact, candidates: Sequence[Fact]
) -> list[tuple[Fact, Tensor]]:
    """The fact with each other subject of its kind and length, by subject, and its prompt's token ids."""
    found: dict[str, tuple[Fact, Tensor]] = {}
    start, end = tokenized.subject_span
    around = torch.cat([tokenized.ids[:start], tokenized.ids[end:]])
    for other in sorted(candidates, key=lambda other: (other.subject, other.target or "")):
        if not _of_a_kind(fact, other) or other.subject in (fact.subject, *found) or _same_target(fact, other):
            continue
        swapped = Fact(template=fact.template, subject=other.subject, relation=fact.relation)
        ids = tokenize(model, swapped, quiet=True)
        outside = torch.cat([ids.ids[:start], ids.ids[end:]])
        if ids.subject_span == (start, end) and torch.equal(outside, around):
            found[other.subject] = (replace(swapped, target=other.target), ids.ids)
    return list(found.values())


def _of_a_kind(fact: Fact, other: Fact) -> bool:
    if fact.relation is None or other.relation is None:
        return fact.template == other.template
    return fact.relation == other.relation


def _same_target(fact: Fact, other: Fact) -> bool:
    return fact.target is not None and other.target is not None and fact.target.strip() == other.target.strip()


def _top_answers(model: HookedTransformer, prompts: Sequence[Tensor]) -> list[int]:
    """The likeliest next token of prompts of one length."""
    with torch.no_grad():
        final = model(torch.stack([*prompts]), prepend_bos=False, stop_at_layer=model.cfg.n_layers)[:, -1]
        return [int(top) for top in unembed(model, final).argmax(-1)]
