"""The editors, a file each, and the table of them: a new one is a file that ends in an ``EDITOR``, and a line here.

The table holds where each of these stands, not what it is: names are there before any of them, and torch, is loaded.
An editor of one's own, from anywhere, may be put into the table as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.system.tables import entry_named

if TYPE_CHECKING:
    from interp.editing.method import Editor

__all__ = ["DEFAULT_EDITOR", "EDITORS", "editor_named", "editor_title"]

EDITORS: dict[str, str | Editor] = {
    "rome": "rome.EDITOR",
    "r-rome": "rome.R_ROME",
    "memit": "memit.EDITOR",
    "pmet": "pmet.EDITOR",
    "emmet": "emmet.EDITOR",
    "alphaedit": "alpha_edit.EDITOR",
    "ft-l": "fine_tuning.EDITOR",
    "kn": "knowledge_neurons.EDITOR",
}
"""The editors by name, in the order in which menus offer them."""

DEFAULT_EDITOR = "rome"
"""Where none is asked for."""


def editor_named(name: str) -> Editor:
    """The editor of a name.

    Raises:
        OptionError: If there is none, with the name that was perhaps meant.
    """
    found: Editor = entry_named(name, EDITORS, __name__)
    return found


def editor_title(name: str) -> str:
    """How tables and figures write an editor; one that a record names and the table does not, as it is named."""
    return editor_named(name).title if name in EDITORS else name
