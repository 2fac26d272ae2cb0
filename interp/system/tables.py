"""Tables of what can be asked for by name: each entry stands there, or says in which file of its package it does.

Names are there before any of the files, and torch, is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from interp.options import check_choice

__all__ = ["entry_named"]


def entry_named(name: str, table: Mapping[str, Any], package: str, *, what: str = "method") -> Any:
    """A table's entry.

    Args:
        name: Of what is asked for.
        table: Entries by name; a text is ``MODULE.ATTRIBUTE`` below the package.
        package: Where the texts point into.
        what: What is asked for, for the error.

    Raises:
        OptionError: If there is none of that name, with the one that was perhaps meant.
    """
    check_choice(what, name, tuple(table))
    entry = table[name]
    if isinstance(entry, str):
        module, _, attribute = entry.partition(".")
        entry = getattr(import_module(f"{package}.{module}"), attribute)
    return entry
