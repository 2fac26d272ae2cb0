"""Modules stand on floors: each may import from lower ones only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import interp
import interp.editing

PACKAGE = Path(interp.__file__).parent
# a module or package directly inside of interp: its floor, and its place on that floor
FLOORS = {
    "errors": (0, 0),
    "files": (0, 1),
    "options": (0, 1),
    "quiet": (0, 1),
    "readable": (0, 1),
    "shown": (0, 1),
    "sources": (0, 1),
    "intervals": (0, 1),
    "facts": (0, 1),
    "tokens": (1, 0),
    "embedded": (1, 0),
    "json_records": (1, 0),
    "datasets": (1, 1),
    "case_fields": (1, 1),
    "case_formats": (1, 2),
    "cases": (1, 3),
    "model_config": (1, 0),
    "model_folder": (1, 0),
    "models": (1, 1),
    "results": (1, 2),
    "base_runs": (1, 3),
    "batches": (1, 3),
    "sweep": (2, 0),
    "suffix": (2, 1),
    "generation": (2, 2),
    "corruption": (2, 1),
    "cells": (2, 1),
    "integrated_gradients": (2, 1),
    "run_pairs": (2, 2),
    "restorations": (2, 3),
    "locate": (3, 0),
    "editing": (4, 0),
    "evaluation": (5, 0),
    "runs": (6, 0),
    "skips": (6, 1),
    "study": (6, 2),
    "edit_plan": (6, 3),
    "edit_study": (6, 4),
    "edit_results": (6, 4),
    "plots": (7, 0),
    "display": (7, 1),
    "explorer": (7, 2),
    "cli": (7, 3),
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def imported(path: Path) -> set[str]:
    """What a file imports from the package, anywhere in it, without the leading ``interp.``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("interp.") for name in found if name.split(".")[0] == "interp"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_lower_floors_only(module: str) -> None:
    own = module.split(".")[0]
    others = {name.split(".")[0] for name in imported(MODULES[module])} - {own}
    assert others <= set(FLOORS), "a module that has no floor yet, or a name taken from interp itself"
    assert {name for name in others if FLOORS[name] >= FLOORS[own]} == set()


def test_the_walk_sees_imports() -> None:
    assert {"embedded", "errors.ModelError"} <= imported(MODULES["models"])  # both forms that models.py uses


def test_locators_do_not_import_each_other() -> None:
    locators = {module for module in MODULES if module.startswith("locate.") and not module.endswith("__init__")}
    assert {"locate.attribution", "locate.causal_trace", "locate.class_average"} <= locators
    for module in locators:
        assert {name for name in imported(MODULES[module]) if name.startswith("locate")} == set(), module


def test_editors_do_not_import_each_other() -> None:
    editors = {f"editing.{name}" for name in ("rome", "memit", "pmet", "fine_tuning", "knowledge_neurons")}
    assert editors <= set(MODULES)
    for module in editors:
        found = imported(MODULES[module])
        assert not any(name == other or name.startswith(f"{other}.") for name in found for other in editors), module
        assert not found & {"editing", *(f"editing.{name}" for name in interp.editing.__all__)}, module


def test_import_interp_is_light() -> None:
    heavy = ["torch", "transformers", "transformer_lens", "numpy", "plotly", "matplotlib", "ipywidgets", "anywidget"]
    code = f"import sys, interp; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_results_load_no_drawing_library() -> None:
    """A result that is not shown loads nothing to show it with, and neither does asking for the explorer's settings."""
    code = (
        "import sys, interp; interp.CausalTrace, interp.Attribution, interp.Patch, interp.EditResults, interp.Controls;"
        "print([name for name in ('plotly', 'matplotlib', 'ipywidgets', 'anywidget') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_only_look_upward_is_how_results_show_themselves() -> None:
    names = [module for module, path in MODULES.items() if "import_module" in path.read_text("utf-8")]
    assert names == ["shown"]


@pytest.mark.parametrize("name", interp.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    value = getattr(interp, name)
    assert name in dir(interp)
    if callable(value):
        assert value.__doc__
