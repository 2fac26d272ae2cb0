"""Averages over facts by token class: the maps of Figure 1.

1. Per fact and class, collect the values of the class's tokens (pooled: every token counts once, as in the
   published average maps of Meng et al. 2022).
2. Mean over all of them, per layer.
3. 95% interval: percentile bootstrap over *facts* (tokens of one fact are not independent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import OptionError
from interp.results import Record
from interp.tokens import TOKEN_CLASSES, token_classes

__all__ = ["ClassAverage", "TokenLayerMap", "class_average"]

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class TokenLayerMap:
    """One fact's values, as every locator gives them.

    Args:
        values: A score per prompt token and layer.
        subject_span: The subject's tokens, end exclusive.
    """

    values: Float[Tensor, "token layer"]
    subject_span: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClassAverage(Record):
    """A map of Figure 1.

    Args:
        method: ``attribution``, ``resid``, ``mlp`` or ``attn``.
        title: What it shows, for a heading.
        unit: What a value means, for the colour bar.
        mean, low, high: Mean over the facts and its 95% bootstrap interval; NaN where a class is empty.
        peak: Layer of the largest mean per class (-1 if empty), and its bootstrap interval.
        n_facts: How many facts have a token of the class.
        n_tokens: How many tokens were averaged.
    """

    method: str
    title: str
    unit: str
    token_classes: tuple[str, ...]
    mean: Float[Tensor, "token_class layer"]
    low: Float[Tensor, "token_class layer"]
    high: Float[Tensor, "token_class layer"]
    peak: tuple[int, ...]
    peak_low: tuple[int, ...]
    peak_high: tuple[int, ...]
    n_facts: tuple[int, ...]
    n_tokens: tuple[int, ...]


def class_average(
    maps: Sequence[TokenLayerMap],
    records: Sequence[Record],
    *,
    method: str,
    title: str,
    unit: str,
    resamples: int = 2000,
    seed: int = 0,
) -> ClassAverage:
    """Average maps of facts by token class.

    Args:
        maps: One per fact, all with the same number of layers.
        records: The results they come from; all of one model.
        method: See :class:`ClassAverage`.
        title: See :class:`ClassAverage`.
        unit: See :class:`ClassAverage`.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        OptionError: If there are no maps, or they come from different models.
    """
    if not maps:
        raise OptionError(f"no facts to average for {method}")
    if len({(r.provenance.model, r.provenance.weights_hash) for r in records}) != 1:
        raise OptionError(f"the {method} results come from different models and cannot be averaged")
    n_layers = maps[0].values.shape[1]
    sums = np.zeros((len(TOKEN_CLASSES), len(maps), n_layers))
    counts = np.zeros((len(TOKEN_CLASSES), len(maps)))
    for column, entry in enumerate(maps):
        values = entry.values.double().numpy()
        for row, positions in enumerate(token_classes(len(values), entry.subject_span).values()):
            sums[row, column] = values[list(positions)].sum(0)
            counts[row, column] = len(positions)

    draws = np.random.default_rng(seed).integers(len(maps), size=(resamples, len(maps)))
    weights = np.stack([np.bincount(draw, minlength=len(maps)) for draw in draws]).astype(float)
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    shape = (len(TOKEN_CLASSES), n_layers)
    mean, low, high = (np.full(shape, np.nan) for _ in range(3))
    peak, peak_low, peak_high = ([-1] * len(TOKEN_CLASSES) for _ in range(3))
    for row in range(len(TOKEN_CLASSES)):
        if not counts[row].any():
            continue
        mean[row] = sums[row].sum(0) / counts[row].sum()
        drawn = weights @ counts[row]
        usable = drawn > 0  # a resample may hold no fact with this class
        resampled = (weights @ sums[row])[usable] / drawn[usable, None]
        low[row], high[row] = np.percentile(resampled, tails, axis=0)
        peak[row] = int(mean[row].argmax())
        bounds = np.percentile(resampled.argmax(1), tails, method="nearest")
        peak_low[row], peak_high[row] = int(bounds[0]), int(bounds[1])
    return ClassAverage(
        provenance=records[0].provenance,
        method=method,
        title=title,
        unit=unit,
        token_classes=TOKEN_CLASSES,
        mean=torch.from_numpy(mean).float(),
        low=torch.from_numpy(low).float(),
        high=torch.from_numpy(high).float(),
        peak=tuple(peak),
        peak_low=tuple(peak_low),
        peak_high=tuple(peak_high),
        n_facts=tuple(int(n) for n in (counts > 0).sum(1)),
        n_tokens=tuple(int(n) for n in counts.sum(1)),
    )
