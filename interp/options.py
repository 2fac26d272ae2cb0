"""Checks of options that several methods take, with one wording."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from interp.errors import OptionError

__all__ = ["Progress", "check_choice", "check_positive"]

Progress = Callable[[int, int], None]
"""Called with (done, in all); may raise to stop the work."""


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is not one of the choices.

    Raises:
        OptionError: Naming the option, the value, the choices and the nearest one.
    """
    if value not in choices:
        near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}{hint}")


def check_positive(**values: int) -> None:
    """Refuse numbers that are not whole and positive.

    Raises:
        OptionError: Naming the option and the value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} must be a positive whole number, got {value!r}")
