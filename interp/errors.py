"""The public exceptions and the one warning. The command line turns each into one line."""

from typing import Any

__all__ = [
    "DataError",
    "FactError",
    "InterpError",
    "InterpWarning",
    "ModelError",
    "NumericalError",
    "OptionError",
    "WorkerError",
    "excerpt",
]


class InterpError(Exception):
    """Base of everything this package raises on purpose.

    ``patch``: what was edited before the failure, where edits are made in turn (see ``interp.edit_sequentially``).
    """

    patch: Any = None


class ModelError(InterpError):
    """A model that is unknown, unreachable, damaged or of a family that is not supported."""


class FactError(InterpError):
    """A fact that is malformed, or that does not fit the model (subject not found, prompt too long)."""


class DataError(InterpError):
    """A file or run folder that is missing, damaged or cannot be written; names the record and field."""


class OptionError(InterpError):
    """An option outside of what a method takes; names the option, the value and what was expected."""


class NumericalError(InterpError):
    """The model returned NaN or infinite values; no score is computed from them."""


class WorkerError(InterpError):
    """Workers on other processes or machines that cannot start, are not alike, or die again and again."""


class InterpWarning(UserWarning):
    """A number that is right and yet easily misread: says what was done, to which item, and what it means."""


def excerpt(value: object, limit: int = 80) -> str:
    """The start of a value's ``repr``, for a message: on one line, without control characters."""
    shown = repr(value[: limit + 1] if isinstance(value, str) else value)
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown[: 8 * limit])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
