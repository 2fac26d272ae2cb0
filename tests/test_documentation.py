"""What is written about the code is true of it: names, commands, links, and the ways that a fact and a case go."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import nbformat
import pytest
import typer.main
from matplotlib.figure import Figure

import interp
from interp.cli import app
from tests.test_cli import CASES, MODEL, Call, cache, call  # noqa: F401
from tests.test_imports import FLOORS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
OWN = sorted(path for path in DOCS.rglob("*.md") if path.parent.name not in ("notebooks", "pages"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *OWN]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(path.read_text("utf-8")) if language in languages]


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of docs/extensions by its name."""
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))
    return importlib.import_module


# names


def test_every_public_name_says_what_it_is_and_stands_on_one_page(extensions: Any) -> None:
    extensions("names").check()


@pytest.mark.parametrize(
    ("page", "what"),
    [("# Locate\n", "not exactly one page"), ("<!-- names: locate engine plots -->\n", "not exactly one page")],
)
def test_a_name_on_no_page_or_on_two_is_refused(
    extensions: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str, what: str
) -> None:
    names = extensions("names")
    shown = {**names.pages(), "locate": names.MARK.findall(page)[0].split() if "<!--" in page else []}
    monkeypatch.setattr(names, "pages", lambda: shown)
    with pytest.raises(names.NotListedError, match=what):
        names.check()


def test_a_name_without_a_docstring_is_refused(extensions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = extensions("names")
    silent = ast.parse('__all__ = ["f"]\ndef f():\n    pass')
    real = names.body
    monkeypatch.setattr(names, "body", lambda module: silent.body if module == "interp.errors" else real(module))
    monkeypatch.setattr(names, "public", lambda: iter([names.Public("interp.errors.f", "interp.errors", "f")]))
    with pytest.raises(names.NotListedError, match=r"without a docstring: interp\.errors\.f"):
        names.check()


def test_the_reference_has_every_public_name(extensions: Any) -> None:
    names = extensions("names")
    text = "\n".join(names.entries(packages) for packages in names.pages().values())
    written = re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", text, re.MULTILINE)
    assert {f"interp.{name}" for name in interp.__all__} <= set(written)
    assert len(written) == len(set(written))


# examples


def chain(node: ast.expr) -> list[str] | None:
    """``interp.plots.heatmap_html`` as its parts, if it begins at the package."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return parts[::-1] if parts and isinstance(node, ast.Name) and node.id == "interp" else None


def looked_up(parts: list[str]) -> Any:
    found: Any = interp
    for part in parts:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_examples_use_names_and_arguments_that_exist(path: Path) -> None:
    for code in blocks(path, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and (parts := chain(node)):
                assert looked_up(parts) is not None, ".".join(parts)
            if isinstance(node, ast.Call) and (parts := chain(node.func)):
                arguments = inspect.signature(looked_up(parts)).parameters
                assert {word.arg for word in node.keywords} <= set(arguments), parts


def test_names_in_running_text_exist() -> None:
    for path in TEXTS:
        for name in re.findall(r"`interp\.([\w.]+)[`(]", path.read_text("utf-8")):
            assert looked_up(name.split(".")) is not None, f"{named(path)}: interp.{name}"


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        below = getattr(command, "commands", None)
        yield from commands(command, (*path, name)) if below else [((*path, name), command)]


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_examples_use_commands_and_options_that_exist(path: Path) -> None:
    for line in "\n".join(blocks(path, "")).splitlines():
        typed = re.sub(r'"[^"]*"', "TEXT", line.split("#")[0]).split()
        if not typed or typed[0] != "interp" or typed[1].isupper() or typed[1].startswith("-"):
            continue
        command = COMMANDS.get((typed[1],)) or COMMANDS[typed[1], typed[2]]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in typed if word.startswith("--")} <= known, line


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_make_targets_exist(path: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([\w-]+)", path.read_text("utf-8"), re.MULTILINE):
        assert target in targets, target


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text("utf-8")):
        if not re.match(r"https?:|mailto:|#", link):
            assert (path.parent / link.split("#")[0]).exists(), link


def test_the_tests_of_each_floor_are_there() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("| floor | files")[1].split("\n\n")[0]
    for row in re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)[1:]:
        for name in re.findall(r"[a-z_]+", row.replace("in Chromium", "")):
            assert (ROOT / "tests" / f"test_{name}.py").is_file(), name


def test_the_command_line_reference_is_whole(extensions: Any) -> None:
    text = extensions("commands").reference()
    for path, command in COMMANDS.items():
        section = text.split(f"## interp {' '.join(path)}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert f"`{', '.join(parameter.opts)}`" in section, path


# pages that stand elsewhere


def test_every_notebook_becomes_a_page_without_formulas_to_set(extensions: Any) -> None:
    pages = extensions("notebook_pages")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = pages.page(path)
        assert text.startswith("# ")
        assert all(f"]({name})" in text for name in pictures)
        assert "$" not in re.sub(r"````.*?````|```.*?```", "", text, flags=re.DOTALL)
    printed = [nbformat.v4.new_output("stream", text=text) for text in ("a\n", "b\n")]
    (one,) = pages.joined(printed)
    assert pages.output(one, {}, "") == "````text\na\nb\n````"
    assert pages.formula(r"\frac{w_i}{n} \sum_{k=1}^{n}") == "wᵢ/n Σₖ₌₁ⁿ"
    with pytest.raises(ValueError, match="no plain form"):
        pages.formula(r"\sqrt{2}")


def test_links_lead_to_pages_of_what_stands_elsewhere(extensions: Any) -> None:
    elsewhere = extensions("elsewhere")
    here = DOCS / "how-to" / "facts.md"
    text = (
        "[a](../../notebooks/01_locate.ipynb) [b](../../benchmarks/README.md#x) ![c](../../figures/figure1.png) [d](x)"
    )
    assert elsewhere.relinked(text, here, here) == (
        "[a](../notebooks/01_locate.md) [b](../pages/benchmarks.md#x) ![c](../../figures/figure1.png) [d](x)"
    )
    moved = elsewhere.relinked("[a](coverage.py)", ROOT / "benchmarks" / "README.md", DOCS / "pages" / "benchmarks.md")
    assert moved == "[a](../../benchmarks/coverage.py)"


# the package and its papers


def test_versions_agree() -> None:
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    cited = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert version == cited
    assert f"## [{version[0]}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 95


# the floors, and who passes where


def test_the_floors_are_those_of_the_code() -> None:
    table = ARCHITECTURE.read_text("utf-8").split("## Floors")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == FLOORS


def walk(name: str) -> list[str]:
    text = ARCHITECTURE.read_text("utf-8").split(f"<!-- walk: {name} -->")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `(interp/[\w/]+\.py)`: \S", text, re.MULTILINE)


@contextmanager
def entered() -> Iterator[list[str]]:
    """The files of the package in the order in which a function of each is first called."""
    for module in pkgutil.walk_packages(interp.__path__, "interp."):
        importlib.import_module(module.name)  # beforehand: what a table calls as it is loaded is no step of the way
    package = f"{ROOT / 'interp'}/"
    found: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code.co_filename.startswith(package):
            found.setdefault(frame.f_code.co_filename)

    order: list[str] = []
    before = sys.gettrace()
    sys.settrace(note)  # hears of calls alone, as it gives no function to hear of lines
    try:
        yield order
    finally:
        sys.settrace(before)
        order += [Path(name).relative_to(ROOT).as_posix() for name in found]


def check_walk(name: str, order: list[str]) -> None:
    written = walk(name)
    assert len(written) >= 15
    assert len(set(written)) == len(written), "a file stands twice"
    missed = [path for path in written if path not in order]
    assert not missed, f"not entered: {missed}; entered were {order}"
    assert written == [path for path in order if path in written], f"entered in another order: {order}"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn: which files they are made by does not depend on it, and it takes seconds."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, target, **options: None)


@pytest.mark.usefixtures("undrawn")
def test_a_fact_goes_the_way_that_is_written_down(call: Call) -> None:
    prompt = "The Eiffel Tower is located in the city of"
    with entered() as order:
        done = call("trace", prompt, "--subject", "Eiffel Tower", "--samples", "1", "--state", "mlp", *MODEL)
    assert done.code == 0, done.err
    check_walk("trace", order)


@pytest.mark.usefixtures("undrawn")
def test_an_edit_case_goes_the_way_that_is_written_down(call: Call, tmp_path: Path) -> None:
    fact = {name: CASES[0][name] for name in ("template", "subject", "target")}
    (tmp_path / "facts.json").write_text(json.dumps([fact]), "utf-8")
    (tmp_path / "cases.json").write_text(json.dumps(CASES[:1]), "utf-8")
    files = ("--facts", tmp_path / "facts.json", "--cases", tmp_path / "cases.json")
    small = ("--limit", "1", "--case-limit", "1", "--stride", "6", "--corpus-tokens", "512", "--fluency-tokens", "1")
    with entered() as order:
        done = call("study", *MODEL, *files, *small)
    assert done.code == 0, done.err
    check_walk("study", order)
