"""The sweep equals one full forward pass per cell, on every family, with any batch limit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.baseline import trace_cells
from interp.engine.base_runs import base_run
from interp.engine.batches import groups, halving
from interp.engine.forward import check_finite, unembed
from interp.engine.sweep import Join, sweep
from interp.errors import NumericalError, OptionError
from interp.facts.records import Fact
from interp.locate.methods.causal_trace import causal_trace
from interp.models.tokens import tokenize
from tests.conftest import FAMILIES

FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")


@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_one_forward_pass_per_cell(family_model, family, state):
    model = family_model(family)
    trace = causal_trace(model, FACT, state=state, window=2, samples=3, noise=0.5, seed=3)
    tokenized = tokenize(model, FACT)
    expected = trace_cells(
        model,
        tokenized.ids,
        tokenized.subject_span,
        trace.answer_id,
        state=state,
        window=2,
        samples=3,
        noise=0.5,
        seed=3,
    )
    torch.testing.assert_close(trace.scores, expected, atol=1e-6, rtol=0)
    assert trace.scores.std() > 0  # the random model's answer does depend on the cell


def test_the_last_block_computes_what_is_read_and_no_more(tiny, facts):
    lengths = []
    tiny.add_hook("blocks.5.mlp.hook_post", lambda value, hook: lengths.append(value.shape[1]))
    causal_trace(tiny, facts[0], samples=2, noise=0.3)
    tiny.reset_hooks()
    base_runs, sweeps = lengths[:1], lengths[1:]
    assert base_runs[0] > 1
    assert set(sweeps) == {1}


@pytest.mark.parametrize("limit", [1, 7, 64, 100_000])
def test_the_batch_limit_changes_no_number(tiny, facts, limit):
    whole = causal_trace(tiny, facts[0], state="mlp", window=3, samples=4, noise=0.3)
    split = causal_trace(tiny, facts[0], state="mlp", window=3, samples=4, noise=0.3, max_batch_tokens=limit)
    torch.testing.assert_close(split.scores, whole.scores, atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_of_the_base_run_itself_come_out_unchanged(tiny, data):
    """Joining with the base's own state anywhere must give the base's own result: sweep = full forward."""
    n_tokens = data.draw(st.integers(1, 12))
    ids = torch.tensor(data.draw(st.lists(st.integers(1, 599), min_size=n_tokens, max_size=n_tokens)))
    start = data.draw(st.integers(0, n_tokens - 1))
    layers = data.draw(st.lists(st.integers(0, tiny.cfg.n_layers), min_size=1, max_size=5))
    read = data.draw(st.lists(st.integers(0, n_tokens - start - 1), min_size=1, max_size=3))
    base = base_run(tiny, ids[None])
    joins = [Join(layer=i, resid=base.resid[i, :, start:], samples=torch.zeros(1, dtype=torch.long)) for i in layers]
    with torch.no_grad():
        final = sweep(tiny, base, start, joins, read)
        expected = tiny(ids[None], prepend_bos=False)[0, start:][read]
        torch.testing.assert_close(unembed(tiny, final), expected.expand(len(layers), -1, -1), atol=2e-4, rtol=0)


def test_rows_keep_their_order_whatever_the_joining_order(tiny, facts):
    ids = tokenize(tiny, facts[0]).ids
    base = base_run(tiny, ids[None])
    sample = torch.zeros(1, dtype=torch.long)
    joins = [
        Join(layer=layer, resid=base.resid[layer, :, 4:] * factor, samples=sample)
        for layer, factor in ((5, 1.5), (1, 0.5), (3, 2.0), (1, 0.7))
    ]
    with torch.no_grad():
        read = range(len(ids) - 4)
        together = sweep(tiny, base, 4, joins, read)
        alone = torch.cat([sweep(tiny, base, 4, [join], read) for join in joins])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    assert (together[0] - together[2]).abs().max() > 0.1


def test_unembed_is_the_models_own_logits(tiny, facts):
    ids = tokenize(tiny, facts[0]).ids[None]
    with torch.no_grad():
        torch.testing.assert_close(
            unembed(tiny, base_run(tiny, ids).resid[-1]), tiny(ids, prepend_bos=False), atol=1e-5, rtol=0
        )


def test_leaves_no_hook_behind_also_after_an_error(tiny, facts):
    def stop(done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        causal_trace(tiny, facts[0], state="mlp", noise=0.3, samples=2, progress=stop)
    assert all(not hook.fwd_hooks and not hook.bwd_hooks for hook in tiny.hook_dict.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_logits_that_are_not_finite_are_refused_with_advice_that_can_help(dtype):
    with pytest.raises(NumericalError, match="1 of 3 logits") as caught:
        check_finite(torch.tensor([0.0, float("nan"), 1.0], dtype=dtype))
    narrow = torch.finfo(dtype).bits < 32
    assert ("try float32" in str(caught.value)) == narrow
    assert ("too narrow" in str(caught.value)) == narrow
    check_finite(torch.full((10,), 6e4, dtype=dtype))  # whose sum has no place in float16


def test_out_of_memory_halves_the_batch_and_says_so(caplog):
    def work(limit):
        if limit > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return limit

    assert halving(work, 100) == 12
    assert "max_batch_tokens=12" in caplog.text
    with pytest.raises(OptionError, match="out of memory with max_batch_tokens=1 already"):
        halving(lambda limit: work(100), 4)
    with pytest.raises(RuntimeError, match="another"):
        halving(lambda limit: (_ for _ in ()).throw(RuntimeError("another")), 100)


@given(st.lists(st.integers(1, 9), min_size=1), st.integers(1, 5), st.integers(1, 60))
def test_groups_keep_everything_in_order_within_the_limit(rows, length, limit):
    cut = list(groups(range(len(rows)), rows, length, limit))
    assert [i for group in cut for i in group] == list(range(len(rows)))
    assert all(len(group) == 1 or sum(rows[i] for i in group) * length <= limit for group in cut)


def test_groups_refuse_a_limit_of_nothing():
    with pytest.raises(OptionError, match="max_batch_tokens must be positive, got 0"):
        list(groups([1], [1], 1, 0))
