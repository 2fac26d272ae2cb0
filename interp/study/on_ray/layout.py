"""How many workers a cluster has room for, and what each gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from interp.errors import OptionError, excerpt
from interp.options import check_positive

__all__ = ["Layout", "layout_of"]

CPUS = 4
"""For a worker without a GPU where ``OMP_NUM_THREADS`` says nothing: products of a small model use few more well."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Workers, all alike.

    Args:
        count: How many.
        device: ``"cpu"`` or ``"cuda"``.
        cpus, gpus: That each occupies.
        threads: That each computes with, at most one for each of its CPUs.
    """

    count: int
    device: str
    cpus: int
    gpus: int
    threads: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.count} on {self.device}, {threads} each"


def layout_of(nodes: Sequence[tuple[int, int]], *, count: int | None, device: str | None) -> Layout:
    """Fill a cluster, so that no core has two threads.

    Args:
        nodes: CPUs and GPUs of each machine.
        count: How many workers; as many as there is room for if None.
        device: See :func:`~interp.study.on_ray.start.ray_workers`.

    Raises:
        OptionError: If the cluster has no room for so many, or no such device.
    """
    if device not in (None, "cpu", "cuda"):
        raise OptionError(f"device {excerpt(device)} is one of this machine's: for workers it must be cpu or cuda")
    if count is not None:
        check_positive(workers=count)
    threads = _threads()
    n_gpus = sum(gpus for _, gpus in nodes)
    if device == "cuda" and not n_gpus:
        raise OptionError(f"device 'cuda': none of the {len(nodes)} machines that Ray has found has a GPU")
    if n_gpus and device != "cpu":
        _check_room(count, n_gpus, "GPUs")
        cpus = min(cpus // gpus for cpus, gpus in nodes if gpus)
        return Layout(
            count=count or n_gpus, device="cuda", cpus=cpus, gpus=1, threads=min(threads or cpus, max(1, cpus)) or 1
        )
    _check_room(count, sum(cpus for cpus, _ in nodes), "CPUs")
    widest = max((cpus for cpus, _ in nodes), default=0)
    if count is None:
        cpus = min(threads or CPUS, widest)
        return Layout(count=_room(nodes, cpus), device="cpu", cpus=cpus, gpus=0, threads=cpus)
    cpus = max(each for each in range(1, widest + 1) if _room(nodes, each) >= count)
    cpus = min(threads or cpus, cpus)
    return Layout(count=count, device="cpu", cpus=cpus, gpus=0, threads=cpus)


def _room(nodes: Sequence[tuple[int, int]], cpus: int) -> int:
    return sum(there // cpus for there, _ in nodes)


def _check_room(count: int | None, most: int, what: str) -> None:
    if (count or 1) > most:
        raise OptionError(f"workers: {count or 1} do not fit: Ray has found {most} {what}")


def _threads() -> int:
    """Those that the user wants; 0 if nothing is said."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() else 0
