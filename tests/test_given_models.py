"""Models that are loaded already: copied, checked, left as they were. Checkpoints in their own number format."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from interp.errors import ModelError, OptionError
from interp.facts.records import EditRequest, Fact
from interp.locate.methods.causal_trace import causal_trace
from interp.models.load import load_model
from interp.models.weights import weights_hash
from interp.patches.export import export_hugging_face
from interp.patches.patch import Outcome, Patch
from interp.results.record import provenance

FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")


@pytest.fixture
def loaded(family_folder: Callable[[str], Path], family: str) -> tuple[PreTrainedModel, Any]:
    folder = family_folder(family)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_model_of_transformers_is_copied_and_left_as_it_is(
    loaded: tuple[PreTrainedModel, Any], family: str, family_model: Callable[[str], HookedTransformer]
) -> None:
    hf_model, tokenizer = loaded
    hf_model.train()
    before = {name: value.clone() for name, value in hf_model.state_dict().items()}
    special = dict(tokenizer.special_tokens_map)
    model = load_model(hf_model, tokenizer=tokenizer, device="cpu")
    assert weights_hash(model) == weights_hash(family_model(family))
    own = {weight.untyped_storage().data_ptr() for weight in hf_model.parameters()}
    for weight in model.parameters():
        assert weight.untyped_storage().data_ptr() not in own
        weight.data += 1
    assert hf_model.training
    assert all(torch.equal(value, before[name]) for name, value in hf_model.state_dict().items())
    assert all(weight.requires_grad for weight in hf_model.parameters())
    assert tokenizer.special_tokens_map == special
    assert model.tokenizer is not tokenizer


def test_what_provenance_says_of_it(golden: Path, tiny: HookedTransformer) -> None:
    hf_model = AutoModelForCausalLM.from_pretrained(golden / "tiny-gpt2")
    tokenizer = AutoTokenizer.from_pretrained(golden / "tiny-gpt2")
    model = load_model(hf_model, tokenizer=tokenizer, device="cpu")
    made = provenance(model)
    name = str(golden / "tiny-gpt2")
    assert made.source == {"kind": "transformers", "class": "GPT2LMHeadModel", "name_or_path": name}
    assert made.said_of_source() == f"copied from a GPT2LMHeadModel ({name})"
    assert (made.model, made.weights_hash) == (name, weights_hash(tiny))


def test_it_comes_in_the_number_format_that_is_asked_for(family_folder: Callable[[str], Path]) -> None:
    folder = family_folder("llama")
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for asked, expected in ((torch.float32, torch.float32), ("auto", torch.bfloat16)):
        model = load_model(hf_model, tokenizer=tokenizer, dtype=asked, device="cpu")
        assert {weight.dtype for weight in model.parameters()} == {expected}
    assert hf_model.dtype == torch.bfloat16


def test_models_that_are_not_taken(golden: Path, family_folder: Callable[[str], Path]) -> None:
    folder = family_folder("llama")
    hf_model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(OptionError, match=r"a LlamaForCausalLM comes without its tokenizer: load_model\(model, tok"):
        load_model(hf_model, device="cpu")
    with pytest.raises(OptionError, match="tokenizer would do nothing"):
        load_model(folder, tokenizer=tokenizer, device="cpu")
    with pytest.raises(OptionError, match="base would do nothing: a model that is loaded already is no adapter"):
        load_model(hf_model, tokenizer=tokenizer, base=folder, device="cpu")
    with pytest.raises(ModelError, match="the LlamaModel that was given: architecture LlamaModel is not supported"):
        load_model(hf_model.model, tokenizer=tokenizer, device="cpu")
    large = AutoTokenizer.from_pretrained(folder)
    large.add_tokens(["<extra>"])
    with pytest.raises(ModelError, match="token '<extra>' has id 600"):
        load_model(hf_model, tokenizer=large, device="cpu")
    hf_model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "no_such": 3}
    with pytest.raises(ModelError, match=r"the LlamaForCausalLM that was given: .*(dynamic|no_such)"):
        load_model(hf_model, tokenizer=tokenizer, device="cpu")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_model_with_an_adapter_beside_it(family_folder: Callable[[str], Path]) -> None:
    """Its weights are the base's, and the adapter would be dropped without a word."""
    folder = family_folder("llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    whole = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    with pytest.raises(OptionError, match=r"got a peft PeftModel \(an adapter beside a model: give its folder"):
        load_model(whole, tokenizer=tokenizer, device="cpu")
    within = AutoModelForCausalLM.from_pretrained(folder)
    within.add_adapter(config)
    with pytest.raises(ModelError, match=r"its weights are not those of a LlamaForCausalLM alone: .*q_proj"):
        load_model(within, tokenizer=tokenizer, device="cpu")


def patch_of(model: HookedTransformer) -> Patch:
    return Patch(
        provenance=provenance(model),
        method="rome",
        config={},
        requests=(EditRequest(FACT, new_target=" Rome"),),
        outcomes=(Outcome(converged=True, probability=None, loss=None, steps=1),),
        left={1: torch.randn(model.cfg.d_mlp, 1)},
        right={1: torch.randn(1, model.cfg.d_model)},
    )


def test_export_of_a_model_that_was_given(golden: Path, tmp_path: Path) -> None:
    """By its name, if that has these weights; else it says what to do."""
    hf_model = AutoModelForCausalLM.from_pretrained(golden / "tiny-gpt2")
    tokenizer = AutoTokenizer.from_pretrained(golden / "tiny-gpt2")
    model = load_model(hf_model, tokenizer=tokenizer, device="cpu")
    again = load_model(export_hugging_face(patch_of(model), model, tmp_path / "out"), device="cpu")
    assert weights_hash(again) != weights_hash(model)
    hf_model.transformer.wte.weight.data[0, 0] += 1
    changed = load_model(hf_model, tokenizer=tokenizer, device="cpu")
    with pytest.raises(ModelError, match=r"loaded anew, has weights"):
        export_hugging_face(patch_of(changed), changed, tmp_path / "other")
    hf_model.config.name_or_path = ""
    nameless = load_model(hf_model, tokenizer=tokenizer, device="cpu")
    assert nameless.cfg.model_name == "GPT2LMHeadModel"
    with pytest.raises(ModelError, match=r"cannot be loaded anew: save it with its tokenizer \(save_pretrained\)"):
        export_hugging_face(patch_of(nameless), nameless, tmp_path / "third")
    assert not (tmp_path / "third").exists()


# HookedTransformer


def test_a_hooked_transformer_is_returned_itself(tiny: HookedTransformer) -> None:
    model = copy.deepcopy(tiny)
    before = weights_hash(model)
    assert load_model(model) is model
    assert weights_hash(model) == before
    assert provenance(model).source == {
        "kind": "HookedTransformer",
        "class": "HookedTransformer",
        "processed": [],
        "front": [],
    }


def test_what_was_done_to_its_weights_is_noted_and_changes_no_score(tiny: HookedTransformer) -> None:
    model = copy.deepcopy(tiny)
    model.process_weights_()
    load_model(model)
    made = provenance(model)
    assert made.source["processed"] == ["norms folded into weights", "writing weights centred"]
    assert made.said_of_source().endswith("processed: norms folded into weights, writing weights centred")
    for state in ("resid", "mlp", "attn"):
        found, expected = (
            causal_trace(each, FACT, state=state, samples=2, noise=0.3, window=3) for each in (model, tiny)
        )
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_centred_weights_are_seen_in_narrow_formats(tiny: HookedTransformer, dtype: torch.dtype) -> None:
    processed = copy.deepcopy(tiny)
    processed.process_weights_(fold_ln=False, center_unembed=False, refactor_factored_attn_matrices=False)
    for model, expected in ((copy.deepcopy(tiny), []), (processed, ["writing weights centred"])):
        model = load_model(model.to(dtype), dtype="auto")
        assert provenance(model).source["processed"] == expected


def test_hooked_transformers_that_are_not_taken(tiny: HookedTransformer) -> None:
    model = copy.deepcopy(tiny)
    with pytest.raises(
        OptionError, match=r"dtype must be that of the HookedTransformer, torch\.float32, got torch\.bfl"
    ):
        load_model(model, dtype=torch.bfloat16)
    with pytest.raises(OptionError, match="tokenizer would do nothing: a HookedTransformer has its own"):
        load_model(model, tokenizer=model.tokenizer)
    model.cfg.d_vocab = 500
    with pytest.raises(ModelError, match=r"token '.*' of its tokenizer is beyond d_vocab 500"):
        load_model(model)
    model.tokenizer = None
    with pytest.raises(ModelError, match="has no tokenizer that knows character offsets"):
        load_model(model)


# number formats of checkpoints


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_is_the_checkpoints_format(
    tmp_path: Path, family_folder: Callable[[str], Path], dtype: torch.dtype
) -> None:
    AutoModelForCausalLM.from_pretrained(family_folder("llama"), dtype=dtype).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(family_folder("llama")).save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="auto", device="cpu")
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert model.cfg.dtype == dtype


# quantised checkpoints


@pytest.fixture
def fp8(tmp_path: Path, family_folder: Callable[[str], Path]) -> tuple[Path, PreTrainedModel]:
    """A Llama whose matrices are stored in blocks of float8, and the model of these numbers."""
    model = AutoModelForCausalLM.from_pretrained(family_folder("llama"))
    folder = tmp_path / "fp8"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(family_folder("llama")).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if "proj" in name]:
        scale = weights[name].abs().max() / 448
        codes = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[name], weights[f"{name}_scale_inv"] = codes, scale.reshape(1, 1)
        model.get_parameter(name).data = codes.float() * scale
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantised}))
    return folder, model.eval()


def test_float8_is_dequantised(fp8: tuple[Path, PreTrainedModel], tmp_path: Path) -> None:
    folder, reference = fp8
    model = load_model(folder, device="cpu")
    tokens = torch.arange(3, 20)[None]
    with torch.inference_mode():
        found, expected = model(tokens, prepend_bos=False), reference(tokens).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert provenance(model).said_of_source() == "dequantised from fp8"
    again = load_model(export_hugging_face(patch_of(model), model, tmp_path / "out"), device="cpu")
    assert provenance(again).source == {}


@pytest.mark.parametrize(
    ("method", "instead"),
    [
        ("gptq", "load the model that was quantised"),
        ("awq", "load the model that was quantised"),
        ("bitsandbytes", r"save AutoModelForCausalLM.from_pretrained(folder).dequantize() and load that folder"),
        ("no-such", "load the model that was quantised"),
        (None, "load the model that was quantised"),
    ],
)
def test_other_quantised_checkpoints_are_refused_with_what_to_do(
    fp8: tuple[Path, PreTrainedModel], method: Any, instead: str
) -> None:
    path = fp8[0] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": method}}))
    with pytest.raises(ModelError) as raised:
        load_model(fp8[0], device="cpu")
    assert f"quant_method {method!r}); expected plain float32" in str(raised.value)
    assert instead in str(raised.value)
