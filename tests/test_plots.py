"""Figures of made-up averages and maps: what is in the files, and that they are the same every time."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from rich.console import Console

from interp import plots
from interp.errors import OptionError
from interp.locate.class_average import ClassAverage
from interp.locate.methods import locator_named
from interp.models.tokens import TOKEN_CLASSES
from interp.plots import style
from interp.plots.maps import maps, maps_csv, maps_html
from interp.plots.panel import layer_ticks, token_labels
from interp.plots.style import colour_scale
from interp.results.record import Provenance
from tests.token_maps import a_map

METHODS = ("attribution", "resid", "mlp", "attn")
TOKENS = ("<|endoftext|>", "The", " Space", " Need", "le", " cost", " $x$", " in", "\n", " ", "\ufffd", "中", " of")
SPAN = (2, 5)
MAP = {"title": "The Space Needle costs $5 or $6", "unit": "indirect effect"}


def average(method: str, *, layers: int = 6, empty: int | None = None, model: str = "tiny") -> ClassAverage:
    mean = torch.rand(6, layers, generator=torch.Generator().manual_seed(layers + len(method)))
    if empty is not None:
        mean[empty] = torch.nan
    peak = tuple(-1 if row == empty else int(mean[row].argmax()) for row in range(6))
    return ClassAverage(
        provenance=Provenance(model=model, weights_hash="0" * 16, dtype="float32", device="cpu", versions={}),
        method=method,
        title=f"Where {method} finds facts",
        unit="score × 10,000" if method == "attribution" else "indirect effect",
        token_classes=TOKEN_CLASSES,
        mean=mean,
        low=mean - 0.125,
        high=mean + 0.25,
        peak=peak,
        peak_low=tuple(max(p - 1, -1 if p < 0 else 0) for p in peak),
        peak_high=tuple(-1 if p < 0 else min(p + 1, layers - 1) for p in peak),
        n_facts=tuple(0 if row == empty else 11 + row for row in range(6)),
        n_tokens=tuple(0 if row == empty else 31 + row for row in range(6)),
    )


@pytest.fixture(scope="module")
def averages() -> list[ClassAverage]:
    return [average(method, empty=1 if method == "mlp" else None) for method in METHODS]


@pytest.fixture(scope="module")
def values() -> torch.Tensor:
    return torch.rand(len(TOKENS), 30, generator=torch.Generator().manual_seed(0))


def svg_texts(path: Path) -> list[str]:
    text = path.read_text("utf-8")
    return [re.sub(r"<[^>]+>", "", found).strip() for found in re.findall(r"<text.*?</text>", text, re.DOTALL)]


def test_files_of_figure1(averages: list[ClassAverage], tmp_path: Path) -> None:
    paths = plots.save_figure(plots.figure1(averages), tmp_path / "new" / "gpt2-1.5b", dpi=50)
    assert [path.name for path in paths] == ["gpt2-1.5b.pdf", "gpt2-1.5b.svg", "gpt2-1.5b.png"]
    pdf, svg, png = paths
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/FontFile2" in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")
    texts = svg_texts(svg)
    assert [texts.count(name) for name in TOKEN_CLASSES] == [2] * 6  # of the left-most panels only
    assert texts.count("Layer") == 4
    assert texts.count("n = 11") == 4
    assert texts.count("n = 12") == 3
    assert texts.count("n = 0") == 1
    assert {"tiny", "no such token", "score × 10,000", "peak layer, and those not told from it (95%)"} <= set(texts)
    assert "dc:date" not in svg.read_text("utf-8")


def test_figures_are_the_same_every_time(averages: list[ClassAverage], values: torch.Tensor, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plots.save_figure(plots.figure1(averages), tmp_path / f"figure1-{name}", dpi=50)
        plots.save_figure(plots.heatmap(a_map(values, TOKENS, SPAN, **MAP)), tmp_path / f"map-{name}", dpi=50)
    for figure in ("figure1", "map"):
        for ending in ("pdf", "svg", "png"):
            first, second = (tmp_path / f"{figure}-{name}.{ending}" for name in ("a", "b"))
            assert first.read_bytes() == second.read_bytes()
    assert plots.figure1_html(averages) == plots.figure1_html(averages)


@pytest.mark.parametrize("width", plots.WIDTHS)
@pytest.mark.parametrize(("count", "layers"), [(1, 2), (2, 48), (3, 3), (4, 30)])
def test_any_number_of_panels_and_layers(width: str, count: int, layers: int) -> None:
    figure = plots.figure1([average(method, layers=layers) for method in METHODS[:count]], width=width)
    assert figure.get_size_inches()[0] == plots.WIDTHS[width]
    assert len(figure.axes) == 2 * count  # each with its colour bar
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_attribution_comes_first(averages: list[ClassAverage]) -> None:
    figure = plots.figure1(averages[::-1])
    maps = figure.axes[::2]
    assert [axes.get_title(loc="left").split()[1] for axes in maps] == list(METHODS)
    spanning, *below = (axes.get_position() for axes in maps)
    assert spanning.y0 > max(box.y1 for box in below)
    assert spanning.x0 == pytest.approx(below[0].x0)
    assert spanning.x1 == pytest.approx(below[-1].x1)
    assert len({round(box.y0, 9) for box in below}) == 1


def test_marks_lie_on_peaks(averages: list[ClassAverage]) -> None:
    mlp = averages[2]
    lines = plots.figure1([mlp]).axes[0].get_lines()
    dots = [tuple(map(int, line.get_xydata()[0])) for line in lines if line.get_marker() == "o"]
    bars = [tuple(map(int, line.get_xdata())) for line in lines if line.get_marker() != "o"]
    rows = [0, 2, 3, 4, 5]  # row 1 is empty
    assert dots == [(mlp.peak[row], row) for row in rows]
    assert bars == [(mlp.peak_low[row], mlp.peak_high[row]) for row in rows]


def test_figure1_html(averages: list[ClassAverage]) -> None:
    page = plots.figure1_html(averages)
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)\s*=", page)
    assert len(page) > 1_000_000  # the library is in it
    value = f"{float(averages[0].mean[2, 3]):.4g}"
    assert f"mean {value}" in page
    for part in (
        "Last subject token",
        "layer 3",
        "95% interval",
        "n = 13 facts, 33 tokens",
        "First subject token (n = 11)",
    ):
        assert part in page


def test_bars_on_the_page_are_the_peaks_intervals(averages: list[ClassAverage]) -> None:
    lopsided = dataclasses.replace(
        averages[2], peak=(3,) * 6, peak_low=(1, 0, 3, 2, 3, 1), peak_high=(4, 5, 3, 3, 4, 5)
    )
    page = plots.figure1_html([lopsided])
    bars = re.search(r'"error_x":(\{.*?\})', page)
    assert bars is not None
    found = json.loads(bars[1])
    assert found["array"] == [1, 2, 0, 0, 1, 2]  # lengths, to the right
    assert found["arrayminus"] == [2, 3, 0, 1, 0, 2]  # and to the left


def test_figure1_csv(averages: list[ClassAverage]) -> None:
    lines = list(csv.DictReader(io.StringIO(plots.figure1_csv(averages))))
    assert len(lines) == 4 * 6 * 6
    by_method = {a.method: a for a in averages}
    for line in lines:
        source = by_method[line["method"]]
        row, layer = TOKEN_CLASSES.index(line["token_class"]), int(line["layer"])
        for column, tensor in (("mean", source.mean), ("low95", source.low), ("high95", source.high)):
            expected = tensor[row, layer].item()
            found = np.float32(line[column] or "nan").item()
            assert found == expected or (line[column] == "" and np.isnan(expected))
        assert (line["model"], line["unit"]) == ("tiny", source.unit)
        assert (int(line["n_facts"]), int(line["n_tokens"])) == (source.n_facts[row], source.n_tokens[row])
        assert line["peak"] == str(int(source.peak[row] == layer))
        assert (line["peak_low95"] or "-1", line["peak_high95"] or "-1") == (
            str(source.peak_low[row]),
            str(source.peak_high[row]),
        )


def test_heatmap_labels(values: torch.Tensor, tmp_path: Path) -> None:
    figure = plots.heatmap(a_map(values, TOKENS, SPAN, **MAP))
    (path,) = plots.save_figure(figure, tmp_path / "map", formats=["svg"])
    texts = [text.replace("&lt;", "<").replace("&gt;", ">") for text in svg_texts(path)]
    shown = ["<|endoftext|>", "The", "Space*", "Need*", "le*", "cost", "$x$", "in", "↵", "·", "\ufffd", "\\u4e2d", "of"]
    assert [text for text in texts if text in shown] == shown
    assert any("$5" in text for text in texts)
    assert "indirect effect" in texts


def test_labels_in_a_browser_keep_all_letters() -> None:
    assert token_labels(["中", "", "\x07", "a" * 40, "  x"], (0, 1)) == ["中*", "∅", "\\x07", "a" * 21 + "…", " x"]


def test_heatmap_html(values: torch.Tensor) -> None:
    page = plots.heatmap_html(a_map(values, TOKENS, SPAN, locator="attn", **MAP))
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)\s*=", page)
    assert f"indirect effect: {float(values[2, 7]):.4g}" in page
    assert "Space*" in page
    assert "endoftext" in page
    assert "<|endoftext|>" not in page


def test_heatmap_in_a_terminal(values: torch.Tensor) -> None:
    values = values.clone()
    values[0] = torch.nan
    values[4, 17] = 2.5
    text = plots.heatmap_text(a_map(values, TOKENS, SPAN, locator="mlp"))
    lines = text.plain.splitlines()
    assert len(lines) == len(TOKENS) + 2
    assert max(map(len, lines)) <= 120
    assert lines[5].split() == ["le*", "2.5", "17"]
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="truecolor", width=120).print(text)
    darkest = ";".join(str(round(255 * part)) for part in plots.sequential(locator_named("mlp").hue)(1.0)[:3])
    assert f"\x1b[48;2;{darkest}m" in stream.getvalue()


@pytest.mark.parametrize("method", METHODS)
def test_maps_fall_in_grey(method: str) -> None:
    colours = plots.sequential(locator_named(method).hue)(np.linspace(0, 1, 256))[:, :3]
    grey = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) < 1e-9).all()
    assert grey[0] > 0.9
    assert grey[-1] < 0.35


def test_signed_values_are_centred() -> None:
    signed = colour_scale(np.array([[-0.5, 0.25]]), hue=150.0)
    assert (signed.colours, signed.low, signed.high) == (plots.DIVERGING, -0.5, 0.5)
    assert (colour_scale(np.array([[0.1, 0.5]]), hue=150.0).low) == 0
    assert (colour_scale(np.array([[-0.1, 0.5]]), hue=150.0).low) == -0.1
    assert (colour_scale(np.array([[0.4, 0.5]]), hue=150.0).low) == 0.4
    flat = colour_scale(np.full((2, 2), np.nan), hue=150.0)
    assert flat.low < flat.high


def test_constant_and_missing_maps_are_drawn() -> None:
    for values in (torch.zeros(2, 3), torch.full((2, 3), 0.5), torch.full((2, 3), -0.5), torch.full((2, 3), torch.nan)):
        figure = plots.heatmap(a_map(values, ["a", "b"], (0, 1), **MAP))
        figure.draw_without_rendering()
        assert plots.heatmap_text(a_map(values, ["a", "b"], (0, 1))).plain


def test_layer_ticks_are_round() -> None:
    assert layer_ticks(2, 1.0) == [0, 1]
    assert layer_ticks(30, 1.0) == [0, 10, 20]
    assert layer_ticks(48, 5.0) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]


def test_bad_averages(averages: list[ClassAverage]) -> None:
    for function in (plots.figure1, plots.figure1_html, plots.figure1_csv):
        with pytest.raises(OptionError, match="averages is empty"):
            function([])
        with pytest.raises(OptionError, match=r"one model, got other \(0+\), tiny"):
            function([averages[0], average("mlp", model="other")])
        with pytest.raises(OptionError, match=r"method must be one of .* got 'mpl'; did you mean 'mlp'"):
            function([dataclasses.replace(averages[0], method="mpl")])
        with pytest.raises(OptionError, match="does not match its 5 token classes"):
            function([dataclasses.replace(averages[0], token_classes=TOKEN_CLASSES[:5])])
        with pytest.raises(OptionError, match="peak of the attribution average has 1 entries"):
            function([dataclasses.replace(averages[0], peak=(0,))])
    with pytest.raises(OptionError, match="width must be one of 'column', 'page', 'slide', got 'wide'"):
        plots.figure1(averages, width="wide")


def test_bad_maps(values: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"shape \(13, 30\) do not fit 12 tokens"):
        a_map(values, TOKENS[1:], SPAN)
    with pytest.raises(OptionError, match=r"span \(5, 14\) does not lie within 13 tokens"):
        a_map(values, TOKENS, (5, 14))
    with pytest.raises(OptionError, match="width must be one of"):
        plots.heatmap(a_map(values, TOKENS, SPAN, **MAP), width="wide")
    with pytest.raises(OptionError, match="format must be one of 'pdf', 'svg', 'png', got 'gif'"):
        plots.save_figure(Figure(), tmp_path / "x", formats=("pdf", "gif"))
    assert not list(tmp_path.iterdir())


def test_nothing_imports_pyplot() -> None:
    code = "import sys, interp.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_maps_on_the_same_axes():
    values = torch.tensor([[0.0, 0.5], [float("nan"), 0.25], [1.0, -0.1]])
    tokens = (" The", " Louvre", " is")
    panels = [
        a_map(values, tokens, (1, 2), title="Residual stream", unit="indirect effect"),
        a_map(2 * values, tokens, (1, 2), locator="attribution", title="Attribution", unit="sum"),
        a_map(values, tokens, (1, 2), locator="mlp", title="MLP <outputs>", unit="indirect effect"),
    ]
    figure = maps(panels, title="The Louvre is → in")
    titles = [axes.get_title("left") for axes in figure.axes if axes.get_title("left")]
    assert titles == ["Residual stream", "Attribution", "MLP <outputs>"]
    assert figure._repr_png_()[0].startswith(b"\x89PNG")
    page = maps_html(panels, title="<a>")
    assert "&lt;a&gt;" in page
    assert "MLP &lt;outputs&gt;" in page
    rows = list(csv.DictReader(io.StringIO(maps_csv(panels))))
    assert len(rows) == 3 * 3 * 2
    assert [row["value"] for row in rows[:6]] == ["0.0", "0.5", "", "0.25", "1.0", repr(float(values[2, 1]))]
    assert [row["in_subject"] for row in rows[:6:2]] == ["0", "1", "0"]
    assert rows[0]["text"] == " The"
    with pytest.raises(OptionError, match="expected at least one map"):
        maps([], title="")
    other = a_map(values, (" The", " Louvre", " was"), (1, 2), title="Another prompt")
    with pytest.raises(OptionError, match="over the same tokens: 'Another prompt' is not"):
        maps([*panels, other], title="")


CJK = {"title": "東京 costs $5 or $6 \U0001f44d \x1b[2J", "unit": "P"}


def test_texts_in_any_script_are_no_boxes(values: torch.Tensor, tmp_path: Path) -> None:
    """Matplotlib warns of each letter that it draws as a box, and warnings are errors here."""
    tokens = ("東", "京都", " नई", "⟨E6 9D⟩", " مدينة", " $x^2$", "\U0001f44d", "\u202e", *TOKENS[8:])
    figure = plots.heatmap(a_map(values, tokens, (0, 2), **CJK))
    panel = a_map(values, tokens, (0, 2), title="東京", unit="P")
    both = [
        dataclasses.replace(panel, answer=answer, probability=probability)
        for answer, probability in (("東", 0.1), ("⟨E6 9D⟩", 0.2))
    ]
    for drawn in (figure, maps([panel], title="東京"), plots.before_after([tuple(both)])):
        plots.save_figure(drawn, tmp_path / "figure")
    svg = (tmp_path / "figure.svg").read_text("utf-8")
    assert "\x1b" not in svg
    assert "⟨E6 9D⟩" in svg
    title = figure.axes[0].get_title("left").replace("\n", " ")
    assert r"costs \$5 or \$6" in title
    assert "\\x1b[2J" in title
    if not (set(style.FALLBACK_FONTS) & set(font_manager.get_font_names())):
        assert title.startswith("\\u6771\\u4eac")
        assert "\\U0001f44d" in title


def test_letters_are_taken_from_an_installed_font(monkeypatch: pytest.MonkeyPatch) -> None:
    stix = font_manager.get_font(font_manager.findfont("STIXNonUnicode"))
    dejavu = font_manager.get_font(font_manager.findfont(style.FONT))
    letter = chr(next(code for code in stix.get_charmap() if not dejavu.get_char_index(code)))
    assert style.font_family(f"a{letter}") == [style.FONT]
    for cached in (style._font_of, style._font_file):
        cached.cache_clear()
    monkeypatch.setattr(style, "FALLBACK_FONTS", ("No Such Font", "STIXNonUnicode"))
    try:
        assert style.font_family(f"a{letter}") == [style.FONT, "STIXNonUnicode"]
        assert style.letters_without_font(f"a{letter}東\n\x1b東") == ["東"]
        assert style.font_family("plain") == [style.FONT]  # the same bytes on every machine
        assert style.printed(f"a{letter}東") == f"a{letter}\\u6771"
        figure = plots.heatmap(a_map(torch.zeros(1, 2), [letter], title=letter, unit="P"))
        figure.draw_without_rendering()
    finally:
        for cached in (style._font_of, style._font_file):
            cached.cache_clear()
