"""Target values against full forward passes of whole prompts, against the published numbers, and batched."""

import contextlib
import copy
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from interp.editing import MemitConfig, PmetConfig, RomeConfig, TargetConfig, target_values
from interp.errors import NumericalError
from interp.facts.records import EditRequest, Fact
from tests.mlp_norms import changing, norm_after, returned_by_w_out

CONTEXTS = (("{}",), ("The. {}", "It is so. {}"))
TOWER = EditRequest(Fact(template="The {} is located in the city of", subject="Eiffel Tower"), new_target=" Rome")
TENNIS = EditRequest(Fact(template="{} plays the sport of", subject="Serena Williams"), new_target=" golf Paris")
NORWAY = EditRequest(Fact(template="{} is governed from", subject="Norway"), new_target=" Lima")
MESSI = EditRequest(Fact(template="{} is famous for playing", subject="Lionel Messi"), new_target=" cricket")
SITES = [("mlp_out",), ("resid_post",), ("attn_out", "mlp_out")]


def ids_of(model, text, *, begins=True):
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [model.tokenizer.bos_token_id, *ids] if begins and model.cfg.default_prepend_bos else ids


def brute_force(model, request, contexts, *, layer, sites, config):
    """Whole prompts, one at a time, with all their tokens and layers, and all the words of the papers."""
    target = ids_of(model, request.new_target, begins=False)
    rows = []  # ids, last subject token, position that predicts the target's first token
    for template in [context for kind in contexts for context in kind]:
        text = template.replace("{}", request.fact.prompt)
        end = text.index(request.fact.subject) + len(request.fact.subject)
        ids = ids_of(model, text)
        rows.append(([*ids, *target[:-1]], len(ids_of(model, text[:end])) - 1, len(ids) - 1))
    essence = ids_of(model, f"{request.fact.subject} is a")
    essence_at = len(ids_of(model, request.fact.subject)) - 1
    norm = norm_after(model, layer)  # only what passes it can be moved: u for the MLP's output and for the stream
    moved = [site if norm is None or site == "attn_out" else "mlp_out" for site in sites]
    units, initial = [1.0] * len(sites), None

    def added(i, deltas):
        if norm is None or moved[i] != "mlp_out" or initial is None:
            return deltas[i]
        was = units[i] * initial[i]
        aimed = was + units[i] * deltas[i]
        return aimed * was.norm() / aimed.norm() - was

    def forward(ids, at, deltas):
        seen = {}

        def change(value, site):
            seen[site] = value[0, at].detach().clone()
            value = value.clone()
            value[0, at] += added(moved.index(site), deltas)
            return value

        hooks = [
            (f"blocks.{layer}.hook_{site}", lambda value, hook, site=site: change(value, site))
            for site in moved
            if site != "mlp_out"
        ]
        before_norm = contextlib.nullcontext()
        if "mlp_out" in moved:
            before_norm = changing(model, layer, lambda value: change(value, "mlp_out"))
        with before_norm:
            logits = model.run_with_hooks(torch.tensor([ids]), prepend_bos=False, fwd_hooks=hooks)
        return logits[0].log_softmax(-1), [seen[site] for site in moved]

    zero = [torch.zeros(model.cfg.d_model) for _ in sites]
    initial = forward(rows[0][0], rows[0][1], zero)[1]
    if norm is not None:
        for i, site in enumerate(moved):
            if site == "mlp_out":
                units[i] = initial[i].norm() / norm(initial[i][None])[0].norm()
        initial = [value / unit for value, unit in zip(initial, units, strict=True)]
    before = forward(essence, essence_at, zero)[0][essence_at].detach()
    deltas = [z.clone().requires_grad_() for z in zero]
    adam = torch.optim.Adam(deltas, lr=config.learning_rate)
    factor, clamped = 1.0, False
    for step in range(1, config.steps + 1):
        nll, probability, top = 0.0, 0.0, True
        for ids, at, first in rows:
            log_p = forward(ids, at, deltas)[0]
            each = torch.stack([log_p[first + i, token] for i, token in enumerate(target)])
            nll = nll - each.mean() / len(rows)
            probability += float(each.detach().mean().exp()) / len(rows)
            top &= all(int(log_p[first + i].argmax()) == token for i, token in enumerate(target))
        now = forward(essence, essence_at, deltas)[0][essence_at]
        divergence = torch.nn.functional.kl_div(before, now, reduction="sum", log_target=True)  # D(now || before)
        decay = sum(config.weight_decay * d.norm() / v.norm() ** 2 for d, v in zip(deltas, initial, strict=True))
        loss = factor * nll + config.kl_weight * divergence + decay
        done = loss < config.stop_loss
        if isinstance(config, PmetConfig) and top:
            factor = 0.1
            done |= config.kl_weight * divergence <= 0.01
        if done or step == config.steps:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        for delta, value in zip(deltas, initial, strict=True):
            radius = config.clamp * value.norm()
            if delta.norm() > radius:
                delta.data *= radius / delta.norm()
                clamped = True
    loss, divergence = loss.detach(), divergence.detach()
    deltas = [added(i, deltas).detach() for i in range(len(sites))]
    initial = [unit * value for unit, value in zip(units, initial, strict=True)]
    if norm is not None and sites == ("resid_post",):
        deltas = [norm((initial[0] + deltas[0])[None])[0] - norm(initial[0][None])[0]]
        _, cache = model.run_with_cache(torch.tensor([rows[0][0]]), prepend_bos=False)
        initial = [cache[f"blocks.{layer}.hook_resid_post"][0, rows[0][1]]]
    return {
        "delta": dict(zip(sites, deltas, strict=True)),
        "initial": dict(zip(sites, initial, strict=True)),
        "loss": float(loss),
        "divergence": float(divergence),
        "probability": probability,
        "converged": top,
        "steps": step,
        "clamped": clamped,
    }


def assert_same(found, expected, rtol=1e-3):
    assert found.steps == expected["steps"]
    assert found.converged == expected["converged"]
    for name in ("loss", "divergence", "probability"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=rtol, abs=1e-5), name
    for site, delta in expected["delta"].items():
        torch.testing.assert_close(found.initial[site], expected["initial"][site], atol=1e-4, rtol=1e-4)
        assert float((found.delta[site] - delta).norm()) <= rtol * float(delta.norm())
        torch.testing.assert_close(found.value(site), found.initial[site] + found.delta[site])


@pytest.mark.parametrize("sites", SITES, ids="+".join)
def test_every_family_equals_whole_prompts(family_model, family, sites):
    model = family_model(family)
    config = TargetConfig(steps=5, learning_rate=0.3, weight_decay=2.0, clamp=0.9, kl_weight=0.5)
    found = target_values(model, [TENNIS], CONTEXTS, layer=1, sites=sites, config=config)[0]
    expected = brute_force(model, TENNIS, CONTEXTS, layer=1, sites=sites, config=config)
    assert_same(found, expected)
    assert expected["divergence"] > 1e-3


@pytest.mark.parametrize("sites", SITES, ids="+".join)
@pytest.mark.parametrize("clamp", [0.2, 50.0])
def test_clamp(tiny, sites, clamp):
    config = TargetConfig(steps=6, clamp=clamp)
    found = target_values(tiny, [TOWER], CONTEXTS, layer=2, sites=sites, config=config)[0]
    expected = brute_force(tiny, TOWER, CONTEXTS, layer=2, sites=sites, config=config)
    assert expected["clamped"] == (clamp < 1)
    assert_same(found, expected)
    for site in sites:
        assert (float(found.delta[site].norm()) <= clamp * float(found.initial[site].norm()) * 1.0001) or clamp > 1


@pytest.mark.parametrize("sites", SITES, ids="+".join)
def test_a_beginning_of_sequence_token(bos_model, sites):
    config = TargetConfig(steps=5)
    found = target_values(bos_model, [TENNIS], CONTEXTS, layer=2, sites=sites, config=config)[0]
    assert_same(found, brute_force(bos_model, TENNIS, CONTEXTS, layer=2, sites=sites, config=config))


@pytest.mark.parametrize("sites", SITES, ids="+".join)
def test_at_the_last_layer_nothing_carries_the_change_on(tiny, sites):
    """The answer is predicted from later tokens, which see no block above: its probability stays."""
    config = TargetConfig(steps=3)
    found = target_values(tiny, [TOWER], CONTEXTS, layer=5, sites=sites, config=config)[0]
    before = target_values(tiny, [TOWER], CONTEXTS, layer=2, sites=sites, config=TargetConfig(steps=1))[0]
    assert found.probability == pytest.approx(before.probability, rel=1e-4)
    assert before.divergence == pytest.approx(0, abs=1e-6)
    assert found.divergence > 1e-3  # "{subject} is a" is read at the subject itself, which moved


@pytest.mark.parametrize("layer", [0, 4])
@pytest.mark.parametrize("sites", SITES, ids="+".join)
def test_first_layer_and_the_one_below_the_last(tiny, sites, layer):
    config = TargetConfig(steps=4)
    found = target_values(tiny, [TOWER], CONTEXTS, layer=layer, sites=sites, config=config)[0]
    assert_same(found, brute_force(tiny, TOWER, CONTEXTS, layer=layer, sites=sites, config=config))


def test_stops_below_the_loss(tiny):
    config = TargetConfig(steps=30, weight_decay=0.01, stop_loss=2.0)
    found = target_values(tiny, [TOWER], CONTEXTS, layer=2, sites=("mlp_out",), config=config)[0]
    expected = brute_force(tiny, TOWER, CONTEXTS, layer=2, sites=("mlp_out",), config=config)
    assert 2 < expected["steps"] < 30
    assert expected["loss"] < 2
    assert_same(found, expected)


@pytest.mark.parametrize(("clamp", "ends_early"), [(0.75, True), (6.0, False)])
def test_pmet_lowers_the_weight_of_a_target_that_is_on_top(tiny, clamp, ends_early):
    sites = ("attn_out", "mlp_out")
    config = PmetConfig(layers=(1,), weight_decay=0.01, clamp=clamp, steps=25)
    found = target_values(tiny, [TOWER], (("{}",),), layer=1, sites=sites, config=config)[0]
    expected = brute_force(tiny, TOWER, (("{}",),), layer=1, sites=sites, config=config)
    assert expected["converged"]
    assert (expected["steps"] < 25) == ends_early
    assert expected["loss"] > config.stop_loss  # what ended it is the divergence
    assert_same(found, expected)
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(MemitConfig)}
    without = target_values(tiny, [TOWER], (("{}",),), layer=1, sites=sites, config=MemitConfig(**shared))[0]
    assert without.steps == 25  # the rule is PMET's


def test_pmet_stops_by_the_weighted_divergence(tiny):
    sites = ("attn_out", "mlp_out")
    config = PmetConfig(layers=(1,), weight_decay=0.01, clamp=0.75, steps=25, kl_weight=0.05)
    found = target_values(tiny, [TOWER], (("{}",),), layer=1, sites=sites, config=config)[0]
    expected = brute_force(tiny, TOWER, (("{}",),), layer=1, sites=sites, config=config)
    assert found.steps < 25
    assert config.kl_weight * found.divergence <= 0.01 < found.divergence  # by itself it would not have ended it
    assert_same(found, expected)


@pytest.mark.parametrize("sites", SITES, ids="+".join)
@pytest.mark.parametrize("limit", [4096, 1, 60])
def test_a_batch_gives_each_fact_what_it_gets_alone(tiny, sites, limit):
    """Facts of different lengths, with targets of different lengths, that stop at different steps."""
    requests = [TOWER, TENNIS, NORWAY, MESSI]
    config = TargetConfig(steps=12, weight_decay=0.01, stop_loss=2.5)
    alone = [target_values(tiny, [r], CONTEXTS, layer=2, sites=sites, config=config)[0] for r in requests]
    assert len({value.steps for value in alone}) > 1
    together = target_values(tiny, requests, CONTEXTS, layer=2, sites=sites, config=config, max_batch_tokens=limit)
    for one, other in zip(together, alone, strict=True):
        assert_same(one, {**vars(other)}, rtol=1e-4)
        torch.testing.assert_close(one.keys, other.keys, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.outputs, other.outputs, atol=1e-5, rtol=1e-4)


def test_keys_and_outputs_are_those_of_the_last_subject_token(family_model, family):
    model = family_model(family)
    config = TargetConfig(steps=1)
    found = target_values(model, [TOWER, TENNIS], CONTEXTS, layer=1, sites=("mlp_out",), config=config)
    flat = [context for kind in CONTEXTS for context in kind]
    for request, value in zip((TOWER, TENNIS), found, strict=True):
        for i, template in enumerate(flat):
            text = template.replace("{}", request.fact.prompt)
            at = len(ids_of(model, text[: text.index(request.fact.subject) + len(request.fact.subject)])) - 1
            _, cache = model.run_with_cache(torch.tensor([ids_of(model, text)]), prepend_bos=False)
            torch.testing.assert_close(value.keys[i], cache["blocks.1.mlp.hook_post"][0, at], atol=1e-4, rtol=1e-4)
            u = returned_by_w_out(model, 1, torch.tensor([ids_of(model, text)]))
            torch.testing.assert_close(value.outputs[i], u[0, at], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("method", "sites"), [("memit", ("resid_post",)), ("pmet", ("attn_out", "mlp_out"))])
def test_published_targets(tiny, golden, method, sites):
    record = json.loads((golden / f"{method}.json").read_text())
    update = load_file(golden / f"{method}_update.safetensors")
    requests = [
        EditRequest(Fact(template=r["prompt"], subject=r["subject"]), new_target=r["target_new"])
        for r in record["requests"]
    ]
    config = (MemitConfig if method == "memit" else PmetConfig)(layers=(1, 2, 3))
    contexts = tuple(map(tuple, record["context_templates"]))
    found = target_values(tiny, requests, contexts, layer=3, sites=sites, config=config)
    names = {"resid_post": "z", "attn_out": "target_attn", "mlp_out": "target_mlp"}
    for i, value in enumerate(found):
        for site in sites:
            expected = update[f"{names[site]}_{i}"]
            assert float((value.value(site) - expected).norm()) < 1e-4 * float(expected.norm())


def test_progress_counts_to_the_end(tiny):
    calls = []
    config = TargetConfig(steps=5, weight_decay=0.01, stop_loss=3.0)
    target_values(
        tiny,
        [TOWER, TENNIS, NORWAY],
        CONTEXTS,
        layer=2,
        sites=("mlp_out",),
        config=config,
        max_batch_tokens=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (15, 15)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_loss_that_is_not_finite_is_refused(tiny, facts):
    config = RomeConfig(layer=2, steps=3, learning_rate=1e3, clamp=1e6, weight_decay=1e6)
    damaged = torch.full((tiny.cfg.d_model,), float("inf"))
    with (
        pytest.raises(NumericalError, match="NaN or infinite"),
        tiny.hooks([("blocks.4.hook_mlp_out", lambda v, hook: v + damaged)]),
    ):
        target_values(tiny, [TOWER], (("{}",),), layer=2, sites=("mlp_out",), config=config)
    assert all(not hook.fwd_hooks for hook in tiny.hook_dict.values())


def test_leaves_no_gradient(tiny):
    target_values(tiny, [TOWER], CONTEXTS, layer=2, sites=("mlp_out",), config=TargetConfig(steps=2))
    assert all(p.grad is None and not p.requires_grad for p in tiny.parameters())


def test_a_loss_that_is_not_finite_names_its_request(tiny):
    """A layer that returns nothing has no |v0| to weigh the change by."""
    silent = copy.deepcopy(tiny)
    silent.blocks[1].mlp.W_out.data.zero_()
    silent.blocks[1].mlp.b_out.data.zero_()
    config = RomeConfig(layer=1, steps=3)
    with pytest.raises(NumericalError, match=r"target value of request 0 has the loss \[nan, nan\] at step 0"):
        target_values(silent, [TOWER, NORWAY], CONTEXTS, layer=1, sites=("mlp_out",), config=config)
