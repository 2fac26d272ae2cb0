"""The explorer without a browser: every number on the page is one of the public API; the model is never touched."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import interp
from interp.engine.cells import Cell
from interp.engine.generation import generate
from interp.engine.pairs import clean_and_corrupted, prompt_pair
from interp.errors import FactError, InterpError, OptionError
from interp.explorer import Controls, explore
from interp.explorer.growing import GrowingMaps
from interp.explorer.session import Session
from interp.explorer.view import EditedLayers, private_view
from interp.explorer.widget import Explorer
from interp.facts.records import EditRequest, Fact
from interp.locate.activation_patching import patch_activations
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.weights import weights_hash
from interp.patches.patch import Patch, applied_patches
from interp.system.readable import probability, token_label

# the page says so itself
pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")

EIFFEL = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
CONTROLS = Controls(samples=3, window=4, steps=4)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    """Second moments of this session's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "explorer-cache"))


@pytest.fixture
def explorer(tiny) -> Iterator[Explorer]:
    before = weights_hash(tiny)
    found = explore(tiny, EIFFEL, controls=CONTROLS)
    yield found
    found.close()
    assert weights_hash(tiny) == before
    assert applied_patches(tiny) == ()
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())
    assert not any(thread.name == "interp-explorer" for thread in threading.enumerate())


def say(explorer: Explorer, **content: Any) -> None:
    """What the page would send; waits for what follows, errors stay on the page."""
    explorer._heard(explorer, content, None)
    assert explorer._worker.wait(60)


def test_the_maps_on_the_page_are_those_of_the_library(explorer, tiny):
    explorer.run()
    explorer.wait(120)
    assert explorer.status["busy"] is False
    noise = explorer.controls["noise"]
    assert noise == pytest.approx(interp.noise_level(tiny, interp.load_facts()))
    for state in ("resid", "mlp", "attn"):
        expected = causal_trace(tiny, EIFFEL, state=state, window=4, samples=3, noise=noise, seed=1)
        shown = explorer.maps[state]
        assert shown["finished"]
        torch.testing.assert_close(
            torch.tensor(shown["values"]), expected.indirect_effect, atol=1e-6, rtol=0, check_dtype=False
        )
        torch.testing.assert_close(explorer.located[state].scores, expected.scores, atol=1e-6, rtol=0)
    expected = attribute(tiny, EIFFEL, tokens="all", steps=4)
    torch.testing.assert_close(
        torch.tensor(explorer.maps["attribution"]["values"]),
        expected.per_token("sum"),
        atol=1e-6,
        rtol=1e-5,
        check_dtype=False,
    )
    assert "attribution" in explorer.located
    # what the page is told can be sent as JSON: no NaN, no tensors
    for trait in ("maps", "rows", "runs", "fact_shown", "controls", "edited", "setup"):
        json.dumps(getattr(explorer, trait), allow_nan=False)


def test_maps_fill_in_row_by_row(explorer, monkeypatch):
    """Each time the page hears of the new rows alone, and of what it needs to colour them all."""
    monkeypatch.setattr("interp.explorer.growing.SECONDS_PER_CELL", 0.0)
    seen, sent = [], []
    explorer.observe(lambda change: seen.append(change["new"]), "rows")
    explorer.observe(lambda change: sent.append(change["new"]), "maps")
    explorer.run(["resid"])
    explorer.wait(60)
    n_tokens, start = len(explorer.fact_shown["tokens"]), explorer.fact_shown["span"][0]
    assert len(seen) == n_tokens - start
    assert [news["first"] for news in seen] == [True] + [False] * (len(seen) - 1)
    assert [len(news["rows"]) for news in seen] == [start + 1] + [1] * (len(seen) - 1)
    assert not any(news["finished"] for news in seen)
    assert len(sent) == 1  # whole maps only when they are finished
    whole: list[Any] = [None] * n_tokens
    for news in seen:
        for token, row in news["rows"].items():
            whole[int(token)] = row
    assert whole == explorer.maps["resid"]["values"]
    assert seen[-1]["ends"] == explorer.maps["resid"]["ends"]
    assert "palette" in seen[0]
    assert len(explorer.maps["resid"]["palette"]) == 64


def test_a_view_that_opens_late_gets_the_rows_before(explorer, monkeypatch):
    monkeypatch.setattr("interp.explorer.growing.SECONDS_PER_CELL", 0.0)
    opened = []

    def open_another(change: Any) -> None:
        if change["new"]["number"] == 3:
            explorer._heard(explorer, {"do": "view", "open": True}, None)

    explorer.observe(open_another, "rows")
    explorer.observe(lambda change: opened.append(change["new"]["resid"]), "maps")
    explorer.run(["resid"])
    explorer.wait(60)
    assert [shown["finished"] for shown in opened] == [False, True]
    assert sum(row[0] is not None for row in opened[0]["values"]) >= 3


def test_long_prompts_do_not_flood_the_page(tiny):
    trace = causal_trace(tiny, EIFFEL, samples=1, noise=0.3)
    now = [0.0]
    growing = GrowingMaps(lambda: now[0])
    assert growing.news("resid", trace) is not None
    assert growing.news("resid", trace) is None  # a moment ago
    now[0] = 10.0
    again = growing.news("resid", trace)
    assert again is not None
    assert again["rows"] == {}
    assert "palette" not in again
    assert growing.news("mlp", trace)["first"]  # type: ignore[index]


def test_the_answers_side_by_side_are_those_of_the_library(explorer, tiny):
    noise = explorer.controls["noise"]
    pair = clean_and_corrupted(tiny, EIFFEL, samples=3, noise=noise)
    expected = patch_activations(pair, [Cell(token=2, layer=1)])
    assert explorer.runs["patched"] is None
    for name, readout in (("source", expected.source), ("base", expected.base)):
        assert explorer.runs[name]["probability"] == pytest.approx(readout.probability, abs=1e-6)
    say(explorer, do="select", cells=[{"method": "resid", "token": 2, "layer": 1}])
    shown = explorer.runs["patched"]
    assert shown["probability"] == pytest.approx(expected.patched.probability, abs=1e-6)
    assert [entry["id"] for entry in shown["top"]] == [c.token_id for c in expected.patched.top[:6]]
    assert [entry["token"] for entry in shown["top"]] == [token_label(c.token) for c in expected.patched.top[:6]]
    assert explorer.patched is not None
    assert explorer.patched.cells == (Cell(token=2, layer=1),)


@pytest.mark.parametrize(
    ("method", "cell"),
    [
        ("mlp", Cell(token=3, layer=2, state="mlp", window=4)),
        ("attn", Cell(token=9, layer=4, state="attn", window=4)),
        ("attribution", Cell(token=3, layer=0, state="mlp", window=1)),
    ],
)
def test_a_click_puts_in_what_its_map_restores(explorer, tiny, method, cell):
    explorer.click((method, cell.token, cell.layer))
    explorer.wait(30)
    pair = clean_and_corrupted(tiny, EIFFEL, samples=3, noise=explorer.controls["noise"])
    expected = patch_activations(pair, [cell]).patched.probability
    assert explorer.runs["patched"]["probability"] == pytest.approx(expected, abs=1e-6)


def test_several_cells_of_several_maps(explorer, tiny):
    explorer.run(["attribution"])
    explorer.click(("resid", 1, 0), ("mlp", 3, 2), ("attribution", 9, 1))
    explorer.wait(60)
    cells = [
        Cell(token=1, layer=0),
        Cell(token=3, layer=2, state="mlp", window=4),
        Cell(token=9, layer=1, state="mlp"),
    ]
    pair = clean_and_corrupted(tiny, EIFFEL, samples=3, noise=explorer.controls["noise"])
    expected = patch_activations(pair, cells).patched.probability
    assert explorer.runs["patched"]["probability"] == pytest.approx(expected, abs=1e-6)
    texts = [cell["text"] for cell in explorer.runs["cells"]]
    assert texts[0] == "residual stream at “Eiff” (1), layer 0"
    assert texts[1] == "MLP outputs at “Tower” (3), layers 0–3"
    say(explorer, do="select", cells=explorer.runs["cells"][1:])  # one is taken out
    assert len(explorer.runs["cells"]) == 2
    assert "attribution" in explorer.located
    best = explorer.located["attribution"].top_neurons(1, layer=1, token=9)[0]
    assert explorer.runs["cells"][-1]["more"].startswith(f"top neurons {best.neuron} (")
    explorer.click()
    explorer.wait(30)
    assert explorer.runs["patched"] is None
    assert explorer.patched is None


def test_states_of_another_prompt(explorer, tiny):
    say(explorer, do="select", cells=[{"method": "resid", "token": 3, "layer": 2}])
    say(explorer, do="other", prompt="The Louvre is located in the city of ", subject="Louvre")
    other = Fact(template="The {} is located in the city of", subject="Louvre")
    pair = prompt_pair(tiny, EIFFEL, other)
    expected = patch_activations(pair, [Cell(token=3, layer=2)])
    assert explorer.runs["names"] == ["Other prompt", "This prompt", "Patched run"]
    assert explorer.runs["patched"]["probability"] == pytest.approx(expected.patched.probability, abs=1e-6)
    assert explorer.runs["source"]["probability"] == pytest.approx(expected.source.probability, abs=1e-6)
    assert explorer.runs["other"]["prompt"] == other.prompt
    say(explorer, do="other", prompt="", subject="")
    assert explorer.runs["names"][1] == "Corrupted run"
    assert explorer.runs["other"] is None


def test_edit_and_undo(explorer, tiny, tmp_path):
    before = weights_hash(tiny)
    explorer.run(["resid"])
    explorer.wait(60)
    there = explorer.maps["resid"]
    explorer.edit("Rome", method="rome", layer=2)
    explorer.wait(120)
    assert weights_hash(tiny) == before
    edited = weights_hash(explorer.model)
    assert edited != before
    # the patch, put on the model itself, gives the same weights and answers
    patch = explorer.patch
    assert patch is not None
    with patch.applied(tiny):
        assert weights_hash(tiny) == edited
        rome = replace(EIFFEL, target=" Rome")  # what an edited model is asked for
        pair = clean_and_corrupted(tiny, rome, samples=3, noise=explorer.controls["noise"])
        new = float(pair.source_logits.softmax(-1)[pair.answer_id])
        trace = causal_trace(tiny, rome, samples=3, noise=explorer.controls["noise"])
    assert explorer.fact_shown["answer"] == explorer.runs["answer"] == "Rome"
    assert explorer.runs["source"]["probability"] == pytest.approx(new, abs=1e-6)
    assert explorer.maps == {}  # those that were there are of other weights
    explorer.run(["resid"])
    explorer.wait(60)
    torch.testing.assert_close(explorer.located["resid"].scores, trace.scores, atol=1e-6, rtol=0)
    assert explorer.located["resid"].provenance.weights_hash == edited
    evaluation = explorer.evaluation
    assert evaluation is not None
    rows = explorer.edited["rows"]
    assert [row["prompt"] for row in rows] == [question.prompt for question in evaluation.questions]
    assert rows[0]["metric"] == "reliability"
    assert {row["metric"].split()[0] for row in rows} == {"reliability", "generality", "locality"}
    after = torch.tensor([reading.log_probability for reading in evaluation.after]).exp()
    assert [row["p_after"] for row in rows] == [probability(p) for p in after.tolist()]
    found = interp.evaluate(tiny, patch, interp.case_around(patch.requests[0], interp.load_facts()), fluency_tokens=0)
    assert [a.log_probability for a in found.after] == pytest.approx([a.log_probability for a in evaluation.after])
    saved = Patch.load(explorer.export(tmp_path / "eiffel.patch"))
    torch.testing.assert_close(saved.delta(2), patch.delta(2), atol=0, rtol=0)
    explorer.undo()
    explorer.wait(30)
    assert weights_hash(explorer.model) == before
    assert explorer.maps["resid"] == there
    assert explorer.edited == {}
    assert explorer.patch is None
    assert explorer.runs["answer"] == "Paris"


def test_memit_edits_the_layers_that_end_there(explorer):
    explorer.edit("Rome", method="memit", layer=3)
    explorer.wait(120)
    assert explorer.patch is not None
    assert explorer.patch.layers == (0, 1, 2, 3)
    assert explorer.edited["method"] == "MEMIT"


def test_a_second_edit_takes_the_first_one_back(explorer, tiny):
    explorer.edit("Rome", layer=2)
    explorer.wait(120)
    explorer.edit("Tokyo", layer=1)
    explorer.wait(120)
    alone = interp.edit(
        tiny,
        [EditRequest(EIFFEL, new_target=" Tokyo")],
        config=interp.editing.RomeConfig(layer=1),
        second_moments=interp.second_moments(tiny, [1]),
    )
    assert explorer.patch is not None
    torch.testing.assert_close(explorer.patch.delta(1), alone.delta(1), atol=1e-6, rtol=1e-4)
    assert [patch.layers for patch in applied_patches(explorer.model)] == [(1,)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"do": "choose", "prompt": "The Eifel Tower is in", "subject": "Eiffel", "target": ""},
            "the subject 'Eiffel' does not occur in the prompt 'The Eifel Tower is in'",
        ),
        ({"do": "choose", "prompt": "", "subject": "", "target": ""}, "the subject of the prompt '' is empty"),
        (
            {"do": "edit", "target": "Rome", "method": "rome", "layer": 6},
            "layer 6 does not exist: {model} has layers 0 to 5",
        ),
        ({"do": "edit", "target": " ", "method": "rome", "layer": 1}, "the new target of '{prompt}' is empty"),
        ({"do": "edit", "target": "Paris", "method": "rome", "layer": 1}, "is its target already"),
        (
            {"do": "edit", "target": "Rome", "method": "rmoe", "layer": 1},
            "method must be one of 'rome', 'r-rome', 'memit'",
        ),
        ({"do": "edit", "target": "Rome", "method": "rome", "layer": ""}, "makes no sense"),
        (
            {"do": "select", "cells": [{"method": "resid", "token": 10, "layer": 0}]},
            "token 10 does not exist: there are tokens 0 to 9",
        ),
        ({"do": "other", "prompt": "The Louvre is in", "subject": "Gate"}, "'Gate' does not occur in the prompt"),
        ({"do": "controls", "changes": {"samples": 0}}, "samples must be a positive whole number, got 0"),
        ({"do": "controls", "changes": {"deviations": 0}}, "deviations must lie in (0, 100], got 0"),
        ({"do": "run", "methods": ["mpl"]}, "did you mean 'mlp'"),
        ({"do": "export", "format": "csv"}, "there is no map to export: press Locate first"),
        ({"do": "export", "format": "patch"}, "there is no edit to save: press Edit first"),
        ({"do": "dance"}, "makes no sense"),
        ({}, "makes no sense"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_the_explorer_stays_usable(explorer, tiny, content, expected):
    runs = explorer.runs
    say(explorer, **content)
    wanted = expected.replace("{model}", tiny.cfg.model_name).replace("{prompt}", EIFFEL.prompt)
    assert wanted in explorer.message
    assert "\n" not in explorer.message
    assert explorer.status["busy"] is False
    assert explorer.runs == runs
    explorer.click(("resid", 2, 1))
    explorer.wait(30)  # raises if something is still wrong
    assert explorer.message == ""
    assert explorer.runs["patched"] is not None


def test_a_failure_inside_is_said_too(explorer, monkeypatch):
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr("interp.locate.methods.causal_trace.causal_trace", broken)
    explorer.run(["resid"])
    with pytest.raises(OptionError, match="RuntimeError: no such kernel image"):
        explorer.wait(30)
    assert explorer.status["busy"] is False


def test_stopping_leaves_what_is_finished(explorer):
    def stop_in_the_second_map(change: Any) -> None:
        if change["new"]["method"] == "mlp":
            explorer.stop()

    explorer.observe(stop_in_the_second_map, "rows")
    explorer.run(["resid", "mlp", "attn"])
    assert explorer._worker.wait(60)
    assert list(explorer.maps) == ["resid"]
    assert explorer.status["busy"] is False
    explorer.unobserve_all("rows")
    explorer.run(["resid", "mlp"])  # goes on with what is missing
    explorer.wait(60)
    assert set(explorer.maps) == {"resid", "mlp"}


def test_clicks_are_answered_while_a_map_is_computed(explorer):
    seen = []

    def click_once(change: Any) -> None:
        if change["new"]["doing"] == "tracing MLP outputs" and not seen:
            seen.append(change["new"])
            explorer.click(("resid", 2, 1))

    answered = []
    explorer.observe(click_once, "status")
    explorer.observe(lambda change: answered.append(explorer.status["busy"]), "runs")
    explorer.run(["mlp"])
    explorer.wait(60)
    assert answered == [True]  # the map was not finished
    assert explorer.maps["mlp"]["finished"]
    assert explorer.runs["patched"] is not None


def test_closing_the_last_view_stops_the_work(explorer):
    say(explorer, do="view", open=True)
    say(explorer, do="view", open=True)  # shown a second time
    views = []

    def close(change: Any) -> None:
        if change["new"]["doing"] == "tracing the residual stream" and not views:
            views.append(True)
            explorer._heard(explorer, {"do": "view", "open": False}, None)
            explorer._heard(explorer, {"do": "view", "open": False}, None)

    explorer.observe(close, "status")
    explorer.run()
    assert explorer._worker.wait(60)
    assert explorer.maps == {}


def test_sliders_drop_what_depends_on_them(explorer, tiny):
    explorer.run()
    explorer.wait(120)
    say(explorer, do="controls", changes={"window": 2})
    assert set(explorer.maps) == {"resid", "attribution"}
    before = explorer.runs["base"]["probability"]
    say(explorer, do="controls", changes={"deviations": 1.5})
    assert set(explorer.maps) == {"attribution"}
    assert explorer.runs["base"]["probability"] != before
    level = interp.noise_level(tiny, interp.load_facts(), deviations=1.5)
    expected = clean_and_corrupted(tiny, EIFFEL, samples=3, noise=level)
    found = expected.base_logits.softmax(-1)[:, expected.answer_id].mean()
    assert explorer.runs["base"]["probability"] == pytest.approx(float(found), abs=1e-6)
    assert explorer.controls == {"deviations": 1.5, "samples": 3, "window": 2, "steps": 4, "noise": level}


def test_another_fact(explorer, tiny):
    explorer.run(["resid"])
    explorer.wait(60)
    say(explorer, do="choose", prompt="The Louvre is located in the city of", subject="Louvre", target="Paris")
    assert explorer.fact == Fact(template="The {} is located in the city of", subject="Louvre", target=" Paris")
    assert explorer.maps == {}
    assert explorer.fact_shown["tokens"][explorer.fact_shown["span"][0]].strip("*") in "Louvre"
    say(explorer, do="choose", index=3)
    assert explorer.fact == interp.load_facts()[3]
    say(explorer, do="choose", prompt="The Louvre is in", subject="Louvre", target="")
    top = interp.locate.top_answers(tiny, [explorer.fact])[0]
    assert explorer.fact_shown["answer"] == token_label(top.top_answer)


def test_exports(explorer, tmp_path):
    explorer.run(["resid", "attribution"])
    explorer.wait(60)
    rows = list(csv.DictReader(io.StringIO(explorer.export(tmp_path / "maps.csv").read_text("utf-8"))))
    values = explorer.located["resid"].indirect_effect
    found = [float(row["value"]) for row in rows if row["map"] == "resid"]
    assert found == pytest.approx(values.flatten().tolist())
    assert [row["text"] for row in rows if row["map"] == "resid" and row["layer"] == "0"] == list(
        explorer.located["resid"].tokens
    )
    for form, start in (("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!doctype html>")):
        assert explorer.export(tmp_path / f"maps.{form}").read_bytes().startswith(start)
    sent = []
    explorer.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    say(explorer, do="export", format="csv")
    assert sent == [({"export": "csv", "name": "eiffel-tower-explored"}, [(tmp_path / "maps.csv").read_bytes()])]
    with pytest.raises(OptionError, match="format must be one of 'pdf', 'svg'"):
        explorer.export(tmp_path / "maps.jpg")


def test_a_fact_that_does_not_fit_is_refused_at_once(tiny):
    with pytest.raises(FactError, match="the model's context holds"):
        explore(tiny, Fact(template="{}" + " and so on" * 400, subject="He"))
    assert not any(thread.name == "interp-explorer" for thread in threading.enumerate())


def test_the_model_may_be_used_and_hooked_meanwhile(explorer, tiny):
    """Hooks that a notebook cell puts on the model do not reach the explorer's runs, nor the other way round."""
    expected = explorer.runs["source"]["probability"]
    tiny.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 0 * value)
    try:
        say(explorer, do="controls", changes={"samples": 2})
        assert explorer.runs["source"]["probability"] == pytest.approx(expected, abs=1e-6)
    finally:
        tiny.reset_hooks()


def test_weights_that_change_under_it_are_noticed(tiny, facts):
    session = Session(tiny, EIFFEL, controls=CONTROLS)
    session.locate("resid")
    before = session.provenance.weights_hash
    patch = interp.edit(tiny, [EditRequest(EIFFEL, new_target=" Rome")], second_moments="identity", contexts=["{}"])
    with patch.applied(tiny):  # by the user, beside the explorer
        session.pair()
        assert session.maps == {}
        assert session.provenance.weights_hash == weights_hash(tiny) != before
    session.pair()
    assert session.provenance.weights_hash == before


def test_a_view_shares_weights_and_nothing_else(tiny):
    tiny.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 0 * value)
    try:
        view = private_view(tiny)
    finally:
        tiny.reset_hooks()
    assert all(a is b for a, b in zip(tiny.parameters(), view.parameters(), strict=True))
    tokens = tiny.to_tokens("The Eiffel Tower", prepend_bos=False)
    assert torch.equal(tiny(tokens), view(tokens))
    patch = interp.edit(tiny, [EditRequest(EIFFEL, new_target=" Rome")], second_moments="identity", contexts=["{}"])
    before = weights_hash(tiny)
    edited = EditedLayers(view, patch)
    assert weights_hash(tiny) == before != weights_hash(view)
    edited.undo()
    assert all(a is b for a, b in zip(tiny.parameters(), view.parameters(), strict=True))
    with patch.applied(tiny):  # the view has other weights now: the patch is refused, and nothing is left of the try
        other = private_view(tiny)
        with pytest.raises(InterpError, match="made for"):
            EditedLayers(other, patch)
        assert all(a is b for a, b in zip(tiny.parameters(), other.parameters(), strict=True))


def test_without_the_notebook_packages(tmp_path: Path):
    code = """
import sys
sys.modules["anywidget"] = None
import interp
model = interp.load_model(sys.argv[1], device="cpu")
try:
    interp.explore(model)
except interp.InterpError as error:
    print(error)
"""
    folder = Path(__file__).parent / "golden" / "tiny-gpt2"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert "the explorer needs the package anywidget: pip install 'interp[notebooks]'" in done.stdout


def test_the_patch_file_is_not_a_pickle(explorer, tmp_path):
    explorer.edit("Rome", layer=2)
    explorer.wait(120)
    with safe_open(explorer.export(tmp_path / "a.patch"), framework="pt") as file:
        assert file.metadata()["kind"] == "Patch"


def test_another_fact_located_at_once(explorer, tiny):
    """Two messages in a row: the second must not overtake or drop the first."""
    louvre = {"prompt": "The Louvre is located in the city of", "subject": "Louvre", "target": "Paris"}
    explorer._heard(explorer, {"do": "choose", **louvre}, None)
    explorer._heard(explorer, {"do": "run", "methods": ["resid"]}, None)
    explorer.wait(60)
    fact = Fact(template="The {} is located in the city of", subject="Louvre", target=" Paris")
    expected = causal_trace(tiny, fact, samples=3, noise=explorer.controls["noise"])
    torch.testing.assert_close(explorer.located["resid"].scores, expected.scores, atol=1e-6, rtol=0)
    assert explorer.located["resid"].fact == fact


def test_an_edit_that_is_stopped_leaves_none(explorer, tiny):
    explorer.edit("Rome", layer=2)
    explorer.wait(120)
    stopped = []

    def stop(change: Any) -> None:
        if change["new"]["doing"] == "editing with ROME" and change["new"]["fraction"] > 0 and not stopped:
            stopped.append(True)
            explorer.stop()

    explorer.observe(stop, "status")
    explorer.edit("Tokyo", layer=1)
    assert explorer._worker.wait(60)
    assert stopped
    assert explorer.patch is None
    assert explorer.edited == {}  # the page says so, too
    assert weights_hash(explorer.model) == weights_hash(tiny)
    assert explorer.runs["answer"] == "Paris"


def test_a_closed_explorer_says_so(tiny, tmp_path):
    found = explore(tiny, EIFFEL, controls=CONTROLS)
    found.close()
    for call in (found.run, found.undo, found.click, lambda: found.export(tmp_path / "a.csv")):
        with pytest.raises(OptionError, match="the explorer is closed"):
            call()


# what must not break it


@pytest.mark.parametrize(
    "changes",
    [{"samples": 10**9}, {"samples": 0}, {"steps": 10**9}, {"window": 0}, {"deviations": float("nan")}, {"seed": -1},
     {"volume": 3}, {"samples": "3"}, {"deviations": "x"}],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_a_control_that_is_refused_changes_nothing(explorer, changes):
    before = dict(explorer.controls)
    explorer.set_controls(**changes)
    with pytest.raises(OptionError):
        explorer.wait(30)
    assert explorer.controls == before
    explorer.click(("resid", 2, 1))
    explorer.wait(30)
    assert explorer.runs["patched"] is not None


def test_a_control_that_is_too_much_for_the_machine_goes_back(explorer, monkeypatch):
    before, real = dict(explorer.controls), interp.explorer.session.clean_and_corrupted

    def too_much(*arguments: Any, samples: int, **options: Any) -> Any:
        if samples > 100:
            raise MemoryError
        return real(*arguments, samples=samples, **options)

    monkeypatch.setattr("interp.explorer.session.clean_and_corrupted", too_much)
    explorer.set_controls(samples=900)
    with pytest.raises(OptionError, match="MemoryError"):
        explorer.wait(30)
    assert explorer.controls == before
    explorer.click(("resid", 2, 1))
    explorer.wait(30)
    assert explorer.runs["patched"] is not None


def test_an_export_that_waits_is_told_that_the_explorer_was_closed(explorer, tmp_path):
    started, go, said = threading.Event(), threading.Event(), []

    def busy() -> None:
        started.set()
        assert go.wait(30)

    def export() -> None:
        try:
            explorer.export(tmp_path / "x.csv")
        except OptionError as error:
            said.append(str(error))

    explorer._worker.submit(busy)
    assert started.wait(30)
    thread = threading.Thread(target=export)
    thread.start()
    while not explorer._worker._quick:
        time.sleep(0.01)
    closing = threading.Thread(target=explorer.close)
    closing.start()
    thread.join(30)  # before the job that runs has ended
    assert said == ["the explorer was closed"]
    go.set()
    closing.join(30)
    with pytest.raises(OptionError, match="closed"):
        explorer.export(tmp_path / "x.csv")


def test_a_stop_is_heard_while_the_model_writes(explorer, monkeypatch):
    """Where nobody tells how far the work is, each pass up the network is a place to stop."""
    started, passes = threading.Event(), []

    def write_for_long(model: Any, *_: Any, **__: Any) -> Any:
        for _ in range(100_000):
            generate(model, [[1, 2, 3]], 2)
            passes.append(1)
            started.set()

    monkeypatch.setattr("interp.explorer.session.second_moments", write_for_long)
    explorer.edit(" Rome", layer=0)
    assert started.wait(60)
    explorer.stop()
    assert explorer._worker.wait(60)
    assert len(passes) < 100_000
    assert explorer.patch is None
    assert explorer.status["busy"] is False
    assert not any(point.fwd_hooks for point in explorer.model.hook_dict.values())
    explorer.click(("resid", 2, 1))
    explorer.wait(60)
    assert explorer.runs["patched"] is not None
