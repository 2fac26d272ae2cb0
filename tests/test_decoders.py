"""Every kind of HookedTransformer decoder: the sweep equals full passes, or the model is refused by name."""

import warnings

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from benchmarks.baseline import attribute_layers, trace_cells
from interp.engine.base_runs import base_run, run_bytes
from interp.engine.cells import Cell
from interp.engine.pairs import clean_and_corrupted
from interp.engine.suffix import padded, run_rows, suffixes
from interp.errors import ModelError, OptionError
from interp.facts.records import Fact
from interp.locate.activation_patching import patch_activations
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.tokens import tokenize

FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 8, "normalization_type": "RMS"}
DECODERS = {
    "normalised keys": {"use_qk_norm": True},
    "normalised keys, rotary": {"use_qk_norm": True, **ROTARY},
    "normalised keys, grouped": {"use_qk_norm": True, "n_key_value_heads": 2, **ROTARY},
    "grouped, written out": {"n_key_value_heads": 2, "ungroup_grouped_query_attention": True, **ROTARY},
    "clamped keys": {"clip_qkv": 1.0},
    "alibi": {"positional_embedding_type": "alibi"},
    "local attention": {"use_local_attn": True, "window_size": 3, "attn_types": ["local", "global", "local"]},
    "attention only": {"attn_only": True, "d_mlp": None, "act_fn": None},
    "split inputs": {"use_split_qkv_input": True},
    "parallel blocks": {"parallel_attn_mlp": True},
}


def decoder(tokenizer, **settings):
    defaults = {"n_layers": 3, "d_model": 32, "n_ctx": 64, "d_head": 8, "n_heads": 4, "d_mlp": 48, "act_fn": "gelu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = HookedTransformerConfig(
            **{**defaults, **settings}, d_vocab=600, seed=1, device="cpu", default_prepend_bos=False
        )
        model = HookedTransformer(cfg, move_to_device=False)
    model.tokenizer = tokenizer
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.5 * noise if "norm" in name or name.split(".")[-1] == "w" else 0.3 * noise
    return model.eval()


@pytest.fixture(params=DECODERS)
def model(request, tiny):
    return decoder(tiny.tokenizer, **DECODERS[request.param])


def test_a_trace_equals_full_passes(model):
    tokenized = tokenize(model, FACT)
    for state in ("resid", "attn") if model.cfg.attn_only else ("resid", "mlp", "attn"):
        options = {"state": state, "window": 2, "samples": 2, "noise": 0.5, "seed": 3}
        trace = causal_trace(model, FACT, **options)
        expected = trace_cells(model, tokenized.ids, tokenized.subject_span, trace.answer_id, **options)
        torch.testing.assert_close(trace.scores, expected, atol=0, rtol=1e-3)
        assert trace.scores.std() > 0.003 * trace.scores.mean()


def test_a_patch_equals_its_cell_of_the_trace(model):
    pair = clean_and_corrupted(model, FACT, samples=2, noise=0.5)
    for state in ("resid", "attn") if model.cfg.attn_only else ("resid", "mlp", "attn"):
        window = 1 if state == "resid" else 2
        trace = causal_trace(model, FACT, state=state, window=window, samples=2, noise=0.5)
        for token, layer in ((4, 1), (2, 2), (9, 0)):
            found = patch_activations(pair, [Cell(token=token, layer=layer, state=state, window=window)])
            assert found.patched.probability == pytest.approx(float(trace.scores[token, layer]), rel=1e-3)


def test_suffixes_equal_whole_rows(model):
    rows = [tokenize(model, FACT).ids.tolist(), tokenize(model, FACT).ids.tolist()[2:]]
    tokens, _ = padded(rows, "cpu")
    for layer in (0, 1, 2):
        entering = run_rows(model, tokens, stop=layer)[0] if layer else base_run(model, tokens).resid[0]
        cut = suffixes(model, entering, [5, 3], layer, lengths=[len(row) for row in rows])
        last = [len(row) - 1 - start for row, start in zip(rows, (5, 3), strict=True)]
        with torch.no_grad():
            found = cut.run(model, cut.resid, [0, 1], last)
            whole = base_run(model, tokens).resid[-1]
        expected = torch.stack([whole[row, len(rows[row]) - 1] for row in (0, 1)])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_attribution_equals_full_passes_or_is_refused(model):
    if model.cfg.attn_only:
        with pytest.raises(OptionError, match="need MLPs"):
            attribute(model, FACT)
        return
    ids, answer = tokenize(model, FACT).ids, tokenize(model, FACT).target_ids[0]
    single = Fact(template=FACT.template, subject=FACT.subject, target=model.tokenizer.decode([answer]))
    found = attribute(model, single, tokens="all", steps=3)
    expected = attribute_layers(model, ids, answer, steps=3, positions=slice(None))
    torch.testing.assert_close(found.scores, expected, atol=1e-8, rtol=1e-3)


def test_what_a_model_of_attention_alone_does_not_have_is_refused(tiny):
    model = decoder(tiny.tokenizer, **DECODERS["attention only"])
    with pytest.raises(OptionError, match=r"state='mlp' needs MLPs: .* has attention only"):
        causal_trace(model, FACT, state="mlp", noise=0.5)
    with pytest.raises(OptionError, match="sever='mlp' needs MLPs"):
        causal_trace(model, FACT, sever="mlp", noise=0.5)
    pair = clean_and_corrupted(model, FACT, samples=2, noise=0.5)
    with pytest.raises(OptionError, match="a cell with state='mlp' needs MLPs"):
        patch_activations(pair, [Cell(token=1, layer=1, state="mlp")])
    with pytest.raises(OptionError, match="recording mlp_out needs MLPs"):
        base_run(model, pair.tokenized.ids[None], record=("mlp_out",))
    trace = causal_trace(model, FACT, sever="attn", samples=2, noise=0.5)
    assert trace.scores.isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_models_whose_runs_cannot_be_continued_are_refused_by_name(tiny):
    shortformer = decoder(tiny.tokenizer, positional_embedding_type="shortformer")
    both_ways = decoder(tiny.tokenizer, attention_dir="bidirectional")
    spread = decoder(tiny.tokenizer)
    spread.cfg.n_devices = 2
    for model, said in (
        (shortformer, "positional_embedding_type='shortformer'"),
        (both_ways, "attention_dir='bidirectional'"),
        (spread, "n_devices=2"),
        (torch.nn.Linear(2, 2), "expected a HookedTransformer, got a Linear"),
    ):
        for work in (
            lambda model: causal_trace(model, FACT, noise=0.5),
            lambda model: attribute(model, FACT),
            lambda model: clean_and_corrupted(model, FACT, noise=0.5),
        ):
            with pytest.raises(ModelError, match=said):
                work(model)
    tokens = tokenize(shortformer, FACT).ids[None]
    with pytest.raises(ModelError, match="shortformer"):
        suffixes(shortformer, torch.zeros(1, tokens.shape[1], 32), [3], 1)


def test_a_prompt_that_begins_with_the_padding_token_is_read_whole(tiny):
    """A tokenizer that pads on the left makes HookedTransformer take such a token for padding."""
    model = decoder(tiny.tokenizer)
    ids = torch.tensor([[model.tokenizer.pad_token_id, *range(5, 12)]])
    embedded = model.embed(ids) + model.pos_embed(ids)
    with torch.no_grad():
        expected = model(embedded, start_at_layer=0, stop_at_layer=3)
    model.tokenizer.padding_side = "left"
    try:
        torch.testing.assert_close(base_run(model, ids).resid[-1], expected)
    finally:
        model.tokenizer.padding_side = "right"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_memory_of_a_run_is_foretold(name, family_model):
    model = family_model(name)
    tokens = torch.randint(1, 600, (3, 7), generator=torch.Generator().manual_seed(0))
    for record in ((), ("attn_out",), ("attn_out", "mlp_out")):
        run = base_run(model, tokens, record=record)
        kept = [run.resid, *run.keys, *run.values, run.attn_out, run.mlp_out]
        found = sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor is not None)
        assert run_bytes(model, 3, 7, record) == found


def test_a_whole_run_in_batches_is_the_run(tiny):
    """As many samples as there are tokens and layers, so that no axis passes for another."""
    tokens = torch.randint(1, 600, (7, 7), generator=torch.Generator().manual_seed(0))
    whole = base_run(tiny, tokens, record=("attn_out", "mlp_out"))
    for limit in (1, 14, 20, 48, 49, 1000):
        parts = base_run(tiny, tokens, record=("attn_out", "mlp_out"), max_batch_tokens=limit)
        for name in ("resid", "attn_out", "mlp_out"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
        for here, there in zip((*parts.keys, *parts.values), (*whole.keys, *whole.values), strict=True):
            torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
