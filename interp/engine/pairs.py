"""Finished runs of two kinds: one that states are taken from, and those that they are put into.

- :func:`clean_and_corrupted`: states of the clean run go into runs whose subject is corrupted (causal tracing);
  :func:`pooled_runs` of several facts at once.
- :func:`prompt_pair`: states of another prompt's run go into this prompt's run (activation patching). Tokens are
  aligned by what they are: those before the subject from the left, those of the subject and those after it from
  the right, so that last subject token meets last subject token and last token meets last token.

Sources: Meng et al. 2022, section 2; Zhang & Nanda 2023, section 2 (activation patching between two prompts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.base_runs import BaseRun, Site, base_run, check_decoder, run_bytes, sublayers
from interp.engine.batches import check_fits, halving
from interp.engine.checksum import weights_checksum
from interp.engine.corruption import (
    CORRUPTIONS,
    CorruptedRows,
    Corruption,
    noise_level,
    replacement_facts,
    side_by_side,
    with_noise,
    with_other_subjects,
)
from interp.engine.forward import unembed
from interp.errors import OptionError
from interp.facts.fact_files import load_facts
from interp.facts.records import Fact
from interp.models.tokens import TokenizedFact, tokenize
from interp.options import check_choice, check_flag, check_noise, check_seed, whole_number

__all__ = ["Corrupting", "Pool", "RunPair", "check_current", "clean_and_corrupted", "pooled_runs", "prompt_pair"]

_READOUT_ROWS = 512  # rows of logits computed at once


@dataclass(frozen=True, kw_only=True, eq=False)
class RunPair:
    """Runs to take states from and to put them into; valid while the model's weights stay as they are.

    Args:
        model: The model that ran.
        fact: Whose prompt the states are put into.
        other: Whose prompt they come from; None if from the same prompt, uncorrupted.
        tokenized: The prompt.
        source: The one run that states come from.
        base: The runs that they are put into, one per sample.
        source_logits: After the source's last token.
        base_logits: After the last token of each sample.
        counterparts: For each token of the prompt, the token of the source that its states come from; None where
            there is none.
        answer_id: The token whose probability counts: the first of the target, or the model's own top answer.
        top_id: The model's top answer to the uncorrupted prompt.
        noise: Standard deviation (half the width, if uniform) of the noise; 0 without.
        replacements: The subjects that replaced this one (symmetric corruption).
        seed, corruption, replace: See :func:`clean_and_corrupted`; ``corruption`` is ``"none"`` for two prompts.
        weights: A checksum of the weights' content, which tells whether they were changed since.
    """

    model: HookedTransformer
    fact: Fact
    other: Fact | None
    tokenized: TokenizedFact
    source: BaseRun
    base: BaseRun
    source_logits: Float[Tensor, "d_vocab"]
    base_logits: Float[Tensor, "sample d_vocab"]
    counterparts: tuple[int | None, ...]
    answer_id: int
    top_id: int
    noise: float
    replacements: tuple[str, ...]
    seed: int
    corruption: str
    replace: bool
    weights: str


def clean_and_corrupted(
    model: HookedTransformer,
    fact: Fact,
    *,
    samples: int = 10,
    noise: float | Literal["3sigma"] = "3sigma",
    seed: int = 1,
    corruption: Corruption = "gaussian",
    replace: bool = False,
    reference_facts: Sequence[Fact] | None = None,
    record: Sequence[Site] | None = None,
    max_batch_tokens: int = 4096,
) -> RunPair:
    """Run a fact's prompt clean and with its subject corrupted.

    Example:
        >>> runs = interp.clean_and_corrupted(model, fact, samples=10)
        >>> clean, corrupted = runs.source_logits.softmax(-1), runs.base_logits.softmax(-1).mean(0)
        >>> round(clean[runs.answer_id].item(), 2), round(corrupted[runs.answer_id].item(), 2)
        (0.99, 0.13)

    Args:
        model: A HookedTransformer decoder (:func:`interp.engine.base_runs.check_decoder`); left as it was found.
        fact: The fact. Its answer is the first token of its target, or the model's own top answer.
        samples: Noise draws, or (symmetric) at most so many other subjects.
        noise: Standard deviation of the noise, or ``"3sigma"``: three times that of the subject embeddings of
            ``reference_facts``.
        seed: Of the noise: ``numpy.random.RandomState(seed)``, as published; or of the draw of other subjects.
        corruption: ``gaussian`` or ``uniform`` noise on the subject's embeddings, or ``symmetric``
            replacement by other subjects of the same relation and token length with another answer, drawn by
            ``seed``.
        replace: Put the noise in the place of the embeddings instead of adding it.
        reference_facts: Where ``"3sigma"`` and replacement subjects come from; the built-in facts if None.
        record: Which sublayer outputs to keep; those that the model has if None.
        max_batch_tokens: The most tokens that run at once (one sample at least).

    Raises:
        OptionError: If an option is not one of the above, or the runs do not fit into memory.
        FactError: If the fact does not fit the model, or no replacement subject is found.
        ModelError: If the model's runs cannot be continued.
        NumericalError: If the model returns NaN or infinite logits.
    """
    corrupting = Corrupting(
        samples=samples, noise=noise, seed=seed, corruption=corruption, replace=replace, reference_facts=reference_facts
    )
    max_batch_tokens = whole_number("max_batch_tokens", max_batch_tokens)
    check_decoder(model)
    given, weights = [tokenize(model, fact)], weights_checksum(model)
    pool = pooled_runs(
        model, [fact], given, corrupting, record=record, max_batch_tokens=max_batch_tokens, weights=weights
    )
    return pool.pairs[0]


@dataclass(frozen=True, kw_only=True)
class Corrupting:
    """How subjects are corrupted; :func:`clean_and_corrupted` says what each setting means."""

    samples: int = 10
    noise: float | Literal["3sigma"] = "3sigma"
    seed: int = 1
    corruption: Corruption = "gaussian"
    replace: bool = False
    reference_facts: Sequence[Fact] | None = None

    def __post_init__(self) -> None:
        check_choice("corruption", self.corruption, CORRUPTIONS)
        object.__setattr__(self, "noise", check_noise(self.noise))
        object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "replace", check_flag("replace", self.replace))
        object.__setattr__(self, "samples", whole_number("samples", self.samples))

    def rows(
        self, model: HookedTransformer, facts: Sequence[Fact], prompts: Sequence[TokenizedFact], max_batch_tokens: int
    ) -> list[CorruptedRows]:
        """The prompt of each fact and its corrupted forms."""
        if self.corruption == "symmetric":
            known = _given_or_built_in(self.reference_facts)
            asked = {"seed": self.seed, "max_batch_tokens": max_batch_tokens}
            others = [replacement_facts(model, fact, known, self.samples, **asked) for fact in facts]
            return [with_other_subjects(own, other) for own, other in zip(prompts, others, strict=True)]
        level = self.noise
        if level == "3sigma":
            level = noise_level(model, _given_or_built_in(self.reference_facts))
        settings = self.samples, float(level), self.seed, self.corruption, self.replace
        return [with_noise(model, own, *settings) for own in prompts]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The clean and corrupted runs of several facts in one base run, in which all prompts end together.

    Args:
        pairs: Of each fact; their runs are views.
        runs: All of them: of each fact the clean one, then its corrupted ones.
        clean: Which of them is each fact's clean one.
    """

    pairs: tuple[RunPair, ...]
    runs: BaseRun
    clean: tuple[int, ...]


def pooled_runs(
    model: HookedTransformer,
    facts: Sequence[Fact],
    tokenized: Sequence[TokenizedFact],
    corrupting: Corrupting,
    *,
    record: Sequence[Site] | None,
    max_batch_tokens: int,
    weights: str = "",
) -> Pool:
    """As :func:`clean_and_corrupted`, of several facts at once; prompts of different lengths need
    :func:`~interp.engine.base_runs.can_be_padded`.

    Args:
        model: A decoder.
        facts, tokenized: The facts.
        corrupting: How.
        record, max_batch_tokens: As there.
        weights: The checksum of the weights, where somebody will come back to the runs.
    """
    record = sublayers(model) if record is None else record
    rows = corrupting.rows(model, facts, tokenized, max_batch_tokens)
    together = side_by_side(rows)
    _check_memory(model, together.ids, record, len(facts))
    runs = halving(
        lambda limit: base_run(
            model, together.ids, hooks=together.hooks, record=record, begins=together.begins, max_batch_tokens=limit
        ),
        max_batch_tokens,
    )
    with torch.no_grad():
        logits = torch.cat([unembed(model, some) for some in runs.resid[-1, :, -1].split(_READOUT_ROWS)])

    def pair(fact: Fact, own: TokenizedFact, those: CorruptedRows, first: int) -> RunPair:
        corrupted, top_id = slice(first + 1, first + len(those.ids)), int(logits[first].argmax())
        return RunPair(
            model=model,
            fact=fact,
            other=None,
            tokenized=own,
            source=runs.rows(slice(first, first + 1)),
            base=runs.rows(corrupted),
            source_logits=logits[first],
            base_logits=logits[corrupted],
            counterparts=tuple(range(len(own.ids))),
            answer_id=own.target_ids[0] if own.target_ids else top_id,
            top_id=top_id,
            noise=those.noise,
            replacements=those.replacements,
            seed=corrupting.seed,
            corruption=corrupting.corruption,
            replace=corrupting.replace,
            weights=weights,
        )

    return Pool(pairs=tuple(map(pair, facts, tokenized, rows, together.firsts)), runs=runs, clean=together.firsts)


def _given_or_built_in(facts: Sequence[Fact] | None) -> Sequence[Fact]:
    return load_facts("builtin") if facts is None else facts


def _check_memory(
    model: HookedTransformer, ids: Int[Tensor, "row token"], record: Sequence[Site], n_facts: int
) -> None:
    """Refuse prompts whose runs and logits do not fit."""
    n_rows, n_tokens = ids.shape
    check_fits(
        f"the clean and the corrupted run of {n_tokens} tokens with {n_rows - n_facts} samples"
        + (f" of {n_facts} facts" if n_facts > 1 else ""),
        run_bytes(model, n_rows, n_tokens, record) + 4 * n_rows * model.cfg.d_vocab,
        model.W_E.device,
        "take fewer samples, a shorter prompt or a narrower number format",
    )


def prompt_pair(model: HookedTransformer, fact: Fact, other: Fact) -> RunPair:
    """Run a fact's prompt, to put states into, and another prompt, to take them from.

    Example:
        >>> runs = interp.prompt_pair(model, fact, other)
        >>> patched = interp.patch_activations(runs, [interp.Cell(token=9, layer=5)])
        >>> patched.source.top[0].token, patched.base.top[0].token, patched.patched.top[0].token
        (' tennis', ' Paris', ' tennis')

    Raises:
        FactError: If a fact does not fit the model.
        ModelError: If the model's runs cannot be continued.
        NumericalError: If the model returns NaN or infinite logits.
    """
    here, there = tokenize(model, fact), tokenize(model, other)
    weights = weights_checksum(model)
    base = base_run(model, here.ids[None])  # states are put into it, none taken from it
    source = base_run(model, there.ids[None], record=sublayers(model))
    with torch.no_grad():
        base_logits, source_logits = (unembed(model, run.resid[-1, :, -1]) for run in (base, source))
    top_id = int(base_logits[0].argmax())
    return RunPair(
        model=model,
        fact=fact,
        other=other,
        tokenized=here,
        source=source,
        base=base,
        source_logits=source_logits[0],
        base_logits=base_logits,
        counterparts=_aligned(here, there),
        answer_id=here.target_ids[0] if here.target_ids else top_id,
        top_id=top_id,
        noise=0.0,
        replacements=(),
        seed=0,
        corruption="none",
        replace=False,
        weights=weights,
    )


def check_current(pair: RunPair) -> None:
    """Refuse runs of weights that the model no longer has.

    It reads all weights (about 0.1 s for the embedded model): nothing less notices a value that was written through
    ``parameter.data``. Weights that were changed and have their values back are the same.

    Raises:
        OptionError: If the weights were changed since.
    """
    if weights_checksum(pair.model) != pair.weights:
        raise OptionError(f"the weights of {pair.model.cfg.model_name} changed since these runs: run them again")


def _aligned(here: TokenizedFact, there: TokenizedFact) -> tuple[int | None, ...]:
    start, end = here.subject_span
    other_start, other_end = there.subject_span
    n, other_n = len(here.ids), len(there.ids)
    aligned: list[int | None] = []
    for token in range(n):
        if token < start:
            low, high, found = 0, other_start, token
        elif token < end:
            low, high, found = other_start, other_end, other_end - (end - token)
        else:
            low, high, found = other_end, other_n, other_n - (n - token)
        aligned.append(found if low <= found < high else None)
    return tuple(aligned)
