"""The option --matmul-precision, and what is said of arithmetic that is narrower than float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from interp.cli.console import messages

if TYPE_CHECKING:
    from interp.results.run_folder import RunFolder

__all__ = ["MatmulPrecision", "multiplying", "say_precision"]

MatmulPrecision = Annotated[
    str,
    typer.Option(
        "--matmul-precision",
        help="Of products of float32 matrices: highest, high (TensorFloat32 where GPUs have it), medium (bfloat16).",
    ),
]

C = TypeVar("C", bound=Callable[..., Any])


def multiplying(command: C) -> C:
    """A command that multiplies as precisely as its option ``--matmul-precision`` says; afterwards all is as before."""

    @wraps(command)
    def precise(*arguments: Any, **options: Any) -> Any:
        if options["matmul_precision"] == "highest":
            return command(*arguments, **options)
        from interp.models.precision import matmul_precision

        with matmul_precision(options["matmul_precision"]):
            return command(*arguments, **options)

    return precise  # type: ignore[return-value]


def say_precision(run: RunFolder) -> None:
    """How far the first fact's maps are from float32's, where a run computes with less."""
    from interp.study.precision import precision_distances, precision_line

    if found := precision_distances(run):
        messages.print(precision_line(found), soft_wrap=True, markup=False)
