"""AlphaEdit: published numbers also over several batches, what the null space hides, units of the model's own."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from interp.editing import AlphaEditConfig, MemitConfig, SecondMoments, default_config, edit, edit_sequentially
from interp.editing.making import Given, Maker
from interp.editing.methods.alpha_edit import in_null_space, remembered
from interp.editing.null_space import null_space
from interp.editing.spread import Keys
from interp.editing.whitening import Whitening
from interp.errors import InterpWarning, NumericalError, OptionError
from interp.patches import applied_patches
from interp.results.record import provenance
from tests.test_editing import NORWAY, QUICK, TENNIS, TOWER, distance, golden_requests

pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")


@pytest.fixture(scope="module")
def moments(golden):
    return {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}


@pytest.mark.parametrize("run", ["published_defaults", "batch", "sequence"])
def test_published_updates(tiny, golden, moments, run):
    """Each batch on the weights that the ones before left, with the keys of theirs."""
    record = json.loads((golden / "alphaedit.json").read_text())
    update, made = load_file(golden / "alphaedit_update.safetensors"), record["runs"][run]
    config = AlphaEditConfig(layers=tuple(made["layers"]), threshold=made["nullspace_threshold"], l2=made["L2"])
    batches = [golden_requests(batch["requests"]) for batch in made["batches"]]
    asked = Given(
        method="alphaedit",
        config=config,
        second_moments=moments,
        contexts=record["context_templates"],
        max_batch_tokens=1024,
    )
    maker = Maker(tiny, [request for batch in batches for request in batch], asked, at_once=1)
    try:
        for number, batch in enumerate(batches):
            patch = maker.patch(batch, maker.targets(batch), in_turn=True)
            for layer in patch.layers:
                assert distance(patch.delta(layer), update[f"{run}.batch_{number}.layer_{layer}.update"]) < 1e-3
                space = patch.made_with["null_space"][str(layer)]
                assert space["dimension"] == made["null_space_dimension"][str(layer)]
                assert space["of"] == 256
                assert space["earlier_keys"] == sum(len(each) for each in batches[:number])
            patch.apply(tiny)
    finally:
        for patch in reversed(applied_patches(tiny)):
            patch.revert(tiny)


def given_keys(facts, earlier=0, *, seed=0, d_mlp=24, **config):
    """C, the keys, and what a solve gets: of earlier keys what was kept."""
    draw = torch.Generator().manual_seed(seed)
    root = torch.randn(3 * d_mlp, d_mlp, generator=draw) * torch.logspace(-2, 0.5, d_mlp)
    keys = torch.randn(d_mlp, facts + earlier, generator=draw)
    moment = root.T @ root / (3 * d_mlp)
    made = Keys(
        layer=0,
        keys=keys[:, earlier:],
        config=AlphaEditConfig(layers=(0,), **config),
        whitening=Whitening({0: moment}),
    )
    if earlier:
        made = replace(made, earlier=remembered(replace(made, keys=keys[:, :earlier])))
    return moment, keys, made


@given(
    facts=st.integers(1, 5),
    earlier=st.integers(0, 5),
    seed=st.integers(0, 99),
    l2=st.floats(0.01, 20),
    threshold=st.sampled_from([0.001, 0.05, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_the_small_system_is_the_published_one(facts, earlier, seed, l2, threshold):
    """(P (K K^T + Kp Kp^T) + l2 I)^-1 P K, with P written out."""
    moment, keys, made = given_keys(facts, earlier, seed=seed, threshold=threshold, l2=l2)
    values, vectors = torch.linalg.eigh(moment.double())
    space = vectors[:, values < threshold]
    assert made.whitening.null_space(0, threshold, 24, keys.device).inside == (space.shape[1] <= 12)
    projection, every = space @ space.T, keys.double()
    new = every[:, earlier:]
    expected = torch.linalg.solve(projection @ every @ every.T + l2 * torch.eye(24).double(), projection @ new)
    torch.testing.assert_close(in_null_space(made), expected, rtol=1e-6, atol=1e-9)


def test_keys_outside_the_null_space_give_what_they_gave():
    moment, _, made = given_keys(3, 2, threshold=0.05, l2=0.1)
    left = in_null_space(made)
    values, vectors = torch.linalg.eigh(moment.double())
    usual = vectors[:, values >= 0.05]
    assert 0 < usual.shape[1] < 24
    assert (usual.T @ left).abs().max() < 1e-10 < 0.01 < left.abs().max()


def test_relative_settings_do_not_depend_on_the_units_of_keys():
    """Keys c times as long: the change is c times as small, and does the same."""
    found = {}
    for scale in (1.0, 30.0):
        moment, keys, made = given_keys(3, threshold=1.0, l2=0.1, relative=True)
        scaled = replace(made, keys=keys * scale, whitening=Whitening({0: moment * scale**2}))
        found[scale] = scaled.keys.double().T @ in_null_space(scaled)
    torch.testing.assert_close(found[1.0], found[30.0], rtol=1e-5, atol=1e-7)
    assert float(found[1.0].diagonal().min()) > 0.5


def test_an_empty_null_space_is_refused_before_anything_is_optimised(tiny, moments, monkeypatch):
    monkeypatch.setattr(sys.modules["interp.editing.making"], "target_values", None)
    config = AlphaEditConfig(layers=(1, 2), threshold=1e-9, **QUICK)
    with pytest.raises(NumericalError, match=r"null space in layer 1 is empty: no eigenvalue of C is below 1e-09"):
        edit(tiny, [TOWER], method="alphaedit", config=config, second_moments=moments, contexts=["{}"])


def test_a_null_space_is_found_once_for_all_edits_with_the_same_second_moments(tiny, moments, monkeypatch):
    found, module = [], sys.modules["interp.editing.whitening"]
    monkeypatch.setattr(module, "null_space", lambda *args, **named: found.append(1) or null_space(*args, **named))
    layers = (1, 2)
    kept = SecondMoments(
        provenance=provenance(tiny), moments=moments, corpus={}, n_tokens=1, layers=layers, held_out_error=(0.0, 0.0)
    )
    config = AlphaEditConfig(layers=layers, threshold=0.1, l2=0.1, **QUICK)
    options = {"method": "alphaedit", "config": config, "second_moments": kept, "contexts": ["{}"]}
    one, other = edit(tiny, [TOWER], **options), edit(tiny, [TOWER], **options)
    assert len(found) == 2
    assert torch.equal(one.delta(1), other.delta(1))


def test_the_identity_has_no_null_space(tiny):
    config = AlphaEditConfig(layers=(1, 2), **QUICK)
    with pytest.raises(OptionError, match="identity as second moment has no directions that matter less"):
        edit(tiny, [TOWER], method="alphaedit", config=config, second_moments="identity", contexts=["{}"])


def test_a_second_moment_that_is_singular_will_do(tiny, moments):
    """Nothing is inverted: what text never uses is what the edit may use."""
    singular = {}
    for layer in (1, 2):
        c = moments[layer].clone()
        c[:100], c[:, :100] = 0, 0
        singular[layer] = c
    options = {"contexts": ["{}"], "second_moments": singular}
    config = AlphaEditConfig(layers=(1, 2), threshold=0.1, l2=0.1, **QUICK)
    assert edit(tiny, [TOWER], method="alphaedit", config=config, **options).layers == (1, 2)
    with pytest.raises(NumericalError, match="singular"):
        edit(tiny, [TOWER], method="memit", config=MemitConfig(layers=(1, 2), **QUICK), **options)


def test_turns_of_several_are_one_solve_each(tiny, moments):
    config = AlphaEditConfig(layers=(1, 2), threshold=0.1, l2=0.1, **QUICK)
    options = {"method": "alphaedit", "config": config, "second_moments": moments, "contexts": ["{}"]}
    requests = [TOWER, TENNIS, NORWAY]
    together = edit(tiny, requests, **options)
    in_one_turn = edit_sequentially(tiny, requests, batch_size=5, **options)
    in_two = edit_sequentially(tiny, requests, batch_size=2, **options)
    for layer in together.layers:
        assert torch.equal(in_one_turn.delta(layer), together.delta(layer))
        assert distance(in_two.delta(layer), together.delta(layer)) > 1e-3
    spaces = [made["null_space"]["1"] for made in in_two.made_with["composed"]]
    assert [space["earlier_keys"] for space in spaces] == [0, 2]
    assert in_two.made_with["contexts"] == [["{}"]]  # what they share is told once
    first = edit(tiny, requests[:2], **options)
    with first.applied(tiny), pytest.warns(InterpWarning, match="AlphaEdit knows nothing of their keys"):
        # without the keys of the first, the second is another one
        forgetful = edit(tiny, requests[2:], **options)
    assert distance(in_two.delta(1) - first.delta(1), forgetful.delta(1)) > 1e-3


def test_settings_of_a_model_that_nobody_published_any_for(tiny):
    config = default_config(tiny, "alphaedit")
    assert (config.layers, config.origin) == (default_config(tiny, "memit").layers, "rule")
    assert config.relative


@pytest.mark.parametrize("setting", ["threshold", "l2"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_settings_must_be_positive(setting, value):
    with pytest.raises(OptionError, match=setting):
        AlphaEditConfig(layers=(1,), **{setting: value})


@pytest.mark.usefixtures("unchecked")
def test_relative_is_true_or_false():
    with pytest.raises(OptionError, match="relative must be True or False"):
        AlphaEditConfig(layers=(1,), relative=2)
