"""Figures: the class averages of Figure 1 and one fact's token map, on paper, in a browser and in a terminal."""

from interp.plots.figure1 import figure1, figure1_csv, figure1_html
from interp.plots.heatmap import heatmap, heatmap_html, heatmap_text
from interp.plots.save import save_figure
from interp.plots.style import DIVERGING, SEQUENTIAL, WIDTHS, paper_style

__all__ = [
    "DIVERGING",
    "SEQUENTIAL",
    "WIDTHS",
    "figure1",
    "figure1_csv",
    "figure1_html",
    "heatmap",
    "heatmap_html",
    "heatmap_text",
    "paper_style",
    "save_figure",
]
