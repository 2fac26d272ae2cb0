"""Ask a model the questions of edit cases, before and after an edit, and keep every answer.

1. Each measure asks its questions of each case: the edit prompt, its paraphrases, locality and portability prompts,
   each with the text that should follow (locality: that is true).
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
from functools import partial

from transformer_lens import HookedTransformer

from interp.engine.batches import halving
from interp.errors import FactError, OptionError
from interp.evaluation.answers import Answers, check_before
from interp.evaluation.asking import greedy, sampled, teacher_forced
from interp.evaluation.case_evaluation import CaseEvaluation
from interp.evaluation.measures import questions
from interp.evaluation.metrics import fluency
from interp.evaluation.questions import Question, Reading
from interp.facts.records import EditCase
from interp.models.tokens import decode, encode_continuation
from interp.options import check_positive, check_seed
from interp.patches.patch import Patch, check_fits, check_unpatched
from interp.patches.row_hooks import under_patches
from interp.results.record import Provenance, provenance

__all__ = ["Answers", "CaseEvaluation", "ask", "check_case", "evaluate", "evaluate_each"]


def evaluate(
    model: HookedTransformer,
    patch: Patch,
    case: EditCase,
    *,
    fluency_tokens: int = 100,
    seed: int = 0,
    model_provenance: Provenance | None = None,
) -> CaseEvaluation:
    """One case before and after a patch (see :func:`evaluate_each`).

    Example:
        >>> patch = interp.edit(model, [case.request], config=interp.default_config(model, "rome", layer=1))
        >>> found = interp.evaluate(model, patch, case, fluency_tokens=20)
        >>> found.scores("teacher-forced")
        {'reliability': 1.0, 'generality': 1.0, 'locality': 1.0, 'portability': 1.0}
    """
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

    Example:
        >>> config = interp.default_config(model, "rome", layer=1)
        >>> patches = interp.edit_each(model, [case.request for case in cases], config=config)
        >>> [found.took for found in interp.evaluate_each(model, patches, cases, fluency_tokens=20)]
        [True, True]

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
    answers = partial(
        ask,
        model,
        cases,
        fluency_tokens=fluency_tokens,
        seed=seed,
        model_provenance=described,
        max_batch_tokens=max_batch_tokens,
    )
    if before is None:
        before = answers()
    return [
        _evaluation(model, patch, case, was, now)
        for case, patch, was, now in zip(cases, patches, before, answers(patches), strict=True)
    ]


def _evaluation(
    model: HookedTransformer, patch: Patch, case: EditCase, before: Answers, after: Answers
) -> CaseEvaluation:
    asked = questions(case)
    return CaseEvaluation(
        provenance=after.provenance,
        case=case.id,
        method=patch.method,
        layers=patch.layers,
        outcome=patch.outcome_of(case.request),
        questions=asked,
        targets=tuple(_ids(model, case, question.prompt, question.target)[1] for question in asked),
        before=before.readings,
        after=after.readings,
        continuation_before=before.continuation,
        continuation_after=after.continuation,
        fluency_before=before.fluency,
        fluency_after=after.fluency,
    )


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
    asking = _Asking(model, model_provenance or provenance(model), fluency_tokens, seed, max_batch_tokens)
    return under_patches(
        model,
        patches if patches is not None else [None] * len(cases),
        lambda members, hooked: asking.answers([cases[i] for i in members], hooked),
    )


@dataclass(frozen=True)
class _Row:
    """A question as token ids, and the patch that it is read under."""

    prompt: list[int]
    target: tuple[int, ...]
    rival: tuple[int, ...]
    patch: Patch | None


@dataclass(frozen=True)
class _Asking:
    """A model that is asked, with patches as hooks, and how."""

    model: HookedTransformer
    described: Provenance
    fluency_tokens: int
    seed: int
    max_batch_tokens: int

    def answers(self, cases: Sequence[EditCase], patches: Sequence[Patch | None]) -> list[Answers]:
        """The cases' answers, each under its own patch."""
        asked = [questions(case) for case in cases]
        rows = [
            self._row(case, patch, question)
            for case, patch, own in zip(cases, patches, asked, strict=True)
            for question in own
        ]
        readings = iter(halving(partial(self._readings, rows), self.max_batch_tokens))
        return [
            Answers(
                provenance=self.described,
                case=case.id,
                readings=tuple(next(readings) for _ in own),
                continuation=text,
                fluency=fluency(text) if self.fluency_tokens else None,
                questions=own,
                fluency_tokens=self.fluency_tokens,
                seed=self.seed,
            )
            for case, own, text in zip(cases, asked, self._continuations(cases, patches), strict=True)
        ]

    def _row(self, case: EditCase, patch: Patch | None, question: Question) -> _Row:
        prompt, target = _ids(self.model, case, question.prompt, question.target)
        rival = _ids(self.model, case, question.prompt, question.rival)[1] if question.rival is not None else ()
        _check_room(self.model, case, question.prompt, prompt, max(len(target), len(rival)))
        return _Row(prompt, target, rival, patch)

    def _readings(self, rows: Sequence[_Row], limit: int) -> list[Reading]:
        """What is said to each question, at most ``limit`` tokens at once."""
        with_rival = [i for i, row in enumerate(rows) if row.rival]
        pairs = [*((row.prompt, row.target) for row in rows), *((rows[i].prompt, rows[i].rival) for i in with_rival)]
        patches = [row.patch for row in (*rows, *(rows[i] for i in with_rival))]
        forced = teacher_forced(self.model, pairs, patches, limit)
        rival_of = {i: forced[len(rows) + place][1] for place, i in enumerate(with_rival)}
        generated = [predicted for predicted, _ in forced[: len(rows)]]
        # where the target's first n tokens are the top ones, greedy generation is the target
        free = [i for i, row in enumerate(rows) if len(row.target) > 1 and generated[i] != row.target]
        lengths = [len(rows[i].target) for i in free]
        prompts = [rows[i].prompt for i in free]
        written = greedy(self.model, prompts, lengths, [rows[i].patch for i in free], limit)
        for i, tokens in zip(free, written, strict=True):
            generated[i] = tokens
        return [
            Reading(
                predicted=forced[i][0],
                generated=generated[i],
                text=decode(self.model, generated[i]),
                log_probability=forced[i][1],
                rival_log_probability=rival_of.get(i),
            )
            for i in range(len(rows))
        ]

    def _continuations(self, cases: Sequence[EditCase], patches: Sequence[Patch | None]) -> list[str]:
        """What is sampled after each edit prompt; nothing if no tokens are wanted."""
        if not self.fluency_tokens:
            return [""] * len(cases)
        prompts = [case.request.fact.prompt for case in cases]
        openings = [_ids(self.model, case, prompt, None)[0] for case, prompt in zip(cases, prompts, strict=True)]
        for case, prompt, ids in zip(cases, prompts, openings, strict=True):
            _check_room(self.model, case, prompt, ids, self.fluency_tokens)
        seeds = [(zlib.crc32(case.id.encode()) + self.seed) % 2**32 for case in cases]
        return halving(
            lambda limit: sampled(self.model, openings, self.fluency_tokens, seeds, patches, limit),
            self.max_batch_tokens,
        )


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
