"""Who does the work of a study: this process with a shard of it, or workers on Ray; the options --ray and --workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.common import load
from interp.cli.console import messages
from interp.cli.progress import bar
from interp.errors import OptionError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.study.shard import Shard
    from interp.study.workers import Workers

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Workers on Ray, one for each GPU or for some CPUs: on this machine, or with an address (auto, HOST:PORT)"
        " on a cluster that runs. Needs pip install 'interp\\[ray]'.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="How many with --ray; by default as many as there are GPUs, else CPUs / OMP_NUM_THREADS (4 if not set).",
    ),
]


LOCAL = "local"
"""The address where none is typed."""


@dataclass(frozen=True)
class Sharing:
    """Who does the work, as it was typed."""

    shard: Shard | None
    address: str | None
    count: int | None


def typed_sharing(shard: str | None, address: str | None, count: int | None) -> Sharing:
    """What was typed as --shard, --ray and --workers.

    Raises:
        OptionError: If they do not go together, or Ray is not installed.
    """
    from interp.study.shard import Shard

    if shard is not None and address is not None:
        raise OptionError("--shard and --ray exclude each other: workers on Ray do all that is missing")
    if count is not None and address is None:
        raise OptionError("--workers would do nothing: it is for --ray")
    if address is not None:
        from interp.study.on_ray.start import imported_ray

        imported_ray()
    return Sharing(None if shard is None else Shard.parse(shard), address, count)


@contextmanager
def at_work(
    sharing: Sharing, name: str, device: str | None, dtype: str, base: str | None = None
) -> Iterator[tuple[HookedTransformer, Workers]]:
    """The model, and who does the work; the driver of workers does not run it, so for them it stays on the CPU."""
    if sharing.address is None:
        network = load(name, device, dtype, base)
        with bar("the hash of the weights"):
            from interp.study.shard import WHOLE
            from interp.study.workers import Here

            who = Here(network, sharing.shard or WHOLE)
        yield network, who
        return
    import torch

    from interp.models.load import load_model
    from interp.study.on_ray.start import ray_workers

    network = load(name, "cpu", dtype, base)
    options = {} if base is None else {"base": _everywhere(base)}
    loading = partial(
        load_model, _everywhere(name), dtype="auto" if dtype == "auto" else getattr(torch, dtype), **options
    )
    with ExitStack() as stack:
        with bar("starting workers"):
            workers = stack.enter_context(
                ray_workers(network, loading, address=sharing.address, count=sharing.count, device=device)
            )
        messages.print(f"workers: {workers.layout}")
        yield network, workers


def _everywhere(name: str) -> str:
    """A folder or file with its whole path: a worker starts elsewhere."""
    source = Path(name).expanduser()
    return str(source.resolve()) if source.exists() else name


def with_addresses(arguments: Sequence[str]) -> list[str]:
    """What was typed, with the address that --ray has where none follows it."""
    given = list(arguments)
    for place in range(len(given) - 1, -1, -1):
        if given[place] == "--ray" and (place + 1 == len(given) or given[place + 1].startswith("-")):
            given.insert(place + 1, LOCAL)
    return given
