"""An error, Ctrl-C or no memory inside every public call, and random sequences of patches: the model is as before."""

from __future__ import annotations

import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

import interp
from interp.errors import InterpError
from interp.models.weights import weights_hash
from tests.conftest import GOLDEN
from tests.fuzz.samples import CONTEXTS, JAPAN, STUDY_CASES, TO_LIMA, TO_ROME, TOWER
from tests.fuzz.trials import SCALE, rounds

pytestmark = pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")  # quick edits, which do not take


class BoomError(Exception):
    """An error that is nobody's."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "an error": lambda: BoomError("boom"),
    "Ctrl-C": KeyboardInterrupt,
    "out of memory": lambda: RuntimeError("can't allocate memory: you tried to allocate 1 bytes"),
    "MemoryError": MemoryError,
}


def state(model: HookedTransformer) -> tuple[Any, ...]:
    """Everything about a model that a call must leave as it was."""
    hooks = {
        name: (len(hook.fwd_hooks), len(hook.bwd_hooks), len(hook._forward_hooks), len(hook._backward_hooks))
        for name, hook in model.hook_dict.items()
    }
    return (
        weights_hash(model),
        len(interp.applied_patches(model)),
        hooks,
        [parameter.requires_grad for parameter in model.parameters()],
        model.training,
        torch.is_grad_enabled(),
        str(vars(model.cfg)),
        str(model.tokenizer.padding_side),
        sorted(name for name in model.__dict__ if not name.startswith("_")),
    )


@pytest.fixture
def own() -> HookedTransformer:
    return interp.load_model(GOLDEN / "tiny-gpt2", device="cpu")


@pytest.fixture(scope="module")
def patches(tiny: HookedTransformer) -> list[interp.Patch]:
    def made(requests: Any, method: str, config: Any, **given: Any) -> interp.Patch:
        return interp.edit(tiny, requests, method=method, config=config, **given)

    usual: dict[str, Any] = {"second_moments": _moments(tiny), "contexts": CONTEXTS}
    return [
        made([TO_ROME], "rome", interp.editing.RomeConfig(layer=2, steps=3), **usual),
        made([TO_LIMA], "rome", interp.editing.RomeConfig(layer=4, steps=3), **usual),
        made([TO_ROME, TO_LIMA], "memit", interp.editing.MemitConfig(layers=(1, 2, 3), steps=3), **usual),
        made([TO_ROME, TO_LIMA], "pmet", interp.editing.PmetConfig(layers=(2, 3), steps=3), **usual),
        made([TO_ROME], "ft-l", interp.editing.FtConfig(layer=2, steps=3)),
        made([TO_LIMA], "kn", interp.editing.KnConfig()),
    ]


def _moments(model: HookedTransformer) -> dict[int, torch.Tensor]:
    return {layer: torch.eye(model.cfg.d_mlp) for layer in range(model.cfg.n_layers)}


def _calls(model: HookedTransformer, patches: list[interp.Patch], folder: Path) -> dict[str, Callable[[], Any]]:
    """Every public call that runs the model."""
    usual: dict[str, Any] = {"second_moments": _moments(model), "contexts": CONTEXTS}
    rome = {"method": "rome", "config": interp.editing.RomeConfig(layer=2, steps=3), **usual}
    memit = {"method": "memit", "config": interp.editing.MemitConfig(layers=(1, 2), steps=3), **usual}
    pmet = {"method": "pmet", "config": interp.editing.PmetConfig(layers=(1, 2), steps=3), **usual}
    corpus, number = interp.Corpus(tokens=512, row=32), itertools.count()

    def runs() -> interp.engine.RunPair:
        return interp.clean_and_corrupted(model, TOWER, samples=2, noise=0.3)

    def traced_under_a_patch() -> None:
        with patches[2].applied(model):
            interp.causal_trace(model, TOWER, samples=2, noise=0.3)

    cells = [interp.Cell(token=2, layer=3), interp.Cell(token=4, layer=3, state="attn")]
    return {
        "trace": lambda: interp.causal_trace(model, TOWER, samples=2, noise=0.3),
        "trace of MLP outputs": lambda: interp.causal_trace(model, TOWER, state="mlp", window=2, samples=2, noise=0.3),
        "severed trace": lambda: interp.causal_trace(model, TOWER, sever="attn", samples=2, noise=0.3),
        "attribute last": lambda: interp.attribute(model, TOWER, tokens="last", steps=3),
        "attribute each": lambda: interp.attribute(model, TOWER, tokens="each", steps=3),
        "rome": lambda: interp.edit(model, [TO_ROME], **rome),
        "memit": lambda: interp.edit(model, [TO_ROME, TO_LIMA], **memit),
        "pmet": lambda: interp.edit(model, [TO_ROME, TO_LIMA], **pmet),
        "ft-l": lambda: interp.edit(model, [TO_ROME], method="ft-l", config=interp.editing.FtConfig(layer=2, steps=3)),
        "kn": lambda: interp.edit(model, [TO_ROME], method="kn", config=interp.editing.KnConfig(attribution_steps=2)),
        "edit_each": lambda: interp.edit_each(model, [TO_ROME, TO_LIMA], **rome),
        "edit_sequentially": lambda: interp.edit_sequentially(model, [TO_ROME, TO_LIMA], **rome),
        "write_contexts": lambda: interp.write_contexts(model, kinds=((3, 2),)),
        "second_moments": lambda: interp.second_moments(model, [1, 3], corpus, cache=folder / str(next(number))),
        "evaluate": lambda: interp.evaluate(model, patches[0], STUDY_CASES[0], fluency_tokens=4),
        "patch_activations": lambda: interp.patch_activations(runs(), cells),
        "prompt_pair": lambda: interp.prompt_pair(model, TOWER, JAPAN),
        "answers": lambda: interp.locate.top_answers(model, [TOWER, JAPAN]),
        "known_facts": lambda: list(interp.known_facts(model, [TOWER, JAPAN])),
        "a trace under a patch": traced_under_a_patch,
    }


def test_a_fault_at_any_hook_point_leaves_the_model_as_it_was(
    own: HookedTransformer,
    patches: list[interp.Patch],
    outcomes: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    real, generator = HookPoint.forward, random.Random(0 if SCALE == 1 else None)
    passed = 0
    at: int | None = None
    error: Callable[[], BaseException] = BoomError

    def forward(self: HookPoint, x: torch.Tensor) -> torch.Tensor:
        nonlocal passed
        passed += 1
        if passed == at:
            raise error()
        return real(self, x)

    before = state(own)
    monkeypatch.setattr(HookPoint, "forward", forward)
    for name, call in _calls(own, patches, tmp_path).items():
        passed, at = 0, None
        call()
        assert state(own) == before, f"{name} changed the model"
        total = passed
        assert total, f"{name} runs nothing"
        for _ in rounds(2):
            kind = generator.choice(sorted(ERRORS))
            passed, at, error = 0, generator.randint(1, total), ERRORS[kind]
            where = f"{kind} at hook call {at} of {total} in {name}"
            try:
                call()
                outcomes["went on with smaller batches"] += 1
            except (BoomError, KeyboardInterrupt, RuntimeError, MemoryError, InterpError):
                outcomes[kind] += 1
            assert state(own) == before, f"{where} left the model changed"


def test_a_random_sequence_of_patches_gives_the_original_plus_those_that_are_on(
    patches: list[interp.Patch], outcomes: Counter[str], tmp_path: Path
) -> None:
    generator = random.Random(0 if SCALE == 1 else None)
    model = interp.load_model(GOLDEN / "tiny-gpt2", device="cpu")
    before, originals = state(model), [block.mlp.W_out.detach().clone() for block in model.blocks]
    for _ in rounds(15):
        on: list[interp.Patch] = []
        for _ in range(generator.randint(2, 12)):
            _step(model, generator, patches, on, outcomes, tmp_path)
            for layer, block in enumerate(model.blocks):
                value = originals[layer].clone()
                for patch in on:
                    if layer in patch.layers:
                        value = value + patch.delta(layer)
                assert torch.equal(value, block.mlp.W_out), f"layer {layer}"
        for patch in generator.sample(on, len(on)):
            patch.revert(model)
        assert state(model) == before


def _step(
    model: HookedTransformer,
    generator: random.Random,
    patches: list[interp.Patch],
    on: list[interp.Patch],
    outcomes: Counter[str],
    folder: Path,
) -> None:
    patch = generator.choice(patches)
    there = [other for other in on if other is patch]
    step = generator.choice(["apply", "apply", "revert", "reload and apply again", "within", "within, failing"])
    outcomes[step] += 1
    if step == "apply" and not there:
        patch.apply(model)
        on.append(patch)
    elif step == "revert" and on:
        on.pop(generator.randrange(len(on))).revert(model)
    elif step == "reload and apply again":
        patch.save(folder / "again.patch")
        again = interp.Patch.load(folder / "again.patch")
        assert all(torch.equal(patch.delta(layer), again.delta(layer)) for layer in patch.layers)
        if there:  # equal in content: twice would double it
            with pytest.raises(InterpError):
                again.apply(model)
    elif not there and step.startswith("within"):
        weights = [block.mlp.W_out.detach().clone() for block in model.blocks]
        try:
            with patch.applied(model):
                if step == "within, failing":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert all(torch.equal(w, block.mlp.W_out) for w, block in zip(weights, model.blocks, strict=True))


@pytest.mark.filterwarnings("ignore:Exception ignored in")  # Python drops an interrupt that comes in a finaliser
def test_ctrl_c_at_any_moment_leaves_a_model_with_or_without_the_patch(
    own: HookedTransformer, patches: list[interp.Patch], outcomes: Counter[str]
) -> None:
    generator, patch = random.Random(0 if SCALE == 1 else None), patches[2]
    originals = [block.mlp.W_out.detach().clone() for block in own.blocks]

    def ring(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for number in rounds(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-4, 8e-3))
                if number % 2:
                    with patch.applied(own):
                        pass
                else:
                    patch.apply(own)
                    patch.revert(own)
                signal.setitimer(signal.ITIMER_REAL, 0)
                outcomes["finished first"] += 1
            except KeyboardInterrupt:
                outcomes["interrupted"] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert torch.is_grad_enabled(), "gradients are off for everything that follows"
            on = interp.applied_patches(own)
            for layer, block in enumerate(own.blocks):
                value = originals[layer].clone()
                for other in on:
                    if layer in other.layers:
                        value = value + other.delta(layer)
                assert torch.equal(value, block.mlp.W_out), f"layer {layer} is neither with nor without the patch"
            assert not (number % 2 and on), "the patch is still there after the with block"
            for other in reversed(on):
                other.revert(own)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
