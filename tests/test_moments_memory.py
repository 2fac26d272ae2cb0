"""Second moments of many layers take the memory of one: sums, C and factors come and go layer by layer."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from interp.editing import Corpus, MemitConfig, SecondMoments, edit, second_moments
from interp.editing import grams as grams_module
from interp.editing.grams import Sums, sums_by_layer
from interp.editing.whitening import Whitening
from interp.errors import DataError
from interp.facts.records import EditRequest, Fact

pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")
SMALL = Corpus(tokens=600, row=24)
LAYERS = [1, 2, 4]


def batches_of(model: HookedTransformer) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, model.cfg.d_vocab, (rows, 12), generator=draw) for rows in (9, 6)]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Makes the residual stream wait (climb), or as many layers be summed at once as are given (again)."""

    def use(way: str, d_mlp: int, together: int = 1) -> None:
        free = None if way == "climb" else int(together * 20 * d_mlp**2 / grams_module.SUMS_SHARE) + 1
        monkeypatch.setattr(grams_module, "free_bytes", lambda device: free)
        monkeypatch.setattr(grams_module, "STREAM_SHARE", 0)

    return use


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The blocks that are run, first and end, of each call."""
    seen: list[tuple[int, int]] = []
    run = grams_module.run_rows

    def noted(model: Any, x: Any, *, start: int, stop: int, **rest: Any) -> Any:
        seen.append((start, stop))
        return run(model, x, start=start, stop=stop, **rest)

    monkeypatch.setattr(grams_module, "run_rows", noted)
    return seen


def test_every_way_gives_the_same_bits(
    family_model: Callable[[str], HookedTransformer],
    family: str,
    ways: Callable[..., None],
    runs: list[tuple[int, int]],
) -> None:
    model = family_model(family)
    found: dict[str, dict[int, Sums]] = {}
    expected = {"climb": {(0, 1), (1, 3)}, "again": {(0, 1), (0, 3)}, "together": {(0, 3)}}
    for way, blocks in expected.items():
        ways(way, model.cfg.d_mlp, 2 if way == "together" else 1)
        runs.clear()
        found[way] = dict(sums_by_layer(model, [0, 2], batches_of(model), max_batch_tokens=24))
        assert set(runs) == blocks
        assert len(runs) == len(blocks) * 9  # parts of 5, 4, 3 and 3 rows, two rows at once
        assert list(found[way]) == [0, 2]
    for layer in (0, 2):
        for name in ("products", "fourth", "counts"):
            one, *others = (getattr(sums[layer], name) for sums in found.values())
            assert all(torch.equal(one, other) for other in others)
        assert float(found["climb"][layer].products.abs().sum()) > 0


def test_the_stream_waits_where_it_fits_a_quarter_of_the_memory(
    tiny: HookedTransformer, monkeypatch: pytest.MonkeyPatch, runs: list[tuple[int, int]]
) -> None:
    waiting = 15 * 12 * tiny.cfg.d_model * 4
    for free, start in ((4 * waiting, 2), (4 * waiting - 4, 0)):
        monkeypatch.setattr(grams_module, "free_bytes", lambda device, free=free: free)
        runs.clear()
        list(sums_by_layer(tiny, [1, 3], batches_of(tiny)))
        assert set(runs) == {(0, 2), (start, 4)}


def test_the_share_that_is_done_grows_to_all(tiny: HookedTransformer, ways: Callable[..., None]) -> None:
    for way in ("climb", "again"):
        ways(way, tiny.cfg.d_mlp)
        shares: list[float] = []
        list(sums_by_layer(tiny, LAYERS, batches_of(tiny), max_batch_tokens=24, beat=shares.append))
        assert shares == sorted(set(shares))
        assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("kept", [True, False])
def test_the_sums_of_a_layer_go_before_those_of_the_next_come(
    tiny: HookedTransformer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: bool
) -> None:
    sums: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    class Noted(grams_module._Growing):
        def __init__(self, model: HookedTransformer) -> None:
            alive.append(sum(ref() is not None for ref in sums))
            super().__init__(model)
            sums.append(weakref.ref(self.products))

    monkeypatch.setattr(grams_module, "_Growing", Noted)
    second_moments(tiny, LAYERS, SMALL, cache=tmp_path if kept else None)
    assert alive == [0, 0, 0]


# C


@pytest.fixture
def stored(tiny: HookedTransformer, tmp_path: Path) -> SecondMoments:
    """Three layers in a cache."""
    return second_moments(tiny, LAYERS, SMALL, cache=tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of the cache that are read."""
    names: list[str] = []
    cache = sys.modules["interp.editing.moments_cache"]
    load = cache.load  # type: ignore[attr-defined]

    def noted(cls: Any, path: Path) -> Any:
        names.append(path.stem)
        return load(cls, path)

    monkeypatch.setattr(cache, "load", noted)
    return names


def test_a_layer_is_read_when_it_is_asked_for(
    tiny: HookedTransformer, stored: SecondMoments, read: list[str], tmp_path: Path
) -> None:
    held = second_moments(tiny, LAYERS, SMALL, cache=None)
    assert (list(stored.moments), len(stored.moments), 2 in stored.moments, 3 in stored.moments) == (
        LAYERS, 3, True, False,
    )  # fmt: skip
    read.clear()
    assert torch.equal(stored.moments[2], held.moments[2])
    assert read == ["layer-2"]
    one = weakref.ref(stored.moments[2])
    assert one() is None
    stored.save(tmp_path / "all.safetensors")
    again = SecondMoments.load(tmp_path / "all.safetensors")
    assert all(torch.equal(again.moments[layer], held.moments[layer]) for layer in LAYERS)
    shrunk = [second_moments(tiny, [2], SMALL, cache=c, shrinkage="ledoit-wolf") for c in (tmp_path, None)]
    assert torch.equal(shrunk[0].moments[2], shrunk[1].moments[2])
    assert not torch.equal(shrunk[0].moments[2], held.moments[2])


def test_a_file_that_is_gone_or_damaged_is_never_taken(stored: SecondMoments, tmp_path: Path) -> None:
    (path,) = tmp_path.glob("*/layer-2.safetensors")
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"the second moment of layer 2: .* is damaged.*second_moments makes it again"):
        stored.moments[2]
    path.unlink()
    with pytest.raises(DataError, match=r"the second moment of layer 2: .*layer-2\.safetensors is not a readable"):
        stored.moments[2]
    assert stored.moments[1].shape == (256, 256)


@pytest.mark.filterwarnings("ignore:the second moments of:interp.errors.InterpWarning")  # few tokens are quick
def test_an_edit_reads_the_layers_that_it_edits(
    tiny: HookedTransformer, stored: SecondMoments, read: list[str]
) -> None:
    fact = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    config = MemitConfig(layers=(1, 2), steps=2)
    given = {"method": "memit", "config": config, "contexts": ["{}"]}
    requests = [EditRequest(fact, new_target=" Rome")]
    read.clear()
    patch = edit(tiny, requests, second_moments=stored, **given)
    assert set(read) == {"layer-1", "layer-2"}
    assert set(patch.made_with["second_moments"]["hash"]) == {"1", "2"}
    held = second_moments(tiny, LAYERS, SMALL, cache=None)
    expected = edit(tiny, requests, second_moments=held, **given)
    assert patch.made_with == expected.made_with
    assert all(torch.equal(patch.delta(layer), expected.delta(layer)) for layer in (1, 2))


# factors


def test_a_factor_without_room_serves_one_solve(stored: SecondMoments, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["interp.editing.whitening"]
    factorised, factors = module._factorised, []  # type: ignore[attr-defined]

    def noted(*args: Any) -> torch.Tensor:
        alive.append(sum(ref() is not None for ref in factors))
        factor = factorised(*args)
        factors.append(weakref.ref(factor))
        return factor

    monkeypatch.setattr(module, "_factorised", noted)
    takes = 8 * 256**2
    keys = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    solved = []
    for free, made, held in ((4 * takes, 3, [0, 1, 2]), (4 * takes - 4, 6, [0] * 6)):
        alive: list[int] = []
        factors.clear()
        monkeypatch.setattr(module, "free_bytes", lambda device, free=free: free)
        whitening = Whitening(stored.moments)
        whitening.prepare(LAYERS, 256, torch.device("cpu"))
        solved.append([whitening.solve(layer, keys) for layer in LAYERS])
        assert (len(factors), alive) == (made, held)
    assert all(torch.equal(one, other) for one, other in zip(*solved, strict=True))
