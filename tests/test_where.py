"""Which layers to edit: the search, its file, what editors take from it, and the command."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cattrs
import numpy as np
import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

import interp.editing.measured as measured
from benchmarks.where_table import PAGE, with_table
from interp.editing import Corpus, default_config
from interp.editing.measured import WhereToEdit
from interp.errors import DataError, ModelError, OptionError
from interp.facts.records import EditCase, EditRequest, Fact, Probe
from interp.models.weights import weights_hash
from interp.patches.patch import Patch
from interp.plots import where_models_markdown, where_report, where_table_markdown
from interp.results.run_folder import RunFolder
from interp.statistics.best import worse_than_best
from interp.statistics.estimates import Interval
from interp.study import where_settings
from interp.study.rounds import coarse_layers, finer_layers
from interp.study.where import where_to_edit
from interp.study.where_found import Tried, read_where
from interp.study.where_settings import Budget, WhereSettings
from interp.study.work import Work
from tests.test_cli import MODEL, Call, cache, call, facts_file, refused  # noqa: F401
from tests.test_cli_edit import TOWER

BUDGET = Budget(facts=3, cases=4, more=2, held_out=5, coarse=2, layers=4, in_question=2)
SETTINGS = WhereSettings(corpus=Corpus(tokens=2560), context_kinds=((4, 2),))


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of our own, and a budget for a tiny model."""
    cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_dir", lambda *_: cache)
        patch.setattr(where_settings, "BUDGETS", {**where_settings.BUDGETS, "small": BUDGET})
        yield


@pytest.fixture(scope="module")
def cases(facts: list[Fact]) -> list[EditCase]:
    """Each fact with two other answers."""
    found = []
    for i, fact in enumerate(facts):
        other = facts[(i + 1) % len(facts)]
        for target in [each.target for each in facts if each.target != fact.target][:2]:
            assert target is not None
            assert other.target is not None
            found.append(
                EditCase(
                    id=f"{fact.subject} {target}",
                    request=EditRequest(fact, new_target=target),
                    locality={"far": (Probe(prompt=other.prompt, target=other.target),)},
                    portability={"again": (Probe(prompt=fact.prompt, target=target),)},
                )
            )
    return found


@pytest.fixture(scope="module")
def folder(
    tiny: HookedTransformer, facts: list[Fact], cases: list[EditCase], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run, to be left as it is."""
    place = tmp_path_factory.mktemp("where") / "run"
    said: list[tuple[float, int, str]] = []
    where_to_edit(tiny, facts, cases, place, SETTINGS, progress=lambda *report: said.append(report))
    assert said[-1][:2] == (25, 25)
    editing = said[next(i for i, (_, total, _) in enumerate(said) if total == 25) :]
    assert [done for done, *_ in editing] == sorted(done for done, *_ in editing)
    return place


@pytest.fixture(scope="module")
def found(folder: Path) -> WhereToEdit:
    return WhereToEdit.load(folder / "where.json")


def test_the_answer_is_in_the_records(tiny: HookedTransformer, folder: Path, found: WhereToEdit) -> None:
    results = read_where(folder)
    assert results.seconds > 0
    assert len(found.by_layer) <= 4
    assert {0, 5} <= set(results.by_layer) == {each.layer for each in found.by_layer}
    for each in found.by_layer:
        assert str(each.score) == str(results.by_layer[each.layer].measured("score"))
        assert (each.difference is None) == (each.layer == found.layer)
        assert each.score.n in (4, 6)
    best = found.at(found.layer)
    assert best.score.n == 6
    assert best.score.mean == max(each.score.mean for each in found.by_layer if each.score.n == 6)
    assert sum(each.score.n == 6 for each in found.by_layer) == 2
    assert found.held_out is not None
    assert found.held_out.n == found.n_asked == 5
    assert 0 <= found.n_took <= 5
    assert {peak.locator for peak in found.peaks} == {"attribution", "mlp"}
    assert all(peak.edited in results.by_layer for peak in found.peaks)
    assert {strength.chosen for strength in results.strengths} == {peak.layer for peak in found.peaks}
    assert found.provenance.weights_hash == weights_hash(tiny)


def test_p_values_and_the_held_out_score_are_those_of_the_records(folder: Path, found: WhereToEdit) -> None:
    """Two looks, so each p is doubled; what is held out is in no score by which the layer was chosen."""
    stored = json.loads((folder / "edits" / "selection.json").read_text())
    tried = Tried(
        run=RunFolder(folder / "edits"),
        editor="rome",
        n_layers=6,
        cases=tuple(stored["cases"]),
        shares=(4, 2, 5),
        seed=0,
    )
    measured_layers = [each.layer for each in found.by_layer]
    once = tried.p_values(measured_layers, tried.first)
    assert any(p < 0.5 for p in once.values())
    for each in found.by_layer:
        if each.score.n == 4:
            assert each.p == min(1.0, 2 * once[each.layer])
    assert str(found.held_out) == str(tried.score(found.layer, tried.held_out))
    assert not set(tried.held_out) & set(tried.choosing)
    assert (tried.first, tried.more, tried.held_out) == (range(4), range(4, 6), range(6, 11))
    for each in found.by_layer:
        assert set(tried.edited(each.layer)) in (set(tried.first), set(tried.choosing))


def test_what_is_there_is_not_done_again(
    tiny: HookedTransformer,
    facts: list[Fact],
    cases: list[EditCase],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = (folder / "where.json").read_bytes(), (folder / "where-cost.json").read_bytes()
    monkeypatch.setattr(Work, "_job", None)
    where_to_edit(tiny, facts, cases, folder, SETTINGS)
    assert ((folder / "where.json").read_bytes(), (folder / "where-cost.json").read_bytes()) == before


@pytest.mark.parametrize("after", [1, 6, 10])
def test_an_interrupted_search_ends_with_the_same_file(
    tiny: HookedTransformer,
    facts: list[Fact],
    cases: list[EditCase],
    folder: Path,
    tmp_path: Path,
    after: int,
) -> None:
    """Stopped in its first round, its last, and while locating; the search begins again from what is kept."""
    left = tmp_path / "run"
    calls = 0

    def stop(done: float, total: int, label: str) -> None:
        nonlocal calls
        calls += total == 25 and bool(label)
        if calls > 3 * after or (after == 1 and total != 25 and done >= 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        where_to_edit(tiny, facts, cases, left, SETTINGS, progress=stop)
    assert not (left / "where.json").exists()
    assert applied_cost(left) > 0
    where_to_edit(tiny, facts, cases, left, SETTINGS)
    assert (left / "where.json").read_bytes() == (folder / "where.json").read_bytes()


def applied_cost(folder: Path) -> float:
    return float(json.loads((folder / "where-cost.json").read_text())["seconds"])


def test_another_run_in_the_folder_is_refused(
    tiny: HookedTransformer, facts: list[Fact], cases: list[EditCase], folder: Path
) -> None:
    with pytest.raises(DataError, match="holds a run with selection_seed"):
        where_to_edit(tiny, facts, cases, folder, replace(SETTINGS, seed=1, corpus=Corpus(tokens=2560)))


def test_an_editor_edits_where_it_was_measured(tiny: HookedTransformer, folder: Path, found: WhereToEdit) -> None:
    given = default_config(tiny, "rome", where=folder / "where.json")
    assert given == replace(default_config(tiny, "rome", found.layer), origin="x")
    assert given.origin == "measured with rome on 6 cases"
    assert default_config(tiny, "rome", where=str(folder / "where.json")).edited_layers == (found.layer,)
    first = max(0, min(found.layer - 4, 1))
    assert default_config(tiny, "memit", where=found).edited_layers == tuple(range(first, first + 5))
    with pytest.raises(OptionError, match="kn chooses its layers"):
        default_config(tiny, "kn", where=found)
    with pytest.raises(OptionError, match="layer 1 is given"):
        default_config(tiny, "rome", 1, where=found)


def test_other_weights_are_refused(
    family_model: object, tiny: HookedTransformer, found: WhereToEdit, folder: Path
) -> None:
    other = family_model("gpt2")  # type: ignore[operator]
    with pytest.raises(ModelError, match=f"{weights_hash(tiny)}.*{weights_hash(other)}"):
        default_config(other, "rome", where=folder / "where.json")


def test_a_shipped_file_is_found_by_its_weights(
    family_model: object, tiny: HookedTransformer, found: WhereToEdit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_rule = default_config(tiny, "rome")
    assert by_rule.origin == "rule"
    monkeypatch.setattr(measured, "SHIPPED", tmp_path)
    assert default_config(tiny, "rome") == by_rule
    layer = next(each.layer for each in found.by_layer if each.layer != by_rule.edited_layers[-1] and not each.told)
    other = replace(found, layer=layer, layers=(layer,))
    other.save(tmp_path / "tiny.json")
    assert default_config(tiny, "rome").edited_layers == (layer,)
    assert default_config(tiny, "rome").origin.startswith("measured")
    assert default_config(tiny, "rome", 3).edited_layers == (3,)
    assert default_config(tiny, "kn").origin == "published"
    assert default_config(family_model("gpt2"), "rome").origin == "rule"  # type: ignore[operator]


def test_files_in_the_package_are_whole() -> None:
    for found in measured.shipped():
        assert found.held_out is not None
        assert found.provenance.patches == []


def test_a_file_comes_back_as_it_was(found: WhereToEdit, folder: Path, tmp_path: Path) -> None:
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (folder / "where.json").read_bytes()
    assert cattrs.unstructure(replace(found, held_out=None).budget)["name"] == "small"


def resealed(stored: dict[str, object]) -> str:
    stored = {name: value for name, value in stored.items() if name != "content_hash"}
    return json.dumps({"content_hash": measured.content_hash({}, stored), **stored})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": 99, "layers": [99]}, "does not exist"),
        ({"layer": 3}, "not the last of"),
        ({"layer": True}, "expected int"),
        ({"layer": "0"}, "expected int"),
        ({"layer": 0.0}, "expected int"),
        ({"n_layers": 0}, "n_layers"),
        ({"by_layer": []}, "by_layer"),
        ({"by_layer": {"0": 1}}, "interp where"),
        ({"editor": 5}, "expected str"),
        ({"extra": 1}, "extra"),
        ({"held_out": {"mean": 10**400, "low": 0, "high": 1, "n": 3, "why": ""}}, "interp where"),
        ({"provenance": None}, "interp where"),
        ({"format": 2}, "format 1"),
        ({"kind": "CausalTrace"}, "no file of interp where"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    stored = json.loads((folder / "where.json").read_text())
    (tmp_path / "x.json").write_text(resealed({**stored, **change}))
    with pytest.raises(DataError, match=said):
        WhereToEdit.load(tmp_path / "x.json")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"null", b"\xff\xfe", b"[" * 100_000, b'{"kind": ' + b"9" * 5_000 + b"}", b" " * 2**23],
    ids=lambda data: f"{len(data)} bytes",
)
def test_a_hostile_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.json"):
        WhereToEdit.load(tmp_path / "x.json")
    with pytest.raises(DataError):
        WhereToEdit.load(tmp_path)
    with pytest.raises(DataError):
        WhereToEdit.load(tmp_path / "missing.json")


def test_a_changed_digit_is_noticed(folder: Path, tmp_path: Path, found: WhereToEdit) -> None:
    text = (folder / "where.json").read_text()
    changed = text.replace('"n_took": ', '"n_took": 1', 1)
    assert changed != text
    (tmp_path / "x.json").write_text(changed)
    with pytest.raises(DataError, match="is damaged"):
        WhereToEdit.load(tmp_path / "x.json")


def test_the_command_ends_with_a_file_that_edits(
    call: Call, facts_file: Path, cases: list[EditCase], tmp_path: Path
) -> None:
    (tmp_path / "cases.json").write_text(json.dumps([as_record(case) for case in cases]))
    given_ = ("--facts", str(facts_file), "--cases", str(tmp_path / "cases.json"), "--corpus-tokens", "2560")
    place, file = tmp_path / "run", str(tmp_path / "run" / "where.json")
    done = call("where", *MODEL, *given_, "--out", str(place))
    assert done.code == 0, done.err
    assert "Edit layer" in done.out
    endings = {f"where.{ending}" for ending in ("json", "md", "csv", "pdf", "png", "svg")}
    assert endings <= {path.name for path in place.iterdir()}
    again = call("where", *MODEL, *given_, "--out", str(place), "--json")
    printed = json.loads(again.out)
    found = WhereToEdit.load(file)
    assert printed["layer"] == found.layer
    assert printed["by_layer"][0]["score"]["mean"] == found.by_layer[0].score.mean
    edit = ("edit", *TOWER, "--target", "Rome", *MODEL, "--identity", "--out", str(tmp_path / "x.patch"))
    assert call(*edit, "--where", file).code == 0
    assert Patch.load(tmp_path / "x.patch").layers == (found.layer,)
    refused(call(*edit, "--where", file, "--layer", "1"), "--layer would do nothing")
    refused(call(*edit, "--where", str(place / "edits" / "run.json")), "no file of interp where")
    refused(call("where", *MODEL, *given_, "--method", "kn"), "choose their layers")
    refused(call("where", *MODEL, *given_, "--budget", "huge"), "budget must be one of")


def as_record(case: EditCase) -> dict[str, object]:
    fact = case.request.fact
    probes = {
        name: {kind: [cattrs.unstructure(probe) for probe in each] for kind, each in getattr(case, name).items()}
        for name in ("locality", "portability")
    }
    return {
        "id": case.id,
        "template": fact.template,
        "subject": fact.subject,
        "target": fact.target,
        "new_target": case.request.new_target,
        **probes,
    }


def test_the_report_says_no_more_than_the_intervals(found: WhereToEdit) -> None:
    report = " ".join(where_report(found, 100))
    assert f"Edit layer {found.layer} " in report
    assert "had no part in the choice" in report
    assert "2 min" in report
    told = replace(found, by_layer=tuple(replace(each, p=0.001 if each.layer == 5 else 1.0) for each in found.by_layer))
    if found.layer != 5:
        assert told.worse_from == 5
        assert "Do not edit from layer 5 on" in " ".join(where_report(told))
    equal = replace(found, by_layer=tuple(replace(each, p=1.0) for each in found.by_layer))
    assert equal.worse_from is None
    assert "Nothing says where not to edit" in " ".join(where_report(equal))
    alone = replace(found, held_out=None)
    assert "which is too high" in where_report(alone)[0]
    nothing = replace(found, held_out=Interval(mean=0.0, low=0.0, high=50.0, n=5))
    assert where_report(nothing)[0].startswith("No edit of ")
    assert "Where to edit" in where_table_markdown(found)
    assert where_models_markdown([found]).count("\n") == 2
    assert "cannot be told" in str(found)


# statistics


@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12),
)
@settings(max_examples=20, deadline=None)
def test_of_equal_layers_none_is_told_from_the_best(n: int, rows: list[tuple[float, float, float]]) -> None:
    parts = np.array(rows).T
    assert worse_than_best([parts] * n, resamples=99) == [1.0] * n


def test_where_all_do_the_same_one_is_told_to_be_worse_in_5_of_100() -> None:
    rng = np.random.default_rng(0)
    false = 0
    for seed in range(200):
        hard = rng.random(14) * 0.6 + 0.2  # cases differ, layers do not
        layers = [(rng.random((3, 14)) < hard).astype(float) for _ in range(8)]
        false += min(worse_than_best(layers, resamples=199, seed=seed)) <= 0.05
    assert false <= 18  # 10 expected; more than 18 in 1 of 100 such tests


def test_a_bad_layer_is_told_whatever_the_others_do() -> None:
    rng = np.random.default_rng(1)
    good = [np.clip(rng.normal(0.8, 0.1, (3, 12)), 0, 1) for _ in range(5)]
    bad = [np.zeros((3, 12)), np.clip(rng.normal(0.3, 0.1, (3, 12)), 0, 1)]
    p = worse_than_best([*good, *bad])
    assert max(p[5:]) < 0.01
    assert min(p[:5]) > 0.05
    assert max(p) == 1.0


def test_p_of_two_layers_is_that_of_the_paired_test() -> None:
    """Of two, the range is the absolute difference: the two-sided permutation test of statistics.significance."""
    from interp.statistics.significance import score_p_value

    rng = np.random.default_rng(2)
    a, b = np.clip(rng.normal(0.7, 0.2, (3, 10)), 0, 1), np.clip(rng.normal(0.45, 0.2, (3, 10)), 0, 1)
    a[2, :4] = b[2, :4] = np.nan
    assert min(worse_than_best([a, b])) == pytest.approx(score_p_value(a.tolist(), b.tolist()), abs=0.015)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(OptionError, match="no treatments"):
        worse_than_best([])
    with pytest.raises(OptionError, match="differ in shape"):
        worse_than_best([np.zeros((1, 2)), np.zeros((1, 3))])
    with pytest.raises(OptionError, match="under some"):
        worse_than_best([np.zeros((1, 2)), np.array([[0.0, math.nan]])])


# rounds


def score(mean: float, width: float = 10.0) -> Interval:
    return Interval(mean=mean, low=mean - width, high=mean + width, n=12)


def test_the_first_round_spans_the_model_and_has_the_locators_layers() -> None:
    assert coarse_layers(range(30), 6, [2, 17]) == [0, 2, 5, 10, 14, 17, 19, 24, 29]
    assert coarse_layers(range(4, 30), 5, [0]) == [4, 9, 14, 19, 24, 29]
    assert coarse_layers(range(1), 6, []) == [0]


def test_later_rounds_come_closer_to_the_best() -> None:
    scores = {0: score(20), 10: score(80), 20: score(75), 29: score(5)}
    assert finer_layers(range(30), scores, 10) == [5, 15, 24]
    assert finer_layers(range(30), scores, 2) == [5]
    assert finer_layers(range(30), scores, 0) == []
    assert finer_layers(range(30), {0: score(9), 1: score(9)}, 5) == []
    scores |= {layer: score(90, 1) for layer in range(8, 13)}
    assert set(finer_layers(range(30), scores, 20)) == {4, 16}


@given(st.integers(1, 60), st.integers(2, 10), st.integers(0, 30), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_search_ends_within_its_budget(n_layers: int, steps: int, limit: int, random: object) -> None:
    possible = range(n_layers)
    measured_: dict[int, Interval] = {}
    new = coarse_layers(possible, steps, [])
    most = max(limit, len(new))
    while new:
        assert not set(new) & set(measured_)
        assert set(new) <= set(possible)
        measured_ |= {layer: score(random.random() * 100) for layer in new}  # type: ignore[attr-defined]
        new = finer_layers(possible, measured_, most - len(measured_))
    assert len(measured_) <= most


@given(st.integers(1, 200))
def test_the_shares_of_few_cases_add_up(n: int) -> None:
    for budget in where_settings.BUDGETS.values():
        first, more, held_out = budget.of(n)
        assert first > 0
        assert more >= 0
        assert held_out == 0 or held_out >= 5
        assert first + more + held_out == min(n, budget.cases + budget.more + budget.held_out)


def test_an_editor_that_chooses_its_layers_is_refused() -> None:
    with pytest.raises(OptionError, match="choose their layers"):
        WhereSettings(editor="kn")
    with pytest.raises(OptionError, match="budget"):
        WhereSettings(budget="huge")


def test_cases_without_a_score_are_refused(
    tiny: HookedTransformer, facts: list[Fact], cases: list[EditCase], tmp_path: Path
) -> None:
    bare = [replace(case, portability={}) for case in cases]
    with pytest.raises(DataError, match="portability"):
        where_to_edit(tiny, facts, bare, tmp_path / "run", SETTINGS)
    with pytest.raises(OptionError, match="two cases"):
        where_to_edit(tiny, facts, [*cases, cases[0]], tmp_path / "run", SETTINGS)
    with pytest.raises(OptionError, match="no cases"):
        where_to_edit(tiny, facts, [], tmp_path / "run", SETTINGS)


def test_the_table_in_the_documentation_is_that_of_the_package() -> None:
    page = PAGE.read_text("utf-8")
    assert with_table(page) == page


def test_the_budgets_in_the_documentation_are_those_of_the_code() -> None:
    page = PAGE.read_text("utf-8")
    for name in ("medium", "large"):  # "small" is another one in these tests
        each = where_settings.BUDGETS[name]
        layers = "all" if each.layers is None else each.layers
        line = f"| {name} | {each.facts} | {layers} | {each.cases} | {each.more}, at {each.in_question} layers |"
        assert f"{line} {each.held_out} |" in page


def test_a_very_bad_layer_hides_no_other_that_is_worse() -> None:
    """Its names, exchanged with the others', would make any difference look like chance; so it goes first."""
    rng = np.random.default_rng(3)
    good = [np.clip(rng.normal(0.8, 0.02, (3, 12)), 0, 1) for _ in range(4)]
    middling, very_bad = np.clip(rng.normal(0.7, 0.02, (3, 12)), 0, 1), np.zeros((3, 12))
    p = worse_than_best([*good, middling, very_bad])
    assert p[4] < 0.01
    assert p[5] <= p[4]
