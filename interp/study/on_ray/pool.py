"""The workers on Ray as the driver has them: who is free, who does what, who has died."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from transformer_lens import HookedTransformer

from interp.errors import InterpError, InterpWarning, WorkerError
from interp.options import Progress
from interp.results.record import check_same_weights, provenance
from interp.study.on_ray.layout import Layout
from interp.study.on_ray.moments import moments_by_workers
from interp.study.on_ray.worker import Load, Place, RayWorker
from interp.study.shard import WHOLE
from interp.study.workers import Bench, Job, Ledger, Workers

__all__ = ["RayWorkers"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3
"""How often workers may die at one job, or one after the other while they start, before that is an error."""
WAIT = 1.0
PATIENCE = 30.0
"""Seconds without any worker after which that is said."""


@dataclass(eq=False)
class _Hand:
    """A worker that has begun, as the driver knows it."""

    actor: Any
    place: Place


@dataclass
class _Running:
    """A job that a worker is doing."""

    job: Job
    hand: _Hand
    part: float = 0.0


@dataclass
class _Round:
    """Jobs that are done now: those to come, those to be done again, and how often workers have died at one."""

    jobs: Iterator[Job]
    keep: Callable[..., None]
    leave_out: Callable[..., None]
    report: Callable[[float, str], None]
    give: Callable[[Any], None]
    again: deque[Job] = field(default_factory=deque)
    running: dict[Any, _Running] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)

    @cached_property
    def takers(self) -> dict[str, Callable[..., None]]:
        """Who takes a step that needs nothing else, by its name."""
        return {
            "keep": self.keep,
            "leave_out": self.leave_out,
            "give": self.give,
            "warn": _warn,
            "log": _log,
        }

    def next_job(self) -> Job | None:
        return self.again.popleft() if self.again else next(self.jobs, None)

    def part(self) -> float:
        """Units of the jobs under way."""
        return sum(each.part for each in self.running.values())


class RayWorkers(Workers):
    """Workers on a Ray that runs; :func:`~interp.study.on_ray.start.ray_workers` makes them."""

    def __init__(self, ray: Any, model: HookedTransformer, load: Load, layout: Layout) -> None:
        self._ray, self._model, self.layout = ray, model, layout
        self._load = ray.put(load)
        self._expected = provenance(model)
        self._free: list[_Hand] = []
        self._busy: list[_Hand] = []
        self._starting: dict[Any, Any] = {}
        self._failed, self._alone = 0, time.monotonic()
        self.shard = WHOLE
        self._fill()

    def __len__(self) -> int:
        """How many have begun."""
        return len(self._free) + len(self._busy)

    @property
    def places(self) -> list[Place]:
        """Where those are that have begun."""
        return [hand.place for hand in (*self._free, *self._busy)]

    def wait(self) -> None:
        """Until the first has begun, which says what the work rests on."""
        while not self._free:
            self._welcome(self._ray.wait(list(self._starting), timeout=WAIT)[0])

    def close(self) -> None:
        """End them."""
        for actor in (*self._starting.values(), *(hand.actor for hand in (*self._free, *self._busy))):
            self._ray.kill(actor)
        self._free, self._busy, self._starting = [], [], {}

    def do(self, jobs: Iterable[Job], ledger: Ledger) -> None:
        """All jobs, in the order in which workers are free."""
        highest = [0.0]

        def report(part: float, label: str) -> None:  # what a dead worker had done is not counted back
            highest[0] = max(highest[0], ledger.done + part)
            ledger.report(min(highest[0], ledger.total), ledger.total, label)

        def finished(size: int) -> None:
            ledger.done += size

        self._run(_Round(iter(jobs), ledger.run.put, ledger.skips.add, report, _ignored), finished)

    def ask(self, call: Callable[..., T], *, progress: Progress | None = None) -> T:
        """What a call makes of the model of one worker."""
        found: list[tuple[T]] = []
        self._run(_Round(iter([_Ask(call)]), _ignored, _ignored, _ignored, found.append))
        return found[0][0]

    def share(self, value: T) -> Callable[[], T]:
        """A value in Ray's object store."""
        return _Reference(self._ray.put(value))

    def second_moments(
        self, estimate: Callable[..., Any], layers: Sequence[int], corpus: Any, progress: Callable[..., None]
    ) -> Any:
        """What the driver's cache lacks is estimated by the workers, each of a part of the layers."""
        return moments_by_workers(self, estimate, self._model, layers, corpus, progress)

    def gather(self, jobs: Iterable[Job], keep: Callable[..., None], report: Callable[[float, str], None]) -> None:
        """Jobs that are no units: what they keep goes where it is said, as does how far they are."""
        done = [0]

        def finished(size: int) -> None:
            done[0] += size

        told = _Round(iter(jobs), keep, _ignored, lambda part, label: report(done[0] + part, label), _ignored)
        self._run(told, finished)

    def _run(self, round_: _Round, finished: Callable[[int], None] = lambda _: None) -> None:
        self._fill()
        try:
            while True:
                while self._free and (job := round_.next_job()) is not None:
                    self._give(round_, job)
                if not round_.running and self._free:
                    return
                ready, _ = self._ray.wait([*round_.running, *self._starting], timeout=WAIT)
                self._welcome([ref for ref in ready if ref in self._starting])
                for steps in ready:
                    if steps in round_.running:
                        self._step(round_, steps, finished)
        finally:  # who is still at work when this ends is in the midst of what nobody waits for
            for running in round_.running.values():
                self._dismiss(running.hand)

    def _give(self, round_: _Round, job: Job) -> None:
        hand = self._free.pop(0)
        self._busy.append(hand)
        steps = hand.actor.do.options(num_returns="streaming").remote(job)
        round_.running[steps] = _Running(job, hand)
        round_.report(round_.part(), job.label)

    def _step(self, round_: _Round, steps: Any, finished: Callable[[int], None]) -> None:
        """Take the next step of a job that has one, or has ended, or whose worker has."""
        running, errors = round_.running[steps], self._ray.exceptions
        try:
            name, values = self._ray.get(next(steps))
        except StopIteration:
            self._ended(round_, steps)
            finished(running.job.size)
        except errors.RayTaskError as error:  # not of the job, which says so itself: it could not be read, or sent
            raise WorkerError(f"{running.job.label}: {_in_short(error)}") from error
        except errors.RayError as error:
            del round_.running[steps]
            self._died(round_, running, error)
        else:
            round_.running[steps] = round_.running.pop(steps)  # at the end: all get their turn
            if name == "fail":
                self._ended(round_, steps)
                raise _named(running, *values)
            if name == "report":
                running.part, label = values
                round_.report(round_.part(), label)
            else:
                round_.takers[name](*values)

    def _ended(self, round_: _Round, steps: Any) -> None:
        """The worker can go on with another job."""
        hand = round_.running.pop(steps).hand
        self._busy.remove(hand)
        self._free.append(hand)

    def _died(self, round_: _Round, running: _Running, error: Exception) -> None:
        job = running.job
        deaths = round_.deaths[id(job)] = round_.deaths.get(id(job), 0) + 1
        self._dismiss(running.hand)
        if deaths >= TRIES:
            raise WorkerError(f"{job.label}: {deaths} workers died at it, the last: {_in_short(error)}")
        logger.warning("%s died, its work is done again: %s: %s", running.hand.place, job.label, _in_short(error))
        round_.again.append(job)
        self._fill()

    def _dismiss(self, hand: _Hand) -> None:
        self._busy.remove(hand)
        self._ray.kill(hand.actor)

    def _fill(self) -> None:
        """Start as many workers as are missing; where the cluster has no room they wait for it."""
        layout = self.layout
        environment = {"OMP_NUM_THREADS": str(layout.threads)}
        if "OMP_WAIT_POLICY" not in os.environ:
            environment["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", "1000")
        actors = self._ray.remote(RayWorker).options(
            num_cpus=layout.cpus, num_gpus=layout.gpus, max_restarts=0, runtime_env={"env_vars": environment}
        )
        for _ in range(layout.count - len(self) - len(self._starting)):
            actor = actors.remote()
            begun = actor.begin.remote(self._load, layout.device, layout.threads, self._expected)
            self._starting[begun] = actor

    def _welcome(self, begun: Sequence[Any]) -> None:
        """Those that have begun; they must have the driver's weights.

        Raises:
            WorkerError: If they fail to begin, one after the other.
        """
        for ref in begun:
            actor = self._starting.pop(ref)
            try:
                place = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InterpError):
                    raise type(error.cause)(f"a worker: {error.cause}") from error
                self._not_begun(error)
            except self._ray.exceptions.RayError as error:
                self._not_begun(error)
            else:
                self._check(place)
                self._free.append(_Hand(actor, place))
                self._failed = 0
        if len(self):
            self._alone = time.monotonic()
        elif time.monotonic() - self._alone > PATIENCE:
            self._alone = time.monotonic()
            logger.warning("no worker has begun yet: the cluster has no room for one, or loading the model takes long")

    def _not_begun(self, error: Exception) -> None:
        self._failed += 1
        if self._failed >= TRIES:
            raise WorkerError(f"{self._failed} workers could not start, the last: {_in_short(error)}") from error
        logger.warning("a worker could not start, another is tried: %s", _in_short(error))
        self._fill()

    def _check(self, place: Place) -> None:
        """Refuse what would not give the same numbers.

        Raises:
            ModelError: If a worker has other weights.
            WorkerError: If it has other versions.
        """
        found, expected = place.described, self._expected
        check_same_weights(f"the weights of the worker {place}", found, expected)
        for name, version in expected.versions.items():
            if found.versions.get(name) != version:
                raise WorkerError(f"the worker {place} has {name} {found.versions.get(name)}; expected {version}")
        if not hasattr(self, "described"):
            self.described = found


@dataclass(frozen=True)
class _Ask:
    """A call that gives something of the model."""

    call: Callable[..., Any]
    label: str = "what all units need"
    size: int = 0

    def __call__(self, bench: Bench) -> tuple[Any]:
        return (self.call(bench.model),)  # which may be None, and is given all the same


@dataclass(frozen=True)
class _Reference:
    """A value in Ray's object store."""

    ref: Any

    def __call__(self) -> Any:
        import ray

        return ray.get(self.ref)


def _named(running: _Running, error: Exception, trace: str) -> Exception:
    """A job's error with the job's name; of a mistake of the program also where it was."""
    text = f"{running.job.label}: {error}"
    return type(error)(f"{text}\n\n{running.hand.place}: {trace}" if trace else text)


def _in_short(error: Exception) -> str:
    """What Ray says of a dead worker, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "died" in line or "dead" in line or "exit" in line]
    return " ".join((told or lines or [type(error).__name__])[-1].split())[:300]


def _warn(text: str) -> None:
    warnings.warn(text, InterpWarning, stacklevel=2)


def _log(name: str, level: int, text: str) -> None:
    logging.getLogger(name).log(level, "%s", text)


def _ignored(*_: Any) -> None:
    pass
