"""Patches: taken back bit for bit in any order, refused where they do not belong, and as hooks row by row."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.editing.patch import Outcome, Patch, applied_patches, compose, overlap, row_hooks
from interp.errors import DataError, ModelError, OptionError
from interp.facts import EditRequest, Fact
from interp.models import load_model, weights_hash
from interp.results import provenance

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
    assert applied_patches(tiny) == ()
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


def test_processed_models_are_refused(tiny):
    for options in (
        {"fold_ln": True, "center_writing_weights": False},
        {"fold_ln": False, "center_writing_weights": True},
    ):
        processed = copy.deepcopy(tiny)
        processed.process_weights_(**options, center_unembed=False, refactor_factored_attn_matrices=False)
        patch = make(processed, 1)
        with pytest.raises(ModelError, match=r"was processed .*load it with interp\.load_model"):
            patch.apply(processed)


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


def test_patches_of_different_models_do_not_compose(tiny, family_model):
    with pytest.raises(OptionError, match="different models do not compose"):
        compose([make(tiny, 1), make(family_model("gpt2"), 1)])


def test_converged_means_all(tiny):
    patch = make(tiny, 1)
    failed = replace(patch, outcomes=(Outcome(converged=False, probability=0.1, loss=2.0, steps=3),))
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
        found = model.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=row_hooks(of_row))
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
    assert row_hooks([None, None]) == []


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
        replace(make(tiny, 1), made_with={"contexts": []}),
    )
    assert compose([one, one]).made_with == one.made_with
    assert compose([one, other]).made_with == {"composed": [one.made_with, other.made_with]}
