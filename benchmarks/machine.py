"""What the benchmarks share: timing, the machine's own matmul rate, models."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens import HookedTransformer

from interp.models.load import from_hugging_face, load_model

console = Console(width=110)


def seconds(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def matmul_rate(device: str, size: int = 2048, repeats: int = 12, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a large matrix product: what the machine can do. Best of several."""
    size = size if device == "cpu" else 4 * size
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return max(2 * size**3 / seconds(lambda: a @ b, device)[0] for _ in range(repeats))


def median_seconds(work: Callable[[], Any], device: str, repeats: int = 3) -> tuple[float, Any]:
    """Warmed up; for work short enough that one run says little."""
    work()
    runs = [seconds(work, device) for _ in range(repeats)]
    return statistics.median(took for took, _ in runs), runs[-1][1]


def flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def gpt2_xl_shaped(device: str, dtype: torch.dtype = torch.float32) -> HookedTransformer:
    """GPT2-XL's shape with random weights, for speed alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_model().tokenizer
    config = GPT2Config(n_layer=48, n_embd=1600, n_head=25, vocab_size=50257, architectures=["GPT2LMHeadModel"])
    torch.manual_seed(0)
    shaped: Any = GPT2LMHeadModel(config)
    return from_hugging_face(shaped.to(dtype), tokenizer, name="gpt2-xl-shaped", device=device)


def load(name: str, device: str, dtype: torch.dtype = torch.float32) -> HookedTransformer:
    if name == "gpt2-xl-shaped":
        return gpt2_xl_shaped(device, dtype)
    return load_model(name, dtype=dtype, device=device)


def machine_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores {platform.machine()}"


def heading(device: str, model: str, rate: float) -> str:
    return (
        f"{datetime.date.today()}, {machine_name(device)}, torch {torch.__version__},"
        f" {torch.get_num_threads()} threads, {model}; float32 matmul {rate / 1e9:.0f} GFLOP/s"
    )
