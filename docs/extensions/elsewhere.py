"""What stands elsewhere in the repository and is a page here too: the notebooks, and texts that live beside code.

In the sources every link is the one that a repository page follows. For the site a link to such a file becomes one to
its page, and a link to a picture or a script is found from where the page lies.
"""

from __future__ import annotations

import re
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

import notebook_pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = {
    "CONTRIBUTING.md": "pages/contributing.md",
    "CHANGELOG.md": "pages/changelog.md",
    "benchmarks/README.md": "pages/benchmarks.md",
    "figures/table1.md": "pages/table1.md",
    "interp/facts/data/README.md": "pages/data.md",
}
"""Texts of the repository, and their pages; both folders of such pages are ignored by git."""
TITLES = {"figures/table1.md": "Table 1 in full"}
LINK = re.compile(r"(\]\()([^)\s#:]+)([)#])")


def pages() -> dict[Path, Path]:
    """From a file of the repository to its page."""
    found = {ROOT / source: DOCS / page for source, page in TEXTS.items()}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found[path] = DOCS / "notebooks" / f"{path.stem}.md"
    return found


def relinked(text: str, source: Path, page: Path) -> str:
    """A text whose links are written from where it stands, with links from where its page lies."""
    known = pages()

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if not target.exists():
            return found[0]
        return found[1] + relpath(known.get(target, target), page.parent) + found[3]

    return LINK.sub(link, text)


def write(app: Sphinx) -> None:
    """All pages."""
    for source, page in pages().items():
        pictures: dict[str, bytes] = {}
        if source.suffix == ".ipynb":
            text, pictures = notebook_pages.page(source)
        else:
            text = source.read_text("utf-8")
        title = TITLES.get(source.relative_to(ROOT).as_posix())
        text = relinked(f"# {title}\n\n{text}" if title else text, source, page)
        for path, content in [(page, text.encode()), *((page.parent / name, data) for name, data in pictures.items())]:
            path.parent.mkdir(exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:  # Sphinx reads again what is newer
                path.write_bytes(content)


def to_pages(app: Sphinx, document: str, text: list[str]) -> None:
    """Links of the pages that stand here."""
    path = DOCS / f"{document}.md"
    if path not in pages().values():
        text[0] = relinked(text[0], path, path)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registered with Sphinx."""
    app.connect("builder-inited", write)
    app.connect("source-read", to_pages)
    return {"parallel_read_safe": True}
