"""Second moments against a plain K^T K over the same rows, their cache, and their corpora."""

import math
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from transformer_lens import HookedTransformer

from interp.editing import Corpus, SecondMoments, second_moments
from interp.editing.corpora import BATCH, _hub_texts, corpus_rows
from interp.editing.grams import held_out_error
from interp.errors import DataError, InterpWarning, NumericalError, OptionError
from interp.models.tokens import encode

SMALL = Corpus(tokens=600, row=24)
N_ROWS = BATCH + 6  # more than one batch


def naive(model, corpus, layer):
    """One full forward pass a row, the products in float64."""
    total, n = 0, 0
    for rows in corpus_rows(model, corpus):
        for row in rows:
            _, cache = model.run_with_cache(row[None], prepend_bos=False)
            keys = cache[f"blocks.{layer}.mlp.hook_post"][0].double()
            total, n = total + keys.T @ keys, n + len(keys)
    return total / n, n


@pytest.fixture
def text(tmp_path, tiny):
    """A file with some 2,000 tokens."""
    names = ("Norway", "Japan", "the Eiffel Tower", "Serena Williams", "Ghana", "the Parthenon")
    verbs = ("is governed from", "has its capital in", "plays the sport of", "travels to", "is located in the city of")
    lines = [f"{i} {a} {v} {b}." for i, (a, v, b) in enumerate((a, v, b) for a in names for v in verbs for b in names)]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(lines) + "\n", "utf-8")
    assert len(encode(tiny, path.read_text())) > 1500
    return path


@pytest.fixture
def no_corpus(monkeypatch):
    """Makes reading a corpus an error, to see that a cache is used."""

    def used(*_, **__):
        raise AssertionError("the corpus was run")

    return lambda: monkeypatch.setattr(sys.modules["interp.editing.moments"], "corpus_rows", used)


def test_every_family_equals_the_plain_sum(family_model, family):
    model = family_model(family)
    found = second_moments(model, [2, 0, 1, 0], SMALL, cache=None)
    assert found.layers == (0, 1, 2) == tuple(found.moments)
    for layer, C in found.moments.items():
        expected, n = naive(model, SMALL, layer)
        assert found.n_tokens == n == 600
        assert float((C.double() - expected).norm() / expected.norm()) < 1e-6
        assert torch.equal(C, C.T)
        assert C.dtype == torch.float32


@pytest.mark.parametrize("limit", [1, 100, 10_000])
def test_batches_and_company_change_no_number(tiny, limit):
    whole = second_moments(tiny, [1, 3], SMALL, cache=None)
    split = second_moments(tiny, [3], SMALL, cache=None, max_batch_tokens=limit)
    torch.testing.assert_close(split.moments[3], whole.moments[3], atol=1e-6, rtol=1e-5)


def test_a_beginning_of_sequence_token(bos_model):
    found = second_moments(bos_model, [2], SMALL, cache=None)
    expected, _ = naive(bos_model, SMALL, 2)
    assert float((found.moments[2].double() - expected).norm() / expected.norm()) < 1e-6
    assert all((rows[:, 0] == 0).all() for rows in corpus_rows(bos_model, SMALL))


def test_more_tokens_leave_a_smaller_error(tiny):
    with pytest.warns(
        InterpWarning, match=r"1 of 1 layers rest on too little text \(320 tokens\): in layer 1, .* infinitely"
    ):
        first = second_moments(tiny, [1], Corpus(tokens=300, row=32), cache=None)
    errors = [
        first.held_out_error[0],
        *(second_moments(tiny, [1], Corpus(tokens=n, row=32), cache=None).held_out_error[0] for n in (700, 2000, 8000)),
    ]
    assert errors[0] == math.inf  # half of 300 tokens leave 256 neurons singular
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < errors[1]


def test_the_error_is_that_of_unseen_tokens(tiny):
    """tr(Ca^-1 Cb) / d - 1, from the halves of every batch."""
    corpus = Corpus(tokens=2000, row=40)
    found = second_moments(tiny, [1], corpus, cache=None, max_batch_tokens=40)
    halves, counts = [0, 0], [0, 0]
    batches = list(corpus_rows(tiny, corpus))
    half_of_row = [int(i >= len(rows) / 2) for rows in batches for i in range(len(rows))]
    assert len(batches) == 1  # a second batch would begin with the half that the first one ended before
    for i, row in zip(half_of_row, (row for rows in batches for row in rows), strict=True):
        _, cache = tiny.run_with_cache(row[None], prepend_bos=False)
        keys = cache["blocks.1.mlp.hook_post"][0].double()
        halves[i], counts[i] = halves[i] + keys.T @ keys, counts[i] + len(keys)
    a, b = (half / count for half, count in zip(halves, counts, strict=True))
    expected = sum(float(torch.linalg.solve(x, y).trace()) / 256 - 1 for x, y in ((a, b), (b, a))) / 2
    assert found.held_out_error[0] == pytest.approx(expected, rel=1e-2)


# the cache


@pytest.mark.parametrize("source", ["self", "file"])
def test_only_what_the_model_writes_is_kept_for_other_layers(tiny, text, tmp_path, source):
    corpus = SMALL if source == "self" else replace(SMALL, source=str(text))
    second_moments(tiny, [1], corpus, cache=tmp_path / "cache")
    kept = {path.name for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert kept == {"layer-1.safetensors", *(["text.safetensors"] if source == "self" else [])}


def test_the_cache_spares_the_corpus(tiny, tmp_path, no_corpus):
    first = second_moments(tiny, [1, 2], SMALL, cache=tmp_path)
    no_corpus()
    again = second_moments(tiny, [2, 1], SMALL, cache=str(tmp_path))
    for layer in (1, 2):
        assert torch.equal(again.moments[layer], first.moments[layer])
    for name in ("layers", "n_tokens", "corpus", "held_out_error", "provenance"):
        assert getattr(again, name) == getattr(first, name)
    only = second_moments(tiny, [2], SMALL, cache=tmp_path)
    assert only.held_out_error == (first.held_out_error[1],)
    with pytest.raises(AssertionError, match="the corpus was run"):
        second_moments(tiny, [1], SMALL, cache=None)


def test_what_another_process_estimates_is_waited_for(tiny, tmp_path, no_corpus, monkeypatch):
    """While this process waits, the other one puts its layers into the cache."""
    moments = sys.modules["interp.editing.moments_cache"]
    alone, waited = moments.only_one, []

    @contextmanager
    def overtaken(folder):
        assert folder.parent == tmp_path
        assert folder.is_dir()  # there is something to hold
        waited.append(folder)
        with monkeypatch.context() as patch:
            patch.setattr(moments, "only_one", alone)
            expected.append(second_moments(tiny, [1, 2], SMALL, cache=tmp_path))
        no_corpus()
        yield

    expected = []
    monkeypatch.setattr(moments, "only_one", overtaken)
    found = second_moments(tiny, [2], SMALL, cache=tmp_path)
    assert len(waited) == 1
    assert torch.equal(found.moments[2], expected[0].moments[2])
    second_moments(tiny, [1], SMALL, cache=tmp_path)  # it is there: nobody is waited for
    assert len(waited) == 1


@pytest.mark.parametrize(
    "other", [Corpus(tokens=601, row=24), Corpus(tokens=600, row=25), Corpus(tokens=600, row=24, seed=1)], ids=str
)
def test_another_corpus_is_another_entry(tiny, tmp_path, no_corpus, other):
    second_moments(tiny, [1], SMALL, cache=tmp_path)
    no_corpus()
    with pytest.raises(AssertionError, match="the corpus was run"):
        second_moments(tiny, [1], other, cache=tmp_path)


def test_other_weights_are_another_entry(tiny, tmp_path, no_corpus):
    second_moments(tiny, [1], SMALL, cache=tmp_path)
    no_corpus()
    W = tiny.blocks[0].mlp.W_out.data
    kept = float(W[0, 0])
    W[0, 0] += 0.5
    try:
        with pytest.raises(AssertionError, match="the corpus was run"):
            second_moments(tiny, [1], SMALL, cache=tmp_path)
    finally:
        W[0, 0] = kept


def test_another_text_under_the_same_name_is_another_entry(tiny, tmp_path, no_corpus, text):
    corpus = Corpus(source=str(text), tokens=600, row=24)
    second_moments(tiny, [1], corpus, cache=tmp_path)
    no_corpus()
    second_moments(tiny, [1], corpus, cache=tmp_path)
    text.write_text(text.read_text() + "one more line\n")
    with pytest.raises(AssertionError, match="the corpus was run"):
        second_moments(tiny, [1], corpus, cache=tmp_path)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: b"x" * 100])
def test_a_damaged_entry_is_estimated_again_with_a_warning(tiny, tmp_path, caplog, damage):
    first = second_moments(tiny, [1, 2], SMALL, cache=tmp_path)
    (path,) = tmp_path.glob("*/layer-2.safetensors")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = second_moments(tiny, [1, 2], SMALL, cache=tmp_path)
    assert "estimating the second moment of layer 2 again" in caplog.text
    assert "layer 1" not in caplog.text
    assert torch.equal(again.moments[2], first.moments[2])
    assert len(path.read_bytes()) == len(whole)
    assert torch.equal(SecondMoments.load(path).moments[2], first.moments[2])


def test_saved_and_loaded(tiny, tmp_path):
    found = second_moments(tiny, [1, 2], SMALL, cache=None)
    found.save(tmp_path / "moments.safetensors")
    loaded = SecondMoments.load(tmp_path / "moments.safetensors")
    assert torch.equal(loaded.moments[2], found.moments[2])
    assert (loaded.layers, loaded.n_tokens, loaded.corpus) == (found.layers, found.n_tokens, found.corpus)


# corpora


def test_the_model_writes_the_same_rows_for_one_seed(tiny):
    one, same, other = (
        torch.cat(list(corpus_rows(tiny, Corpus(tokens=24 * N_ROWS, row=24, seed=seed)))) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert one.shape == (N_ROWS, 24)
    (fewer,) = corpus_rows(tiny, Corpus(tokens=3 * 24, row=24, seed=1))
    assert torch.equal(fewer, one[:3])
    assert not torch.equal(one, other)
    assert len({tuple(row) for row in one.tolist()}) == len(one)


def test_a_row_as_long_as_the_context(tiny):
    rows = torch.cat(list(corpus_rows(tiny, Corpus(tokens=300, row=1000))))
    assert rows.shape == (5, 64)


def test_a_text_file_is_cut_into_rows(tiny, bos_model, text):
    whole = [i for line in text.read_text().splitlines(keepends=True) if line.strip() for i in encode(tiny, line)]
    corpus = Corpus(source=str(text), tokens=100, row=16)
    rows = torch.cat(list(corpus_rows(tiny, corpus)))
    assert rows.shape == (7, 16)
    assert rows.flatten().tolist() == whole[:112]
    rows = torch.cat(list(corpus_rows(bos_model, corpus)))
    assert (rows[:, 0] == 0).all()
    assert rows[:, 1:].flatten().tolist() == whole[:105]
    rows = torch.cat(list(corpus_rows(tiny, Corpus(source=str(text), tokens=6 * N_ROWS, row=6))))
    assert rows.flatten().tolist() == whole[: 6 * N_ROWS]


def test_moments_of_a_text_file(tiny, text):
    corpus = Corpus(source=str(text), tokens=1200, row=30)
    found = second_moments(tiny, [2], corpus, cache=None)
    expected, n = naive(tiny, corpus, 2)
    assert found.n_tokens == n == 1200
    assert float((found.moments[2].double() - expected).norm() / expected.norm()) < 1e-6
    assert found.corpus["source"] == str(text)
    assert found.corpus["revision"] == corpus.revision()


def test_progress_ends_with_all_tokens(tiny, text):
    n = 8 * N_ROWS
    for corpus in (Corpus(tokens=n, row=8), Corpus(source=str(text), tokens=n, row=8)):
        calls = []
        second_moments(
            tiny, [0], corpus, cache=None, progress=lambda done, total, calls=calls: calls.append((done, total))
        )
        assert calls[-1] == (n, n)
        assert len(calls) > 1
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)  # some are said again


def test_too_little_text(tiny, text, tmp_path):
    with pytest.raises(DataError, match=r"text\.txt: has \d+ tokens in rows of 30, 100000 were asked for"):
        second_moments(tiny, [1], Corpus(source=str(text), tokens=100_000, row=30), cache=None)
    with pytest.raises(DataError, match="no such file"):
        second_moments(tiny, [1], Corpus(source=str(tmp_path / "nothing.txt")), cache=None)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read"):
        second_moments(tiny, [1], Corpus(source=str(tmp_path / "bytes")), cache=None)
    with pytest.raises(DataError, match="leave the model nothing to write"):
        second_moments(tiny, [1], Corpus(tokens=300, row=2), cache=None)


def test_refused(tiny):
    with pytest.raises(
        NumericalError, match="255 tokens leave the second moment of 256 neurons singular: take at least 1024"
    ):
        second_moments(tiny, [1], Corpus(tokens=255), cache=None)
    for layer in (-1, 6):
        with pytest.raises(OptionError, match=f"layer {layer} does not exist: the model has layers 0 to 5"):
            second_moments(tiny, [1, layer], SMALL, cache=None)
    with pytest.raises(OptionError, match="of no layer"):
        second_moments(tiny, [], SMALL, cache=None)
    for settings in ({"tokens": 0}, {"row": 0}, {"seed": -1}):
        with pytest.raises(OptionError, match=f"{next(iter(settings))} must be"):
            Corpus(**settings)


def test_activations_that_are_not_finite(tiny):
    hooks = [("blocks.1.mlp.hook_post", lambda value, hook: value * float("inf"))]
    with tiny.hooks(hooks), pytest.raises(NumericalError, match=r"NaN or infinite|layer 1 are not finite"):
        second_moments(tiny, [1], SMALL, cache=None)


def test_text_is_written_once_for_all_layers(tiny, tmp_path, no_corpus):
    n = 12 * N_ROWS
    corpus = Corpus(tokens=n, row=12)
    alone = second_moments(tiny, [1, 4], corpus, cache=None)
    first = second_moments(tiny, [1], corpus, cache=tmp_path)
    no_corpus()
    steps = []
    second = second_moments(tiny, [4], corpus, cache=tmp_path, progress=lambda *step: steps.append(step))
    assert torch.equal(first.moments[1], alone.moments[1])
    assert torch.equal(second.moments[4], alone.moments[4])
    assert steps[-1] == (n, n)
    (text,) = tmp_path.rglob("text.safetensors")
    text.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="the corpus was run"):
        second_moments(tiny, [2], corpus, cache=tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:", "'hub:' is no data set of the Hugging Face hub"),
        ("hub:a/b/c", "'hub:a/b/c' is no data set of the Hugging Face hub"),
        ("x" * 300, "cannot be read: File name too long"),
        ("a\0b", "cannot be read"),
        ("~no-such-user-here/a", "cannot be read"),
        (".", "it is a folder"),
    ],
)
def test_corpora_that_cannot_be(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Corpus(source=source).revision()


def test_a_corpus_is_read_alike_with_any_line_end_and_mark(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_bytes("é one\ntwo\n".encode())
    (tmp_path / "marked.txt").write_bytes("\ufeffé one\r\ntwo\r\n".encode())
    revisions = {Corpus(source=str(tmp_path / name)).revision() for name in ("plain.txt", "marked.txt")}
    assert len(revisions) == 1


def test_every_token_that_is_written_is_a_step(tiny: HookedTransformer, tmp_path: Path) -> None:
    """Who waits for the text can stop it, or be let in, at each of them; later too, while it is read."""
    said: list[tuple[int, int]] = []
    corpus = Corpus(tokens=2048, row=32)
    second_moments(tiny, [0], corpus, cache=tmp_path, progress=lambda *where: said.append(where))
    assert len(said) > 25
    assert said == sorted(said)
    assert said[-1] == (2048, 2048)
    assert len({done for done, _ in said}) > 20
    read: list[tuple[int, int]] = []
    second_moments(tiny, [1], corpus, cache=tmp_path, max_batch_tokens=64, progress=lambda *where: read.append(where))
    assert len(read) >= 32  # after every pass

    class Enough(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        if done > 500:
            raise Enough

    with pytest.raises(Enough):
        second_moments(tiny, [2], replace(corpus, seed=1), cache=tmp_path, progress=stop)
    assert not any(tiny.hook_dict[name].fwd_hooks for name in tiny.hook_dict)


def test_of_one_half_nothing_is_known():
    """Too little text to hold some out, or too little to invert."""
    gram = torch.eye(3, dtype=torch.float64) * 5
    halves = torch.stack([gram, 2 * gram])
    assert held_out_error(halves, torch.tensor([5, 0])) == math.inf
    assert held_out_error(halves, torch.tensor([0, 5])) == math.inf
    assert held_out_error(torch.stack([gram, torch.zeros(3, 3, dtype=torch.float64)]), torch.tensor([5, 5])) == math.inf
    # C_a = 1, C_b = 2: one way round it is twice as large, the other way half
    assert held_out_error(halves, torch.tensor([5, 5])) == pytest.approx(((2 - 1) + (0.5 - 1)) / 2)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hub:some/texts", ("some/texts", None)),
        ("hub:some/texts:20231101.en", ("some/texts", "20231101.en")),
    ],
)
def test_a_data_set_of_the_hub_is_asked_for_its_train_split(monkeypatch, source, asked):
    """The library that reads the hub is told the name, the configuration and to stream; nothing here can be fetched."""
    calls = []

    def load_dataset(name, config, **options):
        calls.append(((name, config), options))
        return [{"text": "one"}, {"text": "two"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(_hub_texts(source)) == ["one", "two"]
    assert calls == [(asked, {"split": "train", "streaming": True})]


def test_a_data_set_that_breaks_off_says_so_and_what_is_ours_passes(monkeypatch):
    def breaking(error):
        def load_dataset(*_, **__):
            yield {"text": "one"}
            raise error

        return load_dataset

    for error, expected, said in (
        (MemoryError("no room"), MemoryError, "no room"),
        (DataError("as it is"), DataError, "^as it is$"),
        (ValueError("whatever"), DataError, "some/texts.*whatever"),
    ):
        monkeypatch.setattr(datasets, "load_dataset", breaking(error))
        with pytest.raises(expected, match=said):
            list(_hub_texts("hub:some/texts"))


def test_a_cache_that_cannot_be_looked_into_is_none(tiny, tmp_path, caplog, monkeypatch):
    real = Path.exists

    def exists(path, *args, **kwargs):
        if path.name.startswith("layer-"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "exists", exists)
    found = second_moments(tiny, [1], SMALL, cache=tmp_path)
    assert torch.equal(found.moments[1], second_moments(tiny, [1], SMALL, cache=None).moments[1])
    assert "again" not in caplog.text


@pytest.mark.parametrize("seed", [0, 5, 10**6])
def test_each_row_of_the_models_own_text_has_a_seed_of_its_own(tiny, monkeypatch, seed):
    module, given = sys.modules["interp.editing.corpora"], []
    real = module.generate

    def generate(*args, **kwargs):
        given.extend(kwargs["seeds"])
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "generate", generate)
    for _ in corpus_rows(tiny, replace(SMALL, seed=seed)):
        pass
    assert given == [(seed * 1_000_003 + row) % 2**32 for row in range(len(given))]
    assert len(set(given)) == len(given) > 1
