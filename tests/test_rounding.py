"""What a narrow number format leaves of a patch, and that what is optimised, summed and solved is not in it."""

import copy
import warnings

import numpy as np
import pytest
import torch
from transformer_lens.hook_points import HookPoint

from interp.editing import FtConfig, RomeConfig, edit, edit_each
from interp.editing.answers import warn_of_rounding
from interp.editing.methods.knowledge_neurons import KnConfig, scale_neurons
from interp.engine.corruption import noise_hook
from interp.errors import InterpWarning, ModelError
from interp.facts.records import EditRequest, Fact
from interp.models.tokens import tokenize
from interp.patches.patch import Outcome, Patch, compose
from interp.patches.rounding import Rounding, rounding_of
from interp.results.record import provenance

TOWER = EditRequest(
    Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"), new_target=" Rome"
)
DTYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def narrow(request, tiny):
    return copy.deepcopy(tiny).to(request.param)


def patch_of(model, delta, layer=1):
    return Patch(
        provenance=provenance(model),
        method="rome",
        config={},
        requests=(TOWER,),
        outcomes=(Outcome(converged=True, probability=None, loss=None, steps=1),),
        dense={layer: delta},
    )


def test_nothing_is_lost_in_float32(tiny):
    assert rounding_of(patch_of(tiny, torch.randn(256, 64)), tiny) == {}


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
def test_it_is_what_applying_leaves(narrow, scale):
    torch.manual_seed(0)
    patch = patch_of(narrow, scale * torch.randn(256, 64))
    found = rounding_of(patch, narrow)[1]
    before = narrow.blocks[1].mlp.W_out.detach().double().clone()
    with patch.applied(narrow):
        left = narrow.blocks[1].mlp.W_out.detach().double() - before
    delta = patch.delta(1).double()
    assert found.changed == pytest.approx(float((left - delta).norm() / delta.norm()), rel=1e-3)
    assert found.kept == pytest.approx(float((left * delta).sum() / delta.square().sum()), rel=1e-3, abs=1e-6)
    smallest = torch.finfo(narrow.W_E.dtype).tiny
    error = (left - delta).abs() / (before + delta).abs().clamp(min=smallest)
    assert found.largest == pytest.approx(float(error.max()), rel=0.02)
    assert found.changed < 0.01 or scale < 1
    assert (found.kept < 0.9) == (scale == 1e-6)


def test_on_top_of_other_patches_it_is_their_sum_that_is_rounded(narrow):
    """As it is applied: the sum of patches is kept in float32."""
    torch.manual_seed(0)
    one, two = (patch_of(narrow, 1e-3 * torch.randn(256, 64)) for _ in range(2))
    before = narrow.blocks[1].mlp.W_out.detach().float().clone()
    with one.applied(narrow):
        found = rounding_of(two, narrow)[1]
        middle = narrow.blocks[1].mlp.W_out.detach().float().clone()
        with two.applied(narrow):
            left = narrow.blocks[1].mlp.W_out.detach().float() - middle
    assert found.changed == pytest.approx(float((left - two.delta(1)).norm() / two.delta(1).norm()), rel=1e-3)
    assert torch.equal(narrow.blocks[1].mlp.W_out.detach().float(), before)


def test_editors_record_it_and_patches_show_it(narrow, tmp_path):
    options = {"config": RomeConfig(layer=2), "second_moments": "identity", "contexts": ["{}"]}
    patch = edit(narrow, [TOWER], **options)
    assert patch.took
    assert set(patch.rounding) == {2}
    assert 0 < patch.rounding[2].changed < 0.2
    assert patch.rounding[2].kept == pytest.approx(1, abs=0.1)
    format_ = str(narrow.W_E.dtype).removeprefix("torch.")
    assert f"changed by rounding to {format_}" in repr(patch)
    patch.save(tmp_path / "one.patch")
    again = Patch.load(tmp_path / "one.patch")
    assert again.rounding == patch.rounding
    assert again.content_hash() == patch.content_hash()
    assert compose([patch]).rounding == {}  # what rounding does to a sum is not the sum of what it does


@pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")
def test_fine_tuning_ships_what_rounding_leaves(narrow):
    patch = edit(narrow, [TOWER], method="ft-l", config=FtConfig(layer=2, steps=3))
    assert patch.rounding[2].changed == 0


def test_a_warning_where_much_is_lost(narrow):
    tenth, most = (
        patch_of(narrow, torch.ones(256, 64)),
        patch_of(narrow, torch.ones(256, 64)),
    )
    object.__setattr__(tenth, "rounding", {1: Rounding(changed=0.1, kept=1, largest=0)})
    object.__setattr__(
        most, "rounding", {1: Rounding(changed=0.2, kept=1, largest=0), 3: Rounding(changed=0.9, kept=0.1, largest=0)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_rounding([tenth], stacklevel=1)
    format_ = str(narrow.W_E.dtype).removeprefix("torch.")
    with pytest.warns(InterpWarning, match=rf"^{format_} is too narrow for 1 of 2 patches: .* changes 90% .* layer 3"):
        warn_of_rounding([tenth, most], stacklevel=1)


def test_a_patch_for_another_number_format_is_refused_by_name(tiny, narrow):
    format_ = str(narrow.W_E.dtype).removeprefix("torch.")
    patch = patch_of(tiny, torch.randn(256, 64))
    with pytest.raises(
        ModelError, match=rf"was made for .* in float32; this is .* in {format_}: load it in float32, or"
    ):
        patch.apply(narrow)
    back = patch_of(narrow, torch.randn(256, 64))
    with pytest.raises(ModelError, match=rf"was made for .* in {format_}; this is .* in float32: load it in {format_}"):
        back.apply(tiny)


# what is computed in float32 whatever the weights are


def test_optimised_values_are_finer_than_the_weights(narrow):
    """Of the tiny change of one step in each coordinate, none is lost to the format of what it is added to."""
    config = RomeConfig(layer=2, steps=4, learning_rate=1e-4)
    options = {"config": config, "second_moments": "identity", "contexts": ["{}"]}
    with pytest.warns(InterpWarning, match="did not take|too narrow"):
        (patch,) = edit_each(narrow, [TOWER], **options)
    right = patch.right[2]
    assert right.dtype == torch.float32
    share = float((right == right.to(narrow.W_E.dtype).float()).float().mean())
    assert share < 0.2
    assert patch.left[2].norm() == pytest.approx(1, abs=1e-6)


def test_noise_is_rounded_once(narrow):
    tokenized = tokenize(narrow, TOWER.fact)
    _, hook = noise_hook(narrow, tokenized, 2, 0.5, 1, "gaussian", False)
    clean = narrow.W_E[tokenized.ids].expand(3, -1, -1)
    noisy = hook(clean, HookPoint())
    start, end = tokenized.subject_span
    drawn = torch.from_numpy(np.random.RandomState(1).randn(2, end - start, 64)).float() * 0.5
    expected = (clean[1:, start:end].float() + drawn).to(narrow.W_E.dtype)
    assert torch.equal(noisy[1:, start:end], expected)
    assert torch.equal(noisy[0], clean[0])


def test_directions_of_answers_are_summed_in_float32(narrow):
    config = KnConfig(insert=3.0, remove=0.1, max_neurons=2)
    _, right = scale_neurons(narrow, TOWER, config, model_provenance=provenance(narrow))
    new, old = (
        tokenize(narrow, Fact(template=TOWER.fact.template, subject="Eiffel Tower", target=target)).target_ids[0]
        for target in (" Rome", " Paris")
    )
    expected = 3.0 * narrow.W_U[:, new].float() - 0.1 * narrow.W_U[:, old].float()
    for rows in right.values():
        torch.testing.assert_close(rows, expected.expand(rows.shape), atol=1e-6, rtol=0)
