"""Edits in turn: one request after the other, or one batch, each on the weights that the ones before left.

1. Check every request, write the contexts, estimate and factorise C, hash the weights: once, of the unedited model.
2. For each turn: optimise and solve on the model as it is now; add the change to a running sum by layer, which is on
   the model as one patch. So an edit costs the same whether it is the third or the three-hundredth, but for editors
   that remember the keys of earlier ones.
3. Take the sum off, compose the patches, and ask the patched model every request: what counts is what is left at the
   end of an edit, after all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.answers import answered, warn_of_missed, warn_of_rounding
from interp.editing.config import EditConfig
from interp.editing.given_moments import GivenMoments
from interp.editing.making import Given, Maker
from interp.editing.methods import DEFAULT_EDITOR
from interp.errors import InterpError
from interp.facts.records import EditRequest
from interp.options import Progress, check_positive
from interp.patches.patch import Patch, applied_patches, compose

__all__ = ["edit_sequentially"]


@torch.inference_mode(False)  # edits take gradients, whatever the caller's mode
def edit_sequentially(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    *,
    method: str = DEFAULT_EDITOR,
    config: EditConfig | None = None,
    second_moments: GivenMoments | None = None,
    contexts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    batch_size: int = 1,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> Patch:
    """One request after the other, each on the weights that the ones before left; their patches composed.

    Example:
        >>> config = interp.default_config(model, "rome", layer=1)
        >>> patch = interp.edit_sequentially(model, requests, method="rome", config=config)
        >>> patch.took, len(patch.requests)
        (True, 2)

    Second moments and contexts are those of the unedited model throughout, as published. A fact may be edited again:
    the later request is an update, and the earlier one's outcome says that it no longer holds.

    Args: See :func:`interp.editing.editor.edit`; and ``batch_size``, how many requests go into each turn's one solve
        (the last turn may have fewer), for editors that take several.

    Raises: As :func:`interp.editing.editor.edit`, before anything is edited where a request does not fit or those of
        one turn contradict each other. What fails later names the requests by their numbers, and whatever the
        exception, its attribute ``patch`` is the composed patch of the requests before (None if there are none):
        nothing that is done is lost, but for what an editor remembers of earlier turns: no patch has it.

    Warns:
        InterpWarning: If at the end the patched model does not give the new answer of a request (unless a later
            request gave its prompt another one).
    """
    given = Given(
        method=method,
        config=config,
        second_moments=second_moments,
        contexts=contexts,
        max_batch_tokens=max_batch_tokens,
    )
    check_positive(batch_size=batch_size)
    maker = Maker(model, requests, given, at_once=batch_size)
    patches: list[Patch] = []
    running = _Running(model, maker)
    try:
        for index, turn in enumerate(maker.turns):
            patch = maker.patch(turn, maker.targets(turn), first=index * batch_size, in_turn=True)
            running.add(patch)
            patches.append(patch)
            if progress:
                progress(sum(len(each.requests) for each in patches), len(maker.requests))
    except InterpError as error:
        failed = type(error)(f"{_where(maker.turns, len(patches))}: {error}")
        failed.patch = compose(patches) if patches else None
        raise failed from error
    except BaseException as error:
        error.patch = compose(patches) if patches else None  # type: ignore[attr-defined]
        raise
    finally:
        running.close()
    (whole,) = answered(model, [compose(patches)], max_batch_tokens=max_batch_tokens)
    warn_of_missed([whole], stacklevel=3)
    warn_of_rounding([whole], stacklevel=3)
    return whole


def _where(turns: Sequence[Sequence[EditRequest]], done: int) -> str:
    """Which requests failed, after so many turns."""
    first, total = sum(map(len, turns[:done])), sum(map(len, turns))
    kept = f"the patch of the {first} before it is this error's .patch" if done else "none was done before it"
    if done == len(turns):
        return f"request {first} of {total} ({kept})"
    if (count := len(turns[done])) > 1:
        return f"requests {first} to {first + count - 1} of {total} ({kept})"
    return f"request {first} of {total} {turns[done][0].fact.prompt!r} ({kept})"


class _Running:
    """The sum of the changes so far, on the model as one patch."""

    def __init__(self, model: HookedTransformer, maker: Maker) -> None:
        self.model = model
        self.total: dict[int, Tensor] = {}
        self.empty = Patch(provenance=maker.unedited, method="sum", config={}, requests=(), outcomes=())
        self.mine: list[Patch] = []

    def add(self, patch: Patch) -> None:
        """Put one more change on top."""
        changes = {layer: patch.delta(layer) for layer in patch.layers}
        if not any(bool(change.any()) for change in changes.values()):
            return  # nothing to put on, and the sum is on already
        self.total = self.total | {
            layer: self.total.get(layer, torch.zeros_like(change)) + change for layer, change in changes.items()
        }
        before, now = self.mine[-1:], replace(self.empty, dense=self.total)
        self.mine = [*before, now]
        # the new sum first: while a patch is on, the model knows the hash of the weights below
        now.apply(self.model)
        for patch in before:
            patch.revert(self.model)

    def close(self) -> None:
        """Take the sum off, bit for bit."""
        for patch in reversed(applied_patches(self.model)):
            if any(patch is mine for mine in self.mine):
                patch.revert(self.model)
