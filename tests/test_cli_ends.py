"""How commands end: whatever goes wrong is a line, signals leave work behind, nothing printed steers the terminal."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import interp.cli
from interp.cli import console
from interp.cli.ending import Ended, ended_by_signals, keeping, line_of
from interp.cli.progress import Meter, bar
from interp.errors import InterpWarning
from interp.facts.records import Fact
from interp.study.stage import Stage
from interp.system.readable import duration
from tests.test_cli import FIGURE, JAPAN, MODEL, PROMPT, SMALL, Call, cache, call, facts_file, refused, write_facts  # noqa: F401

ROOT = Path(__file__).parents[1]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def failing(error: BaseException) -> Any:
    def stand_in(*_: Any, **__: Any) -> None:
        raise error

    return stand_in


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "place/x"), "place/x: Permission denied"),
        (OSError(36, "File name too long", "n" * 5000), "File name too long"),
        (OSError(28, "No space left on device"), "cannot be written: No space left on device"),
        (MemoryError(), "out of memory: take fewer samples"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: take fewer"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory: take fewer"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "surrogates not allowed"), "a text is not valid Unicode: "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_goes_wrong_outside_is_a_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str
) -> None:
    monkeypatch.setattr("interp.facts.fact_files.load_facts", failing(error))
    done = call("trace", *JAPAN, *MODEL, *SMALL)
    refused(done, said)
    assert len(done.err) < 800


def test_a_mistake_of_the_program_keeps_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.facts.fact_files.load_facts", failing(RuntimeError("a bug")))
    monkeypatch.setattr(sys, "argv", ["interp", "trace", *JAPAN, *MODEL, *SMALL])
    with pytest.raises(RuntimeError, match="a bug"):
        interp.cli.main()
    assert line_of(ValueError("x")) is None


@pytest.mark.parametrize("argument", [os.fsdecode(b"Rom\xff"), "\ud800"])
def test_an_argument_that_is_no_text(call: Call, argument: str) -> None:
    refused(call("trace", PROMPT, "--subject", argument, *MODEL), "is not valid UTF-8")


@pytest.mark.parametrize("facts", ["hub:", "n" * 300, "x/" * 3000])
def test_facts_that_no_system_takes(call: Call, facts: str) -> None:
    refused(call("facts", "--facts", facts, *MODEL))


WHEN_TORCH_LOADS = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
from interp.cli import main
sys.argv = ["interp", "facts", "--model", "none-such"]
main()
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=str,
)
def test_waiting_threads_yield_unless_told_otherwise(given: dict[str, str], expected: str) -> None:
    """What torch's OpenMP will read, in the commands and in what make runs."""
    unset = {name: text for name, text in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    options: Any = {"env": unset | given, "capture_output": True, "text": True, "check": True, "timeout": 120}
    command = subprocess.run([sys.executable, "-c", WHEN_TORCH_LOADS], **options)
    assert command.stdout.split() == [expected]
    show = "show: ; @echo $${GOMP_SPINCOUNT-None}"
    made = subprocess.run(["make", "--no-print-directory", f"--eval={show}", "show"], cwd=ROOT, **options)
    assert made.stdout.split() == [expected]


def test_home_is_filled_in(call: Call, facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "f.json").write_bytes(facts_file.read_bytes())
    done = call("trace", *JAPAN, *MODEL, "--samples", "2", "--facts=~/f.json", "--out=~/here/kept")
    assert done.code == 0, done.err
    assert (tmp_path / "here/kept/run.json").exists()
    assert not Path("~").exists()
    refused(call("trace", *JAPAN, *MODEL, "--out=~no-such-user/x"), "there is no such user")


# what is printed


def test_nothing_printed_steers_the_terminal(call: Call, tmp_path: Path) -> None:
    fact = Fact(template=f"The {ESCAPES} capital of {{}} is", subject="Oslo", target=f" T{ESCAPES}")
    path = write_facts(tmp_path / "facts.json", [fact])
    prompt = ("trace", fact.prompt, "--subject", "Oslo", *MODEL, *SMALL)
    attributed = ("attribute", fact.prompt, "--subject", "Oslo", "--target", f"T{ESCAPES}", *MODEL, "--steps", "1")
    for command in (("facts", "--facts", path, *MODEL), prompt, attributed, (*prompt, "--out", f"o{ESCAPES}")):
        done = call(*command)
        assert done.code == 0, done.err
        for text in (done.out, done.err):
            assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    shown = call("facts", "--facts", path, *MODEL, "--json")
    assert json.loads(shown.out)[0]["prompt"] == fact.prompt  # escaped, not changed
    assert not {"\x1b", "\x9b", "\u202e"} & set(shown.out)
    refused(call("trace", PROMPT, "--subject", f"x{ESCAPES}", *MODEL), "\\x1b]0;owned\\x07")


def test_pages_and_records_hold_no_markup(call: Call) -> None:
    prompt = f"The <script>alert(1)</script> $x^2$ {ESCAPES} of Oslo is"
    assert call("trace", prompt, "--subject", "Oslo", *MODEL, *SMALL, "--out", "run").code == 0
    page = Path("run/heatmap.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "\u202e" not in page


def test_a_warning_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with console.reported():
        for text in ("easily\nmisread \x1b[2J", "easily\nmisread \x1b[2J", "another"):
            warnings.warn(text, InterpWarning, stacklevel=2)
    assert capsys.readouterr().err == "warning: easily misread \\x1b[2J\nwarning: another\n"


# signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_leave_finished_work(call: Call, facts_file: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number = getattr(signal, name)
    command = ("figure1", *MODEL, "--facts", facts_file, *FIGURE, "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(
            "interp.locate.methods.causal_trace.traced",
            lambda *_, **__: os.kill(os.getpid(), number) or time.sleep(5),
        )
        done = call(*command)
    assert done.code == 128 + number
    assert done.err.splitlines()[-1] == "interrupted; what is finished is kept in run; the same command goes on"
    assert done.err.count("interrupted") == 1
    assert "Traceback" not in done.err
    names = sorted(path.name for path in Path("run/records").iterdir())
    assert names == ["0000-attribution.safetensors", "0001-attribution.safetensors"]  # a bundle of facts
    again = call(*command)
    assert again.code == 0
    assert "2 of 8 units were there already" in again.err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interrupt_before_anything_is_kept(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.facts.fact_files.load_facts", failing(KeyboardInterrupt()))
    done = call("trace", *JAPAN, *MODEL)
    assert done.code == 130
    assert done.err == "interrupted; nothing was written; the same command starts again\n"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_innermost_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Ended) as ended, keeping(tmp_path), keeping(tmp_path / "inner"):
        raise KeyboardInterrupt
    assert (ended.value.number, ended.value.kept) == (signal.SIGINT, tmp_path / "inner")


# how far it is


def test_time_left_counts_the_work_of_this_session() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    meter.update(22, 48)  # were there already
    assert meter.left() is None
    now[0] = 0.5
    meter.update(22.1, 48)
    assert meter.left() is None  # half a second says nothing
    now[0] = 10.0
    meter.update(24, 48)
    assert meter.left() == pytest.approx(120.0)  # 5 s a unit, 24 to go; counted from 0 it would be 10 s
    meter.update(1, 2)  # something else begins
    assert meter.left() is None
    assert [duration(s) for s in (0.4, 89, 100, 3599, 7500)] == ["0 s", "89 s", "2 min", "1 h 0 min", "2 h 5 min"]


def test_a_log_says_units_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.cli.progress.WATCHED", 0.0)
    with bar("locating", units="units") as advance:
        advance(0, 1, "which facts the model knows")
        for done in (0, 1, 2, 2.5, 3, 3.5, 4):
            advance(done, 4, f"fact {int(done)}\x1b" if done >= 2 else "")  # two are there already
            time.sleep(0.01)
    assert capsys.readouterr().err.splitlines() == [
        "2 of 4 units were there already",
        "[2/4] fact 2\\x1b",
        "[3/4] fact 3\\x1b, 0 s left",
        "[4/4] fact 4\\x1b",
    ]
    with bar("locating", units="units") as advance:
        for done in range(5):
            advance(done, 4, "" if done < 4 else "done")
    assert capsys.readouterr().err.splitlines()[0] == "4 of 4 units were there already"
    with bar("locating", units="units") as advance:  # of units that say nothing of their parts
        for done in range(5):
            advance(done, 4, "fact")
    assert "already" not in capsys.readouterr().err
    monkeypatch.setattr("interp.cli.progress.FIRST_LINE", 0.05)
    monkeypatch.setattr("interp.cli.progress.EVERY", 0.05)
    with bar("preparing") as advance:  # a stage that says nothing of itself is heard of nevertheless
        time.sleep(0.12)
        advance(1, 3)
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "preparing"
    assert lines[-1].startswith("[1/3] preparing")


def test_what_comes_before_the_first_unit_has_a_time_left_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("interp.cli.progress.Meter", lambda: Meter(lambda: now[0]))
    with bar("editing", units="units", part="part 2 of 2") as advance:
        said = []
        for seconds, done, text in (
            (0.0, 0, Stage("second moments", 0, 2000, "tokens")),
            (30.0, 0, Stage("second moments", 500, 2000, "tokens")),
            (120.0, 0, Stage("second moments", 2000, 2000, "tokens")),
            (120.0, 0, "rome at 0"),
            (130.0, 0.5, "rome at 0"),
            (140.0, 1, "rome at 1"),
        ):
            now[0] = seconds
            advance(done, 4, text)
            said.append(advance.left())
    # units are timed from when the stage has ended: 20 s each, not 140
    assert said == ["", "2 min left of this", "", "", "70 s left", "60 s left"]
    assert capsys.readouterr().err.splitlines() == [
        "[0/4] second moments: 0 of 2000 tokens (part 2 of 2)",
        "[1/4] rome at 1, 60 s left (part 2 of 2)",
    ]


# in a process of its own

MAIN = (sys.executable, "-c", "from interp.cli import main; main()")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_and_an_ascii_terminal_and_a_closed_pipe(tmp_path: Path) -> None:
    command = (*MAIN, "models")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")
    assert "No space left" in done.stderr
    facts = write_facts(tmp_path / "東.json", [Fact(template="東京 {} is", subject="Ł\x9b", target=" é")])
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for extra in ((), ("--json",)):
        plain = subprocess.run(
            (*MAIN, "facts", "--facts", str(facts), *MODEL, *extra), env=ascii_only, capture_output=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert plain.returncode == 0, plain.stderr
        assert plain.stdout.isascii()
    assert json.loads(plain.stdout)[0]["prompt"] == "東京 Ł\x9b is"
    reader, writer = os.pipe()
    os.close(reader)
    gone = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=120)
    os.close(writer)
    assert gone.stderr == b""
    assert gone.returncode in (1, 141)


def test_sigterm_ends_a_process_with_a_line(tmp_path: Path, facts_file: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        (*MAIN, "figure1", *MODEL, "--facts", str(facts_file), "--samples", "2000", "--limit", "6", "--out", str(out)),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not list(out.glob("records/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == f"interrupted; what is finished is kept in {out}; the same command goes on"
    assert "Traceback" not in err


def test_json_has_no_number_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    nan, infinite = float("nan"), float("inf")
    console.print_json({"a": nan, "b": [1.5, -infinite, ("x", {"c": nan})], "d": "NaN", "e": None, "f": 3})
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, ["x", {"c": None}]],
        "d": "NaN",
        "e": None,
        "f": 3,
    }
