"""What an editor is: from a model, requests, settings and statistics to a change of W_out.

An editor is one file below :mod:`interp.editing.methods` that ends in an :class:`Editor`, and a line in the table
there. Everything else takes what it needs from it: :func:`interp.edit` and its two sisters, the study, Table 1, the
explorer and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig
from interp.editing.contexts import Contexts
from interp.editing.target_value import TargetValue
from interp.editing.whitening import Whitening
from interp.facts.records import EditRequest, Fact
from interp.options import Progress
from interp.patches.patch import Outcome
from interp.results.record import Provenance

__all__ = ["Change", "Editor", "Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an editor works on, checked.

    Args:
        model: The model, to be left as it is.
        requests: What goes into one patch; a single one for editors that edit one at a time.
        config: The editor's settings.
        contexts: Kinds of context, the bare prompt first.
        targets: The optimised value of each request; none for editors without ``sites``.
        whitening: The second moments of the layers that the settings name, ready to solve with.
        max_batch_tokens: The most tokens that go up the network at once.
        model_provenance: To spare hashing the weights.
        first: The number of the first of the requests, for the errors.
        earlier: By layer, what the changes of the edits before this one kept (``Change.keys``), side by side, where
            edits are made in turn.
        progress: Called with (done, in all).
    """

    model: HookedTransformer
    requests: Sequence[EditRequest]
    config: Any
    contexts: Contexts
    targets: Sequence[TargetValue]
    whitening: Whitening
    max_batch_tokens: int
    model_provenance: Provenance
    first: int = 0
    earlier: Mapping[int, Float[Tensor, "d_mlp earlier"]] = field(default_factory=dict)
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is added to W_out, by layer: ``left @ right``, or ``dense``.

    Args:
        left, right: Factors, [d_mlp, rank] and [rank, d_model].
        dense: [d_mlp, d_model].
        outcomes: How each request ended; None: as the optimisation of its target value did.
        keys: By layer, what the edits after it in turn are to know of its keys.
        about: What a patch is to record of it besides, as JSON.
    """

    left: Mapping[int, Tensor] = field(default_factory=dict)
    right: Mapping[int, Tensor] = field(default_factory=dict)
    dense: Mapping[int, Tensor] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] | None = None
    keys: Mapping[int, Float[Tensor, "d_mlp fact"]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def _factorised(whitening: Whitening, config: Any, d_mlp: int, device: torch.device) -> None:
    whitening.prepare(config.edited_layers, d_mlp, device)


def _none_refused(model: HookedTransformer, requests: Sequence[EditRequest], first: int) -> None:
    pass


def _nothing_more(request: EditRequest) -> Iterable[Fact]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Editor:
    """An editor.

    Args:
        name: As one asks for it.
        title: As tables and menus write it.
        config: The class of its settings.
        default: Its settings for a model.
        change: Its work.
        sites: Where target values are optimised: ``("mlp_out",)``, ``("resid_post",)`` or ``("attn_out",
            "mlp_out")``. Without any it optimises none, and takes neither second moments nor contexts.
        one_at_a_time: Whether a patch takes one request only.
        reads: What else of a request it runs, besides its prompt with its new target.
        check: Refuses requests that it cannot take together, or warns of them, before anything is computed: the model,
            the requests, the number of the first.
        prepare: Readies the second moments for the solves with these settings, of keys of length d_mlp on a device, so
            that what does not fit is found before anything is optimised.
    """

    name: str
    title: str
    config: type[EditConfig]
    default: Callable[[HookedTransformer], EditConfig]
    change: Callable[[Task], Change]
    sites: tuple[str, ...] = ()
    one_at_a_time: bool = False
    reads: Callable[[EditRequest], Iterable[Fact]] = _nothing_more
    check: Callable[[HookedTransformer, Sequence[EditRequest], int], None] = _none_refused
    prepare: Callable[[Whitening, Any, int, torch.device], None] = _factorised
