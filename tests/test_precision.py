"""Narrower arithmetic: it is put on for a while, recorded, and its distance from float32 is measured and said."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformer_lens import HookedTransformer

from interp.cli.shards import TRY_AGAIN
from interp.errors import DataError, NumericalError, OptionError
from interp.facts.records import Fact
from interp.locate.methods.causal_trace import causal_trace
from interp.models.load import load_model
from interp.models.precision import PRECISIONS, current_precision, in_float32, matmul_precision
from interp.results.merging import merge_runs
from interp.results.record import Provenance, provenance
from interp.results.run_folder import RunFolder
from interp.study import Shard, each_located, precision_distances, precision_line
from interp.study.locating import locate_facts
from interp.study.precision import PrecisionDistance, distance_of, is_narrow, keep_precision_distances
from interp.study.settings import LocateSettings
from interp.study.workers import Here
from tests.conftest import FAMILIES, GOLDEN
from tests.test_cli import FIGURE, JAPAN, MODEL, SMALL, Call, cache, call, facts_file, refused  # noqa: F401

SETTINGS = LocateSettings(limit=2, samples=2, window=2, steps=2, noise=0.3, locators=("resid", "attribution"))
HALVES = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
MADE = Provenance(model="m", weights_hash="0", dtype="float32", device="cpu", versions={})


@pytest.fixture(scope="module")
def narrow() -> HookedTransformer:
    """``tiny`` in bfloat16."""
    return load_model(GOLDEN / "tiny-gpt2", device="cpu", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def located(narrow: HookedTransformer, facts: list[Fact], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run in bfloat16, to be left as it is."""
    return locate_facts(narrow, facts, tmp_path_factory.mktemp("narrow") / "run", SETTINGS)


@pytest.fixture
def settings() -> Iterator[None]:
    """PyTorch's settings, which a test may change."""
    before = [half.fp32_precision for half in HALVES]
    yield
    torch.set_float32_matmul_precision("highest")
    for half, own in zip(HALVES, before, strict=True):
        half.fp32_precision = own


def state() -> list[str]:
    return [current_precision(), *(half.fp32_precision for half in HALVES)]


# put on for a while


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_holds_within_the_block_and_nothing_is_left(precision: str) -> None:
    before = state()
    with matmul_precision(precision):
        assert torch.get_float32_matmul_precision() == current_precision() == precision
        with matmul_precision("medium"):
            assert current_precision() == "medium"
        assert current_precision() == precision
    assert state() == before
    with pytest.raises(ZeroDivisionError), matmul_precision(precision):
        raise ZeroDivisionError
    assert state() == before


@pytest.mark.usefixtures("settings")
def test_what_a_script_has_set_stays(facts: list[Fact]) -> None:
    torch.set_float32_matmul_precision("high")
    before = state()
    with matmul_precision("highest"):
        assert current_precision() == "highest"
    assert state() == before == ["high", "tf32", "tf32"]
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # newer settings of one backend, at odds with the general one
    before = state()
    with matmul_precision("high"):
        assert current_precision() == "high"
    assert state() == before == ["medium", "ieee", "bf16"]


def test_others_are_refused() -> None:
    said = "matmul_precision must be one of 'highest', 'high', 'medium', got 'tf32'"
    with pytest.raises(OptionError, match=said), matmul_precision("tf32"):
        pass


# recorded


def test_records_say_it_and_folders_of_another_are_refused(
    tiny: HookedTransformer, facts: list[Fact], tmp_path: Path
) -> None:
    assert provenance(tiny).matmul_precision == "highest"
    with matmul_precision("high"):
        trace = causal_trace(tiny, facts[0], samples=2)
        run = locate_facts(tiny, facts, tmp_path / "run", SETTINGS)
    assert trace.provenance.matmul_precision == "high"
    assert run.settings()["provenance"]["matmul_precision"] == "high"
    with pytest.raises(DataError, match=r"'matmul_precision': 'high'.*this one has"):
        locate_facts(tiny, facts, tmp_path / "run", SETTINGS)


def test_a_run_of_a_version_that_did_not_record_it_goes_on(tmp_path: Path) -> None:
    earlier = {name: value for name, value in asdict(MADE).items() if name not in ("patches", "matmul_precision")}
    run = RunFolder.open(tmp_path / "run", {"provenance": earlier})
    assert run.agrees({"provenance": asdict(MADE)})
    with pytest.raises(DataError, match="holds a run with provenance"):
        run.agrees({"provenance": asdict(replace(MADE, matmul_precision="high"))})


def test_second_moments_of_another_precision_are_another_entry(tiny: HookedTransformer, tmp_path: Path) -> None:
    from interp.editing import Corpus, second_moments

    corpus = Corpus(tokens=600, row=24)
    second_moments(tiny, [1], corpus, cache=tmp_path)
    with matmul_precision("high"):
        found = second_moments(tiny, [1], corpus, cache=tmp_path)
    assert found.provenance.matmul_precision == "high"
    assert len(list(tmp_path.iterdir())) == 2


# the same weights in float32


SCALED = ("llama-yarn", "phi3-longrope")
"""Whose tables of positions a HookedTransformer's config does not say (as those of SmolLM3's still layers)."""


@pytest.mark.parametrize("family", [*FAMILIES, *SCALED, "smollm3"])
def test_wider_arithmetic_on_the_same_weights(family: str, family_folder: Callable[[str], Path]) -> None:
    narrow = load_model(family_folder(family), device="cpu", dtype=torch.bfloat16)
    kept = {name: tensor.clone() for name, tensor in narrow.state_dict().items()}
    expected = load_model(family_folder(family), device="cpu")
    for name, parameter in expected.named_parameters():
        parameter.data = kept[name].float()  # Gemma's embedding is rounded before and after it is scaled
    for name, table in expected.named_buffers() if family in SCALED else ():
        if "rotary" in name:
            table.copy_(kept[name])
    wide = in_float32(narrow)
    ids = torch.tensor([[5, 17, 300, 41, 8, 77]])
    with torch.no_grad():
        torch.testing.assert_close(wide(ids, prepend_bos=False), expected(ids, prepend_bos=False), atol=1e-5, rtol=1e-5)
    assert {parameter.dtype for parameter in wide.parameters()} == {wide.cfg.dtype} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in wide.parameters())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in narrow.state_dict().items())
    assert narrow.cfg.dtype == narrow.W_E.dtype == torch.bfloat16


# its distance


def test_the_distance_is_that_of_the_cells(tiny: HookedTransformer, facts: list[Fact]) -> None:
    exact = causal_trace(tiny, facts[0], samples=2)
    scores = exact.scores.clone()
    scores[2, 3] += 0.25
    scores[0, 1] -= 0.125
    found = distance_of(replace(exact, scores=scores), exact, "resid", MADE)
    a, b = (record.map().values for record in (replace(exact, scores=scores), exact))
    there = ~torch.isnan(b)
    a, b = a[there].double().numpy(), b[there].double().numpy()
    assert found.largest_difference == pytest.approx(np.abs(a - b).max() / np.abs(b).max(), rel=1e-6)
    assert found.rank_correlation == pytest.approx(float(spearmanr(a, b).statistic), rel=1e-6)
    assert (found.locator, found.fact, found.why_not) == ("resid", facts[0], "")
    same = distance_of(exact, exact, "resid", MADE)
    assert (same.largest_difference, same.rank_correlation) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        ("float32", "highest", False),
        ("float32", "high", True),
        ("float32", "medium", True),
        ("bfloat16", "highest", True),
        ("float16", "high", True),
        ("float64", "high", False),
    ],
)
def test_what_is_narrow(dtype: str, precision: str, expected: bool) -> None:
    assert is_narrow(replace(MADE, dtype=dtype, matmul_precision=precision)) is expected


def test_a_narrow_study_says_how_far_its_first_fact_is_from_float32(
    narrow: HookedTransformer, located: RunFolder
) -> None:
    found = precision_distances(located)
    assert [distance.locator for distance in found] == list(SETTINGS.locators)
    wide = in_float32(narrow)
    (first, _) = (record for record in found)
    traces = [causal_trace(model, first.fact, samples=2, noise=0.3) for model in (narrow, wide)]
    expected = distance_of(*traces, "resid", MADE)
    assert first.largest_difference == pytest.approx(expected.largest_difference, rel=1e-3)
    assert first.rank_correlation == pytest.approx(expected.rank_correlation, rel=1e-3)
    assert 0 < first.largest_difference < 0.1
    assert first.provenance.dtype == "bfloat16"
    line = precision_line(found)
    assert line.startswith(f"bfloat16: distance from float32 on {first.fact.prompt!r}: resid ")
    assert "; attribution " in line
    assert precision_line([first]) in repr(first)


def test_it_is_measured_once(
    narrow: HookedTransformer, facts: list[Fact], located: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in located.path.rglob("*.safetensors")}

    def again(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("interp.study.precision.in_float32", again)
    locate_facts(narrow, facts, located.path, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in located.path.rglob("*.safetensors")} == before


def test_float32_has_no_distance(tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    run = locate_facts(tiny, facts, tmp_path / "run", SETTINGS)
    assert precision_distances(run) == []
    assert len(list(run.path.glob("records/*"))) == 4


def test_where_precision_changes_nothing_the_distance_is_none(
    tiny: HookedTransformer, facts: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CPUs; and the one in float32 is computed with the highest precision."""
    seen = []
    real = causal_trace

    def traced(*args: Any, **options: Any) -> Any:
        seen.append(current_precision())
        return real(*args, **options)

    monkeypatch.setattr("interp.locate.methods.causal_trace.causal_trace", traced)
    with matmul_precision("high"):
        run = locate_facts(tiny, facts, tmp_path / "run", replace(SETTINGS, locators=("resid",)))
    assert seen == ["high", "highest"]  # both by themselves; the study's own are located together
    assert {each.records["resid"].provenance.matmul_precision for each in each_located(run)} == {"high"}
    (found,) = precision_distances(run)
    assert (found.largest_difference, found.why_not) == (0.0, "")
    assert str(found) == "resid none"
    assert found.arithmetic == "float32 with products of high precision"


def test_shards_measure_their_own(narrow: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    parts = [
        locate_facts(narrow, facts, tmp_path / f"part-{index}", SETTINGS, shard=Shard(index, 2)) for index in (1, 2)
    ]
    together = locate_facts(narrow, facts, tmp_path / "whole", SETTINGS)
    merged = merge_runs([part.path for part in parts], tmp_path / "merged")
    assert sum(len(precision_distances(part)) for part in parts) == 2
    for one, other in zip(precision_distances(merged), precision_distances(together), strict=True):
        assert (one.locator, one.largest_difference) == (other.locator, other.largest_difference)


@pytest.fixture
def empty(narrow: HookedTransformer, facts: list[Fact], tmp_path: Path) -> RunFolder:
    """A run without records."""
    run = RunFolder.open(tmp_path / "run", {"limit": 1})
    run.write_json("selection.json", {"noise": 0.3, "locators": ["resid"], "facts": [asdict(facts[0])]})
    return run


def test_a_model_that_does_not_fit_in_float32_is_said(
    narrow: HookedTransformer, facts: list[Fact], empty: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.engine.batches.free_bytes", lambda device: 1000)

    def never(*_: object) -> None:
        raise AssertionError("located")

    keep_precision_distances(empty, facts[0], ["resid"], Here(narrow), never)  # type: ignore[arg-type]
    (found,) = precision_distances(empty)
    assert math.isnan(found.largest_difference)
    assert "the same model in float32 needs about" in str(found)
    assert "1e-06 GB are free" in found.why_not


def test_a_fact_that_the_format_cannot_hold_is_said(
    narrow: HookedTransformer, facts: list[Fact], empty: RunFolder
) -> None:
    def overflow(model: HookedTransformer, name: str) -> None:
        raise NumericalError("the logits are NaN\nor infinite")

    keep_precision_distances(empty, facts[0], ["resid"], Here(narrow), overflow)  # type: ignore[arg-type]
    (found,) = precision_distances(empty)
    assert str(found) == "resid not measured (the logits are NaN or infinite)"


def test_a_damaged_distance_is_measured_again(
    narrow: HookedTransformer, facts: list[Fact], empty: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    def locate(model: HookedTransformer, name: str) -> Any:
        return causal_trace(model, facts[0], samples=2, noise=0.3)

    given = (empty, facts[0], ["resid"], Here(narrow), locate)
    keep_precision_distances(*given)
    path = empty.record_path("precision-resid")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + b"xxxxx")
    keep_precision_distances(*given)
    assert path.read_bytes() == whole
    assert "computing precision-resid again" in caplog.text
    assert isinstance(PrecisionDistance.load(path), PrecisionDistance)


# the command line


def test_figure1_says_it_on_one_line(call: Call, facts_file: Path) -> None:
    before = state()
    run = ("figure1", *MODEL, *FIGURE, "--facts", facts_file, "--out", "run")
    done = call(*run, "--matmul-precision", "high")
    assert done.code == 0
    assert state() == before
    (line,) = (line for line in done.err.splitlines() if "distance from float32 on" in line)
    assert line.startswith("float32 with products of high precision: distance from float32 on '")
    assert line.endswith("attribution none; resid none; mlp none; attn none")
    refused(call(*run), "run holds a run with provenance", "'matmul_precision': 'high'")
    done = call("figure1", *MODEL, *FIGURE, "--facts", facts_file, "--out", "plain")
    assert "distance from float32" not in done.err


def test_a_study_says_it_before_it_edits(call: Call, facts_file: Path) -> None:
    study = ("study", *MODEL, "--limit", "1", "--facts", facts_file, "--out", "run", "--dtype", "bfloat16")
    done = call(*study, "--shard", "1/2")
    assert done.code == TRY_AGAIN  # the other shard's units are missing
    (line,) = (line for line in done.err.splitlines() if "distance from float32 on" in line)
    assert line.startswith("bfloat16: distance from float32 on '")
    assert line.count("of the largest value") == 1  # those of the shard's locators


@pytest.mark.parametrize(
    "command", [("trace", *JAPAN, *SMALL), ("attribute", *JAPAN, "--steps", "2"), ("locate", *JAPAN, *SMALL)], ids=str
)
def test_commands_for_one_fact_multiply_so(call: Call, command: tuple[str, ...]) -> None:
    before = state()
    done = call(*command, *MODEL, "--matmul-precision", "medium", "--out", "run")
    assert done.code == 0
    assert state() == before
    assert RunFolder(Path("run")).settings()["provenance"]["matmul_precision"] == "medium"
    refused(call(*command, *MODEL, "--out", "run"), "run holds a run with")


def test_an_edit_says_it(call: Call) -> None:
    edit = ("edit", *JAPAN, *MODEL, "--target", "Rome", "--layer", "0", "--identity", "--json")
    paths = [json.loads(call(*edit, *more).out)["patch"] for more in ((), ("--matmul-precision", "high"))]
    assert paths[0] != paths[1]
    from interp.patches import Patch

    assert [Patch.load(path).provenance.matmul_precision for path in paths] == ["highest", "high"]


def test_what_cannot_be_is_refused(call: Call) -> None:
    refused(call("trace", *JAPAN, *MODEL, "--matmul-precision", "tf32"), "matmul_precision must be one of 'highest'")
    before = state()
    refused(call("trace", *JAPAN, *MODEL, "--matmul-precision", "high", "--samples", "0"), "samples must be")
    assert state() == before
    refused(
        call("figure1", "--from", "run", "--matmul-precision", "high"), "--matmul-precision would do nothing: --from"
    )


@pytest.mark.parametrize("command", ["reproduce", "study", "figure1", "trace", "attribute", "locate", "edit"])
def test_every_command_that_computes_takes_it(call: Call, command: str) -> None:
    done = call(command, "--help")
    assert "--matmul-precision" in done.out
