"""Activation patching against causal tracing, and against whole forward passes with plain hooks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.engine.cells import SITES, Cell, window_layers
from interp.engine.checksum import _checksum
from interp.engine.corruption import noise_hook
from interp.engine.pairs import clean_and_corrupted, prompt_pair
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.locate.activation_patching import patch_activations
from interp.locate.methods.causal_trace import causal_trace
from interp.models.tokens import tokenize
from interp.results.record import provenance

QUICK = {"samples": 3, "noise": 0.33}


def full_pass(model, pair, cells):
    """The probability of the answer in one whole run with every cell set by a hook of its own."""
    n_layers = model.cfg.n_layers
    other = tokenize(model, pair.other) if pair.other else pair.tokenized
    _, cache = model.run_with_cache(other.ids[None], prepend_bos=False)
    hooks = []
    if pair.other is None:
        name, corrupt = noise_hook(
            model, pair.tokenized, len(pair.base_logits), pair.noise, pair.seed, "gaussian", False
        )
        hooks.append((name, corrupt))
    for cell in cells:
        token = pair.counterparts[cell.token]
        layers = [cell.layer] if cell.state == "resid" else window_layers(cell.layer, cell.window, n_layers)
        site = SITES.get(cell.state, "resid_post")
        for layer in layers:
            name = f"blocks.{layer}.hook_{site}"

            def put(value, hook, token=token, at=cell.token, name=name):
                value = value.clone()
                value[-len(pair.base_logits) :, at] = cache[name][0, token]
                return value

            hooks.append((name, put))
    rows = len(pair.base_logits) + (pair.other is None)
    batch = pair.tokenized.ids.expand(rows, -1)
    logits = model.run_with_hooks(batch, prepend_bos=False, fwd_hooks=hooks)[-len(pair.base_logits) :, -1]
    return logits.softmax(-1)[:, pair.answer_id].mean()


@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
def test_one_cell_is_its_score_in_causal_tracing(tiny, facts, state):
    window = 1 if state == "resid" else 4
    trace = causal_trace(tiny, facts[0], state=state, window=window, **QUICK)
    pair = clean_and_corrupted(tiny, facts[0], **QUICK)
    for token in range(len(trace.tokens)):
        for layer in range(tiny.cfg.n_layers):
            found = patch_activations(pair, [Cell(token=token, layer=layer, state=state, window=window)])
            assert found.patched.probability == pytest.approx(float(trace.scores[token, layer]), abs=1e-6)
    assert found.source.probability == pytest.approx(trace.clean_probability, abs=1e-6)
    assert found.base.probability == pytest.approx(trace.corrupted_probability, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_several_cells_are_a_run_with_all_of_them_hooked(tiny, facts, data):
    pair = clean_and_corrupted(tiny, facts[1], **QUICK)
    n_tokens, n_layers = len(pair.tokenized.ids), tiny.cfg.n_layers
    cell = st.builds(
        lambda token, layer, state, window: Cell(
            token=token, layer=layer, state=state, window=1 if state == "resid" else window
        ),
        st.integers(0, n_tokens - 1), st.integers(0, n_layers - 1),
        st.sampled_from(["resid", "mlp", "attn"]), st.integers(1, 5),
    )  # fmt: skip
    cells = data.draw(st.lists(cell, min_size=1, max_size=4))
    found = patch_activations(pair, cells)
    torch.testing.assert_close(torch.tensor(found.patched.probability), full_pass(tiny, pair, cells), atol=1e-6, rtol=0)


def test_every_family(family, family_model):
    model = family_model(family)
    fact = Fact(template="The {} is in", subject="Eiffel Tower")
    pair = clean_and_corrupted(model, fact, samples=2, noise=0.5)
    last = len(pair.tokenized.ids) - 1
    cells = [
        Cell(token=2, layer=1),
        Cell(token=last, layer=0, state="attn", window=2),
        Cell(token=1, layer=1, state="mlp", window=3),
    ]
    found = patch_activations(pair, cells)
    torch.testing.assert_close(
        torch.tensor(found.patched.probability), full_pass(model, pair, cells), atol=1e-6, rtol=0
    )


def test_two_prompts(tiny, facts):
    fact = facts[0]
    other = Fact(template=fact.template, subject=facts[1].subject)
    pair = prompt_pair(tiny, fact, other)
    here, there = tokenize(tiny, fact), tokenize(tiny, other)
    # last subject token meets last subject token, last token meets last token
    assert pair.counterparts[here.subject_span[1] - 1] == there.subject_span[1] - 1
    assert pair.counterparts[-1] == len(there.ids) - 1
    last = len(here.ids) - 1
    cells = [Cell(token=here.subject_span[1] - 1, layer=2), Cell(token=last, layer=4, state="attn", window=2)]
    found = patch_activations(pair, cells)
    torch.testing.assert_close(torch.tensor(found.patched.probability), full_pass(tiny, pair, cells), atol=1e-6, rtol=0)
    assert found.other == other
    assert math.isnan(found.patched.standard_error)
    # the whole last state decides the answer
    final = patch_activations(pair, [Cell(token=last, layer=tiny.cfg.n_layers - 1)])
    assert [c.token_id for c in final.patched.top] == [c.token_id for c in final.source.top]


def test_tokens_are_aligned_by_what_they_are(tiny):
    short = Fact(template="The {} is in the city of", subject="Louvre")
    long = Fact(template="The {} is in", subject="Brandenburg Gate")
    pair = prompt_pair(tiny, short, long)
    here, there = tokenize(tiny, short), tokenize(tiny, long)
    found = {token: at for token, at in enumerate(pair.counterparts) if at is not None}
    assert here.subject_span[0] == there.subject_span[0] == 1
    assert found[0] == 0
    assert found[len(here.ids) - 1] == len(there.ids) - 1
    after_here, after_there = len(here.ids) - here.subject_span[1], len(there.ids) - there.subject_span[1]
    assert after_here > after_there
    without = here.subject_span[1]  # the first token after the longer rest has nothing to meet
    assert pair.counterparts[without] is None
    with pytest.raises(OptionError, match=rf"token {without} \(.*\) has no counterpart in the other prompt"):
        patch_activations(pair, [Cell(token=without, layer=0)])


def test_answers_side_by_side(tiny, facts):
    pair = clean_and_corrupted(tiny, facts[0], **QUICK)
    found = patch_activations(pair, [Cell(token=2, layer=1)], top=4)
    for readout, logits in ((found.source, pair.source_logits[None]), (found.base, pair.base_logits)):
        mean = logits.softmax(-1).mean(0)
        assert [c.token_id for c in readout.top] == mean.topk(4).indices.tolist()
        assert [c.probability for c in readout.top] == pytest.approx(mean.topk(4).values.tolist())
        assert readout.probability == pytest.approx(float(mean[pair.answer_id]))
    values = pair.base_logits.softmax(-1)[:, pair.answer_id]
    assert found.base.standard_error == pytest.approx(float(values.std() / 3**0.5))


def test_refused(tiny, facts):
    pair = clean_and_corrupted(tiny, facts[0], **QUICK)
    with pytest.raises(OptionError, match="expected at least one"):
        patch_activations(pair, [])
    n = len(pair.tokenized.ids)
    with pytest.raises(OptionError, match=f"cell 1: token {n} does not exist: there are tokens 0 to {n - 1}"):
        patch_activations(pair, [Cell(token=0, layer=0), Cell(token=n, layer=0)])
    with pytest.raises(OptionError, match="layer 6 does not exist: there are layers 0 to 5"):
        patch_activations(pair, [Cell(token=0, layer=6)])
    with pytest.raises(OptionError, match="after one block, got a window of 3"):
        Cell(token=0, layer=0, window=3)


@pytest.mark.parametrize("name", ["seed", "samples", "noise"])
def test_runs_that_cannot_be_drawn(tiny, facts, name):
    with pytest.raises(OptionError, match=f"^{name} must be"):
        clean_and_corrupted(tiny, facts[0], **{**QUICK, name: -1})
    for name, wrong in (("token", True), ("layer", False)):
        with pytest.raises(OptionError, match=f"cell 0: {name} {wrong} does not exist"):
            patch_activations(
                clean_and_corrupted(tiny, facts[0], **QUICK), [Cell(**{"token": 0, "layer": 0, name: wrong})]
            )


def test_a_state_that_does_not_exist(unchecked):
    with pytest.raises(OptionError, match="state must be one of 'resid', 'mlp', 'attn', got 'mpl'; did you mean 'mlp'"):
        Cell(token=0, layer=0, state="mpl")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["in place", "through data", "one value", "another tensor", "the unembedding"])
def test_runs_of_other_weights_are_refused(tiny, facts, how):
    pair = clean_and_corrupted(tiny, facts[0], **QUICK)
    weight = tiny.unembed.W_U if how == "the unembedding" else tiny.blocks[2].mlp.W_out
    before = weight.detach().clone()
    try:
        if how == "in place":
            weight.mul_(2.0)
        elif how == "through data":
            weight.data.mul_(2.0)
        elif how == "another tensor":
            weight.data = before * 2
        else:
            weight.data[3, 5] += 1e-3
        with pytest.raises(OptionError, match="changed since these runs"):
            patch_activations(pair, [Cell(token=0, layer=0)])
    finally:
        weight.data.copy_(before)
    patch_activations(pair, [Cell(token=0, layer=0)])  # the same values again: the runs are theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8])
def test_the_checksum_on_other_devices_notices_every_value(dtype):
    values = (100 * torch.randn(1000, generator=torch.Generator().manual_seed(0))).to(dtype)
    before = _checksum(values)
    assert before == _checksum(values.clone())
    for index in (0, 1, 500, 999):
        changed = values.clone()
        changed[index] = -changed[index]
        assert _checksum(changed) != before
    swapped = values.clone()
    swapped[[3, 7]] = swapped[[7, 3]]
    assert _checksum(swapped) != before
    assert _checksum(values.roll(1)) != before


def test_a_record_like_others(tiny, facts, tmp_path):
    found = patch_activations(clean_and_corrupted(tiny, facts[0], **QUICK), [Cell(token=2, layer=1)])
    found.save(tmp_path / "run.safetensors")
    again = type(found).load(tmp_path / "run.safetensors")
    assert again.cells == found.cells
    assert again.patched == found.patched
    assert again.provenance.model == str(tiny.cfg.model_name)


def test_the_record_says_what_was_asked(tiny, facts):
    given = replace(provenance(tiny), device="somewhere")
    cells = [Cell(token=2, layer=1, state="mlp", window=2), Cell(token=1, layer=0)]
    pair = clean_and_corrupted(tiny, facts[0], samples=2, noise=0.25, seed=7, corruption="uniform", replace=True)
    found = patch_activations(pair, cells, top=3, model_provenance=given)
    assert found.provenance is given
    assert found.cells == tuple(cells)
    assert (found.samples, found.noise, found.seed) == (2, 0.25, 7)
    assert (found.corruption, pair.replace, found.other) == ("uniform", True, None)
    assert [len(readout.top) for readout in (found.source, found.base, found.patched)] == [3, 3, 3]
    prompts = prompt_pair(tiny, facts[0], facts[1])
    between = patch_activations(prompts, cells[:1])
    assert (between.samples, between.noise, between.seed) == (1, 0, 0)
    assert (between.corruption, prompts.replace, prompts.replacements) == ("none", False, ())
    assert (between.fact, between.other, len(between.patched.top)) == (facts[0], facts[1], 10)
    assert between.provenance == provenance(tiny)
