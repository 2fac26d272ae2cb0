"""Facts that share sweeps: the same numbers as one by one, whatever the prompts' lengths, the family, the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

import interp.locate.methods.causal_trace_pool
from benchmarks.baseline import trace_cells
from interp.engine import batches
from interp.engine.base_runs import base_run, can_be_padded
from interp.engine.batches import batch_cost, filled, pools, tokens_that_fit
from interp.engine.cells import window_layers
from interp.engine.integrated_gradients import Scaled, answered_runs, integrate, quadrature
from interp.engine.pairs import Corrupting, clean_and_corrupted, pooled_runs
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.locate.method import LocateTask, locate_each
from interp.locate.methods import LOCATORS, locator_named
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.tokens import tokenize
from interp.results.mapped import MapRecord
from tests.conftest import FAMILIES
from tests.test_decoders import DECODERS, decoder

STATES = ("resid", "mlp", "attn")
LONG = Fact(template="People who have heard of it say that the {} stands in", subject="Parthenon")
PROMPTS = [
    Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"),
    Fact(template="{} is governed from", subject="Norway", target=" Oslo"),  # nothing before the subject
    LONG,
    Fact(template="The capital of {}", subject="Japan", target=" Tokyo"),  # nothing after it
]


def located(asked: Sequence[tuple[str, LocateTask]], progress: Any = lambda *_: None) -> list[MapRecord]:
    """All of them at once, by place."""
    found: dict[int, MapRecord] = {}
    locate_each([(locator_named(name), task) for name, task in asked], progress, found.__setitem__)
    return [found[place] for place in range(len(asked))]


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of all lengths side by side, as on a card."""
    monkeypatch.setattr(
        interp.locate.methods.causal_trace_pool, "pools", lambda model, lengths: [[*range(len(lengths))]]
    )


def check_traces(model: HookedTransformer, facts: Sequence[Fact], states: Sequence[str], **settings: Any) -> None:
    shared = {"noise": 0.5, "samples": 3, "window": 2, "seed": 3, **settings}
    asked = [(state, LocateTask(model=model, fact=fact, **shared)) for fact in facts for state in states]
    for (state, task), found in zip(asked, located(asked), strict=True):
        options = {name: value for name, value in shared.items() if name != "max_batch_tokens"}
        alone = causal_trace(model, task.fact, state=state, **options)
        for name in ("scores", "standard_error"):
            atol = 1e-5 * float(alone.scores.max())
            torch.testing.assert_close(getattr(found, name), getattr(alone, name), atol=atol, rtol=1e-4)
        assert (found.fact, found.state, found.tokens, found.answer_id) == (
            task.fact,
            state,
            alone.tokens,
            alone.answer_id,
        )
        assert found.corrupted_probability == pytest.approx(alone.corrupted_probability, rel=1e-4)


@pytest.mark.usefixtures("padded")
@pytest.mark.parametrize("family", FAMILIES)
def test_traces_together_are_those_of_one_by_one(family: str, family_model: Callable[[str], HookedTransformer]) -> None:
    check_traces(family_model(family), PROMPTS, STATES)


@pytest.mark.usefixtures("padded")
@pytest.mark.parametrize("kind", DECODERS)
def test_so_they_are_of_every_kind_of_decoder(kind: str, tiny: HookedTransformer) -> None:
    model = decoder(tiny.tokenizer, **DECODERS[kind])
    check_traces(model, PROMPTS, ("resid", "attn") if model.cfg.attn_only else STATES)


WORDS = st.lists(st.sampled_from(["the", "city", "of", "people", "in", "capital"]), max_size=6).map(" ".join)


SUBJECTS = st.sampled_from(["Norway", "Eiffel Tower", "Serena Williams", "Lionel Messi"])


@pytest.mark.usefixtures("padded")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.tuples(WORDS, SUBJECTS, WORDS), min_size=1, max_size=4),
    limit=st.integers(1, 400),
    corruption=st.sampled_from(["gaussian", "uniform"]),
)
def test_any_prompts_with_any_limit(
    tiny: HookedTransformer, parts: list[tuple[str, str, str]], limit: int, corruption: str
) -> None:
    facts = [Fact(template=f"{before} {{}} {after}".strip(), subject=subject) for before, subject, after in parts]
    check_traces(tiny, facts, ("resid", "mlp"), samples=2, max_batch_tokens=limit, corruption=corruption)


@pytest.mark.usefixtures("padded")
def test_facts_with_other_subjects_in_their_place(tiny: HookedTransformer, facts: list[Fact]) -> None:
    """As many samples as there are subjects that fit, which differ from fact to fact."""
    template, subjects = "The capital of {} is", ("Japan", "Norway", "France", "Italy", "Spain")
    kin = [Fact(template=template, subject=subject, target=f" {subject}") for subject in subjects]
    check_traces(tiny, kin[:2], ("resid",), corruption="symmetric", samples=9, reference_facts=kin)


def test_every_locator_of_a_study_in_one_call_each(tiny: HookedTransformer, facts: list[Fact]) -> None:
    steps: list[tuple[int, int]] = []
    for names in (("attribution",), STATES, (*LOCATORS,)):
        steps.clear()
        asked = [
            (name, LocateTask(model=tiny, fact=fact, noise=0.3, samples=2, steps=3)) for name in names for fact in facts
        ]
        for (name, task), found in zip(asked, located(asked, lambda *step: steps.append(step)), strict=True):
            assert found.map().values.shape == locator_named(name).run(task).map().values.shape
            assert found.fact == task.fact
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_a_fact_that_is_asked_for_twice(tiny: HookedTransformer, facts: list[Fact]) -> None:
    for name in LOCATORS:
        asked = [
            (name, LocateTask(model=tiny, fact=fact, noise=0.3, samples=2, steps=2))
            for fact in (facts[0], facts[1], facts[0])
        ]
        first, _, again = located(asked)
        assert torch.equal(first.map().values, again.map().values)


def test_tasks_that_differ_are_refused(tiny: HookedTransformer, facts: list[Fact]) -> None:
    task = LocateTask(model=tiny, fact=facts[0], noise=0.3, samples=2)
    for name in ("resid", "attribution"):
        with pytest.raises(OptionError, match="differ in their facts alone"):
            located([(name, task), (name, replace(task, samples=3))])


@pytest.mark.parametrize("tokens", ["last", "all", "each"])
@pytest.mark.parametrize("rule", ["riemann", "gauss-legendre"])
def test_attribution_together_is_that_of_one_by_one(
    family_model: Callable[[str], HookedTransformer], tokens: Any, rule: Any
) -> None:
    """Prompts and answers of several lengths, some alike."""
    for model in map(family_model, ("gpt2", "llama", "gemma2")):  # the last with nodes of each fact's own
        alike = [replace(PROMPTS[0], subject="Tower Eiffel"), replace(PROMPTS[0], target=" Paris in")]
        facts = [*PROMPTS, *alike, replace(PROMPTS[3], target=None)]
        options = {"tokens": tokens, "steps": 3, "rule": rule}
        asked = [("attribution", LocateTask(model=model, fact=fact, noise=0.0, **options)) for fact in facts]
        for fact, found in zip(facts, located(asked), strict=True):
            alone = attribute(model, fact, **options)
            for name in ("scores", "change"):
                expected = getattr(alone, name)
                atol = 1e-5 * float(expected.abs().max())
                torch.testing.assert_close(getattr(found, name), expected, atol=atol, rtol=1e-4)
            assert (found.fact, found.answer, found.tokens) == (fact, alone.answer, alone.tokens)


def test_one_row_stands_for_what_is_not_scaled(tiny: HookedTransformer, facts: list[Fact]) -> None:
    """At a node of scale 1 the rows of all layers are the run itself; a node beside it takes a row of each layer."""
    run, rows = answered_runs(tiny, [tokenize(tiny, facts[0])]), []
    scaled = Scaled(tokens=range(len(run.ids[0])), answers=range(1))
    points = quadrature("riemann", 4)
    beside = points._replace(nodes=points.nodes - (points.nodes == 1) * 1e-5)
    scores = []
    for nodes in (points, beside):
        hook = tiny.blocks[-1].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        found, _ = integrate(run, scaled, nodes, 4096, lambda *_: None, lambda *_: None)
        hook.remove()
        scores.append(found)
    n_layers = tiny.cfg.n_layers
    assert rows == [n_layers - 1, 3 * (n_layers - 1) + 1, n_layers - 1, 4 * (n_layers - 1)]
    torch.testing.assert_close(*scores, atol=1e-4 * float(scores[0].abs().max()), rtol=1e-3)


@pytest.mark.parametrize("window", [1, 2, 3, 10])
def test_windows_that_begin_alike_go_up_as_one(tiny: HookedTransformer, window: int) -> None:
    n_layers, samples, seen = tiny.cfg.n_layers, 2, []
    hooks = [
        block.register_forward_pre_hook(lambda _, args, layer=layer: seen.append((layer, *args[0].shape[:2])))
        for layer, block in enumerate(tiny.blocks)
    ]
    try:
        trace = causal_trace(tiny, PROMPTS[0], state="mlp", window=window, samples=samples, noise=0.4)
    finally:
        for hook in hooks:
            hook.remove()
    n_tokens, windows = len(trace.tokens), {window_layers(layer, window, n_layers) for layer in range(n_layers)}
    starts = [blocks.start for blocks in windows]
    reach = n_tokens - trace.subject_span[0]
    for layer in range(n_layers):
        apart = sum(blocks.start < layer and blocks.stop <= layer for blocks in windows)
        as_one = len({blocks.start for blocks in windows if blocks.start < layer < blocks.stop})
        rows = [rows for of, rows, tokens in seen if (of, tokens) == (layer, 3)]
        assert sum(rows) == samples * (apart + as_one)
        entered = (layer in starts) * samples * reach
        assert sum(rows for of, rows, tokens in seen if (of, tokens) == (layer, 1)) == entered + sum(rows)
    own = tokenize(tiny, PROMPTS[0])
    settings = {"state": "mlp", "window": window, "samples": samples, "noise": 0.4, "seed": 1}
    expected = trace_cells(tiny, own.ids, own.subject_span, trace.answer_id, **settings)
    torch.testing.assert_close(trace.scores, expected, atol=1e-6, rtol=0)


def test_runs_side_by_side_are_the_runs_of_each(tiny: HookedTransformer) -> None:
    options: dict[str, Any] = {"samples": 2, "noise": 0.4, "seed": 2}
    tokenized = [tokenize(tiny, fact) for fact in PROMPTS]
    pool = pooled_runs(tiny, PROMPTS, tokenized, Corrupting(**options), record=None, max_batch_tokens=30)
    for fact, found in zip(PROMPTS, pool.pairs, strict=True):
        alone = clean_and_corrupted(tiny, fact, **options)
        for one, other in ((found.source, alone.source), (found.base, alone.base)):
            assert other.begins is None
            assert one.begins is None
            for name in ("resid", "attn_out", "mlp_out"):
                torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(one.keys, other.keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.base_logits, alone.base_logits, atol=1e-3, rtol=1e-4)
    assert torch.equal(pool.pairs[0].base.resid[0], pool.runs.rows(slice(1, 3)).resid[0])


def test_what_is_padding_in_all_rows_is_left_out(tiny: HookedTransformer) -> None:
    ids = torch.randint(1, 600, (3, 6), generator=torch.Generator().manual_seed(0))
    run = base_run(tiny, ids, begins=(3, 2, 2))
    assert run.begins == (3, 2, 2)
    assert run.rows(slice(0, 2)).begins == (1, 0)
    assert run.rows(slice(0, 2)).resid.shape[2] == 4
    assert run.rows(slice(1, 3)).begins is None
    torch.testing.assert_close(run.rows(slice(1, 3)).resid, base_run(tiny, ids[1:, 2:]).resid, atol=1e-4, rtol=1e-4)


def test_who_may_stand_side_by_side(tiny: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_be_padded(tiny)
    assert pools(tiny, [5, 3, 5, 4]) == [[1], [3], [0, 2]]  # on a CPU
    monkeypatch.setattr(type(tiny), "W_E", torch.empty(1, 1, device="meta"))
    assert pools(tiny, [5, 3, 5, 4]) == [[0, 1, 2, 3]]
    for name in ("use_logn_attn", "use_dynamic_ntk_rope"):
        monkeypatch.setattr(tiny.cfg, name, True)
        assert not can_be_padded(tiny)
        assert pools(tiny, [5, 3, 5, 4]) == [[1], [3], [0, 2]]
        monkeypatch.setattr(tiny.cfg, name, False)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=12), st.integers(1, 9), st.integers(1, 80))
def test_batches_hold_everything_once_in_order(items: list[tuple[int, int]], length: int, limit: int) -> None:
    rows, weights = [count for count, _ in items], [weight for _, weight in items]
    cut = filled(rows, length, limit, weights)
    assert [(item, row) for batch in cut for item, part in batch for row in range(part.start, part.stop)] == [
        (item, row) for item, count in enumerate(rows) for row in range(count)
    ]
    sizes = [sum(weights[item] * (part.stop - part.start) for item, part in batch) for batch in cut]
    assert all(0 < size <= max(limit // length, *weights) for size in sizes)
    cut = filled(rows, length, limit)  # the fewest, and about equal
    sizes = [sum(part.stop - part.start for _, part in batch) for batch in cut]
    assert len(cut) == -(-sum(rows) // max(1, limit // length))
    assert len({*sizes[:-1]}) <= 1


GPT2_XL = {"n_layers": 48, "d_model": 1600, "d_mlp": 6400, "bytes_each": 4}


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.sampled_from(["cpu", "cuda", "mps"]), st.booleans())
def test_more_memory_is_never_fewer_tokens(one: int, other: int, device: str, gradients: bool) -> None:
    few, many = (
        tokens_that_fit(**GPT2_XL, device=device, free=free, gradients=gradients) for free in sorted((one, other))
    )
    assert 1 <= few <= many <= tokens_that_fit(**GPT2_XL, device=device, free=None, gradients=gradients)


def test_tokens_at_once(tiny: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {**GPT2_XL, "device": "cuda", "free": 139 * 2**30}
    assert tokens_that_fit(**card, gradients=False) == 2**17
    assert tokens_that_fit(**card, gradients=True) == 2**13
    assert tokens_that_fit(**{**card, "free": 2**30}, gradients=False) == 2**10
    monkeypatch.setattr(batches, "free_bytes", lambda device: None)
    assert batches.batch_tokens(tiny) == 2048
    assert batches.batch_tokens(tiny, gradients=True) == 1024
    monkeypatch.setattr(batches, "free_bytes", lambda device: 10_000_000)
    assert batches.batch_tokens(tiny) < 2048
    assert batch_cost(3, 3) == 3
