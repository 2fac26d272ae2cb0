"""Adapters of PEFT: merged into their base, they do what peft does with both; others are refused by name."""

import copy
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import interp.cli
from interp.errors import ModelError, OptionError
from interp.facts.records import EditRequest, Fact
from interp.models.load import load_model
from interp.models.weights import weights_hash
from interp.patches.export import export_hugging_face, export_lora
from interp.patches.patch import Outcome, Patch
from interp.results.record import provenance

TOLERANCE = 1e-4
TARGETS = ["q_proj", "down_proj"]

KINDS: dict[str, Any] = {
    "lora": peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=7, target_modules=TARGETS),
    "rslora": peft.LoraConfig(task_type="CAUSAL_LM", r=2, use_rslora=True, target_modules=TARGETS),
    "dora": peft.LoraConfig(task_type="CAUSAL_LM", r=2, use_dora=True, target_modules=TARGETS),
    "saved modules": peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=TARGETS, modules_to_save=["lm_head"]),
    "loha": peft.LoHaConfig(task_type="CAUSAL_LM", r=2, target_modules=TARGETS),
    "ia3": peft.IA3Config(task_type="CAUSAL_LM", target_modules=TARGETS, feedforward_modules=["down_proj"]),
}


def adapter(folder: Path, base: Path, config: Any, *, named: str | None = None) -> Any:
    """Write an adapter with random weights; the base with it beside."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft about transformers
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), copy.deepcopy(config))
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                noise = 0.2 * torch.randn_like(weight)
                weight.data = weight.data.abs() + noise if "magnitude" in name else weight.data + noise
        model.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": named or str(base)}))
    return model.eval()


@pytest.fixture
def base(family_folder: Callable[[str], Path]) -> Path:
    return family_folder("llama")


def difference(model: Any, other: Any) -> float:
    tokens = torch.arange(3, 20)[None]
    with torch.inference_mode():
        found, expected = model(tokens, prepend_bos=False), other(input_ids=tokens).logits
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_does_what_it_does_beside_its_base(tmp_path: Path, base: Path, kind: str) -> None:
    beside = adapter(tmp_path / "adapter", base, KINDS[kind])
    model = load_model(tmp_path / "adapter", device="cpu")
    assert difference(model, beside) < TOLERANCE
    assert difference(load_model(base, device="cpu"), beside) > 100 * TOLERANCE
    assert model.cfg.model_name == str(tmp_path / "adapter")


def test_provenance_names_both(tmp_path: Path, base: Path) -> None:
    adapter(tmp_path / "adapter", base, KINDS["lora"])
    made = provenance(load_model(tmp_path / "adapter", device="cpu"))
    below = weights_hash(load_model(base, device="cpu"))
    assert made.source["base_weights"] == below != made.weights_hash
    assert made.source["base"] == base.name
    assert len(made.source["sha256"]) == 64
    assert made.said_of_source() == f"LORA adapter adapter, merged into llama with weights {below[:8]}"


def test_another_base_can_be_named(tmp_path: Path, base: Path) -> None:
    beside = adapter(tmp_path / "adapter", base, KINDS["lora"], named="nobody/has-this")
    with pytest.raises(ModelError, match=r"^adapter .*: model 'nobody/has-this' is neither embedded nor"):
        load_model(tmp_path / "adapter", device="cpu")
    model = load_model(tmp_path / "adapter", device="cpu", base=base)
    assert difference(model, beside) < TOLERANCE
    with pytest.raises(OptionError, match=r"base would do nothing: .* is no adapter"):
        load_model(base, device="cpu", base=base)


def test_the_number_format_is_the_bases_or_as_asked_for(tmp_path: Path, base: Path) -> None:
    """Merging is done in float32: in bfloat16, what is rounded is the sum."""
    narrow = tmp_path / "narrow"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(narrow)
    AutoTokenizer.from_pretrained(base).save_pretrained(narrow)
    adapter(tmp_path / "adapter", narrow, KINDS["lora"])
    wide = load_model(tmp_path / "adapter", device="cpu")
    own = load_model(tmp_path / "adapter", device="cpu", dtype="auto")
    assert (wide.cfg.dtype, own.cfg.dtype) == (torch.float32, torch.bfloat16)
    for one, other in zip(wide.parameters(), own.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), other)


def test_a_patch_on_top_of_an_adapter_is_exported(tmp_path: Path, base: Path) -> None:
    adapter(tmp_path / "adapter", base, KINDS["lora"], named="nobody/has-this")
    model = load_model(tmp_path / "adapter", device="cpu", base=base)
    fact = Fact(template="The {} is in", subject="Eiffel Tower")
    patch = Patch(
        provenance=provenance(model),
        method="rome",
        config={},
        requests=(EditRequest(fact, new_target=" Rome"),),
        outcomes=(Outcome(converged=True, probability=None, loss=None, steps=1),),
        left={1: torch.randn(48, 1)},
        right={1: torch.randn(1, 32)},
    )
    again = load_model(export_hugging_face(patch, model, tmp_path / "whole"), device="cpu")
    with patch.applied(model):
        assert weights_hash(again) == weights_hash(model)
    export_lora(patch, model, tmp_path / "lora")


def test_the_command_line_takes_an_adapter_and_a_base(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter(tmp_path / "adapter", base, KINDS["lora"], named="nobody/has-this")
    words = ["interp", "trace", "The Eiffel Tower is in", "--subject", "Eiffel Tower", "--samples", "1", "--json"]
    words += ["--model", str(tmp_path / "adapter"), "--dtype", "auto", "--device", "cpu", "--noise", "0.3"]
    for more, code in (([], 2), (["--base", str(base)], 0)):
        monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / f"run{code}"), *more])
        with pytest.raises(SystemExit) as left:
            interp.cli.main()
        assert left.value.code == code
        said = capsys.readouterr()
        assert ("'nobody/has-this' is neither embedded" in said.err) == (code == 2)
    assert json.loads(said.out)["answer"]
    made = json.loads((tmp_path / "run0" / "run.json").read_text())["provenance"]
    assert made["source"]["peft_type"] == "LORA"
    assert made["source"]["given_base"] == str(base)


# what is no change of weights


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(folder, device="cpu")
    message = str(raised.value)
    assert message.startswith(f"adapter {str(folder)!r}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=8),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_learnt_prompts_are_refused(tmp_path: Path, base: Path, config: Any) -> None:
    adapter(tmp_path / "adapter", base, config)
    assert f"an adapter of kind '{config.peft_type.value}' is no change of weights" in refusal(tmp_path / "adapter")


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_replication": [[0, 2], [1, 3]]}, "its setting layer_replication is [[0, 2], [1, 3]]"),
        ({"alora_invocation_tokens": [5, 6]}, "its setting alora_invocation_tokens is [5, 6]"),
        ({"peft_type": "no-such"}, "an adapter of kind 'no-such'"),
        ({"base_model_name_or_path": None}, "its settings name no base: say which (base=)"),
        ({"revision": "abc"}, "its base is the revision 'abc' of "),
        (
            {"target_modules": ["q_proj"]},
            "it is no adapter of this base: base_model.model.model.layers.0.mlp.down_proj",
        ),
        ({"target_modules": ["no_such"]}, "cannot be read"),
        ({"r": 3}, "cannot be read"),
    ],
    ids=str,
)
def test_adapters_that_do_not_fit(tmp_path: Path, base: Path, changes: dict[str, Any], message: str) -> None:
    adapter(tmp_path / "adapter", base, KINDS["lora"])
    set_config(tmp_path / "adapter", **changes)
    assert message in refusal(tmp_path / "adapter")


def test_an_adapter_of_another_model(tmp_path: Path, base: Path, family_folder: Callable[[str], Path]) -> None:
    adapter(tmp_path / "adapter", base, KINDS["lora"], named=str(family_folder("gpt2")))
    assert "cannot be read" in refusal(tmp_path / "adapter")


def test_missing_and_pickled_weights(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "adapter"
    adapter(folder, base, KINDS["lora"])
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if "layers.1" not in name}, path, {"format": "pt"})
    assert "layers.1.mlp.down_proj.lora_A.weight is missing (4 such weights)" in refusal(folder)
    path.unlink()
    torch.save(weights, folder / "adapter_model.bin")
    assert "it has no adapter_model.safetensors (pickled weights" in refusal(folder)


def test_settings_that_cannot_be_read(tmp_path: Path, base: Path) -> None:
    for content in ("", "[]", "{}", "null", "\x00"):
        (tmp_path / "adapter_config.json").write_text(content)
        assert "adapter_config.json cannot be read" in refusal(tmp_path)


def test_an_adapter_of_an_adapter(tmp_path: Path, base: Path) -> None:
    adapter(tmp_path / "one", base, KINDS["lora"])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    set_config(tmp_path / "two", base_model_name_or_path=str(tmp_path / "one"))
    assert "is an adapter itself: merge that first" in refusal(tmp_path / "two")


def test_a_change_of_one_of_two_tied_matrices_is_found_out(
    tmp_path: Path, family_folder: Callable[[str], Path]
) -> None:
    """Merged, the unembedding's change is the embedding's as well."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"])
    adapter(tmp_path / "adapter", family_folder("qwen2"), config)
    assert "the adapter cannot be merged: the merged model's logits differ by " in refusal(tmp_path / "adapter")
