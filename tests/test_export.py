import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from interp.errors import DataError, ModelError, OptionError
from interp.models.load import load_model
from interp.models.weights import weights_hash
from interp.patches.export import export_hugging_face, export_lora
from interp.patches.patch import Patch, compose
from interp.results.record import provenance
from tests.conftest import GOLDEN, random_model

TOKENS = torch.tensor([[5, 17, 300, 42, 7, 511, 9, 88], [1, 2, 3, 4, 500, 6, 70, 8]])


def random_patch(
    model: HookedTransformer, ranks: dict[int, int], dense: tuple[int, ...] = (), scale: float = 0.3
) -> Patch:
    """Of these ranks by layer, and without small factors in the dense layers; large enough to be seen."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    d_mlp, d_model = model.cfg.d_mlp, model.cfg.d_model
    assert d_mlp is not None
    return Patch(
        provenance=provenance(model),
        method="random",
        config={},
        requests=(),
        outcomes=(),
        left={layer: draw(d_mlp, rank) for layer, rank in ranks.items()},
        right={layer: draw(rank, d_model) for layer, rank in ranks.items()},
        dense={layer: draw(d_mlp, d_model) for layer in dense},
    )


def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        result = model(tokens)
    return result if isinstance(result, Tensor) else result.logits


def patched_logits(patch: Patch, model: HookedTransformer, tokens: Tensor = TOKENS) -> Tensor:
    """Of the patched model, seen to differ from those of the model."""
    before = logits(model, tokens)
    with patch.applied(model):
        after = logits(model, tokens)
    assert (after - before).abs().max() > 1e-2
    return after


def with_adapter(folder: Path, adapter: Path) -> PreTrainedModel:
    hf_model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with warnings.catch_warnings():
        # PEFT asks transformers for an attribute by its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return PeftModel.from_pretrained(hf_model, adapter).eval()


@pytest.fixture
def twelve_layers(tmp_path: Path) -> Path:
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=12,
        max_position_embeddings=64,
        vocab_size=600,
    )
    folder = tmp_path / "twelve"
    random_model(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(GOLDEN / "tiny-gpt2").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dense", [(), (1,)], ids=["factors", "one dense layer"])
def test_lora(
    tmp_path: Path,
    family: str,
    dense: tuple[int, ...],
    family_model: Callable[[str], HookedTransformer],
    family_folder: Callable[[str], Path],
) -> None:
    model = family_model(family)
    patch = random_patch(model, {0: 3, 2: 1}, dense)
    wanted = patched_logits(patch, model)
    before = weights_hash(model)
    adapter = export_lora(patch, model, tmp_path / "adapter")
    assert adapter == tmp_path / "adapter"
    assert weights_hash(model) == before
    assert sorted(file.name for file in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    loaded = with_adapter(family_folder(family), adapter)
    torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=1e-4)
    with loaded.disable_adapter():
        torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(loaded.merge_and_unload()), wanted, rtol=0, atol=1e-4)


def test_scaling_is_one_and_names_are_whole(
    tmp_path: Path, family_model: Callable[[str], HookedTransformer], family_folder: Callable[[str], Path]
) -> None:
    model = family_model("gpt2")
    adapter = export_lora(random_patch(model, {0: 3, 2: 1}), model, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(family_folder("gpt2"))
    assert config["target_modules"] == ["transformer.h.0.mlp.c_proj", "transformer.h.2.mlp.c_proj"]
    assert config["fan_in_fan_out"] is True
    assert config["inference_mode"] is True  # loaded, it is not trained
    assert config["task_type"] == "CAUSAL_LM"
    loaded = with_adapter(family_folder("gpt2"), adapter)
    layers = {name: module for name, module in loaded.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    assert [module.r["default"] for module in layers.values()] == [3, 1]
    assert [module.scaling["default"] for module in layers.values()] == [1.0, 1.0]


@pytest.mark.parametrize("ranks", [{1: 4, 11: 2}, {1: 2, 11: 4}, {1: 3, 11: 3}, {1: 2}, {11: 2, 10: 1, 1: 5, 0: 3}])
def test_layer_1_is_not_layer_11(tmp_path: Path, twelve_layers: Path, ranks: dict[int, int]) -> None:
    model = load_model(twelve_layers, device="cpu")
    patch = random_patch(model, ranks)
    wanted = patched_logits(patch, model)
    loaded = with_adapter(twelve_layers, export_lora(patch, model, tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=1e-4)
    exported = AutoModelForCausalLM.from_pretrained(export_hugging_face(patch, model, tmp_path / "exported"))
    torch.testing.assert_close(logits(exported), wanted, rtol=0, atol=1e-4)


def test_transformers_reads_the_adapter_by_itself(
    tmp_path: Path, family_model: Callable[[str], HookedTransformer], family_folder: Callable[[str], Path]
) -> None:
    model = family_model("mistral")
    patch = random_patch(model, {0: 3, 2: 1})
    hf_model = AutoModelForCausalLM.from_pretrained(family_folder("mistral")).eval()
    hf_model.load_adapter(str(export_lora(patch, model, tmp_path / "adapter")))
    torch.testing.assert_close(logits(hf_model), patched_logits(patch, model), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_adapter_finds_its_base_model(tmp_path: Path, family_model: Callable[[str], HookedTransformer]) -> None:
    model = family_model("qwen2")
    patch = random_patch(model, {0: 3, 2: 1})
    adapter = export_lora(patch, model, tmp_path / "adapter")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
    torch.testing.assert_close(logits(loaded), patched_logits(patch, model), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("parts", "rank"),
    [("dense", 32), ("both", 32), ("many", 32), ("composed", 5), ("none beside some", 3)],
)
def test_rank_is_never_above_full(
    tmp_path: Path,
    family_model: Callable[[str], HookedTransformer],
    family_folder: Callable[[str], Path],
    parts: str,
    rank: int,
) -> None:
    model = family_model("llama")
    patch = {
        "dense": random_patch(model, {}, (1,)),
        "both": random_patch(model, {1: 2}, (1,)),
        "many": random_patch(model, {1: 60}, scale=0.1),
        "composed": compose([random_patch(model, {1: 2}), random_patch(model, {1: 3})]),
        "none beside some": random_patch(model, {1: 3, 2: 0}),
    }[parts]
    adapter = export_lora(patch, model, tmp_path / "adapter")
    state = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.down_proj"
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        f"{name}.lora_A.weight": (rank, 48),
        f"{name}.lora_B.weight": (32, rank),
    }
    loaded = with_adapter(family_folder("llama"), adapter)
    torch.testing.assert_close(logits(loaded), patched_logits(patch, model), rtol=0, atol=1e-4)


def test_the_same_patch_gives_the_same_bytes(tmp_path: Path, family_model: Callable[[str], HookedTransformer]) -> None:
    model = family_model("neox")
    patch = random_patch(model, {0: 3, 1: 2, 2: 1})
    one, other = (export_lora(patch, model, tmp_path / name) for name in ("one", "other"))
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()
    assert json.loads((one / "adapter_config.json").read_text())["target_modules"] == [
        f"gpt_neox.layers.{layer}.mlp.dense_4h_to_h" for layer in range(3)
    ]


@pytest.mark.parametrize("dense", [(), (1,)], ids=["factors", "one dense layer"])
def test_hugging_face(
    tmp_path: Path,
    family: str,
    dense: tuple[int, ...],
    family_model: Callable[[str], HookedTransformer],
    family_folder: Callable[[str], Path],
) -> None:
    model = family_model(family)
    patch = random_patch(model, {0: 3, 2: 1}, dense)
    wanted = patched_logits(patch, model)
    before = weights_hash(model)
    folder = export_hugging_face(patch, model, tmp_path / "exported")
    assert folder == tmp_path / "exported"
    assert weights_hash(model) == before
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=1e-4)
    with patch.applied(model):
        assert weights_hash(load_model(folder, device="cpu")) == weights_hash(model)  # bit for bit
    # nothing but the patch is another one: not the configuration, not the tokenizer
    base = family_folder(family)
    assert sorted(file.name for file in folder.iterdir()) == sorted(file.name for file in base.iterdir())
    assert "exported" not in (folder / "config.json").read_text()
    configs = [json.loads((place / "config.json").read_text()) for place in (folder, base)]
    assert configs[0] == configs[1]
    text = "The capital of France"
    assert AutoTokenizer.from_pretrained(folder)(text) == AutoTokenizer.from_pretrained(base)(text)


def test_the_tokenizer_stays_as_it_is(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    base = tmp_path / "base"
    shutil.copytree(family_folder("gpt2"), base)
    place = base / "tokenizer_config.json"
    settings = {**json.loads(place.read_text()), "pad_token": None, "padding_side": "left"}  # load_model sets both
    place.write_text(json.dumps(settings))
    model = load_model(base, device="cpu")
    exported = AutoTokenizer.from_pretrained(
        export_hugging_face(random_patch(model, {0: 1}), model, tmp_path / "exported")
    )
    assert (exported.pad_token, exported.padding_side) == (None, "left")


def test_half_precision_rounds_as_the_patched_model(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    model = load_model(family_folder("gptj"), dtype=torch.bfloat16, device="cpu")
    patch = random_patch(model, {0: 3, 2: 1})
    folder = export_hugging_face(patch, model, tmp_path / "exported")
    exported = load_model(folder, dtype=torch.bfloat16, device="cpu")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    with patch.applied(model):
        assert weights_hash(exported) == weights_hash(model)
    state = load_file(export_lora(patch, model, tmp_path / "adapter") / "adapter_model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float32}


@pytest.mark.parametrize("export", [export_lora, export_hugging_face])
class TestBoth:
    def test_other_weights(
        self, tmp_path: Path, export: Callable[..., Path], family_model: Callable[[str], HookedTransformer]
    ) -> None:
        patch = random_patch(family_model("llama"), {0: 1})
        other = family_model("llama3-rope")
        patch = replace(patch, provenance=replace(patch.provenance, weights_hash="0" * 32))
        with pytest.raises(ModelError, match=rf"with weights 0{{32}}; this is .* with weights {weights_hash(other)}$"):
            export(patch, other, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_processed_model(
        self, tmp_path: Path, export: Callable[..., Path], family_folder: Callable[[str], Path]
    ) -> None:
        model = load_model(family_folder("gpt2"), device="cpu")
        patch = random_patch(model, {0: 1})
        model.cfg.normalization_type = "LNPre"
        with pytest.raises(ModelError, match=r"was processed \(norms folded into weights\)"):
            export(patch, model, tmp_path / "out")

    def test_patches_on_the_model_are_not_exported(
        self, tmp_path: Path, export: Callable[..., Path], family_model: Callable[[str], HookedTransformer]
    ) -> None:
        model = family_model("gptj")
        patch, other = random_patch(model, {0: 3, 2: 1}), random_patch(model, {1: 2})
        with other.applied(model):
            one = export(patch, model, tmp_path / "one")
        two = export(patch, model, tmp_path / "two")
        for name in ("adapter_model.safetensors", "model.safetensors"):
            if (one / name).exists():
                assert (one / name).read_bytes() == (two / name).read_bytes()

    def test_made_on_top_of_another(
        self, tmp_path: Path, export: Callable[..., Path], family_model: Callable[[str], HookedTransformer]
    ) -> None:
        model = family_model("gptj")
        first = random_patch(model, {1: 2})
        with first.applied(model):
            second = random_patch(model, {0: 1})
            with pytest.raises(ModelError, match=r"made on top of other patches that are on .*: compose it with"):
                export(second, model, tmp_path / "out")
        with pytest.raises(ModelError, match=rf"{second.provenance.weights_hash}; .*{weights_hash(model)}$"):
            export(second, model, tmp_path / "out")
        export(compose([first, second]), model, tmp_path / "out")
        assert len(list((tmp_path / "out").iterdir())) >= 2

    def test_unknown_family(
        self, tmp_path: Path, export: Callable[..., Path], family_folder: Callable[[str], Path]
    ) -> None:
        model = load_model(family_folder("gpt2"), device="cpu")
        patch = random_patch(model, {0: 1})
        model.cfg.original_architecture = "GraniteForCausalLM"
        with pytest.raises(
            ModelError, match="architecture GraniteForCausalLM cannot be exported; supported are GPT2LM"
        ):
            export(patch, model, tmp_path / "out")

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_place_is_taken(
        self, tmp_path: Path, export: Callable[..., Path], kind: str, family_model: Callable[[str], HookedTransformer]
    ) -> None:
        model = family_model("gpt2")
        taken = tmp_path / "out" / "notes.txt"
        taken.parent.mkdir()
        taken.write_text("mine")
        place = taken if kind == "file" else taken.parent
        with pytest.raises(DataError, match=rf"^{place} exists and is not an empty folder: nothing was written$"):
            export(random_patch(model, {0: 1}), model, place)
        assert taken.read_text() == "mine"
        assert list(tmp_path.rglob("*")) == [taken.parent, taken]

    def test_empty_folder_and_missing_parents(
        self, tmp_path: Path, export: Callable[..., Path], family_model: Callable[[str], HookedTransformer]
    ) -> None:
        model = family_model("gpt2")
        (tmp_path / "empty").mkdir()
        for place in (tmp_path / "empty", tmp_path / "not" / "yet" / "there"):
            assert export(random_patch(model, {0: 1}), model, str(place)) == place
            assert place.stat().st_mode & 0o777 == 0o755
            assert {file.stat().st_mode & 0o444 for file in place.iterdir()} == {0o444}
            assert [file.name for file in place.parent.iterdir() if file.name.startswith(".")] == []

    def test_place_that_cannot_be_written(
        self, tmp_path: Path, export: Callable[..., Path], family_model: Callable[[str], HookedTransformer]
    ) -> None:
        model = family_model("gpt2")
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(DataError, match=r"file/out cannot be written: [^\n]+$"):
            export(random_patch(model, {0: 1}), model, tmp_path / "file" / "out")

    def test_a_failure_leaves_nothing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        export: Callable[..., Path],
        family_model: Callable[[str], HookedTransformer],
    ) -> None:
        def full(*args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

        model = family_model("gpt2")
        monkeypatch.setattr("interp.patches.export.save_file", full)
        monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
        with pytest.raises(DataError, match=r"out cannot be written: No space left on device$"):
            export(random_patch(model, {0: 1}), model, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def test_nothing_to_write_as_an_adapter(tmp_path: Path, family_model: Callable[[str], HookedTransformer]) -> None:
    model = family_model("gpt2")
    for ranks in ({}, {1: 0}):
        with pytest.raises(OptionError, match="the patch changes nothing: there is no adapter to write"):
            export_lora(random_patch(model, ranks), model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_base_model_has_changed_on_disk(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    base = tmp_path / "base"
    shutil.copytree(family_folder("llama"), base)
    model = load_model(base, device="cpu")
    patch = random_patch(model, {0: 1})
    state = load_file(base / "model.safetensors")
    state["model.norm.weight"][0] += 1
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    hashes = (weights_hash(model), weights_hash(load_model(base, device="cpu")))
    assert hashes[0] != hashes[1]
    with pytest.raises(ModelError, match=rf"with weights {hashes[0]}; {base}, loaded anew, has weights {hashes[1]}$"):
        export_hugging_face(patch, model, tmp_path / "out")
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="does not exist"):
        export_hugging_face(patch, model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_peft_is_imported_only_to_export() -> None:
    code = "import sys, interp.patches.export; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.real_model
class TestRealModel:
    NOISE = 1e-3
    """The unpatched model's logits differ by 2e-4 between the two implementations."""

    def test_lora(self, tmp_path: Path, real_model: HookedTransformer) -> None:
        from interp.models.embedded import folder

        patch = random_patch(real_model, {3: 2, 13: 4, 23: 1}, scale=0.05)
        wanted = patched_logits(patch, real_model)
        adapter = export_lora(patch, real_model, tmp_path / "adapter")
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "smollm2-135m"
        torch.testing.assert_close(logits(with_adapter(folder(), adapter)), wanted, rtol=0, atol=self.NOISE)

    def test_hugging_face(self, tmp_path: Path, real_model: HookedTransformer) -> None:
        patch = random_patch(real_model, {3: 2, 13: 4}, scale=0.05)
        wanted = patched_logits(patch, real_model)
        exported = export_hugging_face(patch, real_model, tmp_path / "exported")
        loaded = AutoModelForCausalLM.from_pretrained(exported).eval()
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight  # still tied
        torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=self.NOISE)
        with patch.applied(real_model):
            assert weights_hash(load_model(exported, device="cpu")) == weights_hash(real_model)
        text = "The capital of France"
        assert AutoTokenizer.from_pretrained(exported)(text)["input_ids"] == real_model.tokenizer(text)["input_ids"]
