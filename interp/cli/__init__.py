"""The command line: a thin layer over the library. Heavy imports happen inside the commands, so --help is instant."""

from __future__ import annotations

import logging
import os
import sys

from interp.cli import edit, locate, study  # noqa: F401 - they register their commands
from interp.cli.common import app, fail, messages
from interp.errors import InterpError

__all__ = ["app", "main"]

INTERRUPTED = 130
COMMANDS = ("reproduce", "study", "figure1", "table1", "trace", "attribute", "edit", "evaluate", "facts", "models")
app.registered_commands.sort(
    key=lambda command: COMMANDS.index(command.name or getattr(command.callback, "__name__", ""))
)
"""In the order of ``interp --help``."""


def main() -> None:
    """Entry point: expected errors are one line and exit code 2, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="interp: %(message)s", stream=sys.stderr)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(standalone_mode=False) or 0
    except InterpError as error:
        fail(str(error))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's usage errors have one
            raise
        fail(error.format_message())
    if code == INTERRUPTED:  # typer returns it for Ctrl-C
        messages.print("interrupted: finished work is kept; the same command goes on from there", soft_wrap=True)
    raise SystemExit(code)
