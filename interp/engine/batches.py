"""Work in batches that fit: cut it, halve it when memory runs out, say beforehand what will not fit or takes hours."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from transformer_lens import HookedTransformer

from interp.engine.base_runs import can_be_padded
from interp.errors import InterpWarning, OptionError

__all__ = [
    "batch_cost",
    "batch_tokens",
    "check_fits",
    "filled",
    "free_bytes",
    "groups",
    "halving",
    "pools",
    "tokens_that_fit",
    "warn_if_long",
]

logger = logging.getLogger(__name__)

PREFIX_SHARE = 4
"""A token that is only attended to (its key and value are there) takes about a quarter of what others take."""
MOST_TOKENS = {"cpu": (2048, 1024), "cuda": (2**17, 2**15)}
"""The most tokens that help, without and with gradients. On a CPU more of them fall out of its caches (measured)."""
KEPT = (12, 4)
"""Numbers that a block holds of a token while it runs, in widths of the residual stream and of the MLP (measured)."""
LONG = 3600.0
"""Seconds from which on a piece of work is announced."""
MEASURED_FROM = 1e13
"""Below so many multiplications nothing takes long, and nothing is measured."""

T = TypeVar("T")


def batch_cost(length: int, n_tokens: int) -> int:
    """What a row of ``length`` tokens that reads a prefix, ``n_tokens`` in all, takes of a batch limit."""
    return length + (n_tokens - length) // PREFIX_SHARE


def batch_tokens(model: HookedTransformer, *, gradients: bool = False) -> int:
    """How many tokens to run at once where nobody says it: as many as help, and as fit into the memory that is free.

    Args:
        model: The model.
        gradients: Whether what all blocks computed has to stay for a backward pass.
    """
    cfg = model.cfg
    hidden = cfg.d_model if cfg.attn_only or cfg.d_mlp is None else cfg.d_mlp
    return tokens_that_fit(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_mlp=hidden,
        bytes_each=model.W_E.element_size(),
        device=model.W_E.device.type,
        free=free_bytes(model.W_E.device),
        gradients=gradients,
    )


def tokens_that_fit(
    *, n_layers: int, d_model: int, d_mlp: int, bytes_each: int, device: str, free: int | None, gradients: bool
) -> int:
    """The power of two that :func:`batch_tokens` chooses, from the model's shape and what is free alone.

    A quarter of the memory is for it, for base runs and results take memory too.

    Args:
        n_layers, d_model, d_mlp: Of the model; d_model again if it has no MLPs.
        bytes_each: Of a number.
        device: Its type.
        free: Bytes; None where nothing tells.
        gradients: Whether blocks keep theirs until the backward pass.
    """
    most = MOST_TOKENS.get(device, MOST_TOKENS["cpu"])[gradients]
    if free is None:
        return most
    # half of the blocks, in the mean, run on a row
    per_token = (KEPT[0] * d_model + KEPT[1] * d_mlp) * bytes_each * (max(1, n_layers / 2) if gradients else 1)
    fit = max(1, int(free / 4 / per_token))
    return int(min(most, 2 ** (fit.bit_length() - 1)))


def pools(model: HookedTransformer, lengths: Sequence[int]) -> list[list[int]]:
    """Which prompts to run side by side.

    On a CPU those of one length: to attend to padding costs more than fuller products save. On other devices calls cost
    more than any padding, and all go together, if the model's numbers do not depend on it.

    Args:
        model: The model.
        lengths: Tokens of each prompt.

    Returns:
        The prompts of each pool, the shortest first.
    """
    if model.W_E.device.type != "cpu" and can_be_padded(model):
        return [list(range(len(lengths)))]
    return [[i for i, own in enumerate(lengths) if own == length] for length in sorted({*lengths})]


def groups(joins: Sequence[T], rows: Sequence[int], length: int, max_batch_tokens: int) -> Iterator[list[T]]:
    """Cut joins into consecutive groups of at most ``max_batch_tokens`` tokens (at least one join each).

    Args:
        joins: Anything, in the order in which it joins.
        rows: How many rows each of them has.
        length: Tokens per row.
        max_batch_tokens: The most tokens that a block may be run on at once.

    Raises:
        OptionError: If ``max_batch_tokens`` is not positive.
    """
    if max_batch_tokens < 1:
        raise OptionError(f"max_batch_tokens must be positive, got {max_batch_tokens}")
    group: list[T] = []
    size = 0
    for join, count in zip(joins, rows, strict=True):
        if group and size + count * length > max_batch_tokens:
            yield group
            group, size = [], 0
        group.append(join)
        size += count * length
    if group:
        yield group


def filled(
    rows: Sequence[int], length: int, max_batch_tokens: int, weights: Sequence[int] | None = None
) -> list[list[tuple[int, slice]]]:
    """Cut items into few batches, about equally full; an item is cut over its rows where a batch ends.

    Args:
        rows: How many rows each item has, in the order in which they join.
        length: Tokens per row.
        max_batch_tokens: The most tokens that a block may be run on at once (one row of an item at least).
        weights: How many rows each row of an item becomes on its way; 1 if None.

    Returns:
        Of each batch its items, and which of their rows.
    """
    weights = weights or [1] * len(rows)
    total = sum(count * weight for count, weight in zip(rows, weights, strict=True))
    n_batches = max(1, -(-total // max(1, max_batch_tokens // length)))
    size = -(-total // n_batches)
    batches: list[list[tuple[int, slice]]] = []
    left = 0
    for item, (count, weight) in enumerate(zip(rows, weights, strict=True)):
        first = 0
        while first < count:
            if left < weight:
                batches.append([])
                left = max(size, weight)
            last = min(count, first + left // weight)
            batches[-1].append((item, slice(first, last)))
            left -= (last - first) * weight
            first = last
    return batches


def halving(work: Callable[[int], T], max_batch_tokens: int) -> T:
    """Do some work with a batch limit; when memory runs out, halve the limit, say so and try again.

    Raises:
        OptionError: If even a limit of one token does not fit.
    """
    while True:
        try:
            return work(max_batch_tokens)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the first; the CPU allocator raises it
            if not _is_out_of_memory(error):
                raise
            if max_batch_tokens <= 1:
                raise OptionError(
                    "out of memory with max_batch_tokens=1 already: free some, or take a shorter prompt, fewer samples"
                    " or a narrower number format"
                ) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        max_batch_tokens //= 2
        logger.warning("out of memory: going on with max_batch_tokens=%d", max_batch_tokens)


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in said
        or "not enough memory" in said
    )


def check_fits(what: str, n_bytes: int, device: torch.device, advice: str) -> None:
    """Refuse work that cannot fit into the memory that is free, before it starts.

    Args:
        what: The work, for the error.
        n_bytes: What it will hold at once, at least.
        device: Where.
        advice: What to do about it.

    Raises:
        OptionError: Naming the work, what it needs and what is free.
    """
    free = free_bytes(device)
    if free is not None and n_bytes > free:
        raise OptionError(
            f"{what} needs about {n_bytes / 1e9:.2g} GB of memory and {free / 1e9:.2g} GB are free: {advice}"
        )


def free_bytes(device: torch.device) -> int | None:
    """The memory that this process can still take on a device; None where nothing tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    bounds = [_available(), _left_of_control_group(), _left_of_address_space()]
    known = [bound for bound in bounds if bound is not None]
    return max(0, min(known)) if known else None


def _available() -> int | None:
    """What the system says is available."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_of_control_group() -> int | None:
    """What a container's limit leaves; file pages that can be dropped count as free."""
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if not limit or not used or not limit[0].strip().isdigit():
        return None
    droppable = sum(
        int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if line.split()[0] == "inactive_file"
    )
    return int(limit[0]) - int(used[0]) + droppable


def _left_of_address_space() -> int | None:
    """What ``ulimit -v`` leaves."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _lines("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return int(limit) - int(pages[0].split()[0]) * resource.getpagesize()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("ascii").splitlines()
    except (OSError, UnicodeError):
        return []


def warn_if_long(
    what: str,
    model: HookedTransformer,
    block_tokens: float,
    length: int,
    max_batch_tokens: int,
    *,
    stacklevel: int,
    passes: float = 1,
) -> None:
    """Say beforehand that some work will take hours.

    Args:
        what: The work, for the warning.
        model: The model.
        block_tokens: On how many tokens blocks will be run, each time counted.
        length: Tokens of a typical row.
        max_batch_tokens: The most of them at once.
        stacklevel: Of who called the locator, counted from this function.
        passes: What each costs, in runs of a block on it (a backward pass costs about two more).
    """
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters())
    per_block = blocks / max(1, model.cfg.n_layers)
    if block_tokens * passes * per_block < MEASURED_FROM:
        return
    seconds = block_tokens * passes * _seconds_per_token(model, length, min(max_batch_tokens, 512))
    if seconds > LONG:
        warnings.warn(
            f"{what} will take about {seconds / 3600:.1f} h here: a block runs on {block_tokens:.2g} tokens in all;"
            " a shorter prompt, fewer samples or steps, or a GPU makes it shorter",
            InterpWarning,
            stacklevel=stacklevel,
        )


def _seconds_per_token(model: HookedTransformer, length: int, at_once: int) -> float:
    """How long a block in the middle takes per token, measured."""
    rows = max(1, at_once // length)
    x = torch.zeros(rows, length, model.cfg.d_model, device=model.W_E.device, dtype=model.W_E.dtype)
    layer = model.cfg.n_layers // 2
    taken = 0.0
    for _ in range(2):  # the first reads the weights
        before = time.perf_counter()
        with torch.no_grad():
            model(x, start_at_layer=layer, stop_at_layer=layer + 1)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
        taken = time.perf_counter() - before
    return taken / (rows * length)
