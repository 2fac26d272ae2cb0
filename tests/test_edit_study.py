"""The study of edited layers: what is edited where, resuming, and Table 1 drawn from the folder alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from transformer_lens import HookedTransformer

import interp.study.work
from interp.editing import Corpus, MemitConfig, RomeConfig, edit, second_moments, write_contexts
from interp.errors import DataError, FactError, NumericalError, OptionError
from interp.evaluation import PROTOCOLS, CaseEvaluation, evaluate, table_row
from interp.facts.records import EditCase, EditRequest, Fact, Probe
from interp.locate.class_average import ClassAverage
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import CausalTrace, causal_trace
from interp.models.tokens import TOKEN_CLASSES
from interp.models.weights import weights_hash
from interp.patches.patch import Patch, applied_patches
from interp.results.record import Provenance, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.again import relocated
from interp.study.edited import read_edit_results
from interp.study.editing import edit_cases
from interp.study.layers import layer_span, peak_layers
from interp.study.paper import PAPER_LAYERS
from interp.study.plan import CONTROL, planned, read_plan
from interp.study.settings import PRESETS, EditStudySettings

CASES = [
    EditCase(
        id="tower",
        request=EditRequest(
            Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"),
            new_target=" Rome",
        ),
        paraphrases=("Visitors of the Eiffel Tower travel to",),
        locality={"near": (Probe(prompt="Visitors of the Parthenon travel to", target=" Athens"),)},
        portability={"reasoning": (Probe(prompt="The Eiffel Tower is governed from", target=" Rome"),)},
    ),
    EditCase(
        id="messi",
        request=EditRequest(
            Fact(template="{} is famous for playing", subject="Lionel Messi", target=" football"), new_target=" tennis"
        ),
        locality={"far": (Probe(prompt="The capital of Japan is", target=" Tokyo"),)},
    ),
    EditCase(
        id="japan",
        request=EditRequest(
            Fact(template="The capital of {} is", subject="Japan", target=" Tokyo"), new_target=" Rome"
        ),
        locality={"far": (Probe(prompt="Norway is governed from", target=" Oslo"),)},
    ),
]
SETTINGS = EditStudySettings(
    stride=3, context_kinds=((4, 2),), corpus=Corpus(tokens=1024), fluency_tokens=8, limit=None
)
NOISE = 0.3
UNITS = {"rome": ((0,), (3,), (4,)), "memit": ((0, 1, 2, 3, 4),)}
"""What is edited with the averages below: attribution points to layer 0, tracing to layer 4, and 0 and 3 are swept."""


def average(method: str, peak: int, n_layers: int) -> ClassAverage:
    """A map that peaks at one layer at the last subject token, and elsewhere at the layer before."""
    mean = torch.full((len(TOKEN_CLASSES), n_layers), 0.1)
    mean[:, peak - 1] = 0.5
    row = TOKEN_CLASSES.index("Last subject token")
    mean[row] = 0.1 + 0.01 * torch.arange(n_layers)
    mean[row, peak] = 1.0
    n = (2,) * len(TOKEN_CLASSES)
    peaks = tuple(peak if i == row else (peak - 1) % n_layers for i in range(len(TOKEN_CLASSES)))
    return ClassAverage(
        provenance=Provenance(model="m", weights_hash="0", dtype="float32", device="cpu", versions={}),
        method=method,
        title=f"title of {method}",
        unit=f"unit of {method}",
        token_classes=TOKEN_CLASSES,
        mean=mean,
        low=mean - 0.05,
        high=mean + 0.05,
        peak=peaks,
        peak_low=peaks,
        peak_high=peaks,
        n_facts=n,
        n_tokens=n,
    )


def averages(attribution: int = 0, mlp: int = 4, n_layers: int = 6) -> list[ClassAverage]:
    peaks = {"attribution": attribution, "resid": 0, "mlp": mlp, "attn": n_layers - 1}
    return [average(method, peak, n_layers) for method, peak in peaks.items()]


AVERAGES = averages()


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of our own; groups and bundles so small that there are several."""
    cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_dir", lambda *_: cache)
        patch.setattr(interp.study.work, "GROUP", 2)
        patch.setattr(interp.study.work, "BUNDLE", 5)
        yield


@pytest.fixture(autouse=True)
def untouched(tiny: HookedTransformer) -> Iterator[None]:
    """Whatever happens, the model is left as it is."""
    before = weights_hash(tiny)
    yield
    assert weights_hash(tiny) == before
    assert applied_patches(tiny) == ()


@pytest.fixture(scope="module")
def steps() -> list[tuple[float, int, str]]:
    """Every progress report of the uninterrupted run."""
    return []


@pytest.fixture(scope="module")
def finished(
    tiny: HookedTransformer, steps: list[tuple[float, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """An uninterrupted run, to be left as it is."""
    folder = tmp_path_factory.mktemp("study") / "run"
    return study(tiny, folder, progress=lambda *step: steps.append(step))


@pytest.fixture
def copied(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may damage."""
    return RunFolder(Path(shutil.copytree(finished.path, tmp_path / "copy")))


def study(model: HookedTransformer, folder: Path, settings: EditStudySettings = SETTINGS, **options: Any) -> RunFolder:
    return edit_cases(model, CASES, AVERAGES, folder, settings, **{"noise": NOISE, **options})


def same(one: RunFolder, other: RunFolder) -> bool:
    """Equal to the last bit: repr tells apart any two floats, and takes NaN for itself."""
    found = []
    for run in (one, other):
        again = relocated(run)
        records = [record for pair in again.records.values() for record in pair]
        found.append((repr(read_edit_results(run, AVERAGES)), [record.scores.numpy().tobytes() for record in records]))
    return found[0] == found[1]


def interrupter(after: int) -> Callable[..., None]:
    """Progress that is Ctrl-C at its call number ``after``, counted from 0; second moments may be cached."""
    calls = iter(range(10**6))

    def progress(done: float, total: int, label: str) -> None:
        if not label.startswith("second moments") and next(calls) == after:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...], list[str]]]:
    """(method, layers, subjects) of every group that is edited from here on."""
    groups: list[tuple[str, tuple[int, ...], list[str]]] = []
    real = interp.study.work.edit_each

    def edited(model: Any, requests: Any, *, method: str, config: Any, **options: Any) -> Any:
        layers = config.layers if method == "memit" else (config.layer,)
        groups.append((method, layers, [request.fact.subject for request in requests]))
        return real(model, requests, method=method, config=config, **options)

    monkeypatch.setattr(interp.study.work, "edit_each", edited)
    return groups


# which layers


def around(attribution: int, mlp: int, n_layers: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """What ROME and MEMIT edit, by locator."""
    settings = EditStudySettings()
    chosen = peak_layers(averages(attribution, mlp, n_layers), settings.locators)
    return {name: dict(entry) for name, entry in planned(["a"], chosen, n_layers, settings).layers.items()}


FIRST, LAST = (0, 1, 2, 3, 4), (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("attribution", "mlp", "n_layers", "expected"),
    [
        (1, 17, 48, {"attribution": ((1,), LAST), "mlp": ((17,), (13, 14, 15, 16, 17))}),  # the paper's
        (0, 5, 6, {"attribution": ((0,), FIRST), "mlp": ((5,), LAST)}),
        (4, 1, 6, {"attribution": ((4,), LAST), "mlp": ((1,), FIRST)}),
        (5, 0, 6, {"attribution": ((5,), LAST), "mlp": ((0,), FIRST)}),
        (1, 2, 3, {"attribution": ((1,), (0, 1, 2)), "mlp": ((2,), (0, 1, 2))}),
        (0, 0, 1, {"attribution": ((0,), (0,)), "mlp": ((0,), (0,))}),
    ],
)
def test_layers_are_those_the_locators_point_to(
    attribution: int, mlp: int, n_layers: int, expected: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    found = around(attribution, mlp, n_layers)
    assert found == {name: {"rome": one, "memit": several} for name, (one, several) in expected.items()}


def test_layers_need_the_map_of_every_locator() -> None:
    for missing in ("attribution", "mlp"):
        with pytest.raises(OptionError, match=f"that of {missing} is missing"):
            peak_layers([entry for entry in AVERAGES if entry.method != missing], ("attribution", "mlp"))


def test_a_map_without_values_there_points_to_no_layer() -> None:
    row = TOKEN_CLASSES.index("Last subject token")
    peak = tuple(-1 if i == row else layer for i, layer in enumerate(AVERAGES[0].peak))
    with pytest.raises(OptionError, match="attribution points to no layer"):
        peak_layers([dataclasses.replace(AVERAGES[0], peak=peak)], ("attribution",))


def test_the_papers_preset() -> None:
    paper = PRESETS["paper"]
    assert (paper.editors, paper.locators) == (("rome", "memit"), ("attribution", "mlp"))
    assert paper.layers == {"attribution": 1, "mlp": 17}  # in GPT2-XL
    assert (paper.limit, paper.context_kinds) == (None, ((5, 10), (10, 10)))
    assert paper.corpus.source.startswith("hub:wikimedia/wikipedia")
    assert PRESETS["default"] == EditStudySettings()
    default = PRESETS["default"]
    assert (default.limit, default.stride, default.fluency_tokens, default.seed) == (12, 3, 100, 0)
    assert (default.context_kinds, default.layers) == (((10, 5),), None)
    assert (paper.stride, paper.fluency_tokens, paper.seed) == (3, 100, 0)
    assert (paper.corpus.tokens, paper.corpus.row) == (10_000_000, 512)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"stride": 0},
        {"fluency_tokens": 0},
        {"seed": -1},
        {"layers": {"attribution": 1}},
        {"layers": {"attribution": 1, "mlp": -1}},
        {"layers": {"attribution": 1, "mlp": True}},
        {"editors": ()},
        {"editors": "rome"},
        {"editors": ("rome", "rome")},
        {"editors": ("rome", "nome")},
        {"locators": ("attribution", "tracing")},
        {"located_again": ()},
    ],
    ids=str,
)
def test_settings_that_nothing_takes(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        EditStudySettings(**wrong)


# what is computed


def test_a_run_holds_one_patch_and_one_evaluation_per_unit(finished: RunFolder) -> None:
    assert {path.name for path in finished.path.iterdir()} == {"run.json", "selection.json", "records"}
    selection = finished.read_json("selection.json")
    assert selection["cases"] == ["tower", "messi", "japan"]
    assert selection["swept"] == {"0": [0], "3": [3]}
    assert selection["chosen"] == {"attribution": 0, "mlp": 4}
    assert selection["layers"] == {
        "attribution": {"rome": [0], "memit": [0, 1, 2, 3, 4]},
        "mlp": {"rome": [4], "memit": [0, 1, 2, 3, 4]},
    }
    names = {path.stem for path in (finished.path / "records").iterdir()}
    expected = {f"{name}-{when}" for name in ("resid", "attribution") for when in ("before", "after")}
    expected |= {f"before-{i:04d}" for i in range(3)}
    for kind in ("patch", "case"):
        expected |= {f"{kind}-rome-{layer}-{i:04d}" for layer in (0, 3, 4) for i in range(3)}
        expected |= {f"{kind}-memit-0-4-{i:04d}" for i in range(3)}  # the only window that the control can have, too
    assert names == expected


def direct(model: HookedTransformer, case: EditCase, method: str, layers: tuple[int, ...]) -> CaseEvaluation:
    """Edit and evaluate one case by itself."""
    assert model.cfg.d_mlp is not None
    config: Any = (
        RomeConfig(layer=layers[0])
        if method == "rome"
        else MemitConfig(layers=layers, second_moment_weight=3.0 * model.cfg.d_mlp)
    )
    patch = edit(
        model,
        [case.request],
        method=method,
        config=config,
        second_moments=second_moments(model, layers, SETTINGS.corpus),
        contexts=write_contexts(model, kinds=SETTINGS.context_kinds, seed=SETTINGS.seed),
    )
    return evaluate(model, patch, case, fluency_tokens=SETTINGS.fluency_tokens, seed=SETTINGS.seed)


def check_equal(found: CaseEvaluation, expected: CaseEvaluation) -> None:
    assert found.outcome is not None
    assert expected.outcome is not None
    assert (found.case, found.method, found.layers) == (expected.case, expected.method, expected.layers)
    assert (found.questions, found.targets) == (expected.questions, expected.targets)
    assert (found.outcome.converged, found.outcome.steps) == (expected.outcome.converged, expected.outcome.steps)
    for ours, theirs in ((found.before, expected.before), (found.after, expected.after)):
        assert [r.predicted for r in ours] == [r.predicted for r in theirs]
        assert [r.generated for r in ours] == [r.generated for r in theirs]
        for field in ("log_probability", "rival_log_probability"):
            a, b = ([getattr(r, field) for r in readings] for readings in (ours, theirs))
            np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=1e-4, rtol=1e-4)
    assert found.continuation_before == expected.continuation_before
    assert found.continuation_after == expected.continuation_after


@pytest.mark.filterwarnings("ignore:.* (did not take|rest on too little):interp.errors.InterpWarning")
def test_every_row_is_what_the_library_gives(tiny: HookedTransformer, finished: RunFolder) -> None:
    results = read_edit_results(finished, AVERAGES)
    drawn = [entry["rome"][0] for entry in finished.read_json("selection.json")["drawn"]]
    random = [(0, 1, 2, 3, 4)] * 3
    expected = {
        ("Attribution score", "rome"): ("0", [(0,)] * 3),
        ("Attribution score", "memit"): ("0-4", [(0, 1, 2, 3, 4)] * 3),
        ("Causal tracing", "rome"): ("4", [(4,)] * 3),
        ("Causal tracing", "memit"): ("0-4", [(0, 1, 2, 3, 4)] * 3),
        ("Random layer (control)", "rome"): ("1 random", [(layer,) for layer in drawn]),
        ("Random layer (control)", "memit"): ("5 random", random),
    }
    assert [(row.locator, row.method) for row in results.rows] == [("Before any edit", "none"), *expected]
    known: dict[Any, CaseEvaluation] = {}
    for row, ((locator, method), (text, layers)) in zip(results.rows[1:], expected.items(), strict=True):
        evaluations = []
        for i, at in enumerate(layers):
            if (method, at, i) not in known:
                known[method, at, i] = direct(tiny, CASES[i], method, at)
                stored = finished.get(
                    CaseEvaluation, f"case-{method}-{at[0] if len(at) == 1 else f'{at[0]}-{at[-1]}'}-{i:04d}"
                )
                assert stored is not None
                check_equal(stored, known[method, at, i])
            evaluations.append(known[method, at, i])
        own = table_row(evaluations, locator=locator, layers=text)
        assert (row.layers, row.n_cases, row.n_took) == (text, 3, own.n_took)
        for protocol in PROTOCOLS:
            for metric in own.scores[protocol]:
                a, b = row.scores[protocol][metric], own.scores[protocol][metric]
                np.testing.assert_allclose([a.mean, a.low, a.high], [b.mean, b.low, b.high], atol=1e-4)
        np.testing.assert_allclose(row.measured("fluency").mean, own.measured("fluency").mean, atol=1e-4)
    assert {at for method, at, _ in known if method == "rome"} == set(UNITS["rome"])
    # some edits did something, so that there was something to compare
    reliability = [row.scores["teacher-forced"]["reliability"].mean for row in results.rows]
    assert reliability[0] == 0
    assert max(reliability) > 60


def test_the_sweep_and_the_comparisons(finished: RunFolder) -> None:
    results = read_edit_results(finished, AVERAGES)
    assert list(results.by_layer) == [0, 3]
    assert [row.layers for row in results.by_layer.values()] == ["0", "3"]
    assert repr(results.by_layer[0].scores) == repr(results.rows[1].scores)
    for i, method in ((0, "rome"), (3, "memit")):
        found = results.comparisons[i : i + 3]
        assert {entry.method for entry in found} == {method}
        assert [(entry.first, entry.second) for entry in found] == [
            ("Causal tracing", "Attribution score"),
            ("Causal tracing", "Random layer (control)"),
            ("Attribution score", "Random layer (control)"),
        ]
    rows = {(row.locator, row.method): row.scores["teacher-forced"] for row in results.rows}
    for entry in results.comparisons:
        expected = (
            rows[entry.first, entry.method]["reliability"].mean - rows[entry.second, entry.method]["reliability"].mean
        )
        assert entry.differences["reliability"].mean == pytest.approx(expected, abs=1e-9)
    attribution, tracing = results.strengths
    assert (attribution.locator, attribution.chosen) == ("Attribution score", 0)
    assert (tracing.locator, tracing.chosen, tracing.title) == ("Causal tracing", 4, "title of mlp")
    assert tracing.mean.index(max(tracing.mean)) == 4
    assert len(tracing.low) == 6


def test_the_controls_layers_are_seeded(tiny: HookedTransformer, finished: RunFolder, tmp_path: Path) -> None:
    stored = finished.read_json("selection.json")["drawn"]
    assert [entry["rome"][0] for entry in stored] == np.random.default_rng(0).choice((0, 3), size=3).tolist()
    drawn = {}
    for seed in (0, 1, 2, 3):
        settings = dataclasses.replace(SETTINGS, seed=seed)
        with pytest.raises(KeyboardInterrupt):
            study(tiny, tmp_path / str(seed), settings, progress=interrupter(0))
        drawn[seed] = RunFolder(tmp_path / str(seed)).read_json("selection.json")["drawn"]
    assert drawn[0] == finished.read_json("selection.json")["drawn"]
    assert len(set(map(repr, drawn.values()))) > 1


def test_the_first_case_is_located_again(tiny: HookedTransformer, finished: RunFolder) -> None:
    again = relocated(finished)
    assert again.case == "tower"
    own = provenance(tiny)
    old = CASES[0].request.fact
    new = dataclasses.replace(old, target=" Rome")
    patch = Patch.load(finished.record_path("patch-rome-4-0000"))
    assert list(again.records) == ["resid", "attribution"]
    for before, after in again.records.values():
        assert before.provenance == own
        assert after.provenance.weights_hash != own.weights_hash
        assert (before.fact, after.fact) == (old, new)
        assert (before.answer, after.answer) == (" Paris", " Rome")
    assert again.records["resid"][0].state == again.records["resid"][1].state == "resid"
    assert again.records["resid"][0].noise == again.records["resid"][1].noise == NOISE
    with patch.applied(tiny):
        assert weights_hash(tiny) == again.records["resid"][1].provenance.weights_hash
        traced = causal_trace(tiny, new, state="resid", noise=NOISE)
        attributed = attribute(tiny, new, tokens="all")
    assert again.records["resid"][1].scores.equal(traced.scores)
    assert again.records["attribution"][1].scores.equal(attributed.scores)


def test_layers_that_do_not_follow_each_other_are_told_apart() -> None:
    spans = [layer_span(layers) for layers in ((1, 2, 4), (1, 3, 4), (1, 2, 3, 4), (4,), ())]
    assert spans == ["1,2,4", "1,3,4", "1-4", "4", "own"]


def test_progress_never_goes_back_and_ends(finished: RunFolder, steps: list[tuple[float, int, str]]) -> None:
    total = 3 * 3 + 3 + 2  # ROME at three layers, MEMIT at the one place there is, located twice
    done = [step for step, _, _ in steps]
    assert done == sorted(done)
    assert {whole for _, whole, _ in steps} == {total}
    assert steps[-1] == (total, total, "done")
    assert len(set(done)) > 2 * total  # also within units


# resuming


@pytest.mark.parametrize("share", [0.0, 0.2, 0.55, 0.9, 1.0])
def test_an_interrupted_run_ends_with_the_same_numbers(
    tiny: HookedTransformer,
    finished: RunFolder,
    steps: list[tuple[float, int, str]],
    tmp_path: Path,
    share: float,
) -> None:
    calls = sum(not label.startswith("second moments") for _, _, label in steps)
    with pytest.raises(KeyboardInterrupt):
        study(tiny, tmp_path, progress=interrupter(int(share * (calls - 2))))  # the last but one at most
    with pytest.raises(DataError, match="the study is not finished"):
        same(RunFolder(tmp_path), finished)
    study(tiny, tmp_path)
    assert same(RunFolder(tmp_path), finished)
    assert not list(tmp_path.rglob(".*"))


def test_a_run_killed_at_every_group_does_nothing_twice(
    tiny: HookedTransformer, finished: RunFolder, tmp_path: Path, computed: list[Any]
) -> None:
    class Killed(BaseException):
        pass

    def kept() -> int:
        return len(list(tmp_path.glob("records/patch-*")))

    def progress(*_: Any) -> None:
        if kept() > before:
            raise Killed

    for _ in range(30):
        before = kept()
        try:
            study(tiny, tmp_path, progress=progress)
        except Killed:
            continue
        break
    keys = [(method, layers, tuple(subjects)) for method, layers, subjects in computed]
    assert len(keys) == len(set(keys)) > 6
    assert same(RunFolder(tmp_path), finished)


@pytest.mark.parametrize("name", ["causal_trace.causal_trace", "attribution.attribute"])
def test_interrupted_while_the_edited_model_is_located(
    tiny: HookedTransformer, finished: RunFolder, copied: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for unit in ("resid-after", "attribution-after"):
        copied.record_path(unit).unlink()
    unedited = weights_hash(tiny)

    def pressed(model: HookedTransformer, *_: Any, **__: Any) -> None:
        assert weights_hash(model) != unedited
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"interp.locate.methods.{name}", pressed)
        with pytest.raises(KeyboardInterrupt):
            study(tiny, copied.path)
    assert weights_hash(tiny) == unedited
    with pytest.raises(DataError, match=r"the study is not finished: (resid|attribution)-after is missing"):
        relocated(copied)
    study(tiny, copied.path)
    assert same(copied, finished)


def test_a_finished_run_is_not_computed_again(
    tiny: HookedTransformer, finished: RunFolder, copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    for name in ("edit_each", "evaluate_each", "ask", "write_contexts", "second_moments"):
        monkeypatch.setattr(interp.study.work, name, never)
    for name in ("causal_trace.traced", "attribution.integrate"):
        monkeypatch.setattr(f"interp.locate.methods.{name}", never)
    records = sorted((copied.path / "records").iterdir())
    before = [path.stat().st_mtime_ns for path in records]
    study(tiny, copied.path)
    assert sorted((copied.path / "records").iterdir()) == records
    assert [path.stat().st_mtime_ns for path in records] == before
    assert same(copied, finished)


def truncate(run: RunFolder, unit: str) -> None:
    path = run.record_path(unit)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def exchange(run: RunFolder, unit: str) -> None:
    shutil.copy(run.record_path("before-0000"), run.record_path(unit))


@pytest.mark.parametrize("damage", [truncate, exchange])
@pytest.mark.parametrize("kinds", [("case",), ("case", "patch")])
def test_a_damaged_record_is_computed_again(
    tiny: HookedTransformer,
    finished: RunFolder,
    copied: RunFolder,
    computed: list[Any],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[RunFolder, str], None],
    kinds: tuple[str, ...],
) -> None:
    units = [f"{kind}-rome-3-0002" for kind in kinds]
    for unit in units:
        damage(copied, unit)
    with caplog.at_level(logging.WARNING, "interp"):
        study(tiny, copied.path)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [f"computing {unit} again" for unit in units]
    edited = [(method, layers) for method, layers, subjects in computed if "Japan" in subjects]
    assert edited == ([("rome", (3,))] if "patch" in kinds else [])  # a patch that is there is evaluated as it is
    assert len(computed) == len(edited)
    assert same(copied, finished)


@pytest.mark.parametrize("unit", ["before-0001", "resid-before", "attribution-after", "resid-after"])
def test_other_damaged_records_are_computed_again(
    tiny: HookedTransformer, finished: RunFolder, copied: RunFolder, computed: list[Any], unit: str
) -> None:
    truncate(copied, unit)
    study(tiny, copied.path)
    assert computed == []
    assert same(copied, finished)


def test_a_damaged_patch_of_the_model_that_is_located_again(
    tiny: HookedTransformer, finished: RunFolder, copied: RunFolder
) -> None:
    copied.record_path("resid-after").unlink()
    truncate(copied, "patch-rome-4-0000")
    study(tiny, copied.path)
    assert same(copied, finished)


# what is refused

OTHER_SETTINGS: dict[str, Any] = {
    "limit": 2,
    "stride": 2,
    "context_kinds": ((4, 3),),
    "corpus": Corpus(tokens=1025),
    "fluency_tokens": 9,
    "seed": 1,
    "layers": {"attribution": 1, "mlp": 2},
    "editors": ("rome",),
    "locators": ("attribution",),
    "located_again": ("resid",),
}


def test_every_setting_has_another_value_to_try() -> None:
    assert set(OTHER_SETTINGS) == {field.name for field in dataclasses.fields(EditStudySettings)}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_folder_with_other_settings_is_refused(tiny: HookedTransformer, finished: RunFolder, name: str) -> None:
    settings = dataclasses.replace(SETTINGS, **{name: OTHER_SETTINGS[name]})
    with pytest.raises(DataError, match=r"holds a run with \w+ = "):
        study(tiny, finished.path, settings)


def test_a_folder_with_anything_else_that_counts_is_refused(
    tiny: HookedTransformer,
    family_model: Callable[[str], HookedTransformer],
    finished: RunFolder,
) -> None:
    def refuse(match: str, model: HookedTransformer = tiny, cases: Sequence[EditCase] = CASES, **options: Any) -> None:
        arguments = {"averages": AVERAGES, "noise": NOISE, **options}
        with pytest.raises(DataError, match=match):
            edit_cases(model, cases, arguments.pop("averages"), finished.path, SETTINGS, **arguments)

    refuse("cases_sha256", cases=[CASES[0], *CASES[2:], CASES[1]])
    refuse("cases = 'given cases'", source="mine.json")
    refuse("noise = 0.3", noise=0.4)
    refuse("chosen", averages=averages(1, 4))
    gpt2 = family_model("gpt2")
    refuse("holds a run with", model=gpt2, averages=averages(0, 2, gpt2.cfg.n_layers))


def test_layers_that_do_not_exist_leave_the_folder_free(tiny: HookedTransformer, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, layers=PAPER_LAYERS)
    with pytest.raises(OptionError, match="mlp: layer 17 does not exist"):
        study(tiny, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_cases_that_do_not_fit(tiny: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="no cases"):
        edit_cases(tiny, [], AVERAGES, tmp_path / "none", SETTINGS, noise=NOISE)
    # known before the second moments, which may take hours
    monkeypatch.setattr(interp.study.work, "second_moments", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(FactError, match=r"case tower: .* takes \d+ tokens and what follows 60; the context holds 64"):
        study(tiny, tmp_path / "long", dataclasses.replace(SETTINGS, fluency_tokens=60))


# one bad case


def test_a_case_that_does_not_fit_is_left_out_and_counted(
    tiny: HookedTransformer, finished: RunFolder, tmp_path: Path, computed: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    long = EditCase(
        id="long",
        request=EditRequest(
            Fact(template="The capital of {}" + " and so on" * 30 + " is", subject="Japan", target=" Tokyo"),
            new_target=" Rome",
        ),
    )
    cases = [long, *CASES]
    for _ in range(2):  # also at a restart, without another try
        with caplog.at_level(logging.WARNING, "interp"):
            run = edit_cases(tiny, cases, AVERAGES, tmp_path, SETTINGS, noise=NOISE)
        assert "left out: case-0000" in caplog.text
    done = len(computed)
    assert {len(subjects) for *_, subjects in computed} <= {1, 2}
    reasons = Skips.of(run).reasons
    assert list(reasons) == ["case-0000"]
    assert "context holds 64" in reasons["case-0000"]
    results, expected = read_edit_results(run, AVERAGES), read_edit_results(finished, AVERAGES)
    for row in results.rows:
        assert row.n_cases == 3
        assert row.skipped == (f"case long: {reasons['case-0000']}",)
    assert results.rows[1].scores.keys() == expected.rows[1].scores.keys()
    assert results.rows[1].n_took == expected.rows[1].n_took
    assert relocated(run).case == "tower"
    assert len(computed) == done


def failing(monkeypatch: pytest.MonkeyPatch, name: str, fails: Callable[..., bool]) -> list[Any]:
    """A call of the study that finds numbers that are not finite; what it was called with."""
    real, calls = getattr(interp.study.work, name), []

    def call(model: Any, given: Any, *args: Any, **options: Any) -> Any:
        calls.append(given)
        if fails(given, options):
            raise NumericalError("the loss is not finite")
        return real(model, given, *args, **options)

    monkeypatch.setattr(interp.study.work, name, call)
    return calls


def test_a_case_whose_edit_fails_is_left_out_of_that_row_alone(
    tiny: HookedTransformer, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(requests: Any, options: Any) -> bool:
        return options["method"] == "memit" and any(request.fact.subject == "Lionel Messi" for request in requests)

    calls = failing(monkeypatch, "edit_each", fails)
    run = study(tiny, tmp_path)
    reasons = Skips.of(run).reasons
    assert reasons == {"case-memit-0-4-0001": "the loss is not finite"}
    results = read_edit_results(run, AVERAGES)
    whole = {row.method: row for row in read_edit_results(finished, AVERAGES).rows}
    for row in results.rows:
        assert row.n_cases == (2 if row.method == "memit" else 3)
        assert row.skipped == (("case messi: the loss is not finite",) if row.method == "memit" else ())
        if row.method != "memit":
            assert row.scores["teacher-forced"]["reliability"].n == whole[row.method].n_cases
    paired = [entry.differences["reliability"].n for entry in results.comparisons]
    assert paired == [3, 3, 3, 2, 2, 2]
    done = len(calls)
    study(tiny, tmp_path)
    assert len(calls) == done  # a restart does not try again
    assert repr(read_edit_results(run, AVERAGES)) == repr(results)


def test_what_fails_for_every_case_stops_the_study(
    tiny: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "edit_each", lambda requests, options: options["method"] == "memit")
    with pytest.raises(NumericalError, match="the loss is not finite"):
        study(tiny, tmp_path)
    assert not (tmp_path / "skipped").exists()


def test_a_case_that_cannot_be_asked_is_left_out_of_everything(
    tiny: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "ask", lambda cases, options: any(case.id == "tower" for case in cases))
    run = study(tiny, tmp_path)
    assert list(Skips.of(run).reasons) == ["case-0000"]
    assert {row.n_cases for row in read_edit_results(run, AVERAGES).rows} == {2}
    again = relocated(run)
    assert again.case == "messi"
    assert again.records["resid"][0].fact == CASES[1].request.fact


def test_two_cases_of_one_id(tiny: HookedTransformer, tmp_path: Path) -> None:
    twice = [*CASES, dataclasses.replace(CASES[0], id="japan")]
    with pytest.raises(OptionError, match="two cases have the id 'japan'"):
        edit_cases(tiny, twice, AVERAGES, tmp_path, SETTINGS, noise=NOISE)


# the control


@pytest.mark.parametrize(("n_layers", "stride"), [(48, 3), (30, 3), (6, 3), (5, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("peaks", [(0, 0), (1, 2), (4, 40), (47, 47)])
def test_every_locator_gets_as_many_layers(n_layers: int, stride: int, peaks: tuple[int, int]) -> None:
    chosen = {name: min(peak, n_layers - 1) for name, peak in zip(("attribution", "mlp"), peaks, strict=True)}
    plan = planned([str(i) for i in range(40)], chosen, n_layers, EditStudySettings(stride=stride))
    for choice in (*plan.layers.values(), *plan.drawn):
        (layer,), window = choice["rome"], choice["memit"]
        assert 0 <= layer < n_layers
        assert 0 <= min(window) <= max(window) < n_layers
        assert window == tuple(range(window[0], window[0] + min(5, n_layers)))
    for choice in plan.layers.values():
        assert set(choice["rome"]) <= set(choice["memit"])
    swept = set(range(0, n_layers, stride))
    assert set(plan.swept) == swept
    starts = {choice["memit"][0] for choice in plan.drawn}
    assert starts | {choice["rome"][0] for choice in plan.drawn} <= swept
    control = [row for row in plan.rows() if row.locator == CONTROL]
    assert [row.span for row in control] == ["1 random", f"{min(5, n_layers)} random"]
    if n_layers > 25:
        assert len(starts) > 5


def test_editors_of_as_many_layers_share_the_drawn_ones() -> None:
    settings = EditStudySettings(editors=("rome", "memit", "r-rome", "pmet", "kn"))
    plan = planned([str(i) for i in range(9)], {"mlp": 3}, 12, settings)
    for choice in plan.drawn:
        assert set(choice) == {"rome", "r-rome", "memit", "pmet"}
        assert choice["rome"] == choice["r-rome"]
        assert choice["memit"] == choice["pmet"]
    # what is drawn for two editors does not depend on there being more
    alone = planned(plan.cases, {"mlp": 3}, 12, EditStudySettings())
    assert [choice["rome"] for choice in alone.drawn] == [choice["rome"] for choice in plan.drawn]
    assert [choice["memit"] for choice in alone.drawn] == [choice["memit"] for choice in plan.drawn]


def earlier(run: RunFolder, drawn: list[Any] | None = None) -> None:
    """The plan and the names of records as an earlier version wrote them."""
    stored = run.read_json("selection.json")
    placed = {"attribution": "attribution", "tracing": "mlp"}
    run.write_json(
        "selection.json",
        {
            "cases": stored["cases"],
            "chosen": {
                old: {"rome": stored["layers"][new]["rome"][0], "memit": stored["layers"][new]["memit"]}
                for old, new in placed.items()
            },
            "swept": [0, 3],
            "drawn": drawn or [{"rome": entry["rome"][0], "memit": entry["memit"]} for entry in stored["drawn"]],
        },
    )
    for when in ("before", "after"):
        record = run.get(CausalTrace, f"resid-{when}")
        assert record is not None
        run.record_path(f"resid-{when}").unlink()
        run.put(f"trace-{when}", record)


def test_a_run_of_an_earlier_version_is_read(finished: RunFolder, copied: RunFolder) -> None:
    earlier(copied)
    assert read_plan(copied) == dataclasses.replace(
        read_plan(finished), again={"resid": "trace", "attribution": "attribution"}
    )
    assert same(copied, finished)


def test_a_run_of_a_still_earlier_version_is_read_with_its_own_windows(copied: RunFolder) -> None:
    earlier(copied, [3, 0, 3])
    plan = read_plan(copied)
    assert [choice["rome"] for choice in plan.drawn] == [(3,), (0,), (3,)]
    assert [choice["memit"] for choice in plan.drawn] == [(0, 1, 2, 3), (0,), (0, 1, 2, 3)]
    assert [row.span for row in plan.rows()][-2:] == ["1 random", "1 or 4 random"]


@pytest.mark.parametrize(
    "damage",
    [
        {"drawn": []},
        {"swept": {}},
        {"cases": []},
        {"layers": {}},
        {"chosen": {"attribution": 0}},
        {"editors": ["rome"]},
        {"editors": ["rome", "nome"]},
    ],
    ids=str,
)
def test_a_plan_that_does_not_fit_itself_is_refused(copied: RunFolder, damage: dict[str, Any]) -> None:
    copied.write_json("selection.json", {**copied.read_json("selection.json"), **damage})
    with pytest.raises(DataError, match=r"selection\.json"):
        read_plan(copied)


def test_a_place_that_cannot_be_written(tiny: HookedTransformer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        study(tiny, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "unit", ["case-rome-0-0001", "case-memit-0-4-0002", "case-rome-3-0000", "resid-after", "attribution-before"]
)
def test_results_of_an_unfinished_run_name_what_is_missing(copied: RunFolder, unit: str) -> None:
    copied.record_path(unit).unlink()
    read: Any = (
        relocated if "-rome-" not in unit and "-memit-" not in unit else lambda run: read_edit_results(run, AVERAGES)
    )
    with pytest.raises(DataError, match=f"the study is not finished: {unit} is missing"):
        read(copied)


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    for read in (relocated, lambda run: read_edit_results(run, AVERAGES)):
        with pytest.raises(DataError, match="is not a run folder"):
            read(RunFolder(tmp_path / "missing"))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"cases": [], "chosen": {}, "swept": [0], "drawn": []}',
        '{"cases": ["a"], "chosen": [], "swept": [0], "drawn": [0]}',
        '{"cases": ["a"], "chosen": {"attribution": {"rome": 0, "memit": [0]}}, "swept": [0], "drawn": [0]}',
        '{"cases": 3, "chosen": {}, "swept": [0], "drawn": [0]}',
        '{"editors": ["rome"], "cases": ["a"]}',
    ],
)
def test_a_selection_that_was_tampered_with(copied: RunFolder, text: str) -> None:
    json.loads(text)
    (copied.path / "selection.json").write_text(text)
    for read in (relocated, lambda run: read_edit_results(run, AVERAGES)):
        with pytest.raises(DataError, match=r"selection\.json is damaged"):
            read(copied)


@pytest.mark.parametrize("units", [("resid-before", "resid-after"), ("case-rome-0-0000", "case-rome-0-0001")])
def test_records_under_each_others_names_are_not_drawn(copied: RunFolder, units: tuple[str, str]) -> None:
    first, second = map(copied.record_path, units)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(DataError, match=f"{units[0]}.safetensors holds the record of unit '{units[1]}'"):
        relocated(copied) if "resid" in units[0] else read_edit_results(copied, AVERAGES)


@pytest.mark.parametrize("file", ["run.json", "selection.json", "records/case-rome-0-0001.safetensors"])
def test_a_flipped_bit_is_not_drawn(copied: RunFolder, file: str) -> None:
    path = copied.path / file
    data = bytearray(path.read_bytes())
    at = data.rindex(b"0") if path.suffix == ".json" else data.index(b"tower" if b"tower" in data else b"messi")
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{file} is damaged"):
        read_edit_results(copied, AVERAGES)


def test_results_need_the_folder_alone(finished: RunFolder, copied: RunFolder) -> None:
    expected = repr(read_edit_results(finished, AVERAGES))
    hidden = finished.path.rename(finished.path.with_name("hidden"))
    try:
        assert repr(read_edit_results(copied, AVERAGES)) == expected
    finally:
        hidden.rename(finished.path)


@pytest.mark.parametrize("layers", [True, 3, [1]])
@pytest.mark.usefixtures("unchecked")
def test_layers_that_are_no_mapping(layers: Any) -> None:
    with pytest.raises(OptionError, match="layers must map locators to their layers, got"):
        EditStudySettings(layers=layers)
