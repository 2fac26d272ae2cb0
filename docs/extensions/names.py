"""The reference: every public name stands on one page and has a docstring, or the build fails.

A page says which packages it is about (``<!-- names: locate engine -->``); what it lists follows from the packages'
own ``__all__``. Names are found by reading the sources.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "editing", "evaluation", "explorer", "facts", "locate", "models", "patches", "plots", "report", "results", "study",
)  # fmt: skip
"""Whose ``__all__`` is public, beside that of ``interp`` itself and of ``interp.errors``."""
MARK = re.compile(r"^<!-- names: ([a-z ]+) -->$", re.MULTILINE)


class NotListedError(Exception):
    """A public name that is not where its package says, or not in the reference."""


class Public(NamedTuple):
    """A public name: as one writes it, the module that defines it, and what it is called there."""

    written: str
    module: str
    own: str

    @property
    def package(self) -> str:
        """What stands directly inside of ``interp``."""
        return self.module.split(".")[1]

    @property
    def kind(self) -> str:
        """``function``, ``class`` or ``data``."""
        return {ast.FunctionDef: "function", ast.ClassDef: "class"}.get(type(self._statement()[0]), "data")

    @property
    def docstring(self) -> str:
        """What it says of itself: its docstring, or for a value the string after it."""
        node, after = self._statement()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            return ast.get_docstring(node) or ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return str(after.value.value)
        return ""

    def _statement(self) -> tuple[ast.stmt, ast.stmt | None]:
        statements = body(self.module)
        at = next(index for index, node in enumerate(statements) if self.own in defined(node))
        return statements[at], statements[at + 1] if at + 1 < len(statements) else None


@cache
def body(module: str) -> list[ast.stmt]:
    """The statements of a module; of a package those of its stub, if it has one."""
    place = ROOT.joinpath(*module.split("."))
    candidates = (place / "__init__.pyi", place / "__init__.py", place.with_suffix(".py"))
    return ast.parse(next(path for path in candidates if path.is_file()).read_text("utf-8")).body


def defined(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def listed(module: str) -> list[str]:
    """A module's ``__all__``."""
    for node in body(module):
        if isinstance(node, ast.Assign) and defined(node) == ["__all__"]:
            return [str(name) for name in ast.literal_eval(node.value)]
    raise NotListedError(f"{module} has no __all__")


def home(module: str, name: str) -> tuple[str, str]:
    """The module that defines a name, and how it is called there."""
    for node in body(module):
        if name in defined(node):
            return module, name
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return home(f"{module}.{node.module}" if node.level else str(node.module), alias.name)
    raise NotListedError(f"{module}.{name} is public and defined nowhere")


def public() -> Iterator[Public]:
    """Every public name once, as shortly as it can be written."""
    seen = set()
    for module in ("interp", *(f"interp.{package}" for package in PACKAGES), "interp.errors"):
        for name in listed(module):
            if (place := home(module, name)) not in seen:
                seen.add(place)
                yield Public(f"{module}.{name}", *place)


def pages() -> dict[str, list[str]]:
    """The pages of the reference, and the packages that each is about."""
    found = {}
    for path in sorted((ROOT / "docs" / "reference").glob("*.md")):
        marks = MARK.findall(path.read_text("utf-8"))
        found[path.stem] = [package for mark in marks for package in mark.split()]
    return found


def check() -> None:
    """Refuse public names that say nothing of themselves, and those that no page or more than one shows.

    Raises:
        NotListedError: With their names.
    """
    shown = [package for packages in pages().values() for package in packages]
    silent = [name.written for name in public() if not name.docstring]
    if silent:
        raise NotListedError(f"public names without a docstring: {', '.join(silent)}")
    astray = [name.written for name in public() if shown.count(name.package) != 1]
    if astray:
        raise NotListedError(f"public names that not exactly one page of the reference shows: {', '.join(astray)}")


def entry(name: Public) -> str:
    """The directive of a name."""
    if name.kind == "data":
        text = textwrap.indent(name.docstring, "   ")
        return f".. py:data:: {name.written}\n\n{text}\n"
    members = "   :members:\n" if name.kind == "class" else ""
    return f".. auto{name.kind}:: {name.written}\n{members}"


def entries(packages: list[str]) -> str:
    """The reference of some packages: first what ``import interp`` gives, then the rest of each."""
    parts = []
    for heading, direct in (("What `import interp` gives", True), ("In the packages", False)):
        names = [name for name in public() if name.package in packages and (name.written.count(".") == 1) is direct]
        if names:
            listing = "\n".join(map(entry, names))
            parts.append(f"## {heading}\n\n```{{eval-rst}}\n{listing}\n```")
    return "\n\n".join(parts)


def fill(app: Any, document: str, text: list[str]) -> None:
    """Put the names in where a page has a mark."""
    text[0] = MARK.sub(lambda found: entries(found[1].split()), text[0])


def setup(app: Any) -> dict[str, bool]:
    """Registered with Sphinx."""
    from sphinx.errors import ExtensionError

    try:
        check()
    except NotListedError as error:
        raise ExtensionError(str(error)) from error
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
