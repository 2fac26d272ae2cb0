"""Every family in the table: its record, which of its settings are covered; of some, how their weights lie.

What must hold of each (logits as transformers', the sweep, editors, exports) is in ``test_family_battery``.
"""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import interp
from interp.errors import ModelError
from interp.models import embedded
from interp.models.config import checked_family, hooked_config
from interp.models.families import FAMILIES, family_named, family_of
from interp.models.families.fields import MAX_CONTEXT
from interp.models.families.settings import Settings
from interp.models.hub import KNOWN_MODELS
from interp.models.load import load_model
from tests.conftest import ARCHITECTURES, EVERY_FAMILY
from tests.known_configs import CONFIGS

TOLERANCE = 2e-4
every = pytest.mark.parametrize("family", EVERY_FAMILY)
Factory = Callable[[str], HookedTransformer]


def some_tokens(model: HookedTransformer, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(1, model.cfg.d_vocab, (2, length), generator=generator)


@torch.inference_mode()
def difference(model: HookedTransformer, reference: PreTrainedModel, length: int) -> float:
    tokens = some_tokens(model, length)
    return float((model(tokens) - reference(tokens).logits).abs().max())


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("neox", "neox-sequential"),
        ("llama", "llama3-rope"),
        ("llama", "llama-mha"),
        ("llama", "smollm3"),
        ("olmo2", "olmo2-grouped"),
        ("stablelm", "stablelm-parallel"),
    ],
)
def test_settings_matter(one: str, other: str, family_hf: Callable[[str], PreTrainedModel], tiny: Any) -> None:
    # or agreement of the families would not show that they were read
    tokens = some_tokens(tiny, 64)
    with torch.inference_mode():
        assert (family_hf(one)(tokens).logits - family_hf(other)(tokens).logits).abs().max() > 100 * TOLERANCE


GEMMA_2: tuple[dict[str, Any], ...] = (
    {"attn_logit_softcapping": None},
    {"final_logit_softcapping": None},
    {"query_pre_attn_scalar": 8},
    {"sliding_window": 64},
    {"layer_types": ["full_attention"] * 3},
)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GEMMA_3: tuple[dict[str, Any], ...] = (
    {"final_logit_softcapping": 5.0},
    {"rope_parameters": {"sliding_attention": ROPE, "full_attention": {**ROPE, "rope_theta": 1000000.0}}},
    {"rope_parameters": {"sliding_attention": ROPE, "full_attention": {**ROPE, "rope_type": "linear", "factor": 8.0}}},
    {"rope_parameters": {"sliding_attention": {**ROPE, "rope_theta": 500.0}, "full_attention": ROPE}},
    {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
)


@pytest.mark.parametrize(
    ("name", "changes"), [*(("gemma2", each) for each in GEMMA_2), *(("gemma3", each) for each in GEMMA_3)], ids=str
)
def test_each_setting_acts_as_in_transformers(
    name: str, changes: dict[str, Any], family_folder: Callable[[str], Path], tmp_path: Path, family_model: Factory
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(family_folder(name), folder)
    set_config(folder, **changes)
    reference = AutoModelForCausalLM.from_pretrained(folder)
    assert difference(load_model(folder, device="cpu"), reference, 64) < TOLERANCE
    assert difference(family_model(name), reference, 64) > 20 * TOLERANCE


def test_logits_of_tiny(tiny: HookedTransformer, golden: Path) -> None:
    assert difference(tiny, AutoModelForCausalLM.from_pretrained(golden / "tiny-gpt2"), 64) < TOLERANCE


@pytest.mark.real_model
def test_logits_of_embedded(real_model: HookedTransformer) -> None:
    reference = AutoModelForCausalLM.from_pretrained(embedded.folder())
    assert difference(real_model, reference, 12) < TOLERANCE


class CopiedWeights(TorchDispatchMode):
    """Collects operations that copy a weight: its bytes, through whatever view."""

    def __init__(self, model: HookedTransformer) -> None:
        super().__init__()
        weights = {name: weight for name, weight in model.named_parameters() if weight.dim() > 1}
        self.names = {weight.untyped_storage().data_ptr(): name for name, weight in weights.items()}
        self.smallest = min(weight.numel() for name, weight in weights.items() if "b_" not in name)
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("clone", "copy_", "_to_copy", "cat", "index_select", "repeat_interleave"):
            for value in args:
                if isinstance(value, Tensor) and value.numel() >= self.smallest:
                    name = self.names.get(value.untyped_storage().data_ptr())
                    if name is not None:
                        self.found.append(f"{func.overloadpacket.__name__} of {name}")
        return result


def copied(model: HookedTransformer) -> list[str]:
    with torch.no_grad(), CopiedWeights(model) as mode:
        model(some_tokens(model, 3))
    return mode.found


@every
def test_no_weight_is_copied(family: str, family_model: Factory) -> None:
    assert copied(family_model(family)) == []


@pytest.mark.parametrize("weight", ["attn.W_Q", "attn.W_O", "mlp.W_gate", "mlp.W_out"])
def test_copies_are_seen(family_model: Factory, weight: str) -> None:
    model = copy.deepcopy(family_model("llama-mha"))
    parameter = model.get_parameter(f"blocks.1.{weight}")
    parameter.data = parameter.data.contiguous()
    found = copied(model)
    assert found
    assert all(name.endswith(weight) for name in found)


@every
def test_layout(family: str, family_model: Factory) -> None:
    model = family_model(family)
    for block in model.blocks:
        for name, value in block.attn.named_parameters():
            kind = name.lstrip("_")
            if kind in ("W_Q", "W_K", "W_V"):
                assert value.transpose(1, 2).is_contiguous(), name
            elif kind == "W_O":
                assert value.permute(2, 0, 1).is_contiguous(), name
        for name in ("W_in", "W_out", "W_gate"):
            value = getattr(block.mlp, name, None)
            if isinstance(value, Tensor):  # not the maps of experts
                assert value.T.is_contiguous() or (value.is_contiguous() and not model.cfg.gated_mlp), name
    assert model.W_U.T.is_contiguous()


def test_frozen_and_evaluating(tiny: HookedTransformer, family: str, family_model: Factory) -> None:
    for model in (tiny, family_model(family)):
        assert not model.training
        assert {name for name, weight in model.named_parameters() if weight.requires_grad} == set()


def test_weights_are_unprocessed(family: str, family_model: Factory) -> None:
    model, cfg = family_model(family), family_model(family).cfg
    assert cfg.normalization_type in ("LN", "RMS")  # not LNPre, RMSPre: nothing was folded in
    assert (model.blocks[0].ln1.w - 1).abs().max() > 0.1


@pytest.mark.parametrize("name", ["neox", "llama", "mistral"])
def test_a_long_context_is_cut(name: str, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(family_folder(name), folder)
    long = {"max_position_embeddings": 4096, **({"sliding_window": 3000} if name == "mistral" else {})}
    set_config(folder, **long)
    assert load_model(folder, device="cpu").cfg.n_ctx == MAX_CONTEXT == 2048
    set_config(folder, max_position_embeddings=2047)
    assert load_model(folder, device="cpu").cfg.n_ctx == 2047


@pytest.mark.parametrize("name", ["gpt2", "gptj"])
def test_a_long_context_is_cut_in_models_with_learned_positions_or_tables(
    name: str, family_folder: Callable[[str], Path], family_hf: Callable[[str], PreTrainedModel], monkeypatch
) -> None:
    monkeypatch.setattr("interp.models.families.fields.MAX_CONTEXT", 24)
    model = load_model(family_folder(name), device="cpu")
    assert model.cfg.n_ctx == 24
    assert difference(model, family_hf(name), 24) < TOLERANCE


def test_no_prompt_is_longer_than_the_sliding_window(
    family_folder: Callable[[str], Path], family_hf: Callable[[str], PreTrainedModel], tmp_path: Path
) -> None:
    """Within the window, attention that slides is attention; beyond it, HookedTransformer would see too much."""
    folder = tmp_path / "model"
    shutil.copytree(family_folder("mistral"), folder)
    set_config(folder, sliding_window=16)
    model, reference = load_model(folder, device="cpu"), AutoModelForCausalLM.from_pretrained(folder)
    assert model.cfg.n_ctx == 16
    assert difference(model, reference, 16) < TOLERANCE
    tokens = some_tokens(model, 24)
    with torch.inference_mode():
        beyond = (family_hf("mistral")(tokens).logits - reference(tokens).logits).abs()
    assert beyond[:, :16].max() < TOLERANCE
    assert beyond[:, 16:].max() > 100 * TOLERANCE


def test_attention_that_is_scaled_by_layer(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(family_folder("gpt2"), folder)
    set_config(folder, scale_attn_by_inverse_layer_idx=True)
    reference = AutoModelForCausalLM.from_pretrained(folder)
    assert difference(load_model(folder, device="cpu"), reference, 24) < TOLERANCE
    assert difference(load_model(family_folder("gpt2"), device="cpu"), reference, 24) > 100 * TOLERANCE


# the table


def test_every_family_in_the_table_has_a_tiny_model() -> None:
    assert set(ARCHITECTURES.values()) == set(FAMILIES)


def test_records_stand_under_their_names(family: str, family_model: Factory) -> None:
    for architecture in FAMILIES:
        assert family_named(architecture).architecture == architecture
    assert family_of(family_model(family)).architecture == ARCHITECTURES[family]


def test_known_models_are_those_of_the_families() -> None:
    names = [name for architecture in FAMILIES for name in family_named(architecture).known]
    assert list(KNOWN_MODELS) == [embedded.NAME, *names]
    assert len(set(names)) == len(names)
    assert len(KNOWN_MODELS) == 1 + len(names)
    assert repr(KNOWN_MODELS) == repr(dict(KNOWN_MODELS))


@every
def test_the_layer_of_a_weight(family: str, family_hf: Callable[[str], PreTrainedModel]) -> None:
    record = family_named(ARCHITECTURES[family])
    for name in family_hf(family).state_dict():
        layer = record.layer_of(name)
        assert record.layer_of(name.partition(".")[2]) == layer  # without the model's prefix, as some files have it
        assert (layer is None) == (record.block.format(layer) not in name)
    assert {record.layer_of(name) for name in family_hf(family).state_dict()} == {None, 0, 1, 2}


def test_no_other_file_names_an_architecture() -> None:
    package = Path(interp.__file__).parent
    names = re.compile(r"\b(?!AutoModelFor)\w+(?:ForCausalLM|LMHeadModel)\b")
    found = [
        (str(path), name)
        for path in package.rglob("*.py")
        if path.parent.name != "families"
        for name in names.findall(path.read_text("utf-8"))
    ]
    assert found == []


# settings


def config_of(**settings: Any) -> Any:
    return AutoConfig.for_model(**copy.deepcopy(settings))


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_of_known_models_are_covered(name: str) -> None:
    hf = config_of(**CONFIGS[name])
    fields = hooked_config(checked_family(hf), hf)
    assert fields["n_layers"] == hf.num_hidden_layers
    if name in KNOWN_MODELS:
        assert f"{fields['n_layers']} layers" in KNOWN_MODELS[name]


def test_every_known_model_has_its_settings_here() -> None:
    assert set(KNOWN_MODELS) - {embedded.NAME} <= set(CONFIGS)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_all_that_a_config_class_knows_has_been_looked_at(architecture: str) -> None:
    """Where a config says nothing the default of its class holds, which may be no small thing (a soft cap)."""
    family = family_named(architecture)
    given = Settings(architecture, config_of(model_type=family.model_type).to_dict(), {})
    family.settings(given)
    assert given.not_covered() == {"model_type": family.model_type, "is_encoder_decoder": False}


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("value", [False, 0, 30.0, "tanh", {"a": 1}], ids=repr)
def test_a_setting_that_nobody_knows_is_refused(architecture: str, value: Any) -> None:
    settings = {"model_type": family_named(architecture).model_type, "architectures": [architecture]}
    checked_family(config_of(**settings, logit_cap=None))  # says nothing
    with pytest.raises(ModelError) as raised:
        checked_family(config_of(**settings, logit_cap=value))
    assert str(raised.value) == (
        f"setting logit_cap of {architecture} is not known here, got {value!r}: if it does not change what the model"
        " computes, take it out of config.json"
    )


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_setting_of_the_config_class_that_nobody_read_is_refused_where_it_says_something(architecture: str) -> None:
    settings = {"model_type": family_named(architecture).model_type, "architectures": [architecture]}
    checked_family(config_of(**settings, is_encoder_decoder=False))
    with pytest.raises(ModelError, match=f"setting is_encoder_decoder of {architecture} is not known here, got True"):
        checked_family(config_of(**settings, is_encoder_decoder=True))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention of GPT2LMHeadModel must be False, got True"),
        ("gptj", {"rotary": False}, "setting rotary of GPTJForCausalLM must be True, got False"),
        ("gptj", {"rotary_dim": 3}, "rotary dimensions must be an even number from 2 to 8, got 3"),
        ("neox", {"attention_bias": False}, "attention_bias of GPTNeoXForCausalLM must be True, got False"),
        (
            *("neox", {"rope_parameters": {**ROPE, "partial_rotary_factor": 2}}),
            "rope_parameters: setting partial_rotary_factor must be a number above 0 and up to 1, got 2",
        ),
        ("llama", {"rope_interleaved": True}, "rope_interleaved of LlamaForCausalLM must be False, got True"),
        ("mistral", {"attention_bias": True}, "attention_bias of MistralForCausalLM must be False, got True"),
        ("llama", {"mlp_bias": True}, "mlp_bias of LlamaForCausalLM must be False, got True"),
        ("llama", {"per_layer_config": {"1": {"intermediate_size": 24}}}, "per_layer_config of LlamaForCausalLM"),
        (
            *("llama", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}),
            "rope_parameters: setting partial_rotary_factor of LlamaForCausalLM is not known here, got 0.5",
        ),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types of MistralForCausalLM is not known here"),
        ("qwen2", {"use_mrope": True}, "use_mrope of Qwen2ForCausalLM must be False, got True"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layer_types must be a list of full_attention and"),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, "layer_types must be a list of full_attention and"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias of Qwen3ForCausalLM must be False, got True"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention of GemmaForCausalLM must be"),
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation of GemmaForCausalLM must be 'gelu_pytorch_tanh'"),
        ("gemma", {"final_logit_softcapping": 30.0}, "final_logit_softcapping of GemmaForCausalLM is not known here"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm of PhiForCausalLM must be False, got True"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias of Phi3ForCausalLM must be False, got True"),
        ("phi3", {"full_attn_mod": 2}, "full_attn_mod of Phi3ForCausalLM must be 1, got 2"),
        ("phi3", {"interpolate_factor": 2}, "interpolate_factor of Phi3ForCausalLM must be 1, got 2"),
        ("olmo", {"clip_qkv": 0}, "clip_qkv must be a positive number, got 0"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must hold 0 or 1 for each layer, got [1, 0]"),
        ("smollm3", {"no_rope_layers": [1, 0, 2]}, "no_rope_layers must hold 0 or 1 for each layer, got [1, 0, 2]"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm of StableLmForCausalLM must be False, got True"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm of CohereForCausalLM must be False, got True"),
        ("cohere", {"logit_scale": 0}, "setting logit_scale must be a positive number, got 0"),
        ("falcon", {"alibi": True}, "alibi of FalconForCausalLM must be False, got True"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn of FalconForCausalLM must be 1, got 2"),
        ("falcon-groups", {"parallel_attn": False}, "parallel_attn of FalconForCausalLM must be True, got False"),
        ("starcoder2", {"norm_type": "rms_norm"}, "norm_type of Starcoder2ForCausalLM must be 'layer_norm'"),
        ("starcoder2", {"mlp_type": "gated"}, "mlp_type of Starcoder2ForCausalLM must be 'default', got 'gated'"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before of OPTForCausalLM must be True, got False"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim of OPTForCausalLM must be 32, got 16"),
        ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm of OPTForCausalLM must be False"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine of OPTForCausalLM must be"),
        ("bloom", {"n_head": 6, "hidden_size": 36}, "n_head must be a power of 2 (or slopes of positions are others"),
        (
            *("bloom", {"apply_residual_connection_post_layernorm": True}),
            "apply_residual_connection_post_layernorm of BloomForCausalLM must be False, got True",
        ),
        ("bloom", {"skip_bias_add_qkv": True}, "skip_bias_add_qkv of BloomForCausalLM must be False, got True"),
        ("olmoe", {"attention_bias": True}, "attention_bias of OlmoeForCausalLM must be False, got True"),
        ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok must be a positive whole number, got 0"),
        ("gemma2", {"attention_bias": True}, "attention_bias of Gemma2ForCausalLM must be False, got True"),
        *(
            (
                name,
                {"use_bidirectional_attention": True},
                f"use_bidirectional_attention of {architecture} must be False",
            )
            for name, architecture in (("gemma2", "Gemma2ForCausalLM"), ("gemma3", "Gemma3ForCausalLM"))
        ),
        ("gemma2", {"layer_types": ["chunked_attention"] * 3}, "layer_types must be a list of sliding_attention and"),
        ("gemma2", {"sliding_window": None}, "setting sliding_window must be a positive whole number, got None"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "setting query_pre_attn_scalar must be a positive number, got 0"),
        (
            "gemma2",
            {"final_logit_softcapping": 0.0},
            "setting final_logit_softcapping must be a positive number, got 0",
        ),
        (
            *("gemma2", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 8.0}}),
            "rope_parameters: setting rope_type of Gemma2ForCausalLM must be 'default', got 'linear'",
        ),
        (
            "gemma3",
            {"attn_logit_softcapping": 50.0},
            "attn_logit_softcapping of Gemma3ForCausalLM must be None, got 50",
        ),
        (
            *("gemma3", {"rope_parameters": {"sliding_attention": {**ROPE, "rope_type": "linear", "factor": 8.0}}}),
            "rope_parameters: sliding_attention: setting rope_type of Gemma3ForCausalLM must be 'default'",
        ),
        (
            *("gemma3", {"rope_parameters": {"full_attention": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}}),
            "rope_parameters: full_attention: setting rope_type of Gemma3ForCausalLM must be 'default', got 'dynamic'",
        ),
        ("olmo2", {"attention_bias": True}, "attention_bias of Olmo2ForCausalLM must be False, got True"),
        ("olmo2", {"head_dim": 4}, "head_dim must be hidden_size / num_attention_heads in Olmo2ForCausalLM, got 4"),
    ],
    ids=str,
)
def test_settings_that_are_not_covered(
    name: str, changes: dict[str, Any], message: str, family_folder: Callable[[str], Path]
) -> None:
    settings = json.loads((family_folder(name) / "config.json").read_text())
    checked_family(config_of(**settings))
    with pytest.raises(ModelError, match=re.escape(message)):
        checked_family(config_of(**{**settings, **changes}))


def test_a_setting_that_its_config_class_does_not_have_may_matter(
    family_folder: Callable[[str], Path], tmp_path: Path, tiny: HookedTransformer
) -> None:
    """Attention that looks ahead: transformers obeys, whatever the class of the config."""
    folder = tmp_path / "model"
    shutil.copytree(family_folder("llama"), folder)
    set_config(folder, is_causal=False)
    tokens = some_tokens(tiny, 12)
    one, other = (AutoModelForCausalLM.from_pretrained(place) for place in (family_folder("llama"), folder))
    with torch.inference_mode():
        assert (one(tokens).logits - other(tokens).logits).abs().max() > 100 * TOLERANCE
    with pytest.raises(ModelError, match=r"^model folder .*: setting is_causal of LlamaForCausalLM is not known"):
        load_model(folder, device="cpu")
