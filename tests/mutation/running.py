"""Runs of the tests in forked processes: one that sees which test reaches which line, and one for each mutant.

The parent has imported everything that the package needs, but not the package; so a mutant costs no import of torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import json
import logging
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

__all__ = ["Reach", "measured_reach", "run_mutant"]

logger = logging.getLogger("mutation")

ROOT = Path(__file__).parents[2]
PACKAGE = str(ROOT / "interp") + os.sep
ARGUMENTS = [
    *("-q", "-p", "no:cacheprovider", "-m", "not real_model and not browser", "--hypothesis-profile=mutation"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # plugins were imported before pytest began
]
SLOWER, SECONDS = 3.0, 30.0
"""A mutant may take so many times as long as the tests do unchanged, and so many seconds more."""
MEMORY = 8 * 2**30

hypothesis.settings.register_profile("mutation", derandomize=True, deadline=None, database=None)


@dataclass(frozen=True)
class Reach:
    """What each test runs.

    Args:
        seconds: By test, unchanged.
        lines: By file and line, the tests that run it; None stands for all of those that import it.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str] | None]]

    def tests(self, path: str, span: tuple[int, int] | None, files: Sequence[str]) -> list[str]:
        """The tests of some files that run one of the lines: each function once, the fastest first, then again."""
        known = self.lines.get(path, {})
        found: set[str] = set()
        for line in range(span[0], span[1] + 1) if span else ():
            tests = known.get(line, set())
            if tests is None:
                span = None
                break
            found.update(tests)
        chosen = self.seconds if span is None else found
        order = sorted((test for test in chosen if _is_in(test, files)), key=lambda test: self.seconds[test])
        before = Counter[str]()  # other parameters of a test that passed seldom tell more
        turns = {}
        for test in order:
            function = test.split("[")[0]
            turns[test] = before[function]
            before[function] += 1
        return sorted(order, key=lambda test: turns[test])


def _is_in(test: str, files: Sequence[str]) -> bool:
    name = Path(test.split("::")[0]).stem
    return any(name.startswith(file) for file in files)


class _Recorder:
    """Notes which lines of the package run in which test."""

    SHARED = "shared"

    def __init__(self) -> None:
        self.now = self.SHARED
        self.hits: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def trace(self, frame: Any, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        self.hits[self.now].add((frame.f_code.co_filename, frame.f_lineno))
        return self.trace

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, None, None]:
        self.now, began = item.nodeid, time.monotonic()
        yield
        self.seconds[item.nodeid] = time.monotonic() - began
        self.now = self.SHARED

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, None, None]:
        before = self.now
        if fixturedef.scope != "function":  # every test that uses it depends on it
            self.now = self.SHARED
        yield
        self.now = before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


class _Chosen:
    """Runs the chosen tests in their order; notes the first that fails."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.order = {test: index for index, test in enumerate(tests)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def measured_reach(files: Sequence[Path], key: str, folder: Path) -> Reach:
    """Run test files unchanged and see which test runs which line; what was stored is read again.

    Args:
        files: The test files.
        key: Of everything else that a measurement depends on.
        folder: Where measurements are stored.

    Raises:
        RuntimeError: If tests fail: a mutant that fails too would prove nothing.
    """
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, set[str] | None]] = defaultdict(dict)
    for file in files:
        content = hashlib.sha256(key.encode() + file.read_bytes()).hexdigest()[:16]
        store = folder / f"reach-{file.stem}-{content}.json"
        if not store.exists():
            logger.info("measuring which lines the tests of %s reach", file.name)
            answer = _forked(lambda file=file: _record(file), None)
            if answer is None or answer["failed"]:
                raise RuntimeError(f"tests fail without a mutant: {answer and answer['failed']}")
            store.write_text(json.dumps(answer), "utf-8")
        stored = json.loads(store.read_text("utf-8"))
        _preload(stored["modules"])
        seconds |= stored["seconds"]
        tests = list(stored["seconds"])
        for path, by_line in stored["lines"].items():
            merged = lines[str(ROOT / path)]
            for line, at in by_line.items():
                known = merged.setdefault(int(line), set())
                if known is not None:
                    merged[int(line)] = None if at is None else known | {tests[i] for i in at}
    return Reach(seconds, lines)


def _record(file: Path) -> dict[str, Any]:
    recorder = _Recorder()
    before = set(sys.modules)
    sys.settrace(recorder.trace)
    pytest.main([*ARGUMENTS, str(file)], plugins=[recorder])
    sys.settrace(None)
    shared = recorder.hits.pop(recorder.SHARED, set())
    index = {test: number for number, test in enumerate(recorder.seconds)}
    lines: dict[str, dict[int, list[int] | None]] = defaultdict(dict)
    for test, hits in recorder.hits.items():
        for path, line in hits - shared:
            known = lines[os.path.relpath(path, ROOT)].setdefault(line, [])
            assert known is not None
            known.append(index[test])
    for path, line in shared:
        lines[os.path.relpath(path, ROOT)][line] = None
    own = ("interp", "tests", "conftest", "test_", "__main__")
    modules = sorted(name for name in set(sys.modules) - before if not name.startswith(own))
    return {"seconds": recorder.seconds, "lines": lines, "modules": modules, "failed": recorder.failed}


def _preload(modules: Sequence[str]) -> None:
    """Import what the tests import, besides the package and themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception:  # a part of a library that is not to be imported by itself
                continue


def run_mutant(path: str, source: str, tests: Sequence[str], seconds: float) -> tuple[str, str]:
    """Run tests with another source in a file's place.

    Args:
        path: The file; it stays as it is.
        source: What the import system reads instead.
        tests: Which tests, in their order.
        seconds: How long they take unchanged.

    Returns:
        ``killed``, ``survived`` or ``timeout``, and the test that failed.
    """
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))

    def work() -> dict[str, Any]:
        chosen = _Chosen(tests)
        with _instead(path, source.encode("utf-8")):
            code = pytest.main([*ARGUMENTS, "-x", *files], plugins=[chosen])
        return {"code": int(code), "failed": chosen.failed}

    answer = _forked(work, SLOWER * seconds + SECONDS)
    if answer is None:
        return "timeout", ""
    if answer["code"] == int(pytest.ExitCode.OK):
        return "survived", ""
    if answer["code"] == int(pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"none of the tests was found: {tests[:3]}")
    return "killed", answer["failed"] or "import"


@contextmanager
def _instead(path: str, source: bytes) -> Iterator[None]:
    """Let a file's source be another; its bytecode is neither read nor written."""
    loader: Any = importlib.machinery.SourceFileLoader
    get_data, path_stats = loader.get_data, loader.path_stats

    def other_data(self: Any, name: str) -> bytes:
        return source if name == path else get_data(self, name)

    def no_stats(self: Any, name: str) -> Any:
        if name == path:
            raise OSError("no bytecode")
        return path_stats(self, name)

    loader.get_data, loader.path_stats = other_data, no_stats
    try:
        yield
    finally:
        loader.get_data, loader.path_stats = get_data, path_stats


def _forked(work: Callable[[], dict[str, Any]], seconds: float | None) -> dict[str, Any] | None:
    """What ``work`` returns in a process of its own; None if it takes too long; an empty answer if it dies."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reading)
            os.setsid()
            silence = os.open(os.environ.get("MUTATION_OUTPUT", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            if seconds is not None:
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 10))
            answer = json.dumps(work()).encode("utf-8")
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    parts = []
    # processor time is limited; the wall clock only in case everything waits
    deadline = None if seconds is None else time.monotonic() + 5 * seconds
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left <= 0 or not select.select([pipe], [], [], left)[0]):
                break
            part = pipe.read(1 << 16)
            if not part:
                break
            parts.append(part)
    timed_out = deadline is not None and time.monotonic() >= deadline
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if timed_out or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return None
    return json.loads(b"".join(parts)) if parts else {"code": 1, "failed": ["the process died"]}
