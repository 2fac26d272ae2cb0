"""A whole study of the tiny model in a few seconds, in a process of its own that can be killed."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformer_lens import HookedTransformer

import interp.study.work
from interp.editing import Corpus
from interp.plots import figure1_csv, scores_by_layer_csv, table1_csv, table1_markdown
from interp.results.record import write_atomically
from interp.study.edited import read_edit_results
from interp.study.editing import edit_cases
from interp.study.located import class_averages, selection
from interp.study.locating import locate_facts
from interp.study.settings import EditStudySettings, LocateSettings
from tests.fuzz.samples import STUDY_CASES, known


def run_study(model: HookedTransformer, folder: Path, samples: int = 2) -> None:
    """Everything that ``interp study`` does but the pictures."""
    settings = LocateSettings(limit=1, samples=samples, window=2, steps=2, noise=0.3)
    run = locate_facts(model, known(), folder, settings)
    averages = class_averages(run)
    corpus = Corpus(tokens=512, row=32)
    edits = edit_cases(
        model,
        STUDY_CASES,
        averages,
        folder / "edits",
        EditStudySettings(stride=5, context_kinds=((2, 1),), corpus=corpus, fluency_tokens=4, limit=2),
        noise=selection(run).noise,
    )
    found = read_edit_results(edits, averages)
    written = {
        "figure1.csv": figure1_csv(averages),
        "table1.md": table1_markdown(found.rows, found.comparisons),
        "table1.csv": table1_csv(found.rows, found.comparisons),
        "edit-layers.csv": scores_by_layer_csv(found.by_layer, found.strengths),
    }
    for name, text in written.items():
        write_atomically(folder / "figures" / name, text.encode())


def started(
    model: HookedTransformer,
    folder: Path,
    cache: Path,
    *,
    die_at_write: tuple[int, int] | None = None,
    log: Path | None = None,
    **options: Any,
) -> int:
    """Start the study in a process forked from this one, so that a kill lands in the study and not in imports.

    Returns:
        The process's id; it exits with 0 when it is done, with 1 after an error, which its log holds.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ["XDG_CACHE_HOME"] = str(cache)
        os.dup2(os.open(log or log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interp.study.work.GROUP, interp.study.work.BUNDLE = 2, 5
        at = interp.study.work.config_at
        interp.study.work.config_at = lambda *args: replace(at(*args), steps=2)
        if die_at_write:
            _die_at_write(*die_at_write)
        run_study(model, folder, **options)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def log_of(folder: Path) -> Path:
    """What the process said."""
    return folder.parent / f"{folder.name}.log"


def _die_at_write(n: int, sig: int) -> None:
    """Send this process a signal at its n-th step of writing a file."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == n:
            os.kill(os.getpid(), sig)
            time.sleep(0.05)

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            step()
            found = call(*args, **options)
            step()
            return found

        return wrapper

    tempfile.mkstemp, os.fsync = watched(tempfile.mkstemp), watched(os.fsync)
    os.chmod, os.replace = watched(os.chmod), watched(os.replace)


def waited(pid: int, seconds: float) -> int | None:
    """The exit status; None once it has used so much processor time."""
    while _processor_time(pid) < seconds:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    return None


def _processor_time(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the hidden ones."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
