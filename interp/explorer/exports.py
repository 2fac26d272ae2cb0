"""What is on the screen, as a file: the maps as a figure, a page or numbers, and the edit as a patch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from interp.errors import OptionError
from interp.explorer.page import panels
from interp.explorer.session import Session
from interp.models.tokens import token_text
from interp.options import check_choice
from interp.plots.maps import maps, maps_csv, maps_html
from interp.plots.save import save_figure
from interp.system.readable import token_label

__all__ = ["EXPORTS", "exported"]

FIGURES = ("pdf", "svg", "png")
EXPORTS = (*FIGURES, "html", "csv", "patch")


def exported(session: Session, form: str) -> bytes:
    """The file's bytes.

    Raises:
        OptionError: If the format does not exist, or there is nothing to write yet.
    """
    check_choice("format", form, EXPORTS)
    if form == "patch":
        patch = session.patch
        if patch is None:
            raise OptionError("there is no edit to save: press Edit first")
        return _written(patch.save)
    shown = panels(session)
    if not shown:
        raise OptionError("there is no map to export: press Locate first")
    answer = token_label(token_text(session.model, session.pair().answer_id))
    title = f"{session.fact.prompt} → {answer} ({session.model.cfg.model_name}{_edit_text(session)})"
    if form == "csv":
        return maps_csv(shown).encode()
    if form == "html":
        return maps_html(shown, title=title).encode()
    figure = maps(shown, title=title)
    return _written(lambda path: save_figure(figure, path, [form]), ending=f".{form}")


def _edit_text(session: Session) -> str:
    if session.patch is None:
        return ""
    (request,) = session.patch.requests
    layers = ", ".join(map(str, session.patch.layers))
    return f" after {session.patch.method.upper()} at {layers}: “{request.new_target.strip()}”"


def _written(write: Callable[[Path], object], ending: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "export"
        write(stem)
        return stem.with_name(stem.name + ending).read_bytes()
