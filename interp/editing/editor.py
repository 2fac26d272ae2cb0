"""The editors behind one call: requests in, a patch out, the model as it was.

Three calls, because they mean different things: ``edit`` makes one patch for all requests together, ``edit_each``
one patch per request as if it were alone, ``edit_sequentially`` one after the other on the weights that the ones
before left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing import memit, pmet, rome
from interp.editing.config import (
    EditConfig,
    FtConfig,
    KnConfig,
    RomeConfig,
    SpreadConfig,
    TargetConfig,
    check_config,
    config_layers,
    default_config,
)
from interp.editing.contexts import Contexts, context_kinds, write_contexts
from interp.editing.fine_tuning import fine_tune
from interp.editing.knowledge_neurons import scale_neurons
from interp.editing.patch import Outcome, Patch, check_unprocessed, compose
from interp.editing.rows import check_requests
from interp.editing.second_moments import SecondMoments
from interp.editing.second_moments import second_moments as estimate
from interp.editing.spread import by_layer, spread
from interp.editing.target_value import TargetValue, target_values
from interp.editing.whitening import Moments, Whitening
from interp.errors import OptionError
from interp.facts import EditRequest
from interp.models import check_linear_output
from interp.options import Progress
from interp.results import Provenance, provenance

__all__ = ["edit", "edit_each", "edit_sequentially"]

_SINGLE = ("rome", "r-rome", "kn")


def edit(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    *,
    method: str = "rome",
    config: EditConfig | None = None,
    second_moments: Moments | SecondMoments | None = None,
    contexts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    model_provenance: Provenance | None = None,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> Patch:
    """One patch that edits all requests together.

    Args:
        model: The model; it is left as it is.
        requests: What to edit. ROME, R-ROME and knowledge neurons take one.
        method: ``rome``, ``r-rome``, ``memit``, ``pmet``, ``ft-l`` or ``kn``.
        config: The method's settings; None for :func:`interp.default_config`.
        second_moments: C by layer, ``"identity"``, or None: estimated on text that the model writes itself, and
            cached.
        contexts: Templates with one ``{}`` for the prompt, the bare ``"{}"`` first; as nested lists they come in
            kinds. None: the model writes them.
        model_provenance: To spare hashing the weights.
        max_batch_tokens: The most tokens that go up the network at once.
        progress: Called with (done, in all).

    Raises:
        OptionError: If the method, the config or the contexts do not fit, requests contradict each other, or the
            method takes one request.
        FactError: If a request does not fit the model.
        ModelError: If the model was processed.
        NumericalError: If a loss is not finite or a second moment is singular.
    """
    requests = list(requests)
    if method in _SINGLE and len(requests) > 1:
        raise OptionError(
            f"{method} edits one fact at a time, got {len(requests)} requests: use edit_sequentially (one after the"
            " other) or edit_each (one patch each)"
        )
    maker = _Maker(model, requests, method, config, second_moments, contexts, model_provenance, max_batch_tokens)
    return maker.together(progress)


def edit_each(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    *,
    method: str = "rome",
    config: EditConfig | None = None,
    second_moments: Moments | SecondMoments | None = None,
    contexts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    model_provenance: Provenance | None = None,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> list[Patch]:
    """One patch per request, each as if it were the only one; their optimisations share batches.

    Args, Raises: See :func:`edit`.
    """
    maker = _Maker(
        model, list(requests), method, config, second_moments, contexts, model_provenance, max_batch_tokens,
        together=False,
    )  # fmt: skip
    return maker.each(progress)


def edit_sequentially(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    *,
    method: str = "rome",
    config: EditConfig | None = None,
    second_moments: Moments | SecondMoments | None = None,
    contexts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> Patch:
    """One request after the other, each on the weights that the ones before left; their patches composed.

    Second moments and contexts are those of the unedited model throughout, as published.

    Args, Raises: See :func:`edit`.
    """
    first = _Maker(model, list(requests), method, config, second_moments, contexts, None, max_batch_tokens)
    patches: list[Patch] = []
    try:
        for index, request in enumerate(requests):
            patch = edit(
                model,
                [request],
                method=method,
                config=first.config,
                second_moments=first.moments,
                contexts=first.contexts,
                max_batch_tokens=max_batch_tokens,
            )
            patch.apply(model)
            patches.append(patch)
            if progress:
                progress(index + 1, len(requests))
    finally:
        for patch in reversed(patches):
            patch.revert(model)
    return compose(patches)


class _Maker:
    """Checked arguments of an edit, with their defaults filled in."""

    def __init__(
        self,
        model: HookedTransformer,
        requests: list[EditRequest],
        method: str,
        config: EditConfig | None,
        second_moments: Moments | SecondMoments | None,
        contexts: Sequence[str] | Sequence[Sequence[str]] | None,
        model_provenance: Provenance | None,
        max_batch_tokens: int,
        together: bool = True,
    ) -> None:
        check_unprocessed(model)
        check_linear_output(model)
        self.model, self.requests, self.method = model, requests, method
        self.config = config if config is not None else default_config(model, method)
        check_config(model, method, self.config)
        for group in [requests] if together else [[request] for request in requests]:
            check_requests(model, group)
        self.contexts: Contexts = (("{}",),)
        self.moments: Moments = "identity"
        if isinstance(self.config, TargetConfig):
            self.contexts = context_kinds(contexts) if contexts is not None else write_contexts(model)
            layers = config_layers(self.config)
            if second_moments is None:
                second_moments = estimate(model, layers)
            if isinstance(second_moments, SecondMoments):
                second_moments = second_moments.moments
            self.moments = second_moments
        self.provenance = model_provenance or provenance(model)
        self.whitening = Whitening(self.moments)
        self.max_batch_tokens = max_batch_tokens

    def together(self, progress: Progress | None) -> Patch:
        return self._patch(self.requests, self._targets(progress), progress)

    def each(self, progress: Progress | None) -> list[Patch]:
        targets = self._targets(progress)
        return [
            self._patch([request], [targets[i]] if targets else [], progress) for i, request in enumerate(self.requests)
        ]

    def _targets(self, progress: Progress | None) -> list[TargetValue]:
        config = self.config
        if isinstance(config, FtConfig | KnConfig):
            return []
        sites = {"rome": rome, "r-rome": rome, "memit": memit, "pmet": pmet}[self.method].SITES
        return target_values(
            self.model,
            self.requests,
            self.contexts,
            layer=config_layers(config)[-1],
            sites=sites,
            config=config,
            max_batch_tokens=self.max_batch_tokens,
            progress=progress,
        )

    def _patch(self, requests: list[EditRequest], targets: list[TargetValue], progress: Progress | None) -> Patch:
        config, model = self.config, self.model
        factors: dict[str, Any] = {}
        outcomes = tuple(
            Outcome(
                converged=t.converged, probability=None, loss=t.loss, steps=t.steps, optimised_probability=t.probability
            )
            for t in targets
        )
        if isinstance(config, RomeConfig):
            pair = rome.rank_one(targets[0], self.whitening, config.layer, average_key=self.method == "r-rome")
            factors["left"], factors["right"] = ({config.layer: part} for part in pair)
        elif isinstance(config, SpreadConfig):
            how = memit if self.method == "memit" else pmet
            wanted = torch.stack([target.value(how.SPREAD_SITE) for target in targets])
            factors["left"], factors["right"] = by_layer(
                spread(
                    model,
                    requests,
                    self.contexts,
                    wanted,
                    layers=config.layers,
                    site=how.SPREAD_SITE,
                    divisor=how.divisor,
                    weight=config.second_moment_weight,
                    whitening=self.whitening,
                )
            )
        elif isinstance(config, FtConfig):
            change, outcomes = fine_tune(model, requests, config, progress=progress)
            factors["dense"] = {config.layer: change}
        else:
            factors["left"], factors["right"] = scale_neurons(
                model, requests[0], config, model_provenance=self.provenance, progress=progress
            )
            outcomes = (Outcome(converged=True, probability=None, loss=None, steps=0),)
        return Patch(
            provenance=self.provenance,
            method=self.method,
            config=asdict(config),
            requests=tuple(requests),
            outcomes=outcomes,
            **{name: {k: _plain(v) for k, v in by.items()} for name, by in factors.items()},
        )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()
