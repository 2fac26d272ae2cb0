"""Rotary scaling: each kind as transformers computes it, up to where it would change; the rest is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from interp.errors import ModelError
from interp.models.config import checked_family
from interp.models.load import load_model

TOLERANCE = 1e-4
TOKENS = torch.randint(1, 600, (2, 64), generator=torch.Generator().manual_seed(5))
BASE = {"rope_theta": 10000.0}
YARN = {**BASE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@torch.no_grad()
def logits(model: Any, tokens: Tensor) -> Tensor:
    found = model(tokens)
    return found if isinstance(found, Tensor) else found.logits


@pytest.fixture
def changed(family_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """The folder of a family's tiny model with other settings."""

    def folder(name: str, **changes: Any) -> Path:
        shutil.copytree(family_folder(name), tmp_path / name)
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return path.parent

    return folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("llama", "llama3-rope"),
        ("llama", "llama-linear"),
        ("llama", "llama-yarn"),
        ("qwen3", "qwen3-yarn"),
        ("phi3", "phi3-longrope"),
    ],
)
def test_scaling_matters(one: str, other: str, family_hf: Callable[[str], PreTrainedModel]) -> None:
    # or agreement of the families would not show that it was read
    difference = logits(family_hf(one), TOKENS) - logits(family_hf(other), TOKENS)
    assert difference.abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize(
    "rope",
    [
        {**BASE, "rope_type": "linear", "factor": 2.0},
        {**BASE, "rope_type": "dynamic", "factor": 2.0},
        YARN,
        {**YARN, "attention_factor": 0.6},
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
        {**YARN, "beta_fast": 4.0, "beta_slow": 1.0},
        {**YARN, "beta_fast": 4.0, "beta_slow": 1.0, "truncate": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "cohere", "smollm3"])
def test_every_setting_of_scaling_in_heads_that_turn_in_different_ways(
    name: str, rope: dict[str, Any], changed: Callable[..., Path]
) -> None:
    """Halves of a head against each other, neighbouring pairs, and a layer in which nothing turns."""
    folder = changed(name, rope_parameters=rope)
    model, reference = load_model(folder, device="cpu"), AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(model, TOKENS), logits(reference, TOKENS), rtol=0, atol=TOLERANCE)


def test_tables_are_kept_once(family_model: Callable[[str], HookedTransformer]) -> None:
    blocks = family_model("llama-yarn").blocks
    assert len({block.attn.rotary_cos.data_ptr() for block in blocks}) == 1
    turning, still, also = family_model("smollm3").blocks
    assert turning.attn.rotary_cos.data_ptr() == also.attn.rotary_cos.data_ptr()
    assert still.attn.rotary_cos.eq(1).all()
    assert still.attn.rotary_sin.eq(0).all()


@pytest.mark.parametrize("name", ["phi3-longrope", "llama-dynamic"])
def test_the_context_ends_where_other_frequencies_begin(
    name: str, changed: Callable[..., Path], family_folder: Callable[[str], Path]
) -> None:
    rope = json.loads((family_folder(name) / "config.json").read_text())["rope_parameters"]
    shorter = {"max_position_embeddings": 24}
    if "original_max_position_embeddings" in rope:
        shorter = {"original_max_position_embeddings": 24}
        rope |= shorter
    folder = changed(name, rope_parameters=rope, **shorter)
    model, reference = load_model(folder, device="cpu"), AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.cfg.n_ctx == 24
    expected = logits(reference, TOKENS[:, :24])
    torch.testing.assert_close(logits(model, TOKENS[:, :24]), expected, rtol=0, atol=TOLERANCE)
    assert (logits(reference, TOKENS[:, :40])[:, :24] - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {**BASE, "rope_type": "proportional"},
            "LlamaForCausalLM with 'proportional' rotary scaling is not supported; known are default, linear, dynamic,",
        ),
        ({**BASE, "rope_type": ["yarn"]}, "LlamaForCausalLM with ['yarn'] rotary scaling is not supported"),
        ({**BASE, "rope_type": "linear", "factor": 0}, "rope_parameters: setting factor must be a positive number"),
        ({**BASE, "rope_type": "dynamic"}, "rope_parameters: setting factor must be a positive number, got None"),
        ({**YARN, "factor": None}, "rope_parameters: setting factor must be a positive number, got None"),
        ({**YARN, "finetuned": True}, "setting finetuned of LlamaForCausalLM is not known here, got True"),
        ({**BASE, "rope_type": "linear", "factor": 2.0, "mscale": 2.0}, "mscale of LlamaForCausalLM is not known"),
    ],
    ids=str,
)
def test_scaling_that_is_not_covered(rope: dict[str, Any], message: str, family_folder: Callable[[str], Path]) -> None:
    settings = json.loads((family_folder("llama") / "config.json").read_text())
    hf = AutoConfig.for_model(**settings)
    checked_family(hf)
    hf.rope_parameters = rope
    with pytest.raises(ModelError, match=re.escape(message)):
        checked_family(hf)
