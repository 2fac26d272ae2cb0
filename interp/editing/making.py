"""How a patch is made: the arguments of an edit checked and their defaults filled in, targets, solve, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig, TargetConfig
from interp.editing.contexts import Contexts, context_kinds, write_contexts
from interp.editing.defaults import check_config, default_config
from interp.editing.given_moments import described_moments, given_moments
from interp.editing.method import Editor, Task
from interp.editing.methods import editor_named
from interp.editing.moments import SecondMoments, warn_of_held_out_error
from interp.editing.moments import second_moments as estimate
from interp.editing.rows import check_requests, edit_rows
from interp.editing.target_value import TargetValue, target_values
from interp.editing.unedited import unedited, unedited_provenance
from interp.editing.whitening import Moments, Whitening
from interp.errors import FactError, OptionError
from interp.facts.records import EditRequest
from interp.models.tokens import tokenize
from interp.models.weights import check_differentiable, check_linear_output
from interp.options import Progress, check_positive
from interp.patches.patch import Outcome, Patch
from interp.results.record import Provenance, provenance

__all__ = ["Given", "Maker", "checked_requests", "in_turns"]


def checked_requests(model: HookedTransformer, requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests of an edit, if they are any.

    Raises:
        OptionError: Saying what was expected, or that no gradient passes the weights.
    """
    if not isinstance(model, HookedTransformer):
        raise OptionError(f"model must be a HookedTransformer (see interp.load_model), got a {type(model).__name__}")
    if isinstance(requests, str | bytes) or not isinstance(requests, Sequence):
        raise OptionError(f"requests must be a list of EditRequest, got a {type(requests).__name__}")
    for index, request in enumerate(requests):
        if not isinstance(request, EditRequest):
            raise OptionError(f"request {index} must be an EditRequest, got a {type(request).__name__}: {request!r}")
    check_linear_output(model)
    check_differentiable(model)
    return list(requests)


def in_turns(
    model: HookedTransformer, editor: Editor, requests: Sequence[EditRequest], at_once: int | None
) -> list[list[EditRequest]]:
    """The requests of each solve, which go together.

    Args:
        model: The model.
        editor: Who is to edit.
        requests: All of them.
        at_once: How many go into one solve; None: all.

    Raises:
        OptionError: If there are none, the editor takes one at a time, or those of one solve contradict each other or
            are refused by the editor (names them by their numbers).
        FactError: If a target does not fit (names the request).
    """
    size = len(requests) if at_once is None else at_once
    if size > 1 and editor.one_at_a_time:
        raise OptionError(f"{editor.name} edits one fact at a time, got {size} at once")
    if not requests:
        raise OptionError("nothing to edit: no requests")
    turns = [list(requests[first : first + size]) for first in range(0, len(requests), size)]
    for index, turn in enumerate(turns):
        check_requests(model, turn, first=index * size)
        editor.check(model, turn, index * size)
    return turns


@dataclass(frozen=True, kw_only=True)
class Given:
    """What an edit is given beside the model and its requests, unchecked; :func:`interp.editing.editor.edit` says what.

    None stands for what is filled in.
    """

    method: str
    config: EditConfig | None
    second_moments: object
    contexts: object
    max_batch_tokens: int
    model_provenance: Provenance | None = None


class Maker:
    """Makes patches from checked arguments; second moments are factorised once for all of them."""

    def __init__(
        self, model: HookedTransformer, requests: Sequence[EditRequest], given: Given, *, at_once: int | None = None
    ) -> None:
        """Check and complete the arguments.

        Args:
            model: The model.
            requests: The edits.
            given: All else.
            at_once: How many requests go into one solve, so that they may not contradict each other; None: all.

        Raises: See :func:`interp.editing.editor.edit`.
        """
        self.requests = checked_requests(model, requests)
        check_positive(max_batch_tokens=given.max_batch_tokens)
        self.model, self.method, self.max_batch_tokens = model, given.method, given.max_batch_tokens
        self.config = given.config if given.config is not None else default_config(model, self.method)
        check_config(model, self.method, self.config)
        self.editor = editor_named(self.method)
        self.turns = in_turns(model, self.editor, self.requests, at_once)
        self.optimises = bool(self.editor.sites)
        self.contexts = self._contexts(given)
        self._check_rows()
        self.provenance = given.model_provenance or provenance(model)
        self.unedited = unedited_provenance(model, self.provenance)
        self.whitening, self.made_with = self._moments(given.second_moments)
        self._earlier: dict[int, Tensor] = {}

    def targets(self, requests: Sequence[EditRequest], progress: Progress | None = None) -> list[TargetValue]:
        """The optimised target values; none for editors that have no such."""
        if not self.optimises:
            return []
        assert isinstance(self.config, TargetConfig)
        return target_values(
            self.model,
            requests,
            self.contexts,
            layer=self.config.edited_layers[-1],
            sites=self.editor.sites,
            config=self.config,
            max_batch_tokens=self.max_batch_tokens,
            progress=progress,
        )

    def patch(
        self,
        requests: Sequence[EditRequest],
        targets: Sequence[TargetValue],
        progress: Progress | None = None,
        *,
        first: int = 0,
        in_turn: bool = False,
    ) -> Patch:
        """One patch of some requests; what the patched model says is not asked yet.

        Args:
            requests, targets: What goes into it.
            progress: Called with (done, in all).
            first: The number of the first of the requests, for the errors.
            in_turn: Whether the patches after it are made on top of it, and are to know its keys.
        """
        change = self.editor.change(
            Task(
                model=self.model,
                requests=requests,
                config=self.config,
                contexts=self.contexts,
                targets=targets,
                whitening=self.whitening,
                max_batch_tokens=self.max_batch_tokens,
                model_provenance=self.provenance,
                first=first,
                earlier=self._earlier,
                progress=progress,
            )
        )
        if in_turn:
            for layer, keys in change.keys.items():
                before = [self._earlier[layer]] if layer in self._earlier else []
                self._earlier[layer] = torch.cat([*before, keys], 1)
        ended = tuple(_ended(target) for target in targets)
        return Patch(
            provenance=self.provenance,
            method=self.method,
            config=asdict(self.config),  # type: ignore[call-overload]
            requests=tuple(requests),
            outcomes=ended if change.outcomes is None else change.outcomes,
            made_with={**self.made_with, **change.about},
            left=_plain(change.left),
            right=_plain(change.right),
            dense=_plain(change.dense),
        )

    def _contexts(self, given: Given) -> Contexts:
        """The contexts, written by the model if there are none; the bare prompt alone for editors that take none."""
        if self.optimises:
            if given.contexts is not None:
                return context_kinds(given.contexts)  # type: ignore[arg-type]
            with unedited(self.model):
                return write_contexts(self.model)
        if given.second_moments is not None or given.contexts is not None:
            what = "second moments" if given.second_moments is not None else "contexts"
            raise OptionError(f"{self.method} takes no {what}: leave second_moments and contexts at None")
        return (("{}",),)

    def _moments(self, given: object) -> tuple[Whitening, dict[str, Any]]:
        """Second moments, ready to solve with, and what a patch records of all that it is made with."""
        if not self.optimises:
            return Whitening("identity"), {"second_moments": None, "contexts": None}
        layers = self.config.edited_layers
        if given is None:
            given = estimate(self.model, layers)
        if isinstance(given, SecondMoments):
            warn_of_held_out_error(given, layers, stacklevel=5)
        moments: Moments = given_moments(given, layers, self.unedited)
        whitening = Whitening(moments, given.spaces if isinstance(given, SecondMoments) else None)
        assert self.model.cfg.d_mlp is not None
        self.editor.prepare(whitening, self.config, self.model.cfg.d_mlp, self.model.W_E.device)
        contexts = [list(kind) for kind in self.contexts]
        return whitening, {"second_moments": described_moments(given, moments, layers), "contexts": contexts}

    def _check_rows(self) -> None:
        """Find what does not fit before minutes of work; the error names the request."""
        for index, request in enumerate(self.requests):
            try:
                edit_rows(self.model, [request], self.contexts)
                for fact in self.editor.reads(request):
                    tokenize(self.model, fact)
            except FactError as error:
                raise FactError(f"request {index}: {error}") from error


def _ended(target: TargetValue) -> Outcome:
    return Outcome(
        converged=target.converged,
        probability=None,
        loss=target.loss,
        steps=target.steps,
        optimised_probability=target.probability,
    )


def _plain(tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    return {layer: tensor.detach().float().contiguous() for layer, tensor in tensors.items()}
