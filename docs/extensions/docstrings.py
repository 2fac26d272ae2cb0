"""Docstrings as the reference reads them: ``a, b: text`` is an entry for each of both."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SHARED = re.compile(r"^( *)(\*{0,2}\w+(?:, \*{0,2}\w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
SECTIONS = {"Args", "Raises", "Warns", "Returns"}


def one_each(found: re.Match[str]) -> str:
    """An entry for each of several names; a line like ``Args, Raises: See ...`` is prose and stays."""
    indent, names, text = found.groups()
    if set(names.split(", ")) <= SECTIONS:
        return found[0]
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """In place, before napoleon reads the sections."""
    lines[:] = SHARED.sub(one_each, "\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registered with Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True}
