"""A worker of a study in a process of its own: it loads the model once, does jobs, and sends what they find.

A *step* is what a job says while it is done, as the name of one of the driver's methods and what it is called with. It
knows nothing of Ray, which carries the steps (:mod:`interp.study.on_ray.pool`).
"""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.errors import InterpError, InterpWarning
from interp.models.source import keep_source
from interp.results.record import Provenance, Record, provenance
from interp.study.workers import Bench, Job

__all__ = ["Load", "Place", "RayWorker", "Step"]

Load = Callable[..., HookedTransformer]
"""Called with ``device=``: how a worker loads the model."""
Step = tuple[str, tuple[Any, ...]]
PAUSE = 0.25
"""Seconds between reports of how far a job is: one a unit, or thousands, would keep the driver busy."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker is, and with what.

    Args:
        host: The machine's name.
        process: The number of its process there.
        described: The weights that it has loaded, its versions and its device.
    """

    host: str
    process: int
    described: Provenance

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class RayWorker:
    """One worker. Its methods are called one at a time."""

    def begin(self, load: Load, device: str, threads: int, expected: Provenance) -> Place:
        """Load the model.

        Args:
            load: How.
            device: Where to.
            threads: That it computes with.
            expected: What the driver says of its model: its name, where its weights come from, and how precise
                products of float32 matrices are.
        """
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(expected.matmul_precision)
        self._model = load(device=device)
        self._model.cfg.model_name = expected.model
        keep_source(self._model, expected.source)
        self._described = provenance(self._model)
        return Place(host=socket.gethostname(), process=os.getpid(), described=self._described)

    def do(self, job: Job) -> Iterator[Step]:
        """A job, step by step; the last one may be ``fail``."""
        steps: SimpleQueue[Step | None] = SimpleQueue()
        Thread(target=self._do, args=(job, steps), daemon=True).start()
        while (step := steps.get()) is not None:
            yield step

    def _do(self, job: Job, steps: SimpleQueue[Step | None]) -> None:
        def send(name: str, *values: Any) -> None:
            steps.put((name, values))

        try:
            with _heard(send):
                found = job(self._bench(send))
            if found is not None:
                send("give", found)
        except InterpError as error:
            send("fail", type(error)(str(error)), "")
        except BaseException as error:  # a job runs in a thread, where nobody else would hear of it
            send("fail", RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc())
        finally:
            steps.put(None)

    def _bench(self, send: Callable[..., None]) -> Bench:
        said = [time.monotonic()]

        def report(part: float, label: str) -> None:
            if time.monotonic() - said[0] >= PAUSE:
                said[0] = time.monotonic()
                send("report", part, label)

        def leave_out(errors: Mapping[str, Exception]) -> None:
            send("leave_out", {unit: type(error)(str(error)) for unit, error in errors.items()})

        return Bench(
            model=self._model,
            described=self._described,
            keep=lambda unit, record: send("keep", unit, _on_cpu(record)),
            leave_out=leave_out,
            report=report,
        )


class _Sent(logging.Handler):
    """Log entries as steps."""

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("log", record.name, record.levelno, record.getMessage())


@contextmanager
def _heard(send: Callable[..., None]) -> Iterator[None]:
    """Warnings and log entries of the package reach the driver."""
    handler, logger = _Sent(send), logging.getLogger("interp")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", InterpWarning)
            shown = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *others: Any, **options: Any) -> None:
                if issubclass(category, InterpWarning):
                    send("warn", str(message))
                else:
                    shown(message, category, *others, **options)

            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)


def _on_cpu(record: Record) -> Record:
    """The same record with its tensors where a driver without a GPU can take them."""
    moved: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            moved[field.name] = value.detach().cpu()
        elif isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values()):
            moved[field.name] = {key: each.detach().cpu() for key, each in value.items()}
    return replace(record, **moved) if moved else record
