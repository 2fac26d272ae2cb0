"""Evaluation: what is asked, three protocols, cases with their own patches in one batch, and rows of a table."""

import copy
import math
import zlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from interp.editing import RomeConfig, edit_each
from interp.engine.generation import generate
from interp.errors import FactError, InterpWarning, ModelError, NumericalError, OptionError
from interp.evaluation.case_evaluation import CaseEvaluation
from interp.evaluation.measures import questions
from interp.evaluation.metrics import fluency
from interp.evaluation.protocol import ask, evaluate, evaluate_each
from interp.evaluation.protocols import PROTOCOLS
from interp.evaluation.questions import Question, Reading, cases_of
from interp.evaluation.summary import compare, table_row
from interp.facts.records import EditCase, EditRequest, Fact, Probe
from interp.models.weights import weights_hash
from interp.patches.patch import Patch, compose
from interp.results.record import provenance
from interp.statistics.estimates import bootstrap_mean, bootstrap_score, paired_difference
from interp.statistics.significance import paired_p_value

CASES = [
    EditCase(
        id="tower",
        request=EditRequest(
            Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris"),
            new_target=" Rome",
        ),
        paraphrases=("Visitors of the Eiffel Tower travel to", "The Eiffel Tower is in"),
        locality={
            "near": (
                Probe(prompt="Visitors of the Parthenon travel to", target=" Athens"),
                Probe(prompt="The Parthenon is located in the city of", target=" Athens"),
            ),
            "far": (Probe(prompt="The capital of Japan is", target=" Tokyo"),),
        },
        portability={"reasoning": (Probe(prompt="The Eiffel Tower is governed from", target=" Rome Rome"),)},
    ),
    EditCase(
        id="tennis",
        request=EditRequest(
            Fact(template="{} plays the sport of", subject="Serena Williams", target=" tennis"), new_target=" golf"
        ),
        paraphrases=("Serena Williams is famous for playing",),
        locality={"far": (Probe(prompt="Norway is governed from", target=" Lima Oslo"),)},
    ),
    EditCase(
        id="japan",
        request=EditRequest(Fact(template="The capital of {} is", subject="Japan"), new_target=" Lima"),
    ),
]
OPTIONS = {"fluency_tokens": 0}
ASKED = ("reliability", "generality", "locality", "portability")
"""The measures that ask questions."""


@pytest.fixture(scope="session")
def patches(tiny, golden):
    moments = {int(name[6:]): c for name, c in load_file(golden / "second_moments.safetensors").items()}
    config = RomeConfig(layer=2, weight_decay=1e-3, steps=30)
    contexts = ["{}", "The. {}"]
    return edit_each(tiny, [c.request for c in CASES], config=config, second_moments=moments, contexts=contexts)


@pytest.fixture(scope="session")
def evaluations(tiny, patches):
    return evaluate_each(tiny, patches, CASES, fluency_tokens=30)


def ids_of(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def naive_reading(model, question):
    """By full forward passes of one row at a time."""
    bos = [model.tokenizer.bos_token_id] if model.cfg.default_prepend_bos else []
    prompt = bos + ids_of(model, question.prompt)

    def read(text):
        target = ids_of(model, text)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *target[:-1]]]), prepend_bos=False)[0, len(prompt) - 1 :]
        log_p = logits.log_softmax(-1)[range(len(target)), target]
        return tuple(logits.argmax(-1).tolist()), float(log_p.mean()), len(target)

    predicted, log_p, n = read(question.target)
    ids = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), prepend_bos=False)[0, -1].argmax()))
    rival = read(question.rival)[1] if question.rival is not None else None
    return predicted, tuple(ids[len(prompt) :]), log_p, rival


def assert_reads(model, asked, readings):
    for question, reading in zip(asked, readings, strict=True):
        predicted, generated, log_p, rival = naive_reading(model, question)
        assert reading.predicted == predicted
        assert reading.generated == generated
        assert reading.text == model.tokenizer.decode(list(generated))
        assert reading.log_probability == pytest.approx(log_p, abs=1e-4)
        assert (reading.rival_log_probability is None) == (rival is None)
        if rival is not None:
            assert reading.rival_log_probability == pytest.approx(rival, abs=1e-4)


def test_questions():
    asked = questions(CASES[0])
    assert [(q.metric, q.kind) for q in asked] == [
        ("reliability", ""),
        ("generality", ""),
        ("generality", ""),
        ("locality", "near"),
        ("locality", "near"),
        ("locality", "far"),
        ("portability", "reasoning"),
    ]
    assert asked[0] == Question(
        metric="reliability", kind="", prompt=CASES[0].request.fact.prompt, target=" Rome", rival=" Paris"
    )
    assert (asked[1].target, asked[1].rival) == (" Rome", " Paris")
    assert (asked[3].target, asked[3].rival) == (" Athens", " Rome")
    assert (asked[6].target, asked[6].rival) == (" Rome Rome", None)
    assert [(q.target, q.rival) for q in questions(CASES[2])] == [(" Lima", None)]


def test_an_edit_makes_its_case_reliable(tiny, patches, evaluations):
    before = weights_hash(tiny)
    for patch, evaluation in zip(patches, evaluations, strict=True):
        assert patch.converged
        for protocol in ("teacher-forced", "exact-match"):
            assert evaluation.scores(protocol)["reliability"] == 1
            assert evaluation.scores(protocol, edited=False)["reliability"] < 1
        assert evaluation.outcome == patch.outcomes[0]
        assert evaluation.layers == (2,)
        assert evaluation.method == "rome"
        assert evaluation.provenance == provenance(tiny)
    assert weights_hash(tiny) == before


def test_the_outcome_of_a_case_is_its_requests_in_a_patch_of_several(tiny, patches):
    ended = [
        replace(patch, outcomes=(replace(patch.outcomes[0], probability=0.5, took=index != 1),))
        for index, patch in enumerate(patches)
    ]
    whole = compose(ended)
    found = evaluate_each(tiny, [whole] * len(CASES), CASES, **OPTIONS)
    assert [each.outcome for each in found] == [patch.outcomes[0] for patch in ended]
    assert table_row(found, locator="x", layers="2").n_took == sum(each.took for each in found)
    assert evaluate_each(tiny, [patches[0]], [CASES[1]], **OPTIONS)[0].outcome is None


def test_readings_are_those_of_full_passes_with_the_patch_applied(tiny, patches, evaluations):
    for case, patch, evaluation in zip(CASES, patches, evaluations, strict=True):
        asked = questions(case)
        assert evaluation.questions == asked
        assert evaluation.targets == tuple(tuple(ids_of(tiny, q.target)) for q in asked)
        assert_reads(tiny, asked, evaluation.before)
        with patch.applied(tiny):
            assert_reads(tiny, asked, evaluation.after)


def test_every_family_reads_as_full_passes_do(family_model, family):
    model = family_model(family)
    for case, answers in zip(CASES, ask(model, CASES, fluency_tokens=0), strict=True):
        assert_reads(model, questions(case), answers.readings)


def test_a_beginning_of_sequence_token(bos_model):
    for case, answers in zip(CASES, ask(bos_model, CASES, fluency_tokens=0), strict=True):
        assert_reads(bos_model, questions(case), answers.readings)


@pytest.mark.parametrize("limit", [4096, 1, 40])
def test_cases_in_one_batch_are_what_they_are_alone(tiny, patches, limit):
    together = evaluate_each(tiny, patches, CASES, fluency_tokens=20, max_batch_tokens=limit)
    turned = evaluate_each(tiny, patches[::-1], CASES[::-1], fluency_tokens=20, max_batch_tokens=limit)[::-1]
    for case, patch, found, other in zip(CASES, patches, together, turned, strict=True):
        alone = evaluate(tiny, patch, case, fluency_tokens=20)
        for name in ("case", "outcome", "questions", "targets", "continuation_before", "continuation_after"):
            assert getattr(found, name) == getattr(other, name) == getattr(alone, name), name
        assert found.fluency_after == other.fluency_after == alone.fluency_after
        for a, b in zip((*found.before, *found.after), (*alone.before, *alone.after), strict=True):
            assert (a.predicted, a.generated) == (b.predicted, b.generated)
            assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)
        for protocol in PROTOCOLS:
            assert found.scores(protocol) == alone.scores(protocol)


def test_one_case_under_different_patches(tiny, patches):
    """And under none: rows of one batch differ in nothing but the patch."""
    plain, own, foreign = ask(tiny, [CASES[0]] * 3, [None, patches[0], patches[1]], fluency_tokens=0)
    assert_reads(tiny, questions(CASES[0]), plain.readings)
    for patch, answers in ((patches[0], own), (patches[1], foreign)):
        with patch.applied(tiny):
            assert_reads(tiny, questions(CASES[0]), answers.readings)
    assert own.readings[0].predicted != plain.readings[0].predicted


def test_the_model_before_may_be_given(tiny, patches, evaluations):
    before = ask(tiny, CASES, fluency_tokens=30)
    found = evaluate_each(tiny, patches, CASES, before=before, fluency_tokens=30)
    for one, other in zip(found, evaluations, strict=True):
        assert one.before == other.before
        assert one.after == other.after
        assert one.fluency_before == other.fluency_before


def test_an_edit_of_nothing_is_local_and_never_reliable(tiny, patches):
    """Locality is agreement with the model before, right or wrong."""
    nothing = replace(patches[1], right={2: torch.zeros_like(patches[1].right[2])})
    found = evaluate(tiny, nothing, CASES[1], **OPTIONS)
    (place,) = (i for i, q in enumerate(found.questions) if q.metric == "locality")
    assert found.before[place].predicted != found.targets[place]  # wrong: " Lima Oslo" is not what it says
    for protocol in ("teacher-forced", "exact-match"):
        assert found.scores(protocol)["locality"] == 1
        assert found.scores(protocol, edited=False)["locality"] == 1
        assert found.scores(protocol)["reliability"] == 0
    assert found.before == found.after


# scores


def reading(predicted, generated=None, log_p=-1.0, rival=None):
    generated = predicted if generated is None else generated
    return Reading(
        predicted=predicted, generated=generated, text="", log_probability=log_p, rival_log_probability=rival
    )


def evaluation_of(*entries, **fields):
    """From (metric, kind, target, before, after)."""
    given = {
        "provenance": fields.pop("provenance", None),
        "case": "a",
        "method": "rome",
        "layers": (1,),
        "outcome": None,
        "questions": tuple(
            Question(
                metric=m, kind=k, prompt="p", target="t", rival="r" if a.rival_log_probability is not None else None
            )
            for m, k, _, _, a in entries
        ),
        "targets": tuple(t for _, _, t, _, _ in entries),
        "before": tuple(b for *_, b, _ in entries),
        "after": tuple(a for *_, a in entries),
        "continuation_before": "",
        "continuation_after": "",
        "fluency_before": None,
        "fluency_after": None,
    }
    return CaseEvaluation(**given | fields)


@pytest.fixture
def source(tiny):
    return provenance(tiny)


def test_three_protocols(source):
    found = evaluation_of(
        ("reliability", "", (1, 2), reading((8, 9)), reading((1, 9), (1, 9), -1.0, -2.0)),
        ("generality", "", (1, 2), reading((8, 9)), reading((1, 2), (1, 9), -2.0, -1.0)),
        ("generality", "", (1, 2), reading((8, 9)), reading((1, 2), (1, 2), -1.0, -1.0)),
        ("locality", "far", (1, 2), reading((5, 6), (5, 7), 0.0, -9.0), reading((5, 2), (5, 7), -3.0, -2.0)),
        ("portability", "alias", (3,), reading((3,)), reading((3,), (4,))),
        provenance=source,
    )
    assert found.scores("teacher-forced") == {
        "reliability": 0.5,
        "generality": 1,
        "locality": 0.5,
        "portability": 1,
    }
    assert found.scores("exact-match") == {"reliability": 0, "generality": 0.5, "locality": 1, "portability": 0}
    assert found.scores("probability") == {"reliability": 1, "generality": 0, "locality": 0, "portability": None}
    assert found.scores("teacher-forced", edited=False) == {
        "reliability": 0,
        "generality": 0,
        "locality": 1,
        "portability": 1,
    }
    assert tuple(found.scores()) == ASKED
    assert found.scores(None) == {"fluency": None}
    with pytest.raises(OptionError, match="did you mean 'exact-match'"):
        found.scores("exact-mach")


def test_the_mean_is_within_kinds_and_then_over_them(source):
    right, wrong = reading((1,)), reading((2,))
    found = evaluation_of(
        *(("locality", "near", (7,), right, after) for after in (right, right, right, wrong)),
        ("locality", "far", (7,), right, wrong),
        ("portability", "alias", (1,), wrong, right),
        ("portability", "reasoning", (1,), wrong, wrong),
        ("portability", "reasoning", (1,), wrong, wrong),
        provenance=source,
    )
    assert found.scores() == {
        "reliability": None,
        "generality": None,
        "locality": pytest.approx(0.375),
        "portability": pytest.approx(0.5),
    }


def test_exact_match_of_one_token_is_token_accuracy(evaluations):
    """Greedy and teacher-forced answers differ only after a first token that is wrong."""
    for evaluation in evaluations:
        for target, answer in zip(evaluation.targets, evaluation.after, strict=True):
            assert answer.predicted[0] == answer.generated[0]
            assert (answer.generated == target) == (answer.predicted == target)
            if len(target) == 1:
                assert answer.generated == answer.predicted


def test_probability_compares_with_the_rival(evaluations):
    for evaluation in evaluations:
        scores = evaluation.scores("probability")
        assert scores["portability"] is None
        (first, *_) = evaluation.after
        if first.rival_log_probability is not None:
            assert scores["reliability"] == float(first.log_probability > first.rival_log_probability) == 1
            assert evaluation.scores("probability", edited=False)["reliability"] == 0
    assert evaluations[2].scores("probability")["reliability"] is None  # the old answer is not known


# fluency


def test_fluency_is_that_of_a_seeded_continuation(tiny, patches, evaluations):
    again = evaluate_each(tiny, patches, CASES, fluency_tokens=30)
    other = evaluate_each(tiny, patches, CASES, fluency_tokens=30, seed=1)
    for one, same, different in zip(evaluations, again, other, strict=True):
        assert (one.continuation_before, one.continuation_after) == (same.continuation_before, same.continuation_after)
        assert one.continuation_before != different.continuation_before
        assert one.fluency_after == pytest.approx(fluency(one.continuation_after))
        assert one.fluency_before == pytest.approx(fluency(one.continuation_before))
        assert len(ids_of(tiny, one.continuation_after)) >= 20
    twin = replace(CASES[0], id="twin")
    assert evaluate(tiny, patches[0], twin, fluency_tokens=30).continuation_before != evaluations[0].continuation_before


def test_the_continuation_is_the_edited_models(tiny, patches, evaluations):
    for case, patch, evaluation in zip(CASES, patches, evaluations, strict=True):
        prompt, seeds = ids_of(tiny, case.request.fact.prompt), [zlib.crc32(case.id.encode())]
        before = generate(tiny, [prompt], 30, top_k=5, seeds=seeds)[0]
        assert evaluation.continuation_before == tiny.tokenizer.decode(before.tolist())
        with patch.applied(tiny):
            after = generate(tiny, [prompt], 30, top_k=5, seeds=seeds)[0]
        assert evaluation.continuation_after == tiny.tokenizer.decode(after.tolist())
        assert evaluation.continuation_after != evaluation.continuation_before


def test_fluency_can_be_left_out(tiny, patches):
    found = evaluate(tiny, patches[0], CASES[0], **OPTIONS)
    assert found.fluency_before is found.fluency_after is None
    assert found.continuation_before == found.continuation_after == ""


def test_saved_and_loaded(evaluations, tmp_path):
    for evaluation in evaluations:
        evaluation.save(tmp_path / "evaluation.safetensors")
        loaded = CaseEvaluation.load(tmp_path / "evaluation.safetensors")
        assert vars(loaded) == vars(evaluation)


# what is refused


def test_a_question_that_is_too_long_names_its_case(tiny, patches):
    probe = Probe(prompt="word " * 40 + "is", target=" Rome")
    with pytest.raises(
        FactError, match=r"case tower: 'word word .* takes \d+ tokens and what follows 1; the context holds 64"
    ):
        evaluate(tiny, patches[0], replace(CASES[0], locality={"far": (probe,)}), **OPTIONS)


def test_a_question_with_its_target_that_is_too_long_names_its_case(tiny, patches):
    """The prompt alone would fit."""
    probe = Probe(prompt="The capital of Japan is", target=" Rome" * 60)
    with pytest.raises(FactError, match=r"case tower: .*the context holds 64"):
        evaluate(tiny, patches[0], replace(CASES[0], portability={"alias": (probe,)}), **OPTIONS)
    rival = replace(CASES[0].request, new_target=" Rome", fact=replace(CASES[0].request.fact, target=" Oslo" * 60))
    with pytest.raises(FactError, match=r"case tower: .*the context holds 64"):
        evaluate(tiny, patches[0], replace(CASES[0], request=rival), **OPTIONS)


def test_a_question_that_just_fits(tiny, patches):
    prompt = CASES[0].request.fact.prompt
    room = 64 - len(ids_of(tiny, prompt))
    case = replace(CASES[0], portability={"alias": (Probe(prompt=prompt, target=" Rome" * room),)})
    assert len(evaluate(tiny, patches[0], case, **OPTIONS).after[-1].generated) == room


def test_a_continuation_that_is_too_long_names_its_case(tiny, patches):
    with pytest.raises(FactError, match=r"case tower: .*the context holds 64"):
        evaluate(tiny, patches[0], CASES[0], fluency_tokens=60)


def test_patches_and_cases_must_match(tiny, patches):
    with pytest.raises(OptionError, match="there are 2 patches for 3 cases"):
        evaluate_each(tiny, patches[:2], CASES, **OPTIONS)


def test_answers_before_that_are_of_something_else(tiny, patches):
    before = ask(tiny, CASES, **OPTIONS)
    assert evaluate_each(tiny, patches, CASES, before=before, **OPTIONS)[1].before == before[1].readings

    def refuse(error, match, **changes):
        changed = [before[0], replace(before[1], **changes), *before[2:]]
        with pytest.raises(error, match=match):
            evaluate_each(tiny, patches, CASES, before=changed, **OPTIONS)

    other = replace(before[1].provenance, weights_hash="0123", dtype="bfloat16")
    refuse(ModelError, f"case tennis before the edit come from .* 0123 in bfloat16; expected .* {weights_hash(tiny)}",
           provenance=other)  # fmt: skip
    refuse(OptionError, r"case tennis .*'seed': 5.*; expected .*'seed': 0", seed=5)
    refuse(OptionError, r"case tennis .*'fluency_tokens': 3", fluency_tokens=3)
    first, *rest = before[1].questions
    refuse(
        OptionError,
        "case tennis .* are to another question: .*' chess'",
        questions=(replace(first, target=" chess"), *rest),
    )
    refuse(OptionError, "case tennis .* are 2; expected one for each of", readings=before[1].readings[:2])
    with pytest.raises(OptionError, match=r"those of other cases .*: tennis where tower is expected"):
        evaluate_each(tiny, patches, CASES, before=before[1:] + before[:1], **OPTIONS)


def test_answers_of_an_earlier_version_are_taken_with_a_warning(tiny, patches):
    before = [replace(each, questions=(), fluency_tokens=None, seed=None) for each in ask(tiny, CASES, **OPTIONS)]
    with pytest.warns(InterpWarning, match="case tower before the edit do not say what was asked"):
        found = evaluate_each(tiny, patches, CASES, before=before, **OPTIONS)
    assert found[0].before == before[0].readings


def test_cases_are_those_of_the_prompt_that_was_edited(patches):
    request = CASES[0].request
    other_prompt = replace(
        CASES[0],
        id="visitors",
        request=EditRequest(
            Fact(template="Visitors of the {} travel to", subject="Eiffel Tower"), new_target=request.new_target
        ),
    )
    other_answer = replace(CASES[0], id="lima", request=EditRequest(request.fact, new_target=" Lima"))
    candidates = [other_prompt, CASES[1], other_answer, CASES[0]]
    assert cases_of(patches[0], candidates) == [CASES[0]]
    with pytest.raises(
        OptionError, match=r"none of 1 cases asks .*located in the city of.*; case visitors asks about 'Visitors"
    ):
        cases_of(patches[0], [other_prompt])
    with pytest.raises(OptionError, match="none of 0 cases asks about the patch's edit"):
        cases_of(patches[0], [])
    both = replace(patches[0], requests=(request, CASES[1].request), outcomes=patches[0].outcomes * 2)
    assert cases_of(both, CASES) == CASES[:2]
    with pytest.warns(InterpWarning, match=r"1 of the patch's 2 edits have no case .*Serena Williams"):
        assert cases_of(both, CASES[:1]) == CASES[:1]


def test_a_patch_of_other_weights(family_model, patches):
    with pytest.raises(ModelError, match=patches[0].provenance.weights_hash):
        evaluate(family_model("gpt2"), patches[0], CASES[0], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"), [({"seed": -1}, "seed must be"), ({"max_batch_tokens": 0}, "max_batch_tokens must be")]
)
def test_bad_options(tiny, patches, options, message):
    with pytest.raises(OptionError, match=message):
        evaluate_each(tiny, patches, CASES, **OPTIONS, **options)


def test_damaged_weights(tiny):
    damaged = copy.deepcopy(tiny)
    with torch.no_grad():
        damaged.blocks[1].mlp.W_in[0, 0] = float("nan")
    with pytest.raises(NumericalError, match="NaN or infinite"):
        ask(damaged, CASES, fluency_tokens=0)


def test_no_cases(tiny):
    assert evaluate_each(tiny, [], []) == []


# rows of a table


def test_a_row_of_the_table(evaluations):
    row = table_row(evaluations, locator="attribution", layers="2")
    assert (row.locator, row.method, row.layers, row.n_cases, row.n_took) == ("attribution", "rome", "2", 3, 3)
    for protocol in PROTOCOLS:
        columns = {}
        for metric in ASKED:
            columns[metric] = [float("nan") if (v := e.scores(protocol)[metric]) is None else v for e in evaluations]
            expected = bootstrap_mean(columns[metric], bounds=(0, 1))
            found = row.scores[protocol][metric]
            assert found.n == expected.n
            for name in ("mean", "low", "high"):
                assert getattr(found, name) == pytest.approx(100 * getattr(expected, name), nan_ok=True)
        score = bootstrap_score(columns["reliability"], columns["locality"], columns["portability"])
        assert row.scores[protocol]["score"].mean == pytest.approx(100 * score.mean, nan_ok=True)
    assert row.scores["teacher-forced"]["reliability"].mean == 100
    assert row.scores["teacher-forced"]["portability"].n == 1
    assert row.measured("fluency").mean == pytest.approx(sum(e.fluency_after for e in evaluations) / 3)


def test_the_row_of_the_model_before(evaluations):
    row = table_row(evaluations, locator="none", layers="", edited=False)
    assert row.method == "none"
    assert row.scores["teacher-forced"]["locality"].mean == row.scores["exact-match"]["locality"].mean == 100
    assert row.scores["exact-match"]["reliability"].mean == 0
    assert row.measured("fluency").mean == pytest.approx(sum(e.fluency_before for e in evaluations) / 3)
    assert row.n_took is None  # nothing was edited, so nothing was to take
    assert row.scores["exact-match"]["locality"].why == "100 by definition"


def test_the_row_of_the_model_before_without_locality_prompts(tiny, patches):
    case = EditCase(id="bare", request=patches[0].requests[0])
    row = table_row([evaluate(tiny, patches[0], case, fluency_tokens=0)], locator="none", layers="", edited=False)
    found = row.scores["teacher-forced"]["locality"]
    assert found.n == 0
    assert "by definition" not in found.why


def test_the_row_counts_what_the_edited_model_says(evaluations):
    failed = replace(evaluations[1], after=evaluations[1].before)
    assert evaluations[1].outcome.converged
    assert (evaluations[1].took, failed.took) == (True, False)
    row = table_row([evaluations[0], failed, evaluations[2]], locator="attribution", layers="2")
    assert row.n_took == 2


def test_rows_that_cannot_be(evaluations):
    with pytest.raises(OptionError, match="no cases to average for attribution"):
        table_row([], locator="attribution", layers="")
    other = replace(evaluations[1], method="memit")
    with pytest.raises(OptionError, match="the evaluations of attribution differ in method or model"):
        table_row([evaluations[0], other], locator="attribution", layers="")


def test_two_locators(evaluations):
    worse = [replace(e, after=e.before, fluency_after=e.fluency_after - 10) for e in evaluations]
    found = compare(evaluations, worse, names=("attribution", "causal tracing"))
    assert (found.method, found.first, found.second) == ("rome", "attribution", "causal tracing")
    assert found.protocol == "teacher-forced"
    for metric in ASKED:
        one, other = (
            [float("nan") if (v := e.scores()[metric]) is None else v for e in each] for each in (evaluations, worse)
        )
        expected = paired_difference(one, other, bounds=(0, 1))
        assert found.differences[metric].mean == pytest.approx(100 * expected.mean, nan_ok=True)
        assert found.differences[metric].n == expected.n
    assert found.differences["reliability"].mean > 50  # in favour of the first
    assert found.differences["locality"].mean <= 0
    assert found.differences["fluency"].mean == pytest.approx(10)
    exact = compare(evaluations, worse, names=("a", "b"), protocol="exact-match")
    assert exact.differences["reliability"].mean == 100
    assert found.p_values["reliability"] == paired_p_value(
        *([e.scores()["reliability"] for e in each] for each in (evaluations, worse))
    )
    assert set(found.p_values) == set(found.differences) == {*ASKED, "fluency", "score"}
    for others in (worse[:2], worse[::-1], [replace(e, method="memit") for e in worse]):
        with pytest.raises(OptionError, match="a and b edited different cases or with different methods"):
            compare(evaluations, others, names=("a", "b"))


def test_seeds_of_rows_and_comparisons_reach_every_interval(evaluations):
    """Enough cases that each number has an interval, and a p-value of random exchanges."""
    many, rivals = [], []
    for i in range(6):
        for e in evaluations:
            told = {"case": f"{e.case}-{i}", "fluency_before": 400.0 + i, "fluency_after": 500.0 + i * i % 7}
            many.append(replace(e, **told, after=e.before if i in (1, 4) else e.after))
            rivals.append(
                replace(many[-1], fluency_after=499.0 + 3 * i % 7, after=e.before if i in (0, 1, 2) else e.after)
            )
    rows = [table_row(many, locator="a", layers="2", seed=seed) for seed in (3, 3, 4)]
    comparisons = [compare(many, rivals, names=("a", "b"), seed=seed) for seed in (3, 3, 4)]
    assert repr(rows[0].scores) == repr(rows[1].scores)  # NaN is not NaN, but its text is
    assert repr(comparisons[0]) == repr(comparisons[1])
    for protocol in PROTOCOLS:
        for name, interval in rows[0].scores[protocol].items():
            if not math.isnan(interval.low):
                assert interval != rows[2].scores[protocol][name], name
    assert rows[0].measured("fluency") != rows[2].measured("fluency")
    for name, interval in comparisons[0].differences.items():
        if not math.isnan(interval.low):
            assert interval != comparisons[2].differences[name], name
    measured = [name for name, i in comparisons[0].differences.items() if not math.isnan(i.low)]
    assert {"reliability", "locality", "fluency"} <= set(measured)
    varied = [name for name in measured if 0 < comparisons[0].p_values[name] < 1]
    assert "fluency" in varied
    for name in (name for name in varied if comparisons[0].differences[name].n > 13):  # of fewer, all ways are taken
        assert comparisons[0].p_values[name] != comparisons[2].p_values[name], name


def test_patches_are_not_changed(patches):
    assert all(isinstance(patch, Patch) and torch.isfinite(patch.delta(2)).all() for patch in patches)
