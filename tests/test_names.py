"""A method's name stands in its own file, in its line of the table, in tests and in documentation: nowhere else.

Whatever else knows a method by its name would have to be changed for the next one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import interp
from interp.editing.methods import EDITORS, editor_named
from interp.engine.cells import STATES
from interp.evaluation.measures import MEASURES
from interp.locate.methods import LOCATORS
from interp.models.families import FAMILIES

PACKAGE = Path(interp.__file__).parent

OF_THE_PAPER = {"study/paper.py", "plots/paper_table.py"}
"""What the paper located, edited and printed: data."""


@dataclass(frozen=True)
class Kind:
    """A kind of method.

    Args:
        home: Where each has its file, and all have their lines.
        names: As one asks for them.
        words: What else they are called.
        elsewhere: Files that may name them, each with its reason.
    """

    home: str
    names: frozenset[str]
    words: frozenset[str]
    elsewhere: frozenset[str]


KINDS = {
    "editors": Kind(
        "editing/methods/",
        frozenset(EDITORS),
        frozenset(word for name in EDITORS for word in (editor_named(name).title, editor_named(name).config.__name__)),
        frozenset({"__init__.py"}),  # where names that moved are now
    ),
    "locators": Kind(
        "locate/methods/",
        frozenset(LOCATORS) - set(STATES),  # a state of a block is more than what tracing restores
        frozenset({"CausalTrace", "Attribution", "causal_trace"}),
        frozenset({
            "__init__.py",
            "cli/trace.py", "cli/attribute.py",  # commands of one locator each, with its own options
            "locate/refined.py", # made of attribution scores
        }),
    ),
    "families": Kind(
        "models/families/",
        frozenset(FAMILIES),
        frozenset(),
        frozenset(),
    ),
    "measures": Kind(
        "evaluation/measures/",
        frozenset(MEASURES) - {"score", "fluency"},  # neurons have scores, and texts a fluency
        frozenset(),
        frozenset({
            "facts/case_formats.py",  # fields of cases
            "evaluation/case_evaluation.py",  # fields of records, and what an edit that took is
            "plots/scores_by_layer.py",  # draws the score's parts
        }),
    ),
}  # fmt: skip


def said(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a file and all that it imports, with the line; docstrings are documentation."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value
        elif isinstance(node, ast.alias):
            yield node.lineno, node.name


def named(text: str, kind: Kind) -> bool:
    """Whether a text is a method's name, or has what else it is called as a word."""
    return text in kind.names or any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) for word in kind.words)


@pytest.mark.parametrize("kind", KINDS)
def test_names_stand_nowhere_else(kind: str) -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(KINDS[kind].home) or name in OF_THE_PAPER | KINDS[kind].elsewhere:
            continue
        found += [f"{name}:{line}: {text[:60]!r}" for line, text in said(path) if named(text, KINDS[kind])]
    assert found == []


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_may_name_them_do(kind: str) -> None:
    """An exception that nothing needs any more is none."""
    for name in KINDS[kind].elsewhere:
        assert any(named(text, KINDS[kind]) for _, text in said(PACKAGE / name)), name
