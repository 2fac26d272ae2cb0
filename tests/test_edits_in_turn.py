"""Edits one after the other: what fails keeps what was done, a fact may be edited again, the cost does not grow."""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from interp.editing import (
    Corpus,
    FtConfig,
    MemitConfig,
    RomeConfig,
    SecondMoments,
    edit,
    edit_each,
    edit_sequentially,
    second_moments,
)
from interp.editing.whitening import Whitening
from interp.errors import FactError, InterpWarning, ModelError, NumericalError, OptionError
from interp.facts.records import EditRequest, Fact
from interp.models.weights import weights_hash
from interp.patches import applied_patches
from interp.results.record import provenance

pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")

NAMES = ("Norway", "Japan", "Ghana", "Peru", "Chile")
REQUESTS = [
    EditRequest(Fact(template="{} is governed from", subject=name), new_target=target)
    for name, target in zip(NAMES, (" Lima", " Rome", " Oslo", " golf", " Paris"), strict=True)
]
QUICK = RomeConfig(layer=2, steps=3)


@pytest.fixture(scope="module")
def moments(golden):
    return {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}


@pytest.fixture
def model(tiny):
    before = weights_hash(tiny)
    yield tiny
    assert weights_hash(tiny) == before
    assert applied_patches(tiny) == ()


@pytest.fixture
def options(moments):
    return {"config": QUICK, "second_moments": moments, "contexts": ["{}"]}


class _FailsAt:
    """A solve that fails at its n-th call."""

    def __init__(self, n, monkeypatch):
        self.left, solve = n + 1, sys.modules["interp.editing.methods.rome"].rank_one

        def failing(*args, **kwargs):
            self.left -= 1
            if not self.left:
                raise NumericalError("the loss is nan")
            return solve(*args, **kwargs)

        monkeypatch.setattr(sys.modules["interp.editing.methods.rome"], "rank_one", failing)


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_failure_names_its_request_and_carries_the_patch_of_those_before(model, options, monkeypatch, failing):
    expected = edit_sequentially(model, REQUESTS[:failing], **options) if failing else None
    _FailsAt(failing, monkeypatch)
    with pytest.raises(
        NumericalError, match=rf"request {failing} of 5 '{NAMES[failing]} is .*the loss is nan"
    ) as failed:
        edit_sequentially(model, REQUESTS, **options)
    patch = failed.value.patch
    if expected is None:
        assert patch is None
        return
    assert patch.requests == tuple(REQUESTS[:failing])
    torch.testing.assert_close(patch.delta(2), expected.delta(2), atol=1e-6, rtol=1e-4)
    with patch.applied(model):
        pass


def test_an_interruption_carries_what_was_done_too(model, options):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        edit_sequentially(model, REQUESTS, progress=stop, **options)
    assert stopped.value.patch.requests == tuple(REQUESTS[:2])


@pytest.mark.parametrize("call", [edit_each, edit_sequentially])
def test_what_does_not_fit_is_found_before_anything_is_edited(model, options, call):
    calls = []
    long = EditRequest(REQUESTS[3].fact, new_target=" golf" * 70)
    with pytest.raises(FactError, match=r"request 3: .*context holds 64"):
        call(model, [*REQUESTS[:3], long], progress=lambda *step: calls.append(step), **options)
    in_context = {**options, "contexts": ["{}", "word " * 11 + "{}"]}
    with pytest.raises(FactError, match=r"request 1: .*context holds 64"):
        call(
            model,
            [REQUESTS[0], EditRequest(REQUESTS[1].fact, new_target=" golf" * 20)],
            progress=lambda *step: calls.append(step),
            **in_context,
        )
    assert calls == []


def test_a_fact_may_be_edited_again(model, moments):
    tower = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    first, update = (EditRequest(tower, new_target=target) for target in (" Rome", " Oslo"))
    patch = edit_sequentially(
        model, [first, update], config=RomeConfig(layer=2), second_moments=moments, contexts=["{}"]
    )
    assert [outcome.took for outcome in patch.outcomes] == [False, True]
    assert patch.outcome_of(update).took is True
    assert patch.took is True


def test_the_cost_of_an_edit_does_not_grow(model, options, monkeypatch):
    """Weights are hashed, C is factorised and W_out is summed as often for six requests as the work needs, not more."""
    counts = {"hash": 0, "factorise": 0, "layers": 0}
    for module in ("interp.results.record", "interp.patches.patch"):
        count(monkeypatch, module, "weights_hash", counts, "hash")
    count(monkeypatch, "interp.editing.whitening", "_factorised", counts, "factorise")
    found = []
    for n in (2, 5):
        counts.update(dict.fromkeys(counts, 0))
        edit_sequentially(model, REQUESTS[:n], **options)
        found.append(dict(counts))
    assert found[0] == found[1]
    assert found[0]["factorise"] == 1

    on = []
    edit_sequentially(model, REQUESTS, progress=lambda *_: on.append(len(applied_patches(model))), **options)
    assert on == [1] * 5  # one running sum, however many edits


def count(monkeypatch, module, name, counts, key):
    whole = getattr(sys.modules[module], name)

    def counted(*args, **kwargs):
        counts[key] += 1
        return whole(*args, **kwargs)

    monkeypatch.setattr(sys.modules[module], name, counted)


# batches


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("memit", MemitConfig(layers=(1, 2, 4), steps=4, second_moment_weight=15.0)),
        ("ft-l", FtConfig(layer=2, steps=4)),
    ],
)
def test_a_batch_limit_bounds_each_pass_and_changes_no_patch(model, moments, method, config):
    options = {"method": method, "config": config}
    if method == "memit":
        options |= {"second_moments": moments, "contexts": (("{}",), ("So. {}", "It is so. {}"))}
    requests = [*REQUESTS, EditRequest(REQUESTS[0].fact, new_target=" Lima Rome")][1:]
    whole = edit(model, requests, max_batch_tokens=100_000, **options)
    seen = []
    with model.hooks([("blocks.1.hook_resid_pre", lambda value, hook: seen.append(value.shape[:2].numel()))]):
        found = edit(model, requests, max_batch_tokens=24, **options)
    for layer in whole.layers:
        gap = (found.delta(layer) - whole.delta(layer)).norm() / whole.delta(layer).norm()
        assert gap < (1e-4 if method == "memit" else 1e-2)  # Adam's first steps are signs: last bits of zeros turn them
    assert len(seen) > 2
    for one, other in zip(found.outcomes, whole.outcomes, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
    if method == "ft-l":
        assert max(seen) <= 24


def test_running_out_of_memory_halves_the_batch_of_the_spread_and_of_fine_tuning(model, moments, caplog):
    limits = []

    def tight(value, hook):
        limits.append(len(value))
        if len(value) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for method, config, given in (
        ("memit", MemitConfig(layers=(3,), steps=2), {"second_moments": moments, "contexts": ["{}"]}),
        ("ft-l", FtConfig(layer=3, steps=2), {}),
    ):
        with model.hooks([("blocks.3.hook_mlp_out", tight)]):
            patch = edit(model, REQUESTS, method=method, config=config, **given)
        assert len(patch.outcomes) == 5
    assert max(limits) > 2 >= limits[-1]


# second moments: whose, and in which form


def test_moments_of_other_weights_are_refused_by_both_hashes(model, family_model, moments):
    other = family_model("gpt2")
    found = SecondMoments(
        provenance=provenance(other), moments=moments, corpus={}, n_tokens=1, layers=(2,), held_out_error=(0.1,)
    )
    with pytest.raises(ModelError, match="second moments come from") as refused:
        edit(model, REQUESTS[:1], config=QUICK, second_moments=found, contexts=["{}"])
    assert weights_hash(other) in str(refused.value)
    assert weights_hash(model) in str(refused.value)


def test_matrices_of_numpy_and_their_record(model, options, moments):
    given = {np.int64(layer): C.numpy() for layer, C in moments.items()}
    one = edit(model, REQUESTS[:1], **options)
    other = edit(model, REQUESTS[:1], **{**options, "second_moments": given})
    assert torch.equal(one.delta(2), other.delta(2))
    assert one.made_with == other.made_with
    assert one.made_with["contexts"] == [["{}"]]
    assert one.made_with["second_moments"]["source"] == "given"
    assert list(one.made_with["second_moments"]["hash"]) == ["2"]
    changed = edit(model, REQUESTS[:1], **{**options, "second_moments": {2: 2 * moments[2]}})
    assert changed.made_with != one.made_with


def test_a_patch_records_the_moments_it_was_made_with(model, tmp_path):
    found = second_moments(model, [2], cache=tmp_path)
    patch = edit(model, REQUESTS[:1], config=QUICK, second_moments=found, contexts=["{}", "So. {}"])
    patch.save(tmp_path / "patch")
    record = type(patch).load(tmp_path / "patch").made_with
    assert record == patch.made_with
    assert record["second_moments"]["corpus"] == found.corpus
    assert record["second_moments"]["n_tokens"] == found.n_tokens
    assert record["second_moments"]["weights_hash"] == weights_hash(model)
    assert record["second_moments"]["held_out_error"] == {"2": found.held_out_error[0]}
    assert record["contexts"] == [["{}", "So. {}"]]
    plain = edit(model, REQUESTS[:1], config=QUICK, second_moments="identity", contexts=["{}"])
    assert plain.made_with["second_moments"] == {"source": "identity"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "must map layers to C, or be 'identity', got int"),
        ({"two": torch.eye(256)}, r"must map whole numbers \(layers\) to C, got the key 'two'"),
        ({2: "C"}, "second moment of layer 2 must be a real matrix of torch or numpy, got str"),
        ({2: np.array([["a"]])}, "must be a real matrix of torch or numpy, got ndarray"),
        ({2: np.eye(256, dtype=bool)}, "must be a real matrix of torch or numpy, got ndarray"),
        ({2: torch.ones(256)}, r"second moment of layer 2 is \(256,\), expected a square matrix"),
        ({2: torch.eye(256) + torch.ones(256, 256).triu(1)}, "second moment of layer 2 is not symmetric"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_second_moments_of_a_wrong_kind(model, given, message):
    with pytest.raises(OptionError, match=message):
        edit(model, REQUESTS[:1], config=QUICK, second_moments=given, contexts=["{}"])


def test_what_does_not_fit_is_found_before_the_optimisation(model, monkeypatch):
    monkeypatch.setattr(sys.modules["interp.editing.making"], "target_values", None)
    with pytest.raises(NumericalError, match="second moment of layer 2 is singular"):
        edit(model, REQUESTS[:1], config=QUICK, second_moments={2: torch.zeros(256, 256)}, contexts=["{}"])


def test_moments_that_rest_on_too_little_text_are_not_used_without_a_word(model, moments):
    def of(*errors):
        layers = (2, 3)[: len(errors)]
        return SecondMoments(
            provenance=provenance(model),
            moments={layer: moments[layer] for layer in layers},
            corpus={},
            n_tokens=600,
            layers=layers,
            held_out_error=errors,
        )

    with pytest.warns(InterpWarning, match=r"1 of 1 layers rest on too little text \(600 tokens\): in layer 2.* 950%"):
        edit(model, REQUESTS[:1], config=QUICK, second_moments=of(9.5), contexts=["{}"])
    edit(model, REQUESTS[:1], config=QUICK, second_moments=of(0.4), contexts=["{}"])
    several = MemitConfig(layers=(2, 3), steps=QUICK.steps)
    with pytest.warns(InterpWarning, match=r"1 of 2 layers rest on too little text \(600 tokens\): in layer 2.* 950%"):
        edit(model, REQUESTS[:1], method="memit", config=several, second_moments=of(9.5, 0.4), contexts=["{}"])


def test_an_edit_on_a_patch_takes_the_text_and_moments_of_the_unedited_model(model, tmp_path, monkeypatch):
    below = edit(model, REQUESTS[:1], config=RomeConfig(layer=1), second_moments="identity", contexts=["{}"])
    written = {}

    def moments_in(folder, *args, **kwargs):
        kwargs.setdefault("cache", folder)
        found = second_moments(*args, **kwargs)
        written[len(written)] = found
        return found

    monkeypatch.setattr(sys.modules["interp.editing.making"], "estimate", lambda *a, **k: moments_in(tmp_path, *a, **k))
    plain = edit(model, REQUESTS[1:2], config=QUICK)
    with below.applied(model):
        before = weights_hash(model)
        again = edit(model, REQUESTS[1:2], config=QUICK)
        in_turn = edit_sequentially(model, REQUESTS[1:3], config=QUICK, second_moments=written[0])
        assert weights_hash(model) == before
        assert applied_patches(model) == (below,)
    assert again.made_with == plain.made_with == in_turn.made_with
    assert len(list(tmp_path.rglob("text.safetensors"))) == 1
    assert not torch.equal(again.delta(2), plain.delta(2))  # the edit itself is made on the patched model


# wrong types


@pytest.mark.parametrize(
    ("requests", "given", "message"),
    [
        (None, {}, "requests must be a list of EditRequest, got a NoneType"),
        ("Paris", {}, "requests must be a list of EditRequest, got a str"),
        (REQUESTS[0], {}, "requests must be a list of EditRequest, got a EditRequest"),
        ([REQUESTS[0].fact], {}, "request 0 must be an EditRequest, got a Fact"),
        ([REQUESTS[0], None], {}, "request 1 must be an EditRequest, got a NoneType"),
        (REQUESTS[:1], {"contexts": 1}, "contexts must be a list of templates, or of lists of templates, got 1"),
        (REQUESTS[:1], {"contexts": "{}"}, "contexts must be a list of templates"),
        (REQUESTS[:1], {"contexts": [1]}, "contexts must be templates or lists of templates, got 1 among them"),
        (REQUESTS[:1], {"config": 3}, "rome takes a RomeConfig, got a int"),
        (REQUESTS[:1], {"method": 3}, "method must be one of"),
        (REQUESTS[:1], {"max_batch_tokens": 0}, "max_batch_tokens must be a positive"),
        (REQUESTS[:1], {"second_moments": 5}, "second_moments must map layers"),
        (
            REQUESTS[:1],
            {"method": "ft-l", "config": None, "second_moments": "identity"},
            "ft-l takes no second moments",
        ),
        (REQUESTS[:1], {"method": "kn", "config": None, "contexts": ["{}"]}, "kn takes no contexts"),
    ],
)
@pytest.mark.parametrize("call", [edit, edit_each, edit_sequentially])
@pytest.mark.usefixtures("unchecked")
def test_wrong_types_say_what_was_expected(model, call, requests, given, message):
    given = {"config": QUICK, **({} if "method" in given else {"contexts": ["{}"]}), **given}
    if given.get("method") not in ("ft-l", "kn"):
        given.setdefault("second_moments", "identity")
    with pytest.raises(OptionError, match=message):
        call(model, requests, **given)


@pytest.mark.usefixtures("unchecked")
def test_something_that_is_no_model():
    with pytest.raises(OptionError, match=r"model must be a HookedTransformer .*, got a str"):
        edit("gpt2", REQUESTS[:1])


def test_a_factor_serves_all_solves(monkeypatch, moments):
    counts = {"factorise": 0}
    count(monkeypatch, "interp.editing.whitening", "_factorised", counts, "factorise")
    whitening = Whitening(moments)
    for _ in range(3):
        whitening.solve(2, torch.ones(256, 1))
    assert counts["factorise"] == 1


def test_moments_and_contexts_of_a_patched_model_are_those_below_its_patches(model):
    corpus = Corpus(tokens=1000, row=25)
    below = edit(model, REQUESTS[:1], config=RomeConfig(layer=1), second_moments="identity", contexts=["{}"])
    expected = second_moments(model, [2], corpus, cache=None)
    plain = edit(model, REQUESTS[1:2], config=QUICK, second_moments="identity")
    with below.applied(model):
        found = second_moments(model, [2], corpus, cache=None)
        on_top = edit(model, REQUESTS[1:2], config=QUICK, second_moments="identity")
        assert applied_patches(model) == (below,)
    assert torch.equal(found.moments[2], expected.moments[2])
    assert found.provenance == expected.provenance
    assert on_top.made_with == plain.made_with


def test_requests_of_one_turn_that_contradict_each_other_are_named_by_their_own_numbers(model):
    """Before contexts and second moments, which there are none of here; in different turns they are updates."""
    again = EditRequest(REQUESTS[3].fact, new_target=" Oslo")
    requests = [*REQUESTS[:2], REQUESTS[3], again]
    with pytest.raises(OptionError, match="requests 2 and 3 contradict each other or repeat: 'Peru is governed from'"):
        edit_sequentially(model, requests, method="memit", batch_size=2)
    config = MemitConfig(layers=(1, 2), steps=2)
    options = {"method": "memit", "config": config, "second_moments": "identity", "contexts": ["{}"]}
    assert len(edit_sequentially(model, requests[1:], batch_size=2, **options).requests) == 3
