"""What patched models say to the requests of their patches: an edit is judged by its patch, not by what it aimed at.

An optimised target value may be missed: by the solve against the second moments, by the other facts of a batch, by
later edits, by rounding. So each finished patch is asked, its rows together with those of others, as hooks on an
otherwise untouched model, or applied where its weights are rounded (:mod:`interp.patches.row_hooks`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformer_lens import HookedTransformer

from interp.editing.bare_rows import BareRows, bare_rows
from interp.engine.batches import halving
from interp.engine.forward import unembed
from interp.engine.suffix import padded
from interp.errors import InterpWarning
from interp.patches.patch import Outcome, Patch
from interp.patches.rounding import MUCH, rounding_of
from interp.patches.row_hooks import row_hooks, under_patches

__all__ = ["answered", "warn_of_missed", "warn_of_rounding"]

NAMED = 3  # requests that a warning names


def answered(model: HookedTransformer, patches: Sequence[Patch], *, max_batch_tokens: int = 1024) -> list[Patch]:
    """The patches, their outcomes with the probability of each new answer in the patched model and whether it is top.

    In a narrow number format also with what rounding leaves of them (:mod:`interp.patches.rounding`).

    Args:
        model: The model that the patches were made for; it is left as it is.
        patches: Finished but for that.
        max_batch_tokens: The most tokens that go up the network at once.

    Raises:
        NumericalError: If a patched model returns NaN or infinite logits.
    """

    def ask(members: list[int], hooked: list[Patch | None]) -> list[list[tuple[float, bool]]]:
        of_row = [patch for i, patch in zip(members, hooked, strict=True) for _ in patches[i].requests]
        rows = bare_rows(model, [request for i in members for request in patches[i].requests])
        found = halving(lambda limit: _asked(model, rows, of_row, limit), max_batch_tokens)
        answers = iter(found[row] for row in range(len(of_row)))
        return [[next(answers) for _ in patches[i].requests] for i in members]

    return [
        replace(
            patch,
            outcomes=tuple(
                _with_answer(outcome, *answer) for outcome, answer in zip(patch.outcomes, answers, strict=True)
            ),
            rounding=rounding_of(patch, model),
        )
        for patch, answers in zip(patches, under_patches(model, patches, ask), strict=True)
    ]


def _asked(
    model: HookedTransformer, rows: BareRows, of_row: Sequence[Patch | None], max_batch_tokens: int
) -> dict[int, tuple[float, bool]]:
    """Per row the probability of its target and whether it is top, with patches as hooks."""
    found: dict[int, tuple[float, bool]] = {}
    for batch in rows.batches(max_batch_tokens):
        tokens, _ = padded([rows.ids[row] for row in batch], model.W_E.device)
        places, positions = rows.reads(batch)
        with torch.no_grad():
            final = model.run_with_hooks(
                tokens,
                prepend_bos=False,
                stop_at_layer=model.cfg.n_layers,
                fwd_hooks=list(row_hooks(model, [of_row[row] for row in batch])),
            )
            nll, misses = rows.scores(unembed(model, final[places, positions]), batch)
        for row, loss, missed in zip(batch, nll.tolist(), misses.tolist(), strict=True):
            found[row] = (math.exp(-loss), not missed)
    return found


def warn_of_missed(patches: Sequence[Patch], *, stacklevel: int) -> None:
    """One warning for all requests that their patch did not bring about; none for those that a later one replaced."""
    missed, n = [], 0
    for patch in patches:
        last = {request.fact.prompt: index for index, request in enumerate(patch.requests)}
        for index, (request, outcome) in enumerate(zip(patch.requests, patch.outcomes, strict=True)):
            if last[request.fact.prompt] == index and outcome.took is False:
                missed.append(f"{n + index} ({request.fact.prompt!r} -> {request.new_target!r}, p {_p(outcome)})")
        n += len(patch.requests)
    if missed:
        more = f" and {len(missed) - NAMED} more" if len(missed) > NAMED else ""
        warnings.warn(
            f"{len(missed)} of {n} edits did not take, the patched model does not give the new answer: request"
            f" {', '.join(missed[:NAMED])}{more} (see Patch.outcomes)",
            InterpWarning,
            stacklevel=stacklevel + 1,
        )


def warn_of_rounding(patches: Sequence[Patch], *, stacklevel: int) -> None:
    """One warning for all patches of which rounding changes more than :data:`MUCH` in a layer."""
    worst = [
        max((found.changed, layer) for layer, found in patch.rounding.items()) for patch in patches if patch.rounding
    ]
    lost = [(share, layer) for share, layer in worst if share > MUCH]
    if lost:
        share, layer = max(lost)
        warnings.warn(
            f"{patches[0].provenance.dtype} is too narrow for {len(lost)} of {len(patches)} patches: rounding"
            f" W_out + delta changes {share:.0%} of what is added to layer {layer} (see Patch.rounding): edit"
            " the model in float32",
            InterpWarning,
            stacklevel=stacklevel + 1,
        )


def _with_answer(outcome: Outcome, probability: float, took: bool) -> Outcome:
    converged = outcome.converged if outcome.steps else took  # knowledge neurons optimise nothing
    return replace(outcome, probability=probability, took=took, converged=converged)


def _p(outcome: Outcome) -> str:
    return "?" if outcome.probability is None else f"{outcome.probability:.2g}"
