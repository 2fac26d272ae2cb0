"""Refined knowledge neurons: those that attribution scores of several paraphrases agree on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.errors import OptionError
from interp.locate.methods.attribution import Attribution, Neuron

__all__ = ["refined_neurons"]


def refined_neurons(
    attributions: Sequence[Attribution], *, threshold: float = 0.2, share: float = 0.7
) -> tuple[Neuron, ...]:
    """Knowledge neurons that several paraphrases of a fact agree on (Dai et al. 2022, section 3.2).

    Args:
        attributions: Of the same answer under different prompts, each with ``tokens="last"``.
        threshold: A neuron counts for a prompt if its score exceeds this share of that prompt's highest score.
        share: A neuron is kept if it counts for at least this share of the prompts.

    Returns:
        The neurons with their mean score, highest first.

    Raises:
        OptionError: If there is nothing to refine, the attributions do not fit together, or a share is not in
            (0, 1].
    """
    if not attributions:
        raise OptionError("refined neurons need at least one attribution")
    for name, value in (("threshold", threshold), ("share", share)):
        if not 0 < value <= 1:
            raise OptionError(f"{name} must lie in (0, 1], got {value}")
    first = attributions[0]
    for other in attributions:
        if other.scaled_tokens != "last" or other.answer != first.answer or other.provenance != first.provenance:
            raise OptionError(
                "refined neurons need attributions of one model and one answer with tokens='last'; got"
                f" {other.answer!r} with tokens={other.scaled_tokens!r} beside {first.answer!r}"
            )
    scores = torch.stack([attribution.scores for attribution in attributions])
    highest = scores.flatten(1).amax(1)[:, None, None]
    counts = ((scores > threshold * highest) & (scores > 0)).double().mean(0)
    mean = scores.mean(0)
    kept = [
        Neuron(layer=layer, neuron=neuron, score=float(mean[layer, neuron]))
        for layer, neuron in (counts >= share - 1e-9).nonzero().tolist()
    ]
    return tuple(sorted(kept, key=lambda neuron: -neuron.score))
