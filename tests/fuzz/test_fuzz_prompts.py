"""Any text as template, subject and target: numbers are those of a plain forward pass, spans cover the subject."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

import interp
from interp.facts.records import EditCase, EditRequest, Fact
from interp.models.weights import weights_hash
from tests.fuzz.hostile import hostile_texts, texts
from tests.fuzz.trials import Model, fuzzed, tried

_TEMPLATES = st.one_of(
    st.sampled_from(["The {} is located in the city of", "{}", "{} {}", "no slot", "<|endoftext|>{} is"]),
    texts().map(lambda text: text + " {} is"),
    texts().map(lambda text: "{}" + text),
)
_SUBJECTS = st.one_of(texts().map(str.strip), hostile_texts)
_TARGETS = st.one_of(st.none(), st.just(" Paris"), texts(), texts().map(lambda text: " " + text), hostile_texts)


@pytest.fixture(scope="module")
def model(tiny: HookedTransformer) -> Any:
    before = weights_hash(tiny)
    yield Model(tiny)
    assert weights_hash(tiny) == before
    assert not interp.applied_patches(tiny)


def _ids(model: HookedTransformer, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_span(model: HookedTransformer, found: Any) -> None:
    start, end = found.subject_span
    covered = model.tokenizer.decode(_ids(model, found.fact.prompt)[start:end])
    assert found.fact.subject in covered or "\ufffd" in covered


@fuzzed(15)
@given(template=_TEMPLATES, subject=_SUBJECTS, target=_TARGETS, state=st.sampled_from(["resid", "mlp", "attn"]))
def test_a_trace_reads_the_probability_that_a_plain_pass_gives(
    model: Model, outcomes: Counter[str], template: str, subject: str, target: str | None, state: str
) -> None:
    fact = tried(lambda: Fact(template=template, subject=subject, target=target), outcomes)
    if fact is None:
        return

    def check(found: Any) -> None:
        ids = _ids(model.it, fact.prompt)
        assert len(found.tokens) == len(ids)
        with torch.no_grad():
            p = model.it(torch.tensor([ids]), prepend_bos=False)[0, -1].softmax(-1)
        wanted = int(p.argmax()) if target is None else _ids(model.it, fact.prompt + target)[len(ids)]
        assert found.answer_id == wanted
        assert float(p[wanted]) == pytest.approx(found.clean_probability, abs=1e-5)
        assert torch.isfinite(found.scores).all()
        assert found.scores.min() >= -1e-6
        assert found.scores.max() <= 1 + 1e-5
        _check_span(model.it, found)

    window = 1 if state == "resid" else 2

    def run() -> Any:
        return interp.causal_trace(model.it, fact, state=state, window=window, samples=2, noise=0.3)

    tried(run, outcomes, check=check)


@fuzzed(12)
@given(template=_TEMPLATES, subject=_SUBJECTS, target=_TARGETS, tokens=st.sampled_from(["last", "all", "each"]))
def test_attribution_scores_are_finite_whatever_the_text(
    model: Model, outcomes: Counter[str], template: str, subject: str, target: str | None, tokens: str
) -> None:
    fact = tried(lambda: Fact(template=template, subject=subject, target=target), outcomes)
    if fact is None:
        return

    def check(found: Any) -> None:
        assert torch.isfinite(found.scores).all()
        _check_span(model.it, found)

    tried(lambda: interp.attribute(model.it, fact, tokens=tokens, steps=2), outcomes, check=check)


_EDITORS: dict[str, Any] = {
    "rome": interp.editing.RomeConfig(layer=2, steps=2),
    "memit": interp.editing.MemitConfig(layers=(1, 2), steps=2),
    "ft-l": interp.editing.FtConfig(layer=1, steps=2),
    "kn": interp.editing.KnConfig(attribution_steps=2),
}


@fuzzed(10)
@given(
    template=_TEMPLATES,
    subject=_SUBJECTS,
    new_target=st.one_of(st.just(" Rome"), texts(), hostile_texts),
    method=st.sampled_from(sorted(_EDITORS)),
    fluency_tokens=st.sampled_from([0, 3]),
)
def test_an_edit_of_any_text_is_evaluated_or_refused(
    model: Model,
    outcomes: Counter[str],
    template: str,
    subject: str,
    new_target: str,
    method: str,
    fluency_tokens: int,
) -> None:
    def edited() -> Any:
        request = EditRequest(Fact(template=template, subject=subject), new_target=new_target)
        given = {} if method in ("ft-l", "kn") else {"second_moments": _moments(model.it), "contexts": ["{}"]}
        patch = interp.edit(model.it, [request], method=method, config=_EDITORS[method], **given)
        return interp.evaluate(model.it, patch, EditCase(id="x", request=request), fluency_tokens=fluency_tokens)

    def check(found: Any) -> None:
        (target,) = [found.targets[i] for i, q in enumerate(found.questions) if q.metric == "reliability"]
        prompt = template.replace("{}", subject)
        assert list(target) == _ids(model.it, prompt + new_target)[len(_ids(model.it, prompt)) :]
        assert 0 <= found.scores()["reliability"] <= 1

    tried(edited, outcomes, check=check)


def _moments(model: HookedTransformer) -> dict[int, torch.Tensor]:
    return {layer: torch.eye(model.cfg.d_mlp) for layer in range(model.cfg.n_layers)}


@fuzzed(40)
@given(prompt=texts(), subject=_SUBJECTS, target=_TARGETS)
def test_a_prompt_and_its_subject_make_a_fact_of_that_prompt(
    outcomes: Counter[str], prompt: str, subject: str, target: str | None
) -> None:
    def check(fact: Fact) -> None:
        assert fact.prompt == prompt
        assert fact.target == target

    tried(lambda: Fact.from_prompt(prompt, subject, target), outcomes, check=check)
