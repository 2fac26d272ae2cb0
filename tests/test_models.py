import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM

from interp.errors import ModelError, OptionError
from interp.models.hub import KNOWN_MODELS
from interp.models.load import default_device, load_model
from interp.models.weights import weights_hash

Factory = Callable[[str], HookedTransformer]


def test_tiny_knows_its_facts(tiny: HookedTransformer, facts: list[Any]) -> None:
    for fact in facts:
        best = tiny(torch.tensor([tiny.tokenizer(fact.prompt)["input_ids"]]))[0, -1].argmax()
        assert fact.target.startswith(tiny.tokenizer.decode([best]))


def test_config(tiny: HookedTransformer, golden: Path) -> None:
    assert tiny.cfg.model_name == str(golden / "tiny-gpt2")
    assert tiny.cfg.dtype == torch.float32
    assert (tiny.cfg.n_layers, tiny.cfg.n_ctx, tiny.cfg.d_vocab) == (6, 64, 600)


def test_dtype(family_folder: Callable[[str], Path]) -> None:
    model = load_model(family_folder("llama"), dtype=torch.bfloat16, device="cpu")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model(torch.tensor([[1, 2, 3]])).dtype == torch.bfloat16


def test_prepends_bos_as_the_tokenizer_does(tiny: HookedTransformer, bos_model: HookedTransformer) -> None:
    assert tiny.cfg.default_prepend_bos is False
    assert bos_model.cfg.default_prepend_bos is True
    prompt = "Norway is governed from"
    plain = tiny.tokenizer(prompt)["input_ids"]
    assert tiny.to_tokens(prompt)[0].tolist() == plain
    assert tiny.to_tokens(prompt, prepend_bos=False)[0].tolist() == plain
    assert tiny.to_tokens(prompt, prepend_bos=True)[0].tolist() == [0, *plain]
    assert bos_model.to_tokens(prompt)[0].tolist() == [0, *plain]
    assert bos_model.to_tokens(prompt, prepend_bos=False)[0].tolist() == plain


def test_hash_sees_one_ulp_of_every_weight(family_model: Factory) -> None:
    model = copy.deepcopy(family_model("llama"))
    before = weights_hash(model)
    assert len(before) == 32
    assert int(before, 16) >= 0
    for name, weight in model.named_parameters():
        last = tuple(size - 1 for size in weight.shape)
        old = weight.data[last].clone()
        weight.data[last] = torch.nextafter(old, torch.tensor(torch.inf))
        assert weights_hash(model) != before, name
        weight.data[last] = old
    assert weights_hash(model) == before


def test_hash_does_not_see_the_layout(family_model: Factory) -> None:
    model = copy.deepcopy(family_model("llama"))
    before = weights_hash(model)
    changed = 0
    for weight in model.parameters():
        changed += not weight.is_contiguous()
        weight.data = weight.data.contiguous()
    assert changed > 0
    assert weights_hash(model) == before


def test_hash_sees_which_weight_is_which(family_model: Factory) -> None:
    model = copy.deepcopy(family_model("gpt2"))
    before = weights_hash(model)
    first, second = model.blocks[0].ln1.w, model.blocks[1].ln1.w
    first.data, second.data = second.data, first.data
    assert weights_hash(model) != before


def test_hash_sees_the_number_format(family_model: Factory) -> None:
    model = copy.deepcopy(family_model("gpt2"))
    assert weights_hash(copy.deepcopy(model).bfloat16().float()) != weights_hash(model.bfloat16())


@pytest.fixture
def folder(tmp_path: Path, family_folder: Callable[[str], Path]) -> Path:
    """A copy of the tiny Llama's folder, to be spoilt."""
    copied_to = tmp_path / "model"
    shutil.copytree(family_folder("llama"), copied_to)
    return copied_to


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(name, device="cpu")
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "near"),
    [("smollm2-135", "smollm2-135m"), ("gpt2-larg", "gpt2-large"), ("Qwen/Qwen2-0.5", "Qwen/Qwen2-0.5B")],
)
def test_unknown_name(name: str, near: str) -> None:
    assert near in KNOWN_MODELS
    message = refusal(name)
    assert message.startswith(f"model {name!r} is neither embedded nor in the local cache")
    assert near in message.split("did you mean ")[1].split(" (")[0].split(" or ")


def test_name_like_no_other() -> None:
    message = refusal("zzz/yyy")
    assert "did you mean" not in message
    assert "smollm2-135m" in message


def test_impossible_name() -> None:
    assert "'a/b/c' is not on the Hugging Face hub" in refusal("a/b/c")


def test_missing_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").endswith("does not exist or is not a folder")
    assert refusal("./nowhere").endswith("does not exist or is not a folder")
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file").endswith("does not exist or is not a folder")


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refusal(folder) == f"model folder {str(folder)!r} has no config.json"


def test_folder_with_a_damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "cannot be read" in refusal(folder)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "cannot be read" in refusal(folder)


@pytest.mark.parametrize("damage", ["cut", "header", "empty"])
def test_folder_with_damaged_weights(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "header": b"\xff" * 64 + data[64:], "empty": b""}[damage])
    message = refusal(folder)
    assert message.startswith(f"model folder {str(folder)!r} cannot be read")


def test_folder_that_lacks_a_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    assert "model.layers.1.mlp.down_proj.weight" in refusal(folder)


def test_folder_with_a_weight_of_another_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, path, {"format": "pt"})
    assert str(folder) in refusal(folder)


def test_unsupported_architecture(folder: Path) -> None:
    set_config(folder, architectures=["GraniteForCausalLM"])
    message = refusal(folder)
    assert "architecture GraniteForCausalLM is not supported; supported are GPT2LMHeadModel" in message


def test_unsupported_model_type(folder: Path) -> None:
    set_config(folder, model_type="no-such-type", architectures=["NoSuchModel"])
    assert "no-such-type" in refusal(folder) or "NoSuchModel" in refusal(folder)


def test_unsupported_rope(folder: Path) -> None:
    rope = {"rope_type": "proportional", "rope_theta": 10000.0, "factor": 2.0}
    set_config(folder, rope_parameters=rope)
    assert "LlamaForCausalLM with 'proportional' rotary scaling is not supported" in refusal(folder)


def test_unsupported_bias(folder: Path) -> None:
    config = transformers.LlamaConfig.from_pretrained(folder, mlp_bias=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    assert "setting mlp_bias of LlamaForCausalLM must be False, got True" in refusal(folder)


def set_tokenizer_config(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 0}, "setting num_attention_heads must be a positive whole number, got 0"),
        ({"num_hidden_layers": 0}, "setting num_hidden_layers must be a positive whole number, got 0"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"vocab_size": -1}, "setting vocab_size must be a positive whole number, got -1"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 cannot be divided by num_key_value_heads 3"),
        ({"num_hidden_layers": 10**9}, "it has 1000000000 layers; expected at most 10000"),
        ({"num_hidden_layers": 4}, "the weights lack model.layers.3.input_layernorm.weight"),
        ({"num_hidden_layers": 2}, "the weights hold model.layers.2."),
        ({"hidden_act": "tanh"}, "activation 'tanh' is not supported; supported are gelu_new"),
        ({"hidden_act": "no-such"}, "activation 'no-such' is not supported"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps"),
        ({"rms_norm_eps": -1.0}, "the epsilon of its normalization must be a number from 0 on, got -1.0"),
        ({"intermediate_size": 40}, "mlp.down_proj.weight has shape (32, 48), the config expects (32, 40)"),
        ({"vocab_size": 700}, "has shape (600, 32), the config expects (700, 32)"),
        ({"vocab_size": 100}, "its tokenizer does not fit its weights: token '"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised (quantization_config, quant_method"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "'bitsandbytes'"),
        ({"model_type": "gpt2"}, "architecture LlamaForCausalLM expects model_type 'llama', got 'gpt2'"),
        ({"architectures": None}, "architecture unknown is not supported"),
        ({"architectures": "LlamaForCausalLM"}, "architecture"),
        ({"dtype": "float99"}, "float99"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_parameters"),
        ({"rope_parameters": []}, "rope_parameters"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    set_config(folder, **changes)
    found = refusal(folder)
    assert found.startswith(f"model folder {str(folder)!r}")
    assert message in found
    assert len(found) < 1000


@pytest.mark.parametrize("changes", [{"n_head": 0}, {"n_head": 7}, {"n_layer": 0}, {"n_embd": "64"}, {"n_inner": 0}])
def test_impossible_settings_of_gpt2(tmp_path: Path, golden: Path, changes: dict[str, Any]) -> None:
    copied_to = shutil.copytree(golden / "tiny-gpt2", tmp_path / "model")
    set_config(copied_to, **changes)
    assert next(iter(changes)) in refusal(copied_to)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"a": "\\ud800"}', "[" * 5000, "\x00", "5"], ids=repr)
def test_files_of_another_kind(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    try:
        load_model(folder, device="cpu")  # a tokenizer may need no config
    except ModelError as error:
        message = str(error)
        assert message.startswith(f"model folder {str(folder)!r}")
        assert "\n" not in message
        assert len(message) < 1000
    else:
        assert file == "tokenizer_config.json"


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_in_place_of_a_file(folder: Path, file: str) -> None:
    (folder / file).unlink()
    (folder / file).mkdir()
    assert str(folder) in refusal(folder)


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()
    assert "has no tokenizer; expected one of tokenizer.json, " in refusal(folder)


def test_why_a_tokenizer_cannot_be_read_is_said(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    assert not refusal(folder).rstrip().endswith(":")


def test_a_tokenizer_with_ids_beyond_the_embedding(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"].append({"id": 600, "content": "<extra>", **flags})
    path.write_text(json.dumps(content))
    message = "token '<extra>' has id 600, expected ids below vocab_size 600 (1 such tokens)"
    assert message in refusal(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "its weights are in pytorch_model.bin; expected model.safetensors" in message
    assert "save_pretrained" in message


def test_pickled_weights_beside_an_index_are_not_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_type": "no-such-type"},
        {"architectures": ["M"]},
        {"model_type": "no-such-type", "architectures": ["M"]},
    ],
    ids=str,
)
def test_code_in_a_folder_is_not_run_and_nobody_is_asked(
    folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = folder / "it-ran"
    code = f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M"
    (folder / "code.py").write_text(f"{code}, PreTrainedTokenizerFast as T\n")
    set_config(folder, auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}, **changes)
    set_tokenizer_config(
        folder, auto_map={"AutoTokenizer": ["code.T", "code.T"]}, **changes and {"tokenizer_class": "T"}
    )

    class Asked:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the terminal was asked: {name}")

    monkeypatch.setattr("sys.stdin", Asked())
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail(f"asked: {text}"))
    if changes:
        assert str(folder) in refusal(folder)
    else:
        load_model(folder, device="cpu")  # of a known kind, for which no code is needed
    assert not marker.exists()


def test_interrupts_are_not_swallowed(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    for name in ("AutoConfig.from_pretrained", "AutoTokenizer.from_pretrained", "HookedTransformer"):
        with monkeypatch.context() as patched:
            patched.setattr(f"interp.models.load.{name}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                load_model(golden / "tiny-gpt2", device="cpu")


def test_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/model", device="cpu").cfg.n_layers == 3
    assert refusal("~/nowhere") == "model folder '~/nowhere' does not exist or is not a folder"
    assert not (Path.cwd() / "~").exists()


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 300, "a\ud800", "~no-such-user/x", "/" + "x" * 5000, "a\nb"])
def test_names_that_cannot_be(name: str) -> None:
    assert len(refusal(name)) < 700


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", [None, 5, ["gpt2"]])
def test_names_of_another_type(name: Any) -> None:
    with pytest.raises(OptionError, match="a model is a name or a folder, got"):
        load_model(name)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn, "float32", None])
def test_unknown_dtype(golden: Path, dtype: Any) -> None:
    with pytest.raises(OptionError, match=r"dtype must be one of torch\.float32, torch\.bfloat16, .* got"):
        load_model(golden / "tiny-gpt2", dtype=dtype, device="cpu")


def test_loading_leaves_the_verbosity_of_transformers(golden: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity()
    load_model(golden / "tiny-gpt2", device="cpu")
    assert logging.get_verbosity() == before


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "cpu:-5"])
def test_unknown_device(golden: Path, device: str) -> None:
    with pytest.raises(OptionError, match=rf"^device '{device}' is not available: [^\n]+$"):
        load_model(golden / "tiny-gpt2", device=device)


def test_default_device() -> None:
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_no_network_is_said_at_once(monkeypatch):
    """A closed port of this machine stands for a hub that cannot be reached."""
    monkeypatch.setattr("interp.models.hub.HUB", "http://127.0.0.1:9")
    monkeypatch.setattr("interp.models.hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=r"'gpt2-xx' is neither embedded .* cannot be reached; did you mean gpt2-xl"):
        load_model("gpt2-xx")
