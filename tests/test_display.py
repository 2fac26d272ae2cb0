"""Results show themselves: figures and tables in a notebook, text in a terminal, with the numbers they hold."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
from html import escape

import pytest
import torch

import interp
from interp.display import as_html, as_text, describe
from interp.display.description import Description, Table, shaded
from interp.editing.moments import SecondMoments
from interp.engine.cells import Cell
from interp.facts.records import EditRequest, Fact
from interp.locate.class_average import class_average
from interp.results.record import provenance
from interp.statistics.estimates import Interval
from interp.system.readable import probability
from tests.token_maps import a_map

EIFFEL = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")


@pytest.fixture(scope="module")
def patch(tiny):
    return interp.edit(tiny, [EditRequest(EIFFEL, new_target=" Rome")], second_moments="identity", contexts=["{}"])


@pytest.fixture(scope="module")
def results(tiny, patch):
    """One of every kind that shows itself."""
    pair = interp.clean_and_corrupted(tiny, EIFFEL, samples=2, noise=0.3)
    case = interp.case_around(patch.requests[0], interp.load_facts())
    evaluation = interp.evaluate(tiny, patch, case, fluency_tokens=5)
    moments = SecondMoments(
        provenance=provenance(tiny), moments={}, corpus={"source": "self"}, n_tokens=9, layers=(1,),
        held_out_error=(0.25,),
    )  # fmt: skip
    trace = interp.causal_trace(tiny, EIFFEL, state="mlp", window=3, samples=2, noise=0.3)
    row = interp.table_row([evaluation], locator="Causal tracing", layers="2")
    strength = interp.study.Strength(
        locator="Causal tracing", title="MLP", unit="effect", mean=(0.1, 0.2), low=(0.0, 0.1), high=(0.2, 0.3),
        chosen=1, correlation=Interval(mean=0.54, low=-0.22, high=0.96, n=10),
    )  # fmt: skip
    return {
        "trace": trace,
        "last": interp.attribute(tiny, EIFFEL, steps=2),
        "all": (whole := interp.attribute(tiny, EIFFEL, tokens="all", steps=2)),
        "kept": interp.locate.AttributionSums.of(whole),
        "patched": interp.patch_activations(pair, [Cell(token=2, layer=1)]),
        "patch": patch,
        "evaluation": evaluation,
        "answers": interp.evaluation.ask(tiny, [case], fluency_tokens=0)[0],
        "row": row,
        "average": class_average(
            [dataclasses.replace(trace.map(), title="MLP output", unit="indirect effect")], [trace]
        ),
        "results": interp.study.EditResults(
            rows=(row,),
            comparisons=(interp.compare([evaluation], [evaluation], names=("One", "Other")),),
            by_layer={2: row},
            strengths=(strength,),
        ),
        "moments": moments,
    }


KINDS = (
    "trace", "last", "all", "kept", "patched", "patch", "evaluation", "answers", "row", "average", "results", "moments",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_is_text_and_html(results, kind):
    result = results[kind]
    bundle = result._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert repr(result) == bundle["text/plain"] == as_text(result)
    assert bundle["text/html"] == as_html(result)
    assert describe(result).heading in bundle["text/plain"]
    assert "\x1b" not in repr(result)  # no colours in a log
    assert max(map(len, repr(result).splitlines())) <= 200
    figures = re.findall(r'src="data:image/png;base64,([^"]+)"', bundle["text/html"])
    assert len(figures) == (kind in ("trace", "last", "all", "kept", "average"))
    for figure in figures:
        assert base64.b64decode(figure).startswith(b"\x89PNG")
    assert "http" not in bundle["text/html"]  # nothing is fetched


def test_a_trace_says_its_numbers(results):
    trace, text = results["trace"], repr(results["trace"])
    assert "The Eiffel Tower is located in the city of" in text
    assert f"{probability(trace.clean_probability)} clean, {probability(trace.corrupted_probability)} corrupted" in text
    assert "MLP outputs, window of 3" in text
    assert trace.provenance.weights_hash[:8] in text
    for token, row in enumerate(trace.indirect_effect):
        if row.max() > 0.01:
            (line,) = [line for line in text.splitlines() if line.split("|")[0].strip() == label(trace, token)]
            largest, layer = line.split("|")[2].split()
            assert float(largest.replace("−", "-")) == pytest.approx(float(row.max()), rel=1e-3)
            assert int(layer) == int(row.argmax())


def label(trace, token):
    return trace.tokens[token].strip() + ("*" if trace.subject_span[0] <= token < trace.subject_span[1] else "")


def test_a_patch_says_its_norm_and_how_it_ended(patch):
    text = repr(patch)
    assert f"{patch.norms()[2]:.4g}" in text
    assert ("yes" if patch.outcomes[0].converged else "no") in text
    assert "Rome" in text


def test_an_evaluation_shows_every_question(results):
    html = as_html(results["evaluation"])
    for question, after in zip(results["evaluation"].questions, results["evaluation"].after, strict=True):
        assert question.prompt in html
        assert f">{escape(probability(math.exp(after.log_probability)))}<" in html


def test_a_row_shows_its_intervals(results):
    found = results["row"].scores["teacher-forced"]["reliability"]
    assert f"{found.mean:.0f} [–]" in repr(results["row"])  # of one case there is none
    whole = dataclasses.replace(found, low=74.0, high=100.0)
    row = results["row"]
    scores = {**row.scores, "teacher-forced": {**row.scores["teacher-forced"], "reliability": whole}}
    assert "100 [74, 100]" in repr(dataclasses.replace(row, scores=scores))


def test_markup_in_texts_is_text():
    shown = Description(
        heading="<b>&", lines=["[bold]x[/]"], tables=[Table(header=("<i>",), rows=[("[red]<script>",)])]
    )
    marked = type("Marked", (), {})
    describe.register(marked, lambda _: shown)
    html, text = as_html(marked()), as_text(marked())
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;&amp;" in html
    assert "[red]<script>" in text
    assert "[bold]x[/]" in text


def test_shades():
    values = torch.tensor([[0.0, 1.0, 0.5], [float("nan"), -1.0, 0.0]])
    lines = shaded(a_map(values, (" a", " b"), (1, 2))).splitlines()
    assert lines[1].startswith(" a | @=|")  # rounds to even
    assert lines[2].startswith("b* |?i |")  # below zero, letters
    assert "below 0: 'a' to 'i' −1" in lines[-1]
    assert lines[1].split()[-2:] == ["1", "1"]
    nothing = shaded(a_map(torch.zeros(1, 2), (" a",)))
    assert "a |  |" in nothing


def test_small_probabilities_are_not_zero():
    assert [probability(p) for p in (0.0, 0.0004, 0.0006, 0.12345, 1.0)] == [
        "0.000",
        "< 0.001",
        "0.001",
        "0.123",
        "1.000",
    ]


def test_what_has_no_description():
    with pytest.raises(TypeError, match="no description of a Interval"):
        describe(Interval(mean=1.0, low=0.0, high=2.0, n=3))


def test_tables_are_text_in_a_notebook_too(results, monkeypatch):
    """There, rich would show a table beside the text instead of writing it."""
    expected = as_text(results["patch"])
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert as_text(results["patch"]) == expected
    assert "norm of what is added" in expected


def test_edit_results_show_differences_the_sweep_and_correlations(results):
    text = repr(results["results"])
    assert "One against Other" in text
    assert text.rstrip().endswith(" 0.54")  # a correlation over layers has no interval
    assert "ROME by layer" in text
