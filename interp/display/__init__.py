"""How results show themselves: a heading, figures and tables, as HTML in a notebook and as text in a terminal."""

from interp.display.description import Description, Table, as_html, as_text, describe
from interp.display.edits import describe_patch
from interp.display.maps import describe_trace

__all__ = ["Description", "Table", "as_html", "as_text", "describe", "describe_patch", "describe_trace"]
