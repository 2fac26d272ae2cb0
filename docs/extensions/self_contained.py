"""A page that is read loads nothing from another place: no font, no script, no style, no picture."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*\bhref=[\"']?(?:https?:)?//[^\"'\s>]+"
)


def loaded(html: str) -> list[str]:
    """The tags that load something from another host."""
    return LOADED.findall(html)


def check(app: Sphinx, error: Exception | None) -> None:
    """Look through all pages."""
    if error is not None:
        return
    for path in Path(app.outdir).rglob("*.html"):
        if found := loaded(path.read_text("utf-8")):
            raise ExtensionError(f"{path}: loads {found[0]}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registered with Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
