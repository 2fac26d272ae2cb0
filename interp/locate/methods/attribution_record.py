"""What attribution found: a score for every neuron of every MLP, by token where tokens were scaled together or each.

A study of many facts keeps no neurons but the first: :class:`AttributionSums` is what :class:`Attribution` comes to
over neurons, which is what maps and averages show, to the bit. On GPT2-XL that is 15 kB a fact instead of 13.5 MB.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import OptionError
from interp.facts.records import Fact
from interp.options import check_choice, check_positive
from interp.results.mapped import Listing, MapRecord
from interp.results.token_map import TokenMap
from interp.system.readable import number, probability, token_label

__all__ = ["HUE", "NAME", "Attribution", "AttributionMap", "AttributionSums", "Neuron"]

NAME, HUE = "attribution", 255.0
KEPT = 100
"""Neurons of a fact that a study keeps."""
_LISTED = 5  # neurons


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """One component of w, and its score."""

    layer: int
    neuron: int
    score: float
    token: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionMap(MapRecord):
    """What attribution found, by layer and token; with all neurons or without them.

    Args:
        change: P(w) - P(0), per layer (and token, if each was scaled by itself).
        completeness_gap: ``change`` minus the sum of the scores: the error of the quadrature.
        probability: P(w), of the clean run.
        tokens: The text of each token that the model read: the prompt and all target tokens but the last.
        n_prompt_tokens: How many of them are the prompt.
        answer: The target, or the model's own top answer if the fact has none.
        known: Whether the model's top answer to the prompt is the first token of the target.
    """

    fact: Fact
    change: Float[Tensor, "layer *path"]
    completeness_gap: Float[Tensor, "layer *path"]
    probability: float
    tokens: tuple[str, ...]
    n_prompt_tokens: int
    subject_span: tuple[int, int]
    answer: str
    top_answer: str
    known: bool
    scaled_tokens: str
    steps: int
    rule: str

    @property
    def heading(self) -> str:
        """The fact whose answer was attributed."""
        return f"Attribution of “{self.fact.prompt}” → “{token_label(self.answer)}”"

    def remarks(self) -> tuple[str, ...]:
        """What was scaled, and the error of the quadrature."""
        gap = float(self.completeness_gap.abs().max())
        return (
            f"scaled: {self.scaled_tokens} token(s), {self.rule}, n = {self.steps}; P(answer)"
            f" {probability(self.probability)}; largest completeness gap {number(gap)}",
        )

    def listings(self) -> tuple[Listing, ...]:
        """The neurons with the highest scores."""
        rows = [
            (
                "last" if neuron.token is None else f"{neuron.token} {token_label(self.tokens[neuron.token])}",
                str(neuron.layer),
                str(neuron.neuron),
                number(neuron.score),
            )
            for neuron in self._first(_LISTED)
        ]
        header = ("token", "layer", "neuron", "score")
        return (Listing(title="Neurons with the highest scores", header=header, rows=rows),)

    def at(self, token: int, layer: int) -> dict[str, str]:
        """The neurons with the highest scores at one token and layer, as far as they are known."""
        best = self._first(_LISTED, layer=layer, token=token)
        return (
            {"top neurons": ", ".join(f"{neuron.neuron} ({number(neuron.score)})" for neuron in best)} if best else {}
        )

    def per_token(self, reduce: Literal["sum", "mean"] = "mean") -> Float[Tensor, "token layer"]:
        """Scores summed or averaged over neurons, per prompt token and layer.

        Raises:
            OptionError: If only the last token was scaled (its scores have no token axis), or ``reduce`` is
                neither of the two.
        """
        check_choice("reduce", reduce, ("sum", "mean"))
        if self.scaled_tokens == "last":
            raise OptionError("scores per token need tokens='all' or tokens='each'; this one scaled the last token")
        return self._over_neurons(reduce).T[: self.n_prompt_tokens]

    def map(self, reduce: Literal["sum", "mean"] = "sum") -> TokenMap:
        """The scores by prompt token and layer; one row, of the last token, if only that was scaled.

        Raises:
            OptionError: If ``reduce`` is neither of the two.
        """
        last = self.scaled_tokens == "last"
        return TokenMap(
            locator=NAME,
            title=f"Attribution scores ({self.scaled_tokens} tokens scaled, n = {self.steps})",
            unit=f"{reduce} over neurons",
            hue=HUE,
            values=self.per_layer(reduce)[None] if last else self.per_token(reduce),
            tokens=("last",) if last else self.tokens[: self.n_prompt_tokens],
            subject_span=None if last else self.subject_span,
            answer=self.answer,
            probability=self.probability,
        )

    def per_layer(self, reduce: Literal["sum", "mean"] = "sum") -> Float[Tensor, "layer"]:
        """Scores summed or averaged over everything but the layer.

        Raises:
            OptionError: If ``reduce`` is neither of the two.
        """
        check_choice("reduce", reduce, ("sum", "mean"))
        return self._over_all(reduce)

    def top_neurons(self, k: int = 10, *, layer: int | None = None, token: int | None = None) -> tuple[Neuron, ...]:
        """The ``k`` neurons with the highest scores, highest first.

        Args:
            k: How many.
            layer: Of this layer only.
            token: Of this token only.

        Raises:
            OptionError: If ``k`` is not positive or larger than their number, the layer or token does not exist,
                only the last token was scaled and one is asked for, or the record does not hold so many.
        """
        check_positive(k=k)
        with_tokens = self.scaled_tokens != "last"
        if token is not None and not with_tokens:
            raise OptionError("neurons of one token need tokens='all' or tokens='each'; this one scaled the last token")
        for name, at, count in (("layer", layer, len(self.change)), ("token", token, len(self.tokens))):
            if at is not None and not 0 <= at < count:
                raise OptionError(f"{name} {at} does not exist: there are {name}s 0 to {count - 1}")
        return self._highest(k, layer, token)

    @abstractmethod
    def _over_neurons(self, reduce: str) -> Float[Tensor, "layer *token"]:
        """Scores summed or averaged over neurons."""

    @abstractmethod
    def _over_all(self, reduce: str) -> Float[Tensor, "layer"]:
        """Scores summed or averaged over neurons and tokens."""

    @abstractmethod
    def _highest(self, k: int, layer: int | None, token: int | None) -> tuple[Neuron, ...]:
        """:meth:`top_neurons`, of checked arguments."""

    @abstractmethod
    def _first(self, k: int, layer: int | None = None, token: int | None = None) -> tuple[Neuron, ...]:
        """The first of the neurons that the record holds: ``k`` of them, or all if they are fewer."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution(AttributionMap):
    """What :func:`~interp.locate.methods.attribution.attribute` found, with all neurons.

    Args:
        scores: Per neuron; ``[layer, neuron]`` if the last token was scaled, else ``[layer, token, neuron]``.
        change, completeness_gap, probability, tokens, n_prompt_tokens, answer, known: See :class:`AttributionMap`.
    """

    scores: Float[Tensor, "layer *token neuron"]

    def _over_neurons(self, reduce: str) -> Float[Tensor, "layer *token"]:
        return self.scores.sum(-1) if reduce == "sum" else self.scores.mean(-1)

    def _over_all(self, reduce: str) -> Float[Tensor, "layer"]:
        flat = self.scores.flatten(1)
        return flat.sum(1) if reduce == "sum" else flat.mean(1)

    def _highest(self, k: int, layer: int | None, token: int | None) -> tuple[Neuron, ...]:
        scores = self.scores[:, None] if self.scores.ndim == 2 else self.scores
        layers = slice(None) if layer is None else slice(layer, layer + 1)
        tokens = slice(None) if token is None else slice(token, token + 1)
        chosen = scores[layers, tokens]
        if k > chosen.numel():
            raise OptionError(f"k must be at most the number of scores, {chosen.numel()}, got {k}")
        values, places = chosen.flatten().topk(k)
        rows = zip(
            values.tolist(), *(index.tolist() for index in torch.unravel_index(places, chosen.shape)), strict=True
        )
        return tuple(
            Neuron(
                score=score,
                layer=at_layer + (layer or 0),
                neuron=neuron,
                token=None if self.scores.ndim == 2 else at_token + (token or 0),
            )
            for score, at_layer, at_token, neuron in rows
        )

    def _first(self, k: int, layer: int | None = None, token: int | None = None) -> tuple[Neuron, ...]:
        return self.top_neurons(min(k, self.scores.shape[-1]), layer=layer, token=token)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionSums(AttributionMap):
    """What a study keeps of an :class:`Attribution`: the sums over neurons, and the neurons with the highest scores.

    Its maps and averages are those of the whole record, bit for bit.

    Args:
        sums: Scores summed over neurons, per layer and, unless only the last token was scaled, token.
        layer_sums: Scores summed over neurons and tokens.
        n_neurons: Of a layer.
        top_scores: The highest scores, highest first.
        top_places: Where they stand: layer, token (not if only the last one was scaled) and neuron.
        change, completeness_gap, probability, tokens, n_prompt_tokens, answer, known: See :class:`AttributionMap`.
    """

    sums: Float[Tensor, "layer *token"]
    layer_sums: Float[Tensor, "layer"]
    n_neurons: int
    top_scores: Float[Tensor, "top"]
    top_places: Int[Tensor, "top axis"]

    @classmethod
    def of(cls, found: Attribution) -> AttributionSums:
        """What is kept of a result."""
        top_scores, places = found.scores.flatten().topk(min(KEPT, found.scores.numel()))
        return cls(
            **{field.name: getattr(found, field.name) for field in fields(AttributionMap)},
            sums=found.scores.sum(-1),
            layer_sums=found.per_layer("sum"),
            n_neurons=found.scores.shape[-1],
            top_scores=top_scores,
            top_places=torch.stack(torch.unravel_index(places, found.scores.shape), 1).int(),
        )

    @property
    def scores(self) -> Float[Tensor, "layer *token neuron"]:
        """Not kept.

        Raises:
            OptionError: Saying how to get them.
        """
        raise OptionError(f"this record holds sums over neurons and {self._how_many}; {self._how_to_get_more}")

    def remarks(self) -> tuple[str, ...]:
        """What was scaled, the error of the quadrature, and what is kept of the neurons."""
        return (*super().remarks(), f"of a study: sums over neurons, and {self._how_many}")

    def _over_neurons(self, reduce: str) -> Float[Tensor, "layer *token"]:
        return self.sums if reduce == "sum" else self.sums / self.n_neurons

    def _over_all(self, reduce: str) -> Float[Tensor, "layer"]:
        n_scores = self.sums[0].numel() * self.n_neurons
        return self.layer_sums if reduce == "sum" else self.layer_sums / n_scores

    def _highest(self, k: int, layer: int | None, token: int | None) -> tuple[Neuron, ...]:
        found = self._first(k, layer, token)
        if len(found) < k:  # what is not kept scores less than all that is: what is there comes first everywhere
            raise OptionError(f"{len(found)} of the {k} are among {self._how_many}; {self._how_to_get_more}")
        return found

    def _first(self, k: int, layer: int | None = None, token: int | None = None) -> tuple[Neuron, ...]:
        neurons = [
            Neuron(score=score, layer=place[0], neuron=place[-1], token=place[1] if len(place) == 3 else None)
            for score, place in zip(self.top_scores.tolist(), self.top_places.tolist(), strict=True)
        ]
        here = [n for n in neurons if layer in (None, n.layer) and token in (None, n.token)]
        return tuple(here[:k])

    @property
    def _how_many(self) -> str:
        return f"the {len(self.top_scores)} neurons with the highest scores"

    @property
    def _how_to_get_more(self) -> str:
        return (
            f"interp.attribute(model, record.fact, tokens={self.scaled_tokens!r}, steps={self.steps},"
            f" rule={self.rule!r}) computes all scores"
        )
