"""Checks of options that several methods take, with one wording."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence

from interp.errors import OptionError

__all__ = ["Progress", "check_choice", "check_noise", "check_positive", "check_seed"]

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


def check_noise(noise: object) -> None:
    """Refuse what is neither a positive finite number nor ``"3sigma"``.

    Raises:
        OptionError: Naming the value.
    """
    number = isinstance(noise, int | float) and not isinstance(noise, bool)
    if noise != "3sigma" and not (number and 0 < noise < math.inf):  # type: ignore[operator]
        raise OptionError(f"noise must be a positive number or '3sigma', got {noise!r}")


def check_seed(seed: object) -> None:
    """Refuse what numpy's published generator does not take.

    Raises:
        OptionError: Naming the value.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise OptionError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
