"""The command line: its answers are the library's, and what goes wrong is one line and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer

import interp.cli
from interp.facts.records import Fact
from interp.locate.knowledge import top_answers
from interp.locate.methods import LOCATORS
from interp.locate.methods.attribution import Attribution, attribute
from interp.locate.methods.causal_trace import CausalTrace, causal_trace
from interp.models.hub import KNOWN_MODELS
from interp.results.record import load_record
from interp.results.run_folder import RunFolder
from interp.study.located import class_averages
from interp.study.locating import locate_facts
from interp.study.settings import EditStudySettings, LocateSettings

TINY = str(Path(__file__).parent / "golden" / "tiny-gpt2")
MODEL = ("--model", TINY, "--device", "cpu")
PROMPT = "The capital of Japan is"
JAPAN = (PROMPT, "--subject", "Japan")
SMALL = ("--samples", "2", "--noise", "0.3")
FIGURE = ("--limit", "2", "--samples", "2", "--steps", "2", "--noise", "0.3")
CASES: list[dict[str, Any]] = [
    {
        "id": "tower",
        "template": "The {} is located in the city of",
        "subject": "Eiffel Tower",
        "target": " Paris",
        "new_target": " Rome",
        "paraphrases": ["Visitors of the Eiffel Tower travel to"],
        "locality": {"near": [{"prompt": "Visitors of the Parthenon travel to", "target": " Athens"}]},
        "portability": {"reasoning": [{"prompt": "The Eiffel Tower is governed from", "target": " Rome"}]},
    },
    {
        "id": "messi",
        "template": "{} is famous for playing",
        "subject": "Lionel Messi",
        "target": " football",
        "new_target": " tennis",
        "locality": {"far": [{"prompt": "The capital of Japan is", "target": " Tokyo"}]},
    },
]
LOCATED = {"figure1", *(f"one-fact-{method}" for method in LOCATORS)}
EDITED = {
    *(f"table1.{ending}" for ending in ("md", "tex", "csv")),
    *(f"edit-layers.{ending}" for ending in ("pdf", "svg", "png", "csv")),
    *(f"before-after.{ending}" for ending in ("pdf", "svg", "png")),
}
"""What a study draws."""


@dataclass(frozen=True)
class Done:
    """What a call left behind."""

    code: int | str | None
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands in for the user's cache folder."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, cache: Path) -> Call:
    """Run ``interp ARGUMENTS`` through its entry point, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(cache))

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["interp", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            interp.cli.main()
        return Done(left.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def facts_file(facts: list[Fact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_facts(tmp_path_factory.mktemp("facts") / "six.json", facts)


def write_facts(path: Path, facts: list[Fact]) -> Path:
    records = [{"template": fact.template, "subject": fact.subject, "target": fact.target} for fact in facts]
    path.write_text(json.dumps(records), "utf-8")
    return path


def write_cases(path: Path) -> Path:
    """Cases whose facts ``tiny`` knows."""
    path.write_text(json.dumps(CASES), "utf-8")
    return path


def same_scores(printed: Any, expected: torch.Tensor) -> None:
    """Of another copy of the weights, so the last bits may differ."""
    torch.testing.assert_close(torch.tensor(printed), expected, atol=1e-6, rtol=1e-5)


def refused(done: Done, *expected: str) -> None:
    """One line that says what is wrong, exit code 2, nothing else."""
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1
    for text in expected:
        assert text in done.err


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
        check=False,
    )


# what the commands answer


def test_trace_answers_as_the_library(call: Call, tiny: HookedTransformer) -> None:
    done = call("trace", *JAPAN, *MODEL, *SMALL, "--state", "mlp", "--window", "2", "--seed", "4", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    expected = causal_trace(
        tiny, Fact.from_prompt(PROMPT, "Japan"), state="mlp", window=2, samples=2, noise=0.3, seed=4
    )
    same_scores(found["scores"], expected.scores)
    assert found["indirect_effect"] == expected.indirect_effect.tolist()
    assert (found["clean_probability"], found["corrupted_probability"], found["noise"]) == (
        expected.clean_probability,
        expected.corrupted_probability,
        0.3,
    )
    assert found["fact"] == {"prompt": PROMPT, "subject": "Japan", "target": None}
    assert (found["answer"], found["known"]) == (" Tokyo", True)
    assert tuple(found["tokens"]) == expected.tokens
    assert tuple(found["subject_span"]) == expected.subject_span
    place = Path(found["run"])
    assert place.parent == Path("runs")
    assert {path.name for path in place.iterdir()} == {
        "run.json",
        "records",
        *(f"heatmap.{ending}" for ending in ("pdf", "svg", "png", "html")),
    }
    stored = load_record(CausalTrace, place / "records" / "trace.safetensors")
    assert stored.scores.tolist() == found["scores"]


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        (("--corruption", "uniform"), {"corruption": "uniform"}),
        (("--metric", "logit_difference"), {"metric": "logit_difference"}),
        (("--sever", "attn"), {"sever": "attn"}),
        (("--target", "Paris"), {}),
    ],
)
def test_trace_options_reach_the_library(
    call: Call, tiny: HookedTransformer, options: tuple[str, ...], keywords: dict[str, Any]
) -> None:
    done = call("trace", *JAPAN, *MODEL, *SMALL, *options, "--json")
    target = " Paris" if "--target" in options else None
    expected = causal_trace(tiny, Fact.from_prompt(PROMPT, "Japan", target), samples=2, noise=0.3, **keywords)
    found = json.loads(done.out)
    same_scores(found["scores"], expected.scores)
    assert found["known"] == (target is None)


def test_trace_by_other_subjects(call: Call, tiny: HookedTransformer, tmp_path: Path) -> None:
    others = [
        Fact.from_prompt(f"The capital of {name} is", name, target)
        for name, target in (("Japan", " Tokyo"), ("Norway", " Oslo"), ("France", " Paris"), ("Peru", " Lima"))
    ]
    path = write_facts(tmp_path / "others.json", others)
    done = call("trace", *JAPAN, *MODEL, "--corruption", "symmetric", "--facts", path, "--samples", "3", "--json")
    expected = causal_trace(
        tiny, Fact.from_prompt(PROMPT, "Japan"), corruption="symmetric", samples=3, reference_facts=others
    )
    assert done.code == 0, done.err
    same_scores(json.loads(done.out)["scores"], expected.scores)


def test_locate_answers_as_the_library(call: Call, tiny: HookedTransformer) -> None:
    done = call("locate", *JAPAN, *MODEL, *SMALL, "--locators", "mlp, attribution", "--window", "2", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    fact = Fact.from_prompt(PROMPT, "Japan")
    expected = {
        "mlp": causal_trace(tiny, fact, state="mlp", window=2, samples=2, noise=0.3).map(),
        "attribution": attribute(tiny, fact, tokens="all").map(),
    }
    assert list(found["maps"]) == list(expected)
    for name, shown in expected.items():
        same_scores(found["maps"][name]["values"], shown.values)
        assert (found["maps"][name]["title"], found["maps"][name]["unit"]) == (shown.title, shown.unit)
    place = Path(found["run"])
    assert {path.stem for path in (place / "records").iterdir()} == {"mlp", "attribution"}
    assert {f"maps.{ending}" for ending in ("pdf", "svg", "png", "html", "csv")} <= {
        path.name for path in place.iterdir()
    }


def test_locate_prints_a_map_for_each_locator(call: Call) -> None:
    done = call("locate", *JAPAN, *MODEL, *SMALL, "--locators", "resid,attribution", "--target", "Tokyo")
    assert done.code == 0, done.err
    assert "Causal tracing: residual stream (indirect effect on P(answer))" in done.out
    assert "2 samples of gaussian noise 0.3" in done.out
    assert "largest completeness gap" in done.out
    assert "target ' Tokyo' = [' Tokyo']" in done.err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--locators", "rsid"), "did you mean 'resid'"),
        (("--locators", "mlp,mlp"), "names 'mlp' twice"),
        (
            ("--locators", "attribution", "--samples", "2"),
            "--samples would do nothing: nothing of attribution depends on it",
        ),
        (("--locators", "resid", "--steps", "3"), "--steps would do nothing"),
        (("--locators", "resid", "--noise", "0.3", "--facts", "builtin"), "facts are for noise of 3sigma"),
    ],
)
def test_what_locate_refuses(call: Call, options: tuple[str, ...], why: str) -> None:
    refused(call("locate", *JAPAN, *MODEL, *options), why)


@pytest.mark.parametrize("tokens", ["last", "all", "each"])
def test_attribute_answers_as_the_library(call: Call, tiny: HookedTransformer, tokens: Any) -> None:
    options = ("--tokens", tokens, "--steps", "3", "--rule", "gauss-legendre", "--top", "4")
    done = call("attribute", *JAPAN, "--target", "Tokyo", *MODEL, *options, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    fact = Fact.from_prompt(PROMPT, "Japan", " Tokyo")
    expected = attribute(tiny, fact, tokens=tokens, steps=3, rule="gauss-legendre")
    close = partial(torch.testing.assert_close, atol=1e-6, rtol=1e-5)
    close(torch.tensor(found["per_layer"]), expected.per_layer())
    if tokens == "last":
        assert found["per_token"] is None
    else:
        close(torch.tensor(found["per_token"]), expected.per_token("sum"))
    close(torch.tensor(found["completeness_gap"]), expected.completeness_gap)
    assert found["probability"] == pytest.approx(expected.probability, rel=1e-5)
    best = [(neuron.layer, neuron.token, neuron.neuron) for neuron in expected.top_neurons(4)]
    assert [(neuron["layer"], neuron["token"], neuron["neuron"]) for neuron in found["top_neurons"]] == best
    stored = load_record(Attribution, Path(found["run"]) / "records" / "attribution.safetensors")
    close(stored.scores, expected.scores)
    close(torch.tensor([neuron["score"] for neuron in found["top_neurons"]]), stored.scores.flatten().topk(4).values)


def test_facts_answers_as_the_library(call: Call, tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    mixed = [facts[0], replace(facts[1], target=" Oslo"), *facts[2:]]
    path = write_facts(tmp_path / "mixed.json", mixed)
    rows = json.loads(call("facts", "--facts", path, *MODEL, "--json").out)
    assert [row["known"] for row in rows] == [True, False, True, True, True, True]
    for row, answer in zip(rows, top_answers(tiny, mixed), strict=True):
        assert (row["prompt"], row["subject"], row["target"]) == (
            answer.fact.prompt,
            answer.fact.subject,
            answer.fact.target,
        )
        assert (row["probability"], row["top_probability"]) == (answer.probability, answer.top_probability)
        assert (row["top_answer"], row["relation"]) == (answer.top_answer, None)
    known = json.loads(call("facts", "--facts", path, "--known", *MODEL, "--json").out)
    assert known == [row for row in rows if row["known"]]
    table = call("facts", "--facts", path, *MODEL)
    assert table.code == 0
    assert "5 of 6 known" in table.out
    assert table.out.count("✓") == 5


def test_facts_of_one_relation(call: Call) -> None:
    rows = json.loads(call("facts", "--relation", "country-capital", *MODEL, "--json").out)
    assert {row["relation"] for row in rows} == {"country-capital"}


def test_models_lists_the_known_names(call: Call) -> None:
    assert json.loads(call("models", "--json").out) == dict(KNOWN_MODELS)
    shown = call("models").out
    assert all(name in shown for name in KNOWN_MODELS)


def test_figure1_and_its_redrawing(
    call: Call, tiny: HookedTransformer, facts: list[Fact], facts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("figure1", *MODEL, "--facts", facts_file, *FIGURE, "--out", "run")
    done = call(*command)
    assert done.code == 0, done.err
    names = {f"figure1.{ending}" for ending in ("pdf", "svg", "png", "html", "csv")}
    assert {path.name for path in Path("run/figures").iterdir()} == names
    assert "First subject token (n = 2)" in " ".join(done.out.split())
    assert "records: run" in done.err
    # the numbers are the library's
    settings = LocateSettings(limit=2, samples=2, steps=2, noise=0.3)
    own = class_averages(locate_facts(tiny, facts, Path("own"), settings))
    for one, other in zip(class_averages(RunFolder(Path("run"))), own, strict=True):
        assert one.method == other.method
        assert one.mean.numpy().tobytes() == other.mean.numpy().tobytes()
    # a rerun computes nothing, and without a model the same figures come back
    for name in ("attribution.integrate", "causal_trace.traced"):
        monkeypatch.setattr(f"interp.locate.methods.{name}", lambda *_, **__: pytest.fail("computed again"))
    first = {name: Path("run/figures", name).read_bytes() for name in names}
    shutil.rmtree("run/figures")
    again = call(*command)
    assert (again.code, again.out) == (0, done.out)
    assert {name: Path("run/figures", name).read_bytes() for name in names} == first
    redrawn = call("figure1", "--from", "run", "--figures", "elsewhere")
    assert (redrawn.code, redrawn.out) == (0, done.out)
    assert {name: Path("elsewhere", name).read_bytes() for name in names} == first


def test_reproduce_draws_single_facts_too(call: Call, facts_file: Path, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases.json")
    small = ("--limit", "1", "--cases", cases, "--case-limit", "1", "--stride", "4", "--fluency-tokens", "8")
    command = ("reproduce", *MODEL, "--facts", facts_file, *small, "--out", "run", "--figures", "drawn")
    done = call(*command)
    assert done.code == 0, done.err
    drawn = {path.name: path.read_bytes() for path in Path("drawn").iterdir()}
    assert set(drawn) >= EDITED
    assert {Path(name).stem for name in set(drawn) - EDITED} == LOCATED
    assert "reliability" in drawn["table1.csv"].decode()
    for name in EDITED:
        assert f"wrote drawn/{name}\n" in done.err
    settings = RunFolder(Path("run")).settings()
    expected = json.loads(json.dumps(asdict(LocateSettings(limit=1))))
    assert {key: settings[key] for key in expected} == expected
    settings = RunFolder(Path("run/edits")).settings()
    corpus = replace(EditStudySettings().corpus, tokens=20_000)  # what this model's size asks for
    expected = replace(EditStudySettings(), limit=1, stride=4, fluency_tokens=8, corpus=corpus)
    assert {key: settings[key] for key in vars(expected)} == json.loads(json.dumps(asdict(expected)))
    assert settings["cases"] == str(cases)


def test_a_single_run_can_be_repeated(call: Call) -> None:
    command = ("trace", *JAPAN, *MODEL, *SMALL, "--json")
    first, again = call(*command), call(*command)
    assert first.code == again.code == 0
    assert first.out == again.out
    assert len(list(Path("runs").iterdir())) == 1


def test_without_json_a_heatmap_is_printed(call: Call) -> None:
    traced = call("trace", *JAPAN, *MODEL, *SMALL)
    assert traced.code == 0
    assert "answer ' Tokyo': p(clean) = " in " ".join(traced.out.split())
    attributed = call("attribute", *JAPAN, *MODEL, "--steps", "2", "--top", "3")
    assert "Highest attribution scores" in attributed.out
    assert "records and figures: runs/attribute-" in attributed.err


# what goes wrong


def test_a_name_that_is_no_model(call: Call) -> None:
    refused(call("trace", *JAPAN, "--model", "smollm2-135n"), "'smollm2-135n'", "did you mean smollm2-135m")
    refused(call("trace", *JAPAN, "--model", "./missing"), "'./missing' does not exist")


def test_a_subject_that_is_not_in_the_prompt(call: Call) -> None:
    refused(call("trace", PROMPT, "--subject", "Peru", *MODEL), "'Peru' does not occur in the prompt", PROMPT)
    refused(call("attribute", PROMPT, "--subject", "Peru", *MODEL), "'Peru' does not occur in the prompt")
    refused(call("trace", PROMPT, "--subject", " ", *MODEL), "is empty")


@pytest.mark.parametrize("command", ["trace", "attribute"])
@pytest.mark.parametrize("target", ["", "  "])
def test_an_empty_target(call: Call, command: str, target: str) -> None:
    refused(call(command, *JAPAN, "--target", target, *MODEL), "the target of ", "is empty")


@pytest.mark.parametrize("command", ["trace", "attribute"])
def test_a_prompt_longer_than_the_context(call: Call, command: str) -> None:
    long = "The capital of Japan is" + " very" * 100
    refused(call(command, long, "--subject", "Japan", *MODEL), "the model's context holds 64")


def test_facts_that_cannot_be_read(call: Call, tmp_path: Path) -> None:
    for command in ("facts", "figure1"):
        refused(call(command, "--facts", "missing.json", *MODEL), "missing.json: no such file")
    (tmp_path / "bad.json").write_text("[{", "utf-8")
    refused(call("facts", "--facts", tmp_path / "bad.json", *MODEL), "bad.json: not JSON")
    (tmp_path / "empty.json").write_text("[]", "utf-8")
    refused(call("figure1", "--facts", tmp_path / "empty.json", *MODEL), "holds no records")


@pytest.mark.parametrize("command", ["facts", "figure1"])
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_record_that_lacks_its_subject(call: Call, tmp_path: Path, command: str, ending: str) -> None:
    records: list[dict[str, str]] = [{"template": "{} is", "subject": f"place {i}", "target": " x"} for i in range(20)]
    del records[17]["subject"]
    path = tmp_path / f"facts.{ending}"
    path.write_text(json.dumps(records) if ending == "json" else "\n".join(map(json.dumps, records)), "utf-8")
    refused(call(command, "--facts", path, *MODEL), "record 17: field 'subject' is missing")


def test_no_fact_of_that_relation(call: Call) -> None:
    refused(call("facts", "--relation", "nope", *MODEL), "no fact has the relation 'nope'")


@pytest.mark.parametrize(
    "command",
    [
        ("trace", *JAPAN, *SMALL, "--out", "FILE/run"),
        ("attribute", *JAPAN, "--steps", "2", "--out", "FILE/run"),
        ("figure1", *FIGURE, "--figures", "FILE/figures"),
        ("reproduce", "--figures", "FILE/figures"),
    ],
    ids=lambda command: command[0],
)
def test_a_place_that_cannot_be_written(call: Call, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(call(*(part.replace("FILE", str(tmp_path / "file")) for part in command), *MODEL), "cannot be written")


def test_a_run_folder_that_cannot_be_written(call: Call, tmp_path: Path, facts_file: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    command = ("figure1", *FIGURE, "--facts", facts_file, "--out", tmp_path / "file" / "run")
    refused(call(*command, *MODEL), "cannot be written")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("trace", "--state", "residual"), "state must be one of 'resid', 'mlp', 'attn', got 'residual'"),
        (("trace", "--metric", "probabilty"), "did you mean 'probability'"),
        (("trace", "--corruption", "salt"), "corruption must be one of"),
        (("trace", "--sever", "resid"), "sever must be one of"),
        (("trace", "--sever", "mlp", "--state", "mlp"), "would undo"),
        (("trace", "--dtype", "float64"), "dtype must be one of"),
        (("trace", "--device", "tpu"), "device 'tpu' is not available"),
        (("trace", "--device", "cuda:99"), "device 'cuda:99' is not available"),
        (("trace", "--noise", "-1"), "noise must be a positive number or '3sigma', got -1"),
        (("trace", "--noise", "0"), "noise must be a positive number or '3sigma', got 0"),
        (("trace", "--noise", "nan"), "noise must be a positive number or '3sigma', got nan"),
        (("trace", "--noise", "inf"), "noise must be a positive number or '3sigma', got inf"),
        (("trace", "--noise", "-inf"), "noise must be a positive number or '3sigma', got -inf"),
        (("trace", "--noise", "abc"), "noise must be a positive number or '3sigma', got 'abc'"),
        (("trace", "--samples", "0"), "samples must be a positive whole number, got 0"),
        (("trace", "--state", "mlp", "--window", "-2"), "window must be a positive whole number, got -2"),
        (("trace", "--seed", "-1"), "seed"),
        (("trace", "--seed", "4294967296"), "seed"),
        (("attribute", "--tokens", "first"), "tokens must be one of 'last', 'all', 'each', got 'first'"),
        (("attribute", "--rule", "rieman"), "did you mean 'riemann'"),
        (("attribute", "--steps", "0"), "steps must be a positive whole number, got 0"),
        (("attribute", "--top", "99999999"), "at most the number of scores"),
        (("attribute", "--top", "0"), "must be a positive whole number, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_out_of_range(call: Call, arguments: tuple[str, ...], expected: str) -> None:
    refused(call(arguments[0], *JAPAN, *MODEL, *arguments[1:]), expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--limit", "-1"), "limit must be 0 (all) or more, got -1"),
        (("--samples", "0"), "samples must be"),
        (("--window", "0"), "window must be"),
        (("--steps", "-3"), "steps must be"),
        (("--rule", "simpson"), "rule must be one of"),
        (("--attribution-tokens", "last"), "attribution_tokens must be one of"),
        (("--width", "wide"), "width must be one of"),
        (("--dtype", "int8"), "dtype must be one of"),
        (("--device", "tpu"), "device 'tpu'"),
        (("--noise", "abc"), "noise must be"),
        (("--noise", "-1"), "noise must be"),
        (("--noise", "nan"), "noise must be"),
        (("--noise", "inf"), "noise must be"),
        (("--corruption", "salt"), "corruption must be one of"),
        (("--seed", "-1"), "seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_of_figure1_out_of_range(
    call: Call, facts_file: Path, options: tuple[str, ...], expected: str
) -> None:
    # known before anything runs: no run folder, no progress
    refused(call("figure1", *MODEL, "--facts", facts_file, *FIGURE, "--out", "run", *options), expected)
    assert not Path("run").exists()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [("--noise", "-1"), ("--state", "residual")], ids=lambda pair: pair[0])
def test_a_refused_option_leaves_the_folder_free(call: Call, wrong: tuple[str, str]) -> None:
    assert call("trace", *JAPAN, *MODEL, *SMALL, *wrong, "--out", "run").code == 2
    assert call("trace", *JAPAN, *MODEL, *SMALL, "--out", "run").code == 0


def test_a_folder_that_holds_another_run(call: Call, facts_file: Path) -> None:
    assert call("trace", *JAPAN, *MODEL, *SMALL, "--out", "run").code == 0
    kept = Path("run/records/trace.safetensors").read_bytes()
    refused(call("trace", *JAPAN, *MODEL, *SMALL, "--seed", "2", "--out", "run"), "run holds a run with seed = 1")
    refused(call("attribute", *JAPAN, *MODEL, "--out", "run"), "run holds a run with command = 'trace'")
    refused(
        call("trace", "The capital of Norway is", "--subject", "Norway", *MODEL, *SMALL, "--out", "run"),
        "run holds a run with fact = ",
    )
    refused(call("figure1", *MODEL, "--facts", facts_file, *FIGURE, "--out", "run"), "run holds a run with")
    refused(call("figure1", "--from", "run"), "run is not a run folder: selection.json")
    assert Path("run/records/trace.safetensors").read_bytes() == kept


def test_another_number_format_is_another_run(call: Call) -> None:
    assert call("trace", *JAPAN, *MODEL, *SMALL, "--out", "run").code == 0
    refused(call("trace", *JAPAN, *MODEL, *SMALL, "--dtype", "bfloat16", "--out", "run"), "run holds a run with")


def test_redrawing_what_is_not_there(call: Call) -> None:
    refused(call("figure1", "--from", "missing"), "missing is not a run folder")


def test_weights_that_are_not_numbers(call: Call, tmp_path: Path, facts_file: Path) -> None:
    damaged = Path(shutil.copytree(TINY, tmp_path / "damaged"))
    weights = load_file(damaged / "model.safetensors")
    name = next(name for name in weights if name.endswith("h.2.mlp.c_fc.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    model = ("--model", damaged, "--device", "cpu")
    refused(call("trace", *JAPAN, *model, *SMALL), "NaN or infinite")
    refused(call("attribute", *JAPAN, *model), "NaN or infinite")
    refused(call("facts", "--facts", facts_file, *model), "NaN or infinite")


def test_an_interrupt_says_that_work_is_kept(call: Call, facts_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("figure1", *MODEL, "--facts", facts_file, *FIGURE, "--out", "run")

    def pressed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("interp.locate.methods.causal_trace.traced", pressed)
        done = call(*command)
    assert done.code == 130
    assert "what is finished is kept in run; the same command goes on" in done.err
    assert "Traceback" not in done.err
    names = sorted(path.name for path in Path("run/records").iterdir())
    assert names == ["0000-attribution.safetensors", "0001-attribution.safetensors"]  # a bundle of facts
    assert call(*command).code == 0


# text that looks like markup

ODD = ("[/b]", "[bold]x[/bold]", "\\[/red]", ":cat:", "[link=x]", "tail\\")


@pytest.mark.parametrize("text", ODD)
def test_errors_show_text_as_it_is(call: Call, text: str) -> None:
    path = f"x{text}.json"
    refused(call("facts", "--facts", path, *MODEL), f"{path}: no such file")


@pytest.mark.parametrize("text", ODD)
def test_tables_show_text_as_it_is(call: Call, tmp_path: Path, text: str) -> None:
    path = write_facts(tmp_path / "odd.json", [Fact(template=f"{text} {{}} is", subject="Oslo", target=f" {text}")])
    done = call("facts", "--facts", path, *MODEL)
    assert done.code == 0
    assert f"{text} Oslo is" in done.out


@pytest.mark.parametrize("text", ODD)
def test_places_are_shown_as_they_are(call: Call, text: str) -> None:
    done = call("trace", *JAPAN, *MODEL, *SMALL, "--out", f"run{text}")
    assert done.code == 0
    assert f"records and figures: run{text}\n" in done.err


def test_prompts_may_hold_markup(call: Call) -> None:
    for prompt in ("The [/b] :cat: of Oslo is", "The [red]x[/red] \\[/b] of Oslo is"):
        done = call("trace", prompt, "--subject", "Oslo", "--target", "[/x]", *MODEL, *SMALL)
        assert done.code == 0, done.err
        assert call("attribute", prompt, "--subject", "Oslo", *MODEL, "--steps", "1").code == 0


# in a process of its own


def test_an_error_is_one_line_on_a_narrow_screen() -> None:
    subject = "a subject of many words " * 2 + "end"
    code = "from interp.cli import main; main()"
    run = python("-c", code, "trace", PROMPT, "--subject", subject, *MODEL, COLUMNS="20")
    refused(Done(run.returncode, run.stdout, run.stderr), subject)


def test_json_stands_alone_on_standard_output(facts_file: Path) -> None:
    run = python("-c", "from interp.cli import main; main()", "facts", "--facts", str(facts_file), *MODEL, "--json")
    assert run.returncode == 0, run.stderr
    assert len(json.loads(run.stdout)) == 6


COMMANDS = [
    *("reproduce", "study", "table1", "figure1", "locate", "trace", "attribute", "facts", "models", "edit", "evaluate"),
    "patch",
    "merge",
    "report",
    "where",
    *(f"patch {name}" for name in ("show", "apply", "export")),
]


def test_every_command_is_listed() -> None:
    names = {info.name or info.callback.__name__ for info in interp.cli.app.registered_commands if info.callback}
    names |= {str(group.name) for group in interp.cli.app.registered_groups}
    assert names == {name for name in COMMANDS if " " not in name}


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys, time\nstart = time.process_time()\nfrom interp.cli import main\n"
        "for words in sys.argv[1:]:\n    sys.argv[1:] = [*words.split(), '--help']\n"
        "    try:\n        main()\n    except SystemExit as left:\n        assert left.code == 0\n"
        "    if len(sys.argv) == 2:\n        first = time.process_time() - start\n"
        "sys.stderr.write(','.join({'torch', 'transformers', 'numpy', 'matplotlib', 'plotly'} & set(sys.modules)))\n"
        "print('seconds', first)"
    )
    run = python("-c", code, "", *COMMANDS)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("Usage") == 1 + len(COMMANDS)
    for name in COMMANDS:
        assert f"{name} [" in run.stdout or f" {name} " in run.stdout
    assert float(run.stdout.split()[-1]) < 0.5  # of the processor: other programs do not count


def test_import_interp_is_instant() -> None:
    code = "import sys, interp; print({m.split('.')[0] for m in sys.modules})"
    run = python("-c", code)
    assert run.returncode == 0, run.stderr
    assert "'interp'" in run.stdout
    for module in ("torch", "plotly", "matplotlib", "ipywidgets", "numpy", "transformers"):
        assert f"'{module}'" not in run.stdout
