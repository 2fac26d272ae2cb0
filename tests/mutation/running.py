"""Runs of the tests in forked processes: one that sees which test reaches which line, and one for each mutant.

The parent has imported everything that the package needs, but not the package; so a mutant costs no import of torch.
"""

from __future__ import annotations

import ast
import builtins
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
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
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
QUICK = 0.5  # seconds
NOTE = "_note_that_a_block_runs"

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
        """The tests of some files that run one of the lines: first the quick ones, and each function once."""
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
        return sorted(order, key=lambda test: turns[test] if self.seconds[test] > QUICK else 0)


def _is_in(test: str, files: Sequence[str]) -> bool:
    name = Path(test.split("::")[0]).stem
    return any(name.startswith(file) for file in files)


class _Recorder:
    """Notes which lines of the package run in which test."""

    SHARED = "shared"

    def __init__(self) -> None:
        self.now = self.SHARED
        self.sources: dict[str, bytes] = {}
        self.blocks: list[tuple[str, list[int]]] = []
        self.hits: dict[str, set[int]] = defaultdict(set)
        self.functions: dict[str, list[str]] = defaultdict(list)
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def source(self, path: str, source: bytes) -> bytes:
        """A module's source in which each block of a function notes that it runs."""
        if path not in self.sources:
            tree = ast.parse(source)
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            blocks = {id(block): block for function in functions for block in _blocks(function)}
            for block, lines in [(block, _own_lines(block)) for block in blocks.values()]:
                call = ast.Call(ast.Name(NOTE, ast.Load()), [ast.Constant(len(self.blocks))], [])
                self.blocks.append((path, sorted(lines)))
                has_docstring = isinstance(block[0], ast.Expr) and isinstance(block[0].value, ast.Constant)
                block.insert(1 if has_docstring else 0, ast.Expr(call))
            self.sources[path] = ast.unparse(ast.fix_missing_locations(tree)).encode("utf-8")
        return self.sources[path]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Of a test with many parameters three are run; the others are taken to reach what these do."""
        for item in items:
            self.functions[item.nodeid.split("[")[0]].append(item.nodeid)
        kept = {tests[at] for tests in self.functions.values() for at in (0, len(tests) // 2, -1)}
        items[:] = [item for item in items if item.nodeid in kept]

    def fill_in(self) -> None:
        """Times and reach of the tests that were not run."""
        for tests in self.functions.values():
            run = [test for test in tests if test in self.seconds]
            for test in tests:
                if run and test not in self.seconds:
                    self.seconds[test] = sum(self.seconds[other] for other in run) / len(run)
                    self.hits[test] = set().union(*(self.hits[other] for other in run))

    def note(self, block: int) -> None:
        """What a block calls."""
        self.hits[self.now].add(block)

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


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for inner in ast.walk(node):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(inner, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield block


def _own_lines(block: list[ast.stmt]) -> set[int]:
    """The lines of a block without those of the blocks in it."""
    lines: set[int] = set()
    for statement in block:
        lines |= set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    for statement in block:
        for inner in _blocks(statement):
            lines -= set(range(inner[0].lineno, (inner[-1].end_lineno or inner[-1].lineno) + 1))
    return lines


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


def measured_reach(files: Sequence[Path], paths: Collection[str], key: str, folder: Path) -> Reach:
    """Run test files unchanged and see which test runs which line; what was stored is read again.

    Args:
        files: The test files.
        paths: The files of the package that are looked at.
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
            answer = _forked(lambda file=file: _record(file, paths), None)
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


def _record(file: Path, paths: Collection[str]) -> dict[str, Any]:
    recorder = _Recorder()
    before = set(sys.modules)
    setattr(builtins, NOTE, recorder.note)
    with _instead(lambda path, source: recorder.source(path, source) if path in paths else None):
        pytest.main([*ARGUMENTS, str(file)], plugins=[recorder])
    recorder.fill_in()
    shared = recorder.hits.pop(recorder.SHARED, set())
    index = {test: number for number, test in enumerate(recorder.seconds)}
    lines: dict[str, dict[int, list[int] | None]] = defaultdict(dict)
    for test, hits in [*recorder.hits.items(), (recorder.SHARED, shared)]:
        for path, at in map(recorder.blocks.__getitem__, hits):
            by_line = lines[os.path.relpath(path, ROOT)]
            for line in at:
                known = by_line.setdefault(line, [])
                if test == recorder.SHARED:
                    by_line[line] = None
                elif known is not None and index[test] not in known:
                    known.append(index[test])
    own = ("interp", "benchmarks", "tests", "conftest", "test_", "tokenizer_kinds", "__main__")
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
    if "interp" in sys.modules:
        raise RuntimeError("the package was imported before its mutants: they would not be seen")


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
        with _instead(lambda name, _: source.encode("utf-8") if name == path else None):
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
def _instead(other: Callable[[str, bytes], bytes | None]) -> Iterator[None]:
    """Let files' sources be others; their bytecode is neither read nor written."""
    loader: Any = importlib.machinery.SourceFileLoader
    get_data, path_stats = loader.get_data, loader.path_stats

    def other_data(self: Any, name: str) -> bytes:
        data = get_data(self, name)
        return (other(name, data) or data) if name.startswith(PACKAGE) and name.endswith(".py") else data

    def no_stats(self: Any, name: str) -> Any:
        if name.startswith(PACKAGE) and name.endswith(".py") and other(name, get_data(self, name)) is not None:
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
            signal.signal(signal.SIGINT, signal.default_int_handler)  # not so in a run in the background
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
    deadline = None if seconds is None else time.monotonic() + 12 * seconds
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
