"""What all figures share: sizes, fonts and colours.

The sequential maps have one hue each and fall evenly in lightness (OKLab), so that they read the same with any
colour vision and in grey print; hues follow Meng et al. 2022 (states purple, MLP green, attention red).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import TextPath

from interp.options import check_choice
from interp.system.readable import neutral

__all__ = [
    "DIVERGING",
    "WIDTHS",
    "ColourScale",
    "PaperFigure",
    "colour_scale",
    "font_family",
    "letters_without_font",
    "paper_style",
    "printed",
    "sequential",
    "text_width",
]

WIDTHS = {"column": 3.3, "page": 6.9, "slide": 10.0}
"""Widths of a figure in inches."""

SCALES = {"column": 1.0, "page": 1.0, "slide": 1.4}
"""How much larger letters and lines are drawn."""

FONT = "DejaVu Sans"  # comes with matplotlib: the same on every machine
FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC",
    "Noto Sans KR", "Source Han Sans", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "SimHei",
    "Apple SD Gothic Neo", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Ethiopic", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS",
    "Unifont",
)  # fmt: skip
"""Asked in this order for letters that :data:`FONT` lacks; none comes with the package, installed ones are used."""
EMPTY = "#e8e8e8"
HATCH = "#b0b0b0"
QUIET = "#555555"
LEVELS = 256
SCREEN_DPI = 130
LIGHTEST, DARKEST, CHROMA = 0.985, 0.36, 0.17


@contextmanager
def paper_style(width: str = "page") -> Iterator[float]:
    """Matplotlib settings of the figures: small letters, thin lines, text that stays text.

    Args:
        width: One of :data:`WIDTHS`.

    Yields:
        How much larger than on paper letters and lines are drawn.

    Raises:
        OptionError: If the width is unknown.
    """
    check_choice("width", width, tuple(WIDTHS))
    scale = SCALES[width]
    settings: Any = {  # the keys' type is known to some versions of matplotlib only
        "font.family": [FONT],
        "font.size": 7 * scale,
        "axes.titlesize": 7.5 * scale,
        "axes.labelsize": 7 * scale,
        "xtick.labelsize": 6.5 * scale,
        "ytick.labelsize": 6.5 * scale,
        "legend.fontsize": 6 * scale,
        "axes.linewidth": 0.5 * scale,
        "lines.linewidth": 0.8 * scale,
        "patch.linewidth": 0.5 * scale,
        "hatch.linewidth": 0.4 * scale,
        "hatch.color": HATCH,
        "xtick.major.width": 0.5 * scale,
        "ytick.major.width": 0.5 * scale,
        "xtick.major.size": 2 * scale,
        "ytick.major.size": 2 * scale,
        "xtick.major.pad": 1.5 * scale,
        "ytick.major.pad": 1.5 * scale,
        "axes.titlepad": 3 * scale,
        "axes.labelpad": 1.5 * scale,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "axes.edgecolor": "black",
        "text.color": "black",
        "axes.labelcolor": "black",
        "xtick.color": "black",
        "ytick.color": "black",
        "text.usetex": False,
        "text.parse_math": True,
        "savefig.bbox": None,
        "savefig.facecolor": "auto",
        "svg.fonttype": "none",
        "svg.hashsalt": "interp",
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
    }
    with matplotlib.rc_context(settings):
        yield scale


class PaperFigure(Figure):
    """A figure that shows itself as the last line of a notebook's cell, at its size on paper or a little larger."""

    def png(self, dpi: int = 200) -> bytes:
        """The figure as a picture."""
        buffer = io.BytesIO()
        with paper_style():
            self.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()

    @property
    def screen_width(self) -> int:
        """Its width on a screen, in pixels."""
        return round(SCREEN_DPI * float(self.get_size_inches()[0]))

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return self.png(), {"width": self.screen_width}


@dataclass(frozen=True, kw_only=True)
class ColourScale:
    """From values to colours.

    Args:
        colours: The map.
        low, high: The values at its ends.
    """

    colours: ListedColormap
    low: float
    high: float

    def norm(self) -> Normalize:
        """The scale as matplotlib takes it."""
        return Normalize(self.low, self.high)

    def hex(self, value: float) -> str:
        """Colour of a value; of one that is no number, grey."""
        if not np.isfinite(value):
            return EMPTY
        return to_hex(self.colours((value - self.low) / (self.high - self.low)))

    def stops(self, n: int = 17) -> list[tuple[float, str]]:
        """The map as plotly takes it."""
        return [(float(t), to_hex(self.colours(t))) for t in np.linspace(0, 1, n)]


def colour_scale(values: Float[np.ndarray, "row layer"], *, hue: float) -> ColourScale:
    """Choose the map and its ends for values.

    Values that fall below zero by more than a quarter of the largest get the diverging map, zero in its middle.
    Others get the map of their hue (degrees), from zero or the smallest value if that is negative; from the smallest
    value as well if all lie within the upper half, as nothing would be seen otherwise.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < 0 and -low > 0.25 * high:
        end = max(-low, high)
        return ColourScale(colours=DIVERGING, low=-end, high=end)
    if 0 < low <= 0.5 * high:
        low = 0.0
    if low == high:
        low, high = (0.0, high) if high > 0 else (0.0, 1.0)
    return ColourScale(colours=sequential(hue), low=low, high=high)


def text_width(text: str, size: float) -> float:
    """Inches that a line takes at a letter size in points."""
    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text, size=size, prop=FontProperties(family=font_family(text)))
    return float(path.get_extents().width) / 72


def font_family(text: str) -> list[str]:
    """The fonts that a text needs: the one of all figures, and installed ones for letters that it lacks."""
    needed = {name for c in text if (name := _font_of(c)) not in (FONT, None)}
    return [FONT, *(name for name in FALLBACK_FONTS if name in needed)]


def printed(text: str) -> str:
    """A text as a figure can show it: letters that no installed font has as their code, control characters too.

    Figures of texts that need no other font are the same bytes on every machine. For Chinese, Japanese and Korean
    install Noto Sans CJK.
    """
    return "".join(c if c == "\n" or _font_of(c) else _code(c) for c in neutral(text))


def letters_without_font(text: str) -> list[str]:
    """The letters of a text that figures show as codes, each once; control characters are none."""
    return [c for c in dict.fromkeys(text) if neutral(c) == c and c not in "\n\t" and _font_of(c) is None]


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 65536 else f"\\U{ord(character):08x}"


@cache
def _font_of(character: str) -> str | None:
    for name in (FONT, *FALLBACK_FONTS):
        path = _font_file(name)
        if path is not None and get_font(path).get_char_index(ord(character)):
            return name
    return None


@cache
def _font_file(name: str) -> str | None:
    try:
        return str(findfont(FontProperties(family=[name]), fallback_to_default=False))
    except ValueError:
        return None


def _rgb(lightness: Float[np.ndarray, n], chroma: Float[np.ndarray, n], hue: float) -> Float[np.ndarray, "n rgb"]:
    a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    )
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def _ramp(hue: float, n: int) -> Float[np.ndarray, "n rgb"]:
    """From almost white to dark in even steps of lightness, as colourful as a screen can show it."""
    t = np.linspace(0, 1, n)
    lightness = LIGHTEST + (DARKEST - LIGHTEST) * t
    wanted = CHROMA * (1 - (1 - t) ** 2)
    least, most = np.zeros(n), np.ones(n)  # the part of it that lies within sRGB, by bisection
    for _ in range(30):
        part = (least + most) / 2
        rgb = _rgb(lightness, part * wanted, hue)
        inside = ((rgb >= 0) & (rgb <= 1)).all(-1)
        least, most = np.where(inside, part, least), np.where(inside, most, part)
    return np.clip(_rgb(lightness, least * wanted, hue), 0, 1)


@cache
def sequential(hue: float) -> ListedColormap:
    """The colours of a hue (degrees), from almost white to dark."""
    return ListedColormap(_ramp(hue, LEVELS), name=f"hue-{hue:g}")


DIVERGING = ListedColormap(np.concatenate([_ramp(255, LEVELS // 2)[::-1], _ramp(50, LEVELS // 2)]), name="signed")
"""Blue below zero, brown above: a pair that stays apart with any colour vision."""
