"""Flipped bits, cut ends and zeroed blocks in every file that is written: the long form of tests/test_damage.py."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from interp.facts.records import Fact
from tests.fuzz.trials import SCALE, rounds
from tests.test_damage import moments_subject, plan_subject, record_subject, records, run_subject, sweep

pytestmark = [
    pytest.mark.skipif(SCALE == 1, reason="the short form is tests/test_damage.py"),
    pytest.mark.filterwarnings("ignore:the second moments of:interp.errors.InterpWarning"),
]


def test_damage_is_refused_or_mended(
    tiny: HookedTransformer, facts: list[Fact], tmp_path: Path, outcomes: Counter[str]
) -> None:
    subjects = {
        type(record).__name__: record_subject(record, tmp_path / f"{i}") for i, record in enumerate(records(tiny))
    }
    subjects |= {
        "a run folder": run_subject(tiny, facts, tmp_path / "run"),
        "the plan of a study": plan_subject(tmp_path / "plan"),
        "second moments": moments_subject(tiny, tmp_path / "moments", "layer-*"),
        "the text of second moments": moments_subject(tiny, tmp_path / "text", "text*"),
    }
    seed = random.SystemRandom().randrange(2**32)
    for number, (name, subject) in enumerate(subjects.items()):
        work = tmp_path / f"work-{number}"
        work.mkdir()
        found = sweep(subject, len(rounds(2)), seed, work)
        outcomes.update({f"{name}, {what}": n for what, n in found.items()})
