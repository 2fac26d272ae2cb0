"""The notebooks are complete, clean and use the public API alone; ``make notebooks`` and its short form run them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest

import interp

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = ("01_locate", "02_edit", "03_explore", "04_compare")
BOOKS = {name: nbformat.read(FOLDER / f"{name}.ipynb", as_version=4) for name in NAMES}


def test_these_are_all() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_ran_and_none_failed(name: str) -> None:
    nbformat.validate(BOOKS[name])
    cells = [cell for cell in BOOKS[name].cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) - 3
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output


@pytest.mark.parametrize("name", NAMES)
def test_only_public_names(name: str) -> None:
    for cell in BOOKS[name].cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not any(module.startswith("interp.") for module in modules)
                assert not (isinstance(node, ast.ImportFrom) and node.module == "interp")
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), node.attr
                if isinstance(node.value, ast.Name) and node.value.id == "interp":
                    assert node.attr in dir(interp), node.attr
                package = re.fullmatch(r"interp\.([a-z]+)", ast.unparse(node.value))
                if package and package[1] in dir(interp) and package[1] not in interp.__all__:
                    assert node.attr in getattr(interp, package[1]).__all__, ast.unparse(node)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_short_run_takes_less_of_is_set_where_it_is_replaced_and_used_later(name: str) -> None:
    cells = [cell for cell in BOOKS[name].cells if cell.cell_type == "code"]
    replaced = {at: cell.metadata.nbmake["mock"] for at, cell in enumerate(cells) if "nbmake" in cell.metadata}
    assert len(replaced) == 1
    ((at, mock),) = replaced.items()
    for variable in mock:
        assert variable in names(cells[at].source, ast.Store)
        assert any(variable in names(cell.source, ast.Load) for cell in cells[at + 1 :])
        assert not any(variable in names(cell.source, ast.Store) for cell in cells[at + 1 :])


def names(source: str, context: type[ast.expr_context]) -> set[str]:
    """The variables that code sets (``ast.Store``) or reads (``ast.Load``)."""
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return {node.id for node in found if isinstance(node.ctx, context)}


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_and_every_picture_there(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    for cell in BOOKS[name].cells:
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", cell.source):
            assert (FOLDER / picture).is_file(), picture
