"""Checks of options that several methods take, with one wording.

Numbers may be Python's or numpy's; each check returns them as Python's, which is what records hold. Whole numbers have
an upper bound where more of them cannot help and would only fill the memory or the day (:data:`MOST`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from interp.errors import OptionError

__all__ = [
    "MOST",
    "Progress",
    "check_choice",
    "check_flag",
    "check_layers",
    "check_noise",
    "check_positive",
    "check_seed",
    "python_numbers",
    "real_number",
    "whole_number",
    "whole_numbers",
]

Progress = Callable[[int, int], None]
"""Called with (done, in all); may raise to stop the work."""

MOST: Mapping[str, tuple[int, str]] = {
    "samples": (10_000, "the standard error is then a hundredth of one sample's spread, and all of them run"),
    "steps": (100_000, "an error of about 1/steps is then below what float32 keeps of a sum"),
    "attribution_steps": (1_000, "fewer than a hundred nodes are exact to what float32 keeps"),
    "window": (1_000, "no model has as many blocks"),
    "max_batch_tokens": (2**24, "no memory holds the activations of more tokens at once"),
    "resamples": (1_000_000, "the ends of an interval are then exact to three digits, and all of them are held"),
    "dpi": (2_400, "no printer shows more, and the pixels grow with its square"),
}
"""The most that an option may be, wherever it is taken, and why."""


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is not one of the choices.

    Raises:
        OptionError: Naming the option, the value, the choices and the nearest one.
    """
    if not any(value is choice or (isinstance(value, type(choice)) and value == choice) for choice in choices):
        near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"{name} must be one of {', '.join(map(repr, choices))}, got {_shown(value)}{hint}")


def whole_number(name: str, value: object, *, least: int = 1, most: int | None = None, why: str = "") -> int:
    """A whole number, as Python's.

    Args:
        name: Of the option, for the error.
        value: Python's or numpy's; a boolean is none.
        least, most: The bounds, both included; without an upper one of its own, that of :data:`MOST` by name.
        why: The reason of the upper bound.

    Raises:
        OptionError: Naming the option, the value, the bound and its reason.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        kind = "positive whole number" if least == 1 else f"whole number from {least}"
        raise OptionError(f"{name} must be a {kind}, got {_shown(value)}")
    if most is None and name in MOST:
        most, why = MOST[name]
    if most is not None and int(value) > most:
        raise OptionError(f"{name} must be at most {most:,}{f' ({why})' if why else ''}, got {int(value):,}")
    return int(value)


def real_number(name: str, value: object, low: float, high: float) -> float:
    """A finite number within bounds, both included, as Python's (a whole one stays whole).

    Raises:
        OptionError: Naming the option, the value and the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise OptionError(f"{name} must be a number from {low:g} to {high:g}, got {_shown(value)}")
    return int(value) if isinstance(value, Integral) else float(value)


def whole_numbers(name: str, value: object, *, least: int = 0) -> tuple[int, ...]:
    """Whole numbers as a tuple of Python's, from a tuple, list, range or array of them.

    Raises:
        OptionError: If it is no sequence, or naming the item that is no whole number from ``least``.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise OptionError(f"{name} must be a sequence of whole numbers, got {_shown(value)}")
    try:
        items = list(value)
    except TypeError as error:  # an array of no dimension says that it can be iterated, and then cannot
        raise OptionError(f"{name} must be a sequence of whole numbers, got {_shown(value)}") from error
    return tuple(whole_number(f"{name}[{index}]", item, least=least) for index, item in enumerate(items))


def check_layers(name: str, value: object, n_layers: int | None = None) -> tuple[int, ...]:
    """Layers as a tuple of rising whole numbers, from any sequence of them.

    Args:
        name: Of the option, for the error.
        value: The layers.
        n_layers: How many the model has, if it is known.

    Raises:
        OptionError: If there are none, they do not rise, or one does not exist.
    """
    layers = whole_numbers(name, value)
    if not layers or list(layers) != sorted(set(layers)):
        raise OptionError(f"{name} must be rising whole numbers from 0, at least one, got {_shown(value)}")
    if n_layers is not None and layers[-1] >= n_layers:
        raise OptionError(f"{name}: layer {layers[-1]} does not exist: there are layers 0 to {n_layers - 1}")
    return layers


def check_positive(**values: object) -> None:
    """Refuse numbers that are not whole and positive, or larger than :data:`MOST` allows.

    Raises:
        OptionError: Naming the option and the value.
    """
    for name, value in values.items():
        whole_number(name, value)


def check_flag(name: str, value: object) -> bool:
    """Refuse what is neither True nor False; return it as Python's.

    Raises:
        OptionError: Naming the option and the value.
    """
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's too
        raise OptionError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def check_noise(noise: Any) -> Any:
    """Refuse what is neither a positive finite number nor ``"3sigma"``; return it as Python's.

    Raises:
        OptionError: Naming the value.
    """
    if isinstance(noise, str) and noise == "3sigma":
        return noise
    if isinstance(noise, bool) or not isinstance(noise, Real) or not 0 < float(noise) < math.inf:
        raise OptionError(f"noise must be a positive number or '3sigma', got {_shown(noise)}")
    return float(noise)


def check_seed(seed: object) -> int:
    """Refuse what numpy's published generator does not take; return it as Python's.

    Raises:
        OptionError: Naming the value.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise OptionError(f"seed must be a whole number from 0 to 2**32 - 1, got {_shown(seed)}")
    return int(seed)


def python_numbers(options: Any) -> None:
    """Turn the numpy numbers among the fields of a frozen dataclass into Python's, for records and comparisons.

    Call it first in ``__post_init__``.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if type(value) in (bool, int, float) or not isinstance(value, Real):
            continue
        number = int(value) if isinstance(value, Integral) else float(value)
        object.__setattr__(options, field.name, number)


def _shown(value: object, length: int = 80) -> str:
    """A value in an error, cut: the whole of an array or a long text helps nobody."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"
