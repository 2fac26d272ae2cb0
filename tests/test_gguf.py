"""GGUF files: the model that they hold, exactly, or what in them would be dropped."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from interp.errors import ModelError, OptionError
from interp.facts.records import EditRequest, Fact
from interp.models import converted as cache_of
from interp.models.load import load_model
from interp.models.weights import weights_hash
from interp.results.record import provenance
from tests.conftest import GOLDEN, random_model
from tests.gguf_files import written

TOLERANCE = 5e-5
F32 = GGMLQuantizationType.F32


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setattr(cache_of, "user_cache_path", lambda name: tmp_path / "cache")
    return tmp_path / "cache" / "models"


def difference(model: HookedTransformer, hf: Any) -> float:
    tokens = torch.arange(3, 20)[None]
    with torch.inference_mode():
        found, expected = model(tokens, prepend_bos=False), hf(tokens).logits
    return float((found - expected).abs().max() / expected.abs().max())


def refusal(file: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(file, device="cpu")
    message = str(raised.value)
    assert message.startswith(f"GGUF file {file.name}")
    assert "\n" not in message
    assert not list((file.parent / "cache").glob("models/*/"))
    return message


@pytest.mark.parametrize("quantised", ["F32", "F16", "Q8_0", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_the_model_of_a_file_is_that_of_its_dequantised_weights(
    tmp_path: Path, family_folder: Callable[[str], Path], name: str, quantised: str
) -> None:
    file = tmp_path / "model.gguf"
    reference = written(file, family_folder(name), quantised)
    model = load_model(file, device="cpu")
    assert difference(model, reference) < TOLERANCE
    assert model.cfg.model_name == str(file)
    # what quantising does is there to be seen
    original = AutoModelForCausalLM.from_pretrained(family_folder(name)).eval()
    assert (difference(model, original) > 100 * TOLERANCE) == (quantised not in ("F32", "F16"))
    text = "The Eiffel Tower is located in 1998"
    expected = AutoTokenizer.from_pretrained(family_folder(name))(text)["input_ids"]
    assert model.tokenizer(text)["input_ids"] == expected


def test_gpt2(tmp_path: Path, golden: Path) -> None:
    """Its width, context and vocabulary are settings that transformers does not read."""
    reference = written(tmp_path / "model.gguf", golden / "tiny-gpt2", "Q8_0")
    model = load_model(tmp_path / "model.gguf", device="cpu")
    assert difference(model, reference) < TOLERANCE
    assert (model.cfg.n_ctx, model.cfg.d_vocab) == (64, 600)


@pytest.mark.parametrize(("layers_of_27b", "scalar"), [(62, 12), (3, 8)])
def test_gemma_3(
    tmp_path: Path,
    family_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    layers_of_27b: int,
    scalar: int,
) -> None:
    """Norms hold the 1 that is added to them; no file says by what queries are divided, or which layers slide."""
    monkeypatch.setattr("interp.models.gguf_settings.GEMMA_27B_LAYERS", layers_of_27b)
    folder = tmp_path / "model"
    shutil.copytree(family_folder("gemma3"), folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"layer_types": ["sliding_attention"] * 3, "sliding_window": 8, "query_pre_attn_scalar": scalar}
    (folder / "config.json").write_text(json.dumps(settings))
    reference = written(tmp_path / "model.gguf", folder, "Q8_0")
    model = load_model(tmp_path / "model.gguf", device="cpu")
    assert difference(model, reference) < TOLERANCE
    pieces = model.tokenizer.convert_ids_to_tokens(model.tokenizer("to eiel")["input_ids"])
    assert pieces == ["<bos>", "to", "\u2581", "ei", "el"]


def test_provenance_says_where_the_weights_are_from(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    file = tmp_path / "my.gguf"
    written(file, family_folder("llama"), "Q4_0")
    model = load_model(file, device="cpu")
    made = provenance(model)
    assert made.source["file"] == "my.gguf"
    assert len(made.source["sha256"]) == 64
    assert made.source["quantisation"] == {"Q4_0": 20, "F32": 7, "F16": 3}
    assert made.said_of_source() == ("dequantised to float32 from my.gguf (tensors: 20 Q4_0, 7 F32, 3 F16)")
    from interp.editing import edit

    request = EditRequest(Fact(template="The {} is in", subject="Eiffel Tower", target=" Paris"), new_target=" Rome")
    with pytest.warns(UserWarning, match="did not take"):
        patch = edit(model, [request], method="kn")
    assert "dequantised to float32 from my.gguf" in repr(patch)
    assert provenance(load_model(file, device="cpu")) == made


def test_a_file_is_converted_once(
    tmp_path: Path, cache: Path, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    written(file, family_folder("llama"))
    first = weights_hash(load_model(file, device="cpu"))
    (place,) = cache.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr("interp.models.gguf_file._read", lambda *_: pytest.fail("converted again"))
        moved = shutil.copy(file, tmp_path / "MODEL.GGUF")
        assert weights_hash(load_model(file, device="cpu")) == first
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert weights_hash(load_model(file, device="cpu")) == first
    assert weights_hash(load_model(moved, device="cpu")) == first
    # another file of this name is another model
    written(file, family_folder("qwen2"))
    assert load_model(file, device="cpu").cfg.original_architecture == "Qwen2ForCausalLM"


def test_what_lies_beside_a_file_plays_no_part(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    reference = written(tmp_path / "model.gguf", family_folder("llama"))
    for name in ("config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).write_text('{"model_type": "gpt2", "peft_type": "LORA"}')
    assert difference(load_model(tmp_path / "model.gguf", device="cpu"), reference) < TOLERANCE


# settings that transformers drops


def test_linear_scaling_is_taken(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    """Whether the family can represent a scaling is the family's to say; here it reaches the config."""
    from gguf import GGUFReader

    from interp.models.gguf_settings import set_settings

    settings = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    written(tmp_path / "model.gguf", family_folder("llama"), settings=settings)
    reader = GGUFReader(tmp_path / "model.gguf")
    config = AutoConfig.from_pretrained(tmp_path, gguf_file="model.gguf")
    set_settings(config, {name: field.contents() for name, field in reader.fields.items()}, reader)
    assert config.rope_parameters == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def llama_3_divisors(rope: dict[str, Any], folder: Path) -> np.ndarray:
    """What transformers divides the frequencies by."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(folder)
    config.rope_parameters = rope
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / rope["rope_theta"] ** (torch.arange(0, config.head_dim, 2) / config.head_dim)
    return (plain / scaled).numpy().astype(np.float32)


def test_a_llama_3_file_gives_its_logits(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = AutoConfig.from_pretrained(family_folder("llama"))
    config.rope_parameters, config.head_dim = rope, 32
    folder = tmp_path / "folder"
    random_model(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(family_folder("llama")).save_pretrained(folder)
    divisors = llama_3_divisors(rope, folder)
    assert divisors.max() == 32
    reference = written(
        tmp_path / "model.gguf",
        folder,
        settings={"rope.dimension_count": 32, "attention.key_length": 32, "attention.value_length": 32},
        tensors=lambda arrays: arrays.update({"rope_freqs.weight": (divisors, F32)}),
    )
    model = load_model(tmp_path / "model.gguf", device="cpu")
    assert model.cfg.use_NTK_by_parts_rope
    assert difference(model, reference) < TOLERANCE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
            "rope.scaling.type must be none or linear, got 'yarn'",
        ),
        ({"rope.scaling.yarn_log_multiplier": 0.1}, "setting rope.scaling.yarn_log_multiplier is not known here"),
        ({"rope.dimension_count": 4}, "rope.dimension_count must be the width of a head, 8, got 4"),
        ({"attention.key_length": 16}, "the config expects"),
        ({"logit_scale": 0.5}, "setting logit_scale has no place in a LlamaConfig, got 0.5"),
        ({"attention.clamp_kqv": 8.0}, "setting attention.clamp_kqv has no place in a LlamaConfig, got 8.0"),
        ({"expert_count": 8}, "setting expert_count has no place in a LlamaConfig, got 8"),
        ({"attention.head_count_kv": [2, 1, 2]}, "setting attention.head_count_kv differs from layer to layer"),
        ({"attention.head_count_kv": None}, "attention.head_count_kv is missing"),
        ({"attention.layer_norm_rms_epsilon": -1.0}, "the epsilon of its normalization must be a number from 0 on"),
        ({"block_count": 2}, "tensors blk.2."),
        ({"block_count": 4}, "the weights lack model.layers.3."),
        ({"feed_forward_length": 40}, "the config expects"),
    ],
    ids=str,
)
def test_settings_that_would_be_dropped_or_do_not_fit(
    tmp_path: Path, family_folder: Callable[[str], Path], settings: dict[str, Any], message: str
) -> None:
    file = tmp_path / "model.gguf"
    written(file, family_folder("llama"), settings=settings)
    assert message in refusal(file)


def test_an_epsilon_and_a_base_are_taken(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    settings = {"attention.layer_norm_rms_epsilon": 0.25, "rope.freq_base": 50.0}
    reference = written(tmp_path / "model.gguf", family_folder("qwen2"), settings=settings)
    plain = difference(load_model(tmp_path / "model.gguf", device="cpu"), reference)
    reference.config.rope_parameters["rope_theta"] = 50.0
    config = reference.config
    config.rms_norm_eps = 0.25
    changed = type(reference)(config).eval()
    changed.load_state_dict(reference.state_dict())
    assert difference(load_model(tmp_path / "model.gguf", device="cpu"), changed) < TOLERANCE < plain


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blk.0.attn_q.bias", "self_attn.k_proj.bias"),
        ("blk.0.ffn_down.bias", "mlp_bias"),
        ("blk.1.attn_q_norm.weight", ""),
    ],
)
def test_tensors_without_a_place(tmp_path: Path, family_folder: Callable[[str], Path], name: str, kind: str) -> None:
    file, extra = tmp_path / "model.gguf", (np.ones(32, dtype=np.float32), F32)
    written(file, family_folder("llama"), tensors=lambda arrays: arrays.update({name: extra}))
    found = refusal(file)
    assert f"tensors {name}" in found or kind in found


def test_other_divisors_of_the_frequencies(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    file, divisors = tmp_path / "model.gguf", np.array([1, 1, 3, 8], dtype=np.float32)
    written(
        file,
        family_folder("llama"),
        tensors=lambda arrays: arrays.update({"rope_freqs.weight": (divisors, F32)}),
    )
    assert "rope_freqs.weight holds divisors of its frequencies (up to 8) that are not Llama 3's" in refusal(file)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"pre": "no-such"}, "setting tokenizer.ggml.pre is 'no-such', and how that cuts a text is not known"),
        ({"pre": None}, "setting tokenizer.ggml.pre is None"),
        ({"model": "rwkv"}, "rwkv"),
    ],
    ids=str,
)
def test_tokenizers_that_would_be_others(
    tmp_path: Path, family_folder: Callable[[str], Path], tokenizer: dict[str, Any], message: str
) -> None:
    file = tmp_path / "model.gguf"
    written(file, family_folder("llama"), tokenizer=tokenizer)
    assert message in refusal(file)


def test_digits_apart(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    """The same as GPT-2's way exactly where no token joins a digit to anything."""
    folder = family_folder("llama")
    written(tmp_path / "model.gguf", folder, tokenizer={"pre": "smollm"})
    joined = [
        token
        for token in AutoTokenizer.from_pretrained(folder).get_vocab()
        if len(token) > 1 and any(letter.isascii() and letter.isdigit() for letter in token)
    ]
    assert not joined
    load_model(tmp_path / "model.gguf", device="cpu")
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    tokens[-1] = "Ġ1"
    written(tmp_path / "other.gguf", folder, tokenizer={"pre": "smollm", "tokens": tokens, "merges": []})
    with pytest.raises(ModelError, match=r"which sets digits apart, .*; token ' 1' joins one"):
        load_model(tmp_path / "other.gguf", device="cpu")


@pytest.mark.parametrize(("said", "pre", "expected"), [(True, "gpt-2", 1), (None, "gpt-2", 0), (None, "llama-bpe", 1)])
def test_whether_a_token_comes_first(
    tmp_path: Path, family_folder: Callable[[str], Path], said: bool | None, pre: str, expected: int
) -> None:
    written(tmp_path / "model.gguf", family_folder("llama"), tokenizer={"add_bos_token": said, "pre": pre})
    model = load_model(tmp_path / "model.gguf", device="cpu")
    assert model.tokenizer("The Eiffel")["input_ids"][: expected + 1].count(0) == expected
    assert model.cfg.default_prepend_bos is bool(expected)


# files that are no model, or not one that is read


def test_files_that_are_no_model(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    file = tmp_path / "model.gguf"
    for content in (b"", b"GGUF", b"x" * 1000):
        file.write_bytes(content)
        assert "it cannot be read" in refusal(file)
    written(file, family_folder("llama"))
    file.write_bytes(file.read_bytes()[:2000])
    assert "cannot be read" in refusal(file)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("general.type", "adapter", "general.type must be 'model', got 'adapter'"),
        ("split.count", 3, "it is one of 3 parts of a model: join them first"),
    ],
)
def test_parts_of_models(
    tmp_path: Path,
    family_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
    message: str,
) -> None:
    from tests import gguf_files

    file, settings = tmp_path / "model.gguf", gguf_files._settings
    add = gguf_files._add
    monkeypatch.setattr(gguf_files, "_settings", lambda config: {**settings(config), "extra": value})
    monkeypatch.setattr(
        gguf_files, "_add", lambda writer, key, found: add(writer, name if key.endswith(".extra") else key, found)
    )
    written(file, family_folder("llama"))
    assert message in refusal(file)


def test_an_architecture_that_nobody_has_looked_at(
    tmp_path: Path, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.models.gguf_file.ARCHITECTURES", ("gpt2",))
    written(tmp_path / "model.gguf", family_folder("llama"))
    assert "GGUF files of architecture 'llama' are not read here; those of gpt2 are" in refusal(tmp_path / "model.gguf")


def test_a_number_format_that_cannot_be_dequantised(
    tmp_path: Path, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "model.gguf", family_folder("llama"), "Q4_0")
    monkeypatch.delitem(__import__("gguf").quants._type_traits, GGMLQuantizationType.Q4_0)
    assert "is stored as Q4_0, which the package gguf cannot dequantise" in refusal(tmp_path / "model.gguf")


def test_a_base_of_a_file_does_nothing(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    written(tmp_path / "model.gguf", family_folder("llama"))
    with pytest.raises(OptionError, match="base would do nothing"):
        load_model(tmp_path / "model.gguf", device="cpu", base=GOLDEN / "tiny-gpt2")


def test_every_published_factor_is_found() -> None:
    from interp.models.gguf_settings import LLAMA_3, _llama_3

    for factor, head in ((8.0, 128), (32.0, 64)):
        waves = 2 * math.pi * 500000.0 ** (np.arange(0, head, 2) / head)
        smooth = ((8192 / waves - 1) / 3).clip(0, 1)
        divisors = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32).astype(np.float64)
        assert _llama_3(divisors, 500000.0, head) == {"rope_type": "llama3", "factor": factor, **LLAMA_3}
        assert len(Counter(divisors.tolist())) > 2
