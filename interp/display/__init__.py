"""How results show themselves: a heading, figures and tables, as HTML in a notebook and as text in a terminal."""

from interp.display import edits, maps, where  # noqa: F401 - each registers how its results are described
from interp.display.description import Description, Table, as_html, as_text, describe

__all__ = ["Description", "Table", "as_html", "as_text", "describe"]
