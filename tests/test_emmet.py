"""EMMET: published numbers, keys that reach their values, least change of others, keys that cannot be told apart."""

import json

import pytest
import torch
from safetensors.torch import load_file

from interp.editing import EmmetConfig, RomeConfig, default_config, edit, edit_sequentially
from interp.editing.methods.emmet import equalising
from interp.editing.spread import Keys
from interp.editing.whitening import Whitening
from interp.errors import NumericalError, OptionError
from interp.facts.records import EditRequest, Fact
from tests.test_editing import (
    NORWAY,
    QUICK,
    TENNIS,
    TOWER,
    at_subject,
    distance,
    golden_requests,
    returned_at_subject,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")


@pytest.fixture(scope="module")
def moments(golden):
    return {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}


@pytest.mark.parametrize("run", ["one_layer", "one_layer_no_lambda", "three_layers", "one_fact"])
def test_published_updates(tiny, golden, moments, run):
    record = json.loads((golden / "emmet.json").read_text())
    update, made = load_file(golden / "emmet_update.safetensors"), record["runs"][run]
    config = EmmetConfig(
        layers=tuple(made["layers"]),
        second_moment_weight=made["mom2_update_weight"],
        relaxation=made["emmet_lambda"],
    )
    options = {"second_moments": moments, "contexts": record["context_templates"]}
    patch = edit(tiny, golden_requests(made["requests"]), method="emmet", config=config, **options)
    assert list(patch.layers) == made["layers"]
    for layer in patch.layers:
        assert distance(patch.delta(layer), update[f"{run}.layer_{layer}.update"]) < 1e-3


def keys_of(facts, d_mlp=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    root = torch.randn(3 * d_mlp, d_mlp, generator=draw)
    return torch.randn(d_mlp, facts, generator=draw), root.T @ root / (3 * d_mlp)


def test_without_relaxation_every_key_reaches_its_value_and_no_other_change_moves_less():
    keys, moment = keys_of(4)
    residual = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()
    found = {}
    for weight in (1.0, 500.0):
        config = EmmetConfig(layers=(0,), second_moment_weight=weight, relaxation=0)
        left = equalising(Keys(layer=0, keys=keys, config=config, whitening=Whitening({0: moment})))
        found[weight] = left @ residual
        torch.testing.assert_close(keys.double().T @ found[weight], residual)
    torch.testing.assert_close(found[1.0], found[500.0])  # the weight cancels
    moved = torch.trace(found[1.0].T @ moment.double() @ found[1.0])
    for seed in range(5):  # changes that the keys do not see
        other = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        other = other - keys.double() @ torch.linalg.lstsq(keys.double(), other).solution
        rival = found[1.0] + 0.01 * other
        assert torch.trace(rival.T @ moment.double() @ rival) > moved


def test_relaxation_leaves_a_share_open_for_more_than_one_fact():
    keys, moment = keys_of(3)
    config = EmmetConfig(layers=(0,), second_moment_weight=10.0, relaxation=2.0)
    given = {"layer": 0, "config": config, "whitening": Whitening({0: moment})}
    reached = keys.double().T @ equalising(Keys(keys=keys, **given))
    seen = keys.double().T @ torch.linalg.inv(moment.double()) @ keys.double() / 10
    torch.testing.assert_close(reached, seen @ torch.linalg.inv(seen + 2 * torch.eye(3)), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(reached, torch.eye(3).double(), atol=0.05)
    alone = keys[:, :1].double().T @ equalising(Keys(keys=keys[:, :1], **given))
    torch.testing.assert_close(alone, torch.ones(1, 1).double())


def test_one_fact_is_romes_change_in_the_bare_prompt(tiny, moments):
    """With one context, the two differ in where the value is optimised alone: the direction is ROME's, and the key
    reaches its value."""
    config = EmmetConfig(layers=(2,), **QUICK)
    patch = edit(tiny, [TOWER], method="emmet", config=config, second_moments=moments, contexts=["{}"])
    rome = edit(tiny, [TOWER], config=RomeConfig(layer=2, **QUICK), second_moments=moments, contexts=["{}"])
    left, _, _ = torch.linalg.svd(patch.delta(2), full_matrices=False)
    assert abs(float(left[:, 0] @ rome.left[2][:, 0])) == pytest.approx(1, abs=1e-5)
    key = at_subject(tiny, TOWER, "blocks.2.mlp.hook_post")
    assert distance(key @ patch.delta(2), patch.right[2][0]) < 1e-4


def test_the_facts_of_a_batch_all_reach_their_values_on_the_model(tiny, moments):
    """What W_out returns for the three, and what is left of it when the patch is applied for real."""
    requests = [TOWER, TENNIS, NORWAY]
    config = EmmetConfig(layers=(2,), relaxation=0, **QUICK)
    patch = edit(tiny, requests, method="emmet", config=config, second_moments=moments, contexts=["{}"])
    before = [returned_at_subject(tiny, request, 2) for request in requests]
    right = patch.right[2]
    with patch.applied(tiny):
        for request, was, wanted in zip(requests, before, right, strict=True):
            assert distance(returned_at_subject(tiny, request, 2) - was, wanted) < 1e-3


def test_two_prompts_of_one_subject_in_front_are_refused_by_number_before_anything_is_computed(tiny):
    again = EditRequest(Fact(template="{} is a city in", subject="Norway", target=" Oslo"), new_target=" Rome")
    options = {"method": "emmet", "config": EmmetConfig(layers=(2,), steps=2)}  # no second moments: to be estimated
    with pytest.raises(OptionError, match=r"requests 1 and 2 have the same one.*until the subject 'Norway' ends"):
        edit(tiny, [TOWER, NORWAY, again], **options)
    with pytest.raises(OptionError, match=r"requests 2 and 3 have the same one"):
        edit_sequentially(tiny, [TOWER, TENNIS, NORWAY, again], batch_size=2, **options)
    edit_sequentially(tiny, [NORWAY, again], second_moments="identity", contexts=["{}"], **options)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([[1.0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]], r"dependent up to rounding \(3 keys of length 4.*cosine 0\.7"),
        ([[1.0, 2], [1, 2], [0, 0]], r"most alike are requests 10 and 11, cosine 1\.0"),
        ([[1.0, 0], [0, 0], [0, 0]], r"the key of request 11 in layer 0 is zero"),
        ([[0.0], [0], [0]], r"the key of request 10 in layer 0 is zero"),
    ],
)
def test_keys_that_are_dependent_are_refused_by_number(keys, message):
    given = Keys(
        layer=0,
        keys=torch.tensor(keys),
        config=EmmetConfig(layers=(0,), second_moment_weight=1),
        whitening=Whitening({0: torch.eye(len(keys))}),
        first=10,
    )
    with pytest.raises(NumericalError, match=message):
        equalising(given)


@pytest.mark.parametrize("relaxation", [-0.1, float("nan"), float("inf")])
def test_a_relaxation_must_be_a_number_from_0_on(relaxation):
    with pytest.raises(OptionError, match="relaxation"):
        EmmetConfig(layers=(2,), relaxation=relaxation)


def test_settings_of_a_model_that_nobody_published_any_for(tiny):
    config = default_config(tiny, "emmet")
    assert (config.layers, config.origin) == ((default_config(tiny, "rome").layer,), "rule")
    assert config.second_moment_weight == pytest.approx(1000 / 6400 * tiny.cfg.d_mlp)
