"""Sphinx builds the documentation: ``make docs``, into site/. A warning is an error there."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

project = "interp"
author = "the authors of interp"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    # ours
    "commands",
    "docstrings",
    "elsewhere",
    "names",
    "self_contained",
]
exclude_patterns = ["extensions"]

highlight_language = "text"  # of blocks that name none

html_theme = "furo"
html_title = "interp"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"
