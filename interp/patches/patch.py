"""Patches: what an edit adds to W_out, apart from the model; applied and taken back bit for bit.

A patch knows the weights it was made for and is applied to no others. W_out is always the original plus the patches
in their order (:mod:`interp.patches.on_model`), so that taking back any of them, in any order, leaves exactly what the
others alone would give, and taking back the last one leaves the original bits.

Patches are told apart by their content: one that was loaded again from its file is the same patch, and no patch counts
twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import cattrs
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.errors import ModelError, OptionError
from interp.facts.records import EditRequest
from interp.models.weights import weights_hash
from interp.patches.on_model import Applied, _w_out, applied_hashes, put_on, state_of, take_back, undisturbed
from interp.patches.rounding import Rounding
from interp.results.record import Record, content_hash

__all__ = [
    "Outcome",
    "Patch",
    "applied_hashes",
    "applied_patches",
    "check_fits",
    "check_unpatched",
    "compose",
    "overlap",
    "revert_all",
    "unpatched_hash",
]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one request ended: its optimisation, and the model with the patch.

    An optimised value is what the editor aims at; the patch may miss it (a strong second moment, many facts at once,
    later edits). So what counts is what the patched model says: ``took`` and ``probability``.

    Args:
        converged: Whether the target was the top answer in every context it was optimised in. Knowledge neurons
            optimise nothing: whether the edit took.
        probability: Of the target after the bare prompt, in the patched model (several tokens: their geometric mean);
            None where it was not asked.
        loss, steps: At the end of the optimisation. Knowledge neurons: 0 steps, no loss.
        optimised_probability: Of the target at the end of the optimisation (mean over contexts; several tokens: their
            geometric mean).
        took: Whether every token of the target is on top in the patched model, after the bare prompt and the target's
            tokens before it; None where it was not asked (patches of earlier versions).
    """

    converged: bool
    probability: float | None
    loss: float | None
    steps: int
    optimised_probability: float | None = None
    took: bool | None = None

    def __post_init__(self) -> None:
        if self.took is None and self.probability is not None:  # as earlier versions stored it: the optimisation's
            object.__setattr__(self, "optimised_probability", self.probability)
            object.__setattr__(self, "probability", None)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Patch(Record):
    """What an edit adds to the W_out of some layers.

    Args:
        method: Which editor made it.
        config: Its settings.
        requests: What was edited.
        outcomes: One per request.
        left, right: By layer, the factors of what is added: ``left @ right``.
        dense: By layer, what is added, where it has no small factors (fine-tuning).
        made_with: What else it depends on, as JSON: the second moments (source, tokens, weights, a hash by layer) and
            the contexts; empty in patches of earlier versions.
        rounding: By layer, what rounding does to it in the number format that it was made for (``provenance.dtype``);
            empty for float32 and wider, and where it was not asked.
    """

    method: str
    config: dict[str, Any]
    requests: tuple[EditRequest, ...]
    outcomes: tuple[Outcome, ...]
    left: dict[int, Float[Tensor, "d_mlp _"]] = field(default_factory=dict)
    right: dict[int, Float[Tensor, "_ d_model"]] = field(default_factory=dict)
    dense: dict[int, Float[Tensor, "d_mlp d_model"]] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)
    rounding: dict[int, Rounding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shared = sorted(set(self.left) & set(self.right))
        ranks = {layer: (self.left[layer].shape[1], self.right[layer].shape[0]) for layer in shared}
        if set(self.left) != set(self.right) or any(a != b for a, b in ranks.values()):
            raise OptionError(f"the patch's factors do not fit together: ranks by layer {ranks}")
        for layer in self.layers:
            if not torch.isfinite(self.delta(layer)).all():
                raise OptionError(f"the patch is not finite in layer {layer}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose W_out it changes."""
        return tuple(sorted({*self.left, *self.dense}))

    @property
    def converged(self) -> bool:
        """Whether every request's optimisation reached its target; whether the edit holds is :attr:`took`."""
        return all(outcome.converged for outcome in self.outcomes)

    @property
    def took(self) -> bool | None:
        """Whether the patched model gives every request's new answer; None where it was not asked.

        A request whose prompt a later one answers otherwise does not count.
        """
        last = {request.fact.prompt: outcome.took for request, outcome in self._ended()}
        return None if None in last.values() else all(last.values())

    def outcome_of(self, request: EditRequest) -> Outcome | None:
        """How a request ended: the one of this prompt and new answer (the last, if there are several), or None."""
        wanted = (request.fact.prompt, request.new_target)
        found = [outcome for mine, outcome in self._ended() if (mine.fact.prompt, mine.new_target) == wanted]
        return found[-1] if found else None

    def _ended(self) -> Iterator[tuple[EditRequest, Outcome]]:
        return zip(self.requests, self.outcomes, strict=False)

    def delta(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """What is added to W_out of a layer.

        Raises:
            OptionError: If the patch does not change that layer.
        """
        if layer not in self.layers:
            raise OptionError(f"the patch changes layers {list(self.layers)}, not {layer}")
        parts = [self.left[layer] @ self.right[layer]] if layer in self.left else []
        parts += [self.dense[layer]] if layer in self.dense else []
        return torch.stack(parts).sum(0)

    def norms(self) -> dict[int, float]:
        """Frobenius norm of what is added, by layer."""
        return {layer: float(self.delta(layer).norm()) for layer in self.layers}

    def content_hash(self) -> str:
        """What tells it from other patches: the weights it is for, the method, the requests, and what is added.

        Two files of the same edit have the same; settings and outcomes, which add nothing, do not count.
        """
        parts = {"left": self.left, "right": self.right, "dense": self.dense}
        tensors = {f"{name}.{layer}": value for name, part in parts.items() for layer, value in part.items()}
        requests = [cattrs.unstructure(request) for request in self.requests]
        made = {"weights": self.provenance.weights_hash, "method": self.method, "requests": requests}
        return content_hash(tensors, made)

    def apply(self, model: HookedTransformer, *, current_hash: str | None = None) -> None:
        """Put the patch on the model, on top of those that are there; entirely or, if anything is raised, not at all.

        Args:
            model: The model.
            current_hash: Of its weights as they are, to spare hashing them.

        Raises:
            ModelError: If the model has other weights than the patch was made for, or carries the patch (or an equal
                one) already; the model is as before then.
        """
        content = self.content_hash()
        on = state_of(model)
        if on is not None and content in on.hashes:
            raise ModelError("the patch is on the model already")
        check_fits(self, model, current_hash)
        put_on(model, self, content, self.provenance.weights_hash)

    def revert(self, model: HookedTransformer) -> None:
        """Take the patch back (or an equal one); what other patches add stays.

        Raises:
            ModelError: If the patch is not on the model, or something else has changed the weights meanwhile.
        """
        take_back(model, [self.content_hash()])

    def applied(self, model: HookedTransformer) -> AbstractContextManager[HookedTransformer]:
        """The patched model within a ``with`` block; afterwards, also after an exception, what was before.

        Example:
            >>> patch = interp.edit(model, [request], method="kn")
            >>> with patch.applied(model):
            ...     interp.locate.top_answers(model, [fact])[0].top_answer
            ' Rome'
            >>> interp.locate.top_answers(model, [fact])[0].top_answer
            ' Paris'

        Raises: See :meth:`apply`.
        """
        return Applied(self, model)

    def with_layers(self, layers: Sequence[int]) -> Patch:
        """The part of the patch in some layers.

        Raises:
            OptionError: If the patch does not change one of them.
        """
        missing = sorted(set(layers) - set(self.layers))
        if missing:
            raise OptionError(f"the patch changes layers {list(self.layers)}, not {missing[0]}")
        return replace(
            self,
            left={k: v for k, v in self.left.items() if k in layers},
            right={k: v for k, v in self.right.items() if k in layers},
            dense={k: v for k, v in self.dense.items() if k in layers},
            rounding={k: v for k, v in self.rounding.items() if k in layers},
        )


def applied_patches(model: HookedTransformer) -> tuple[Patch, ...]:
    """The patches that are on a model, in their order.

    Example:
        >>> patch = interp.edit(model, [request], method="kn")
        >>> with patch.applied(model):
        ...     [found.method for found in interp.applied_patches(model)]
        ['kn']
    """
    on = state_of(model)
    return () if on is None else on.patches


def revert_all(model: HookedTransformer, patches: Sequence[Patch]) -> None:
    """Take back several patches in one step: all or, if anything is raised, none.

    Raises:
        ModelError: If one is not on the model, or something else has changed the weights meanwhile.
    """
    if patches:
        contents = [patch.content_hash() for patch in patches]
        undisturbed(lambda: take_back(model, contents))


def unpatched_hash(model: HookedTransformer) -> str | None:
    """Hash of the weights below the patches that are on a model; None where there are none."""
    on = state_of(model)
    return None if on is None else on.base_hash


def check_unpatched(model: HookedTransformer, doing: str) -> None:
    """Refuse a model that carries patches, where they would count beside those that are meant.

    Args:
        model: The model.
        doing: What is to be done, for the error, such as ``"evaluate"``.

    Raises:
        ModelError: Naming the patches.
    """
    on = applied_patches(model)
    if on:
        named = [
            f"{patch.method} ({patch.requests[0].fact.prompt!r} -> {patch.requests[0].new_target!r})"
            if patch.requests
            else patch.method
            for patch in on[:3]
        ]
        more = f" and {len(on) - 3} more" if len(on) > 3 else ""
        raise ModelError(
            f"to {doing}, the model must carry no patch; on it are {', '.join(named)}{more}: take them back"
            " (patch.revert). For edits on top of each other, compose their patches (interp.compose) into one"
        )


def compose(patches: Sequence[Patch]) -> Patch:
    """One patch that does what the patches do one after the other.

    Example:
        >>> config = interp.default_config(model, "rome", layer=1)
        >>> patch = interp.compose(interp.edit_each(model, requests, method="rome", config=config))
        >>> [request.fact.subject for request in patch.requests], patch.layers
        (['Eiffel Tower', 'Japan'], (1,))

    They are made for the same weights, or each on the model that carried those before it, in their order (sequential
    editing). MEMIT is not additive: patches of single facts composed are not the patch of the batch. Outcomes are those
    of each patch by itself.

    Raises:
        OptionError: If there are none, one is there twice, or they are made for different weights (names the hashes).
    """
    if not patches:
        raise OptionError("nothing to compose: no patches")
    first = patches[0]
    if len({(patch.provenance.model, patch.provenance.dtype) for patch in patches}) != 1:
        raise OptionError(f"patches of different models do not compose: {[p.provenance.model for p in patches]}")
    hashes = tuple(patch.content_hash() for patch in patches)
    for i, patch in enumerate(patches):
        if hashes[i] in hashes[:i]:
            raise OptionError(f"patches {hashes.index(hashes[i])} and {i} are the same patch: it would count twice")
        same = patch.provenance.weights_hash == first.provenance.weights_hash
        if not same and patch.provenance.patches != [*first.provenance.patches, *hashes[:i]]:
            raise OptionError(
                f"patch {i} was made for weights {patch.provenance.weights_hash}, patch 0 for"
                f" {first.provenance.weights_hash}, and not on the model that carried patches 0 to {i - 1}: they do"
                " not compose"
            )
    layers = sorted({layer for patch in patches for layer in patch.left})
    dense_layers = sorted({layer for patch in patches for layer in patch.dense})
    methods = list(dict.fromkeys(patch.method for patch in patches))
    alike = {k: v for k, v in first.made_with.items() if all(p.made_with.get(k, ...) == v for p in patches)}
    others = [{k: v for k, v in patch.made_with.items() if k not in alike} for patch in patches]
    return Patch(
        provenance=first.provenance,
        method="+".join(methods),
        config={"composed": [{"method": patch.method, **patch.config} for patch in patches]},
        requests=tuple(request for patch in patches for request in patch.requests),
        outcomes=tuple(outcome for patch in patches for outcome in patch.outcomes),
        left={k: torch.cat([p.left[k] for p in patches if k in p.left], 1) for k in layers},
        right={k: torch.cat([p.right[k] for p in patches if k in p.right], 0) for k in layers},
        dense={k: torch.stack([p.dense[k] for p in patches if k in p.dense]).sum(0) for k in dense_layers},
        made_with={**alike, **({"composed": others} if any(others) else {})},
    )


def overlap(one: Patch, other: Patch) -> dict[int, float]:
    """Cosine between what two patches add, in the layers that both change.

    Example:
        >>> config = interp.default_config(model, "rome", layer=1)
        >>> one, other = interp.edit_each(model, requests, method="rome", config=config)
        >>> {layer: round(cosine, 2) for layer, cosine in interp.overlap(one, other).items()}
        {1: -0.01}
    """
    shared = sorted(set(one.layers) & set(other.layers))
    return {
        layer: float(torch.cosine_similarity(one.delta(layer).flatten(), other.delta(layer).flatten(), dim=0))
        for layer in shared
    }


def check_fits(patch: Patch, model: HookedTransformer, current_hash: str | None = None) -> None:
    """Refuse a patch that was made for other weights.

    Args:
        patch: The patch.
        model: The model; with patches on it, its weights with and without them count.
        current_hash: To spare hashing the weights.

    Raises:
        ModelError: Naming both number formats or both hashes, or the layer whose shape differs.
    """
    on, wanted = state_of(model), patch.provenance.weights_hash
    if on is None or on.base_hash != wanted:
        found = current_hash or weights_hash(model)
        if found != wanted:
            _check_format(patch, model)
            n = len(patch.provenance.patches)
            below = f"; it was made on top of {n} other patch{'es' if n > 1 else ''}: compose them" if n else ""
            raise ModelError(
                f"the patch was made for {patch.provenance.model} with weights {wanted}{below}; this is"
                f" {model.cfg.model_name} with weights {found}"
            )
    for layer in patch.layers:
        shape = tuple(_w_out(model, layer).shape) if layer < model.cfg.n_layers else None
        if shape != tuple(patch.delta(layer).shape):
            raise ModelError(f"the patch changes layer {layer} by {tuple(patch.delta(layer).shape)}, W_out is {shape}")


def _check_format(patch: Patch, model: HookedTransformer) -> None:
    """Say it first where the number formats differ: the weights then do in any case."""
    format_, wanted = str(model.W_E.dtype).removeprefix("torch."), patch.provenance.dtype
    if format_ != wanted:
        raise ModelError(
            f"the patch was made for {patch.provenance.model} in {wanted}; this is {model.cfg.model_name} in {format_}:"
            f" load it in {wanted}, or edit it in {format_}"
        )
