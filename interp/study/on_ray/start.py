"""Ray started or joined, and workers on it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from transformer_lens import HookedTransformer

from interp.errors import OptionError, WorkerError, excerpt
from interp.study.on_ray.layout import layout_of
from interp.study.on_ray.pool import RayWorkers
from interp.study.on_ray.worker import Load

__all__ = ["LOCAL", "imported_ray", "joined", "ray_workers"]

logger = logging.getLogger(__name__)

LOCAL = "local"
"""The address that starts Ray on this machine, for as long as the workers are needed."""
STARTS = 3
"""How often it is tried to start Ray, which on a very busy machine gives itself up after half a minute."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray prints of dead workers, on standard output; the driver says it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # its warning about this variable
}


def imported_ray() -> Any:
    """Ray, which says nothing of itself.

    Raises:
        OptionError: If it is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise OptionError("Ray is not installed: pip install 'interp[ray]', here and on every machine") from None
    return ray


@contextmanager
def ray_workers(
    model: HookedTransformer,
    load: Load,
    *,
    address: str = LOCAL,
    count: int | None = None,
    device: str | None = None,
) -> Iterator[RayWorkers]:
    """Workers on Ray; at the end they are gone, and Ray too if it was started for them.

    Args:
        model: The model that they are to have. The driver reads its weights, its settings and its tokenizer and does
            not run it; the CPU is a good place for it.
        load: How each worker loads it, called with ``device=``; must be picklable, such as
            ``functools.partial(interp.load_model, "gpt2-xl")``. A folder needs its whole path, the same everywhere.
        address: :data:`LOCAL` starts Ray on this machine; ``"auto"`` takes the cluster that this machine is part of,
            ``"HOST:PORT"`` that of a head node.
        count: How many workers; by default one for every GPU, or without GPUs for every ``OMP_NUM_THREADS`` CPUs (4
            if that is not set).
        device: ``"cpu"`` or ``"cuda"``; GPUs if there are any by default.

    Raises:
        OptionError: If Ray is not installed, or the cluster has not what is asked for.
        WorkerError: If there is no such cluster, or no worker can start (says why).
        ModelError: If a worker finds no such model, or other weights.
    """
    with joined(address) as ray:
        workers = RayWorkers(ray, model, load, layout_of(_nodes(ray), count=count, device=device))
        try:
            workers.wait()
            yield workers
        finally:
            workers.close()


@contextmanager
def joined(address: str, *, cpus: int | None = None) -> Iterator[Any]:
    """Ray, started or joined; as before at the end. If this process has joined one already, it is that one.

    Args:
        address: See :func:`ray_workers`.
        cpus: How many this machine is taken to have, where Ray is started.

    Raises:
        OptionError: If Ray is not installed, or the address is a client's.
        WorkerError: If it does not start, or is not there.
    """
    ray = imported_ray()
    if address.startswith("ray://"):
        raise OptionError(
            f"the address {excerpt(address)} is of a Ray client: give the command on a machine of the cluster, with the"
            " address 'auto'"
        )
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address, {"include_dashboard": False, "num_cpus": cpus} if address == LOCAL else {})
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Start Ray, or join it; how the process ends on a signal stays as it was."""
    before = signal.getsignal(signal.SIGTERM)
    for left in reversed(range(STARTS if address == LOCAL else 1)):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:  # what does not start raises anything, a plain Exception too
            ray.shutdown()
            if not left:
                raise WorkerError(f"Ray at {excerpt(address)}: {' '.join(str(error).split())[:300]}") from error
            logger.warning("Ray does not start, it is tried again: %s", str(error).split(". ")[0])
        finally:
            with suppress(ValueError):  # not the main thread, where Ray leaves it alone too
                signal.signal(signal.SIGTERM, before)


def _nodes(ray: Any) -> list[tuple[int, int]]:
    """CPUs and GPUs of the machines that are there."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in found]
