"""A notebook as a page: what it says, its code and the outputs that are stored in it; nothing is run.

Formulas become plain text, so that no page needs a library to set them.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat

FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
SIGNS = {
    r"\tfrac{k}{n}": "k/n ·",
    r"\int_0^1": "∫₀¹",
    r"\sum_{k=1}^{n}": "Σₖ₌₁ⁿ",
    r"\partial ": "∂",
    r"\alpha": "α",
    r"\approx": "≈",
    r"\leftarrow": "←",
    r"^\top": "ᵀ",
    r"^{-1}": "⁻¹",
    r"\mathbb{E}": "E",
    r"\mathrm{Attr}": "Attr",
    r"\qquad": " ",
    r"\,": " ",
    r"\;": " ",
    "_i": "ᵢ",
}
FRACTION = re.compile(r"\\frac\{([^{}]+)\}\{([^{}]+)\}")
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
WIDGET = "application/vnd.jupyter.widget-view+json"


def formula(text: str) -> str:
    """A formula of the notebooks as plain text.

    Raises:
        ValueError: If something in it has no plain form yet.
    """
    plain = text
    for written, sign in SIGNS.items():
        plain = plain.replace(written, sign)
    while FRACTION.search(plain):
        plain = FRACTION.sub(lambda found: "/".join(map(_in_brackets, found.groups())), plain)
    if re.search(r"[\\{}^_]", plain):
        raise ValueError(f"a formula has no plain form, add its signs in {Path(__file__).name}: {plain}")
    return " ".join(plain.split()).removesuffix(".").removesuffix(",")


def _in_brackets(part: str) -> str:
    plain = " ".join(part.split())
    return f"[{plain}]" if " " in plain and not plain.startswith("∂") else plain


def prose(source: str) -> str:
    """A cell of text."""

    def plain(found: re.Match[str]) -> str:
        return f"\n\n    {formula(found[1])}\n\n" if found[1] else f"`{formula(found[2])}`"

    return FORMULA.sub(plain, source)


def fenced(text: str, language: str) -> str:
    """A block of code; its fence is longer than any in it."""
    return f"````{language}\n{text.rstrip()}\n````"


def joined(outputs: list[Any]) -> list[Any]:
    """What a cell printed in several pieces is one text."""
    found: list[Any] = []
    for shown in outputs:
        if found and shown.output_type == found[-1].output_type == "stream":
            found[-1] = nbformat.from_dict({**found[-1], "text": found[-1].text + shown.text})
        else:
            found.append(shown)
    return found


def output(shown: Any, pictures: dict[str, bytes], name: str) -> str:
    """What a cell printed or showed: of several forms the first that a page can show."""
    if shown.output_type == "stream":
        return fenced(ESCAPE.sub("", shown.text), "text")
    data = shown.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![output]({name})"
    if WIDGET in data:
        return "*Here the explorer stands, where a kernel runs.*"
    if "text/markdown" in data:
        return data["text/markdown"]
    if "text/html" in data:
        return '```{raw} html\n<div class="output">' + data["text/html"].strip() + "</div>\n```"
    return fenced(ESCAPE.sub("", data.get("text/plain", "")), "text")


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for index, each in enumerate(nbformat.read(path, as_version=4).cells):
        if each.cell_type == "markdown":
            parts.append(prose(each.source))
            continue
        parts.append(fenced(each.source, "python"))
        for number, shown in enumerate(joined(each.outputs)):
            parts.append(output(shown, pictures, f"{path.stem}-{index}-{number}.png"))
    parts.append(f"*This page is `notebooks/{path.name}` with the outputs of its last run; `make notebooks` runs it.*")
    return "\n\n".join(parts) + "\n", pictures
