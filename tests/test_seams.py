"""What is listed once is known everywhere: an invented editor and an invented locator of a few lines."""

import csv
import os
import subprocess
import sys
from dataclasses import dataclass, field

import platformdirs
import pytest
import torch
from jaxtyping import Float

import interp
from interp.editing import EDITORS
from interp.editing.config import AtOneLayer, SpreadConfig
from interp.editing.method import Change, Editor
from interp.editing.spread import spread_editor
from interp.engine.cells import Cell
from interp.errors import InterpWarning, OptionError
from interp.explorer.page import editors_data, map_data, maps_data, panels
from interp.explorer.session import Session
from interp.facts.records import EditRequest, Fact
from interp.locate.class_average import ClassAverage
from interp.locate.method import LocateTask, Locator
from interp.locate.methods import LOCATORS
from interp.models.tokens import tokenize
from interp.models.weights import weights_hash
from interp.results.mapped import MapRecord
from interp.results.record import Provenance, provenance
from interp.study.again import relocated
from tests.token_maps import a_map

pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")
TOWER = EditRequest(
    Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"), new_target=" Rome"
)
NORWAY = EditRequest(Fact(template="{} is governed from", subject="Norway", target=" Oslo"), new_target=" Lima")


@dataclass(frozen=True, kw_only=True)
class ShiftConfig(AtOneLayer):
    """How far every weight is shifted."""

    layer: int
    by: float = 0.25
    origin: str = field(default="given", compare=False)


def shift(task):
    W_out = task.model.blocks[task.config.layer].mlp.W_out
    outcomes = tuple(
        interp.patches.Outcome(converged=True, probability=None, loss=None, steps=0) for _ in task.requests
    )
    return Change(dense={task.config.layer: torch.full_like(W_out, task.config.by)}, outcomes=outcomes)


SHIFT = Editor(
    name="shift", title="Shift", config=ShiftConfig, default=lambda model: ShiftConfig(layer=3), change=shift
)


@dataclass(frozen=True, kw_only=True)
class PlainConfig(SpreadConfig):
    """As MEMIT's."""


def keys_alone(given):
    """A solve of its own: K (K^T K + 1)^-1, no second moment."""
    K = given.keys.double()
    return K @ torch.linalg.inv(K.T @ K + torch.eye(K.shape[1]))


PLAIN = spread_editor(
    name="plain",
    title="Plain keys",
    config=PlainConfig,
    default=lambda model: PlainConfig(layers=(1, 2), steps=3),
    sites=("resid_post",),
    spread_site="resid_post",
    divisor=float,
    solve=keys_alone,
)


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    """The one line."""
    monkeypatch.setitem(EDITORS, "shift", SHIFT)
    monkeypatch.setitem(EDITORS, "plain", PLAIN)


def test_it_edits(tiny, tmp_path):
    before = weights_hash(tiny)
    patch = interp.edit(tiny, [TOWER], method="shift")
    assert torch.equal(patch.delta(3), torch.full_like(patch.delta(3), 0.25))
    assert (patch.method, patch.layers, patch.config) == ("shift", (3,), {"layer": 3, "by": 0.25, "origin": "given"})
    assert patch.outcomes[0].took is False
    assert weights_hash(tiny) == before
    patch.save(tmp_path / "shift.patch")
    again = interp.Patch.load(tmp_path / "shift.patch")
    assert torch.equal(again.delta(3), patch.delta(3))
    each = interp.edit_each(tiny, [TOWER, NORWAY], method="shift", config=ShiftConfig(layer=1))
    assert [one.layers for one in each] == [(1,), (1,)]
    in_turn = interp.edit_sequentially(tiny, [TOWER, NORWAY], method="shift")
    assert torch.equal(in_turn.delta(3), torch.full_like(patch.delta(3), 0.5))


def test_a_solve_of_its_own(tiny):
    options = {"second_moments": "identity", "contexts": ["{}", "So. {}"]}
    patch = interp.edit(tiny, [TOWER, NORWAY], method="plain", **options)
    assert patch.layers == (1, 2)
    memit = interp.edit(
        tiny, [TOWER, NORWAY], method="memit", config=interp.editing.MemitConfig(layers=(1, 2), steps=3), **options
    )
    # at the first layer the same keys in another metric: both span the same space, with other lengths
    both = torch.nn.functional.normalize(torch.cat([patch.left[1], memit.left[1]], 1).double(), dim=0)
    assert torch.linalg.matrix_rank(both, rtol=1e-4) == 2
    assert not torch.allclose(patch.left[1], memit.left[1], rtol=0.1)


def test_its_settings(tiny):
    assert interp.default_config(tiny, "shift") == ShiftConfig(layer=3)
    assert interp.default_config(tiny, "shift", layer=0) == ShiftConfig(layer=0)
    assert interp.default_config(tiny, "plain", layer=5).layers == (1, 2, 3, 4, 5)
    with pytest.raises(OptionError, match="shift takes a ShiftConfig, got a RomeConfig"):
        interp.edit(tiny, [TOWER], method="shift", config=interp.editing.RomeConfig(layer=3))
    with pytest.raises(OptionError, match="layer 6 does not exist"):
        interp.edit(tiny, [TOWER], method="shift", config=ShiftConfig(layer=6))
    with pytest.raises(OptionError, match="shift takes no contexts"):
        interp.edit(tiny, [TOWER], method="shift", contexts=["{}"])
    with pytest.raises(OptionError, match="did you mean 'shift'"):
        interp.edit(tiny, [TOWER], method="shit")


def test_the_explorer_offers_it(tiny):
    offered = {entry["name"]: entry for entry in editors_data(tiny)}
    assert offered["shift"] == {"name": "shift", "title": "Shift", "layer": 3}
    assert offered["plain"] == {"name": "plain", "title": "Plain keys (2 layers, up to this)", "layer": 2}
    assert {"rome", "memit", "pmet", "ft-l"} <= set(offered)
    assert "kn" not in offered  # it chooses its layers


def test_the_explorer_edits_with_it(tiny):
    session = Session(tiny, TOWER.fact)
    found = session.edit("Rome", method="shift", layer=2)
    assert (found.method, found.layers) == ("shift", (2,))


def test_its_rows_stand_in_table_1(tiny):
    patches = interp.edit_each(tiny, [TOWER, NORWAY], method="shift")
    cases = [interp.EditCase(id=str(i), request=request) for i, request in enumerate((TOWER, NORWAY))]
    found = interp.evaluate_each(tiny, patches, cases, fluency_tokens=0)
    row = interp.table_row(found, locator="By hand", layers="3")
    assert "shift" in interp.plots.table1_csv([row], [])
    assert "SHIFT" in interp.plots.table1_markdown([row], []).upper()


ALONE = {"limit": None, "stride": 3, "corpus": interp.Corpus(tokens=1024), "fluency_tokens": 4}


def averages_of(*locators):
    """Maps that peak at layer 4."""
    mean = torch.zeros(len(interp.models.TOKEN_CLASSES), 6)
    mean[:, 4] = 1.0
    n = (1,) * len(mean)
    peaks = (4,) * len(mean)
    return [
        ClassAverage(
            provenance=Provenance(model="m", weights_hash="0", dtype="float32", device="cpu", versions={}),
            method=name, title=name, unit="", token_classes=interp.models.TOKEN_CLASSES, mean=mean, low=mean,
            high=mean, peak=peaks, peak_low=peaks, peak_high=peaks, n_facts=n, n_tokens=n,
        )
        for name in locators
    ]  # fmt: skip


@pytest.fixture(scope="module")
def studied(tiny, tmp_path_factory):
    """A study with an editor and a locator that nobody knows, and an editor that chooses its layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_dir", lambda *_: str(tmp_path_factory.mktemp("cache")))
        for table, entry in ((EDITORS, SHIFT), (EDITORS, PLAIN), (LOCATORS, LENGTHS)):
            patch.setitem(table, entry.name, entry)
        editors, locators = ("shift", "plain", "kn"), ("lengths",)
        settings = interp.EditStudySettings(editors=editors, locators=locators, located_again=locators, **ALONE)
        cases = [interp.EditCase(id=str(i), request=request) for i, request in enumerate((TOWER, NORWAY))]
        averages = averages_of(*locators)
        folder = tmp_path_factory.mktemp("study")
        run = interp.edit_cases(tiny, cases, averages, folder, settings, noise=0.3)
        return interp.read_edit_results(run, averages), relocated(run), run


def test_it_stands_in_the_study(studied):
    results, again, run = studied
    assert [(row.locator, row.method, row.layers, row.n_cases) for row in results.rows] == [
        ("Before any edit", "none", "-", 2),
        ("residual lengths", "shift", "4", 2),
        ("residual lengths", "plain", "0-4", 2),
        ("Random layer (control)", "shift", "1 random", 2),
        ("Random layer (control)", "plain", "5 random", 2),
        ("Chosen by the editor", "kn", "own", 2),
    ]
    assert [(found.first, found.second, found.method) for found in results.comparisons] == [
        ("residual lengths", "Random layer (control)", "shift"),
        ("residual lengths", "Random layer (control)", "plain"),
    ]
    assert list(results.by_layer) == [0, 3]
    assert [strength.chosen for strength in results.strengths] == [4]
    before, after = again.records["lengths"]
    assert not torch.equal(before.values, after.values)
    patch = run.get(interp.Patch, "patch-plain-0-4-0000")
    assert (patch.method, patch.layers) == ("plain", (0, 1, 2, 3, 4))


def test_it_stands_in_every_form_of_the_table(studied):
    results, _, _ = studied
    text = interp.plots.table1_csv(results.rows, results.comparisons)
    header, *lines = csv.reader(text.splitlines())
    assert {len(line) for line in lines} == {len(header)}
    assert {line[3] for line in lines if line[0] == "row"} == {"none", "shift", "plain", "kn"}
    markdown = interp.plots.table1_markdown(results.rows, results.comparisons)
    for table in markdown.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1
    assert "| residual lengths | Shift" in markdown
    assert "Knowledge neurons" in markdown
    assert "Plain keys" in interp.plots.table1_latex(results.rows, results.comparisons)


def test_it_stands_in_the_figure_of_layers_and_the_page(studied):
    results, _, _ = studied
    titles = [
        axes.get_title(loc="left") for axes in interp.plots.scores_by_layer(results.by_layer, results.strengths).axes
    ]
    assert titles[0].startswith("Shift at each layer")
    page = results._repr_mimebundle_()["text/html"]
    assert "Shift by layer" in page
    assert "Plain keys" in page


def test_the_command_line_offers_it(monkeypatch):
    """In a process of its own: what a table holds is read once."""
    code = (
        "from interp.editing.methods import EDITORS; from interp.locate.methods import LOCATORS; import sys;"
        "EDITORS['shift'] = LOCATORS['lengths'] = 'nowhere.X'; sys.argv = ['interp', 'study', '--help'];"
        "from interp.cli import main; main()"
    )
    environment = {**os.environ, "COLUMNS": "200"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "shift" in shown.stdout
    assert "lengths" in shown.stdout


def test_no_warning_is_lost(tiny):
    with pytest.warns(InterpWarning, match="did not take"):
        interp.edit(tiny, [TOWER], method="shift")


# a locator


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LengthsRecord(MapRecord):
    """The norms of the residual stream."""

    fact: Fact
    tokens: tuple[str, ...]
    subject_span: tuple[int, int]
    values: Float[torch.Tensor, "token layer"]

    def map(self):
        return a_map(self.values, self.tokens, self.subject_span, locator="lengths", title="Lengths", unit="norm")


def lengths(task):
    read = tokenize(task.model, task.fact)
    with torch.no_grad():
        _, cache = task.model.run_with_cache(read.ids[None], prepend_bos=False)
    layers = range(task.model.cfg.n_layers)
    values = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0].norm(dim=-1) for layer in layers], 1)
    return LengthsRecord(
        provenance=task.model_provenance or provenance(task.model),
        fact=task.fact,
        tokens=read.strings,
        subject_span=read.subject_span,
        values=values,
    )


LENGTHS = Locator(
    name="lengths",
    title="residual lengths",
    hue=90.0,
    row=2,
    turn=9,
    doing="measuring lengths",
    record=LengthsRecord,
    run=lengths,
    averaged=lambda record: record.map(),
    about=lambda fact: {"fact": fact},
    cell=lambda token, layer, window: Cell(token=token, layer=layer),
    depends=frozenset(),
)


@pytest.fixture
def with_lengths(monkeypatch):
    """The one line."""
    monkeypatch.setitem(LOCATORS, "lengths", LENGTHS)


def test_a_locator_stands_in_the_study_and_figure_1(tiny, facts, tmp_path, with_lengths):
    settings = interp.LocateSettings(limit=2, samples=1, window=2, steps=1, noise=0.3)
    run = interp.locate_facts(tiny, facts, tmp_path, settings)
    assert {path.stem for path in (tmp_path / "records").iterdir()} >= {"0000-lengths", "0001-lengths"}
    averages = interp.class_averages(interp.RunFolder(tmp_path))
    assert [average.method for average in averages] == [*LOCATORS]
    assert averages[-1].title == "Lengths"
    figure = interp.figure1(averages)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert (len(titles), titles[-1]) == (len(LOCATORS), "Lengths")
    header, *lines = csv.reader(interp.plots.figure1_csv(averages).splitlines())
    assert {len(line) for line in lines} == {len(header)}
    assert sum(line[1:3] == ["lengths", "norm"] for line in lines) == 6 * tiny.cfg.n_layers
    assert "Lengths" in interp.plots.figure1_html(averages)
    located = interp.study.located(run)[0].records["lengths"]
    assert torch.equal(located.values, interp.study.located(interp.RunFolder(tmp_path))[0].records["lengths"].values)


def test_a_locator_without_a_map_is_none(tiny, with_lengths):
    @dataclass(frozen=True, kw_only=True, eq=False, repr=False)
    class NoMap(MapRecord):
        """It lacks what everything else shows."""

    with pytest.raises(TypeError, match="map"):
        NoMap(provenance=provenance(tiny), fact=TOWER.fact)


def test_a_locator_stands_in_the_explorer(tiny, with_lengths):
    entry = maps_data()[-1]
    assert entry == {"name": "lengths", "title": "residual lengths", "puts": "the residual stream here"}
    session = Session(tiny, TOWER.fact)
    found = session.locate("lengths")
    assert [shown.title for shown in panels(session)] == ["Lengths"]
    assert map_data(found, finished=True)["method"] == "lengths"


def test_a_locators_map_is_drawn_everywhere(tiny, with_lengths, tmp_path):
    found = lengths(LocateTask(model=tiny, fact=TOWER.fact, noise=0.0))
    found.save(tmp_path / "record.safetensors")
    shown = LengthsRecord.load(tmp_path / "record.safetensors").map()
    interp.save_figure(interp.heatmap(shown), tmp_path / "map", formats=("svg",))
    assert "Lengths" in (tmp_path / "map.svg").read_text("utf-8")
    assert "Lengths" in interp.plots.heatmap_html(shown)
    assert repr(found).startswith("Lengths\n")
    assert "<img" in found._repr_mimebundle_()["text/html"]
    assert len(interp.plots.heatmap_text(shown).plain.splitlines()) >= len(shown.tokens)
    assert interp.plots.maps_csv([shown]).count("\n") == 1 + shown.values.numel()
