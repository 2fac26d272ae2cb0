"""The tool that changes the package a little and asks whether a test notices."""

import ast

import pytest

from tests.mutation.__main__ import draw, wilson
from tests.mutation.mutants import count, mutant

MODULE = '''"""A module."""

from __future__ import annotations

__all__ = ["clipped"]


def clipped(values: list[float], low: float = 0.5, *, strict: bool = True) -> list[float]:
    """Values from a bound on."""
    if not values:
        raise ValueError(f"no values: {len(values) + 1}")
    logger.info("clipping %d", 3)
    found = []
    for value in values[1:]:
        if value < low and strict:
            continue
        found.append(max(value, low) - 1)
    return found
'''


def every() -> list[tuple[str, str, str]]:
    mutants = [mutant(MODULE, index) for index in range(count(MODULE))]
    return [(one.operator, one.before, one.after) for one in mutants]


def test_each_mutant_is_another_module() -> None:
    mutants = [mutant(MODULE, index) for index in range(count(MODULE))]
    unchanged = ast.unparse(ast.parse(MODULE))
    sources = {one.source for one in mutants}
    assert unchanged not in sources
    assert len(sources) == len(mutants)
    for one in mutants:
        compile(one.source, "module", "exec")
        assert one.before != one.after
        assert one.reach is not None
        assert one.reach[0] <= one.reach[1]


@pytest.mark.parametrize(
    "expected",
    [
        ("comparison", "if value < low and strict:", "if value <= low and strict:"),
        ("and, or", "if value < low and strict:", "if value < low or strict:"),
        ("operand dropped", "if value < low and strict:", "if strict:"),
        ("break and continue", "continue", "break"),
        ("statement dropped", "found.append(max(value, low) - 1)", "pass"),
        ("renamed", "found.append(max(value, low) - 1)", "found.append(min(value, low) - 1)"),
        ("arithmetic", "found.append(max(value, low) - 1)", "found.append(max(value, low) + 1)"),
        ("slice", "for value in values[1:]:", "for value in values[:]:"),
        ("sign or not dropped", "if not values:", "if values:"),
    ],
)
def test_kinds_of_change(expected: tuple[str, str, str]) -> None:
    assert expected in every()


def test_what_nothing_depends_on_is_left_alone() -> None:
    befores = [before for _, before, _ in every()]
    assert not any("logger" in before or "__all__" in before for before in befores)
    # of the error only its being raised; of the head only the defaults
    raised = [after for _, before, after in every() if before.startswith("raise")]
    assert raised == ["pass"]
    heads = [after for _, before, after in every() if before.startswith("def ")]
    assert len(heads) == 2
    assert all("list[float]" in head and "low: float=" in head for head in heads)


def test_the_draw_is_that_of_the_seed() -> None:
    sources = {"one": MODULE, "two": MODULE}
    assert draw(sources, 10, 3) == draw(sources, 10, 3) != draw(sources, 10, 4)
    assert len(set(draw(sources, 1000, 0))) == 2 * count(MODULE)


def test_interval_of_a_share() -> None:
    assert wilson(5, 50) == pytest.approx((0.0435, 0.2136), abs=1e-4)
    assert wilson(0, 10)[0] == 0
