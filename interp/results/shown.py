"""Results show themselves: as a figure or a table in a notebook, as text everywhere else."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Shown"]


class Shown:
    """Base of results that describe themselves (:mod:`interp.display` says how).

    The one look upward in the package, by name and only when something is shown: results lie below the figures that
    show them, and loading a result must not load a drawing library.
    """

    def __repr__(self) -> str:
        return str(import_module("interp.display").as_text(self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        display = import_module("interp.display")
        return {"text/plain": display.as_text(self), "text/html": display.as_html(self)}
