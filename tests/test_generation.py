"""Generation against full forward passes of every row by itself, without padding or a cache."""

import numpy as np
import pytest
import torch

from interp.engine.generation import generate
from interp.errors import OptionError
from interp.models.tokens import encode

TEXTS = (
    "Norway is",
    "The Eiffel Tower is located in the city of",
    "The",
    "Serena Williams plays the sport of",
    "The capital",
)


def naive(model, prompt, n_tokens, *, top_k=1, seed=None, hooks=()):
    """Forward the whole row for each token; sample by inverting the cumulated probabilities of the k likeliest."""
    ids = list(prompt)
    draws = None if seed is None else np.random.RandomState(seed).random_sample(n_tokens)
    with torch.no_grad():
        for step in range(n_tokens):
            logits = model.run_with_hooks(torch.tensor([ids]), prepend_bos=False, fwd_hooks=list(hooks))[0, -1]
            order = logits.argsort(descending=True)[:top_k].tolist() if top_k else range(len(logits))
            if draws is None:
                ids.append(order[0])
                continue
            p = np.exp(logits.double().numpy()[list(order)] - float(logits.max()))
            ids.append(list(order)[int(np.searchsorted(np.cumsum(p / p.sum()), draws[step], side="right"))])
    return ids[len(prompt) :]


def test_greedy_in_every_family(family_model, family):
    model = family_model(family)
    prompts = [encode(model, text) for text in TEXTS]
    found = generate(model, prompts, 8)
    assert found.tolist() == [naive(model, prompt, 8) for prompt in prompts]
    assert len({tuple(row) for row in found.tolist()}) > 1


@pytest.mark.parametrize("top_k", [1, 5, None])
def test_a_beginning_of_sequence_token(bos_model, top_k):
    prompts = [encode(bos_model, text) for text in TEXTS]
    assert all(prompt[0] == 0 for prompt in prompts)  # which is the padding token, too
    seeds = list(range(len(prompts))) if top_k != 1 else None
    found = generate(bos_model, prompts, 8, top_k=top_k, seeds=seeds)
    expected = [naive(bos_model, p, 8, top_k=top_k, seed=seeds[i] if seeds else None) for i, p in enumerate(prompts)]
    assert found.tolist() == expected


@pytest.mark.parametrize("top_k", [2, 5, 600, 1000, None])
def test_sampling(tiny, top_k):
    prompts = [encode(tiny, text) for text in TEXTS]
    found = generate(tiny, prompts, 8, top_k=top_k, seeds=[3, 1, 4, 1, 5])
    assert found.tolist() == [
        naive(tiny, p, 8, top_k=min(top_k or 600, 600) if top_k and top_k < 600 else None, seed=s)
        for p, s in zip(prompts, (3, 1, 4, 1, 5), strict=True)
    ]
    assert found.tolist() != generate(tiny, prompts, 8).tolist()


def test_a_row_does_not_depend_on_its_company(family_model, family):
    model = family_model(family)
    prompts, seeds = [encode(model, text) for text in TEXTS], [11, 12, 13, 14, 15]
    together = generate(model, prompts, 6, top_k=50, seeds=seeds).tolist()
    for i, prompt in enumerate(prompts):
        assert generate(model, [prompt], 6, top_k=50, seeds=[seeds[i]]).tolist() == [together[i]]
    turned = generate(model, prompts[::-1], 6, top_k=50, seeds=seeds[::-1]).tolist()
    assert turned[::-1] == together


def test_seeds(tiny):
    prompt = encode(tiny, TEXTS[0])
    same = generate(tiny, [prompt, prompt, prompt], 12, top_k=None, seeds=[7, 7, 8]).tolist()
    assert same[0] == same[1] != same[2]
    shorter = generate(tiny, [prompt], 5, top_k=None, seeds=[7]).tolist()
    assert shorter[0] == same[0][:5]


def test_the_frequencies_are_the_probabilities(tiny):
    prompt = encode(tiny, "The capital of Japan is")
    with torch.no_grad():
        top = tiny(torch.tensor([prompt]), prepend_bos=False)[0, -1].topk(3)
    expected = top.values.softmax(-1)
    n = 400
    drawn = generate(tiny, [prompt] * n, 1, top_k=3, seeds=range(n))[:, 0]
    found = torch.stack([(drawn == token).float().mean() for token in top.indices])
    assert float(found.sum()) == 1
    assert (found - expected).abs().max() < 4 * 0.5 / n**0.5


def test_hooks_act_in_every_pass(tiny):
    prompts = [encode(tiny, text) for text in TEXTS]
    hooks = [("blocks.2.hook_mlp_out", lambda value, hook: -3 * value)]
    found = generate(tiny, prompts, 6, hooks=hooks).tolist()
    assert found == [naive(tiny, prompt, 6, hooks=hooks) for prompt in prompts]
    assert found != generate(tiny, prompts, 6).tolist()
    assert all(not hook.fwd_hooks for hook in tiny.hook_dict.values())


def test_fills_the_context_to_the_last_token(tiny):
    calls = []
    found = generate(tiny, [[5] * 60, [7]], 4, progress=lambda done, total: calls.append((done, total)))
    assert found.shape == (2, 4)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], []], {}, "prompt 1 has 0 tokens"),
        ([[1] * 61], {}, "prompt 0 has 61 tokens: with 4 more, the model's context holds 1 to 60"),
        ([[1]], {"top_k": 0}, "top_k must be a positive"),
        ([[1]], {"top_k": 5}, "sampling needs one seed per prompt: 1 prompts, None"),
        ([[1]], {"top_k": None, "seeds": [1, 2]}, "sampling needs one seed per prompt"),
        ([[1]], {"top_k": 5, "seeds": [-1]}, "seed must be a whole number"),
    ],
)
def test_bad_options(tiny, prompts, options, message):
    with pytest.raises(OptionError, match=message):
        generate(tiny, prompts, 4, **options)


def test_at_least_one_token(tiny):
    with pytest.raises(OptionError, match="n_tokens must be a positive"):
        generate(tiny, [[1]], 0)
