"""Figures within a page: two widths of each, for a screen or paper and for a phone, within the page.

A picture is an SVG in which the cells of a map are one image, so that it is small; it stands in an ``img``, where
nothing in it can reach the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

from matplotlib.collections import QuadMesh

from interp.locate.class_average import ClassAverage
from interp.plots import before_after, figure1, scores_by_layer
from interp.plots.style import PaperFigure, paper_style
from interp.study.again import Relocated
from interp.study.edited import EditResults
from interp.system.readable import in_html

__all__ = ["again_picture", "figure1_picture", "sweep_picture"]

DPI = 200
"""Of the cells."""
NARROW = "40rem"
"""The widest window that gets the narrow figure."""
WIDEST = 1.5
"""How much larger than on paper a figure is shown at most."""


def figure1_picture(averages: Sequence[ClassAverage], of: int | None) -> str:
    """Figure 1; see :func:`~interp.plots.figure1`."""
    return _picture(lambda width: figure1(averages, width=width, of=of), "Figure 1: maps by class of token and layer")


def sweep_picture(results: EditResults) -> str:
    """The layer sweep."""
    return _picture(
        lambda width: scores_by_layer(results.by_layer, results.strengths, width=width),
        "Edit score and localisation strength by layer",
    )


def again_picture(again: Relocated) -> str:
    """Maps of one case before and after its edit."""
    return _picture(
        lambda width: before_after(again.maps(), width=width), f"Maps of {again.case} before and after its edit"
    )


def _picture(draw: Callable[[str], PaperFigure], alternative: str) -> str:
    page, column = draw("page"), draw("column")
    width = WIDEST * float(page.get_size_inches()[0])
    return (
        f'<picture><source media="(max-width: {NARROW})" srcset="{_address(column)}">'
        f'<img src="{_address(page)}" alt="{in_html(alternative)}" style="width: {width:.2f}in"></picture>'
    )


def _address(figure: PaperFigure) -> str:
    for axes in figure.axes:
        for drawn in axes.collections:
            if isinstance(drawn, QuadMesh):
                drawn.set_rasterized(True)
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format="svg", dpi=DPI, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
