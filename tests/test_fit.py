"""Memory that is known beforehand: shapes from configs alone, estimates against measured peaks, the command."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from benchmarks.large_model import random_model, shape_named
from interp.engine.base_runs import run_bytes
from interp.errors import ModelError, OptionError
from interp.models import converted as cache_of
from interp.models.shape import PUBLISHED, Shape, model_shape, shape_of
from interp.study.fit import LIBRARIES, Work, _run, needs
from tests.conftest import FAMILIES
from tests.gguf_files import written
from tests.test_cli import MODEL, Call, cache, call, refused  # noqa: F401

MIDDLE = "6,640,2560,8,6000"
"""A shape that the estimates were not fitted to."""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_says_how_much_the_weights_take(
    name: str, family_folder: Callable[[str], Path], family_model: Callable[[str], HookedTransformer]
) -> None:
    """Counted without the weights' file, as loaded; what is one matrix counts once."""
    folder, loaded = family_folder(name), shape_of(family_model(name))
    found = model_shape(folder)
    same = replace(loaded, name=str(folder), weight_bytes=found.weight_bytes)
    assert found == same
    # buffers of biases, of which several share a storage
    assert found.weight_bytes == pytest.approx(loaded.weight_bytes, rel=0.02)
    halved = model_shape(folder, torch.bfloat16)
    assert (halved.weight_bytes, halved.bytes_each) == (found.weight_bytes // 2, 2)


def test_only_the_config_is_read(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((family_folder("llama") / "config.json").read_bytes())
    found = model_shape(tmp_path)
    assert replace(found, name="") == replace(model_shape(family_folder("llama")), name="")
    assert found.kv_heads == 2
    assert found.gated
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        model_shape(tmp_path)
    with pytest.raises(ModelError, match="did you mean gpt2-xl"):
        model_shape("gpt2-xxl")


def test_a_gguf_file_has_the_shape_of_what_it_is_converted_into(
    family_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is dequantised or kept for it."""
    monkeypatch.setattr(cache_of, "user_cache_path", lambda name: tmp_path / "cache")
    file = tmp_path / "model.gguf"
    written(file, family_folder("llama"), "Q8_0")
    found = model_shape(file)
    assert not (tmp_path / "cache").exists()
    assert replace(found, name="") == replace(model_shape(family_folder("llama")), name="")
    assert model_shape(file, "auto").dtype == torch.float32
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"GGUF file model\.gguf: it cannot be read"):
        model_shape(file)


def test_an_adapter_has_the_shape_of_its_base(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder, settings = family_folder("llama"), {"peft_type": "LORA", "base_model_name_or_path": "no/such-base"}
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert replace(model_shape(tmp_path, base=folder), name="") == replace(model_shape(folder), name="")
    for below in (str(tmp_path), None):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": below}))
        with pytest.raises(ModelError, match="is an adapter itself" if below else "name no base"):
            model_shape(tmp_path)
    with pytest.raises(OptionError, match="base would do nothing"):
        model_shape(folder, base=folder)


def test_auto_is_the_format_that_the_config_says(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((family_folder("llama") / "config.json").read_text())
    for said in ("bfloat16", None):
        config["dtype"] = said
        (tmp_path / "config.json").write_text(json.dumps(config))
        if said:
            assert model_shape(tmp_path, "auto").dtype == torch.bfloat16
        else:
            with pytest.raises(ModelError, match="does not say its number format"):
                model_shape(tmp_path, "auto")


def test_published_shapes_have_their_published_sizes() -> None:
    billions = {name: model_shape(name).weight_bytes / 4e9 for name in PUBLISHED}
    assert billions["gpt2-xl"] == pytest.approx(1.558, abs=0.001)
    assert billions["EleutherAI/gpt-j-6b"] == pytest.approx(6.05, abs=0.01)
    assert billions["meta-llama/Llama-3.1-8B"] == pytest.approx(8.03, abs=0.01)


def test_gpt2_xl_fits_20_gib_and_7b_in_bfloat16_one_card() -> None:
    xl = model_shape("gpt2-xl")
    assert max(LIBRARIES + xl.weight_bytes + need.more for need in needs(xl)) < 20 * 2**30
    for name in ("meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.1"):
        large = model_shape(name, torch.bfloat16)
        assert max(LIBRARIES + large.weight_bytes + need.more for need in needs(large)) < 80e9


def test_a_random_model_has_the_shape_that_was_asked_for() -> None:
    model = random_model("3,32,48,4,90", torch.float32, "cpu")
    found, wanted = shape_of(model), shape_named("3,32,48,4,90", "float32")
    assert found.weight_bytes == wanted.weight_bytes
    assert replace(found, name="") == replace(wanted, name="")
    assert _run(found, 4, 7, 2) == run_bytes(model, 4, 7, ("mlp_out", "attn_out"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux alone")
def test_measured_peaks_are_at_most_a_quarter_above_the_estimates(tmp_path: Path) -> None:
    """Each step in a process of its own, on a random model of a middle size; large ones are not far below either."""
    command = [sys.executable, "-m", "benchmarks.large_model", "--shape", MIDDLE, "--json", str(tmp_path / "x.json")]
    options = [
        "--steps",
        "trace,attribution scores,edit,second moments",
        "--corpus-tokens",
        "7680",
        "--edit-steps",
        "3",
    ]
    subprocess.run([*command, *options], check=True, cwd=Path(__file__).parents[1], capture_output=True)
    rows = json.loads((tmp_path / "x.json").read_text())
    assert [row["step"] for row in rows] == ["trace", "attribution scores", "edit", "second moments"]
    for row in rows:
        assert row["more"] <= 1.25 * row["estimate_more"], row
        if row["estimate_more"] > 128 * 2**20:  # below that, what the libraries take themselves decides
            assert row["more"] >= 0.75 * row["estimate_more"], row


@given(
    st.sampled_from(["n_layers", "d_model", "d_mlp", "d_vocab"]),
    st.sampled_from(["tokens", "samples", "contexts", "batch_tokens", "gradient_tokens"]),
)
@settings(max_examples=20, deadline=None)
def test_more_of_anything_never_needs_less(of_shape: str, of_work: str) -> None:
    shape, work = shape_named("12,768,3072,12,5000", "float32"), Work()
    base = {need.step: need.more for need in needs(shape, work)}
    larger: Shape = replace(shape, **{of_shape: 2 * getattr(shape, of_shape)})
    assert all(need.more >= base[need.step] for need in needs(larger, work))
    if of_work != "tokens":  # longer prompts: fewer rows at once
        more = replace(work, **{of_work: 2 * getattr(work, of_work)})
        assert all(need.more >= base[need.step] for need in needs(shape, more))


def test_the_command_says_what_would_fit(call: Call, tmp_path: Path) -> None:
    done = call("models", "--fit", MODEL[1])
    assert done.code == 0, done.err
    assert "6 layers, d_model 64, d_mlp 256" in done.out
    assert "attribution scores" in done.out
    found = json.loads(call("models", "--fit", "gpt2-xl", "--dtype", "bfloat16", "--json").out)
    assert found["weights"] == model_shape("gpt2-xl", torch.bfloat16).weight_bytes
    assert found["steps"]["trace"]["total"] > found["weights"]
    refused(call("models", "--tokens", "5"), "--tokens would do nothing")
    refused(call("models", "--fit", str(tmp_path)), "no config.json")
    refused(call("models", "--fit", "gpt2", "--dtype", "int8"), "dtype must be one of")
