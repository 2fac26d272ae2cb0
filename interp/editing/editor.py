"""The editors behind one call: requests in, a patch out, the model as it was.

Three calls, because they mean different things: ``edit`` makes one patch for all requests together, ``edit_each``
one patch per request as if it were alone, ``edit_sequentially`` (:mod:`interp.editing.sequential`) one after the other
on the weights that the ones before left.

Each finished patch is put to the model and asked its own requests (:mod:`interp.editing.answers`): a patch that does
not do what it was made for says so, in a warning and in its outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformer_lens import HookedTransformer

from interp.editing.answers import answered, warn_of_missed, warn_of_rounding
from interp.editing.config import EditConfig
from interp.editing.given_moments import GivenMoments
from interp.editing.making import Given, Maker, checked_requests
from interp.editing.methods import DEFAULT_EDITOR, editor_named
from interp.errors import OptionError
from interp.facts.records import EditRequest
from interp.options import Progress
from interp.patches.patch import Patch
from interp.results.record import Provenance

__all__ = ["edit", "edit_each"]


@torch.inference_mode(False)  # edits take gradients, whatever the caller's mode
def edit(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    *,
    method: str = DEFAULT_EDITOR,
    config: EditConfig | None = None,
    second_moments: GivenMoments | None = None,
    contexts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    model_provenance: Provenance | None = None,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> Patch:
    """One patch that edits all requests together.

    Example:
        >>> config = interp.default_config(model, "rome", layer=1)
        >>> patch = interp.edit(model, [request], method="rome", config=config)
        >>> patch.took, patch.layers
        (True, (1,))

    Args:
        model: The model; it is left as it is. If it carries patches, the edit is made on top of them, with the second
            moments and contexts of the unedited model.
        requests: What to edit. ROME, R-ROME and knowledge neurons take one.
        method: A name in :data:`interp.editing.EDITORS`.
        config: The method's settings; None for :func:`interp.default_config`.
        second_moments: C by layer, as :func:`interp.second_moments` returns it or as a mapping (torch or numpy), or
            ``"identity"`` (for editors of several layers scaled to the keys, see :mod:`interp.editing.whitening`), or
            None: estimated on text that the model writes itself, and cached. FT-L and knowledge neurons take none.
        contexts: Templates with one ``{}`` for the prompt, the bare ``"{}"`` first; as nested lists they come in
            kinds. None: the model writes them. FT-L and knowledge neurons take none.
        model_provenance: To spare hashing the weights.
        max_batch_tokens: The most tokens that go up the network at once.
        progress: Called with (done, in all).

    Raises:
        OptionError: If an argument is of the wrong type, the method, the config or the contexts do not fit, requests
            contradict each other, the method takes one request, or it cannot use what it is given.
        FactError: If a request does not fit the model.
        ModelError: If the second moments are those of other weights, or the editor cannot edit a model whose weights
            were processed.
        NumericalError: If a loss is not finite or a second moment is singular.

    Warns:
        InterpWarning: If an edit did not take: with the patch, the new answer is not on top; if the second moments
            rest on too little text; or if rounding to the model's number format changes much of what is added.
    """
    requests = checked_requests(model, requests)
    if editor_named(method).one_at_a_time and len(requests) > 1:
        raise OptionError(
            f"{method} edits one fact at a time, got {len(requests)} requests: use edit_sequentially (one after the"
            " other) or edit_each (one patch each)"
        )
    given = Given(
        method=method,
        config=config,
        second_moments=second_moments,
        contexts=contexts,
        max_batch_tokens=max_batch_tokens,
        model_provenance=model_provenance,
    )
    maker = Maker(model, requests, given)
    made = maker.patch(requests, maker.targets(requests, progress), progress)
    (patch,) = answered(model, [made], max_batch_tokens=max_batch_tokens)
    warn_of_missed([patch], stacklevel=3)
    warn_of_rounding([patch], stacklevel=3)
    return patch


@torch.inference_mode(False)  # edits take gradients, whatever the caller's mode
def edit_each(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    *,
    method: str = DEFAULT_EDITOR,
    config: EditConfig | None = None,
    second_moments: GivenMoments | None = None,
    contexts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    model_provenance: Provenance | None = None,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> list[Patch]:
    """One patch per request, each as if it were the only one; their optimisations share batches.

    Example:
        >>> config = interp.default_config(model, "rome", layer=1)
        >>> patches = interp.edit_each(model, requests, method="rome", config=config)
        >>> [patch.took for patch in patches]
        [True, True]

    Args, Raises, Warns: See :func:`edit`.
    """
    given = Given(
        method=method,
        config=config,
        second_moments=second_moments,
        contexts=contexts,
        max_batch_tokens=max_batch_tokens,
        model_provenance=model_provenance,
    )
    maker = Maker(model, requests, given, at_once=1)
    requests = maker.requests
    targets = maker.targets(requests, progress)
    made = [
        maker.patch([request], [targets[index]] if targets else [], progress) for index, request in enumerate(requests)
    ]
    patches = answered(model, made, max_batch_tokens=max_batch_tokens)
    warn_of_missed(patches, stacklevel=3)
    warn_of_rounding(patches, stacklevel=3)
    return patches
