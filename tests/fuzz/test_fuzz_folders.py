"""Model folders that are not what they should be: the numbers of transformers, or an error; foreign code never runs."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import interp
from tests.conftest import GOLDEN
from tests.fuzz.samples import TOWER
from tests.fuzz.trials import SCALE, rounds, tried

Spoil = Callable[[Path], None]


def _json(name: str, **changes: Any) -> Spoil:
    """Set fields of a JSON file; those that are None go."""

    def spoil(folder: Path) -> None:
        path = folder / name
        fields = json.loads(path.read_text("utf-8")) | changes
        path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}), "utf-8")

    return spoil


def _config(**changes: Any) -> Spoil:
    return _json("config.json", **changes)


def _weights(change: Callable[[dict[str, torch.Tensor], str], None], part: str) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors, next(name for name in tensors if part in name))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def _filled(part: str, value: float) -> Spoil:
    def fill(tensors: dict[str, torch.Tensor], name: str) -> None:
        tensors[name].fill_(value)

    return _weights(fill, part)


def _without(part: str) -> Spoil:
    def leave_out(tensors: dict[str, torch.Tensor], name: str) -> None:
        del tensors[name]

    return _weights(leave_out, part)


def _bytes(name: str, content: bytes) -> Spoil:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def _gone(*names: str) -> Spoil:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def _foreign_code(**changes: Any) -> Spoil:
    """A folder that brings a model of its own, which says that it ran."""

    def spoil(folder: Path) -> None:
        said = f"open({str(folder / 'RAN')!r}, 'w').write('x')\n"
        (folder / "foreign.py").write_text(said + "from transformers import GPT2Config as C, GPT2LMHeadModel as M\n")
        _config(auto_map={"AutoConfig": "foreign.C", "AutoModelForCausalLM": "foreign.M"}, **changes)(folder)

    return spoil


class _Runs:
    """Pickled, it writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.path)!r}, 'w').write('x')",))


def _pickled(folder: Path) -> None:
    import pickle

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": _Runs(folder / "RAN")}))


def _honest_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _folder_named(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


KINDS: dict[str, Spoil] = {
    "good": lambda folder: None,
    "no tokenizer": _gone("tokenizer.json", "tokenizer_config.json"),
    "no weights": _gone("model.safetensors"),
    "no config": _gone("config.json"),
    "empty weights": _bytes("model.safetensors", b""),
    "weights a folder": _folder_named("model.safetensors"),
    "config a folder": _folder_named("config.json"),
    "NaN weights": _filled("c_proj.weight", float("nan")),
    "infinite weights": _filled("wte", float("inf")),
    "another shape": _weights(lambda t, name: t.update({name: torch.zeros(3, 3)}), "mlp.c_fc.weight"),
    "a missing matrix": _without("mlp.c_fc.weight"),
    "a missing bias": _without("mlp.c_fc.bias"),
    "one tensor too many": _weights(lambda t, _: t.update({"x.y": torch.zeros(3)}), "wte"),
    "whole numbers": _weights(lambda t, name: t.update({name: torch.zeros_like(t[name], dtype=torch.int64)}), "c_fc"),
    "more layers": _config(n_layer=8),
    "fewer layers": _config(n_layer=4),
    "no layers": _config(n_layer=0),
    "heads that do not divide": _config(n_head=7),
    "no heads": _config(n_head=0),
    "unknown activation": _config(activation_function="tanhh"),
    "another activation": _config(activation_function="silu"),
    "relu6": _config(activation_function="relu6"),
    "quick_gelu": _config(activation_function="quick_gelu"),
    "unknown architecture": _config(architectures=["NobodyForCausalLM"]),
    "architecture of another family": _config(architectures=["LlamaForCausalLM"]),
    "no architecture": _config(architectures=None),
    "architectures a text": _config(architectures="GPT2LMHeadModel"),
    "model_type of another family": _config(model_type="llama"),
    "unknown model_type": _config(model_type="nobody"),
    "scaled by layer": _config(scale_attn_by_inverse_layer_idx=True),
    "unscaled attention": _config(scale_attn_weights=False),
    "untied": _config(tie_word_embeddings=False),
    "smaller vocabulary": _config(vocab_size=100),
    "larger vocabulary": _config(vocab_size=700),
    "short context": _config(n_positions=4),
    "endless context": _config(n_positions=10**9),
    "another MLP size": _config(n_inner=128),
    "epsilon 0": _config(layer_norm_epsilon=0.0),
    "epsilon a text": _config(layer_norm_epsilon="x"),
    "width a text": _config(n_embd="64"),
    "negative width": _config(n_embd=-64),
    "cross attention": _config(add_cross_attention=True),
    "dtype nonsense": _config(dtype="float99"),
    "config a list": _bytes("config.json", b"[]"),
    "config not JSON": _bytes("config.json", b"{"),
    "config empty": _bytes("config.json", b""),
    "tokenizer not JSON": _bytes("tokenizer.json", b"{"),
    "tokenizer without words": _json("tokenizer.json", model={"type": "BPE", "vocab": {}, "merges": []}),
    "tokenizer config a list": _bytes("tokenizer_config.json", b"[]"),
    "quantised": _config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "gptq": _config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "malicious pickle": _pickled,
    "honest pickle": _honest_bin,
    "code of its own": _foreign_code(),
    "code of its own, unknown type": _foreign_code(model_type="nobody"),
    "code of its own, unknown architecture": _foreign_code(architectures=["M"]),
    "weights outside": _outside,
}


def _used(folder: Path) -> tuple[interp.locate.CausalTrace, float | None]:
    """A trace, and the probability that the Hugging Face model gives; None where that refuses the folder."""
    model = interp.load_model(folder, device="cpu")
    found = interp.causal_trace(model, TOWER, samples=2, noise=0.3)
    try:
        judge = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = judge(torch.tensor([model.tokenizer(TOWER.prompt, add_special_tokens=False)["input_ids"]])).logits
    except Exception:  # its own reasons; then there is nothing to compare with
        return found, None
    return found, float(logits[0, -1].softmax(-1)[found.answer_id])


def _agrees(found: tuple[interp.locate.CausalTrace, float | None]) -> None:
    trace, judged = found
    assert torch.isfinite(trace.scores).all()
    if judged is not None:
        assert trace.clean_probability == pytest.approx(judged, abs=1e-4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model; whoever asks something on standard input is told yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    shutil.copytree(GOLDEN / "tiny-gpt2", tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_as_it_should_be(folder: Path, outcomes: Counter[str], kind: str) -> None:
    KINDS[kind](folder)
    tried(lambda: _used(folder), outcomes, check=_agrees)
    assert not (folder / "RAN").exists(), "foreign code ran"
    assert sys.stdin.tell() == 0, "something was asked"


def test_random_bytes_in_a_folder(folder: Path, outcomes: Counter[str]) -> None:
    generator = random.Random(0 if SCALE == 1 else None)
    originals = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in rounds(8):
        path = generator.choice(sorted(originals))
        data = bytearray(originals[path])
        if generator.random() < 0.3:
            data = data[: generator.randrange(len(data))]
        else:
            head = min(len(data), 4000 if path.suffix == ".safetensors" else len(data))
            for _ in range(generator.choice([1, 3])):
                data[generator.randrange(head)] = generator.randrange(256)
        path.write_bytes(bytes(data))
        tried(lambda: _used(folder), outcomes)
        path.write_bytes(originals[path])
