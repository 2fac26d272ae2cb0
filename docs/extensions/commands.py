"""The reference of the command line, from the program itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

MARK = "<!-- commands -->"


def cell(text: Any) -> str:
    """Text in a table."""
    return " ".join(str(text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and those below it, in the order of ``--help``."""
    if path[1:] and not getattr(command, "commands", None):
        yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


def option(parameter: Any) -> str:
    """One row."""
    argument = parameter.param_type_name == "argument"
    name = parameter.name.upper() if argument else ", ".join(parameter.opts)
    default = "required" if parameter.required else parameter.default
    shown = "" if default is None or default is False else f"`{default}`" if not parameter.required else default
    return f"| `{name}` | {cell(parameter.help)} | {cell(shown)} |"


def reference() -> str:
    """Every command with its arguments and options."""
    from interp.cli import app

    parts = []
    for path, command in commands(typer.main.get_command(app), ("interp",)):
        rows = [option(parameter) for parameter in command.params if parameter.name != "help"]
        arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
        usage = " ".join((*path, *arguments, "[OPTIONS]"))
        table = "\n".join(["| | | default |", "| --- | --- | --- |", *rows])
        parts.append(f"## {' '.join(path)}\n\n```\n{usage}\n```\n\n{command.help}\n\n{table}\n")
    return "\n".join(parts)


def fill(app: Any, document: str, text: list[str]) -> None:
    """Put the commands in."""
    if MARK in text[0]:
        text[0] = text[0].replace(MARK, reference())


def setup(app: Any) -> dict[str, bool]:
    """Registered with Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
