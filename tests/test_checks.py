"""The checks of types and shapes under which all tests run see what is wrong, in functions within functions too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped

from interp.engine.integrated_gradients import quadrature
from tests.conftest import checked

typed = jaxtyped(typechecker=checked)


def repeater(times: int) -> Callable[[Any], str]:
    @typed
    def repeat(x: int) -> str:
        return str(x) * times if x else None

    return repeat


def test_a_function_made_again_is_another_one_with_the_same_checks() -> None:
    for times in (1, 2, 1):
        repeat = repeater(times)
        assert repeat(3) == "3" * times
        with pytest.raises(TypeCheckError, match="parameter 'x'"):
            repeat("3")
        with pytest.raises(TypeCheckError, match="return value"):
            repeat(0)


def made(kind: str) -> Any:
    """Functions of one name that take something else."""
    if kind == "text":

        @typed
        def function(x: str, *, y: str = "") -> None: ...

    elif kind == "number":

        @typed
        def function(x: int, *, y: int = 1) -> None: ...

    elif kind == "no y":

        @typed
        def function(x: int) -> None: ...

    elif kind == "by position":

        @typed
        def function(x: int, /) -> None: ...

    else:

        @typed
        def function(x: int, *, y: int) -> None: ...

    return function


def test_functions_of_one_name_keep_their_own_checks() -> None:
    for _ in range(2):
        made("text")("a")
        made("required")(1, y=1)
        made("number")(1)
        made("by position")(1)
        made("no y")(x=1)
        for kind, words, names in (
            ("text", (1,), {}),
            ("number", ("a",), {}),
            ("number", (1,), {"y": "a"}),
            ("required", (1,), {"y": "a"}),
        ):
            with pytest.raises(TypeCheckError):
                made(kind)(*words, **names)
        for kind, names in (("no y", {"y": 1}), ("required", {})):
            with pytest.raises(TypeError):
                made(kind)(1, **names)


def test_shapes_are_those_of_each_call() -> None:
    def pair() -> Any:
        @typed
        def add(one: Float[torch.Tensor, "n"], other: Float[torch.Tensor, "n"]) -> Float[torch.Tensor, "n"]:
            return one + other

        return add

    for n in (2, 3):
        assert pair()(torch.ones(n), torch.ones(n)).shape == (n,)
        with pytest.raises(TypeCheckError):
            pair()(torch.ones(n), torch.ones(1))


def test_the_package_is_checked() -> None:
    with pytest.raises(TypeCheckError):
        quadrature("riemann", "3")  # type: ignore[arg-type]
