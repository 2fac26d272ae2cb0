"""The editors: published numbers, exact mappings, naive versions that change the weights, and what is refused."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from interp.editing import (
    AlphaEditConfig,
    Corpus,
    EmmetConfig,
    FtConfig,
    KnConfig,
    MemitConfig,
    PmetConfig,
    RomeConfig,
    TargetValue,
    edit,
    edit_each,
    edit_sequentially,
    second_moments,
    target_values,
)
from interp.editing.contexts import context_kinds
from interp.editing.method import Task
from interp.editing.methods import EDITORS, editor_named
from interp.editing.methods.rome import rank_one
from interp.editing.spread import Spread, spread
from interp.editing.whitening import Whitening
from interp.errors import FactError, ModelError, NumericalError, OptionError
from interp.facts.records import EditRequest, Fact
from interp.locate.methods.attribution import attribute
from interp.locate.refined import refined_neurons
from interp.models import tokens
from interp.models.load import load_model
from interp.models.weights import weights_hash
from interp.patches import applied_patches
from interp.patches.export import export_lora
from interp.results.record import provenance
from tests.mlp_norms import nearest, norm_after

pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")

CONTEXTS = (("{}",), ("The. {}", "It is so. {}"))
TOWER = EditRequest(
    Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"), new_target=" Rome"
)
TENNIS = EditRequest(Fact(template="{} plays the sport of", subject="Serena Williams"), new_target=" golf")
NORWAY = EditRequest(Fact(template="{} is governed from", subject="Norway", target=" Oslo"), new_target=" Lima")
QUICK = {"steps": 6, "weight_decay": 0.01}


def ids_of(model, text):
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [model.tokenizer.bos_token_id, *ids] if model.cfg.default_prepend_bos else ids


def at_subject(model, request, name, template="{}"):
    """What a hook sees at the last subject token, by a full forward pass of the prompt in a context."""
    text = template.replace("{}", request.fact.prompt)
    end = text.index(request.fact.subject) + len(request.fact.subject)
    _, cache = model.run_with_cache(torch.tensor([ids_of(model, text)]), prepend_bos=False)
    return cache[name][0, len(ids_of(model, text[:end])) - 1].detach()


def returned_at_subject(model, request, layer, template="{}"):
    """What W_out returns at the last subject token, before any norm."""
    mlp = model.blocks[layer].mlp
    return at_subject(model, request, f"blocks.{layer}.mlp.hook_post", template) @ mlp.W_out + mlp.b_out


def moments_of(model, layers=None, seed=0):
    """Well-conditioned random second moments, different in every layer."""
    draw = torch.Generator().manual_seed(seed)
    d = model.cfg.d_mlp
    found = {}
    for layer in layers if layers is not None else range(model.cfg.n_layers):
        root = torch.randn(2 * d, d, generator=draw) * (0.1 + torch.rand(d, generator=draw))
        found[layer] = root.T @ root / (2 * d)
    return found


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="session")
def moments(golden):
    return {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}


@pytest.fixture
def model(tiny):
    """``tiny``, whose bits and hooks every test must leave as they are."""
    before = weights_hash(tiny)
    yield tiny
    assert weights_hash(tiny) == before
    assert applied_patches(tiny) == ()
    assert all(not hook.fwd_hooks and not hook.bwd_hooks for hook in tiny.hook_dict.values())


def golden_requests(records):
    return [EditRequest(Fact(template=r["prompt"], subject=r["subject"]), new_target=r["target_new"]) for r in records]


# published numbers


def test_published_rome(model, golden, moments):
    record = json.loads((golden / "rome.json").read_text())
    requests = golden_requests(record["edits"])
    options = {"config": RomeConfig(layer=2), "second_moments": moments, "contexts": record["context_templates"]}
    together = edit_each(model, requests, **options)
    for request, expected, batched in zip(requests, record["edits"], together, strict=True):
        for patch in (edit(model, [request], **options), batched):
            assert distance(patch.left[2][:, 0], torch.tensor(expected["left"])) < 1e-4
            assert distance(patch.right[2][0], torch.tensor(expected["right"])) < 1e-4


def test_published_r_rome(model, golden, moments):
    record = json.loads((golden / "r_rome.json").read_text())
    edits = [each for each in record["edits"] if each["variant"] == "random_prefix_keys"]
    assert len(edits) == 3
    options = {"config": RomeConfig(layer=2), "second_moments": moments, "contexts": record["context_templates"]}
    for patch, expected in zip(
        edit_each(model, golden_requests(edits), method="r-rome", **options), edits, strict=True
    ):
        assert distance(patch.left[2][:, 0], torch.tensor(expected["left"])) < 1e-4
        assert distance(patch.right[2][0], torch.tensor(expected["right"])) < 1e-4


@pytest.mark.parametrize(("method", "make"), [("memit", MemitConfig), ("pmet", PmetConfig)])
def test_published_updates(model, golden, moments, method, make):
    record = json.loads((golden / f"{method}.json").read_text())
    update = load_file(golden / f"{method}_update.safetensors")
    patch = edit(
        model,
        golden_requests(record["requests"]),
        method=method,
        config=make(layers=(1, 2, 3), second_moment_weight=15.0),
        second_moments=moments,
        contexts=record["context_templates"],
    )
    assert patch.layers == (1, 2, 3)
    for layer in patch.layers:
        assert distance(patch.delta(layer), update[f"layer_{layer}.update"]) < 1e-4


# ROME


@pytest.mark.parametrize("method", ["rome", "r-rome"])
def test_the_key_maps_to_the_target_value(family_model, family, method):
    model = family_model(family)
    config, moments = RomeConfig(layer=1, clamp=1.0, **QUICK), moments_of(model)
    patch = edit(model, [TENNIS], method=method, config=config, second_moments=moments, contexts=CONTEXTS)
    wanted = target_values(model, [TENNIS], CONTEXTS, layer=1, sites=("mlp_out",), config=config)[0].value("mlp_out")
    templates = [template for kind in CONTEXTS for template in kind]
    keys = torch.stack([at_subject(model, TENNIS, "blocks.1.mlp.hook_post", t) for t in templates])
    mlp = model.blocks[1].mlp
    key = keys.mean(0) if method == "r-rome" else keys[0]
    assert distance(key @ (mlp.W_out + patch.delta(1)) + mlp.b_out, wanted) < 1e-4
    if method == "rome":
        norm = norm_after(model, 1)
        with patch.applied(model):
            assert distance(returned_at_subject(model, TENNIS, 1), wanted) < 1e-4
            entering = at_subject(model, TENNIS, "blocks.1.hook_mlp_out")
            assert distance(entering, wanted if norm is None else norm(wanted[None])[0]) < 1e-4
    left = patch.left[1][:, 0]
    assert float(left.norm()) == pytest.approx(1, abs=1e-5)
    assert patch.left[1].shape[1] == patch.right[1].shape[0] == 1
    expected = torch.linalg.inv(moments[1].double()) @ keys.double().mean(0)
    assert distance(left.double(), expected / expected.norm()) < 1e-3


def test_a_bare_key_that_points_away_from_those_in_contexts():
    """<k0, C^-1 k> may be negative: the change is the same, with the other sign on both sides."""
    keys = torch.tensor([[-1.0, 0.5], [3.0, 0.0]])
    target = TargetValue(
        delta={"mlp_out": torch.ones(3)},
        initial={"mlp_out": torch.zeros(3)},
        keys=keys,
        outputs=torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]),
        loss=0.0,
        probability=1.0,
        divergence=0.0,
        steps=1,
        converged=True,
    )
    left, right = rank_one(target, Whitening("identity"), 0)
    assert float(keys[0] @ left[:, 0]) < 0
    torch.testing.assert_close(target.outputs[0] + keys[0] @ left @ right, torch.ones(3))


def test_the_subjects_last_token_of_several(model, moments):
    """Neither the first subject token's key nor the next token's is mapped to the value."""
    config = RomeConfig(layer=2, **QUICK)
    patch = edit(model, [TOWER], config=config, second_moments=moments, contexts=["{}"])
    tokens = torch.tensor([ids_of(model, TOWER.fact.prompt)])
    value = target_values(model, [TOWER], (("{}",),), layer=2, sites=("mlp_out",), config=config)[0].value("mlp_out")
    with patch.applied(model):
        _, cache = model.run_with_cache(tokens, prepend_bos=False)
    gaps = (cache["blocks.2.hook_mlp_out"][0] - value).norm(dim=-1) / value.norm()
    assert int(gaps.argmin()) == 3  # The| Eiff|el| Tower
    assert gaps[3] < 1e-4 < 0.1 < gaps[torch.arange(len(gaps)) != 3].min()


def test_the_identity_as_second_moment(model, moments):
    config = RomeConfig(layer=2, **QUICK)
    options = {"config": config, "contexts": CONTEXTS}
    patch = edit(model, [TOWER], second_moments="identity", **options)
    keys = [at_subject(model, TOWER, "blocks.2.mlp.hook_post", t) for kind in CONTEXTS for t in kind]
    expected = torch.stack(keys).mean(0)
    assert distance(patch.left[2][:, 0], expected / expected.norm()) < 1e-5
    eye = {2: torch.eye(model.cfg.d_mlp)}
    assert distance(edit(model, [TOWER], second_moments=eye, **options).delta(2), patch.delta(2)) < 1e-5
    assert distance(edit(model, [TOWER], second_moments=moments, **options).left[2], patch.left[2]) > 0.1


def test_the_scale_of_second_moments_does_not_matter_to_rome(model, moments):
    options = {"config": RomeConfig(layer=2, **QUICK), "contexts": CONTEXTS}
    once = edit(model, [TOWER], second_moments=moments, **options)
    twice = edit(model, [TOWER], second_moments={2: 2 * moments[2]}, **options)
    assert distance(twice.delta(2), once.delta(2)) < 1e-5


# one by one, together, one after the other


EVERY_METHOD = pytest.mark.parametrize(
    ("method", "config"),
    [
        ("rome", RomeConfig(layer=2, **QUICK)),
        ("r-rome", RomeConfig(layer=2, **QUICK)),
        ("memit", MemitConfig(layers=(1, 2), second_moment_weight=15.0, **QUICK)),
        ("pmet", PmetConfig(layers=(1, 2), second_moment_weight=15.0, **QUICK)),
        ("emmet", EmmetConfig(layers=(2,), **QUICK)),
        ("alphaedit", AlphaEditConfig(layers=(1, 2), threshold=0.1, l2=0.1, **QUICK)),
        ("ft-l", FtConfig(layer=2, steps=4)),
        ("kn", KnConfig(max_neurons=4)),
    ],
)


def test_every_editor_is_among_them():
    assert [method for method, _ in EVERY_METHOD.args[1]] == list(EDITORS)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@EVERY_METHOD
def test_the_callers_gradient_mode_makes_no_difference(model, moments, method, config, mode):
    options = {"method": method, "config": config}
    if editor_named(method).sites:
        options |= {"second_moments": moments, "contexts": CONTEXTS}
    usual, one_by_one = edit(model, [TOWER], **options), edit_sequentially(model, [TOWER, NORWAY], **options)
    with mode():
        found, (each,), after = (
            edit(model, [TOWER], **options),
            edit_each(model, [TOWER], **options),
            edit_sequentially(model, [TOWER, NORWAY], **options),
        )
    for patch, expected in ((found, usual), (each, usual), (after, one_by_one)):
        for layer in expected.layers:
            assert torch.equal(patch.delta(layer), expected.delta(layer))
        assert patch.outcomes == expected.outcomes


def test_weights_that_no_gradient_passes_are_refused(golden):
    with torch.inference_mode():
        model = load_model(golden / "tiny-gpt2", device="cpu")
    with pytest.raises(OptionError, match=r"were made under torch.inference_mode.*load the model outside"):
        edit(model, [TOWER], method="ft-l")


@EVERY_METHOD
def test_each_is_what_it_would_be_alone(model, moments, method, config):
    requests = [TOWER, TENNIS, NORWAY]
    options = {"method": method, "config": config}
    if editor_named(method).sites:
        options |= {"second_moments": moments, "contexts": CONTEXTS}
    each = edit_each(model, requests, **options)
    assert [patch.requests for patch in each] == [(request,) for request in requests]
    for request, patch in zip(requests, each, strict=True):
        alone = edit(model, [request], **options)
        assert patch.layers == alone.layers
        assert patch.method == method
        assert patch.provenance == provenance(model)
        for layer in alone.layers:
            assert distance(patch.delta(layer), alone.delta(layer)) < 1e-4
        (one,), (other,) = patch.outcomes, alone.outcomes
        assert (one.converged, one.steps, one.took) == (other.converged, other.steps, other.took)
        assert one.probability == pytest.approx(other.probability, rel=1e-3)


def test_each_may_want_other_answers_to_one_prompt(model, moments):
    other = EditRequest(TOWER.fact, new_target=" Oslo")
    options = {"config": RomeConfig(layer=2, **QUICK), "second_moments": moments, "contexts": ["{}"]}
    assert len(edit_each(model, [TOWER, other], **options)) == 2
    with pytest.raises(OptionError, match=r"requests 0 and 1 contradict each other or repeat: .*' Rome' and ' Oslo'"):
        edit(model, [TOWER, other], method="ft-l")


def test_one_after_the_other(model, moments):
    options = {"config": RomeConfig(layer=2, **QUICK), "second_moments": moments, "contexts": CONTEXTS}
    whole = edit_sequentially(model, [TOWER, TENNIS, NORWAY], **options)
    parts = []
    for request in (TOWER, TENNIS, NORWAY):
        patch = edit(model, [request], **options)
        patch.apply(model)
        parts.append(patch)
    for patch in parts:
        patch.revert(model)
    torch.testing.assert_close(whole.delta(2), sum(patch.delta(2) for patch in parts), atol=1e-6, rtol=1e-5)
    assert whole.left[2].shape[1] == 3
    assert whole.requests == (TOWER, TENNIS, NORWAY)
    alone = sum(patch.delta(2) for patch in edit_each(model, [TOWER, TENNIS, NORWAY], **options))
    assert distance(whole.delta(2), alone) > 1e-3  # each sees the weights that those before it left
    with whole.applied(model):
        pass


def test_one_after_the_other_on_a_model_that_carries_a_patch(model, moments):
    options = {"config": RomeConfig(layer=2, **QUICK), "second_moments": moments, "contexts": ["{}"]}
    below = edit(model, [NORWAY], **options)
    with below.applied(model):
        before = weights_hash(model)
        edit_sequentially(model, [TOWER, TENNIS], **options)
        assert weights_hash(model) == before
        assert applied_patches(model) == (below,)


# MEMIT and PMET


def naive_spread(model, requests, contexts, targets, *, layers, moments, weight, root, site):
    """Change the weights of a copy layer by layer, reading keys and states by full forward passes in between."""
    changed = copy.deepcopy(model)
    deltas = {}
    for index, layer in enumerate(layers):
        name = f"blocks.{layer}.mlp.hook_post"
        columns = []
        for request in requests:
            means = [torch.stack([at_subject(changed, request, name, t) for t in kind]).mean(0) for kind in contexts]
            columns.append(torch.stack(means).mean(0))
        K = torch.stack(columns, 1).double()
        now = torch.stack([at_subject(changed, r, f"blocks.{layers[-1]}.hook_{site}") for r in requests])
        left = len(layers) - index
        divisor = left**0.5 if root else left
        R = (targets - now).double().T / divisor
        if norm_after(model, layer) is not None:
            R = naive_residual(changed, requests, targets, now, layer, layers[-1], site, divisor).double().T
        C = moments[layer].double() if moments != "identity" else torch.eye(len(K)).double()
        deltas[layer] = torch.linalg.solve(weight * C + K @ K.T, K @ R.T).float()
        with torch.no_grad():
            changed.blocks[layer].mlp.W_out += deltas[layer]
    return deltas


def naive_residual(model, requests, targets, now, layer, last, site, divisor):
    """What W_out must return beside what it does, so that its norm brings the layer's share as nearly as it can."""
    own, end = (torch.stack([returned_at_subject(model, r, at) for r in requests]) for at in (layer, last))
    norm, norm_at_end = norm_after(model, layer), norm_after(model, last)
    missing = norm_at_end(targets) - now if site == "mlp_out" else targets - now
    share = missing / divisor
    if site == "resid_post" and layer < last:
        need = norm_at_end(end) + missing
        share = need - norm_at_end(nearest(model, last, need - share, end))
    return nearest(model, layer, norm(own) + share, own) - own


METHODS = [("memit", MemitConfig, "resid_post"), ("pmet", PmetConfig, "mlp_out")]


def assert_naive(model, requests, contexts, method, make, site, layers, moments, weight):
    config = make(layers=layers, second_moment_weight=weight, clamp=1.0, **QUICK)
    patch = edit(model, requests, method=method, config=config, second_moments=moments, contexts=contexts)
    sites = ("resid_post",) if method == "memit" else ("attn_out", "mlp_out")
    values = target_values(model, requests, contexts, layer=layers[-1], sites=sites, config=config)
    targets = torch.stack([value.value(site) for value in values])
    expected = naive_spread(
        model,
        requests,
        contexts,
        targets,
        layers=layers,
        moments=moments,
        weight=weight,
        root=method == "pmet",
        site=site,
    )
    assert patch.layers == layers
    for layer in layers:
        assert distance(patch.delta(layer), expected[layer]) < 2e-4, layer
        assert patch.left[layer].shape[1] == len(requests)
    return patch, targets


@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 2), (1,)], ids=str)
@pytest.mark.parametrize(("method", "make", "site"), METHODS)
def test_spreading_equals_changing_the_weights(family_model, family, method, make, site, layers):
    model = family_model(family)
    before = weights_hash(model)
    moments = moments_of(model, layers)
    assert_naive(model, [TOWER, TENNIS, NORWAY], CONTEXTS, method, make, site, layers, moments, 10.0)
    assert weights_hash(model) == before


@pytest.mark.parametrize(("method", "make", "site"), METHODS)
def test_a_beginning_of_sequence_token(bos_model, moments, method, make, site):
    assert_naive(bos_model, [TOWER, TENNIS], CONTEXTS, method, make, site, (1, 2, 4), moments, 15.0)


@pytest.mark.parametrize(("method", "make", "site"), METHODS)
def test_a_light_second_moment_reaches_the_targets(model, method, make, site):
    """Without anything to keep, the last layer closes whatever gap is left, for every fact in the batch."""
    requests = [TOWER, TENNIS, NORWAY]
    patch, targets = assert_naive(model, requests, (("{}",),), method, make, site, (1, 3), "identity", 1e-6)
    with patch.applied(model):
        reached = torch.stack([at_subject(model, request, f"blocks.3.hook_{site}") for request in requests])
    assert distance(reached, targets) < 1e-4


@pytest.mark.parametrize(("method", "make", "site"), METHODS)
def test_it_is_not_additive_over_facts(model, moments, method, make, site):
    config = make(layers=(1, 2), second_moment_weight=1.0, **QUICK)
    options = {"method": method, "config": config, "second_moments": moments, "contexts": CONTEXTS}
    whole = edit(model, [TOWER, TENNIS, NORWAY], **options)
    alone = edit_each(model, [TOWER, TENNIS, NORWAY], **options)
    assert distance(sum(patch.delta(2) for patch in alone), whole.delta(2)) > 1e-2


def test_the_weight_of_what_is_kept(model, moments):
    norms = [
        edit(
            model,
            [TOWER],
            method="memit",
            config=MemitConfig(layers=(2,), second_moment_weight=weight, **QUICK),
            second_moments=moments,
            contexts=["{}"],
        ).norms()[2]
        for weight in (1.0, 100.0, 10_000.0)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > 10 * norms[2]


def test_the_small_system_equals_the_large_one():
    draw = torch.Generator().manual_seed(0)
    root = torch.randn(40, 20, generator=draw)
    C, K = root.T @ root / 40, torch.randn(20, 6, generator=draw)
    found = Whitening({3: C}).regularised(3, K, 7.0)
    K = K.double()
    torch.testing.assert_close(found, torch.linalg.solve(7 * C.double() + K @ K.T, K), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("limit", [1, 12, 30])
def test_spreading_in_batches_some_of_which_hold_no_bare_prompt(model, moments, limit):
    """Rows of like length go together: the bare prompts, the shortest, come last."""
    contexts = context_kinds(["{}", "It is said that. {}", "As we have seen. {}"])
    targets = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    task = spread_task(model, [TOWER, TENNIS], contexts, moments, weight=15.0)
    whole = spread(task, targets, Spread(site="resid_post", divisor=float))
    split = spread(replace(task, max_batch_tokens=limit), targets, Spread(site="resid_post", divisor=float))
    for layer, (left, right, _) in whole.items():
        assert distance(split[layer][0] @ split[layer][1], left @ right) < 1e-5


def test_spread_alone_is_asked_for_targets_that_are_there_already(model, moments):
    targets = at_subject(model, TOWER, "blocks.2.hook_resid_post")[None]
    task = spread_task(model, [TOWER], CONTEXTS, moments, weight=1.0)
    factors = spread(task, targets, Spread(site="resid_post", divisor=float))
    for left, right, _ in factors.values():
        assert (left @ right).abs().max() < 1e-4


def spread_task(model, requests, contexts, moments, *, weight):
    return Task(
        model=model,
        requests=requests,
        config=MemitConfig(layers=(1, 2), second_moment_weight=weight),
        contexts=contexts,
        targets=(),
        whitening=Whitening(moments),
        max_batch_tokens=1024,
        model_provenance=provenance(model),
    )


# fine-tuning


def w_out_gradient(model, requests, layer):
    """Gradient of the mean over requests of the NLL per token, on W_out itself; and that loss."""
    copied = copy.deepcopy(model)
    W = copied.blocks[layer].mlp.W_out.requires_grad_()
    loss = 0
    for request in requests:
        ids = ids_of(model, request.fact.prompt)
        target = model.tokenizer(request.new_target, add_special_tokens=False)["input_ids"]
        logits = copied(torch.tensor([[*ids, *target[:-1]]]), prepend_bos=False)[0, len(ids) - 1 :]
        loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(target)) / len(requests)
    (gradient,) = torch.autograd.grad(loss, [W])
    return gradient, float(loss.detach())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_fine_tuning_steps_down_the_gradient(family_model, family, layer):
    model = family_model(family)
    requests = [TOWER, EditRequest(TENNIS.fact, new_target=" golf Paris")]
    gradient, loss = w_out_gradient(model, requests, layer)
    patch = edit(model, requests, method="ft-l", config=FtConfig(layer=layer, steps=2, learning_rate=1e-3, limit=1.0))
    large = gradient.abs() > 1e-4 * gradient.abs().max()
    torch.testing.assert_close(
        patch.dense[layer][large], -1e-3 * gradient[large].sign(), atol=2e-5 if large.any() else 0, rtol=0
    )
    none = edit(model, requests, method="ft-l", config=FtConfig(layer=layer, steps=1))
    assert none.dense[layer].abs().max() == 0
    assert sum(outcome.loss for outcome in none.outcomes) / 2 == pytest.approx(loss, rel=1e-4)


def test_fine_tuning_stays_within_its_limit_and_lowers_the_loss(model):
    config = FtConfig(layer=2, steps=15, learning_rate=1e-2, limit=4e-3)
    patch = edit(model, [TOWER, NORWAY], method="ft-l", config=config)
    delta = patch.delta(2)
    assert patch.layers == (2,)
    assert not patch.left
    assert delta.abs().max() <= 4e-3
    assert (delta.abs() == torch.tensor(4e-3)).float().mean() > 0.1  # it is the limit that holds it
    before = edit(model, [TOWER, NORWAY], method="ft-l", config=FtConfig(layer=2, steps=1))
    for start, end in zip(before.outcomes, patch.outcomes, strict=True):
        assert end.loss < start.loss
        assert end.optimised_probability == pytest.approx(float(torch.exp(torch.tensor(-end.loss))), rel=1e-5)
    with patch.applied(model):
        _, loss = w_out_gradient(model, [TOWER, NORWAY], 2)
    assert loss == pytest.approx(sum(o.loss for o in patch.outcomes) / 2, rel=1e-4)


def test_fine_tuning_stops_below_its_loss(model):
    patch = edit(
        model, [TOWER], method="ft-l", config=FtConfig(layer=2, steps=60, learning_rate=1e-2, limit=1.0, stop_loss=0.5)
    )
    assert patch.outcomes[0].loss < 0.5
    assert patch.outcomes[0].steps < 60
    assert patch.converged


# knowledge neurons


def test_knowledge_neurons_change_their_rows_alone(model):
    fact = Fact(
        template=TOWER.fact.template,
        subject=TOWER.fact.subject,
        target=" Paris",
        paraphrases=("Everybody knows that the {} is located in the city of",),
    )
    request = EditRequest(fact, new_target=" Rome")
    config = KnConfig(threshold=0.3, share=1.0, remove=2.0, insert=3.0, scale=0.5, max_neurons=3)
    patch = edit(model, [request], method="kn", config=config)
    found = [attribute(model, f, steps=8, rule="gauss-legendre") for f in (fact, *fact.paraphrased())]
    neurons = refined_neurons(found, threshold=0.3, share=1.0)[:3]
    assert len(neurons) > 0
    old, new = (model.tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in (" Paris", " Rome"))
    for layer in range(model.cfg.n_layers):
        W = model.blocks[layer].mlp.W_out
        expected = torch.zeros_like(W)
        for neuron in neurons:
            if neuron.layer == layer:
                row = 0.5 * W[neuron.neuron] - 2 * model.W_U[:, old] + 3 * model.W_U[:, new]
                expected[neuron.neuron] = row - W[neuron.neuron]
        if layer in patch.layers:
            torch.testing.assert_close(patch.delta(layer), expected, atol=1e-5, rtol=1e-5)
        else:
            assert not expected.any()


def test_erasing_knowledge_neurons(model):
    config = KnConfig(scale=0, remove=0, insert=0, max_neurons=5)
    patch = edit(model, [TENNIS], method="kn", config=config)  # no old answer: the model's own
    before = {layer: model.blocks[layer].mlp.W_out.clone() for layer in patch.layers}
    erased = 0
    with patch.applied(model):
        for layer, W in before.items():
            changed = (model.blocks[layer].mlp.W_out != W).any(1)
            torch.testing.assert_close(
                model.blocks[layer].mlp.W_out[changed], torch.zeros_like(W[changed]), atol=1e-6, rtol=0
            )
            erased += int(changed.sum())
    assert 0 < erased <= 5


def test_knowledge_neurons_move_away_from_the_models_own_answer(model):
    """Where the request has no old answer."""
    assert TENNIS.fact.target is None
    patch = edit(model, [TENNIS], method="kn", config=KnConfig(remove=2.0, insert=0, max_neurons=3))
    ids = tokens.tokenize(model, TENNIS.fact).ids
    top = int(model(ids[None], prepend_bos=False)[0, -1].argmax())
    moved = 0
    for layer in patch.layers:
        delta = patch.delta(layer)
        rows = delta[delta.abs().amax(1) > 0]
        torch.testing.assert_close(rows, (-2 * model.W_U[:, top]).expand_as(rows), atol=1e-5, rtol=1e-5)
        moved += len(rows)
    assert 0 < moved <= 3


def test_leaving_knowledge_neurons_as_they_are(model):
    patch = edit(model, [TENNIS], method="kn", config=KnConfig(scale=1, remove=0, insert=0))
    assert all(not patch.delta(layer).any() for layer in patch.layers)


def test_no_knowledge_neuron(model):
    with pytest.raises(NumericalError, match=r"no knowledge neuron of .* passes threshold 1"):
        edit(model, [TOWER], method="kn", config=KnConfig(threshold=1))


# what is refused


def test_a_singular_second_moment(model, moments):
    few = torch.randn(100, model.cfg.d_mlp)
    broken = moments[2].clone()
    broken[0, 0] = float("nan")
    for C in (few.T @ few, broken, -moments[2], torch.zeros_like(broken)):
        with pytest.raises(
            NumericalError, match="second moment of layer 2 is singular for its size 256: use more tokens"
        ):
            edit(model, [TOWER], config=RomeConfig(layer=2, steps=1), second_moments={2: C}, contexts=["{}"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({1: torch.eye(256)}, r"layer 2 has no second moment; given are layers \[1\]"),
        ({2: torch.eye(64)}, r"the second moment of layer 2 is \(64, 64\), expected \(256, 256\)"),
        ("eye", "second_moments must map layers to C, or be 'identity', got 'eye'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_second_moments_that_do_not_fit(model, given, message):
    with pytest.raises(OptionError, match=message):
        edit(model, [TOWER], config=RomeConfig(layer=2, steps=1), second_moments=given, contexts=["{}"])


@pytest.mark.parametrize(
    ("requests", "options", "error", "message"),
    [
        ([], {}, OptionError, "nothing to edit: no requests"),
        ([TOWER, NORWAY], {}, OptionError, "rome edits one fact at a time, got 2 requests: use edit_sequentially"),
        ([TOWER, NORWAY], {"method": "r-rome"}, OptionError, "r-rome edits one fact at a time"),
        ([TOWER, NORWAY], {"method": "kn"}, OptionError, "kn edits one fact at a time"),
        ([TOWER], {"config": RomeConfig(layer=6)}, OptionError, "layer 6 does not exist: .* has layers 0 to 5"),
        ([TOWER], {"method": "roma"}, OptionError, "did you mean 'rome'"),
        ([TOWER], {"method": "memit", "config": RomeConfig(layer=1)}, OptionError, "memit takes a MemitConfig"),
        ([TOWER, TOWER], {"method": "memit"}, OptionError, "requests 0 and 1 contradict each other or repeat"),
        ([TOWER], {"contexts": ["So. {}"]}, OptionError, "the first context must be the bare prompt"),
        (
            [EditRequest(Fact(template="word " * 60 + "{} is", subject="Norway"), new_target=" Lima")],
            {},
            FactError,
            "request 0: the prompt .* the model's context holds 64",
        ),
    ],
)
def test_refused(model, requests, options, error, message):
    with pytest.raises(error, match=message):
        edit(model, requests, **{"second_moments": "identity", "contexts": ["{}"], **options})


def test_a_context_that_is_too_long(model):
    with pytest.raises(FactError, match="the model's context holds 64"):
        edit(model, [TOWER], second_moments="identity", contexts=["{}", "word " * 60 + "{}"])


@pytest.mark.parametrize("target", ["", "  "])
def test_an_empty_target(target):
    with pytest.raises(FactError, match=r"the new target of .* is empty"):
        EditRequest(TOWER.fact, new_target=target)


def test_a_target_that_is_no_token(model, monkeypatch):
    whole = tokens._encode
    monkeypatch.setattr(tokens, "_encode", lambda m, text: whole(m, text.removesuffix(" Rome")))
    with pytest.raises(FactError, match=r"request 0: the target ' Rome' .*no token"):
        edit(model, [TOWER], second_moments="identity", contexts=["{}"])


PROCESSED = [{"fold_ln": True, "center_writing_weights": True}, {"fold_ln": False, "center_writing_weights": True}]


@pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")
@pytest.mark.parametrize("options", PROCESSED)
@pytest.mark.parametrize(
    ("method", "config"),
    [("rome", RomeConfig(layer=2)), ("memit", MemitConfig(layers=(1, 2), second_moment_weight=1.0))],
)
def test_edits_of_processed_models_hold_in_them_and_stay_there(tiny, moments, options, method, config, tmp_path):
    """Folded norms and centred weights change no logit: what is optimised is what the patched model says."""
    processed = copy.deepcopy(tiny)
    processed.process_weights_(**options, center_unembed=False, refactor_factored_attn_matrices=False)
    patch = edit(processed, [TOWER], method=method, config=config, second_moments=moments, contexts=["{}"])
    plain = edit(tiny, [TOWER], method=method, config=config, second_moments=moments, contexts=["{}"])
    assert patch.took is plain.took
    assert patch.outcomes[0].probability == pytest.approx(plain.outcomes[0].probability, abs=0.1)
    ids = torch.tensor([ids_of(processed, TOWER.fact.prompt)])
    before = processed(ids, prepend_bos=False)
    with patch.applied(processed):
        probability = processed(ids, prepend_bos=False)[0, -1].softmax(-1)[ids_of(processed, TOWER.new_target)[0]]
    assert float(probability) == pytest.approx(patch.outcomes[0].probability, rel=1e-3)
    assert torch.equal(processed(ids, prepend_bos=False), before)
    with pytest.raises(ModelError, match="the patch was made for"):
        patch.apply(tiny)
    with pytest.raises(ModelError, match=r"was processed .*load it with interp\.load_model and edit that"):
        export_lora(patch, processed, tmp_path / "out")


def test_knowledge_neurons_do_not_move_along_folded_directions(tiny):
    processed = copy.deepcopy(tiny)
    processed.process_weights_(**PROCESSED[0], center_unembed=False, refactor_factored_attn_matrices=False)
    with pytest.raises(ModelError, match=r"was processed .*: kn moves neurons along columns of W_U"):
        edit(processed, [TOWER], method="kn")


@pytest.mark.parametrize("call", [edit, edit_each, edit_sequentially])
@pytest.mark.parametrize("method", ["rome", "memit", "pmet", "ft-l", "kn"])
def test_stopped_midway_the_model_is_as_before(model, call, method):
    """The fixture compares all bits."""
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) == 2 or (call is edit and method == "kn"):
            raise KeyboardInterrupt

    options = {} if not editor_named(method).sites else {"second_moments": "identity", "contexts": ["{}"]}
    with pytest.raises(KeyboardInterrupt):
        call(model, [TOWER] if call is edit else [TOWER, NORWAY], method=method, progress=stop, **options)
    assert calls


def test_an_edit_that_fails_after_another_leaves_the_model_as_before(model, moments):
    seen = []

    def fail(done, total):
        seen.append(applied_patches(model))
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        edit_sequentially(model, [TOWER, NORWAY], second_moments=moments, contexts=["{}"], progress=fail)
    assert len(seen[0]) == 1


def test_a_saved_edit_says_how_it_was_made(model, moments, tmp_path):
    config = RomeConfig(layer=2, **QUICK)
    patch = edit(model, [TOWER], config=config, second_moments=moments, contexts=["{}"])
    patch.save(tmp_path / "patch.safetensors")
    loaded = type(patch).load(tmp_path / "patch.safetensors")
    assert RomeConfig(**loaded.config) == config
    assert loaded.requests == (TOWER,)
    assert loaded.outcomes == patch.outcomes
    assert torch.equal(loaded.delta(2), patch.delta(2))


@pytest.mark.real_model
@pytest.mark.filterwarnings("ignore:.* rest on too little text:interp.errors.InterpWarning")
def test_the_eiffel_tower_moves_to_rome(real_model):
    fact = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    before = weights_hash(real_model)
    moments = second_moments(real_model, [4], Corpus(tokens=4096), cache=None)
    patch = edit(
        real_model, [EditRequest(fact, new_target=" Rome")], config=RomeConfig(layer=4), second_moments=moments
    )
    with patch.applied(real_model), torch.no_grad():
        logits = real_model(torch.tensor([tokens.encode(real_model, fact.prompt)]), prepend_bos=False)[0, -1]
    _, (rome,) = tokens.encode_continuation(real_model, fact.prompt, " Rome")
    assert logits.softmax(-1)[rome] > 0.9
    assert patch.converged
    assert weights_hash(real_model) == before
