"""Jobs for workers of the tests; nothing else is loaded to read them."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

from interp.errors import InterpWarning, NumericalError
from interp.study.workers import Bench

__all__ = ["Fails", "Says"]


@dataclass(frozen=True)
class Fails:
    """A job that fails, as one expects or not."""

    expected: bool
    label: str = "the seventh unit"
    size: int = 1

    def __call__(self, bench: Bench) -> None:
        if self.expected:
            raise NumericalError("the loss is not finite")
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class Says:
    """A job that warns, logs, leaves a unit out and gives something."""

    label: str = "what is said"
    size: int = 2

    def __call__(self, bench: Bench) -> Any:
        warnings.warn("easily misread", InterpWarning, stacklevel=2)
        warnings.warn("not for users", DeprecationWarning, stacklevel=2)
        logging.getLogger("interp.study.x").warning("computing %s again", "0001-mlp")
        bench.report(0.5, "too soon to be told")
        bench.leave_out({"0001-mlp": NumericalError("infinite")})
        return bench.described.weights_hash
