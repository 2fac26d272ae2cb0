"""Patches: taken back bit for bit in any order, refused where they do not belong, and as hooks row by row."""

import copy
import math
import random
import re
import signal
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.errors import DataError, ModelError, OptionError
from interp.evaluation.protocol import ask, evaluate
from interp.facts.records import EditCase, EditRequest, Fact
from interp.models.load import load_model
from interp.models.weights import weights_hash
from interp.patches import on_model
from interp.patches import patch as patch_module
from interp.patches.patch import (
    Outcome,
    Patch,
    applied_hashes,
    applied_patches,
    compose,
    overlap,
    revert_all,
)
from interp.patches.row_hooks import row_hooks
from interp.results.record import provenance

REQUEST = EditRequest(Fact(template="{} is governed from", subject="Norway", target=" Oslo"), new_target=" Lima")


def make(model, *layers, seed=0, rank=1, dense=(), scale=0.05, method="rome"):
    """A random patch of some layers, with factors and, where asked for, dense."""
    draw = torch.Generator().manual_seed(seed)
    d_mlp, d_model = model.cfg.d_mlp, model.cfg.d_model
    return Patch(
        provenance=provenance(model),
        method=method,
        config={"layer": layers[0] if layers else 0},
        requests=(REQUEST,),
        outcomes=(Outcome(converged=True, probability=0.5, loss=1.0, steps=3),),
        left={layer: torch.randn(d_mlp, rank, generator=draw) for layer in layers},
        right={layer: scale * torch.randn(rank, d_model, generator=draw) for layer in layers},
        dense={layer: scale * torch.randn(d_mlp, d_model, generator=draw) for layer in dense},
    )


def w_out(model, layer):
    return model.blocks[layer].mlp.W_out.detach().clone()


@pytest.fixture
def model(tiny):
    """``tiny``, which every test must leave as it found it."""
    before = {name: value.detach().clone() for name, value in tiny.named_parameters()}
    yield tiny
    left = applied_patches(tiny)
    revert_all(tiny, left)  # a test that fails spoils no other
    assert left == ()
    for name, value in tiny.named_parameters():
        assert torch.equal(value.view(torch.int32), before[name].view(torch.int32)), name


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commands=st.lists(
        st.tuples(st.sampled_from(["apply", "revert", "compose", "with"]), st.integers(0, 2)), min_size=50, max_size=50
    )
)
def test_any_sequence_of_commands(model, commands):
    """After each command W_out is the original plus what is on, in order; at the end, the original bits."""
    patches = [make(model, 1, 2, seed=1, rank=2), make(model, 2, seed=2, dense=(3,)), make(model, 0, 3, seed=3)]
    originals = {layer: w_out(model, layer) for layer in range(6)}
    base = weights_hash(model)
    on = []

    def check():
        assert [id(p) for p in applied_patches(model)] == [id(p) for p in on]
        for layer, value in originals.items():
            for patch in on:
                value = value + patch.delta(layer) if layer in patch.layers else value
            assert torch.equal(w_out(model, layer), value)

    def act(command, index):
        patch = patches[index]
        there = any(other is patch for other in on)
        if command == "apply":
            if there:
                with pytest.raises(ModelError, match="on the model already"):
                    patch.apply(model)
            else:
                patch.apply(model)
                on.append(patch)
        elif command == "revert":
            if there:
                patch.revert(model)
                on[:] = [other for other in on if other is not patch]
            else:
                with pytest.raises(ModelError, match="not on the model"):
                    patch.revert(model)
        elif command == "with":
            if not there:
                with patch.applied(model):
                    on.append(patch)
                    check()
                    on.pop()
        else:
            both = compose([patch, patches[(index + 1) % 3]])
            both.apply(model)
            on.append(both)
            check()
            both.revert(model)
            on.pop()
        check()

    try:
        for command, index in commands:
            act(command, index)
    finally:
        for patch in applied_patches(model):
            patch.revert(model)
    assert weights_hash(model) == base


def test_reverting_out_of_order_leaves_what_the_others_alone_give(model):
    first, second, third = (make(model, 1, 2, seed=seed) for seed in range(3))
    with first.applied(model), third.applied(model):
        expected = w_out(model, 1), w_out(model, 2)
    for patch in (first, second, third):
        patch.apply(model)
    second.revert(model)
    assert torch.equal(w_out(model, 1), expected[0])
    assert torch.equal(w_out(model, 2), expected[1])
    first.revert(model)
    third.revert(model)


def test_taken_back_after_an_exception(model):
    patch = make(model, 1)
    changed = []
    before = w_out(model, 1)

    def body(patched):
        changed.append((applied_patches(patched), torch.equal(w_out(patched, 1), before)))
        raise KeyError("body")

    with pytest.raises(KeyError, match="body"), patch.applied(model) as patched:
        body(patched)
    assert changed == [((patch,), False)]


def test_applying_adds_the_delta(model):
    patch = make(model, 1, 4, rank=3, dense=(4,))
    before = w_out(model, 4)
    expected = patch.left[4] @ patch.right[4] + patch.dense[4]
    torch.testing.assert_close(patch.delta(4), expected)
    with patch.applied(model):
        torch.testing.assert_close(w_out(model, 4), before + expected)
        assert not torch.equal(w_out(model, 4), before)


def test_narrow_weights(family_folder):
    """In bfloat16 the sum is taken in float32 and rounded once."""
    narrow = load_model(family_folder("gpt2"), device="cpu", dtype=torch.bfloat16)
    base, one, two = weights_hash(narrow), make(narrow, 1, seed=1), make(narrow, 1, seed=2)
    original = w_out(narrow, 1)
    with one.applied(narrow), two.applied(narrow):
        assert torch.equal(w_out(narrow, 1), (original.float() + one.delta(1) + two.delta(1)).bfloat16())
    assert weights_hash(narrow) == base


def test_somebody_else_changing_the_weights(model):
    patch, other = make(model, 1), make(model, 1, seed=1)
    patch.apply(model)
    stray = model.blocks[1].mlp.W_out
    with torch.no_grad():
        kept = stray.clone()
        stray[0, 0] += 1
    for act in (patch.revert, other.apply):
        with pytest.raises(ModelError, match="W_out of layer 1 was changed by something else"):
            act(model)
    assert applied_patches(model) == (patch,)
    with torch.no_grad():
        stray.copy_(kept)
    patch.revert(model)


def test_other_weights_are_refused_with_both_hashes(model, family_model):
    patch = make(model, 1)
    stranger = family_model("gpt2")
    theirs = weights_hash(stranger)
    with pytest.raises(ModelError) as refused:
        patch.apply(stranger)
    assert patch.provenance.weights_hash in str(refused.value)
    assert theirs in str(refused.value)
    assert weights_hash(stranger) == theirs


def test_a_patch_of_the_patched_model_needs_it(model):
    first = make(model, 1)
    with first.applied(model):
        second = make(model, 2, seed=1)
        with second.applied(model):
            assert applied_patches(model) == (first, second)
    with pytest.raises(ModelError, match="was made for"):
        second.apply(model)


def test_a_layer_or_shape_that_does_not_fit(model):
    fitting = make(model, 1)
    with pytest.raises(ModelError, match=r"changes layer 9 by \(256, 64\), W_out is None"):
        replace(fitting, left={9: fitting.left[1]}, right={9: fitting.right[1]}).apply(model)
    with pytest.raises(ModelError, match=r"changes layer 1 by \(255, 64\), W_out is \(256, 64\)"):
        replace(fitting, left={1: fitting.left[1][1:]}).apply(model)


def reloaded(patch, tmp_path):
    patch.save(tmp_path / "again.patch")
    return Patch.load(tmp_path / "again.patch")


def test_a_patch_that_is_loaded_again_is_the_same_patch(model, tmp_path):
    patch, other = make(model, 1, 3, rank=2, dense=(3,)), make(model, 1, seed=1)
    again = reloaded(patch, tmp_path)
    patch.apply(model)
    other.apply(model)
    once = w_out(model, 1)
    for equal in (patch, again, replace(again, config={}, outcomes=())):
        with pytest.raises(ModelError, match="the patch is on the model already"):
            equal.apply(model)
        with pytest.raises(ModelError, match="on the model already"), equal.applied(model):
            raise AssertionError("not reached")
        assert torch.equal(w_out(model, 1), once)
    assert applied_patches(model) == (patch, other)
    again.revert(model)
    assert applied_patches(model) == (other,)
    with pytest.raises(ModelError, match="the patch is not on the model"):
        patch.revert(model)
    other.revert(model)


@pytest.mark.parametrize("change", ["weights", "method", "requests", "left", "right", "dense", "layer"])
def test_what_tells_patches_apart(tiny, change):
    patch = make(tiny, 1, dense=(2,))
    other = EditRequest(REQUEST.fact, new_target=" Rome")
    changed = {
        "weights": {"provenance": replace(patch.provenance, weights_hash="0" * 32)},
        "method": {"method": "memit"},
        "requests": {"requests": (other,)},
        "left": {"left": {1: -patch.left[1]}},
        "right": {"right": {1: -patch.right[1]}},
        "dense": {"dense": {2: patch.dense[2] * 2}},
        "layer": {"dense": {3: patch.dense[2]}},
    }[change]
    assert replace(patch, **changed).content_hash() != patch.content_hash()
    assert replace(patch, config={}, outcomes=()).content_hash() == patch.content_hash()


def test_taking_back_several_at_once(model):
    patches = [make(model, 1, 2, seed=seed) for seed in range(4)]
    with patches[2].applied(model):
        expected = w_out(model, 1)
    for patch in patches:
        patch.apply(model)
    with pytest.raises(ModelError, match="is not on the model"):
        revert_all(model, [patches[0], make(model, 1, seed=9)])
    assert applied_patches(model) == tuple(patches)
    revert_all(model, [patches[3], patches[0], patches[1]])
    assert torch.equal(w_out(model, 1), expected)
    revert_all(model, [])
    revert_all(model, patches[2:3])


def test_one_more_patch_costs_the_same_however_many_are_on(model, monkeypatch):
    """Only its own delta is added, and no weights are hashed."""
    patches = [make(model, 1, 2, seed=seed, scale=0.01) for seed in range(40)]
    original, real, worked_out = w_out(model, 1), Patch.delta, []
    monkeypatch.setattr(Patch, "delta", lambda self, layer: (worked_out.append(self), real(self, layer))[1])
    costs, hashed = [], []
    monkeypatch.setattr(patch_module, "weights_hash", lambda model: (hashed.append(1), weights_hash(model))[1])
    for patch in patches:
        worked_out.clear()
        patch.apply(model)
        assert all(mine is patch for mine in worked_out)
        costs.append(len(worked_out))
    assert costs == [costs[0]] * len(patches)
    assert hashed == [1]  # the first time
    expected = original
    for patch in patches:
        expected = expected + real(patch, 1)
    assert torch.equal(w_out(model, 1), expected)
    worked_out.clear()
    revert_all(model, patches)
    assert worked_out == []


def test_wide_weights_keep_their_digits(tiny):
    wide = copy.deepcopy(tiny).double()
    with torch.no_grad():
        wide.blocks[1].mlp.W_out += 1e-12
    before, patch = w_out(wide, 1), make(wide, 1)
    with patch.applied(wide):
        assert torch.equal(w_out(wide, 1), before + patch.delta(1).double())
    assert torch.equal(w_out(wide, 1), before)


def consistent(model, patches, originals):
    """W_out of every layer is the original plus those that the model lists."""
    on = applied_patches(model)
    assert [id(patch) for patch in on] == [id(patch) for patch in patches]
    for layer, value in originals.items():
        for patch in on:
            value = value + patch.delta(layer) if layer in patch.layers else value
        assert torch.equal(w_out(model, layer), value)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("below", [0, 1])
@pytest.mark.parametrize("how", ["apply", "revert", "with"])
def test_a_model_is_never_left_half_edited(model, monkeypatch, how, below, lasting):
    """Something is raised at the k-th access to the weights, for every k: it is all there or not at all."""
    real, originals = on_model._w_out, {layer: w_out(model, layer) for layer in range(6)}
    under = [make(model, 2, 4, seed=7)][:below]
    patch = make(model, 1, 2, 3, 4, dense=(5,))
    for other in under:
        other.apply(model)
    for at in range(1, 100):
        if how == "revert":
            patch.apply(model)
        seen = [0]

        def failing(*args, seen=seen, at=at):
            seen[0] += 1
            if seen[0] == at or (lasting and seen[0] > at):
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(on_model, "_w_out", failing)
        try:
            if how == "with":
                with patch.applied(model):
                    pass
            else:
                getattr(patch, how)(model)
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(on_model, "_w_out", real)
        there = any(mine is patch for mine in applied_patches(model))  # mends what could not be mended then
        consistent(model, [*under, patch] if there else under, originals)
        assert there == (how == "revert") or seen[0] < at or (how == "with" and lasting)
        if there:
            patch.revert(model)
        if seen[0] < at:
            break
    assert seen[0] < at < 99
    for other in under:
        other.revert(model)


def test_ctrl_c_while_weights_are_written_takes_effect_afterwards(model, monkeypatch):
    real, patch = on_model._w_out, make(model, 1, 2)
    pressed = []

    def pressing(*args):
        if model.__dict__.get("interp_patches") is not None and not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(on_model, "_w_out", pressing)
    with pytest.raises(KeyboardInterrupt):
        patch.apply(model)
    assert pressed
    assert applied_patches(model) == (patch,)  # entirely
    patch.revert(model)
    pressed.clear()
    with pytest.raises(KeyboardInterrupt), patch.applied(model):
        raise AssertionError("not reached")
    assert pressed
    assert applied_patches(model) == ()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such timer")
@pytest.mark.filterwarnings("ignore:Exception ignored in")  # Python drops an interrupt that comes in a finaliser
def test_interrupts_at_any_moment(model):
    armed = []

    def ring(*_):
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    originals = {layer: w_out(model, layer) for layer in range(6)}
    patch, draw = make(model, 1, 2, 3, 4), random.Random(0)
    began = time.perf_counter()
    with patch.applied(model):
        pass
    span = time.perf_counter() - began
    usual = signal.signal(signal.SIGALRM, ring)
    try:
        for trial in range(60):
            try:
                armed.append(trial)
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-4, 1.2 * span))
                if trial % 2:
                    with patch.applied(model):
                        pass
                else:
                    patch.apply(model)
                    patch.revert(model)
                armed.clear()
            except KeyboardInterrupt:
                pass
            assert torch.is_grad_enabled()
            there = applied_patches(model) == (patch,)
            consistent(model, [patch] if there else [], originals)
            if there:
                assert trial % 2 == 0
                patch.revert(model)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def test_of_many_patches_on_a_model_three_are_named(model):
    patches = [make(model, 1, seed=seed, method=f"method-{seed}") for seed in range(5)]
    for count, said in ((3, "method-2 (...)"), (4, "method-2 (...) and 1 more"), (5, "method-2 (...) and 2 more")):
        for patch in patches[:count]:
            patch.apply(model)
        with pytest.raises(ModelError) as caught:
            ask(model, [EditCase(id="a", request=REQUEST)], fluency_tokens=0)
        revert_all(model, patches[:count])
        listed = re.sub(r"\('Norway.*?Lima'\)", "(...)", str(caught.value))
        assert f"on it are method-0 (...), method-1 (...), {said}: take them back" in listed


def test_evaluating_a_model_that_carries_a_patch_is_refused(model):
    """Its patch would count beside the one that is evaluated, or twice."""
    patch, other = make(model, 1), make(model, 2, seed=1)
    case = EditCase(id="a", request=REQUEST)
    said = r"the model must carry no patch; on it are rome \('Norway is governed from' -> ' Lima'\): take them back"
    with patch.applied(model):
        for wanted in (patch, other):
            with pytest.raises(ModelError, match="to evaluate, " + said):
                evaluate(model, wanted, case, fluency_tokens=0)
        with pytest.raises(ModelError, match="to ask, " + said):
            ask(model, [case], fluency_tokens=0)


def test_save_and_load(model, tmp_path):
    patch = make(model, 1, 4, rank=3, dense=(2,))
    patch.save(tmp_path / "patch.safetensors")
    loaded = Patch.load(tmp_path / "patch.safetensors")
    assert loaded.layers == (1, 2, 4)
    for layer in patch.layers:
        assert torch.equal(loaded.delta(layer), patch.delta(layer))
    for name in ("provenance", "method", "config", "requests", "outcomes"):
        assert getattr(loaded, name) == getattr(patch, name)
    with patch.applied(model):
        expected = weights_hash(model)
    with loaded.applied(model):
        assert weights_hash(model) == expected


def test_damaged_files(model, tmp_path):
    path = tmp_path / "patch.safetensors"
    make(model, 1).save(path)
    data = path.read_bytes()
    for damaged in (data[:-40], b"", data[:8] + b"}" + data[9:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"patch\.safetensors is not a readable record"):
            Patch.load(path)
    with pytest.raises(DataError, match="is not a readable record"):
        Patch.load(tmp_path / "nothing")
    path.write_bytes(data.replace(b'"left.1"', b'"left.2"'))
    with pytest.raises(DataError, match=r"patch\.safetensors is damaged"):
        Patch.load(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["left", "right", "dense"])
def test_factors_that_are_not_finite(tiny, name, bad):
    patch = make(tiny, 1, dense=(1,))
    part = getattr(patch, name)[1].clone()
    part[0, 0] = bad
    with pytest.raises(OptionError, match="the patch is not finite in layer 1"):
        replace(patch, **{name: {1: part}})


def test_factors_that_do_not_fit_together(tiny):
    patch = make(tiny, 1, 2, rank=2)
    with pytest.raises(OptionError, match=r"do not fit together: ranks by layer \{1: \(1, 2\)"):
        replace(patch, left={1: patch.left[1][:, :1], 2: patch.left[2]})
    with pytest.raises(OptionError, match="do not fit together"):
        replace(patch, right={1: patch.right[1], 3: patch.right[2]})


def test_compose_adds_up(model):
    parts = [
        make(model, 1, 2, seed=1, rank=2),
        make(model, 2, seed=2, dense=(3,)),
        make(model, 3, seed=3, dense=(3,), method="memit"),
    ]
    whole = compose(parts)
    assert whole.layers == (1, 2, 3)
    for layer in whole.layers:
        torch.testing.assert_close(whole.delta(layer), sum(p.delta(layer) for p in parts if layer in p.layers))
    assert whole.method == "rome+memit"
    assert len(whole.requests) == len(whole.outcomes) == 3
    assert whole.config == {"composed": [{"method": p.method, **p.config} for p in parts]}
    assert whole.converged
    with pytest.raises(OptionError, match="nothing to compose"):
        compose([])


def test_a_patch_composed_with_itself_is_refused(tiny, tmp_path):
    patch, other = make(tiny, 1), make(tiny, 1, seed=1)
    for same in (patch, reloaded(patch, tmp_path)):
        with pytest.raises(OptionError, match="patches 0 and 2 are the same patch: it would count twice"):
            compose([patch, other, same])


def test_patches_compose_that_were_made_on_top_of_each_other_in_that_order(model):
    first = make(model, 1)
    with first.applied(model):
        second = make(model, 2, seed=1)
        assert second.provenance.patches == list(applied_hashes(model)) == [first.content_hash()]
        with second.applied(model):
            third = make(model, 1, seed=2)
            alone = replace(third, provenance=replace(third.provenance, patches=[]))
    beside = make(model, 3, seed=3)
    for chain in ([first, second, third], [first, second, third, beside], [second, third], [first, beside]):
        whole = compose(chain)
        assert whole.provenance == chain[0].provenance
    with compose([first, second, third]).applied(model):
        found = w_out(model, 1)
    torch.testing.assert_close(found, w_out(model, 1) + first.delta(1) + third.delta(1))
    hashes = first.provenance.weights_hash, second.provenance.weights_hash
    assert len(set(hashes)) == 2
    for mixture in ([second, first], [first, beside, second], [first, third], [first, second, alone]):
        with pytest.raises(OptionError, match=r"was made for weights .* they do not compose") as refused:
            compose(mixture)
        assert mixture[0].provenance.weights_hash in str(refused.value)
    with pytest.raises(ModelError, match="; it was made on top of 1 other patch: compose them; this is"):
        second.apply(model)


def test_patches_for_other_weights_of_the_same_name_do_not_compose(tiny):
    patch = make(tiny, 1)
    theirs = make(tiny, 1, seed=1)
    theirs = replace(theirs, provenance=replace(theirs.provenance, weights_hash="f" * 32))
    with pytest.raises(OptionError, match=f"made for weights {'f' * 32}, patch 0 for {patch.provenance.weights_hash}"):
        compose([patch, theirs])


def test_patches_of_different_models_do_not_compose(tiny, family_model):
    with pytest.raises(OptionError, match="different models do not compose"):
        compose([make(tiny, 1), make(family_model("gpt2"), 1)])


def test_converged_means_all(tiny):
    patch = make(tiny, 1)
    failed = replace(make(tiny, 1, seed=1), outcomes=(Outcome(converged=False, probability=0.1, loss=2.0, steps=3),))
    assert patch.converged
    assert not compose([patch, failed]).converged


def test_with_layers_overlap_and_norms(tiny):
    patch, other = make(tiny, 1, 2, dense=(3,)), make(tiny, 2, 4, seed=1)
    part = patch.with_layers([2, 3])
    assert part.layers == (2, 3)
    torch.testing.assert_close(part.delta(2), patch.delta(2))
    assert patch.norms() == pytest.approx({k: float(patch.delta(k).pow(2).sum().sqrt()) for k in (1, 2, 3)}, rel=1e-5)
    with pytest.raises(OptionError, match=r"changes layers \[1, 2, 3\], not 5"):
        patch.with_layers([1, 5])
    with pytest.raises(OptionError, match=r"changes layers \[1, 2, 3\], not 0"):
        patch.delta(0)
    a, b = patch.delta(2).double(), other.delta(2).double()
    assert overlap(patch, other) == {2: pytest.approx(float((a * b).sum() / a.norm() / b.norm()), abs=1e-6)}
    assert overlap(patch, patch) == pytest.approx({1: 1, 2: 1, 3: 1}, abs=1e-5)


def test_row_hooks_equal_the_patched_model_row_by_row(family_model, family):
    model = family_model(family)
    before = weights_hash(model)
    patches = [
        make(model, 0, seed=1, scale=0.3),
        None,
        make(model, 1, 2, seed=2, rank=3, scale=0.3),
        make(model, dense=(1,), seed=3, scale=0.3),
        make(model, 1, seed=4, dense=(1, 2), scale=0.3),
    ]
    of_row = [patches[i] for i in (0, 1, 2, 3, 4, 2, 0, 1)]
    tokens = torch.randint(1, 599, (len(of_row), 7), generator=torch.Generator().manual_seed(0))
    tokens[5], tokens[6], tokens[7] = tokens[2], tokens[4], tokens[3]
    with torch.no_grad():
        found = model.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=row_hooks(model, of_row))
        plain = model(tokens, prepend_bos=False)
        for row, patch in enumerate(of_row):
            if patch is None:
                expected = plain[row]
            else:
                with patch.applied(model):
                    expected = model(tokens[row][None], prepend_bos=False)[0]
                assert (expected - plain[row]).abs().max() > 0.1
            torch.testing.assert_close(found[row], expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
    assert weights_hash(model) == before
    assert row_hooks(model, [None, None]) == []


# how requests ended


def test_an_outcome_of_an_earlier_version_is_the_optimisations(tiny, tmp_path):
    """Its one probability was that of the optimised vector; what the patched model says was not asked."""
    old = Outcome(converged=True, probability=0.9, loss=0.1, steps=3)
    assert (old.probability, old.optimised_probability, old.took) == (None, 0.9, None)
    new = Outcome(converged=True, probability=0.2, loss=0.1, steps=3, optimised_probability=0.9, took=False)
    assert (new.probability, new.optimised_probability) == (0.2, 0.9)
    assert replace(new, steps=4).probability == 0.2
    patch = replace(make(tiny, 1), outcomes=(new,))
    patch.save(tmp_path / "patch")
    assert Patch.load(tmp_path / "patch").outcomes == (new,)
    assert make(tiny, 1).took is None
    assert patch.took is False


def test_the_outcome_of_a_request_is_found_by_prompt_and_answer(tiny):
    first = make(tiny, 1)
    (request,) = first.requests
    other = EditRequest(Fact(template="{} is in", subject="Oslo"), new_target="Peru")
    again = EditRequest(request.fact, new_target="something else")

    def ended(asked, took):
        outcome = Outcome(converged=not took, probability=0.5, loss=1.0, steps=3, took=took)
        return replace(first, requests=(asked,), outcomes=(outcome,))

    whole = compose([ended(request, False), ended(other, True), ended(again, True)])
    assert whole.outcome_of(request).took is False
    assert whole.outcome_of(other).took is whole.outcome_of(again).took is True
    assert whole.took is True  # the first request's prompt is answered by the third
    reworded = EditRequest(replace(request.fact, relation="other", target=None), new_target=request.new_target)
    assert whole.outcome_of(reworded).took is False
    assert whole.outcome_of(EditRequest(other.fact, new_target="Chile")) is None
    assert compose([ended(request, False), ended(other, True)]).took is False


def test_what_patches_were_made_with_is_kept_when_they_are_composed(tiny):
    one, other = (
        replace(make(tiny, 1), made_with={"contexts": [["{}"]]}),
        replace(make(tiny, 1, seed=1), made_with={"contexts": []}),
    )
    assert compose([one, replace(make(tiny, 2), made_with=one.made_with)]).made_with == one.made_with
    assert compose([one, other]).made_with == {"composed": [one.made_with, other.made_with]}
