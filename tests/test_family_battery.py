"""What holds of every family: its logits, what is located in it, its edits, and their exports; each by full passes.

``python -m benchmarks.families`` writes how far each is from transformers' logits into ``docs/how-to/models.md``.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, PreTrainedModel

import interp
from benchmarks.baseline import attribute_layers, trace_cells
from benchmarks.families import PAGE, row, table_of
from interp.editing import MemitConfig, RomeConfig
from interp.editing.methods import EDITORS
from interp.errors import ModelError, OptionError
from interp.models.families import FAMILIES, family_named
from interp.models.load import load_model
from interp.models.tokens import tokenize
from interp.models.weights import weights_hash
from tests.conftest import ARCHITECTURES, EVERY_FAMILY

TOLERANCE = 1e-4
"""Of logits whose spread is about 1."""

TOWER = interp.Fact(template="The {} is in the city of", subject="Eiffel Tower", target=" Paris")
ROME = interp.EditRequest(interp.Fact(template="The city with the {}", subject="Eiffel Tower"), new_target=" Rome")
_STEPS = {"steps": 25, "weight_decay": 0.0, "clamp": 100.0}
EDITS = {
    "rome": RomeConfig(layer=1, **_STEPS),
    "memit": MemitConfig(layers=(0, 1), second_moment_weight=0.01, **_STEPS),
}
"""With little that holds them back: the weights are random, and no text has shaped them to say anything."""

TOKENS = torch.randint(1, 600, (2, 64), generator=torch.Generator().manual_seed(5))

Factory = Callable[[str], HookedTransformer]


def edited_as_a_whole(name: str) -> bool:
    """Whether a family has one W_out a layer: those that have experts are located, and no more."""
    return family_named(ARCHITECTURES[name]).down_projection is not None


EDITABLE = tuple(name for name in EVERY_FAMILY if edited_as_a_whole(name))
EXPERTS = tuple(name for name in EVERY_FAMILY if not edited_as_a_whole(name))


@torch.no_grad()
def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    found = model(tokens)
    return found if isinstance(found, Tensor) else found.logits


@pytest.fixture(scope="module")
def edits(family_model: Factory) -> Callable[[str, str], interp.Patch]:
    """A patch of each editor for each family; made once."""
    made: dict[tuple[str, str], interp.Patch] = {}

    def patch(name: str, method: str) -> interp.Patch:
        if (name, method) not in made:
            model = family_model(name)
            made[name, method] = interp.edit(
                model, [ROME], method=method, config=EDITS[method], second_moments="identity", contexts=["{}"]
            )
        return made[name, method]

    return patch


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_logits_are_transformers(name: str, family_model: Factory, family_hf: Callable[[str], PreTrainedModel]) -> None:
    found, expected = logits(family_model(name)), logits(family_hf(name))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert expected.std() > 0.3


@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_a_trace_equals_full_passes(name: str, state: Any, family_model: Factory) -> None:
    model = family_model(name)
    options = {"state": state, "window": 1 if state == "resid" else 2, "samples": 2, "noise": 0.5, "seed": 3}
    trace = interp.causal_trace(model, TOWER, **options)
    tokenized = tokenize(model, TOWER)
    expected = trace_cells(model, tokenized.ids, tokenized.subject_span, trace.answer_id, **options)
    torch.testing.assert_close(trace.scores, expected, atol=1e-6, rtol=0)
    assert trace.scores.std() > 0  # the answer does depend on the cell


@pytest.mark.parametrize("name", EDITABLE)
def test_attribution_equals_full_passes(name: str, family_model: Factory) -> None:
    model = family_model(name)
    tokenized = tokenize(model, TOWER)
    answer = tokenized.target_ids[0]
    single = interp.Fact(template=TOWER.template, subject=TOWER.subject, target=model.tokenizer.decode([answer]))
    found = interp.attribute(model, single, tokens="all", steps=3)
    expected = attribute_layers(model, tokenized.ids, answer, steps=3, positions=slice(None))
    torch.testing.assert_close(found.scores, expected, atol=1e-8, rtol=1e-3)


@pytest.mark.parametrize("method", EDITS)
@pytest.mark.parametrize("name", EDITABLE)
def test_an_edit_takes_and_comes_off(
    name: str, method: str, family_model: Factory, edits: Callable[[str, str], interp.Patch]
) -> None:
    model, patch = family_model(name), edits(name, method)
    assert patch.outcomes[0].took is True
    before, plain = weights_hash(model), logits(model)
    with patch.applied(model):
        assert weights_hash(model) != before
        assert (logits(model) - plain).abs().max() > 100 * TOLERANCE
    assert weights_hash(model) == before
    assert torch.equal(logits(model), plain)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", EDITABLE)
def test_exports_have_the_edited_logits(
    name: str,
    family_model: Factory,
    family_folder: Callable[[str], Path],
    edits: Callable[[str, str], interp.Patch],
    tmp_path: Path,
) -> None:
    model, patch = family_model(name), edits(name, "memit")
    with patch.applied(model):
        wanted, edited = logits(model), weights_hash(model)
    adapter = interp.export_lora(patch, model, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(family_folder(name)).eval()
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, adapter)), wanted, rtol=0, atol=TOLERANCE)
    folder = interp.export_hugging_face(patch, model, tmp_path / "exported")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder)), wanted, rtol=0, atol=TOLERANCE)
    assert weights_hash(load_model(folder, device="cpu")) == edited


@pytest.mark.parametrize("name", EXPERTS)
def test_what_needs_one_w_out_is_refused_where_there_are_experts(name: str, family_model: Factory) -> None:
    model = family_model(name)
    refusal = "4 experts a layer: attribution and editing need MLPs whose output is w @ W_out"
    with pytest.raises(OptionError, match=refusal):
        interp.attribute(model, TOWER)
    with pytest.raises(OptionError, match=refusal):
        interp.second_moments(model, [1])
    for method in EDITORS:
        with pytest.raises(OptionError, match=refusal):
            interp.edit(model, [ROME], method=method)


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_an_invented_setting_is_refused(name: str, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(family_folder(name), folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_lookahead": 2}))
    with pytest.raises(ModelError, match=f"setting attention_lookahead of {ARCHITECTURES[name]} is not known here"):
        load_model(folder, device="cpu")


def test_the_documentation_lists_every_family_with_what_was_measured() -> None:
    rows = table_of(PAGE.read_text("utf-8"))
    assert [line.rpartition("|")[0].rpartition("|")[0] + "|" for line in rows] == [row(name) for name in FAMILIES]
    assert all(0 < float(line.split("|")[-2]) < TOLERANCE for line in rows)
