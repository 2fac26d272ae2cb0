"""Figures and Table 1.

The class averages of Figure 1 and one fact's token map, on paper, in a browser and in a terminal; what edits did, by
layer and as Table 1; one fact before and after its edit.
"""

from interp.plots.before_after import before_after
from interp.plots.figure1 import figure1, figure1_csv, figure1_html
from interp.plots.heatmap import heatmap, heatmap_html, heatmap_text
from interp.plots.maps import maps, maps_csv, maps_html
from interp.plots.save import save_figure
from interp.plots.scores_by_layer import scores_by_layer, scores_by_layer_csv
from interp.plots.style import DIVERGING, WIDTHS, paper_style, sequential
from interp.plots.table1 import PAPER_TABLE1, PaperRow, table1_csv, table1_html, table1_latex, table1_markdown
from interp.plots.where import where_models_markdown, where_report, where_table_markdown

__all__ = [
    "DIVERGING",
    "PAPER_TABLE1",
    "WIDTHS",
    "PaperRow",
    "before_after",
    "figure1",
    "figure1_csv",
    "figure1_html",
    "heatmap",
    "heatmap_html",
    "heatmap_text",
    "maps",
    "maps_csv",
    "maps_html",
    "paper_style",
    "save_figure",
    "scores_by_layer",
    "scores_by_layer_csv",
    "sequential",
    "table1_csv",
    "table1_html",
    "table1_latex",
    "table1_markdown",
    "where_models_markdown",
    "where_report",
    "where_table_markdown",
]
