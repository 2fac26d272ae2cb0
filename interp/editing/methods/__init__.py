"""The editors, a file each, and the table of them: a new one is a file that ends in an ``EDITOR``, and a line here.

The table holds where each stands, not what it is: names are there before any of them, and torch, is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from interp.options import check_choice

if TYPE_CHECKING:
    from interp.editing.method import Editor

__all__ = ["EDITORS", "editor_named"]

EDITORS: Mapping[str, str] = {
    "rome": "rome.EDITOR",
    "r-rome": "rome.R_ROME",
    "memit": "memit.EDITOR",
    "pmet": "pmet.EDITOR",
    "ft-l": "fine_tuning.EDITOR",
    "kn": "knowledge_neurons.EDITOR",
}


def editor_named(name: str) -> Editor:
    """The editor of a name.

    Raises:
        OptionError: If there is none, with the name that was perhaps meant.
    """
    check_choice("method", name, tuple(EDITORS))
    module, _, attribute = EDITORS[name].partition(".")
    found: Editor = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
