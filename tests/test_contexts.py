"""Contexts: valid templates that the model wrote, and what is refused."""

import pytest
import torch

from interp.editing import contexts
from interp.editing.contexts import OPENINGS, context_kinds, write_contexts
from interp.engine.generation import generate
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.models.tokens import decode, encode, tokenize

FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower")


def test_every_family_writes_valid_templates(family_model, family):
    model = family_model(family)
    kinds = write_contexts(model, kinds=((3, 2), (6, 7)))
    assert [len(kind) for kind in kinds] == [1, 2, 7]
    assert kinds[0] == ("{}",)
    assert context_kinds(kinds) == kinds
    for kind in kinds[1:]:
        for i, template in enumerate(kind):
            assert template.count("{}") == 1
            assert template.endswith(". {}")
            assert template.startswith(OPENINGS[i % len(OPENINGS)].split()[0])
            span = tokenize(model, FACT.within(template)).subject_span
            assert span[1] > span[0] > 0


def test_the_default_is_memits(tiny):
    kinds = write_contexts(tiny)
    assert [len(kind) for kind in kinds] == [1, 5]
    assert len(set(kinds[1])) == 5
    assert kinds == write_contexts(tiny, kinds=((10, 5),), seed=0) != write_contexts(tiny, kinds=((11, 5),))


def test_they_are_samples_among_the_five_likeliest(tiny):
    """On their own seeds: a context does not depend on how many there are."""
    kinds = write_contexts(tiny, kinds=((4, 3),), seed=2)
    for i, template in enumerate(kinds[1]):
        prompt = encode(tiny, OPENINGS[i])
        added = generate(tiny, [prompt], 4, top_k=5, seeds=[2 + 7919 * i])[0].tolist()
        assert template == " ".join(decode(tiny, [*prompt, *added]).split()) + ". {}"
    assert write_contexts(tiny, kinds=((4, 5),), seed=2)[1][:3] == kinds[1]


def test_special_tokens_stay_out(bos_model, tiny, monkeypatch):
    """Written out, they would be special tokens again in the middle of a prompt."""
    for kind in write_contexts(bos_model):
        for template in kind:
            assert encode(bos_model, template.replace("{}", "Norway")).count(0) == 1
    monkeypatch.setattr(
        contexts, "generate", lambda model, prompts, n, **_: torch.tensor([[271, 0, 271]] * len(prompts))
    )
    assert "endoftext" not in "".join(write_contexts(tiny)[1])


def test_seeds(tiny):
    kinds = ((8, 5),)
    assert write_contexts(tiny, kinds=kinds, seed=3) == write_contexts(tiny, kinds=kinds, seed=3)
    assert write_contexts(tiny, kinds=kinds, seed=3) != write_contexts(tiny, kinds=kinds, seed=4)
    two = write_contexts(tiny, kinds=((8, 5), (8, 5)), seed=3)
    assert two[1] != two[2]  # kinds of one length are not the same texts again


@pytest.mark.parametrize("text", ["a {} b", "{", "}}", "{0} and }{", "{{}}", " spaced \n\n out "])
def test_braces_in_a_text_are_no_places_for_a_prompt(tiny, monkeypatch, text):
    monkeypatch.setattr(contexts, "decode", lambda model, ids, **_: text)
    kinds = write_contexts(tiny, kinds=((2, 2),))
    for template in kinds[1]:
        assert template.count("{") == template.count("}") == template.count("{}") == 1
        assert "\n" not in template
        assert FACT.within(template).prompt.endswith(FACT.prompt)
    assert context_kinds(kinds) == kinds


def test_kinds():
    assert context_kinds(["{}", "So. {}"]) == (("{}", "So. {}"),)
    assert context_kinds([["{}"], ["So. {}", "It is. {}"]]) == (("{}",), ("So. {}", "It is. {}"))
    assert context_kinds([["{}", "So. {}"]]) == (("{}", "So. {}"),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the first context must be the bare prompt"),
        ([[]], "no kind may be empty"),
        ([["{}"], []], "no kind may be empty"),
        (["So. {}", "{}"], "the first context must be the bare prompt"),
        (["{}", ["So. {}"]], "templates or lists of templates, not both"),
        (["{}", "So."], r"needs exactly one \{\} for the prompt, got 'So\.'"),
        (["{}", "{} and {}"], "needs exactly one"),
        ([["{}"], ["So"]], "needs exactly one"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_contexts(given, message):
    with pytest.raises(OptionError, match=message):
        context_kinds(given)
