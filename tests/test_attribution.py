"""Attribution scores against brute force, their completeness, and their definitions."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks.baseline import attribute_layers
from interp.engine.integrated_gradients import quadrature
from interp.errors import DataError, OptionError
from interp.facts.records import Fact
from interp.locate.methods.attribution import Attribution, AttributionSums, attribute
from interp.locate.methods.attribution_record import KEPT, AttributionMap
from interp.locate.refined import refined_neurons
from interp.models.load import load_model
from interp.models.tokens import tokenize
from interp.results.record import provenance
from tests.conftest import FAMILIES, GOLDEN


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize(("tokens", "key"), [("last", "last_token"), ("all", "all_tokens")])
def test_brute_force_numbers(tiny, facts, golden, index, tokens, key):
    scores = load_file(golden / "attribution.safetensors")[f"fact_{index}.{key}"]
    expected = json.loads((golden / "attribution.json").read_text())["facts"][index]
    found = attribute(tiny, facts[index], tokens=tokens, max_batch_tokens=100)
    torch.testing.assert_close(found.scores, scores, atol=1e-5, rtol=0)
    assert found.probability == pytest.approx(expected["probability"], abs=1e-5)
    prefix = key.split("_")[0]
    for row in expected["completeness"]:
        assert found.change[row["layer"]] == pytest.approx(row[f"{prefix}_exact"], abs=1e-5)
        gap = row[f"{prefix}_exact"] - row[f"{prefix}_sum"]
        assert found.completeness_gap[row["layer"]] == pytest.approx(gap, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_full_passes(family_model, family):
    model = family_model(family)
    fact = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    ids, answer = tokenize(model, fact).ids, tokenize(model, fact).target_ids[0]
    single = Fact(template=fact.template, subject=fact.subject, target=model.tokenizer.decode([answer]))
    if tokenize(model, single).target_ids != (answer,):
        pytest.fail("the target must be one token for the baseline")
    for tokens, positions in (("last", slice(len(ids) - 1, None)), ("all", slice(None))):
        found = attribute(model, single, tokens=tokens, steps=4)
        expected = attribute_layers(model, ids, answer, steps=4, positions=positions)
        got = found.scores[:, None] if tokens == "last" else found.scores
        torch.testing.assert_close(got, expected, atol=1e-8, rtol=1e-3)


def test_gauss_legendre_closes_the_completeness_gap(tiny, facts):
    coarse = attribute(tiny, facts[0], rule="riemann", steps=20)
    fine = attribute(tiny, facts[0], rule="gauss-legendre", steps=20)
    assert coarse.completeness_gap.abs().max() > 0.05
    assert fine.completeness_gap.abs().max() < 0.01
    torch.testing.assert_close(fine.change, coarse.change, atol=1e-6, rtol=0)
    torch.testing.assert_close(fine.scores.sum(-1) + fine.completeness_gap, fine.change, atol=1e-6, rtol=0)


def test_each_token_by_itself(tiny, facts):
    each = attribute(tiny, facts[0], tokens="each", steps=5)
    last = attribute(tiny, facts[0], tokens="last", steps=5)
    torch.testing.assert_close(each.scores[:, -1], last.scores, atol=1e-7, rtol=0)
    ids = tokenize(tiny, facts[0]).ids
    for token in (0, 3):
        expected = attribute_layers(
            tiny, ids, tokenize(tiny, facts[0]).target_ids[0], steps=5, positions=slice(token, token + 1)
        )
        torch.testing.assert_close(each.scores[:, token : token + 1], expected, atol=1e-6, rtol=0)
    assert each.completeness_gap.shape == each.change.shape == (6, len(ids))


def test_targets_of_several_tokens_average_their_own_predictions(tiny):
    fact = Fact(template="{} is governed from", subject="Norway", target=" Oslo Tokyo")
    tokenized = tokenize(tiny, fact)
    targets = tokenized.target_ids
    assert len(targets) >= 2
    extended = torch.cat([tokenized.ids, torch.tensor(targets[:-1])])
    last = attribute(tiny, fact, tokens="last", steps=4)
    joint = attribute(tiny, fact, tokens="all", steps=4)
    each = attribute(tiny, fact, tokens="each", steps=4)
    expected_last, expected_joint = 0, torch.zeros_like(joint.scores)
    for j, target in enumerate(targets):
        ids = extended[: len(tokenized.ids) + j]
        part = attribute_layers(tiny, ids, target, steps=4, positions=slice(len(ids) - 1, len(ids)))
        expected_last = expected_last + part[:, 0] / len(targets)
        whole = attribute_layers(tiny, ids, target, steps=4, positions=slice(None))
        expected_joint[:, : len(ids)] += whole / len(targets)
    torch.testing.assert_close(last.scores, expected_last, atol=1e-6, rtol=0)
    torch.testing.assert_close(joint.scores, expected_joint, atol=1e-6, rtol=0)
    token = 1
    expected_each = sum(
        attribute_layers(tiny, extended[: len(tokenized.ids) + j], target, steps=4, positions=slice(token, token + 1))[
            :, 0
        ]
        / len(targets)
        for j, target in enumerate(targets)
    )
    torch.testing.assert_close(each.scores[:, token], expected_each, atol=1e-6, rtol=0)
    assert joint.tokens == tuple(tiny.tokenizer.decode([i]) for i in extended)
    assert joint.per_token().shape == (len(tokenized.ids), 6)


@pytest.mark.parametrize("tokens", ["last", "all", "each"])
@pytest.mark.parametrize("family", FAMILIES)
def test_targets_of_several_tokens_equal_full_passes_in_every_layer(family_model, family, tokens):
    """Also in the last one, where scaling acts on the tokens that are read themselves, whichever of them it is."""
    model = family_model(family)
    fact = Fact(template="{} is governed from", subject="Norway", target=" Oslo Tokyo")
    tokenized = tokenize(model, fact)
    targets, n_prompt, steps = tokenized.target_ids, len(tokenized.ids), 2
    assert len(targets) >= 2
    extended = torch.cat([tokenized.ids, torch.tensor(targets[:-1])])
    found = attribute(model, fact, tokens=tokens, steps=steps)

    def part(j, positions):
        ids = extended[: n_prompt + j]
        return attribute_layers(model, ids, targets[j], steps=steps, positions=positions, along=extended)

    if tokens == "all":
        expected = torch.zeros_like(found.scores)
        for j in range(len(targets)):
            expected[:, : n_prompt + j] += part(j, slice(None)) / len(targets)
        torch.testing.assert_close(found.scores, expected, atol=1e-9, rtol=1e-3)
    elif tokens == "last":
        expected = sum(part(j, slice(n_prompt + j - 1, n_prompt + j)) for j in range(len(targets)))[:, 0] / len(targets)
        torch.testing.assert_close(found.scores, expected, atol=1e-9, rtol=1e-3)
    else:
        for token in (1, n_prompt - 1, n_prompt, len(extended) - 1):
            answers = range(max(0, token - n_prompt + 1), len(targets))
            expected = sum(part(j, slice(token, token + 1))[:, 0] for j in answers) / len(targets)
            torch.testing.assert_close(found.scores[:, token], expected, atol=1e-9, rtol=1e-3)
            assert (found.scores[-1, token].abs().max() > 0) == (token >= n_prompt - 1)


@pytest.mark.parametrize("token", [1, -2, -1])
def test_the_change_is_that_of_erasing_one_token_in_one_layer(tiny, token):
    fact = Fact(template="{} is governed from", subject="Norway", target=" Oslo Tokyo")
    tokenized = tokenize(tiny, fact)
    extended = torch.cat([tokenized.ids, torch.tensor(tokenized.target_ids[:-1])])
    token %= len(extended)
    found = attribute(tiny, fact, tokens="each", steps=40, rule="gauss-legendre")
    answers_at = len(tokenized.ids) - 1
    for layer in range(tiny.cfg.n_layers):

        def erase(value, hook):
            value[:, token] = 0
            return value

        def probability(hooks):
            logits = tiny.run_with_hooks(extended[None], prepend_bos=False, fwd_hooks=hooks)[0, answers_at:]
            return logits.softmax(-1).gather(-1, torch.tensor(tokenized.target_ids)[:, None]).mean()

        with torch.no_grad():
            change = probability([]) - probability([(f"blocks.{layer}.mlp.hook_post", erase)])
        assert found.change[layer, token] == pytest.approx(float(change), abs=1e-6)
        assert found.scores[layer, token].sum() == pytest.approx(float(change), abs=2e-4)


def test_inference_mode_makes_no_difference(tiny, facts):
    expected = attribute(tiny, facts[0], steps=3)
    with torch.inference_mode():
        found = attribute(tiny, facts[0], steps=3)
        model = load_model(GOLDEN / "tiny-gpt2", device="cpu")
    assert torch.equal(found.scores, expected.scores)
    with pytest.raises(OptionError, match=r"were made under torch.inference_mode.*load the model outside"):
        attribute(model, facts[0])


def test_a_model_that_is_being_trained_is_left_as_it_is(tiny, facts):
    expected = attribute(tiny, facts[0], tokens="all", steps=3)
    tiny.requires_grad_(True)
    try:
        found = attribute(tiny, facts[0], tokens="all", steps=3)
        assert all(parameter.grad is None for parameter in tiny.parameters())
    finally:
        tiny.requires_grad_(False)
    assert not found.scores.requires_grad
    assert torch.equal(found.scores, expected.scores)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["riemann", "gauss-legendre"]), st.integers(1, 60), st.integers(0, 5))
def test_quadrature_integrates_polynomials(rule, steps, degree):
    nodes, weights = quadrature(rule, steps)
    assert weights.sum() == pytest.approx(1)
    assert ((nodes > 0) & (nodes <= 1)).all()
    error = abs((weights * nodes**degree).sum() - 1 / (degree + 1))
    assert error <= (1e-12 if rule == "gauss-legendre" and degree < 2 * steps else 1 / steps)
    if rule == "riemann":
        np.testing.assert_allclose(nodes, [(k + 1) / steps for k in range(steps)])


def test_top_neurons_and_reductions(tiny, facts):
    found = attribute(tiny, facts[0], tokens="all", steps=4)
    best = found.top_neurons(5)
    assert [n.score for n in best] == sorted((n.score for n in best), reverse=True)
    for neuron in best:
        assert found.scores[neuron.layer, neuron.token, neuron.neuron] == pytest.approx(neuron.score)
    assert best[0].score == pytest.approx(float(found.scores.max()))
    torch.testing.assert_close(found.per_token("sum"), found.scores.sum(-1).T)
    torch.testing.assert_close(found.per_token("mean"), found.scores.mean(-1).T)
    torch.testing.assert_close(found.per_layer(), found.scores.sum((1, 2)))
    torch.testing.assert_close(found.per_layer("mean"), found.scores.mean((1, 2)))
    last = attribute(tiny, facts[0], steps=4)
    assert last.top_neurons(1)[0].token is None
    with pytest.raises(OptionError, match="per token need"):
        last.per_token()
    with pytest.raises(OptionError, match="at most the number of scores"):
        last.top_neurons(10**9)
    with pytest.raises(OptionError, match=r"^k must be a positive whole number, got 0"):
        last.top_neurons(0)


def test_refined_neurons_are_those_that_paraphrases_share(tiny, facts):
    prompts = (facts[0].template, "Everybody knows that the {} is located in the city of")
    found = [
        attribute(tiny, Fact(template=t, subject=facts[0].subject, target=facts[0].target), steps=4) for t in prompts
    ]
    strict = refined_neurons(found, threshold=0.3, share=1.0)
    scores = [a.scores for a in found]
    expected = {
        (layer, i) for layer in range(6) for i in range(256) if all(s[layer, i] > 0.3 * s.max() for s in scores)
    }
    assert {(n.layer, n.neuron) for n in strict} == expected
    assert expected
    loose = refined_neurons(found, threshold=0.3, share=0.5)
    assert {(n.layer, n.neuron) for n in loose} > expected
    with pytest.raises(OptionError, match="share must lie in"):
        refined_neurons(found, share=0)
    with pytest.raises(OptionError, match="at least one"):
        refined_neurons([])
    with pytest.raises(OptionError, match="one answer"):
        refined_neurons([found[0], attribute(tiny, facts[1], steps=4)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "first"}, "tokens must be one of 'last', 'all', 'each', got 'first'"),
        ({"rule": "rieman"}, "did you mean 'riemann'"),
        ({"steps": 0}, "steps must be a positive whole number, got 0"),
        ({"steps": 10**9}, "steps must be at most 100,000 (an error of about"),
        ({"steps": 60_000, "rule": "gauss-legendre"}, "steps must be at most 1,000 (a hundred nodes are exact"),
        ({"max_batch_tokens": 10**9}, "max_batch_tokens must be at most"),
        ({"max_batch_tokens": 0}, "max_batch_tokens must be a positive"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_options(tiny, facts, options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        attribute(tiny, facts[0], **options)


@pytest.mark.usefixtures("unchecked")
def test_numpys_numbers_are_numbers(tiny, facts, tmp_path):
    found = attribute(tiny, facts[0], steps=np.int64(3), max_batch_tokens=np.int32(100))
    assert torch.equal(found.scores, attribute(tiny, facts[0], steps=3, max_batch_tokens=100).scores)
    found.save(tmp_path / "found.safetensors")
    assert type(found.steps) is int


def test_leaves_no_gradient_and_no_hook(tiny, facts):
    attribute(tiny, facts[0], steps=2)
    assert all(p.grad is None and not p.requires_grad for p in tiny.parameters())
    assert all(not hook.fwd_hooks and not hook.bwd_hooks for hook in tiny.hook_dict.values())


@pytest.mark.parametrize("tokens", ["last", "all", "each"])
def test_partial_results_grow_into_the_result(tiny, tokens):
    fact = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    seen = []
    limit = 8 if tokens == "last" else 32
    result = attribute(tiny, fact, tokens=tokens, steps=4, max_batch_tokens=limit, partial=seen.append)
    assert len(seen) > 2
    counts = [int(torch.isfinite(part.scores).sum()) for part in seen]
    assert counts == sorted(counts)
    assert any(0 < count < result.scores.numel() for count in counts)
    for part in seen:
        there = torch.isfinite(part.scores)
        torch.testing.assert_close(part.scores[there], result.scores[there], atol=1e-7, rtol=1e-5)
        known = torch.isfinite(part.change)
        torch.testing.assert_close(part.change[known], result.change[known])


def test_top_neurons_of_one_layer_and_token(tiny, facts):
    result = attribute(tiny, facts[0], tokens="all", steps=2)
    best = result.top_neurons(3, layer=2, token=1)
    values, ids = result.scores[2, 1].topk(3)
    assert [(n.layer, n.token, n.neuron) for n in best] == [(2, 1, i) for i in ids.tolist()]
    assert [n.score for n in best] == values.tolist()
    assert {(n.layer, n.token) for n in result.top_neurons(3, layer=0, token=0)} == {(0, 0)}
    assert {(n.layer, n.token) for n in result.top_neurons(3, layer=5, token=len(result.tokens) - 1)} == {
        (5, len(result.tokens) - 1)
    }
    with pytest.raises(OptionError, match=f"token {len(result.tokens)} does not exist"):
        result.top_neurons(token=len(result.tokens))
    anywhere = result.top_neurons(4, token=1)
    assert [n.score for n in anywhere] == result.scores[:, 1].flatten().topk(4).values.tolist()
    with pytest.raises(OptionError, match="layer 6 does not exist: there are layers 0 to 5"):
        result.top_neurons(layer=6)
    with pytest.raises(OptionError, match="need tokens='all' or tokens='each'"):
        attribute(tiny, facts[0], steps=2).top_neurons(token=0)


def bits(values):
    return values.dtype, tuple(values.shape), values.contiguous().numpy().tobytes()


@pytest.mark.parametrize("tokens", ["last", "all", "each"])
def test_what_a_study_keeps_says_the_same_of_layers_and_tokens(tiny, facts, tokens, tmp_path):
    found = attribute(tiny, facts[0], tokens=tokens, steps=2)
    draw = torch.Generator().manual_seed(0)  # not a power of two of neurons, so that a mean is rounded
    whole = replace(found, scores=torch.randn(*found.scores.shape[:-1], 300, generator=draw))
    AttributionSums.of(whole).save(tmp_path / "kept.safetensors")
    kept = AttributionSums.load(tmp_path / "kept.safetensors")
    for reduce in ("sum", "mean"):
        assert bits(kept.per_layer(reduce)) == bits(whole.per_layer(reduce))
        one, other = kept.map(reduce), whole.map(reduce)
        assert bits(one.values) == bits(other.values)
        assert vars(one) | {"values": None} == vars(other) | {"values": None}
        if tokens != "last":
            assert bits(kept.per_token(reduce)) == bits(whole.per_token(reduce))
    for name in ("change", "completeness_gap"):
        assert bits(getattr(kept, name)) == bits(getattr(whole, name))
    assert (kept.heading, kept.listings(), kept.n_neurons) == (whole.heading, whole.listings(), 300)
    said = "of a study: sums over neurons, and the 100 neurons with the highest scores"
    assert kept.remarks() == (*whole.remarks(), said)


@pytest.mark.usefixtures("unchecked")
def test_what_a_study_keeps_has_sums_and_means(tiny, facts):
    kept = AttributionSums.of(attribute(tiny, facts[0], tokens="all", steps=2))
    for ask in (kept.per_layer, kept.per_token, kept.map):
        with pytest.raises(OptionError, match="reduce must be one of"):
            ask("max")


def test_the_neurons_that_a_study_keeps_are_the_highest(tiny, facts):
    whole = attribute(tiny, facts[0], tokens="all", steps=2)
    kept = AttributionSums.of(whole)
    assert len(kept.top_scores) == KEPT == 100
    assert kept.top_neurons(100) == whole.top_neurons(100)
    best = kept.top_neurons(1)[0]
    where = {"layer": best.layer, "token": best.token}
    there = sum((neuron.layer, neuron.token) == (best.layer, best.token) for neuron in whole.top_neurons(100))
    assert 0 < there < 100
    assert kept.top_neurons(there, **where) == whole.top_neurons(there, **where)
    shown = whole.at(best.token, best.layer)["top neurons"].split(", ")
    assert kept.at(best.token, best.layer)["top neurons"].split(", ") == shown[:there]
    with pytest.raises(OptionError, match=rf"{there} of the {there + 1} are among the 100 neurons with the highest"):
        kept.top_neurons(there + 1, **where)
    with pytest.raises(OptionError, match="layer 6 does not exist: there are layers 0 to 5"):
        kept.top_neurons(layer=6)
    seen = {(neuron.layer, neuron.token) for neuron in kept.top_neurons(100)}
    unseen = next(
        (layer, token) for layer in range(6) for token in range(len(kept.tokens)) if (layer, token) not in seen
    )
    assert kept.at(unseen[1], unseen[0]) == {}


def test_scores_that_are_not_kept_say_how_to_get_them(tiny, facts, tmp_path):
    whole = attribute(tiny, facts[0], tokens="each", steps=3, rule="gauss-legendre")
    kept = AttributionSums.of(whole)
    said = "interp.attribute(model, record.fact, tokens='each', steps=3, rule='gauss-legendre') computes all scores"
    for ask in (lambda: kept.scores, lambda: kept.top_neurons(101)):
        with pytest.raises(OptionError, match=re.escape(said)):
            ask()
    whole.save(tmp_path / "whole")
    kept.save(tmp_path / "kept")
    assert isinstance(AttributionMap.load(tmp_path / "whole"), Attribution)
    assert isinstance(AttributionMap.load(tmp_path / "kept"), AttributionSums)
    for cls, name in ((Attribution, "kept"), (AttributionSums, "whole")):
        with pytest.raises(DataError, match=f"expected '{cls.__name__}'"):
            cls.load(tmp_path / name)


def test_the_record_says_what_was_asked(tiny, facts):
    given = replace(provenance(tiny), device="somewhere")
    found = attribute(tiny, facts[0], tokens="all", steps=3, rule="gauss-legendre", model_provenance=given)
    assert found.provenance is given
    assert (found.scaled_tokens, found.steps, found.rule, found.fact) == ("all", 3, "gauss-legendre", facts[0])
    assert (found.answer, found.top_answer, found.known) == (facts[0].target, facts[0].target, True)
    assert found.n_prompt_tokens == len(tokenize(tiny, facts[0]).ids)
    plain = attribute(tiny, facts[0])
    assert (plain.scaled_tokens, plain.steps, plain.rule) == ("last", 20, "riemann")
    assert plain.provenance == provenance(tiny)
