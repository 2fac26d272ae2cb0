"""How a command ends: what goes wrong outside of the program is one line, and a signal leaves finished work behind.

Exit codes: 2 for an error that is said in a line, 75 for a shard that has to wait for others, 128 + n for signal n
(130: Ctrl-C, 143: SIGTERM, 129: SIGHUP; 141: the reader of a pipe has gone, without a word).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from interp.cli.console import fail, messages
from interp.errors import InterpError

__all__ = ["Ended", "ended_by_signals", "keeping", "run"]

BROKEN_PIPE = 141
SIGNALS = ("SIGTERM", "SIGHUP")


class Ended(BaseException):
    """A signal that ends the program, and the folder in which finished work is kept."""

    def __init__(self, number: int, kept: Path | None = None) -> None:
        super().__init__(number, kept)
        self.number, self.kept = number, kept


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Work whose finished units are in a folder: who interrupts it is told so."""
    try:
        yield
    except KeyboardInterrupt:
        raise Ended(signal.SIGINT, folder) from None
    except Ended as ended:
        raise Ended(ended.number, ended.kept or folder) from None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program the way Ctrl-C does; a second one ends it at once.

    A signal that is ignored (as under nohup) stays so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended(number)

    before: dict[int, Any] = {}
    try:
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: Callable[[], int]) -> int:
    """Run a command and flush what it printed; its exit code.

    Raises:
        SystemExit: With code 2, after a line that says what went wrong.
    """
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _interrupted(Ended(signal.SIGINT))
    except Ended as ended:
        return _interrupted(ended)
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except (InterpError, OSError, MemoryError, RecursionError, UnicodeError, RuntimeError) as error:
        line = line_of(error)
        if line is None:
            raise
        _drop_output()
        fail(line)
    if code == 128 + signal.SIGINT:  # typer's, for Ctrl-C
        return _interrupted(Ended(signal.SIGINT))
    return code


def line_of(error: BaseException) -> str | None:
    """What went wrong, in a line; ``None`` for a mistake of the program itself."""
    if isinstance(error, InterpError):
        return str(error)
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        return "out of memory: take fewer samples, steps, facts or tokens, a shorter prompt or a smaller model"
    if isinstance(error, RecursionError):
        return "a file or an argument is nested too deeply to be read"
    if isinstance(error, UnicodeError):
        return f"a text is not valid Unicode: {error}"
    return None


def _of_the_system(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if names:
        return f"{' -> '.join(names)}: {reason}"
    if error.errno == errno.ENOSPC:
        return f"standard output or a file cannot be written: {reason}"
    return reason


def _interrupted(ended: Ended) -> int:
    with suppress(OSError):
        if ended.kept is not None and ended.kept.exists():
            said = f"what is finished is kept in {ended.kept}; the same command goes on"
        else:
            said = "nothing was written; the same command starts again"
        messages.print(f"interrupted; {said}", soft_wrap=True)
    _drop_output()
    return 128 + ended.number


def _drop_output() -> None:
    """What cannot be printed is not tried again when the interpreter ends, which would print a traceback."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError, AttributeError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)
