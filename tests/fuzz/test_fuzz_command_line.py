"""Any command line: what was asked for and exit code 0, or one line that says what is wrong and exit code 2."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp
import interp.cli
import interp.models.load
from interp.errors import InterpWarning
from interp.models.weights import weights_hash
from tests.conftest import GOLDEN
from tests.fuzz.hostile import TEXTS
from tests.fuzz.samples import CASES, CONTEXTS, FACT, TO_ROME
from tests.fuzz.trials import fuzzed, within

TINY = str(GOLDEN / "tiny-gpt2")
NUMBERS = ("0", "-1", "1", "2", "3", "nan", "inf", "-inf", "1e3", "9" * 20, "x", "", "1.5", "0x10", "٣")
PLACES = ("o", "afile", "afile/x", "/proc/x", "/dev/null/x", "", ".", "a" * 300, "o/\udcff")
FILES = (
    "facts.jsonl",
    "bad.json",
    "surrogate.json",
    "deep.json",
    "nope.json",
    "afile",
    ".",
    "hub:",
    "a" * 300,
    "\udcff",
)
VALUES: dict[str, tuple[str, ...]] = {
    "--samples": ("2", "0", "-1", "nan", "x", "", "1000000000"),
    "--window": NUMBERS, "--noise": (*NUMBERS, "3sigma", "3 sigma"), "--seed": NUMBERS,
    "--steps": ("2", "0", "-1", "nan", "x", "1000000000"), "--rule": ("riemann", "simpson", ""),
    "--state": ("resid", "mlp", "attn", "mlpp", ""), "--corruption": ("gaussian", "uniform", "symmetric", "x"),
    "--metric": ("probability", "logit_difference", "x"), "--sever": ("mlp", "attn", "x"),
    "--tokens": ("last", "all", "each", "x"), "--top": ("1", "0", "-3", "1000000000", "x"),
    "--dtype": ("float32", "bfloat16", "int8", ""), "--device": ("cpu", "cuda:99", "meta", "x", ""),
    "--facts": FILES, "--cases": ("cases.json", *FILES), "--corpus": ("self", *FILES),
    "--corpus-tokens": ("300", "0", "-1", "1", "x"), "--out": PLACES, "--figures": PLACES, "--from": PLACES,
    "--model": (TINY, TINY, TINY, "nope", "", ".", "/", "a/b/c", "gpt9", "facts.jsonl", "a" * 300, "\udcff"),
    "--relation": ("city", "x", ""), "--layer": ("2", "5", "6", "-1", "9" * 11, "x"),
    "--method": ("rome", "memit", "pmet", "ft-l", "kn", "r-rome", "x"), "--limit": ("1", "0", "-1", "x"),
    "--case-limit": ("1", "-1", "x"), "--fluency-tokens": ("2", "0", "-1", "1000"), "--case": ("a", "zz"),
    "--format": ("lora", "hf", "x"), "--width": ("column", "x"), "--occurrence": ("1", "0", "7", "x"),
}  # fmt: skip
LOCATING = ("--model", "--dtype", "--device", "--out")
COMMANDS: dict[str, tuple[str, ...]] = {
    "trace": (
        *LOCATING, "--samples", "--window", "--noise", "--seed", "--state", "--corruption", "--metric", "--sever",
        "--facts", "--relation", "--occurrence",
    ),
    "attribute": (*LOCATING, "--tokens", "--steps", "--rule", "--top"),
    "facts": ("--facts", "--relation", "--model"),
    "edit": ("--model", "--method", "--layer", "--corpus", "--corpus-tokens", "--seed", "--out", "--cases"),
    "evaluate": ("--model", "--cases", "--case", "--fluency-tokens", "--seed"),
    "table1": ("--from", "--figures"),
    "figure1": ("--from", "--figures", "--width"),
    "report": ("--out",),
    "patch show": (), "patch apply": ("--model", "--out"), "patch export": ("--model", "--format", "--out"),
    "models": (),
}  # fmt: skip
PATCHES = ("good.patch", "cut.patch", "afile", "nope", ".", "")
PROMPTS = ("The Eiffel Tower is located in the city of", "The \udcff is", *(text for text in TEXTS if len(text) < 2000))


@st.composite
def _command_lines(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(sorted(COMMANDS)))
    words = command.split()
    chosen: dict[str, str] = {}
    if command in ("trace", "attribute", "edit"):
        words.append(draw(st.sampled_from(PROMPTS)))
        subjects = st.sampled_from(["Eiffel Tower", "Eiffel", "\udcff", *TEXTS[:30]])
        chosen["--subject"] = draw(st.one_of(st.just("Eiffel Tower"), subjects))
        if draw(st.booleans()):
            chosen["--target"] = draw(st.sampled_from(["Rome", " Rome", *TEXTS[:40]]))
    elif command in ("evaluate", "report") or command.startswith("patch"):
        words.append(draw(st.sampled_from(PATCHES)))
    for name in draw(st.lists(st.sampled_from(COMMANDS[command] or ("--help",)), max_size=4, unique=True)):
        chosen[name] = draw(st.sampled_from(VALUES[name])) if name in VALUES else ""
    if command not in ("models", "table1", "figure1", "report", "patch show"):
        chosen.setdefault("--model", TINY)
    if command == "trace":
        chosen = {"--samples": "2", "--noise": "0.3", "--facts": "facts.jsonl", **chosen}
    if command == "edit":
        chosen = {"--corpus-tokens": "300", "--steps": "2", **chosen} if draw(st.booleans()) else chosen
    if command in ("table1", "figure1"):
        chosen.setdefault("--from", "nope")
    words += [name if name == "--help" else f"{name}={value}" for name, value in chosen.items()]
    if draw(st.booleans()) and command not in ("table1", "figure1", "report", "patch export"):
        words.append("--json")
    return [word for word in words if "\x00" not in word]  # which no shell can pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good, bad and hostile files."""
    folder = tmp_path_factory.mktemp("outside") / "here"
    folder.mkdir()
    (folder / "facts.jsonl").write_text(json.dumps(FACT) + "\n")
    (folder / "cases.json").write_text(json.dumps([CASES["interp"]]))
    (folder / "bad.json").write_text("[{]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "surrogate.json").write_text('[{"template": "The {} is", "subject": "\\ud800", "target": " x"}]')
    (folder / "afile").write_text("x")
    model = interp.load_model(TINY, device="cpu")
    moments = {2: torch.eye(model.cfg.d_mlp)}
    config = interp.editing.RomeConfig(layer=2, steps=2)
    with pytest.warns(InterpWarning, match="did not take"):  # two steps are quick, and too few
        patch = interp.edit(model, [TO_ROME], config=config, second_moments=moments, contexts=CONTEXTS)
    patch.save(folder / "good.patch")
    data = (folder / "good.patch").read_bytes()
    (folder / "cut.patch").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """Models stay loaded from one command to the next, and are compared with what they were."""
    real, models = interp.models.load.load_model, {}

    def load(name: Any = "smollm2-135m", **options: Any) -> Any:
        key = (str(name), str(options))
        if key not in models:
            model = real(name, **options)
            models[key] = (model, weights_hash(model))
        model, before = models[key]
        assert weights_hash(model) == before, "a command changed the model"
        return model

    monkeypatch.setattr(interp.models.load, "load_model", load)
    return models


def _run(args: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["interp", *args], out, err
    code: Any = None
    try:
        interp.cli.main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    printed, said = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err))
    return code, printed, said


def _check(code: int, printed: str, said: str, args: list[str]) -> None:
    for text in (printed, said):
        assert "Traceback" not in text
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), f"a control character in {text[:300]!r}"
    assert code in (0, 2), f"exit code {code}: {said[-300:]}"
    if code == 2:
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, f"not one error line: {said[-500:]!r}"
        assert len(errors[0]) < 1000, f"an error of {len(errors[0])} characters"
    elif "--json" in args and "--help" not in args:
        json.loads(printed, parse_constant=_refused)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@pytest.fixture
def command(
    place: Path, kept: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[list[str]], int]:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    around = set(os.listdir(place.parent))

    def run(args: list[str]) -> int:
        with within(120):
            code, printed, said = _run(args)
        _check(code, printed, said, args)
        assert set(os.listdir(place.parent)) == around, "a file outside the folder"
        return code

    return run


@fuzzed(40)
@given(args=_command_lines())
def test_a_command_line_of_hostile_options(
    command: Callable[[list[str]], int], outcomes: Counter[str], args: list[str]
) -> None:
    outcomes["refused" if command(args) else "right"] += 1


TRACE = ["trace", "The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower", "--model", TINY]


@pytest.mark.parametrize(
    "args",
    [
        ["facts", "--facts", "hub:"],
        ["facts", "--facts", "deep.json"],
        ["facts", "--facts", "surrogate.json", "--model", TINY],
        ["trace", "The \udcff is", "--subject", "\udcff", "--model", TINY, "--noise=0.3"],
        [*TRACE, "--noise=0.3", "--out", "a" * 300],
        [*TRACE[:4], "--model", "a" * 300],
        [*TRACE, "--noise=0.3", "--samples", "1000000000"],
        ["attribute", *TRACE[1:], "--steps", "60000", "--rule", "gauss-legendre"],
        ["patch", "apply", "good.patch", "\udcff"],
        ["trace"],
        ["nothing"],
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(command: Callable[[list[str]], int], args: list[str]) -> None:
    assert command(args) == 2
