"""What is listed once is known everywhere: an invented family of a few lines."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)
from typer.testing import CliRunner

import interp
from interp.cli import app
from interp.errors import ModelError
from interp.models.families import FAMILIES, family_of, llama
from interp.models.families.family import Family
from interp.models.families.fields import llama_fields
from interp.models.families.settings import Settings
from interp.models.weights import weights_hash
from tests.conftest import GOLDEN, random_model

TOKENS = torch.tensor([[5, 17, 300, 42, 7, 511, 9, 88], [1, 2, 3, 4, 500, 6, 70, 8]])
TOWER = interp.Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")


# what others publish: an architecture that transformers knows, with a setting of its own


class InventedConfig(LlamaConfig):
    model_type = "invented"
    embedding_scale: float = 1.0


class InventedForCausalLM(LlamaForCausalLM):
    """Llama with embeddings that are scaled before the first block."""

    config_class = InventedConfig

    def forward(self, input_ids: torch.Tensor, inputs_embeds: None = None, **others: Any) -> Any:
        scaled = self.model.embed_tokens(input_ids) * self.config.embedding_scale
        return super().forward(inputs_embeds=scaled, **others)


@pytest.fixture(scope="module", autouse=True)
def published() -> Iterator[None]:
    AutoConfig.register("invented", InventedConfig)
    AutoModelForCausalLM.register(InventedConfig, InventedForCausalLM)
    yield
    CONFIG_MAPPING._extra_content.pop("invented")
    MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.pop(InventedConfig)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("invented") / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"vocab_size": 600, "bos_token_id": 0, "eos_token_id": 0}
    random_model(InventedConfig(**sizes, **heads, **special, embedding_scale=3.0)).save_pretrained(path)
    AutoTokenizer.from_pretrained(GOLDEN / "tiny-gpt2").save_pretrained(path)
    return path


# its one file


def settings(given: Settings) -> dict[str, Any]:
    given.positive("embedding_scale")  # in the embeddings, below
    given.without_effect("pretraining_tp")
    return llama_fields(given)


def convert(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, torch.Tensor]:
    state = llama.FAMILY.convert(hf_model, cfg)
    return state | {"embed.W_E": state["embed.W_E"] * hf_model.config.embedding_scale}


INVENTED = Family(
    architecture="InventedForCausalLM",
    model_type="invented",
    known={"nobody/invented-1b": "Invented, 3 layers"},
    settings=settings,
    convert=convert,
    block="model.layers.{}",
    down_projection="mlp.down_proj",
)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(FAMILIES, "InventedForCausalLM", INVENTED)


@pytest.fixture(scope="module")
def model(folder: Path) -> HookedTransformer:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(FAMILIES, "InventedForCausalLM", INVENTED)
        return interp.load_model(folder, device="cpu")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(TOKENS)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.fixture(scope="module")
def patch(model: HookedTransformer) -> interp.Patch:
    request = interp.EditRequest(TOWER, new_target=" Rome")
    config = interp.editing.RomeConfig(layer=1, steps=20, weight_decay=0.0)
    return interp.edit(model, [request], method="rome", config=config, second_moments="identity", contexts=["{}"])


def test_it_loads(model: HookedTransformer, folder: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(model), logits(reference), rtol=0, atol=2e-4)
    reference.config.embedding_scale = 1.0
    assert (logits(model) - logits(reference)).abs().max() > 0.1
    assert family_of(model) is INVENTED


def test_facts_are_located_and_edited(model: HookedTransformer, patch: interp.Patch) -> None:
    trace = interp.causal_trace(model, TOWER, samples=2, noise=0.3)
    assert trace.scores.shape[1] == 3
    scores = interp.attribute(model, TOWER, steps=30, rule="gauss-legendre")
    assert scores.completeness_gap.abs().max() < 1e-3
    before = weights_hash(model)
    assert patch.outcomes[0].took is True
    with patch.applied(model):
        assert weights_hash(model) != before
    assert weights_hash(model) == before


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_its_patches_are_exported(model: HookedTransformer, patch: interp.Patch, folder: Path, tmp_path: Path) -> None:
    with patch.applied(model):
        wanted, edited = logits(model), weights_hash(model)
    assert (wanted - logits(model)).abs().max() > 1e-2
    adapter = interp.export_lora(patch, model, tmp_path / "adapter")
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder).eval(), adapter)
    torch.testing.assert_close(logits(with_adapter), wanted, rtol=0, atol=2e-4)
    exported = interp.export_hugging_face(patch, model, tmp_path / "exported")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(exported)), wanted, rtol=0, atol=2e-4)
    assert weights_hash(interp.load_model(exported, device="cpu")) == edited


def test_its_known_model_is_listed_and_guessed() -> None:
    assert list(interp.models.KNOWN_MODELS)[-1] == "nobody/invented-1b"
    assert "nobody/invented-1b" in CliRunner().invoke(app, ["models"]).output
    with pytest.raises(ModelError, match="did you mean nobody/invented-1b"):
        interp.load_model("nobody/invented-1")


def test_a_setting_that_its_file_forgets_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "InventedForCausalLM", replace(INVENTED, settings=llama.FAMILY.settings))
    with pytest.raises(ModelError, match=r"setting embedding_scale of InventedForCausalLM is not known here, got 3\.0"):
        interp.load_model(folder, device="cpu")


def test_without_a_down_projection_nothing_is_exported(
    model: HookedTransformer, patch: interp.Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "InventedForCausalLM", replace(INVENTED, down_projection=None))
    for export in (interp.export_lora, interp.export_hugging_face):
        with pytest.raises(ModelError, match="InventedForCausalLM cannot be exported: no single module holds"):
            export(patch, model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_where_others_are_refused_it_is_offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "InventedForCausalLM")
    monkeypatch.setitem(FAMILIES, "OtherForCausalLM", INVENTED)
    with pytest.raises(ModelError, match=r"architecture InventedForCausalLM is not supported; .*, Other$"):
        interp.load_model(folder, device="cpu")
