"""Nothing is so long that it is two things: functions, files, lists of arguments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import interp

PACKAGE = Path(interp.__file__).parent
FILES = {
    path.relative_to(PACKAGE).as_posix(): path
    for path in sorted(PACKAGE.rglob("*"))
    if path.suffix in (".py", ".pyi", ".js", ".css")
}
PYTHON = [name for name in FILES if name.endswith(".py")]
SCRIPTS = [name for name in FILES if name.endswith(".js")]
FILE_LINES, FUNCTION_LINES, SCRIPT_FUNCTION_LINES, ARGUMENTS = 400, 60, 80, 9

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> Iterator[Function]:
    """All of them, also methods and those inside of others."""
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def is_command(function: Function) -> bool:
    """Whether it is called from the command line: its signature is the list of its options."""
    return any(ast.unparse(decorator).endswith(".command()") for decorator in function.decorator_list)


def lines(function: Function) -> int:
    """From ``def`` to the end without the docstring; a command without its signature."""
    assert function.end_lineno is not None
    first = function.body[0]
    assert first.end_lineno is not None
    documented = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    start = first.lineno if is_command(function) else function.lineno
    return function.end_lineno - start + 1 - documented


def arguments(function: Function) -> int:
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in named if argument.arg not in ("self", "cls")])


@pytest.mark.parametrize("name", FILES)
def test_files_are_short(name: str) -> None:
    assert len(FILES[name].read_text("utf-8").splitlines()) <= FILE_LINES


@pytest.mark.parametrize("name", PYTHON)
def test_functions_are_short(name: str) -> None:
    found = [(each.name, lines(each)) for each in functions(FILES[name].read_text("utf-8"))]
    assert [(function, n) for function, n in found if n > FUNCTION_LINES] == []


@pytest.mark.parametrize("name", PYTHON)
def test_many_arguments_are_a_record(name: str) -> None:
    """Only what users call takes more: commands, and the functions that have a name in the package itself."""
    inner = [each for each in functions(FILES[name].read_text("utf-8")) if not is_command(each)]
    found = [(each.name, arguments(each)) for each in inner if each.name not in interp.__all__]
    assert [(function, n) for function, n in found if n > ARGUMENTS] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_functions_of_the_page_are_short(name: str) -> None:
    texts = re.findall(r"^function \w+.*?^}$", FILES[name].read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert texts
    found = [(text.split("(")[0], text.count("\n") + 1) for text in texts]
    assert [(function, n) for function, n in found if n > SCRIPT_FUNCTION_LINES] == []


def test_what_is_counted() -> None:
    source = '''
class Holder:
    def method(self, a, /, b, *rest, c, **more):
        """One line."""
        def inner():
            return 1
        return inner()

@app.command()
def command(
    a,
    b,
):
    """Two
    lines."""
    return a
'''
    found = {each.name: (lines(each), arguments(each), is_command(each)) for each in functions(source)}
    assert found == {"method": (4, 3, False), "inner": (2, 0, False), "command": (1, 2, True)}
    assert {"explorer/explorer.js", "explorer/explorer.css", "__init__.pyi", "locate/methods/causal_trace.py"} <= set(
        FILES
    )
