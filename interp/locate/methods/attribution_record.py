"""What attribution found: a score for every neuron of every MLP, by token where tokens were scaled together or each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import OptionError
from interp.facts.records import Fact
from interp.options import check_choice, check_positive
from interp.results.mapped import Listing, MapRecord
from interp.results.token_map import TokenMap
from interp.system.readable import number, probability, token_label

__all__ = ["HUE", "NAME", "Attribution", "Neuron"]

NAME, HUE = "attribution", 255.0
_LISTED = 5  # neurons


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """One component of w, and its score."""

    layer: int
    neuron: int
    score: float
    token: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution(MapRecord):
    """What :func:`~interp.locate.methods.attribution.attribute` found.

    Args:
        scores: Per neuron; ``[layer, neuron]`` if the last token was scaled, else ``[layer, token, neuron]``.
        change: P(w) - P(0), per layer (and token, if each was scaled by itself).
        completeness_gap: ``change`` minus the sum of the scores: the error of the quadrature.
        probability: P(w), of the clean run.
        tokens: The text of each token that the model read: the prompt and all target tokens but the last.
        n_prompt_tokens: How many of them are the prompt.
        answer: The target, or the model's own top answer if the fact has none.
        known: Whether the model's top answer to the prompt is the first token of the target.
    """

    fact: Fact
    scores: Float[Tensor, "layer *token neuron"]
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
            for neuron in self.top_neurons(min(_LISTED, self.scores.numel()))
        ]
        header = ("token", "layer", "neuron", "score")
        return (Listing(title="Neurons with the highest scores", header=header, rows=rows),)

    def at(self, token: int, layer: int) -> dict[str, str]:
        """The neurons with the highest scores at one token and layer."""
        best = self.top_neurons(_LISTED, layer=layer, token=token)
        return {"top neurons": ", ".join(f"{neuron.neuron} ({number(neuron.score)})" for neuron in best)}

    def per_token(self, reduce: Literal["sum", "mean"] = "mean") -> Float[Tensor, "token layer"]:
        """Scores summed or averaged over neurons, per prompt token and layer.

        Raises:
            OptionError: If only the last token was scaled (its scores have no token axis), or ``reduce`` is
                neither of the two.
        """
        check_choice("reduce", reduce, ("sum", "mean"))
        if self.scaled_tokens == "last":
            raise OptionError("scores per token need tokens='all' or tokens='each'; this one scaled the last token")
        reduced = self.scores.sum(-1) if reduce == "sum" else self.scores.mean(-1)
        return reduced.T[: self.n_prompt_tokens]

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
        """Scores summed or averaged over everything but the layer."""
        check_choice("reduce", reduce, ("sum", "mean"))
        flat = self.scores.flatten(1)
        return flat.sum(1) if reduce == "sum" else flat.mean(1)

    def top_neurons(self, k: int = 10, *, layer: int | None = None, token: int | None = None) -> tuple[Neuron, ...]:
        """The ``k`` neurons with the highest scores, highest first.

        Args:
            k: How many.
            layer: Of this layer only.
            token: Of this token only.

        Raises:
            OptionError: If ``k`` is not positive or larger than their number, the layer or token does not exist,
                or only the last token was scaled and one is asked for.
        """
        check_positive(k=k)
        scores = self.scores[:, None] if self.scores.ndim == 2 else self.scores
        if token is not None and self.scores.ndim == 2:
            raise OptionError("neurons of one token need tokens='all' or tokens='each'; this one scaled the last token")
        for name, at, count in (("layer", layer, len(scores)), ("token", token, scores.shape[1])):
            if at is not None and not 0 <= at < count:
                raise OptionError(f"{name} {at} does not exist: there are {name}s 0 to {count - 1}")
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
