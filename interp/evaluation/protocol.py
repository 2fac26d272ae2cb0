"""Ask a model the questions of edit cases, before and after an edit, and keep every answer.

1. Each case gives questions: the edit prompt, its paraphrases, locality and portability prompts, each with the text
   that should follow (locality: that is true).
2. Teacher-forced, all questions of all cases in one batch: the top token wherever a target token stands, and the
   probability of the target; on edit, paraphrase and locality prompts also that of the rival answer (the old one; on
   locality prompts the new one), for ROME's comparison.
3. Free: the question is continued greedily by as many tokens as its target has.
4. Fluency: of what the model samples after the edit prompt (among the five likeliest tokens, seeded by the case's id).

An edited model is the model with its patch as hooks on the case's own rows, so cases with different patches share the
batches and no weight changes; in formats narrower than float32 each patch is applied in its turn
(:mod:`interp.patches.row_hooks`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformer_lens import HookedTransformer

from interp.engine.batches import halving
from interp.errors import FactError, OptionError
from interp.evaluation.answers import Answers, Reading, check_before
from interp.evaluation.asking import greedy, sampled, teacher_forced
from interp.evaluation.metrics import agreement, exact_match, fluency, token_accuracy
from interp.evaluation.questions import METRICS, PROTOCOLS, Question, questions
from interp.facts.records import EditCase
from interp.models.tokens import decode, encode_continuation
from interp.options import check_choice, check_positive, check_seed
from interp.patches.patch import Outcome, Patch, check_fits, check_unpatched
from interp.patches.row_hooks import under_patches
from interp.results.record import Provenance, Record, provenance

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Answers",
    "CaseEvaluation",
    "Question",
    "Reading",
    "ask",
    "check_case",
    "evaluate",
    "evaluate_each",
    "questions",
]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CaseEvaluation(Record):
    """One case before and after one edit.

    Args:
        case: Its id.
        method, layers: The edit.
        outcome: How the case's request ended in the patch; None if the patch does not edit it.
        questions, targets: What was asked, and the token ids of each target.
        before, after: The readings.
        continuation_before, continuation_after: Sampled from the edit prompt.
        fluency_before, fluency_after: Of these.
    """

    case: str
    method: str
    layers: tuple[int, ...]
    outcome: Outcome | None
    questions: tuple[Question, ...]
    targets: tuple[tuple[int, ...], ...]
    before: tuple[Reading, ...]
    after: tuple[Reading, ...]
    continuation_before: str
    continuation_after: str
    fluency_before: float | None
    fluency_after: float | None

    @property
    def took(self) -> bool:
        """Whether the edited model answers the edit prompt anew: each token of it on top, those before it given."""
        edited = [i for i, question in enumerate(self.questions) if question.metric == "reliability"]
        return all(self.after[i].predicted == self.targets[i] for i in edited)

    def scores(self, protocol: str = "teacher-forced", *, edited: bool = True) -> dict[str, float | None]:
        """The case's metrics, in [0, 1]: the mean within each kind, then over kinds; None where nothing was asked.

        Args:
            protocol: One of :data:`PROTOCOLS`.
            edited: Of the edited model, or of the model before.

        Raises:
            OptionError: If the protocol does not exist.
        """
        check_choice("protocol", protocol, PROTOCOLS)
        found: dict[str, float | None] = {}
        for metric in METRICS:
            kinds: dict[str, list[float]] = {}
            for i, question in enumerate(self.questions):
                if question.metric == metric:
                    value = self._value(i, protocol, edited)
                    if value is not None:
                        kinds.setdefault(question.kind, []).append(value)
            means = [sum(values) / len(values) for values in kinds.values()]
            found[metric] = sum(means) / len(means) if means else None
        return found

    def _value(self, i: int, protocol: str, edited: bool) -> float | None:
        reading, question = (self.after if edited else self.before)[i], self.questions[i]
        if protocol == "probability":
            if reading.rival_log_probability is None:
                return None
            return float(reading.log_probability > reading.rival_log_probability)
        if question.metric == "locality":
            if protocol == "teacher-forced":
                return agreement(self.before[i].predicted, reading.predicted)
            return float(self.before[i].generated == reading.generated)
        if protocol == "teacher-forced":
            return token_accuracy(reading.predicted, self.targets[i])
        return float(exact_match(reading.generated, self.targets[i]))


def evaluate(
    model: HookedTransformer,
    patch: Patch,
    case: EditCase,
    *,
    fluency_tokens: int = 100,
    seed: int = 0,
    model_provenance: Provenance | None = None,
) -> CaseEvaluation:
    """One case before and after a patch (see :func:`evaluate_each`)."""
    return evaluate_each(
        model, [patch], [case], fluency_tokens=fluency_tokens, seed=seed, model_provenance=model_provenance
    )[0]


def evaluate_each(
    model: HookedTransformer,
    patches: Sequence[Patch],
    cases: Sequence[EditCase],
    *,
    before: Sequence[Answers] | None = None,
    fluency_tokens: int = 100,
    seed: int = 0,
    model_provenance: Provenance | None = None,
    max_batch_tokens: int = 4096,
) -> list[CaseEvaluation]:
    """Cases before and after each one's own patch.

    Args:
        model: The unedited model; it is left as it is.
        patches: One per case.
        cases: What to ask.
        before: The unedited model's answers, if they are there already: of the same weights, to the same questions
            and sampled alike.
        fluency_tokens: How many tokens to sample for fluency; 0 for none.
        seed: Of the sampling, together with the case's id.
        model_provenance: To spare hashing the weights.
        max_batch_tokens: The most tokens that go up the network at once.

    Raises:
        OptionError: If there are not as many patches as cases, or ``before`` belongs to other cases, questions or
            options.
        ModelError: If a patch was made for other weights, ``before`` comes from others, or the model carries a patch
            already (names it).
        FactError: If a question does not fit the model (names the case).
        NumericalError: If the model returns NaN or infinite logits.

    Warns:
        InterpWarning: If answers of an earlier version do not say what they were asked.
    """
    if len(patches) != len(cases):
        raise OptionError(f"there are {len(patches)} patches for {len(cases)} cases")
    check_unpatched(model, "evaluate")
    described = model_provenance or provenance(model)
    if before is not None:
        check_before(before, cases, described, fluency_tokens, seed)
    for patch in patches:
        check_fits(patch, model, described.weights_hash)
    options = {
        "fluency_tokens": fluency_tokens,
        "seed": seed,
        "model_provenance": described,
        "max_batch_tokens": max_batch_tokens,
    }
    if before is None:
        before = ask(model, cases, **options)  # type: ignore[arg-type]
    after = ask(model, cases, patches, **options)  # type: ignore[arg-type]
    return [
        CaseEvaluation(
            provenance=described,
            case=case.id,
            method=patch.method,
            layers=patch.layers,
            outcome=patch.outcome_of(case.request),
            questions=(asked := questions(case)),
            targets=tuple(_ids(model, case, question.prompt, question.target)[1] for question in asked),
            before=was.readings,
            after=now.readings,
            continuation_before=was.continuation,
            continuation_after=now.continuation,
            fluency_before=was.fluency,
            fluency_after=now.fluency,
        )
        for case, patch, was, now in zip(cases, patches, before, after, strict=True)
    ]


def ask(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    patches: Sequence[Patch | None] | None = None,
    *,
    fluency_tokens: int = 100,
    seed: int = 0,
    model_provenance: Provenance | None = None,
    max_batch_tokens: int = 4096,
) -> list[Answers]:
    """Put every case's questions to the model, under its patch if there is one.

    Raises:
        ModelError: If the model carries a patch already (names it).
        FactError: If a question does not fit the model (names the case).
        NumericalError: If the model returns NaN or infinite logits.
    """
    check_positive(max_batch_tokens=max_batch_tokens)
    check_seed(seed)
    check_unpatched(model, "ask")
    described = model_provenance or provenance(model)
    options = {
        "fluency_tokens": fluency_tokens,
        "seed": seed,
        "described": described,
        "max_batch_tokens": max_batch_tokens,
    }
    return under_patches(
        model,
        patches if patches is not None else [None] * len(cases),
        lambda members, hooked: _answers(model, [cases[i] for i in members], hooked, **options),  # type: ignore[arg-type]
    )


def _answers(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    patches: Sequence[Patch | None],
    *,
    fluency_tokens: int,
    seed: int,
    described: Provenance,
    max_batch_tokens: int,
) -> list[Answers]:
    """The cases' answers, with patches as hooks."""
    asked = [
        (case, patch, question) for case, patch in zip(cases, patches, strict=True) for question in questions(case)
    ]
    read = [_ids(model, case, question.prompt, question.target) for case, _, question in asked]
    prompts, targets = [prompt for prompt, _ in read], [target for _, target in read]
    rivals = [_ids(model, case, q.prompt, q.rival)[1] if q.rival is not None else () for case, _, q in asked]
    for (case, _, question), ids, target, rival in zip(asked, prompts, targets, rivals, strict=True):
        _check_room(model, case, question.prompt, ids, max(len(target), len(rival)))
    of_row = [patch for _, patch, _ in asked]

    def work(limit: int) -> list[Reading]:
        with_rival = [i for i, rival in enumerate(rivals) if rival]
        pairs = [*zip(prompts, targets, strict=True), *((prompts[i], rivals[i]) for i in with_rival)]
        forced = teacher_forced(model, pairs, [*of_row, *(of_row[i] for i in with_rival)], limit)
        rival_of = {i: forced[len(asked) + place][1] for place, i in enumerate(with_rival)}
        generated = [predicted for predicted, _ in forced[: len(asked)]]
        # where the target's first n tokens are the top ones, greedy generation is the target
        free = [i for i, target in enumerate(targets) if len(target) > 1 and generated[i] != target]
        lengths = [len(targets[i]) for i in free]
        written = greedy(model, [prompts[i] for i in free], lengths, [of_row[i] for i in free], limit)
        for i, tokens in zip(free, written, strict=True):
            generated[i] = tokens
        return [
            Reading(
                predicted=forced[i][0],
                generated=generated[i],
                text=decode(model, generated[i]),
                log_probability=forced[i][1],
                rival_log_probability=rival_of.get(i),
            )
            for i in range(len(asked))
        ]

    readings = iter(halving(work, max_batch_tokens))
    continuations = [""] * len(cases)
    if fluency_tokens:
        openings = [_ids(model, case, case.request.fact.prompt, None)[0] for case in cases]
        for case, ids in zip(cases, openings, strict=True):
            _check_room(model, case, case.request.fact.prompt, ids, fluency_tokens)
        seeds = [_case_seed(case, seed) for case in cases]
        continuations = halving(
            lambda limit: sampled(model, openings, fluency_tokens, seeds, patches, limit), max_batch_tokens
        )
    return [
        Answers(
            provenance=described,
            case=case.id,
            readings=tuple(next(readings) for _ in questions(case)),
            continuation=text,
            fluency=fluency(text) if fluency_tokens else None,
            questions=questions(case),
            fluency_tokens=fluency_tokens,
            seed=seed,
        )
        for case, text in zip(cases, continuations, strict=True)
    ]


def check_case(model: HookedTransformer, case: EditCase, *, fluency_tokens: int = 100) -> None:
    """Whether a case can be asked: every question fits the model's context, and so does what is sampled.

    Raises:
        FactError: If not (names the case and the prompt).
    """
    for question in questions(case):
        for answer in (question.target, question.rival):
            if answer is not None:
                ids, continued = _ids(model, case, question.prompt, answer)
                _check_room(model, case, question.prompt, ids, len(continued))
    prompt = case.request.fact.prompt
    _check_room(model, case, prompt, _ids(model, case, prompt, None)[0], fluency_tokens)


def _ids(
    model: HookedTransformer, case: EditCase, prompt: str, answer: str | None
) -> tuple[list[int], tuple[int, ...]]:
    """Token ids of a prompt and of an answer that continues it."""
    try:
        return encode_continuation(model, prompt, answer)
    except FactError as error:
        raise FactError(f"case {case.id}: {error}") from error


def _check_room(model: HookedTransformer, case: EditCase, prompt: str, ids: list[int], more: int) -> None:
    """Refuse a prompt that cannot be continued by ``more`` tokens."""
    if not 0 < len(ids) <= model.cfg.n_ctx - more:
        raise FactError(
            f"case {case.id}: {prompt[:60]!r} takes {len(ids)} tokens and what follows {more};"
            f" the context holds {model.cfg.n_ctx}"
        )


def _case_seed(case: EditCase, seed: int) -> int:
    return (zlib.crc32(case.id.encode()) + seed) % 2**32
