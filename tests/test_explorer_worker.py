"""The explorer's thread: order, quick jobs between the steps of a long one, stopping, ending."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from interp.explorer.worker import Stopped, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker("test")
    yield found
    found.close(5)
    assert not any(thread.name == "test" for thread in threading.enumerate())


def until_stopped(worker: Worker, started: threading.Event, ended: list[str]) -> None:
    started.set()
    try:
        while True:
            worker.step()
            time.sleep(0.001)
    except Stopped:
        ended.append("stopped")
        raise


def test_jobs_run_elsewhere_and_are_waited_for(worker):
    seen = []
    worker.submit(lambda: seen.append(threading.current_thread().name))
    assert worker.wait(5)
    assert seen == ["test"]


def test_a_quick_job_runs_between_the_steps_of_a_long_one(worker):
    started, served, ended = threading.Event(), threading.Event(), []
    worker.submit(lambda: until_stopped(worker, started, ended))
    assert started.wait(5)
    worker.submit(served.set, quick=True)
    assert served.wait(5)
    assert ended == []
    assert not worker.wait(0.01)
    worker.stop()
    assert worker.wait(5)
    assert ended == ["stopped"]


def test_a_long_job_that_gives_way_is_stopped_by_the_next(worker):
    started, ended = threading.Event(), []
    worker.submit(lambda: until_stopped(worker, started, ended), gives_way=True)
    assert started.wait(5)
    worker.submit(lambda: ended.append("next"))
    assert worker.wait(5)
    assert ended == ["stopped", "next"]


def test_other_long_jobs_come_one_after_the_other(worker):
    """Choosing a fact and locating it, sent at once: both happen."""
    go, ended = threading.Event(), []

    def first() -> None:
        assert go.wait(5)
        worker.step()  # it was not told to stop
        ended.append("first")

    worker.submit(first)
    worker.submit(lambda: ended.append("second"))
    worker.submit(lambda: ended.append("a map that is not gone on with"), gives_way=True)
    worker.submit(lambda: ended.append("third"))
    go.set()
    assert worker.wait(5)
    assert ended == ["first", "second", "third"]


def test_a_stop_does_not_reach_the_next_job(worker):
    started, ended = threading.Event(), []
    worker.submit(lambda: until_stopped(worker, started, ended))
    assert started.wait(5)
    worker.stop()
    assert worker.wait(5)
    worker.submit(lambda: (worker.step(), ended.append("went on")))
    assert worker.wait(5)
    assert ended == ["stopped", "went on"]
    worker.stop()  # nothing runs: nothing happens
    worker.submit(lambda: (worker.step(), ended.append("again")))
    assert worker.wait(5)
    assert ended[-1] == "again"


def test_a_stop_forgets_what_waits(worker):
    started, ended = threading.Event(), []
    worker.submit(lambda: until_stopped(worker, started, ended))
    assert started.wait(5)
    worker.submit(lambda: ended.append("waited"))
    worker.stop()
    assert worker.wait(5)
    assert ended == ["stopped"]


def test_a_closed_worker_ends_what_runs_and_takes_nothing_more():
    worker, started, ended = Worker("closed"), threading.Event(), []
    worker.submit(lambda: until_stopped(worker, started, ended))
    assert started.wait(5)
    worker.close(5)
    assert ended == ["stopped"]
    assert not any(thread.name == "closed" for thread in threading.enumerate())
    assert not worker.submit(lambda: ended.append("never"))
    assert worker.wait(0.1)
    assert ended == ["stopped"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError, Stopped])
def test_an_exception_ends_its_job_and_nothing_else(worker, caplog, error):
    """Before, the thread ended with it, and later jobs were taken and never done."""
    ended = []

    def failing() -> None:
        raise error

    def long() -> None:
        worker.submit(failing, quick=True)
        worker.step()
        ended.append("long")

    assert worker.submit(failing)
    assert worker.submit(long)
    assert worker.submit(lambda: ended.append("next"))
    assert worker.wait(5)
    assert ended == ["long", "next"]
    assert len(caplog.records) == (0 if error is Stopped else 2)


def test_a_job_that_never_runs_is_told_so():
    worker, started, forgotten = Worker("forgetful"), threading.Event(), []
    worker.submit(lambda: until_stopped(worker, started, []))
    assert started.wait(5)
    worker.submit(lambda: None, gives_way=True, dropped=lambda: forgotten.append("a map"))
    worker.submit(lambda: None, dropped=lambda: forgotten.append("an edit"))
    assert forgotten == ["a map"]
    worker.stop()
    assert forgotten == ["a map", "an edit"]
    assert worker.wait(5)
    go = threading.Event()
    worker.submit(lambda: go.wait(5))
    worker.submit(lambda: None, quick=True, dropped=lambda: forgotten.append("a click"))
    threading.Timer(0.05, go.set).start()
    worker.close(5)
    assert forgotten[2:] in (["a click"], [])  # or it ran before
    assert not worker.submit(lambda: None)


def test_a_stop_between_steps_ends_the_long_job_and_not_a_click(worker):
    seen, stopped = [], threading.Event()

    def click() -> None:
        worker.stop()
        worker.check()  # does not raise here
        seen.append("click")

    def long() -> None:
        worker.submit(click, quick=True)
        try:
            worker.step()
            worker.check()
        except Stopped:
            stopped.set()
            raise
        seen.append("went on")

    worker.submit(long)
    assert worker.wait(5)
    assert stopped.is_set()
    assert seen == ["click"]
    worker.check()  # on another thread: nothing
