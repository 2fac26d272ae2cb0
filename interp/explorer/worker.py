"""One thread for an explorer's work: jobs in their order, quick ones let in between the steps of a long one.

The kernel's main thread stays free to hear the page. A long job that gives way (maps do, edits do not) is stopped by
the next long one; a stop takes effect at the next step (long jobs call :meth:`Worker.step` from their progress
callbacks). No two jobs ever run at once, so no job meets another's hooks. Whatever a job raises is logged: it ends that
job and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Stopped", "Worker"]

logger = logging.getLogger(__name__)

Job = Callable[[], None]
Dropped = Callable[[], None]
"""Called instead of a job that will never run."""


class Stopped(BaseException):
    """Raised inside of a long job that was told to stop; nothing else should catch it on the way."""


class Worker:
    """A thread that does jobs (see the module)."""

    def __init__(self, name: str) -> None:
        self._long: deque[tuple[Job, bool, Dropped]] = deque()
        self._quick: deque[tuple[Job, Dropped]] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self._closed = False
        self._busy = False
        self._gives_way = False  # the job that runs
        self._in_quick = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, job: Job, *, quick: bool = False, gives_way: bool = False, dropped: Dropped = lambda: None
    ) -> bool:
        """Do a job: a quick one at the next step, a long one after those before it; False if the worker is closed.

        Long jobs that give way and are not finished are not gone on with.

        Args:
            job: What to do.
            quick: Let it in between the steps of a long one.
            gives_way: Stop it for the next long one.
            dropped: Called, on some thread, if the job is forgotten before it ran.
        """
        forgotten: list[Dropped] = []
        with self._changed:
            if self._closed or not self._thread.is_alive():
                return False
            if quick:
                self._quick.append((job, dropped))
            else:
                forgotten = [entry[2] for entry in self._long if entry[1]]
                self._long = deque(entry for entry in self._long if not entry[1])
                self._long.append((job, gives_way, dropped))
                self._stop = self._stop or (self._busy and self._gives_way)
            self._changed.notify_all()
        for each in forgotten:
            each()
        return True

    def stop(self) -> None:
        """Stop the long job that runs, at its next step, and forget those that wait."""
        with self._changed:
            forgotten = [entry[2] for entry in self._long]
            self._long.clear()
            self._stop = self._busy
            self._changed.notify_all()
        for each in forgotten:
            each()

    def step(self) -> None:
        """Called by a long job between its parts, on the worker's thread: does what is quick, ends what was stopped."""
        while True:
            with self._changed:
                if self._stop or self._closed:
                    raise Stopped
                job = self._quick.popleft()[0] if self._quick else None
            if job is None:
                return
            self._quickly(job)

    def check(self) -> None:
        """Called wherever a long job may end, also where nothing may be let in: ends what was stopped."""
        if self.here and not self._in_quick and (self._stop or self._closed):
            raise Stopped

    def _quickly(self, job: Job) -> None:
        before, self._in_quick = self._in_quick, True  # a stop is not meant for a click
        try:
            _done(job)
        finally:
            self._in_quick = before

    @property
    def here(self) -> bool:
        """Whether this is the worker's own thread."""
        return threading.current_thread() is self._thread

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; False if that takes longer than ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._busy or self._long or self._quick), timeout)

    def close(self, timeout: float | None = 30.0) -> None:
        """Stop everything and end the thread."""
        with self._changed:
            self._closed = True
            forgotten = [*(entry[2] for entry in self._long), *(entry[1] for entry in self._quick)]
            self._long.clear()
            self._quick.clear()
            self._changed.notify_all()
        for each in forgotten:
            each()
        if not self.here:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._long or self._quick)
                if self._closed:
                    return
                quick = bool(self._quick)
                if quick:
                    job, self._gives_way = self._quick.popleft()[0], False
                else:
                    job, self._gives_way, _ = self._long.popleft()
                self._busy, self._stop = True, False
            try:
                (self._quickly if quick else _done)(job)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


def _done(job: Job) -> None:
    """Do a job; nothing that it raises gets further, or the thread would end and every later job wait for ever."""
    try:
        job()
    except Stopped:
        pass
    except BaseException:
        logger.exception("a job of the explorer failed")
