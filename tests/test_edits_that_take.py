"""Patches are judged by what the patched model says: in outcomes, in warnings, whatever the method."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file

from interp.editing import (
    AlphaEditConfig,
    EmmetConfig,
    FtConfig,
    KnConfig,
    MemitConfig,
    PmetConfig,
    RomeConfig,
    edit,
    edit_each,
    edit_sequentially,
)
from interp.editing.answers import answered
from interp.editing.methods import editor_named
from interp.errors import InterpWarning
from interp.evaluation.protocol import ask, evaluate_each
from interp.facts.records import EditCase, EditRequest, Fact
from interp.models.tokens import encode, encode_continuation
from interp.models.weights import weights_hash
from interp.patches import applied_patches, compose

TOWER = EditRequest(
    Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"), new_target=" Rome"
)
TENNIS = EditRequest(Fact(template="{} plays the sport of", subject="Serena Williams"), new_target=" golf")
NORWAY = EditRequest(Fact(template="{} is governed from", subject="Norway", target=" Oslo"), new_target=" Lima Rome")
MISSED = "ignore:.* did not take:interp.errors.InterpWarning"


@pytest.fixture(scope="module")
def moments(golden):
    return {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}


def says(model, request):
    """Probability of the target after the bare prompt and whether each of its tokens is on top, by a full pass."""
    prompt = encode(model, request.fact.prompt)
    target = model.tokenizer(request.new_target, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *target[:-1]]]), prepend_bos=False)[0, len(prompt) - 1 :].double()
    log_p = logits.log_softmax(-1)[range(len(target)), target]
    return float(log_p.mean().exp()), logits.argmax(-1).tolist() == target


CONFIGS = [
    ("rome", RomeConfig(layer=2, steps=6)),
    ("r-rome", RomeConfig(layer=2, steps=6)),
    ("memit", MemitConfig(layers=(1, 2), steps=6, second_moment_weight=15.0)),
    ("pmet", PmetConfig(layers=(1, 2), steps=6, second_moment_weight=15.0)),
    ("emmet", EmmetConfig(layers=(2,), steps=6)),
    ("alphaedit", AlphaEditConfig(layers=(1, 2), steps=6, threshold=0.1, l2=0.1)),
    ("ft-l", FtConfig(layer=2, steps=4)),
    ("kn", KnConfig(max_neurons=4)),
]


@pytest.mark.filterwarnings(MISSED)
@pytest.mark.parametrize(("method", "config"), CONFIGS)
@pytest.mark.parametrize("call", [edit_each, edit_sequentially])
def test_outcomes_are_those_of_the_model_with_the_patch_applied(tiny, moments, method, config, call):
    options = {"method": method, "config": config}
    if editor_named(method).sites:
        options |= {"second_moments": moments, "contexts": ["{}", "So. {}"]}
    found = call(tiny, [TOWER, TENNIS, NORWAY], **options)
    for patch in found if call is edit_each else [found]:
        with patch.applied(tiny):
            for request, outcome in zip(patch.requests, patch.outcomes, strict=True):
                probability, took = says(tiny, request)
                assert outcome.probability == pytest.approx(probability, rel=2e-3, abs=1e-6)
                assert outcome.took is took
                if method == "kn":
                    assert outcome.converged is took
                else:
                    assert outcome.optimised_probability is not None


@pytest.mark.filterwarnings(MISSED)
@pytest.mark.parametrize("limit", [1, 40, 1000])
def test_how_many_are_asked_at_once_changes_no_answer(tiny, moments, limit):
    made = edit_each(
        tiny, [TOWER, TENNIS, NORWAY], config=RomeConfig(layer=2, steps=6), second_moments=moments, contexts=["{}"]
    )
    whole = compose(made)
    found = answered(tiny, [*made, whole], max_batch_tokens=limit)
    assert len(found[-1].outcomes) == 3
    for patch, expected in zip(found, answered(tiny, [*made, whole], max_batch_tokens=4096), strict=True):
        for one, other in zip(patch.outcomes, expected.outcomes, strict=True):
            assert one.took is other.took
            assert one.probability == pytest.approx(other.probability, rel=1e-3)


def test_an_optimisation_that_converges_and_a_patch_that_misses(tiny, moments):
    """A second moment that outweighs the keys keeps the model as it is, whatever was optimised."""
    heavy = MemitConfig(layers=(1, 2), steps=40, clamp=20, weight_decay=0, kl_weight=0, second_moment_weight=1e6)
    options = {"method": "memit", "config": heavy, "second_moments": moments, "contexts": ["{}"]}
    with pytest.warns(InterpWarning, match=r"1 of 1 edits did not take.*request 0 \('The Eiffel .*' -> ' Rome', p "):
        patch = edit(tiny, [TOWER], **options)
    (outcome,) = patch.outcomes
    assert outcome.converged
    assert outcome.optimised_probability > 0.4
    assert outcome.probability < 0.01
    assert outcome.took is patch.took is False
    assert "NOT EVERY EDIT TOOK" in repr(patch)


def test_an_edit_that_takes_says_nothing_and_that_it_took(tiny, moments):
    patch = edit(tiny, [TOWER], config=RomeConfig(layer=2), second_moments=moments, contexts=["{}"])
    assert patch.took is True
    assert patch.outcomes[0].probability > 0.3
    assert "NOT EVERY EDIT TOOK" not in repr(patch)


def test_knowledge_neurons_that_change_nothing_did_not_converge(tiny):
    with pytest.warns(InterpWarning, match="did not take"):
        patch = edit(tiny, [TENNIS], method="kn", config=KnConfig(scale=1, remove=0, insert=0))
    assert not patch.converged
    assert patch.took is False


def test_one_warning_for_all_requests_of_a_call(tiny):
    requests = [
        EditRequest(Fact(template="{} is governed from", subject=name), new_target=" golf")
        for name in ("Norway", "Japan", "Ghana", "Peru", "Chile")
    ]
    options = {"method": "ft-l", "config": FtConfig(layer=2, steps=1)}
    for call in (edit, edit_each, edit_sequentially):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            call(tiny, requests, **options)
        (message,) = [str(each.message) for each in said]
        assert message.startswith("5 of 5 edits did not take")
        assert "request 0 ('Norway is governed from' -> ' golf', p " in message
        assert "and 2 more" in message
        assert "Peru" not in message


# without second moments


@pytest.mark.filterwarnings(MISSED)
@pytest.mark.parametrize(("method", "make"), [("memit", MemitConfig), ("pmet", PmetConfig)])
def test_the_identity_is_scaled_to_the_keys_where_it_is_weighed(tiny, method, make):
    """As a second moment of the size of the keys, it closes the same share for keys of any length."""
    config = make(layers=(2,), steps=6, second_moment_weight=3.0 * tiny.cfg.d_mlp)
    options = {"method": method, "config": config, "contexts": ["{}"]}
    patch = edit(tiny, [TOWER], second_moments="identity", **options)
    with tiny.hooks([]):
        _, cache = tiny.run_with_cache(torch.tensor([encode(tiny, TOWER.fact.prompt)]), prepend_bos=False)
    key = cache["blocks.2.mlp.hook_post"][0, 3]
    C = {2: torch.eye(tiny.cfg.d_mlp) * float(key.square().sum()) / tiny.cfg.d_mlp}
    expected = edit(tiny, [TOWER], second_moments=C, **options)
    torch.testing.assert_close(patch.delta(2), expected.delta(2), atol=1e-6, rtol=1e-4)
    # (w c + |k|^2)^-1 |k|^2 with w = 3 d and c = |k|^2 / d
    target = patch.right[2][0]
    assert float(key @ patch.left[2][:, 0]) == pytest.approx(1 / 4, rel=1e-4)
    assert target.norm() > 0


# fine-tuning in a narrow number format


@pytest.fixture(scope="module")
def narrow(tiny):
    return copy.deepcopy(tiny).to(torch.bfloat16)


@pytest.mark.filterwarnings(MISSED)
def test_fine_tuning_in_bfloat16_ships_what_it_evaluated(narrow):
    config = FtConfig(layer=2, steps=8, learning_rate=5e-4, limit=5e-4)
    patch = edit(narrow, [TOWER, NORWAY], method="ft-l", config=config)
    before = narrow.blocks[2].mlp.W_out.detach().float().clone()
    with patch.applied(narrow):
        shipped = narrow.blocks[2].mlp.W_out.detach().float() - before
        for request, outcome in zip(patch.requests, patch.outcomes, strict=True):
            probability, took = says(narrow, request)
            assert outcome.probability == pytest.approx(probability, rel=0.05)
            assert outcome.optimised_probability == pytest.approx(probability, rel=0.05)
            assert outcome.took is took
    assert torch.equal(shipped, patch.delta(2))
    assert shipped.any()


NARROW = [
    ("rome", RomeConfig(layer=2, steps=6), {"second_moments": "identity", "contexts": ["{}"]}),
    ("memit", MemitConfig(layers=(1, 2), steps=6), {"second_moments": "identity", "contexts": ["{}"]}),
    ("pmet", PmetConfig(layers=(1, 2), steps=6), {"second_moments": "identity", "contexts": ["{}"]}),
    ("ft-l", FtConfig(layer=2, steps=6), {}),
    ("kn", KnConfig(), {}),
]


@pytest.mark.filterwarnings(MISSED, "ignore:bfloat16 is too narrow for:interp.errors.InterpWarning")
@pytest.mark.parametrize(("method", "config", "given"), NARROW, ids=[name for name, *_ in NARROW])
def test_a_patch_in_bfloat16_is_judged_as_it_is_applied(narrow, method, config, given):
    """W_out is rounded when a patch is added to it; hooks that add w @ delta would not be."""
    patches = edit_each(narrow, [TOWER, TENNIS], method=method, config=config, **given)
    cases = [EditCase(id=f"case {i}", request=request) for i, request in enumerate((TOWER, TENNIS))]
    found = evaluate_each(narrow, patches, cases, fluency_tokens=6)
    before = weights_hash(narrow)
    for case, patch, evaluation in zip(cases, patches, found, strict=True):
        with patch.applied(narrow):
            ids = torch.tensor([encode(narrow, case.request.fact.prompt)])
            (target,) = encode_continuation(narrow, case.request.fact.prompt, case.request.new_target)[1]
            with torch.no_grad():
                log_p = narrow(ids, prepend_bos=False)[0, -1].float().log_softmax(-1)
            probability, took = says(narrow, case.request)
        assert evaluation.after[0].log_probability == pytest.approx(float(log_p[target]), rel=0.02)
        assert evaluation.after[0].predicted == (int(log_p.argmax()),)
        (outcome,) = patch.outcomes
        assert outcome.probability == pytest.approx(probability, rel=0.02)
        assert outcome.took is took
    assert weights_hash(narrow) == before
    assert applied_patches(narrow) == ()


@pytest.mark.filterwarnings(MISSED)
def test_cases_without_and_with_patches_keep_their_order_in_bfloat16(narrow):
    patch = edit(narrow, [TOWER], method="ft-l", config=FtConfig(layer=2, steps=6))
    cases = [EditCase(id=name, request=request) for name, request in (("a", TENNIS), ("b", TOWER), ("c", TENNIS))]
    found = ask(narrow, cases, [None, patch, None], fluency_tokens=0)
    plain = ask(narrow, cases, fluency_tokens=0)
    assert [answers.case for answers in found] == ["a", "b", "c"]
    assert (found[0].readings, found[2].readings) == (plain[0].readings, plain[2].readings)
    assert found[1].readings != plain[1].readings
