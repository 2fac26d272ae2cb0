"""One trial: call something, and say whether what it did is right."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from transformer_lens import HookedTransformer

from interp.errors import InterpError, InterpWarning

SCALE = float(os.environ.get("FUZZ", "1"))
OUTCOMES: dict[str, Counter[str]] = {}
LONGEST = 600
"""Characters of an error: a person has to read it."""

F = TypeVar("F", bound=Callable[..., Any])


class HangError(BaseException):
    """Something takes far too long; no ``except Exception`` swallows it."""


class Model:
    """A model that does not print itself, hook by hook, where an example fails."""

    def __init__(self, model: HookedTransformer) -> None:
        self.it = model

    def __repr__(self) -> str:
        return "the tiny model"


def fuzzed(examples: int) -> Callable[[F], F]:
    """So many inputs in the short form: always the same ones there, new ones in the long form."""
    return settings(
        max_examples=max(1, round(examples * SCALE)),
        derandomize=SCALE == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def rounds(number: int) -> range:
    """As many rounds of a harness that draws for itself."""
    return range(max(1, round(number * SCALE)))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise :class:`HangError` where it takes longer (main thread)."""

    def ring(*_: Any) -> None:
        raise HangError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tried(
    call: Callable[[], Any], outcomes: Counter[str], *, check: Callable[[Any], None] | None = None, seconds: float = 60
) -> Any:
    """Call; an error on purpose is as good as a result that passes the check, everything else is a fault.

    Returns:
        The result; None if it was refused.
    """
    with warnings.catch_warnings(record=True) as said, within(seconds):
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            found = call()
        except InterpError as error:
            outcomes["refused"] += 1
            assert_readable(str(error))
            return None
    foreign = [w for w in said if not issubclass(w.category, InterpWarning)]
    assert not foreign, f"a warning that is not ours: {foreign[0].category.__name__}: {foreign[0].message}"
    for warning in said:
        assert_readable(str(warning.message))
    outcomes["warned" if said else "right"] += 1
    if check:
        check(found)
    return found


def assert_readable(message: str) -> None:
    """One line that a person can read and a terminal can show."""
    assert message.strip()
    assert len(message) <= LONGEST, f"a message of {len(message)} characters: {message[:200]!r} ..."
    assert "\n" not in message.strip(), f"a message of several lines: {message!r}"


def raised_in(error: BaseException) -> str:
    """The last line of the package that an error came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/interp/" in f.filename.replace("\\", "/")]
    return f"{frames[-1].filename.rsplit('/interp/', 1)[-1]}:{frames[-1].lineno}" if frames else "elsewhere"


def on_linux() -> bool:
    """Where /proc, mounts and forks are as these harnesses use them."""
    return sys.platform == "linux"
