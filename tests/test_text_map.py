"""Maps in a terminal: each row on one line of any window, layer numbers over their columns, readable in grey."""

from __future__ import annotations

import io
import re
from itertools import product

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from interp import plots
from interp.display.description import shaded
from tests.token_maps import a_map

wcwidth = pytest.importorskip("wcwidth")  # a second opinion on how wide letters are

SHORT = ("The", " sky", " is")
LONG = (
    "<|endoftext|>", " antidisestablishmentarianism", "東京都渋谷区神宮前一丁目二番地", "e\u0301le\u0301phant\u0301",
    "नई दिल्ली", "⟨E6 9D⟩", "\n", " ", "\x1b[2J", "a" * 200, " in",
)  # fmt: skip
LAYERS = (1, 2, 12, 30, 48, 126)
WINDOWS = (40, 57, 80, 120, 200, 300)


def values_of(n_tokens: int, n_layers: int, *, signed: bool = False) -> torch.Tensor:
    """One large value a row, at layer 7 (token + 1) modulo all, so that every group of layers is hit."""
    values = torch.full((n_tokens, n_layers), 0.01)
    for token in range(n_tokens):
        values[token, 7 * (token + 1) % n_layers] = -1.0 if signed and token % 2 else 1.0 + token
    return values


def rendered(text: object, columns: int, **options: object) -> list[str]:
    """The lines that reach a window, without colours."""
    stream = io.StringIO()
    Console(file=stream, width=columns, **options).print(text, end="")  # type: ignore[arg-type]
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()


@pytest.mark.parametrize("coloured", [True, False])
@pytest.mark.parametrize("tokens", [SHORT, LONG], ids=["short", "long"])
def test_every_row_is_one_line(tokens: tuple[str, ...], coloured: bool) -> None:
    for layers, columns in product(LAYERS, WINDOWS):
        values = values_of(len(tokens), layers, signed=layers == 30)
        text = plots.heatmap_text(a_map(values, tokens, (1, 3)), columns=columns, coloured=coloured)
        kind = {"force_terminal": True, "color_system": "truecolor"} if coloured else {}
        lines = rendered(text, columns, **kind)
        assert lines == [line.rstrip() if not coloured else line for line in text.plain.splitlines()]
        assert len(lines) <= 1 + len(tokens) + 3
        for line in lines:
            assert cell_len(line) <= columns
            assert wcwidth.wcswidth(line) <= columns
        for token, row in enumerate(values):  # each ends in its largest value and that value's layer
            assert lines[1 + token].split()[-1] == str(int(row.argmax()))
        rows = plots.heatmap_text(
            a_map(0 * values, tokens, (1, 3)), columns=columns, coloured=coloured
        ).plain.splitlines()
        assert ["*" in line for line in rows[1 : 1 + len(tokens)]] == [1 <= i < 3 for i in range(len(tokens))]


@pytest.mark.parametrize(("layers", "columns"), list(product(LAYERS, WINDOWS)))
def test_layer_numbers_stand_over_their_columns(layers: int, columns: int) -> None:
    """A map that is large at one layer only has its mark where the ruler says that layer is."""
    for coloured in (True, False):
        seen: dict[int, int] = {}
        for layer in range(layers):
            values = torch.zeros(1, layers)
            values[0, layer] = 1.0
            text = plots.heatmap_text(a_map(values, [" token"], None), columns=columns, coloured=coloured)
            ruler, row, *_ = text.plain.split("\n")
            if coloured:
                dark = [
                    span for span in text.spans if getattr(span.style, "bgcolor", None) and span.end <= len(ruler + row)
                ]
                darkest = min(dark, key=lambda span: sum(span.style.bgcolor.get_truecolor()))  # type: ignore[union-attr]
                seen[layer] = darkest.start - len(ruler) - 1
            else:
                seen[layer] = row.index("@")
        numbers = [(int(found[0]), found.start()) for found in re.finditer(r"\d+", ruler)]
        assert numbers[0][0] == 0
        assert len(numbers) >= (1 if layers < 3 else 2)
        for number, place in numbers:
            assert seen[number] == place
        assert list(seen.values()) == sorted(seen.values())


def test_a_column_of_several_layers_shows_the_largest_and_says_so() -> None:
    values = torch.zeros(2, 48)
    values[0, 17], values[1, 18] = 0.5, -0.8
    lines = plots.heatmap_text(a_map(values, ["a", "b"], None), columns=40, coloured=False).plain.splitlines()
    (said,) = [line for line in lines if "each column" in line]
    grouped = int(re.findall(r"\d+", said)[0])
    assert grouped > 1
    start = lines[1].index("|") + 1
    assert lines[1][start + 17 // grouped] in "=+*"
    assert lines[2][start + 18 // grouped] == "i"  # the lowest of all, though 0 is larger
    wide = plots.heatmap_text(a_map(values, ["a", "b"], None), columns=120, coloured=False).plain
    assert "each column" not in wide


def test_nothing_is_lost_without_colour() -> None:
    """Ten shades in order, blanks for nothing, a sign for what is not there."""
    values = torch.tensor([[i / 9 for i in range(10)]])
    (_, row, legend) = plots.heatmap_text(a_map(values, ["a"], None), coloured=False).plain.splitlines()
    assert row.split("|")[1] == " .:-=+*#%@"
    assert legend.startswith("'@' 1, ' ' 0")
    values[0, 3] = torch.nan
    assert plots.heatmap_text(a_map(values, ["a"], None), coloured=False).plain.splitlines()[1].split("|")[1][3] == "?"
    below = torch.tensor([[-1.0, 0.0, 0.5]])
    lines = plots.heatmap_text(a_map(below, ["a"], None), coloured=False).plain.splitlines()
    assert lines[1].split("|")[1] == "i =" or lines[1].split("|")[1] == "i +"
    assert "below 0" in lines[-1]


def test_a_result_is_as_wide_as_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    values = values_of(3, 48)
    for columns in (40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = shaded(a_map(values, SHORT)).splitlines()
        assert max(map(cell_len, lines)) <= columns
        assert any("each column" in line for line in lines) == (columns == 40)
