"""Causal tracing against the published numbers, an independent computation, and its own definitions."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from benchmarks.baseline import trace_cells
from interp.engine.base_runs import base_run
from interp.engine.cells import window_layers
from interp.engine.corruption import noise_level, replacement_facts
from interp.errors import FactError, NumericalError, OptionError
from interp.facts.fact_files import load_facts
from interp.facts.records import Fact
from interp.locate.methods.causal_trace import causal_trace
from interp.models.tokens import tokenize
from interp.results.record import provenance

QUICK = {"samples": 3, "noise": 0.33}


@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
@pytest.mark.parametrize("index", range(6))
def test_published_numbers(tiny, facts, golden, state, index):
    published = json.loads((golden / "causal_trace.json").read_text())
    expected = published["facts"][index]
    trace = causal_trace(
        tiny, facts[index], state=state, window=published["window"], samples=10, noise=published["noise_level"], seed=1
    )
    torch.testing.assert_close(trace.scores, torch.tensor(expected[f"scores_{state}"]), atol=1e-5, rtol=0)
    assert trace.clean_probability == pytest.approx(expected["high_score"], abs=1e-5)
    assert trace.corrupted_probability == pytest.approx(expected["low_score"], abs=1e-5)
    assert trace.tokens == tuple(expected["tokens"])
    assert trace.subject_span == tuple(expected["subject_range"])
    assert trace.answer == expected["answer"]
    assert trace.known


def test_window_rule():
    assert [window_layers(layer, 4, 6) for layer in range(6)] == [
        range(2), range(3), range(4), range(1, 5), range(2, 6), range(3, 6),
    ]  # fmt: skip
    assert window_layers(20, 10, 48) == range(15, 25)
    assert window_layers(3, 3, 6) == range(2, 5)
    assert window_layers(3, 1, 6) == range(3, 4)


def test_noise_level_is_three_standard_deviations_of_the_subjects_embeddings(tiny, facts):
    rows = []
    for fact in facts:
        tokenized = tokenize(tiny, fact)
        start, end = tokenized.subject_span
        rows += [tiny.W_E[i].numpy() for i in tokenized.ids[start:end]]
    assert noise_level(tiny, facts) == pytest.approx(3 * np.concatenate(rows).std(ddof=1), rel=1e-5)
    with pytest.raises(FactError, match="at least one fact"):
        noise_level(tiny, [])
    trace = causal_trace(tiny, facts[0], samples=2, noise="3sigma", reference_facts=facts)
    assert trace.noise == pytest.approx(noise_level(tiny, facts))


def test_the_noise_level_asks_the_tokenizer_once(tiny, facts, bos_model, monkeypatch):
    many = load_facts("builtin")
    calls = []
    for model in (tiny, bos_model):
        kind = type(model.tokenizer)
        own = kind.__call__

        def counted(*args, own=own, **options):
            calls.append(args)
            return own(*args, **options)

        rows = [model.W_E[tokenize(model, fact).ids[slice(*tokenize(model, fact).subject_span)]] for fact in many[:100]]
        with monkeypatch.context() as patch:
            patch.setattr(kind, "__call__", counted)
            found = noise_level(model, many[:100], deviations=2)
        assert found == pytest.approx(2 * float(torch.cat(rows).std()), rel=1e-6)
    assert len(calls) == 2


def test_effects_are_differences_from_the_corrupted_run(tiny, facts):
    trace = causal_trace(tiny, facts[0], **QUICK)
    torch.testing.assert_close(trace.indirect_effect, trace.scores - trace.corrupted_score)
    assert trace.total_effect == pytest.approx(trace.clean_probability - trace.corrupted_probability)
    start = trace.subject_span[0]
    assert (trace.indirect_effect[:start] == 0).all()  # nothing before the subject was corrupted
    assert (trace.indirect_effect[:-1, -1] == 0).all()
    assert trace.scores[-1, -1] == pytest.approx(trace.clean_probability, abs=1e-6)


def test_standard_error_is_that_of_single_samples(tiny, facts):
    n, fact = 4, facts[0]
    trace = causal_trace(tiny, fact, samples=n, noise=0.33, seed=1)
    assert trace.standard_error.shape == trace.scores.shape
    tokenized = tokenize(tiny, fact)
    start, end = tokenized.subject_span
    noise = torch.from_numpy(np.random.RandomState(1).randn(n, end - start, tiny.cfg.d_model)).float() * 0.33

    def probabilities(hooks):
        """Of the answer, one whole run per draw; row 0 is not corrupted."""

        def corrupt(value, hook):
            value[1:, start:end] += noise
            return value

        batch = tokenized.ids.expand(1 + n, -1)
        with torch.no_grad():
            logits = tiny.run_with_hooks(batch, prepend_bos=False, fwd_hooks=[("hook_embed", corrupt), *hooks])
        return logits[1:, -1].softmax(-1)[:, trace.answer_id]

    corrupted = probabilities([])
    for token, layer in [(end - 1, 1), (end - 1, 3), (len(trace.tokens) - 1, 4)]:

        def restore(value, hook, token=token):
            value[1:, token] = value[0, token]
            return value

        restored = probabilities([(f"blocks.{layer}.hook_resid_post", restore)])
        expected = float((restored - corrupted).std(correction=1)) / n**0.5
        assert trace.standard_error[token, layer] == pytest.approx(expected, rel=1e-3)
        assert float(restored.std()) / n**0.5 != pytest.approx(expected, rel=1e-2)  # it is that of the effect
    one = causal_trace(tiny, facts[0], samples=1, noise=0.33)
    assert one.standard_error.isnan().all()
    two = causal_trace(tiny, facts[0], samples=2, noise=0.33)
    assert two.standard_error.isfinite().all()
    assert two.standard_error.max() > 0


@pytest.mark.parametrize(("state", "sever"), [("resid", "mlp"), ("resid", "attn"), ("mlp", "attn"), ("attn", "mlp")])
def test_severed(tiny, facts, state, sever):
    trace = causal_trace(tiny, facts[0], state=state, sever=sever, window=3, **QUICK)
    tokenized = tokenize(tiny, facts[0])
    expected = trace_cells(
        tiny, tokenized.ids, tokenized.subject_span, trace.answer_id,
        state=state, window=3, seed=1, sever=sever, **QUICK,
    )  # fmt: skip
    torch.testing.assert_close(trace.scores, expected, atol=1e-6, rtol=0)
    whole = causal_trace(tiny, facts[0], state=state, window=3, **QUICK)
    assert (trace.scores - whole.scores).abs().max() > 1e-3


def test_metrics(tiny, facts):
    log = causal_trace(tiny, facts[0], metric="log_probability", samples=1, noise=0.33)
    plain = causal_trace(tiny, facts[0], samples=1, noise=0.33)
    torch.testing.assert_close(log.scores.exp(), plain.scores, atol=1e-5, rtol=0)
    difference = causal_trace(tiny, facts[0], metric="logit_difference", samples=1, noise=0.33)
    assert difference.foil_id not in (None, difference.answer_id)
    with torch.no_grad():
        logits = tiny(tokenize(tiny, facts[0]).ids[None], prepend_bos=False)[0, -1]
    clean = float(logits[difference.answer_id] - logits[difference.foil_id])
    assert difference.clean_score == pytest.approx(clean, abs=1e-4)
    assert difference.scores[-1, -1] == pytest.approx(clean, abs=1e-4)


def test_the_foil_is_another_token_than_the_answer(tiny, facts):
    """Noise that is too weak to change anything: the answer stays on top, the second is the foil."""
    trace = causal_trace(tiny, facts[0], metric="logit_difference", samples=2, noise=1e-5)
    with torch.no_grad():
        logits = tiny(tokenize(tiny, facts[0]).ids[None], prepend_bos=False)[0, -1]
    assert [trace.answer_id, trace.foil_id] == logits.topk(2).indices.tolist()
    assert trace.corrupted_score > 0.1


@pytest.mark.parametrize("corruption", ["gaussian", "uniform"])
@pytest.mark.parametrize("replace", [False, True])
def test_noise_kinds(tiny, facts, corruption, replace):
    trace = causal_trace(tiny, facts[0], corruption=corruption, replace=replace, samples=2, noise=0.33, seed=5)
    tokenized = tokenize(tiny, facts[0])
    start, end = tokenized.subject_span
    random = np.random.RandomState(5)
    shape = (2, end - start, tiny.cfg.d_model)
    noise = random.randn(*shape) if corruption == "gaussian" else random.uniform(-1, 1, shape)
    noise = torch.tensor(noise * 0.33, dtype=torch.float32)

    def corrupt(embedding, hook):
        embedding[:, start:end] = noise + (0 if replace else embedding[:, start:end])
        return embedding

    with torch.no_grad():
        logits = tiny.run_with_hooks(
            tokenized.ids.expand(2, -1), prepend_bos=False, fwd_hooks=[("hook_embed", corrupt)]
        )
    expected = float(logits[:, -1].softmax(-1)[:, trace.answer_id].mean())
    assert trace.corrupted_probability == pytest.approx(expected, abs=1e-6)


def test_symmetric_replacement(tiny, facts):
    template = facts[1].template
    pool = [
        Fact(template=template, subject=subject, target=target, relation="capital")
        for subject, target in (("Japan", " Tokyo"), ("Norway", " Oslo"), ("the United Kingdom", " London"))
    ]
    trace = causal_trace(tiny, pool[0], corruption="symmetric", reference_facts=pool, state="resid")
    assert trace.replacements == ("Norway",)
    other = Fact(template=template, subject="Norway", target=" Oslo")
    with torch.no_grad():
        logits = tiny(tokenize(tiny, other).ids[None], prepend_bos=False)[0, -1]
    assert trace.corrupted_probability == pytest.approx(float(logits.softmax(-1)[trace.answer_id]), abs=1e-6)
    # restoring the whole last token at the top gives the clean answer back
    assert trace.scores[-1, -1] == pytest.approx(trace.clean_probability, abs=1e-6)
    # a patch by hand: residual stream of the clean run at (token, layer) in the other prompt's run
    clean = base_run(tiny, tokenize(tiny, pool[0]).ids[None])
    token, layer = trace.subject_span[1] - 1, 2

    def patch(value, hook):
        value[:, token] = clean.resid[layer + 1, :, token]
        return value

    with torch.no_grad():
        logits = tiny.run_with_hooks(
            tokenize(tiny, other).ids[None], prepend_bos=False, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", patch)]
        )
    expected = float(logits[0, -1].softmax(-1)[trace.answer_id])
    assert trace.scores[token, layer] == pytest.approx(expected, abs=1e-6)


CAPITALS = "The capital city of {} is"


@pytest.fixture(scope="module")
def pool(tiny):
    """Countries of one length in tokens, as facts of one relation, whose capitals the model tells apart."""
    names = [fact for fact in load_facts("builtin") if fact.relation and fact.target]
    shape = tokenize(tiny, Fact(template=CAPITALS, subject="Norway"))
    found = {}
    for fact in names:
        swapped = Fact(template=CAPITALS, subject=fact.subject, target=f" X{len(found)}", relation="capital")
        tokenized = tokenize(tiny, swapped)
        if (len(tokenized.ids), tokenized.subject_span) == (len(shape.ids), shape.subject_span):
            found[fact.subject] = swapped
    assert len(found) > 20
    return [*found.values()][:40]


def test_replacements_are_drawn_by_the_seed_whatever_the_order_of_the_file(tiny, pool):
    fact = pool[0]
    drawn = [[f.subject for f, _ in replacement_facts(tiny, fact, pool, 4, seed=seed)] for seed in range(6)]
    assert len({tuple(subjects) for subjects in drawn}) > 3
    turned = [[f.subject for f, _ in replacement_facts(tiny, fact, pool[::-1], 4, seed=seed)] for seed in range(6)]
    assert turned == drawn
    every = [f.subject for f, _ in replacement_facts(tiny, fact, pool, 1000)]
    small = [f.subject for f, _ in replacement_facts(tiny, fact, pool, 1000, max_batch_tokens=20)]
    assert small == every
    assert {subject for subjects in drawn for subject in subjects} <= set(every)
    traces = [
        causal_trace(tiny, fact, corruption="symmetric", reference_facts=pool, samples=3, seed=seed) for seed in (1, 2)
    ]
    assert [list(trace.replacements) for trace in traces] == [drawn[1][:3], drawn[2][:3]]


def test_a_replacement_gives_another_answer_than_the_one_traced(tiny, pool):
    """The answer traced is the target's first token, which need not be what the model says."""

    def top(fact):
        with torch.no_grad():
            return int(tiny(tokenize(tiny, fact).ids[None], prepend_bos=False)[0, -1].argmax())

    answers = {fact.subject: top(fact) for fact in pool}
    clean = answers[pool[0].subject]
    other = next(answer for answer in answers.values() if answer != clean)
    for answer in (clean, other):
        traced = Fact(
            template=CAPITALS, subject=pool[0].subject, target=tiny.tokenizer.decode([answer]), relation="capital"
        )
        assert tokenize(tiny, traced).target_ids == (answer,)
        found = {f.subject for f, _ in replacement_facts(tiny, traced, pool, 1000)}
        assert found == {fact.subject for fact in pool[1:] if answers[fact.subject] != answer}
    bare = Fact(template=CAPITALS, subject=pool[0].subject, relation="capital")
    found = {f.subject for f, _ in replacement_facts(tiny, bare, pool, 1000)}
    assert found == {fact.subject for fact in pool[1:] if answers[fact.subject] != clean}


def test_a_replacement_has_another_target(tiny, pool):
    first, *others = (f for f, _ in replacement_facts(tiny, pool[0], pool, 1000))
    same = [replace(first, target=pool[0].target), replace(first, target=pool[0].target.strip())]
    for fact in same:
        found = replacement_facts(tiny, pool[0], [fact, *others], 1000)
        assert first.subject not in {f.subject for f, _ in found}


def test_facts_without_a_relation_have_only_their_template_in_common(tiny, pool):
    first, second, third, *_ = (f for f, _ in replacement_facts(tiny, pool[0], pool, 1000))
    fact = replace(pool[0], relation=None)
    stranger = replace(first, relation=None, template="{} was seen by")
    alike = replace(second, relation=None)
    named = replace(third, template="{} was seen by")
    found = replacement_facts(tiny, fact, [stranger, alike, named], 10)
    assert [f.subject for f, _ in found] == [second.subject]
    with pytest.raises(FactError, match=r"none of its template \(it has no relation\)"):
        replacement_facts(tiny, fact, [stranger, named], 10)
    with pytest.raises(FactError, match="none of relation 'capital'"):
        replacement_facts(tiny, pool[0], [stranger], 10)


def test_symmetric_replacement_needs_a_candidate(tiny, facts):
    with pytest.raises(FactError, match="no replacement for 'Japan'"):
        causal_trace(tiny, facts[1], corruption="symmetric", reference_facts=[facts[1]])


def test_a_fact_without_target_traces_the_models_own_answer(tiny, facts):
    bare = Fact(template=facts[0].template, subject=facts[0].subject)
    trace = causal_trace(tiny, bare, **QUICK)
    assert trace.answer == " Paris"
    wrong = Fact(template=facts[0].template, subject=facts[0].subject, target=" Rome")
    trace = causal_trace(tiny, wrong, **QUICK)
    assert not trace.known
    assert trace.top_answer == " Paris"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "residual"}, "state must be one of 'resid', 'mlp', 'attn', got 'residual'; did you mean 'resid'"),
        ({"corruption": "gauss"}, "did you mean 'gaussian'"),
        ({"metric": "prob"}, "metric must be one of"),
        ({"sever": "mlps"}, "sever must be one of"),
        ({"state": "mlp", "sever": "mlp"}, "would undo"),
        ({"samples": 0}, "samples must be a positive whole number, got 0"),
        ({"samples": 10**9}, "samples must be at most 10,000 .the standard error is then a hundredth"),
        ({"window": 10**9}, "window must be at most 1,000 .no model has as many blocks"),
        ({"max_batch_tokens": 10**9}, "max_batch_tokens must be at most"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"window": 2.5}, "window must be a positive whole number, got 2.5"),
        ({"noise": -1.0}, "noise must be a positive number or '3sigma', got -1.0"),
        ({"noise": float("nan")}, "noise must be a positive number"),
        ({"noise": float("inf")}, "noise must be a positive number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_options(tiny, facts, options, message):
    with pytest.raises(OptionError, match=message):
        causal_trace(tiny, facts[0], **{"noise": 0.3, **options})


def test_weights_that_are_not_finite_give_no_score(tiny, facts):
    weight = tiny.blocks[3].mlp.W_out
    before = weight[0, 0].item()
    try:
        weight[0, 0] = float("nan")
        with pytest.raises(NumericalError, match="NaN or infinite"):
            causal_trace(tiny, facts[0], **QUICK)
    finally:
        weight[0, 0] = before


@pytest.mark.usefixtures("unchecked")
def test_numpys_numbers_are_numbers(tiny, facts, tmp_path):
    found = causal_trace(
        tiny,
        facts[0],
        state="mlp",
        window=np.int64(3),
        samples=np.int16(2),
        noise=np.float64(0.33),
        seed=np.uint32(4),
        max_batch_tokens=np.int64(64),
    )
    expected = causal_trace(tiny, facts[0], state="mlp", window=3, samples=2, noise=0.33, seed=4, max_batch_tokens=64)
    assert torch.equal(found.scores, expected.scores)
    found.save(tmp_path / "found.safetensors")
    assert [type(getattr(found, name)) for name in ("window", "samples", "noise", "seed")] == [int, int, float, int]


@pytest.mark.real_model
@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
def test_sweep_equals_full_forward_passes_on_the_real_model(real_model, state):
    fact = Fact(template="The capital of {} is", subject="France", target=" Paris")
    trace = causal_trace(real_model, fact, state=state, samples=2, noise=0.3)
    tokenized = tokenize(real_model, fact)
    cells = [(t, layer) for t in range(len(tokenized.ids)) for layer in range(t % 4, 30, 7)]
    expected = trace_cells(
        real_model, tokenized.ids, tokenized.subject_span, trace.answer_id,
        state=state, window=10, samples=2, noise=0.3, seed=1, cells=cells,
    )  # fmt: skip
    chosen = tuple(torch.tensor(cells).T)
    torch.testing.assert_close(trace.scores[chosen], expected[chosen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("state", ["resid", "mlp"])
def test_partial_results_come_from_the_last_token_back_to_the_subject(tiny, facts, state):
    seen, steps = [], []
    trace = causal_trace(
        tiny,
        facts[0],
        state=state,
        window=3,
        partial=seen.append,
        progress=lambda *step: steps.append(step),
        max_batch_tokens=64,
        **QUICK,
    )
    start, n_tokens = trace.subject_span[0], len(trace.tokens)
    assert len(seen) == n_tokens - start
    for index, part in enumerate(seen):
        first = n_tokens - 1 - index
        assert part.scores[start:first].isnan().all()
        torch.testing.assert_close(part.scores[first:], trace.scores[first:], atol=0, rtol=0)
        torch.testing.assert_close(part.scores[:start], trace.scores[:start], atol=0, rtol=0)
    assert not trace.scores.isnan().any()
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_a_partial_result_can_stop_the_work(tiny, facts):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        causal_trace(tiny, facts[0], partial=stop, **QUICK)
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_the_record_says_what_was_asked(tiny, facts):
    given = replace(provenance(tiny), device="somewhere")
    asked = {"state": "mlp", "window": 3, "samples": 2, "seed": 7, "corruption": "uniform", "replace": True}
    asked |= {"noise": 0.25, "metric": "log_probability", "sever": "attn"}
    found = causal_trace(tiny, facts[0], model_provenance=given, **asked)
    assert {name: getattr(found, name) for name in asked} == asked
    assert found.provenance is given
    plain = causal_trace(tiny, facts[0], window=3, **QUICK)
    expected = {"state": "resid", "window": 1, "samples": 3, "seed": 1, "corruption": "gaussian", "replace": False}
    expected |= {"metric": "probability", "sever": None, "foil": None, "foil_id": None, "replacements": ()}
    assert {name: getattr(plain, name) for name in expected} == expected
    assert plain.provenance == provenance(tiny)
    assert plain.fact == facts[0]


def test_the_defaults_are_the_papers():
    """Window, samples and noise of Meng et al. 2022; n = 20 of equation 3; rows of the corpus in 64 tokens."""
    defaults = {name: each.default for name, each in inspect.signature(causal_trace).parameters.items()}
    wanted = {"state": "resid", "window": 10, "samples": 10, "noise": "3sigma", "seed": 1, "corruption": "gaussian"}
    assert {name: defaults[name] for name in wanted} == wanted
    assert inspect.signature(interp.attribute).parameters["steps"].default == 20
    assert (interp.Corpus().source, interp.Corpus().row, interp.Corpus().seed) == ("self", 64, 0)
