"""Which facts a model knows: is the first token of the target its top answer, and how probable is it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformer_lens import HookedTransformer

from interp.engine.base_runs import can_be_padded
from interp.engine.batches import halving
from interp.engine.forward import unembed
from interp.engine.suffix import padded, passes
from interp.facts.records import Fact
from interp.models.tokens import token_text, tokenize
from interp.options import Progress

__all__ = ["TopAnswer", "known_facts", "spread_over_relations", "top_answers"]


@dataclass(frozen=True, kw_only=True)
class TopAnswer:
    """What a model answers to a prompt, beside what is expected, by the first token of each.

    Without a target, the model's own top answer is expected.
    """

    fact: Fact
    expected: str
    probability: float
    top_answer: str
    top_probability: float
    known: bool


def top_answers(
    model: HookedTransformer,
    facts: Sequence[Fact],
    *,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> list[TopAnswer]:
    """The model's top answer to each fact's prompt; one row of logits per fact.

    Prompts of several lengths share a batch where that is less work than batches of their own.

    Args:
        model: The model.
        facts: The facts.
        max_batch_tokens: The most tokens that go up the network at once.
        progress: Called with (facts done, in all).

    Raises:
        FactError: If a fact does not fit the model.
        NumericalError: If the model returns NaN or infinite logits.
    """
    tokenized = [tokenize(model, fact) for fact in facts]
    lengths = [len(entry.ids) for entry in tokenized]
    found: dict[int, TopAnswer] = {}

    def run(members: list[int], limit: int) -> None:
        size = max(1, limit // max(lengths[i] for i in members))
        for first in range(0, len(members), size):
            chunk = members[first : first + size]
            batch, _ = padded([tokenized[i].ids.tolist() for i in chunk], model.W_E.device)
            last = [lengths[i] - 1 for i in chunk]
            with torch.no_grad():
                final = model(batch, prepend_bos=False, stop_at_layer=model.cfg.n_layers)[range(len(chunk)), last]
                probabilities = unembed(model, final).float().softmax(-1)
            top_probability, top = (values.tolist() for values in probabilities.max(-1))
            expected = [
                tokenized[i].target_ids[0] if tokenized[i].target_ids else own
                for i, own in zip(chunk, top, strict=True)
            ]
            of_expected = probabilities[range(len(chunk)), expected].tolist()
            for row, i in enumerate(chunk):
                found[i] = TopAnswer(
                    fact=facts[i],
                    expected=token_text(model, expected[row]),
                    probability=of_expected[row],
                    top_answer=token_text(model, top[row]),
                    top_probability=top_probability[row],
                    known=expected[row] == top[row],
                )
            if progress:
                progress(len(found), len(facts))

    for members in _passes(model, lengths):
        halving(partial(run, members), max_batch_tokens)
    return [found[i] for i in range(len(facts))]


def _passes(model: HookedTransformer, lengths: Sequence[int]) -> list[list[int]]:
    """Which prompts to ask together; of one length where the model's numbers depend on the length of a batch."""
    if lengths and can_be_padded(model):
        return passes(lengths, model.W_E.device)
    return [[i for i, own in enumerate(lengths) if own == length] for length in sorted({*lengths})]


def known_facts(
    model: HookedTransformer,
    facts: Sequence[Fact],
    *,
    limit: int | None = None,
    accept: Callable[[Fact], bool] | None = None,
    progress: Progress | None = None,
) -> Iterator[TopAnswer]:
    """Those of the facts that the model knows, in order, without asking for more than ``limit`` needs.

    Example:
        >>> for known in interp.known_facts(model, facts, limit=2):
        ...     print(known.fact.prompt, known.top_answer, round(known.probability, 2))
        The Eiffel Tower is located in the city of  Paris 0.99
        The capital of Japan is  Tokyo 0.97

    ``accept`` may turn known facts down. ``progress`` is called with (facts asked, of how many as far as is known).
    """

    def asked(first: int, done: int, total: int) -> None:
        if progress:
            progress(first + done, first + total)

    size = max(1, len(facts)) if limit is None else max(16, 2 * limit)
    count = 0
    for first in range(0, len(facts), size):
        for answer in top_answers(model, facts[first : first + size], progress=partial(asked, first)):
            if answer.known and (limit is None or count < limit) and (accept is None or accept(answer.fact)):
                count += 1
                yield answer
        if limit is not None and count >= limit:
            return


def spread_over_relations(facts: Sequence[Fact], seed: int) -> list[Fact]:
    """The facts in a seeded order in which every relation's turn comes before any relation's second turn."""
    generator = np.random.default_rng(seed)
    by_relation: dict[str | None, list[Fact]] = {}
    for index in generator.permutation(len(facts)):
        by_relation.setdefault(facts[index].relation, []).append(facts[index])
    turns = max((len(members) for members in by_relation.values()), default=0)
    return [members[turn] for turn in range(turns) for members in by_relation.values() if turn < len(members)]
