"""What locating and editing a large model takes: seconds and peak memory of each step, beside the estimate.

Random weights of a given shape, GPT2-XL's by default, made in memory without a file. Each step is a process of its own,
so that its peak is its own: the resident memory at its highest, the libraries included. ``interp models --fit`` makes
the same estimates.

    python -m benchmarks.large_model                       # 48 layers, 1,600 wide, float32: 6.2 GB of weights
    python -m benchmarks.large_model --shape 8,512,2048,8,8000 --steps trace,edit
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig

from benchmarks.machine import console, heading, matmul_rate
from interp.editing import Corpus, RomeConfig, edit, second_moments
from interp.editing.corpora import corpus_rows
from interp.facts.records import EditRequest, Fact
from interp.locate import attribute, causal_trace
from interp.models.load import load_model
from interp.models.shape import Shape, shape_of
from interp.models.weights import as_matmul_wants, share_buffers
from interp.study.fit import Work, needs

GPT2_XL = "48,1600,6400,25,50257"
TINY = Path(__file__).parents[1] / "tests" / "golden" / "tiny-gpt2"
FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
REQUEST = EditRequest(FACT, new_target=" Rome")
CONTEXTS = (("{}",), ("It was said. {}", "The year was late. {}", "One of them. {}", "They said so. {}", "We are. {}"))
TOKENS = 10
"""Of the prompt."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def random_model(shape: str, dtype: torch.dtype, device: str) -> HookedTransformer:
    """GPT-2's architecture with random weights, one copy of each, laid out as loaded ones are."""
    n_layers, d_model, d_mlp, n_heads, d_vocab = map(int, shape.split(","))
    cfg = HookedTransformerConfig(
        n_layers=n_layers, d_model=d_model, d_mlp=d_mlp, n_heads=n_heads, d_head=d_model // n_heads, d_vocab=d_vocab,
        n_ctx=1024, act_fn="gelu_new", normalization_type="LN", model_name=f"random {shape}", dtype=dtype,
        device=device, init_weights=False, default_prepend_bos=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        model = HookedTransformer(cfg, move_to_device=False)  # its own weights are never written to, so take nothing
    for name, parameter in list(model.named_parameters()):
        if name != "unembed.W_U":
            _put(model, name, _random(name, parameter, dtype, device))
    _put(model, "unembed.W_U", model.W_E.detach().T)  # one matrix, as GPT-2's are
    model.to(device, print_details=False)
    share_buffers(model)
    model.tokenizer = load_model(TINY, device="cpu").tokenizer
    model.cfg.tokenizer_prepends_bos = False
    return model.requires_grad_(False).eval()


def _random(name: str, parameter: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    kind = name.rsplit(".", 1)[-1]
    if kind == "w":
        return torch.ones(parameter.shape, dtype=dtype, device=device)
    if kind.startswith("b"):
        return torch.zeros(parameter.shape, dtype=dtype, device=device)
    laid_out = as_matmul_wants(name, torch.empty(parameter.shape, dtype=dtype, device=device))
    return laid_out.normal_(0, 0.02)


def _put(model: HookedTransformer, name: str, value: Tensor) -> None:
    module, _, last = name.rpartition(".")
    setattr(model.get_submodule(module), last, nn.Parameter(value, requires_grad=False))


def _trace(model: HookedTransformer, options: argparse.Namespace) -> Any:
    return causal_trace(model, FACT, state="mlp", samples=10, noise=0.05, max_batch_tokens=options.batch_tokens)


def _attribution(model: HookedTransformer, options: argparse.Namespace) -> Any:
    return attribute(model, FACT, tokens="all", max_batch_tokens=options.gradient_tokens)


def _edit(model: HookedTransformer, options: argparse.Namespace) -> Any:
    layer, d_mlp = model.cfg.n_layers // 3, model.cfg.d_mlp or 0
    moments = {layer: torch.eye(d_mlp)}
    config = RomeConfig(layer=layer, stop_loss=0.0, steps=options.edit_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights take no edit
        return edit(model, [REQUEST], config=config, second_moments=moments, contexts=CONTEXTS)


def _moments(model: HookedTransformer, options: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("The tower is in the city of Rome and they said so. \n" * (options.corpus_tokens // 4))
        corpus = Corpus(source=str(text), tokens=options.corpus_tokens)
        return second_moments(model, [model.cfg.n_layers // 3], corpus, cache=None)


def _text(model: HookedTransformer, options: argparse.Namespace) -> Any:
    return next(corpus_rows(model, Corpus()))


STEPS: dict[str, Callable[[HookedTransformer, argparse.Namespace], Any]] = {
    "load": lambda model, options: None,
    "trace": _trace,
    "attribution scores": _attribution,
    "edit": _edit,
    "second moments": _moments,
    "text": _text,
}


def one_step(options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: the step's seconds, its peak, and what was resident before."""
    began = time.perf_counter()
    model = random_model(options.shape, DTYPES[options.dtype], options.device)
    gc.collect()
    built = time.perf_counter() - began
    before = _resident("VmRSS")
    shape = shape_of(model)
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts anew from what is resident
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    STEPS[options.one](model, options)
    taken = time.perf_counter() - began
    peak = _resident("VmHWM")
    if options.device.startswith("cuda"):
        before, peak = shape.weight_bytes, torch.cuda.max_memory_allocated()
    return {"step": options.one, "built_s": built, "seconds": taken, "before": before, "peak": peak}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def shape_named(text: str, dtype: str) -> Shape:
    """The shape that a process would build, without its weights."""
    n_layers, d_model, d_mlp, n_heads, d_vocab = map(int, text.split(","))
    block = 4 * d_model * d_model + 2 * d_model * d_mlp + 9 * d_model + d_mlp
    return Shape(
        name=text, n_layers=n_layers, d_model=d_model, d_mlp=d_mlp, n_heads=n_heads, kv_heads=n_heads,
        d_head=d_model // n_heads, d_vocab=d_vocab, n_ctx=1024, gated=False, dtype=DTYPES[dtype],
        weight_bytes=DTYPES[dtype].itemsize * (n_layers * block + (d_vocab + 1024 + 2) * d_model + d_vocab),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--shape", default=GPT2_XL, help="layers,d_model,d_mlp,heads,vocabulary")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--dtype", default="float32", choices=tuple(DTYPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=Work.batch_tokens)
    parser.add_argument("--gradient-tokens", type=int, default=Work.gradient_tokens)
    parser.add_argument("--corpus-tokens", type=int, default=None, help="by default ten a neuron")
    parser.add_argument("--edit-steps", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.corpus_tokens is None:
        options.corpus_tokens = 10 * int(options.shape.split(",")[2])
    if options.one:
        print(json.dumps(one_step(options)))
        return
    if not options.json:
        console.print(heading("cpu", f"random {options.shape} in {options.dtype}", matmul_rate("cpu")))
    work = Work(tokens=TOKENS, batch_tokens=options.batch_tokens, gradient_tokens=options.gradient_tokens)
    expected = {need.step: need for need in needs(shape_named(options.shape, options.dtype), work)}
    rows = []
    for step in options.steps.split(","):
        command = [sys.executable, "-m", "benchmarks.large_model", *sys.argv[1:], "--one", step]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            console.print(f"{step} failed: {done.stderr[-2000:]}")
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        row["estimate_more"] = expected[step].more if step in expected else 0
        row["more"] = row["peak"] - row["before"]
        rows.append(row)
        console.print(
            f"{step:18} {row['seconds']:8.1f} s  peak {row['peak'] / 2**30:6.2f} GiB, {row['more'] / 2**30:6.2f} above"
            f" the model; estimate {row['estimate_more'] / 2**30:6.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
