"""The command line: a thin layer over the library. Heavy imports happen inside the commands, so --help is instant."""

from __future__ import annotations

import os
import sys
from typing import Any

from interp.cli import (  # noqa: F401 - they register
    attribute,
    edit,
    figure1,
    locate,
    models,
    patch,
    report,
    shards,
    study,
    trace,
    where,
)
from interp.cli.common import app
from interp.cli.console import fail, reported
from interp.cli.ending import ended_by_signals, run
from interp.cli.sharing import with_addresses

__all__ = ["app", "main"]

COMMANDS = (
    "reproduce", "study", "where", "figure1", "table1", "report", "merge", "locate", "trace", "attribute", "edit",
    "evaluate",
    "facts", "models",
)  # fmt: skip
"""In the order of ``interp --help``; others come last."""


def _place(command: Any) -> int:
    name = command.name or command.callback.__name__
    return COMMANDS.index(name) if name in COMMANDS else len(COMMANDS)


app.registered_commands.sort(key=_place)

QUIET = {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""The libraries' warnings and bars that nobody could read; the commands have their own."""

SPINS = "1000"
"""How often a waiting thread looks for work before it yields; 300,000 times by default."""


def main() -> None:
    """Entry point: what goes wrong is one line and exit code 2, never a traceback (:mod:`interp.cli.ending`)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # ASCII terminals, lone surrogates
    for name, value in (
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TQDM_DISABLE", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ):
        os.environ.setdefault(name, value)  # the libraries' bars have no label; ours have
    let_others_work()
    with reported(), ended_by_signals():
        code = run(_command)
    raise SystemExit(code)


def let_others_work() -> None:
    """Threads that wait for work give their core away after some microseconds instead of spinning on it.

    On cores that others use too, spinning makes a trace several times slower; on quiet ones yielding costs nothing. The
    OpenMP of PyTorch on Linux reads the variable when it is loaded, so this comes before torch. What the user has set,
    this variable or the general ``OMP_WAIT_POLICY``, stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _command() -> int:
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            fail(f"the argument {argument!a} is not valid UTF-8")
    try:
        return int(app(args=with_addresses(sys.argv[1:]), standalone_mode=False) or 0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's usage errors have one
            raise
        fail(error.format_message())
