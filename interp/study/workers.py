"""Who does the work of a study: this process, one piece after the other, or several that a driver gives pieces to.

A :class:`Job` is what must be computed together: a call from data to records. What is to be done is said by the study
(:mod:`interp.study.locating`, :mod:`interp.study.work`) and never depends on who does it; the records are written by
the process that holds the run folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from transformer_lens import HookedTransformer

from interp.options import Progress
from interp.results.record import Provenance, Record, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.shard import WHOLE, Shard

__all__ = ["Bench", "Here", "Job", "Ledger", "StudyProgress", "Workers", "workers_of"]

T = TypeVar("T")

StudyProgress = Callable[[float, int, str], None]
"""Called with (units done, units in all, what is being done); nothing is where a unit was there already, and a
:class:`~interp.study.stage.Stage` as long as no unit advances."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where a job is done, and where what it finds goes.

    Args:
        model: The model.
        described: Which weights, versions and device.
        keep: Called with a unit's name and its record.
        leave_out: Called with units that cannot be done, and why.
        report: Called with (units of the job that are done, what is being done).
    """

    model: HookedTransformer
    described: Provenance
    keep: Callable[[str, Record], None]
    leave_out: Callable[[Mapping[str, Exception]], None]
    report: Callable[[float, str], None]


@runtime_checkable
class Job(Protocol):
    """What must be computed together. Jobs do not know of each other, and may be done again."""

    @property
    def label(self) -> str:
        """What is being done."""

    @property
    def size(self) -> int:
        """How many units it is."""

    def __call__(self, bench: Bench) -> Any:
        """Do it."""


@dataclass(kw_only=True)
class Ledger:
    """What is kept of a study's jobs, and how far they are.

    Args:
        run: Where the records go.
        skips: The units that are left out.
        report: Told how far the study is.
        total: Units in all.
        done: Units that are done.
    """

    run: RunFolder
    skips: Skips
    report: StudyProgress
    total: int
    done: float = 0.0

    def there(self, size: int) -> None:
        """So many units were there already."""
        self.report(self.done, self.total, "")
        self.done += size


class Workers(ABC):
    """Who does jobs. They are asked for one thing at a time.

    Args:
        described: What the work rests on, wherever it is done.
        shard: The share of the study that these do.
    """

    described: Provenance
    shard: Shard

    @abstractmethod
    def do(self, jobs: Iterable[Job], ledger: Ledger) -> None:
        """Do all jobs, in any order; each is made when somebody is free to do it."""

    @abstractmethod
    def ask(self, call: Callable[..., T], *, progress: Progress | None = None) -> T:
        """What a call makes of the model.

        Args:
            call: Called with the model.
            progress: What it is called with as ``progress=``, where it is called in this process.
        """

    @abstractmethod
    def share(self, value: T) -> Callable[[], T]:
        """A value that many jobs need: it travels to each worker apart from them."""

    @abstractmethod
    def second_moments(
        self, estimate: Callable[..., Any], layers: Sequence[int], corpus: Any, progress: Callable[[int, int], None]
    ) -> Any:
        """The second moments of some layers, for jobs.

        Args:
            estimate: :func:`~interp.editing.moments.second_moments`, of which locating knows nothing.
            layers, corpus, progress: What it is called with.
        """


class Here(Workers):
    """This process does a share of the study, one job after the other."""

    def __init__(self, model: HookedTransformer, shard: Shard = WHOLE) -> None:
        self._model, self.shard, self.described = model, shard, provenance(model)

    def do(self, jobs: Iterable[Job], ledger: Ledger) -> None:
        """In their order."""
        for job in jobs:
            job(
                Bench(
                    model=self._model,
                    described=self.described,
                    keep=ledger.run.put,
                    leave_out=ledger.skips.add,
                    report=partial(_report, ledger, ledger.done),
                )
            )
            ledger.done += job.size

    def ask(self, call: Callable[..., T], *, progress: Progress | None = None) -> T:
        """Call it."""
        return call(self._model) if progress is None else call(self._model, progress=progress)

    def share(self, value: T) -> Callable[[], T]:
        """As it is."""
        return lambda: value

    def second_moments(
        self, estimate: Callable[..., Any], layers: Sequence[int], corpus: Any, progress: Callable[[int, int], None]
    ) -> Any:
        """Those of the cache, and what it lacks."""
        return estimate(self._model, layers, corpus, progress=progress)


def workers_of(model: HookedTransformer, who: Shard | Workers | None) -> Workers:
    """Workers, or this process with a shard, or with all."""
    return who if isinstance(who, Workers) else Here(model, who or WHOLE)


def _report(ledger: Ledger, so_far: float, part: float, label: str) -> None:
    ledger.report(so_far + part, ledger.total, label)
