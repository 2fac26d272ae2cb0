import dataclasses
import math

import numpy as np
import pytest
import torch

from interp.errors import OptionError
from interp.locate.class_average import ClassAverage, class_average
from interp.models.tokens import TOKEN_CLASSES, token_classes
from interp.results.record import Provenance, Record
from interp.results.token_map import TokenMap
from interp.statistics.intervals import largest_columns, ratio_intervals
from tests.token_maps import a_map

LAYERS = 4
SHAPES = [(9, (1, 4)), (6, (0, 1)), (7, (2, 7)), (5, (3, 4)), (12, (0, 5)), (3, (1, 3)), (1, (0, 1)), (10, (2, 4))]
"""Tokens and subject span of the facts: one-token subjects, subjects at the end, one token after, and usual ones."""
SOURCE = Record(provenance=Provenance(model="m", weights_hash="h", dtype="float32", device="cpu", versions={}))


def maps() -> list[TokenMap]:
    generator = torch.Generator().manual_seed(3)
    return [a_map(torch.rand(n, LAYERS, generator=generator), subject_span=span, locator="mlp") for n, span in SHAPES]


def averaged(entries: list[TokenMap], *, seed: int = 0, resamples: int = 300) -> ClassAverage:
    records = [SOURCE] * len(entries)
    return class_average(entries, records, seed=seed, resamples=resamples)


def members(n: int, span: tuple[int, int]) -> dict[str, list[int]]:
    """The classes in the words of their names, token by token."""
    start, end = span
    found: dict[str, list[int]] = {name: [] for name in TOKEN_CLASSES}
    for token in range(n):
        if token == start:
            found["First subject token"].append(token)
        if token == end - 1:
            found["Last subject token"].append(token)
        if start < token < end - 1:
            found["Middle subject tokens"].append(token)
        if token == end:
            found["First subsequent token"].append(token)
        if token > end and token != n - 1:
            found["Further tokens"].append(token)
        if token == n - 1:
            found["Last token"].append(token)
    return found


def test_means_against_brute_force() -> None:
    entries = maps()
    result = averaged(entries)
    for row, name in enumerate(TOKEN_CLASSES):
        facts = [(entry, members(len(entry.values), entry.subject_span)[name]) for entry in entries]
        tokens = [entry.values[token] for entry, positions in facts for token in positions]
        assert result.n_tokens[row] == len(tokens) > 0
        assert result.n_facts[row] == sum(bool(positions) for _, positions in facts)
        for layer in range(LAYERS):
            expected = math.fsum(token[layer].item() for token in tokens) / len(tokens)
            assert result.mean[row, layer].item() == pytest.approx(expected, abs=1e-6)
        assert result.peak[row] == int(torch.stack(tokens).mean(0).argmax())
    assert result.token_classes == TOKEN_CLASSES
    assert (result.method, result.title, result.unit) == ("mlp", "t", "u")
    assert result.provenance == SOURCE.provenance


@pytest.mark.parametrize("token", range(9))
def test_each_token_counts_in_its_classes_and_nowhere_else(token: int) -> None:
    entry = maps()[0]
    changed = entry.values.clone()
    changed[token] += 1
    before = averaged([entry]).mean
    after = averaged([a_map(changed, subject_span=entry.subject_span, locator="mlp")]).mean
    moved = {name for row, name in enumerate(TOKEN_CLASSES) if not torch.allclose(before[row], after[row], atol=1e-3)}
    found = members(9, entry.subject_span)
    assert moved == {name for name in TOKEN_CLASSES if token in found[name]}


def test_middle_tokens_are_pooled() -> None:
    # one middle token of 1 and four of 0: 1/5 if tokens count, 1/2 if facts do
    one = a_map(torch.ones(4, 1), subject_span=(0, 3), locator="mlp")
    four = a_map(torch.zeros(7, 1), subject_span=(0, 6), locator="mlp")
    row = TOKEN_CLASSES.index("Middle subject tokens")
    result = averaged([one, four])
    assert result.mean[row].tolist() == pytest.approx([0.2])
    assert (result.n_facts[row], result.n_tokens[row]) == (2, 5)


def test_interval() -> None:
    result = averaged(maps() * 2)
    assert result.n_facts == (16, 6, 16, 10, 8, 16)
    for row, n_facts in enumerate(result.n_facts):
        assert result.low[row].isnan().all() == result.high[row].isnan().all() == (n_facts < 12)
        if n_facts >= 12:
            assert (result.low[row] < result.mean[row]).all()
            assert (result.mean[row] < result.high[row]).all()
        assert result.peak_low[row] <= result.peak[row] <= result.peak_high[row]


def test_of_few_facts_there_is_no_interval() -> None:
    result = averaged(maps()[:4])
    assert result.low.isnan().all()
    assert result.high.isnan().all()
    assert set(result.peak_low) == set(result.peak_high) == {-1}
    assert min(result.peak) >= 0
    five = averaged(maps()[:5])
    assert five.peak_low[-1] >= 0  # of last tokens, which every fact has
    assert five.low.isnan().all()


def test_interval_width_is_that_of_the_mean() -> None:
    # 100 facts, last token of 0 or 1 half and half: standard error of the mean 0.05, two-sided 97.5%
    entries = [a_map(torch.full((3, 1), float(i % 2)), subject_span=(0, 1), locator="mlp") for i in range(100)]
    result = averaged(entries, resamples=4000)
    assert result.low[-1].item() == pytest.approx(0.5 - 2.28 * 0.05, abs=0.011)
    assert result.high[-1].item() == pytest.approx(0.5 + 2.28 * 0.05, abs=0.011)


def test_facts_are_resampled_and_not_tokens() -> None:
    # every fact has the same many tokens, which differ widely: nothing is uncertain about the mean over facts
    entry = a_map(torch.rand(50, LAYERS), subject_span=(0, 20), locator="mlp")
    result = averaged([entry] * 12)
    assert result.low.isnan().all()
    other = a_map(entry.values + 0.01, subject_span=(0, 20), locator="mlp")
    result = averaged([entry, other] * 6)
    row = TOKEN_CLASSES.index("Further tokens")
    assert (result.high[row] - result.low[row]).max() < 0.02


def test_seed() -> None:
    one, same, other = averaged(maps() * 2), averaged(maps() * 2), averaged(maps() * 2, seed=1)
    for field in ("mean", "low", "high"):
        assert torch.allclose(getattr(one, field), getattr(same, field), rtol=0, atol=0, equal_nan=True)
    assert not torch.allclose(one.low, other.low, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(one.mean, other.mean)


def test_empty_class() -> None:
    entries = [a_map(torch.rand(4, LAYERS), subject_span=(1, 4), locator="mlp")]  # nothing after the subject
    result = averaged(entries)
    for name in ("First subsequent token", "Further tokens"):
        row = TOKEN_CLASSES.index(name)
        assert result.mean[row].isnan().all()
        assert result.low[row].isnan().all()
        assert result.high[row].isnan().all()
        assert (result.n_facts[row], result.n_tokens[row]) == (0, 0)
        assert (result.peak[row], result.peak_low[row], result.peak_high[row]) == (-1, -1, -1)
    row = TOKEN_CLASSES.index("Last token")
    assert torch.allclose(result.mean[row], entries[0].values[-1])


def test_a_token_without_values_does_not_count() -> None:
    values = torch.rand(4, LAYERS)
    values[1:3] = torch.nan  # the subject's two tokens: nothing was measured there
    result = averaged([a_map(values, subject_span=(1, 3), locator="mlp")])
    for name in ("First subject token", "Last subject token"):
        row = TOKEN_CLASSES.index(name)
        assert result.mean[row].isnan().all()
        assert (result.n_facts[row], result.peak[row]) == (0, -1)
    assert torch.allclose(result.mean[TOKEN_CLASSES.index("Last token")], values[-1])


def test_values_of_some_layers_alone_have_no_average() -> None:
    values = torch.rand(4, LAYERS)
    values[2, 1] = torch.nan
    with pytest.raises(OptionError, match="mlp map of fact 0 lacks values of some layers"):
        averaged([a_map(values, subject_span=(1, 3), locator="mlp")])


def test_the_span_holds_the_layers_that_cannot_be_told_from_the_peak() -> None:
    # half of the facts peak in layer 0, half, a little less, in layer 3: the span reaches both
    values = [torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 0.9]])]
    entries = [a_map(values[i % 2], subject_span=(0, 1), locator="mlp") for i in range(6)]
    result = averaged(entries)
    assert (result.peak[0], result.peak_low[0], result.peak_high[0]) == (0, 0, 3)


@pytest.mark.parametrize(("rare", "high"), [(0.6, 3), (0.25, 0)])
def test_peak_interval_is_of_95_percent(rare: float, high: int) -> None:
    """Layer 3 wins about one resample in ten, or one in several hundred: a 95% interval holds the first alone."""
    steady = torch.tensor([[0.3, 0.0, 0.0, 0.0]])
    other = torch.tensor([[0.0, 0.0, 0.0, rare]])
    entries = [a_map(other if i % 4 == 0 else steady, subject_span=(0, 1), locator="mlp") for i in range(40)]
    result = averaged(entries, resamples=4000)
    assert (result.peak[0], result.peak_low[0], result.peak_high[0]) == (0, 0, high)


def test_the_span_leaves_out_what_is_surely_less() -> None:
    generator = torch.Generator().manual_seed(0)
    curve = torch.tensor([0.1, 0.8, 0.82, 0.3])
    entries = [
        a_map((curve + 0.05 * torch.randn(4, generator=generator))[None], subject_span=(0, 1), locator="mlp")
        for _ in range(8)
    ]
    result = averaged(entries)
    assert (result.peak_low[0], result.peak_high[0]) == (1, 2)
    assert result.peak[0] in (1, 2)


def test_one_fact_after_the_other_gives_the_bits_of_all_at_once() -> None:
    """The sums as one array that is filled column by column."""
    entries = maps() * 4
    sums = np.zeros((len(TOKEN_CLASSES), len(entries), LAYERS))
    counts = np.zeros((len(TOKEN_CLASSES), len(entries)))
    for column, entry in enumerate(entries):
        values = entry.values.double().numpy()
        assert entry.subject_span is not None
        for row, positions in enumerate(token_classes(len(values), entry.subject_span).values()):
            sums[row, column] = values[list(positions)].sum(0)
            counts[row, column] = len(positions)
    result = averaged(entries, seed=3, resamples=200)
    for row in range(len(TOKEN_CLASSES)):
        mean = sums[row].sum(0) / counts[row].sum()
        low, high = ratio_intervals(sums[row], counts[row], resamples=200, seed=3)
        for found, expected in ((result.mean, mean), (result.low, low), (result.high, high)):
            assert found[row].numpy().tobytes() == expected.astype(np.float32).tobytes()
        span = largest_columns(sums[row], counts[row], resamples=200, seed=3)
        assert (result.peak_low[row], result.peak_high[row]) == span


def test_facts_that_were_left_out_are_named() -> None:
    entries = maps()
    result = class_average(entries, [SOURCE] * len(entries), left_out=["The X is: not finite"])
    assert result.left_out == ("The X is: not finite",)
    assert averaged(entries).left_out == ()


def test_no_facts() -> None:
    with pytest.raises(OptionError, match="no facts to average"):
        averaged([])


@pytest.mark.parametrize("change", [{"model": "another"}, {"weights_hash": "another"}])
def test_different_models(change: dict[str, str]) -> None:
    other = Record(provenance=dataclasses.replace(SOURCE.provenance, **change))
    with pytest.raises(OptionError, match="the mlp results come from different models"):
        class_average(maps()[:2], [SOURCE, other])


def test_maps_that_cannot_be_averaged() -> None:
    entries = maps()[:2]
    with pytest.raises(OptionError, match=r"maps of different things cannot be averaged: \['other', 't'\]"):
        averaged([entries[0], dataclasses.replace(entries[1], title="other")])
    with pytest.raises(OptionError, match="the mlp map of fact 1 has no subject"):
        averaged([entries[0], dataclasses.replace(entries[1], subject_span=None)])
