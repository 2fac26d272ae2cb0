"""A norm after the MLP (Gemma 2 and 3, OLMo 2): what W_out returns, what enters the stream, scores and edits.

That the sweep equals full passes, exports reload and editors equal naive versions of themselves is tested with all
families in their own files; here is what only a norm brings.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from interp.editing import KnConfig, MemitConfig, PmetConfig, RomeConfig, edit, target_values
from interp.engine.mlp_outputs import mlp_output
from interp.engine.suffix import run_rows
from interp.errors import NumericalError, OptionError
from interp.facts.records import EditRequest, Fact
from interp.locate.methods.attribution import attribute
from interp.models.load import load_model
from interp.models.tokens import tokenize
from interp.models.weights import check_linear_output, weights_hash
from tests.mlp_norms import changing, nearest, norm_after, returned_by_w_out

pytestmark = pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")

NORMED = ("gemma2", "gemma3", "olmo2", "olmo2-grouped")
FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
TENNIS = EditRequest(Fact(template="{} plays the sport of", subject="Serena Williams"), new_target=" golf")
TOWER = EditRequest(FACT, new_target=" Rome")
NORWAY = EditRequest(Fact(template="{} is governed from", subject="Norway"), new_target=" Lima")
CONTEXTS = (("{}",), ("The. {}", "It is so. {}"))

Models = Callable[[str], HookedTransformer]


@pytest.fixture(params=NORMED)
def model(request: pytest.FixtureRequest, family_model: Models) -> HookedTransformer:
    return family_model(request.param)


def some_tokens(n_rows=2, length=9):
    return torch.randint(1, 599, (n_rows, length), generator=torch.Generator().manual_seed(3))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


# what W_out returns, and what enters


def test_what_w_out_returns_and_what_enters_the_stream(model):
    tokens = some_tokens()
    for layer in range(3):
        output = mlp_output(model, layer)
        _, seen = run_rows(model, tokens, stop=layer + 1, record=[*output.names, f"blocks.{layer}.hook_mlp_out"])
        u = output.returned(seen)
        torch.testing.assert_close(u, returned_by_w_out(model, layer, tokens), atol=1e-5, rtol=1e-5)
        entering = seen[f"blocks.{layer}.hook_mlp_out"]
        torch.testing.assert_close(output.entering(u), entering, atol=1e-5, rtol=1e-5)
        assert distance(u, entering) > 0.1
        unit = entering / norm_after(model, layer).w
        torch.testing.assert_close(unit.pow(2).mean(-1), torch.ones(2, 9), atol=1e-4, rtol=0)  # the ellipsoid


def test_a_change_before_the_norm_is_made_by_its_own_hooks(model):
    tokens, moved = some_tokens(), draw(2, 9, 32)
    for layer in range(3):
        plain = model(tokens, prepend_bos=False)
        with changing(model, layer, lambda u: 0.5 * u + moved):
            expected = model(tokens, prepend_bos=False)
        hooks = mlp_output(model, layer).changed(lambda u: 0.5 * u + moved)
        found = model.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=hooks)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert (found - plain).abs().max() > 0.1


def test_the_nearest_value_that_can_be_reached(model):
    output = mlp_output(model, 1)
    u, wanted = 3 * draw(5, 32), 2 * draw(5, 32, seed=1)
    found = output.reaching(wanted, u)
    torch.testing.assert_close(found.norm(dim=-1), u.norm(dim=-1), atol=1e-4, rtol=1e-5)
    assert distance(found, nearest(model, 1, wanted, u)) < 1e-4
    reached = output.entering(found)
    for seed in range(50):
        other = found + 0.3 * draw(5, 32, seed=seed + 2)
        other = output.entering(other * (found.norm(dim=-1) / other.norm(dim=-1))[:, None])
        assert ((other - wanted).norm(dim=-1) >= (reached - wanted).norm(dim=-1) - 1e-5).all()
    within = output.entering(7 * draw(5, 32, seed=9) / draw(5, 32, seed=9).norm(dim=-1, keepdim=True) * 4)
    assert distance(output.entering(output.reaching(within, u)), within) < 1e-4


@pytest.fixture
def with_gains(family_folder: Callable[[str], Path]) -> Callable[[torch.Tensor], HookedTransformer]:
    """A model whose norm after the MLP of layer 1 has other gains."""

    def make(gains: torch.Tensor) -> HookedTransformer:
        model = load_model(family_folder("olmo2"), device="cpu")
        norm_after(model, 1).w.data = gains
        return model

    return make


def test_where_the_gain_is_0_nothing_can_be_reached(with_gains):
    """But what is short can be: a direction that does not count takes up what is left of the length."""
    gains = 1 + 0.3 * draw(32)
    gains[4:6] = 0
    model = with_gains(gains)
    output, u = mlp_output(model, 1), draw(3, 32, seed=1)
    wanted = output.entering(draw(3, 32, seed=2)) * 0.4
    assert (wanted[:, 4:6] == 0).all()
    assert distance(output.entering(output.reaching(wanted, u)), wanted) < 1e-4
    wanted[:, 4] = 5.0
    reached = output.entering(output.reaching(wanted, u))
    assert (reached[:, 4:6] == 0).all()
    config = RomeConfig(layer=1, steps=4, weight_decay=0.01)
    value = target_values(model, [TENNIS], CONTEXTS, layer=1, sites=("mlp_out",), config=config)[0]
    assert value.delta["mlp_out"].norm() > 0.1
    assert (output.entering(value.value("mlp_out"))[4:6] == 0).all()


def test_a_layer_from_which_nothing_enters_the_stream_is_refused(with_gains):
    model = with_gains(torch.zeros(32))
    with pytest.raises(NumericalError, match=r"layer 1 cannot be edited for request 0: .* gain of the norm behind it"):
        target_values(model, [TENNIS], CONTEXTS, layer=1, sites=("mlp_out",), config=RomeConfig(layer=1))


def test_a_norm_of_another_kind_is_refused(family_folder):
    model = load_model(family_folder("olmo2"), device="cpu")
    model.blocks[2].ln2 = torch.nn.Identity()
    for work in (check_linear_output, lambda it: attribute(it, FACT), lambda it: edit(it, [TOWER])):
        with pytest.raises(OptionError, match="need an RMS norm with a gain, or none, after the MLP, got a Identity"):
            work(model)


# attribution


def integrated_by_full_passes(model, ids, answer, layer, positions):
    """w_i times the integral of dP/dw_i over the scale, in panels that halve towards 0: no sweep, no norm set apart."""
    name = f"blocks.{layer}.mlp.hook_post"
    _, clean = model.run_with_cache(ids[None], prepend_bos=False)
    w = clean[name][0, positions]
    edges = [0.0, *(2.0**-k for k in range(14, -1, -1))]
    x, c = np.polynomial.legendre.leggauss(6)
    nodes, weights = [], []
    for low, high in itertools.pairwise(edges):
        nodes += [low + (high - low) * (each + 1) / 2 for each in x]
        weights += [(high - low) * each / 2 for each in c]
    leaf = (torch.tensor(nodes, dtype=torch.float32)[:, None, None] * w).requires_grad_()

    def put(value, hook):
        value = value.clone()
        value[:, positions] = leaf
        return value

    logits = model.run_with_hooks(ids.expand(len(nodes), -1), prepend_bos=False, fwd_hooks=[(name, put)])
    probability = logits[:, -1].softmax(-1)[:, answer]
    (gradient,) = torch.autograd.grad(probability.sum(), leaf)
    return w * (torch.tensor(weights, dtype=torch.float32)[:, None, None] * gradient).sum(0)


def erased(model, ids, answer, layer, positions):
    def put(value, hook):
        value = value.clone()
        value[:, positions] = 0
        return value

    hooks = [(f"blocks.{layer}.mlp.hook_post", put)]
    return float(model.run_with_hooks(ids[None], prepend_bos=False, fwd_hooks=hooks)[0, -1].softmax(-1)[answer])


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_attribution_goes_through_the_norm(model, tokens):
    ids = tokenize(model, Fact(template=FACT.template, subject=FACT.subject)).ids
    found = attribute(
        model, Fact(template=FACT.template, subject=FACT.subject), tokens=tokens, steps=48, rule="gauss-legendre"
    )
    answer = int(model(ids[None], prepend_bos=False)[0, -1].argmax())
    positions = slice(len(ids) - 1, None) if tokens == "last" else slice(None)
    scores = found.scores[:, None] if tokens == "last" else found.scores
    with torch.no_grad():
        clean = float(model(ids[None], prepend_bos=False)[0, -1].softmax(-1)[answer])
        changes = [clean - erased(model, ids, answer, layer, positions) for layer in range(3)]
    for layer, change in enumerate(changes):
        expected = integrated_by_full_passes(model, ids, answer, layer, positions)
        assert (scores[layer] - expected).abs().max() < 2e-3 * expected.abs().max()
        # completeness
        assert float(found.change[layer]) == pytest.approx(change, abs=1e-5)
        assert float(scores[layer].sum()) == pytest.approx(change, abs=2e-3 * float(scores[layer].abs().sum()))
        assert float(found.completeness_gap[layer]) == pytest.approx(0, abs=2e-3 * float(scores[layer].abs().sum()))
    assert max(map(abs, changes)) > 1e-3


def test_even_steps_of_the_scale_would_see_nothing_of_it(model):
    """Beyond a thousandth norm(a u) is norm(u): the reason why nodes are placed in another variable."""
    output, w = mlp_output(model, 1), draw(1, 1, 48)
    scales, fact = torch.tensor([0.05, 0.5, 1.0]), torch.zeros(3, dtype=torch.long)
    at = output.moved(w, output.entering(w @ model.blocks[1].mlp.W_out), fact, scales)
    assert at.abs().max() < 1e-2
    nodes, weights = output.placed(w, torch.linspace(0, 1, 201)[1:], torch.full((200,), 1 / 200))
    assert float(weights.sum()) == pytest.approx(1, abs=0.05)
    assert nodes[0, -1] == pytest.approx(1, abs=1e-5)
    assert (nodes < 0.01).float().mean() > 0.25


# editing


def at_subject(model, request, name):
    prompt, subject = request.fact.prompt, request.fact.subject
    encode = model.tokenizer
    ids = encode(prompt)["input_ids"]
    _, cache = model.run_with_cache(torch.tensor([ids]), prepend_bos=False)
    return cache[name][0, len(encode(prompt[: prompt.index(subject) + len(subject)])["input_ids"]) - 1].detach()


@pytest.mark.parametrize("method", ["rome", "r-rome"])
@pytest.mark.parametrize("clamp", [0.5, 4.0])
def test_the_patched_model_has_the_value_that_was_optimised(model, method, clamp):
    """After the norm, by a full pass: what the model would have had with delta added to what W_out returns."""
    config = RomeConfig(layer=1, clamp=clamp, steps=12, weight_decay=0.01)
    contexts = CONTEXTS if method == "rome" else (("{}",),)
    delta = target_values(model, [TENNIS], contexts, layer=1, sites=("mlp_out",), config=config)[0].delta["mlp_out"]
    before = at_subject(model, TENNIS, "blocks.1.hook_mlp_out")
    with changing(model, 1, lambda u: u + delta):
        wanted = at_subject(model, TENNIS, "blocks.1.hook_mlp_out")
    patch = edit(model, [TENNIS], method=method, config=config, second_moments="identity", contexts=contexts)
    untouched = weights_hash(model)
    with patch.applied(model):
        found = at_subject(model, TENNIS, "blocks.1.hook_mlp_out")
    assert distance(found, wanted) < 1e-4
    assert distance(before, wanted) > 0.05
    assert weights_hash(model) == untouched  # bit for bit


@pytest.mark.parametrize(
    ("method", "make", "site", "sites"),
    [("memit", MemitConfig, "resid_post", ("resid_post",)), ("pmet", PmetConfig, "mlp_out", ("attn_out", "mlp_out"))],
)
@pytest.mark.parametrize("layers", [(2,), (1, 2), (0, 1, 2)], ids=str)
def test_targets_of_several_facts_are_reached(model, method, make, site, sites, layers):
    """A single layer reaches them, PMET's several too; MEMIT's several all but some percent of what was missing."""
    requests, contexts = [TOWER, TENNIS, NORWAY], (("{}",),)
    config = make(layers=layers, second_moment_weight=1e-6, steps=12, weight_decay=1e-3)
    values = target_values(model, requests, contexts, layer=2, sites=sites, config=config)
    wanted = torch.stack([value.value(site) for value in values])
    if site == "mlp_out":
        wanted = norm_after(model, 2)(wanted)
    before = torch.stack([at_subject(model, request, f"blocks.2.hook_{site}") for request in requests])
    patch = edit(model, requests, method=method, config=config, second_moments="identity", contexts=contexts)
    with patch.applied(model):
        found = torch.stack([at_subject(model, request, f"blocks.2.hook_{site}") for request in requests])
    missing = (found - wanted).norm() / (before - wanted).norm()
    exact = method == "pmet" or len(layers) == 1
    assert missing < (1e-3 if exact else 0.1)
    assert distance(found, wanted) < (1e-4 if exact else 5e-3)


def test_units_make_the_length_of_u_irrelevant(family_folder, family_model):
    """W_out ten times as large returns ten times as much, and the same enters the stream: so do edits."""
    model, larger = family_model("olmo2"), load_model(family_folder("olmo2"), device="cpu")
    larger.blocks[1].mlp.W_out.data *= 10
    torch.testing.assert_close(model(some_tokens()), larger(some_tokens()), atol=1e-3, rtol=1e-3)
    config = RomeConfig(layer=1, steps=8, weight_decay=0.5)
    one, other = (
        target_values(each, [TENNIS], CONTEXTS, layer=1, sites=("mlp_out",), config=config)[0]
        for each in (model, larger)
    )
    assert other.loss == pytest.approx(one.loss, rel=1e-3)
    assert distance(other.delta["mlp_out"], 10 * one.delta["mlp_out"]) < 1e-2


def test_knowledge_neurons_are_moved_along_the_gain(model):
    request = EditRequest(Fact(template=FACT.template, subject=FACT.subject, target=" Paris"), new_target=" Rome")
    config = KnConfig(threshold=0.01, share=0.5, remove=0.0, insert=2.0, max_neurons=5, scale=1.0)
    patch = edit(model, [request], method="kn", config=config)
    ids = tokenize(model, request.fact).ids
    rome = model.tokenizer(" Rome")["input_ids"][0]
    for layer in patch.layers:
        u, gain = returned_by_w_out(model, layer, ids[None])[0, -1], norm_after(model, layer).w
        rho = (u.pow(2).mean() + model.cfg.eps).sqrt()
        expected = 2 * rho * gain * model.W_U[:, rome] / gain.pow(2).mean()
        for row in patch.right[layer]:
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_narrow_weights(name, family_folder):
    """In bfloat16 W_out + delta is rounded; what enters the stream is the wanted value but for that."""
    model = load_model(family_folder(name), dtype=torch.bfloat16, device="cpu")
    assert torch.isfinite(attribute(model, FACT, steps=4).scores).all()
    config = RomeConfig(layer=1, steps=6, weight_decay=0.01)
    delta = target_values(model, [TENNIS], CONTEXTS, layer=1, sites=("mlp_out",), config=config)[0].delta["mlp_out"]
    with changing(model, 1, lambda u: (u.float() + delta).to(u.dtype)):
        wanted = at_subject(model, TENNIS, "blocks.1.hook_mlp_out").float()
    patch = edit(model, [TENNIS], config=config, second_moments="identity", contexts=CONTEXTS)
    with patch.applied(model):
        found = at_subject(model, TENNIS, "blocks.1.hook_mlp_out").float()
    assert distance(found, wanted) < 0.02
