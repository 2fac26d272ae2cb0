"""Suffixes equal whole rows: one full forward pass per row, unpadded, with the same intervention."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.engine.suffix import PASS_TOKENS, padded, passes, run_rows, suffixes

LENGTHS = (9, 4, 7, 9, 1, 5)
STARTS = {"mixed": (3, 0, 6, 8, 0, 2), "first": (0,) * 6, "alike": (0, 2, 2, 2, 0, 2)}


def rows_of(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 599, (n,), generator=draw).tolist() for n in lengths]


def whole(model, row, start, layer, delta):
    """The final residual stream of one row when delta is added at ``start`` to what enters block ``layer``."""

    def add(value, hook):
        value = value.clone()
        value[0, start] += delta
        return value

    name = f"blocks.{layer}.hook_resid_pre" if layer < model.cfg.n_layers else f"blocks.{layer - 1}.hook_resid_post"
    return model.run_with_hooks(
        torch.tensor([row]), prepend_bos=False, stop_at_layer=model.cfg.n_layers, fwd_hooks=[(name, add)]
    )[0]


def prepared(model, rows, starts, layer):
    tokens, _ = padded(rows, "cpu")
    after, _ = run_rows(model, tokens, stop=layer)
    return suffixes(model, after, starts, layer, lengths=[len(row) for row in rows])


def run_all(cut, model, resid):
    """Every token of every row."""
    n_rows, n_tokens = resid.shape[:2]
    row = [i for i in range(n_rows) for _ in range(n_tokens)]
    return cut.run(model, resid, row, [*range(n_tokens)] * n_rows).reshape(resid.shape)


@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_every_family_equals_whole_rows(family_model, family, layer, starts):
    model = family_model(family)
    rows = rows_of(LENGTHS)
    deltas = torch.randn(len(rows), model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    cut = prepared(model, rows, starts, layer)
    resid = cut.resid.clone()
    resid[:, 0] += deltas
    with torch.no_grad():
        found = run_all(cut, model, resid)
        read = [(5, 0), (1, 2), (5, 1)]
        some = cut.run(model, resid, *zip(*read, strict=True))
        torch.testing.assert_close(some, torch.stack([found[at] for at in read]), atol=1e-5, rtol=1e-4)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            expected = whole(model, row, start, layer, deltas[i])[start:]
            scale = float(expected.abs().max())
            torch.testing.assert_close(found[i, : len(row) - start], expected, atol=1e-5 * scale, rtol=1e-4)
            unmoved = whole(model, row, start, layer, 0)[start:]
            assert (expected - unmoved).abs().max() > 1e-2


def test_no_token_is_run_that_is_padding_in_every_row(tiny):
    rows, starts = rows_of(LENGTHS), [max(0, length - 2) for length in LENGTHS]
    assert prepared(tiny, rows, starts, 2).resid.shape[1] == 2


@pytest.mark.parametrize("layer", [1, 6])
def test_some_of_the_rows(tiny, layer):
    rows, starts = rows_of(LENGTHS), STARTS["mixed"]
    cut = prepared(tiny, rows, starts, layer)
    index = torch.tensor([4, 0, 2])
    some = cut.rows(index)
    with torch.no_grad():
        torch.testing.assert_close(
            run_all(some, tiny, some.resid), run_all(cut, tiny, cut.resid)[index], atol=1e-5, rtol=1e-4
        )


def test_gradients_are_those_of_the_whole_row(tiny):
    rows, starts = rows_of((6, 8)), (2, 4)
    cut = prepared(tiny, rows, starts, 2)
    deltas = torch.zeros(2, tiny.cfg.d_model, requires_grad=True)
    resid = torch.cat([(cut.resid[:, 0] + deltas)[:, None], cut.resid[:, 1:]], 1)
    ends = cut.run(tiny, resid, [0, 1], [len(row) - 1 - start for row, start in zip(rows, starts, strict=True)])
    (found,) = torch.autograd.grad(ends.square().sum(), [deltas])
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        delta = torch.zeros(tiny.cfg.d_model, requires_grad=True)
        (expected,) = torch.autograd.grad(whole(tiny, row, start, 2, delta)[-1].square().sum(), [delta])
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=1e-3)
        assert expected.norm() > 1e-2


def test_a_run_leaves_the_prefix_as_it_was(tiny):
    cut = prepared(tiny, rows_of(LENGTHS), STARTS["mixed"], 1)
    before = {layer: (k.clone(), v.clone()) for layer, (k, v) in cut.prefix.items()}
    with torch.no_grad():
        first = run_all(cut, tiny, cut.resid)
        assert torch.equal(run_all(cut, tiny, cut.resid), first)
    for layer, pair in before.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, cut.prefix[layer], strict=True))


def test_padding():
    tokens, present = padded([[1, 2, 3], [4]], "cpu")
    assert tokens.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert present.tolist() == [[1, 1, 1], [1, 0, 0]]
    tokens, present = padded([[1, 2, 3], [4]], "cpu", side="left")
    assert tokens.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert present.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_running_rows_in_parts(family_model, family):
    model = family_model(family)
    tokens, _ = padded(rows_of((5, 5)), "cpu")
    _, cache = model.run_with_cache(tokens, prepend_bos=False)
    halfway, _ = run_rows(model, tokens, stop=1)
    torch.testing.assert_close(halfway, cache["blocks.1.hook_resid_pre"], atol=1e-5, rtol=1e-5)
    final, seen = run_rows(model, halfway, start=1, stop=3, record=["blocks.2.hook_mlp_out"])
    torch.testing.assert_close(final, cache["blocks.2.hook_resid_post"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen["blocks.2.hook_mlp_out"], cache["blocks.2.hook_mlp_out"], atol=1e-4, rtol=1e-4)
    same, seen = run_rows(model, halfway, start=1, stop=1)
    assert same is halfway
    assert seen == {}
    hooked, _ = run_rows(model, tokens, stop=3, hooks=[("blocks.0.hook_mlp_out", lambda value, hook: value * 0)])
    assert (hooked - final).abs().max() > 1e-2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 60), st.integers(0, 2000)), min_size=1, max_size=7))
def test_no_other_passes_cost_less(lengths):
    found = passes(lengths, torch.device("cpu"))
    assert sorted(row for members in found for row in members) == list(range(len(lengths)))
    assert all(members == sorted(members) for members in found)
    longest = [max(lengths[row] for row in members) for members in found]
    assert longest == sorted(longest)  # the shortest rows first

    def cost(groups):
        return sum(PASS_TOKENS + len(members) * max(members) for members in groups)

    rising = sorted(lengths)
    least = min(
        cost([rising[a:b] for a, b in itertools.pairwise([0, *cuts, len(rising)])])
        for n_cuts in range(len(rising))
        for cuts in itertools.combinations(range(1, len(rising)), n_cuts)
    )
    assert cost([[lengths[row] for row in members] for members in found]) == least


def test_elsewhere_than_on_a_processor_all_rows_share_one_pass():
    assert passes([3, 900, 1], torch.device("meta")) == [[0, 1, 2]]
