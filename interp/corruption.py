"""Ways to corrupt a subject: noise on its embeddings, or another subject in its place.

Sources: Meng et al. 2022, section 2 and appendix B (noise of three standard deviations); Zhang & Nanda 2023
(symmetric token replacement).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.errors import FactError
from interp.facts import Fact
from interp.sweep import Hook, unembed
from interp.tokens import TokenizedFact, tokenize

__all__ = ["CORRUPTIONS", "Corruption", "noise_hook", "noise_level", "replacement_facts"]

Corruption = Literal["gaussian", "uniform", "symmetric"]
CORRUPTIONS: tuple[Corruption, ...] = ("gaussian", "uniform", "symmetric")


def noise_level(model: HookedTransformer, facts: Sequence[Fact], *, deviations: float = 3.0) -> float:
    """Three (or ``deviations``) standard deviations of all subject-token embeddings, pooled (Meng et al. 2022).

    Raises:
        FactError: If there are no facts.
    """
    if not facts:
        raise FactError("the noise level needs at least one fact")
    ids = []
    for fact in facts:
        tokenized = tokenize(model, fact)
        ids.append(tokenized.ids[slice(*tokenized.subject_span)])
    with torch.no_grad():
        return deviations * float(model.embed(torch.cat(ids)).float().std())


def noise_hook(
    model: HookedTransformer,
    tokenized: TokenizedFact,
    samples: int,
    level: float,
    seed: int,
    corruption: Corruption,
    replace: bool,
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
    """
    start, end = tokenized.subject_span
    generator = np.random.RandomState(seed)  # the published generator, so that numbers can be compared
    shape = (samples, end - start, model.cfg.d_model)
    drawn = generator.randn(*shape) if corruption == "gaussian" else generator.uniform(-1, 1, shape)
    scaled = torch.from_numpy(drawn).to(model.W_E) * level

    def corrupt(embedding: Tensor, hook: HookPoint) -> Tensor:
        embedding = embedding.clone()
        if replace:
            embedding[1:, start:end] = scaled
        else:
            embedding[1:, start:end] += scaled
        return embedding

    return "hook_embed", corrupt


def replacement_facts(
    model: HookedTransformer, fact: Fact, candidates: Sequence[Fact], limit: int
) -> list[tuple[Fact, Int[Tensor, "token"]]]:
    """Other subjects that fit into this prompt token by token and for which the model answers differently.

    Args:
        model: The model.
        fact: Whose subject is to be replaced.
        candidates: Facts of the same relation and another target are considered, in order.
        limit: At most so many.

    Returns:
        The fact with each other subject, and its prompt's token ids.

    Raises:
        FactError: If there is none.
    """
    tokenized = tokenize(model, fact)
    found: dict[str, tuple[Fact, Tensor]] = {}
    start, end = tokenized.subject_span
    for other in candidates:
        if other.relation != fact.relation or other.subject in (fact.subject, *found) or other.target == fact.target:
            continue
        swapped = Fact(template=fact.template, subject=other.subject, target=other.target, relation=fact.relation)
        ids = tokenize(model, swapped)
        outside = torch.cat([ids.ids[:start], ids.ids[end:]])
        if ids.subject_span == (start, end) and torch.equal(
            outside, torch.cat([tokenized.ids[:start], tokenized.ids[end:]])
        ):
            found[other.subject] = (swapped, ids.ids)
    if not found:
        raise FactError(
            f"no replacement for {fact.subject!r}: among {len(candidates)} facts none of relation"
            f" {fact.relation!r} has a subject of {end - start} tokens and another answer"
        )
    # the model must answer differently for it, or nothing was corrupted
    batch = torch.stack([tokenized.ids, *(ids for _, ids in found.values())])
    with torch.no_grad():
        final = model(batch, prepend_bos=False, stop_at_layer=model.cfg.n_layers)[:, -1]
        answers = unembed(model, final).argmax(-1)
    different = [pair for pair, top in zip(found.values(), answers[1:], strict=True) if top != answers[0]]
    if not different:
        raise FactError(
            f"no replacement for {fact.subject!r}: the model answers the same for all"
            f" {len(found)} other subjects of its length"
        )
    return different[:limit]
