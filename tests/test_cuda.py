"""On a CUDA device every result is the CPU's to rounding, and the device holds what it should; skipped without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

from interp.editing import (
    AlphaEditConfig,
    Corpus,
    EmmetConfig,
    FtConfig,
    KnConfig,
    MemitConfig,
    PmetConfig,
    RomeConfig,
    edit,
    edit_each,
    second_moments,
)
from interp.editing.contexts import write_contexts
from interp.engine.batches import halving
from interp.engine.cells import Cell
from interp.engine.corruption import noise_level
from interp.engine.generation import generate
from interp.engine.pairs import clean_and_corrupted
from interp.evaluation.protocol import CaseEvaluation, evaluate_each
from interp.explorer import Controls, explore
from interp.facts.records import EditCase, EditRequest, Fact, Probe
from interp.locate.activation_patching import patch_activations
from interp.locate.method import LocateTask, Locator, locate_each
from interp.locate.methods import locator_named
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.load import load_model
from interp.models.weights import weights_hash
from interp.patches import applied_patches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TOWER = EditRequest(
    Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"), new_target=" Rome"
)
TENNIS = EditRequest(
    Fact(template="{} plays the sport of", subject="Serena Williams", target=" tennis"), new_target=" golf"
)
CASES = [
    EditCase(
        id="tower",
        request=TOWER,
        paraphrases=("Visitors of the Eiffel Tower travel to",),
        locality={"far": (Probe(prompt="The capital of Japan is", target=" Tokyo"),)},
        portability={"reasoning": (Probe(prompt="The Eiffel Tower is governed from", target=" Rome Rome"),)},
    ),
    EditCase(id="tennis", request=TENNIS, paraphrases=("Serena Williams is famous for playing",)),
]
CONTEXTS = (("{}",), ("The. {}", "It is so. {}"))
CONFIGS = [
    ("rome", RomeConfig(layer=2, weight_decay=1e-3)),
    ("r-rome", RomeConfig(layer=2, weight_decay=1e-3)),
    ("memit", MemitConfig(layers=(1, 2, 3), second_moment_weight=15.0)),
    ("pmet", PmetConfig(layers=(1, 2, 3), second_moment_weight=15.0)),
    ("emmet", EmmetConfig(layers=(2,))),
    ("alphaedit", AlphaEditConfig(layers=(1, 2, 3), threshold=0.1, l2=0.1)),
    ("ft-l", FtConfig(layer=2)),
    ("kn", KnConfig()),
]


@pytest.fixture(scope="module")
def on_cuda(golden: Path) -> HookedTransformer:
    return load_model(golden / "tiny-gpt2", device="cuda")


@pytest.fixture(autouse=True)
def untouched(on_cuda: HookedTransformer, tiny: HookedTransformer) -> Iterator[None]:
    """Whatever happens, the model on the device is left as it is."""
    yield
    assert weights_hash(on_cuda) == weights_hash(tiny)
    assert applied_patches(on_cuda) == ()


@pytest.fixture(scope="module")
def moments(golden: Path) -> dict[int, torch.Tensor]:
    return {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize("names", [("resid", "mlp", "attn"), ("attribution",)], ids=" ".join)
def test_facts_that_share_sweeps(tiny: HookedTransformer, on_cuda: HookedTransformer, names: tuple[str, ...]) -> None:
    """Prompts of different lengths stand side by side here, and alone on the CPU."""
    facts = (TOWER.fact, TENNIS.fact, Fact(template="The capital of {} is", subject="Japan", target=" Tokyo"))

    def asked(model: HookedTransformer) -> list[tuple[Locator, LocateTask]]:
        settings: dict[str, Any] = {"noise": 0.3, "samples": 3, "window": 2, "steps": 4}
        return [
            (locator_named(name), LocateTask(model=model, fact=fact, **settings)) for fact in facts for name in names
        ]

    found: dict[int, Any] = {}
    locate_each(asked(on_cuda), lambda *_: None, found.__setitem__)
    for place, (locator, task) in enumerate(asked(tiny)):
        expected = locator.run(task).map().values
        atol = 1e-4 * float(expected.nan_to_num().abs().max())
        torch.testing.assert_close(found[place].map().values, expected, atol=atol, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
def test_traces_of_every_family(
    family_folder: Callable[[str], Path], family_model: Callable[[str], HookedTransformer], family: str, state: Any
) -> None:
    model = load_model(family_folder(family), device="cuda")
    found, expected = (
        causal_trace(m, TOWER.fact, state=state, samples=3, noise=0.3, window=2) for m in (model, family_model(family))
    )
    torch.testing.assert_close(found.scores.cpu(), expected.scores, atol=2e-6, rtol=0)


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_attributions(on_cuda: HookedTransformer, tiny: HookedTransformer, tokens: Any) -> None:
    found, expected = (attribute(model, TOWER.fact, tokens=tokens) for model in (on_cuda, tiny))
    torch.testing.assert_close(found.scores.cpu(), expected.scores, atol=2e-6, rtol=1e-4)


def test_the_noise_level(on_cuda: HookedTransformer, tiny: HookedTransformer, facts: list[Fact]) -> None:
    assert noise_level(on_cuda, facts) == pytest.approx(noise_level(tiny, facts), rel=1e-5)


@pytest.mark.parametrize(("method", "config"), CONFIGS)
def test_edits(
    on_cuda: HookedTransformer,
    tiny: HookedTransformer,
    moments: dict[int, torch.Tensor],
    method: str,
    config: Any,
) -> None:
    options = {"method": method, "config": config, "second_moments": moments, "contexts": CONTEXTS}
    found, expected = (edit(model, [TOWER], **options) for model in (on_cuda, tiny))
    assert found.layers == expected.layers
    for layer in found.layers:
        assert distance(found.delta(layer), expected.delta(layer)) < 1e-3
    before = [block.mlp.W_out.clone() for block in on_cuda.blocks]
    with expected.applied(on_cuda):  # a patch is at home on any device
        changed = [not torch.equal(block.mlp.W_out, was) for block, was in zip(on_cuda.blocks, before, strict=True)]
        assert [layer for layer, differs in enumerate(changed) if differs] == list(expected.layers)
    for block, was in zip(on_cuda.blocks, before, strict=True):
        assert torch.equal(block.mlp.W_out, was)


def test_second_moments(on_cuda: HookedTransformer, tiny: HookedTransformer) -> None:
    corpus = Corpus(tokens=600, row=24)
    found, expected = (second_moments(model, [1, 3], corpus, cache=None) for model in (on_cuda, tiny))
    for layer in (1, 3):
        assert distance(found.moments[layer], expected.moments[layer]) < 1e-5


@pytest.mark.parametrize("top_k", [1, 5, None])
def test_texts(on_cuda: HookedTransformer, tiny: HookedTransformer, top_k: int | None) -> None:
    ids = tiny.to_tokens(TOWER.fact.prompt, prepend_bos=False)[0].tolist()
    found, expected = (generate(model, [ids, ids[2:]], 12, top_k=top_k, seeds=[1, 2]) for model in (on_cuda, tiny))
    assert found.device.type == "cuda"
    assert found.tolist() == expected.tolist()
    assert write_contexts(on_cuda, kinds=((4, 3),)) == write_contexts(tiny, kinds=((4, 3),))


def test_evaluations(on_cuda: HookedTransformer, tiny: HookedTransformer, moments: dict[int, torch.Tensor]) -> None:
    requests = [case.request for case in CASES]
    patches = edit_each(tiny, requests, config=CONFIGS[0][1], second_moments=moments, contexts=CONTEXTS)
    found, expected = (evaluate_each(model, patches, CASES, fluency_tokens=20) for model in (on_cuda, tiny))
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, CaseEvaluation)
        assert one.scores() == other.scores()
        assert one.continuation_after == other.continuation_after
        for mine, theirs in zip((*one.before, *one.after), (*other.before, *other.after), strict=True):
            assert mine.generated == theirs.generated
            assert mine.log_probability == pytest.approx(theirs.log_probability, abs=1e-4)


def test_the_explorer(on_cuda: HookedTransformer, tiny: HookedTransformer) -> None:
    explorer = explore(on_cuda, TOWER.fact, controls=Controls(samples=3, window=2, steps=4))
    try:
        explorer.run()
        explorer.wait(120)
        expected = causal_trace(tiny, TOWER.fact, state="mlp", window=2, samples=3, noise=explorer.controls["noise"])
        torch.testing.assert_close(explorer.located["mlp"].scores.cpu(), expected.scores, atol=2e-6, rtol=0)
        explorer._heard(explorer, {"do": "select", "cells": [{"method": "resid", "token": 2, "layer": 1}]}, None)
        assert explorer._worker.wait(60)
        pair = clean_and_corrupted(tiny, TOWER.fact, samples=3, noise=explorer.controls["noise"])
        patched = patch_activations(pair, [Cell(token=2, layer=1)]).patched
        assert explorer.runs["patched"]["probability"] == pytest.approx(patched.probability, abs=1e-5)
    finally:
        explorer.close()


def test_a_card_that_is_too_small(on_cuda: HookedTransformer, caplog: pytest.LogCaptureFixture) -> None:
    """Real memory runs out: the limit is halved until the work fits, and what does not fit never hangs."""
    total = torch.cuda.get_device_properties(0).total_memory

    def work(limit: int) -> int:
        torch.empty(limit * (total // 1024), dtype=torch.uint8, device="cuda")
        return limit

    fits = halving(work, 4096)
    assert 1 <= fits < 1024
    assert len([r for r in caplog.records if "out of memory" in r.getMessage()]) == len(bin(4096 // fits)) - 3
    with pytest.raises(torch.OutOfMemoryError):
        halving(lambda limit: torch.empty(2 * total, dtype=torch.uint8, device="cuda"), 4)
