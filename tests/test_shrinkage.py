"""Short text: second moments shrunk by the published rule, tokens that grow with the model, caches that fail."""

import pytest
import torch

from interp.editing import Corpus, RomeConfig, edit, second_moments
from interp.editing.shrinkage import ledoit_wolf, shrunk
from interp.errors import InterpWarning, NumericalError, OptionError
from interp.facts.records import EditRequest, Fact


def naive(keys):
    """Ledoit and Wolf's share, written out over single tokens."""
    n, d = keys.shape
    S = keys.T @ keys / n
    eye = torch.eye(d, dtype=keys.dtype) * S.trace() / d
    a = ((S - eye) ** 2).sum() / d
    b = sum(((torch.outer(k, k) - S) ** 2).sum() for k in keys) / d / n**2
    return float(min(a, b) / a)


@pytest.mark.parametrize(("n", "d"), [(5, 8), (40, 8), (3000, 8)])
def test_the_share_is_that_of_the_published_sums(n, d):
    draw = torch.Generator().manual_seed(n)
    keys = torch.randn(n, d, generator=draw, dtype=torch.double) * torch.linspace(0.2, 2, d)
    S = keys.T @ keys / n
    share = ledoit_wolf(S, n, float(keys.square().sum(-1).square().mean()))
    assert share == pytest.approx(naive(keys), rel=1e-9)
    found = shrunk(S, share)
    assert float(found.trace()) == pytest.approx(float(S.trace()))
    assert found[0, 1] == pytest.approx(float((1 - share) * S[0, 1]))
    assert torch.equal(S, keys.T @ keys / n)  # not in place


def test_fewer_tokens_than_neurons_are_shrunk_or_refused(tiny, tmp_path):
    few = Corpus(tokens=200, row=25)
    with pytest.raises(NumericalError, match="200 tokens leave the second moment of 256 neurons singular"):
        second_moments(tiny, [1, 2], few, cache=tmp_path)
    found = second_moments(tiny, [1, 2], few, shrinkage="ledoit-wolf", cache=tmp_path)
    assert found.shrinkage == "ledoit-wolf"
    assert all(0 < share < 1 for share in found.ledoit_wolf)
    for C in found.moments.values():
        assert torch.linalg.eigvalsh(C.double()).min() > 0
    again = second_moments(tiny, [2, 1], few, shrinkage="ledoit-wolf", cache=tmp_path)
    assert torch.equal(again.moments[2], found.moments[2])
    assert again.held_out_error == found.held_out_error
    with pytest.raises(OptionError, match="shrinkage must be one of 'ledoit-wolf', got 'oas'"):
        second_moments(tiny, [1], few, shrinkage="oas")


@pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")
def test_shrinking_short_text_lowers_its_error_and_takes_the_warning(tiny, tmp_path):
    short = Corpus(tokens=275, row=25)  # as 1,600 for 1,536 neurons
    request = EditRequest(Fact(template="{} is governed from", subject="Norway"), new_target=" Lima")
    options = {"config": RomeConfig(layer=2), "contexts": ["{}"]}
    with pytest.warns(InterpWarning, match="rest on too little text"):
        plain = second_moments(tiny, [2], short, cache=tmp_path)
    with pytest.warns(InterpWarning, match="rest on too little text"):
        edit(tiny, [request], second_moments=plain, **options)
    found = second_moments(tiny, [2], short, shrinkage="ledoit-wolf", cache=tmp_path)
    assert found.held_out_error == plain.ledoit_wolf_error
    assert found.held_out_error[0] < plain.held_out_error[0]


def test_tokens_grow_with_the_neurons():
    assert Corpus().sized(1536).tokens == Corpus().sized(2000).tokens == 20_000
    assert Corpus().sized(6400).tokens == 64_000
    assert Corpus(tokens=5).sized(6400).tokens == 5
    with pytest.raises(OptionError, match="tokens must be a positive"):
        Corpus(tokens=0)


def test_a_cache_that_cannot_be_written_loses_nothing(tiny, tmp_path):
    corpus = Corpus(tokens=1000, row=25)
    expected = second_moments(tiny, [1], corpus, cache=None)
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(InterpWarning, match="are not kept for the next time"):
        found = second_moments(tiny, [1], corpus, cache=tmp_path / "file")
    assert torch.equal(found.moments[1], expected.moments[1])
