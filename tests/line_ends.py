"""Texts end in one newline and have no spaces at line ends: ``python -m tests.line_ends FILES`` mends the others.

Exits with 1 if it changed one, as a hook before a commit should.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def mended(text: str) -> str:
    """The same text, mended."""
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n") + "\n" if text.strip() else text


def main(paths: list[str]) -> int:
    changed = 0
    for path in map(Path, paths):
        text = path.read_text("utf-8")
        if (better := mended(text)) != text:
            path.write_text(better, "utf-8")
            sys.stderr.write(f"mended {path}\n")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
