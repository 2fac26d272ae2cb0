"""Hostile input, damage, kills and faults: whatever comes, a right number, or an error that says what is wrong.

A short form runs with the tests. ``make fuzz`` runs the long one with inputs of its own each time; the variable FUZZ
says how many times as much, and what came of it is summed up at the end.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.fuzz import trials


@pytest.fixture(autouse=True)
def _as_users_call_it(unchecked: None) -> None:
    """Without the type checks of the tests, which a user does not have."""


@pytest.fixture
def outcomes(request: pytest.FixtureRequest) -> Counter[str]:
    """Counts what came of each trial of a test; summed up at the end of the run."""
    return trials.OUTCOMES.setdefault(request.node.name, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if trials.SCALE != 1 and trials.OUTCOMES:
        terminalreporter.section(f"fuzz, {trials.SCALE:g} times the short form")
        for name, counts in trials.OUTCOMES.items():
            terminalreporter.write_line(f"{name}: {sum(counts.values())} ({dict(counts)})")
        total = sum(sum(counts.values()) for counts in trials.OUTCOMES.values())
        terminalreporter.write_line(f"{total} trials in all, process {os.getpid()}")
