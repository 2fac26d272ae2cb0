"""Which facts a model knows, beside one plain forward pass per fact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from interp.errors import FactError, NumericalError
from interp.facts.records import Fact
from interp.locate.knowledge import known_facts, spread_over_relations, top_answers
from interp.models.load import load_model
from interp.models.tokens import token_text, tokenize
from tests.conftest import FAMILIES


def forward(model: HookedTransformer, fact: Fact) -> torch.Tensor:
    """Probabilities of the next token, by the model's own forward pass on its own tokenization."""
    ids = model.tokenizer(fact.prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids, prepend_bos=False)[0, -1].softmax(-1)


@pytest.fixture
def mixed(facts: list[Fact]) -> list[Fact]:
    """Known, unknown and target-less facts of several lengths, some of the same length."""
    wrong = [replace(facts[i], target=facts[i - 1].target) for i in range(3)]
    return [facts[0], wrong[0], facts[1], replace(facts[2], target=None), *facts[3:], *wrong[1:]]


def test_answers_are_those_of_one_forward_pass_per_fact(tiny: HookedTransformer, mixed: list[Fact]) -> None:
    found = top_answers(tiny, mixed)
    assert len(found) == len(mixed)
    assert len({len(tokenize(tiny, fact).ids) for fact in mixed}) > 1
    for fact, answer in zip(mixed, found, strict=True):
        expected = forward(tiny, fact)
        top = int(expected.argmax())
        wanted = top if fact.target is None else tiny.tokenizer(fact.target)["input_ids"][0]
        assert answer.fact == fact
        assert answer.top_answer == tiny.tokenizer.decode([top])
        assert answer.top_probability == pytest.approx(float(expected[top]), rel=1e-4)
        assert answer.expected == tiny.tokenizer.decode([wanted])
        assert answer.probability == pytest.approx(float(expected[wanted]), rel=1e-3)
        assert answer.known == (wanted == top)
    assert [answer.known for answer in found] == [True, False, True, True, True, True, True, False, False]


@pytest.mark.parametrize("name", [*FAMILIES, "bos"])
def test_a_family_with_a_bos_or_other_blocks_agrees_too(
    name: str,
    family_model: Callable[[str], HookedTransformer],
    bos_model: HookedTransformer,
    tiny: HookedTransformer,
    facts: list[Fact],
) -> None:
    model = bos_model if name == "bos" else family_model(name)
    first = tokenize(model, facts[0]).ids[0]
    assert (int(first) == model.tokenizer.bos_token_id) == (name == "bos")
    for fact, answer in zip(facts, top_answers(model, facts), strict=True):
        expected = forward(model, fact)  # with the BOS token, if the tokenizer's own rule puts one in front
        wanted = model.tokenizer(fact.target, add_special_tokens=False)["input_ids"][0]
        assert answer.top_answer == token_text(model, int(expected.argmax()))
        assert answer.top_probability == pytest.approx(float(expected.max()), rel=1e-4)
        assert answer.probability == pytest.approx(float(expected[wanted]), rel=1e-3)
        # the weights of no other model give these numbers, and a BOS token in front changes them
        assert answer.top_probability != pytest.approx(float(forward(tiny, fact).max()), rel=1e-4)


@pytest.mark.parametrize("limit", [1, 15, 40])
def test_the_batch_limit_changes_nothing(tiny: HookedTransformer, mixed: list[Fact], limit: int) -> None:
    for one, other in zip(top_answers(tiny, mixed), top_answers(tiny, mixed, max_batch_tokens=limit), strict=True):
        assert (one.fact, one.expected, one.top_answer, one.known) == (
            other.fact,
            other.expected,
            other.top_answer,
            other.known,
        )
        assert other.probability == pytest.approx(one.probability, rel=1e-4)
        assert other.top_probability == pytest.approx(one.top_probability, rel=1e-4)


def test_a_fact_without_target_is_its_own_answer(tiny: HookedTransformer, facts: list[Fact]) -> None:
    with_target = top_answers(tiny, facts)
    for one, other in zip(with_target, top_answers(tiny, [replace(f, target=None) for f in facts]), strict=True):
        assert other.known
        assert other.expected == other.top_answer == one.top_answer
        assert other.probability == other.top_probability == one.top_probability
        assert other.fact.target is None


def test_progress_ends_at_all(tiny: HookedTransformer, mixed: list[Fact]) -> None:
    seen: list[tuple[int, int]] = []
    top_answers(tiny, mixed, max_batch_tokens=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, len(mixed)) for i in range(len(mixed))]


def test_no_facts_no_answers(tiny: HookedTransformer) -> None:
    assert top_answers(tiny, []) == []
    assert list(known_facts(tiny, [])) == []


def test_known_facts_come_in_order_and_stop_at_the_limit(tiny: HookedTransformer, mixed: list[Fact]) -> None:
    known = [fact for fact, answer in zip(mixed, top_answers(tiny, mixed), strict=True) if answer.known]
    assert len(known) == 6
    assert [answer.fact for answer in known_facts(tiny, mixed)] == known
    for limit in (1, 5, 6, 7):
        assert [answer.fact for answer in known_facts(tiny, mixed, limit=limit)] == known[:limit]


def test_known_facts_may_be_turned_down(tiny: HookedTransformer, facts: list[Fact]) -> None:
    unknown = replace(facts[0], target=" Oslo")
    asked: list[Fact] = []

    def accept(fact: Fact) -> bool:
        asked.append(fact)
        return fact not in (facts[1], facts[3])

    found = known_facts(tiny, [unknown, *facts], limit=3, accept=accept)
    assert [answer.fact for answer in found] == [facts[0], facts[2], facts[4]]  # three, and none that was turned down
    assert unknown not in asked
    assert list(known_facts(tiny, facts, accept=lambda _: False)) == []


def test_known_facts_asks_on_until_the_limit_is_reached(tiny: HookedTransformer, facts: list[Fact]) -> None:
    unknown = replace(facts[0], target=" Oslo")
    candidates = [unknown] * 33 + facts
    assert [answer.fact for answer in known_facts(tiny, candidates, limit=2)] == facts[:2]


def test_known_facts_does_not_ask_for_more_than_the_limit_needs(tiny: HookedTransformer, facts: list[Fact]) -> None:
    too_long = Fact(template="{}" + " very" * 100, subject="Japan", target=" Tokyo")
    candidates = [*facts, *facts, *facts, *facts, too_long]
    assert [answer.fact for answer in known_facts(tiny, candidates, limit=2)] == facts[:2]
    with pytest.raises(FactError, match="context holds 64"):
        list(known_facts(tiny, candidates))


def test_damaged_weights_are_named_as_such(golden: Path, facts: list[Fact]) -> None:
    model = load_model(golden / "tiny-gpt2", device="cpu")
    model.blocks[2].mlp.W_out[0, 0] = math.nan
    with pytest.raises(NumericalError, match="NaN"):
        top_answers(model, facts)


def made_up(counts: dict[str | None, int]) -> list[Fact]:
    return [
        Fact(template="{} is", subject=f"{relation}-{i}", target=" x", relation=relation)
        for relation, count in counts.items()
        for i in range(count)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "counts", [{"a": 7, "b": 2, "c": 4, None: 3}, {"a": 1}, {"a": 5}, {None: 2, "b": 2}, {"a": 1, "b": 9}]
)
def test_every_relation_has_its_turn_before_any_has_its_next(counts: dict[str | None, int], seed: int) -> None:
    given = made_up(counts)
    order = spread_over_relations(given, seed)
    assert sorted(fact.subject for fact in order) == sorted(fact.subject for fact in given)
    taken: dict[str | None, int] = {}
    turns = []
    for fact in order:
        turns.append(taken.get(fact.relation, 0))
        taken[fact.relation] = turns[-1] + 1
    assert turns == sorted(turns)
    assert {fact.relation for fact in order[: len(counts)]} == set(counts)


def test_the_order_is_that_of_the_seed() -> None:
    given = made_up({"a": 6, "b": 6})
    assert spread_over_relations(given, 3) == spread_over_relations(given, 3)
    assert len({tuple(f.subject for f in spread_over_relations(given, seed)) for seed in range(5)}) == 5
    assert spread_over_relations([], 0) == []
