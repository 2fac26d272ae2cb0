"""What the commands print: texts of users, files and models as they are, except what would steer the terminal."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from interp.system.readable import UNSAFE, neutral

__all__ = ["fail", "messages", "print_json", "reported", "screen"]

LONGEST = 700
"""Characters of an error or a warning: a few lines, however long the text that is wrong."""


class NeutralConsole(Console):
    """A console that takes no markup, no emoji names and no control characters from the texts that it prints."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every plain text comes through here, those in cells of tables too."""
        return super().render_str(neutral(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """A text with styles that was not made neutral loses its styles, rather than reach the terminal."""
        if isinstance(renderable, Text) and neutral(renderable.plain) != renderable.plain:
            renderable = Text(neutral(renderable.plain))
        return iter(super().render(renderable, options))

    def on_broken_pipe(self) -> None:
        """The reader has gone: ``main`` ends quietly."""
        raise BrokenPipeError


screen = NeutralConsole()
messages = NeutralConsole(stderr=True)


def fail(message: str) -> NoReturn:
    """One line on stderr and exit code 2."""
    messages.print(Text("error:", style="bold red"), _in_a_line(message), soft_wrap=True)
    raise SystemExit(2) from None


def print_json(data: Any) -> None:
    """For scripts: JSON that means the same in any encoding, with control characters escaped.

    JSON has no NaN and no infinity: a number that there is not is null.
    """
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    text = json.dumps(_finite(data), ensure_ascii=not unicode, indent=1, allow_nan=False)
    sys.stdout.write(re.sub(UNSAFE, lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text))
    sys.stdout.write("\n")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


@contextmanager
def reported() -> Iterator[None]:
    """Warnings and log entries as one line each on stderr; the same warning once."""
    seen = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = _in_a_line(str(message))
        if line not in seen:
            seen.add(line)
            messages.print(Text("warning:", style="bold yellow"), line, soft_wrap=True)

    handler, root = _Lines(), logging.getLogger()
    preparing = logging.getLogger("interp.models.embedded")  # tells what it does when that takes long
    level = preparing.level
    preparing.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            from interp.errors import InterpWarning

            warnings.simplefilter("always", InterpWarning)
            warnings.showwarning = show
            yield
    finally:
        root.removeHandler(handler)
        preparing.setLevel(level)


class _Lines(logging.Handler):
    """Log entries as lines."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(f"interp: {_in_a_line(record.getMessage())}", soft_wrap=True)


def _in_a_line(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST - 200]} … {line[-150:]}"
