"""Tables of what can be asked for by name: each entry stands there, or says in which file of its package it does.

Names are there before any of the files, and torch, is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from interp.errors import OptionError
from interp.options import check_choice

__all__ = ["check_names", "entry_named"]


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


def check_names(option: str, names: Any, table: Mapping[str, Any]) -> None:
    """Refuse what is no list of different names of a table.

    Raises:
        OptionError: Naming the option, and the name that was perhaps meant.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise OptionError(f"{option} must be names such as {', '.join(list(table)[:2])}, got {names!r}")
    for place, name in enumerate(names):
        check_choice(option, name, tuple(table))
        if name in names[:place]:
            raise OptionError(f"{option} names {name!r} twice")
