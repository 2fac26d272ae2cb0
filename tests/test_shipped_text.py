"""Text that comes with the package: it is what the model would write, and is taken for nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import interp
from interp.editing import Corpus, second_moments
from interp.editing.corpora import BATCH, corpus_rows
from interp.editing.shipped_text import FOLDER, SHIPPED, load_text, save_text, shipped_text
from interp.errors import DataError
from interp.results.record import provenance

MODULE = sys.modules["interp.editing.shipped_text"]
CORPUS = Corpus(tokens=24 * (BATCH + 6), row=24)
FEWER = replace(CORPUS, tokens=24 * 40 - 1)

Ship = Callable[[], Path]


@pytest.fixture
def ship(tiny: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Ships what ``tiny`` writes; from then on writing is an error."""

    def shipped() -> Path:
        about = provenance(tiny)
        save_text(tmp_path / "tiny.npz", torch.cat(list(corpus_rows(tiny, CORPUS))), CORPUS, about)
        monkeypatch.setattr(MODULE, "FOLDER", tmp_path)
        monkeypatch.setattr(MODULE, "SHIPPED", {about.weights_hash: "tiny.npz"})

        def written(*_: object, **__: object) -> None:
            raise AssertionError("the model wrote")

        monkeypatch.setattr(sys.modules["interp.editing.moments"], "corpus_rows", written)
        return tmp_path / "tiny.npz"

    return shipped


@pytest.mark.parametrize("corpus", [CORPUS, FEWER], ids=["all", "fewer"])
def test_it_is_what_the_model_would_write(tiny: HookedTransformer, tmp_path: Path, ship: Ship, corpus: Corpus) -> None:
    written = second_moments(tiny, [1, 3], corpus, cache=None)
    ship()
    found = second_moments(tiny, [1, 3], corpus, cache=tmp_path / "cache")
    for layer in (1, 3):
        assert torch.equal(found.moments[layer], written.moments[layer])
    assert (found.n_tokens, found.held_out_error) == (written.n_tokens, written.held_out_error)
    assert not list((tmp_path / "cache").rglob("text.safetensors"))  # it is there already


def test_the_record_and_the_patch_say_which_text_it_was(tiny: HookedTransformer, tmp_path: Path, ship: Ship) -> None:
    written = second_moments(tiny, [1], CORPUS, cache=tmp_path)
    ship()
    found = second_moments(tiny, [1], CORPUS, cache=tmp_path)
    assert written.corpus["revision"] == CORPUS.revision()
    assert found.corpus["revision"].startswith("shipped-")
    assert {**found.corpus, "revision": ""} == {**written.corpus, "revision": ""}
    assert len(list(tmp_path.glob("*/layer-1.safetensors"))) == 2  # texts that may differ are not mixed
    fact = interp.Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    config = interp.default_config(tiny, "rome", layer=1)
    request = interp.EditRequest(fact, new_target=" Rome")
    patch = interp.edit(tiny, [request], config=config, second_moments=found, contexts=["{}"])
    assert patch.made_with["second_moments"]["corpus"] == found.corpus


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"row": 23}, {"tokens": CORPUS.tokens + 1}],  # type: ignore[operator]
    ids=str,
)
def test_another_corpus_is_written(tiny: HookedTransformer, ship: Ship, other: dict[str, int]) -> None:
    ship()
    with pytest.raises(AssertionError, match="the model wrote"):
        second_moments(tiny, [1], replace(CORPUS, **other), cache=None)


def test_other_first_words_are_written(tiny: HookedTransformer, ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    ship()
    monkeypatch.setattr(sys.modules["interp.editing.corpora"], "OPENINGS", ("Once upon a", "The end of"))
    with pytest.raises(AssertionError, match="the model wrote"):
        second_moments(tiny, [1], CORPUS, cache=None)


def test_other_weights_write(tiny: HookedTransformer, ship: Ship) -> None:
    ship()
    W = tiny.blocks[0].mlp.W_out.data
    kept = float(W[0, 0])
    W[0, 0] += 0.5
    try:
        with pytest.raises(AssertionError, match="the model wrote"):
            second_moments(tiny, [1], CORPUS, cache=None)
    finally:
        W[0, 0] = kept


def test_a_text_file_is_read_also_where_a_text_is_shipped(tiny: HookedTransformer, ship: Ship, tmp_path: Path) -> None:
    ship()
    (tmp_path / "text.txt").write_text("The Eiffel Tower is in Paris. " * 200, "utf-8")
    assert shipped_text(provenance(tiny).weights_hash, replace(CORPUS, source=str(tmp_path / "text.txt"))) is None


def test_a_file_of_other_weights_is_not_taken(
    tiny: HookedTransformer, ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "SHIPPED", {"0" * 32: ship().name})
    assert shipped_text("0" * 32, CORPUS) is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _changed(path: Path) -> None:
    with np.load(path) as stored:
        parts = dict(stored)
    parts["tokens"][3, 3] += 1
    np.savez_compressed(path, **parts)


def _without_origin(path: Path) -> None:
    with np.load(path) as stored:
        parts = dict(stored)
    about = json.loads(str(parts["about"]))
    del about["provenance"]
    np.savez_compressed(path, tokens=parts["tokens"], about=np.array(json.dumps(about)))


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _changed, _without_origin])
def test_where_the_file_is_damaged_the_model_writes(
    tiny: HookedTransformer, ship: Ship, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    path = ship()
    damage(path)
    with pytest.raises(DataError, match=r"tiny\.npz"):
        load_text(path)
    with pytest.raises(AssertionError, match="the model wrote"):
        second_moments(tiny, [1], CORPUS, cache=None)
    assert "the model writes its text for second moments itself" in caplog.text


def test_ids_of_a_large_vocabulary_are_kept(tiny: HookedTransformer, tmp_path: Path) -> None:
    for largest in (2**16 - 1, 2**16):
        tokens = torch.tensor([[0, largest], [7, 5]])
        save_text(tmp_path / "text.npz", tokens, replace(CORPUS, tokens=4, row=2), provenance(tiny))
        assert torch.equal(load_text(tmp_path / "text.npz").tokens, tokens)


@pytest.mark.parametrize("name", SHIPPED.values())
def test_the_shipped_files_are_whole(name: str) -> None:
    text = load_text(FOLDER / name)
    assert SHIPPED[text.provenance["weights_hash"]] == name
    assert text.tokens.shape[1] == text.corpus["row"]
    assert text.tokens.numel() >= text.corpus["tokens"]
    settings = {field: value for field, value in text.corpus.items() if field != "revision"}
    assert text.first(Corpus(**settings)) is not None


@pytest.mark.real_model
def test_the_embedded_model_writes_what_is_shipped(real_model: HookedTransformer) -> None:
    """A few rows of it; all of them are compared by ``python -m benchmarks.write_text``."""
    shipped = shipped_text(provenance(real_model).weights_hash, Corpus().sized(1536))
    assert shipped is not None
    assert len(shipped.tokens) == 313
    (rows,) = corpus_rows(real_model, Corpus(tokens=2 * 64))
    assert torch.equal(shipped.tokens[:2], rows)
