"""The page's own code: its files joined into the one module that a widget is, and its style."""

from pathlib import Path

__all__ = ["SCRIPT", "STYLE"]

_HERE = Path(__file__).parent
_PARTS = ("elements.js", "heatmap.js", "explorer.js")  # each uses what those before it define

SCRIPT = "\n".join((_HERE / part).read_text("utf-8") for part in _PARTS)
STYLE = (_HERE / "explorer.css").read_text("utf-8")
