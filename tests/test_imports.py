"""Modules stand on floors: each may import from lower ones only."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import interp
import interp.editing
from interp.locate.methods import LOCATORS

PACKAGE = Path(interp.__file__).parent
FLOORS = [
    "errors",
    "options",
    "system",
    "facts",
    "statistics",
    "models",
    "results",
    "engine",
    "locate",
    "patches",
    "editing",
    "evaluation",
    "study",
    "plots",
    "report",
    "display",
    "explorer",
    "cli",
]
"""What stands directly inside of interp, bottom up: each may import from those before it, and from itself."""
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


def test_the_list_of_floors_is_whole() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_lower_floors_only(module: str) -> None:
    own = module.split(".")[0]
    others = {name.split(".")[0] for name in imported(MODULES[module])} - {own}
    assert others <= set(FLOORS), "a module that has no floor, or a name taken from interp itself"
    assert {name for name in others if FLOORS.index(name) > FLOORS.index(own)} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {found for name in imported(path) if (found := module_of(name))} for module, path in MODULES.items()
    }
    circle = TopologicalSorter({module: found - {module} for module, found in graph.items()})
    circle.prepare()  # raises CycleError, which names the circle


def module_of(name: str) -> str | None:
    """The module in which a name stands that is imported from the package; a package's own file is its ``__init__``."""
    for stem in (name, name.rpartition(".")[0]):
        for module in (stem, f"{stem}.__init__"):
            if module in MODULES:
                return module
    return None


def test_the_walk_sees_imports() -> None:
    assert {"models.embedded", "errors.ModelError"} <= imported(MODULES["models.load"])  # both forms that it uses
    assert module_of("models.embedded") == "models.embedded"
    assert module_of("errors.ModelError") == "errors"
    assert module_of("editing.Corpus") == "editing.__init__"


def test_locators_do_not_import_each_other() -> None:
    locators = {
        module for module in MODULES if module.startswith("locate.methods.") and not module.endswith("__init__")
    }
    assert {"locate.methods.attribution", "locate.methods.causal_trace"} <= locators
    methods = {f"locate.methods.{entry.partition('.')[0]}" for entry in LOCATORS.values()}
    for module in locators:
        (own,) = [method for method in methods if module.startswith(method)]  # a method may have files beside it
        found = {name for name in imported(MODULES[module]) if name.startswith("locate") and not name.startswith(own)}
        assert {name.rpartition(".")[0] for name in found} <= {"locate.method"}, module


def test_editors_do_not_import_each_other() -> None:
    editors = {f"editing.methods.{name}" for name in ("rome", "memit", "pmet", "fine_tuning", "knowledge_neurons")}
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
        "import sys, interp;"
        "interp.locate.CausalTrace, interp.locate.Attribution, interp.Patch, interp.study.EditResults;"
        "interp.explorer.Controls;"
        "print([name for name in ('plotly', 'matplotlib', 'ipywidgets', 'anywidget') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_only_tables_and_how_results_show_themselves_load_modules_by_name() -> None:
    """The walk does not see such imports; a table loads files of its own package, showing is the one look upward."""
    names = [module for module, path in MODULES.items() if "import_module" in path.read_text("utf-8")]
    assert names == ["results.shown", "system.tables"]


def test_the_face_is_small() -> None:
    assert 40 < len(interp.__all__) < 56
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages & set(dir(interp)) == packages - {"system", "statistics", "display", "cli"}
    assert not packages & set(interp.__all__)


@pytest.mark.parametrize("name", interp.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    value = getattr(interp, name)
    assert name in dir(interp)
    if callable(value):
        assert value.__doc__


def test_packages_are_reached_through_the_face() -> None:
    code = "import interp; print(interp.locate.CausalTrace.__name__, interp.plots.heatmap.__name__, interp.facts.Fact)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "CausalTrace heatmap <class 'interp.facts.records.Fact'>\n"


@pytest.mark.parametrize("old", interp.OLD_NAMES)
def test_an_old_name_leads_to_a_new_one(old: str) -> None:
    new = interp.OLD_NAMES[old]
    with pytest.raises(AttributeError, match=f"^interp.{old} is now {new}$"):
        getattr(interp, old)
    assert not hasattr(interp, old)
    package, _, name = new.rpartition(".")
    assert name in importlib.import_module(package).__all__
    value = eval(new, {"interp": interp})
    assert value.__doc__


def test_an_old_name_in_an_import_says_the_new_one() -> None:
    """In a process of its own: the type checks of the tests stand between a statement and what it calls."""
    code = "from interp import Fact, RomeConfig"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: interp.RomeConfig is now interp.editing.RomeConfig"


def test_a_name_that_never_was() -> None:
    assert not hasattr(interp, "rome_config")
    code = "from interp import rome_config"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("ImportError: cannot import name 'rome_config' from 'interp'")
