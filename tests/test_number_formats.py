"""Models in bfloat16: what is read off their logits is computed in float32, everywhere."""

import pytest
import torch

from interp.editing import FtConfig, edit_each
from interp.engine.cells import Cell
from interp.engine.forward import unembed
from interp.engine.pairs import clean_and_corrupted
from interp.locate.activation_patching import patch_activations
from interp.locate.knowledge import top_answers
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.load import load_model
from interp.models.tokens import tokenize
from interp.patches.patch import applied_patches
from interp.patches.row_hooks import under_patches
from tests.conftest import GOLDEN
from tests.fuzz.samples import TO_LIMA as NORWAY
from tests.fuzz.samples import TO_ROME as TOWER

QUICK = {"samples": 3, "noise": 0.33}


@pytest.fixture(scope="module")
def narrow():
    return load_model(GOLDEN / "tiny-gpt2", device="cpu", dtype=torch.bfloat16)


def rounded(values):
    """The share of the values that bfloat16 could hold."""
    return float((values == values.bfloat16().float()).float().mean())


def test_logits_come_in_float32(narrow, facts):
    ids = tokenize(narrow, facts[0]).ids[None]
    with torch.no_grad():
        own = narrow(ids, prepend_bos=False)
        found = unembed(narrow, narrow(ids, prepend_bos=False, stop_at_layer=narrow.cfg.n_layers))
    assert (own.dtype, found.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(found, own.float(), atol=0.2, rtol=0)


def test_one_record_says_one_thing(narrow, facts):
    for state in ("resid", "mlp"):
        trace = causal_trace(narrow, facts[0], state=state, window=3, **QUICK)
        assert trace.clean_score == pytest.approx(trace.clean_probability, rel=1e-6)
        assert trace.corrupted_score == pytest.approx(trace.corrupted_probability, rel=1e-6)
        assert trace.scores.dtype == trace.standard_error.dtype == torch.float32
        restored = trace.scores[trace.subject_span[0] :, :-1]
        assert rounded(restored) < 0.05
        assert len(restored.unique()) > 0.8 * restored.numel()
    answer = top_answers(narrow, [facts[0]])[0]
    # other batches round otherwise
    assert answer.probability == pytest.approx(trace.clean_probability, rel=0.02)
    assert rounded(torch.tensor([answer.probability, answer.top_probability])) == 0
    pair = clean_and_corrupted(narrow, facts[0], **QUICK)
    patched = patch_activations(pair, [Cell(token=0, layer=1)])
    distribution = pair.source_logits.softmax(-1)
    assert patched.source.probability == pytest.approx(float(distribution[pair.answer_id]), rel=1e-6)
    assert patched.source.top[0].probability == pytest.approx(float(distribution.max()), rel=1e-6)
    assert sum(candidate.probability for candidate in patched.base.top) <= 1 + 1e-6


def test_metrics_are_of_the_same_logits(narrow, facts):
    pair = clean_and_corrupted(narrow, facts[0], **QUICK)
    log = causal_trace(narrow, facts[0], metric="log_probability", **QUICK)
    assert log.clean_score == pytest.approx(float(pair.source_logits.log_softmax(-1)[pair.answer_id]), rel=1e-6)
    difference = causal_trace(narrow, facts[0], metric="logit_difference", **QUICK)
    gaps = pair.base_logits[:, pair.answer_id] - pair.base_logits[:, difference.foil_id]
    assert difference.corrupted_score == pytest.approx(float(gaps.mean()), rel=1e-6)


@pytest.mark.parametrize("tokens", ["last", "all", "each"])
def test_attribution_adds_up(narrow, tiny, facts, tokens):
    found = attribute(narrow, facts[0], tokens=tokens, rule="gauss-legendre", steps=20)
    exact = attribute(tiny, facts[0], tokens=tokens, rule="gauss-legendre", steps=20)
    assert found.scores.dtype == found.change.dtype == torch.float32
    total = found.scores.sum((-1, -2) if tokens == "all" else -1)
    torch.testing.assert_close(found.completeness_gap, found.change - total, atol=1e-6, rtol=0)
    assert rounded(found.scores[found.scores != 0]) < 0.05
    # nodes that bfloat16 had rounded would miss by more than the activations do
    assert found.completeness_gap.abs().max() < 0.05 * exact.change.abs().max()


@pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")
def test_patches_share_their_batches_in_float32_and_take_turns_in_narrower_formats(tiny, narrow):
    for model, expected in ((tiny, [[0, 1, 2, 3]]), (narrow, [[0, 3], [1], [2]])):
        patches = edit_each(model, [TOWER, NORWAY], method="ft-l", config=FtConfig(layer=2, steps=1))
        calls = []

        def work(members, hooked, calls=calls, model=model):
            calls.append(members)
            assert (hooked != [None] * len(members)) == (model is tiny)
            return [len(applied_patches(model))] * len(members)

        found = under_patches(model, [None, *patches, None], work)
        assert calls == expected
        assert found == ([0, 0, 0, 0] if model is tiny else [0, 1, 1, 0])
