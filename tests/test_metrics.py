import json
import math
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import OptionError
from interp.evaluation import agreement, exact_match, fluency, harmonic_mean, token_accuracy

TOKENS = st.integers(0, 5)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12)
VALUES = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=6)


def test_token_accuracy() -> None:
    assert token_accuracy([3, 4, 5, 6], [3, 9, 5, 9]) == 0.5
    assert token_accuracy([3], [3]) == 1
    assert token_accuracy([3], [4]) == 0
    assert token_accuracy([4, 3], [3, 4]) == 0  # position by position, not as a bag


def test_agreement_is_not_correctness() -> None:
    truth, before, after = [1, 2, 3, 4], [1, 9, 9, 9], [8, 9, 9, 4]
    assert agreement(before, after) == 0.5  # the two wrong answers that stayed
    assert token_accuracy(before, truth) == token_accuracy(after, truth) == 0.25
    assert agreement([7, 7], [7, 7]) == 1
    assert agreement(truth, [5, 5, 5, 5]) == 0


def test_exact_match() -> None:
    assert exact_match([3, 4], [3, 4]) is True
    assert exact_match([3, 5], [3, 4]) is False
    assert exact_match([4, 3], [3, 4]) is False


@given(PAIRS)
def test_shares_are_bounded_and_symmetric(pairs: list[tuple[int, int]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    share = token_accuracy(first, second)
    assert 0 <= share <= 1
    assert share * len(pairs) == pytest.approx(sum(a == b for a, b in pairs))
    assert share == agreement(first, second) == agreement(second, first)
    assert token_accuracy(first, first) == 1
    assert exact_match(first, second) == (first == second)


@pytest.mark.parametrize(
    ("measure", "first", "second"),
    [
        (token_accuracy, "predicted", "target"),
        (agreement, "before", "after"),
        (exact_match, "generated", "target"),
    ],
)
def test_lengths(measure, first: str, second: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OptionError, match=f"^{first} and {second} differ in length: 2 and 3 tokens$"):
        measure([1, 2], [1, 2, 3])
    with pytest.raises(OptionError, match=f"^{first} and {second} differ in length: 2 and 0 tokens$"):
        measure([1, 2], [])
    with pytest.raises(OptionError, match=f"^{first} and {second} have no tokens$"):
        measure([], [])


def test_fluency_is_the_published(golden: Path) -> None:
    cases = json.loads((golden / "fluency.json").read_text("utf-8"))["cases"]
    assert len(cases) == 4
    for case in cases:
        assert fluency(case["text"]) == pytest.approx(case["fluency"], abs=1e-9), case["text"]


def test_fluency_of_short_texts() -> None:
    assert [fluency(text) for text in ("", "   ", "Rome", "Rome is")] == [0, 0, 0, 0]
    assert math.copysign(1, fluency("Rome is")) == 1
    assert fluency("Rome is big") == pytest.approx(100 * (2 / 3 * 1 + 4 / 3 * 0) / 2)


def test_fluency_weighs_trigrams_twice() -> None:
    # bigrams: ab ba ab bc, entropy 1.5; trigrams: aba bab abc, entropy log2 3
    assert fluency("a b a b c") == pytest.approx(100 * (2 / 3 * 1.5 + 4 / 3 * math.log2(3)) / 2)


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_fluency_bounds(letters: list[str]) -> None:
    n = len(letters)
    most = sum(weight * math.log2(max(n - k + 1, 1)) for k, weight in ((2, 2 / 3), (3, 4 / 3)))
    assert 0 <= fluency(" ".join(letters)) <= 100 * most / 2 + 1e-9


def test_score_is_the_paper_s(golden: Path) -> None:
    rows = json.loads((golden / "paper_table1.json").read_text("utf-8"))
    assert len(rows) == 4
    for row in rows.values():
        score = harmonic_mean([row["reliability"], row["locality"], row["portability"]])
        assert score == pytest.approx(row["harmonic_mean"], abs=0.006)


def test_harmonic_mean() -> None:
    assert harmonic_mean([1, 2, 4]) == pytest.approx(12 / 7)
    assert harmonic_mean([50, 0, 100]) == 0
    assert harmonic_mean([7.5]) == pytest.approx(7.5)


@given(VALUES)
def test_harmonic_mean_properties(values: list[float]) -> None:
    mean = harmonic_mean(values)
    assert mean <= sum(values) / len(values) * (1 + 1e-12)
    assert min(values) * (1 - 1e-12) <= mean <= max(values) * (1 + 1e-12)
    assert mean == pytest.approx(harmonic_mean(values[::-1]))
    assert mean == pytest.approx(statistics.harmonic_mean(values))


def test_harmonic_mean_of_what_has_none() -> None:
    with pytest.raises(OptionError, match="the harmonic mean of no values"):
        harmonic_mean([])
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match=re.escape(f"needs finite values of at least 0, got {value!r}")):
            harmonic_mean([1.0, value])
        with pytest.raises(OptionError):
            harmonic_mean([0.0, value])
