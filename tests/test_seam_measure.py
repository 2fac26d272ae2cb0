"""What is listed once is known everywhere: invented measures of a few lines."""

# ruff: noqa: F811 - pytest finds fixtures by their names

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from interp import plots
from interp.display import as_html, as_text
from interp.editing import RomeConfig, edit_each
from interp.errors import InterpWarning, OptionError
from interp.evaluation import (
    HARMONIC_MEAN,
    MEAN,
    MEASURES,
    PERCENT,
    PROTOCOLS,
    CaseEvaluation,
    Measure,
    Question,
    Unit,
    compare,
    evaluate_each,
    measure_named,
    share_measure,
    table_row,
)
from interp.evaluation.measures import measures, questions
from interp.facts.records import EditCase, EditRequest, Fact, Probe
from interp.study.edited import EditResults
from tests.test_cli import MODEL, Call, cache, call, write_cases  # noqa: F401
from tests.test_imports import MODULES, imported
from tests.test_study_plots import latex_lines, markdown_tables

CASES = [
    EditCase(
        id="tower",
        request=EditRequest(
            Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"),
            new_target=" Rome",
        ),
        locality={"far": (Probe(prompt="The capital of Japan is", target=" Tokyo"),)},
    ),
    EditCase(
        id="japan",
        request=EditRequest(
            Fact(template="The capital of {} is", subject="Japan", target=" Tokyo"), new_target=" Lima"
        ),
    ),
]


# what one writes


def shouted(case):
    fact, new = case.request.fact, case.request.new_target
    return [Question(metric="capitals", kind="", prompt=fact.prompt.upper(), target=new, rival=fact.target)]


CAPITALS = share_measure(name="capitals", title="In capitals", short="caps", questions=shouted)
WORDS = Measure(
    name="words",
    title="Words_written",
    unit=Unit(name="words"),
    value=lambda said: None if said.continuation is None else float(len(said.continuation.split())),
    average=MEAN,
    by_protocol=False,
)
BOTH = Measure(
    name="both",
    title="Both",
    about="harmonic mean of reliability & capitals",
    unit=PERCENT,
    parts=("reliability", "capitals"),
    average=HARMONIC_MEAN,
)
NEW = ("capitals", "words", "both")


@pytest.fixture(scope="module", autouse=True)
def listed():
    """The one line of each."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for measure in (CAPITALS, WORDS, BOTH):
            monkeypatch.setitem(MEASURES, measure.name, measure)
        yield


# where it stands


@pytest.fixture(scope="module")
def evaluations(tiny, golden, listed):
    """By edits that take, and by others that do not."""
    moments = {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}
    requests = [case.request for case in CASES]
    configs = RomeConfig(layer=2, weight_decay=1e-3, steps=30), RomeConfig(layer=2, weight_decay=0.5, steps=1)
    with pytest.warns(InterpWarning, match="did not take"):
        patches = [
            edit_each(tiny, requests, config=c, second_moments=moments, contexts=["{}", "The. {}"]) for c in configs
        ]
    return [evaluate_each(tiny, each, CASES, fluency_tokens=8) for each in patches]


@pytest.fixture(scope="module")
def results(evaluations):
    """Twelve cases, so that nothing lacks an interval for their number: the same with other names and continuations."""
    many, fewer = (
        [
            replace(found, case=f"{found.case}-{i}", continuation_after="word " * (n + i % 4))
            for i in range(6)
            for found in each
        ]
        for each, n in zip(evaluations, (9, 3), strict=True)
    )
    row = table_row(many, locator="One", layers="2")
    before = table_row(many, locator="Before any edit", layers="-", edited=False)
    rows = (before, row, table_row(fewer, locator="Other", layers="2"))
    return EditResults(
        rows=rows,
        comparisons=(compare(many, fewer, names=("One", "Other")),),
        by_layer={2: row},
        strengths=(),
    )


def test_it_asks_and_counts(tiny, evaluations, tmp_path):
    found = evaluations[0][0]
    (place,) = (i for i, question in enumerate(found.questions) if question.metric == "capitals")
    assert found.questions[place].prompt == "THE EIFFEL TOWER IS LOCATED IN THE CITY OF"
    assert {"reliability", "capitals"} <= {question.metric for question in questions(CASES[1])}
    protocol = PROTOCOLS["teacher-forced"]
    assert found.scores()["capitals"] == protocol.right(found.after[place], found.targets[place])
    assert found.scores(edited=False)["capitals"] == protocol.right(found.before[place], found.targets[place])
    assert found.scores(None)["words"] == len(found.continuation_after.split()) > 0
    assert found.scores(None, edited=False)["words"] == len(found.continuation_before.split())
    assert "words" not in found.scores()
    assert "both" not in found.scores()  # of the means, not of a case
    unsampled = replace(found, continuation_after="", fluency_after=None)
    assert unsampled.scores(None)["words"] is None
    found.save(tmp_path / "record.safetensors")
    assert CaseEvaluation.load(tmp_path / "record.safetensors").scores() == found.scores()


def test_evaluations_of_before_it_was_listed_lack_it(evaluations):
    """Saved runs are shown with another measure as with those that they asked for."""
    old = []
    for found in evaluations[0]:
        kept = [i for i, question in enumerate(found.questions) if question.metric != "capitals"]
        parts = ("questions", "targets", "before", "after")
        old.append(replace(found, **{name: tuple(getattr(found, name)[i] for i in kept) for name in parts}))
    row = table_row(old, locator="One", layers="2")
    assert math.isnan(row.measured("capitals").mean)
    assert row.measured("reliability").mean == 100


def test_its_row_and_its_differences(results):
    one, other = results.rows[1:]
    whole = one.measured("reliability")
    assert (whole.mean, whole.n) == (100, 12)
    assert 70 < whole.low < 80  # Gaffke's bound of 12 of 12, in percent as the mean is
    assert whole.high == 100
    for protocol in PROTOCOLS:
        assert 0 <= one.measured("capitals", protocol).mean <= 100
        assert one.measured("words", protocol) == one.scores[None]["words"]
    assert one.measured("words").mean == pytest.approx(10 + 1 / 6)
    parts = [one.measured(name).mean for name in ("reliability", "capitals")]
    expected = 2 / sum(1 / part for part in parts) if all(parts) else 0
    assert one.measured("both").mean == pytest.approx(expected)
    (found,) = results.comparisons
    assert found.differences["words"].mean == pytest.approx(6)
    assert found.differences["words"].n == 12
    assert found.p_values["words"] < 0.01
    gap = one.measured("capitals").mean - other.measured("capitals").mean
    assert found.differences["capitals"].mean == pytest.approx(gap)
    assert 0 < found.p_values["capitals"] <= 1
    assert 0 < found.p_values["both"] <= 1
    assert found.differences["capitals"].high - found.differences["capitals"].low > 1  # percentage points


def test_its_column_of_table_1(results):
    text = plots.table1_markdown(results.rows, results.comparisons)
    first, others, differences = markdown_tables(text)
    for table in (first, others, differences):
        assert {len(line) for line in table} == {len(table[0])}
    assert first[0][3:] == [each.title.replace("_", "\\_") for each in measures()]
    assert first[0][-3:] == ["In capitals", "Words\\_written", "Both"]
    cells = dict(zip(first[0], first[3], strict=True))
    assert cells["Words\\_written"] == str(results.rows[1].measured("words")) == "10.2 [9.3, 11.3]"
    assert cells["In capitals"] == str(results.rows[1].measured("capitals"))
    assert dict(zip(first[0], first[-1], strict=True))["In capitals"] == "–"  # not in the paper
    assert "no generality, " in text
    assert "no capitals, no words, no both" in text
    assert "Words\\_written" not in others[0]
    assert "In capitals" in others[0]
    assert dict(zip(differences[0], differences[2], strict=True))["Words\\_written"].startswith("**6.0 ")
    about, _, *_, about_differences, _ = text.split("\n\n")
    assert (
        "; score: harmonic mean of reliability, locality and portability; both: harmonic mean of reliability &"
        " capitals; fluency in bits × 100; words in words; –: not measured." in about
    )
    assert "(teacher-forced; fluency in bits × 100; words in words)" in about_differences


def test_its_column_in_latex(results):
    text = plots.table1_latex(results.rows, results.comparisons)
    for left, block in zip((3, 2), text.split(r"\begin{tabular}")[1:], strict=True):
        body = block.split(r"\end{tabular}")[0]
        assert {len(line) for line in latex_lines(body) if len(line) > 1} == {left + len(MEASURES)}
        assert r"Words\_written" in body
        assert body.startswith(f"{{{'l' * left}{'r' * len(MEASURES)}}}")
    assert r"both: harmonic mean of reliability \& capitals; fluency in bits $\times$ 100; words in words" in text


def test_its_lines_in_csv_files(results):
    for text in (plots.table1_csv(results.rows, results.comparisons), plots.scores_by_layer_csv(results.by_layer, ())):
        header, *lines = csv.reader(text.splitlines())
        assert {len(line) for line in lines} == {len(header)}
        named = [dict(zip(header, line, strict=True)) for line in lines]
        of = {name: [line for line in named if line["metric"] == name] for name in NEW}
        rows = 3 if "located_by" in header else 1
        assert [line["protocol"] for line in of["capitals"]][: len(PROTOCOLS)] == list(PROTOCOLS)
        assert {line["unit"] for line in of["words"]} == {"words"}
        assert {line["unit"] for line in of["both"]} <= {"percent", "percentage points"}
        assert [line["protocol"] for line in of["words"]][:rows] == [""] * rows
        means = {line["mean"] for line in of["words"]}
        assert repr(results.rows[1].measured("words").mean) in means
    assert not [line for line in csv.reader(plots.table1_csv(results.rows).splitlines()) if line[0] == "paper"
                and line[6] in NEW]  # fmt: skip


def test_it_shows_itself(results, evaluations):
    for found in (results, results.rows[1]):
        text, html = as_text(found), as_html(found)
        for name in NEW:
            assert re.search(rf"\b{name}\b", text)
            assert f">{name}<" in html
        assert "…" not in text  # no column is cut
        assert "10 [9, 11]" in text
        assert "10 [9, 11]" in html
    found = evaluations[0][0]
    words = [len(text.split()) for text in (found.continuation_after, found.continuation_before)]
    for text in (as_text(found), as_html(found)):
        assert "THE EIFFEL TOWER IS" in text
        assert "capitals" in text
        assert f"words: words {words[0]} (before {words[1]})" in text
        assert re.search(r"percent, teacher-forced: reliability 100 \(before 0\), .*capitals \d+ \(bef", text)


def test_the_command_line_prints_it(call: Call, tmp_path):
    cases = write_cases(tmp_path / "cases.json")
    tower = ("The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower", "--target", "Rome")
    assert call("edit", *tower, *MODEL, "--layer", "0", "--identity", "--out", "rome.patch").code == 0
    command = ("evaluate", "rome.patch", "--cases", cases, *MODEL, "--fluency-tokens", "8")
    (found,) = json.loads(call(*command, "--json").out)
    assert {"before", "after"} == set(found["words"])
    assert found["words"]["after"] > 0
    assert found["scores"]["exact-match"]["after"]["capitals"] in (0, 1)
    assert "capitals" in [question["metric"] for question in found["questions"]]
    shown = call(*command).out
    assert re.search(r"^.*capitals\W+\d+ -> \d+\W+\d+ -> \d+\W+\d+ -> \d+\W+$", shown, re.M)
    assert f"words {found['words']['before']:.1f} -> {found['words']['after']:.1f}" in shown
    assert re.search(r"^fluency [\d.]+ -> [\d.]+$", shown, re.M)


def test_the_help_names_it():
    code = (
        "import sys; from interp.evaluation.measures import MEASURES; MEASURES['essence'] = 'nowhere.MEASURE'\n"
        "sys.argv[1:] = ['evaluate', '--help']; import interp.cli; interp.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "score, essence." in " ".join(re.sub(r"[│\n]", " ", done.stdout).split())


def test_measures_do_not_import_each_other():
    own = {module for module in MODULES if module.startswith("evaluation.measures.") and not module.endswith("_")}
    assert {module.rpartition(".")[2] for module in own} == {*MEASURES} - {*NEW}
    for module in own:
        assert not [name for name in imported(MODULES[module]) if name.startswith("evaluation.measures")], module


# what is refused


def test_a_measure_that_is_none(monkeypatch, evaluations):
    with pytest.raises(OptionError, match=r"measure must be one of .* got 'locallity'; did you mean 'locality'"):
        measure_named("locallity")
    for wrong in ({"parts": ("reliability",)}, {"value": None}):
        with pytest.raises(OptionError, match="'capitals' needs either a value of one case or parts"):
            replace(CAPITALS, **wrong)
    monkeypatch.setitem(MEASURES, "shouted", replace(CAPITALS, name="shouted"))
    with pytest.raises(OptionError, match="the measure 'shouted' asks a question of 'capitals'"):
        questions(CASES[0])
    monkeypatch.setitem(MEASURES, "shouted", replace(CAPITALS, name="shouted", by_protocol=False))
    with pytest.raises(OptionError, match="goes by no protocol asks how an answer counts"):
        evaluations[0][0].scores(None)
    monkeypatch.setitem(MEASURES, "shouted", replace(BOTH, name="shouted", parts=("reliability", "score")))
    with pytest.raises(OptionError, match="'shouted' averages 'score', which has no value of a case"):
        table_row(evaluations[0], locator="One", layers="2")
