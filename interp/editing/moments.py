"""Second moments C = E[k k^T] of what enters W_out, layer by layer over a corpus.

1. Run the corpus up to the lowest wanted layer and from each to the next; what ``mlp.hook_post`` of a wanted layer
   sees adds k k^T. Sums of a few thousand tokens are float32, sums of these float64, of one layer at a time
   (:mod:`interp.editing.grams`).
2. C is symmetric: only the blocks on and above the diagonal are computed (9/16 of the arithmetic).
3. Every other part is summed apart. C_a of the one half against the other says how far the number of tokens
   suffices: tr(C_a^-1 C_b) / d - 1, by how much k^T C^-1 k of unseen tokens exceeds that of seen ones, is 0 for
   endless text. Above :data:`HELD_OUT_LIMIT` editors warn.
4. Where text is short, C can be shrunk towards the identity (:mod:`interp.editing.shrinkage`).

C is that of the unedited model: patches that are on the model are taken off while it is estimated.

Text that the model writes itself is kept beside them: writing it is most of the time, and the next layer reads it.
That of the embedded model comes with the package (:mod:`interp.editing.shipped_text`).
The cache is content-addressed: weights, corpus and its revision, tokens, row length, seed, layer, number format and the
precision of matrix products.
A file in it that is damaged, or belongs elsewhere, is made again, which is logged. The result reads each layer from it
when it is asked for (:mod:`interp.editing.moments_cache`).
Source: Meng et al. 2022, section 3.1 (there: 100,000 samples of Wikipedia).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.corpora import BATCH, Corpus, corpus_rows
from interp.editing.grams import Sums, held_out_error, sums_by_layer
from interp.editing.moments_cache import (
    Found,
    MomentsByLayer,
    SecondMoments,
    alone,
    cached,
    keep,
    layer_path,
    load,
    there,
)
from interp.editing.shipped_text import shipped_text
from interp.editing.shrinkage import ledoit_wolf
from interp.editing.unedited import unedited, unedited_provenance
from interp.errors import DataError, InterpWarning, NumericalError, OptionError
from interp.models.weights import check_linear_output
from interp.options import Progress, check_choice, check_positive
from interp.results.record import Provenance, Record

__all__ = [
    "HELD_OUT_LIMIT",
    "SecondMoments",
    "moments_folder",
    "second_moments",
    "warn_of_held_out_error",
]

logger = logging.getLogger(__name__)

HELD_OUT_LIMIT = 4.0
"""The largest held-out error that passes without a warning. It is that of half the text: for independent tokens it
would be reached at 2.5 tokens a neuron, where all of the text has an error of two thirds. Ten a neuron give 0.25.
"""
SHRINKAGES = ("ledoit-wolf",)


def second_moments(
    model: HookedTransformer,
    layers: Sequence[int],
    corpus: Corpus | None = None,
    *,
    shrinkage: str | None = None,
    cache: str | Path | None = "",
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> SecondMoments:
    """Estimate the second moments of some layers.

    Example:
        >>> moments = interp.second_moments(model, [1], interp.Corpus(tokens=2560))
        >>> moments.moments[1].shape  # [d_mlp, d_mlp]
        torch.Size([256, 256])

    Args:
        model: The model.
        layers: Which layers.
        corpus: Which text; what the model samples from itself by default. Without a number of tokens there are ten for
            each neuron of an MLP, and 20,000 at least.
        shrinkage: ``"ledoit-wolf"``: C is shrunk towards the identity, the more the less text there is; the result
            says by how much. None: C is the mean, as published.
        cache: Folder of the cache; the user's cache folder by default, None for no cache. Where it cannot be written
            there is a warning, and the result is returned all the same.
        max_batch_tokens: The most tokens that go up the network at once (1,024 fit a CPU's caches; a GPU takes more).
        progress: Called with (tokens done, in all).

    Raises:
        OptionError: If a layer or the shrinkage does not exist, or the MLPs have no one W_out.
        DataError: If the corpus cannot be read or is too small.
        NumericalError: If there are fewer tokens than neurons, so that C is singular, and it is not to be shrunk.

    Warns:
        InterpWarning: If half of the text leaves C singular; at a held-out error above :data:`HELD_OUT_LIMIT` editors
            warn when they use it.
    """
    check_linear_output(model)
    d_mlp = model.cfg.d_mlp
    assert d_mlp is not None
    corpus = (corpus or Corpus()).sized(d_mlp)
    assert corpus.tokens is not None
    wanted = _existing(model, layers)
    if shrinkage is not None:
        check_choice("shrinkage", shrinkage, SHRINKAGES)
    check_positive(max_batch_tokens=max_batch_tokens)
    if corpus.tokens < d_mlp and shrinkage is None:
        raise NumericalError(
            f"{corpus.tokens} tokens leave the second moment of {d_mlp} neurons singular: take at least {4 * d_mlp}"
        )
    text = _text(model, corpus, cache)
    found = _there(text.folder, wanted, shrinkage)
    if len(found) < len(wanted):
        with alone(text.folder):
            found |= _there(text.folder, [layer for layer in wanted if layer not in found], shrinkage)
            missing = [layer for layer in wanted if layer not in found]
            if missing:
                found |= _estimate(model, missing, text, max_batch_tokens, progress)
    moments = _joined({layer: found[layer] for layer in wanted}, text.described, shrinkage)
    if math.isinf(max(moments.held_out_error)):
        warn_of_held_out_error(moments, wanted, stacklevel=2)
    return moments


def warn_of_held_out_error(found: SecondMoments, layers: Sequence[int], *, stacklevel: int) -> None:
    """Say once that second moments rest on too little text; see :data:`HELD_OUT_LIMIT`."""
    errors = dict(zip(found.layers, found.held_out_error, strict=True))
    large = {layer: errors[layer] for layer in layers if errors.get(layer, 0.0) > HELD_OUT_LIMIT}
    if large:
        worst = max(large, key=lambda layer: large[layer])
        much = "infinitely" if math.isinf(large[worst]) else f"by {large[worst]:.0%}"
        warnings.warn(
            f"the second moments of {len(large)} of {len(layers)} layers rest on too little text"
            f" ({found.n_tokens:,} tokens): in layer {worst}, k^T C^-1 k of unseen tokens exceeds that of seen ones"
            f" {much} (by halves of the text; up to {HELD_OUT_LIMIT:.0%} passes), so edits come out too large: take"
            " more tokens, or second_moments(shrinkage='ledoit-wolf')",
            InterpWarning,
            stacklevel=stacklevel + 1,
        )


def moments_folder(model: HookedTransformer, corpus: Corpus, cache: str | Path = "") -> Path:
    """Where the cache keeps the second moments that a model has on a text.

    Args:
        model, cache: See :func:`second_moments`.
        corpus: The text, with a number of tokens.
    """
    folder = _text(model, corpus, cache).folder
    assert folder is not None
    return folder


def _existing(model: HookedTransformer, layers: Sequence[int]) -> tuple[int, ...]:
    try:
        wanted = sorted({operator.index(layer) for layer in layers})
    except TypeError as error:
        raise OptionError(f"layers must be a sequence of whole numbers, got {layers!r}") from error
    for layer in wanted:
        if not 0 <= layer < model.cfg.n_layers:
            raise OptionError(f"layer {layer} does not exist: the model has layers 0 to {model.cfg.n_layers - 1}")
    if not wanted:
        raise OptionError("second moments of no layer were asked for")
    return tuple(wanted)


@dataclass(frozen=True, kw_only=True)
class _Text:
    """What second moments are estimated on.

    Args:
        corpus: The text, with a number of tokens.
        revision: Of its source.
        described: The unedited model that reads it.
        folder: Where the cache keeps what belongs to these three.
        shipped: Its rows, where they come with the package.
    """

    corpus: Corpus
    revision: str
    described: Provenance
    folder: Path | None
    shipped: Int[Tensor, "row token"] | None = None


def _text(model: HookedTransformer, corpus: Corpus, cache: str | Path | None) -> _Text:
    described, folder = unedited_provenance(model), None
    shipped = shipped_text(described.weights_hash, corpus)
    revision = corpus.revision() if shipped is None else shipped.revision
    if cache is not None:
        key = {"weights": described.weights_hash, "dtype": described.dtype, "revision": revision, **asdict(corpus)}
        if described.matmul_precision != "highest":
            key["matmul_precision"] = described.matmul_precision
        root = Path(cache) if cache else Path(platformdirs.user_cache_dir("interp")) / "second-moments"
        folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    rows = None if shipped is None else shipped.tokens
    return _Text(corpus=corpus, revision=revision, described=described, folder=folder, shipped=rows)


def _there(folder: Path | None, layers: Sequence[int], shrinkage: str | None) -> dict[int, Found]:
    """What the cache holds of some layers; of those to be shrunk without what lacks the sums, of earlier versions."""
    found = {layer: kept for layer in layers if (kept := cached(folder, layer)) is not None}
    return {layer: kept for layer, kept in found.items() if shrinkage is None or kept.record.ledoit_wolf}


def _estimate(
    model: HookedTransformer, layers: Sequence[int], text: _Text, max_batch_tokens: int, progress: Progress | None
) -> dict[int, Found]:
    """Layers that are not in the cache; each is put there before the next one's turn, until that fails once."""
    found, folder = {}, text.folder
    source = {**asdict(text.corpus), "revision": text.revision}
    with unedited(model):
        steps = _Steps(progress, text)
        rows = list(_rows(model, text, steps))
        for layer, sums in sums_by_layer(model, layers, rows, max_batch_tokens=max_batch_tokens, beat=steps.summed):
            record = _estimated(layer, sums, text.described, source)
            del sums  # the next layer's take their place
            found[layer] = Found.of(record, record.moments[layer])
            if folder is not None:
                path = layer_path(folder, layer)
                if keep(record, path, stacklevel=3):
                    found[layer] = Found.of(record, path)
                else:
                    folder = None
            del record
    return found


def _estimated(layer: int, sums: Sums, described: Provenance, source: dict[str, Any]) -> SecondMoments:
    """One layer as the cache keeps it: C as it is, and what shrinking it would take."""
    halves, fourth, n_tokens = sums.products, sums.fourth, sums.counts
    n = float(n_tokens.sum())
    C = halves.sum(0) / n
    return SecondMoments(
        provenance=described,
        moments={layer: C.float().cpu()},
        corpus=source,
        n_tokens=int(n),
        layers=(layer,),
        held_out_error=(held_out_error(halves, n_tokens),),
        ledoit_wolf=(ledoit_wolf(C, n, float(fourth.sum()) / n),),
        ledoit_wolf_error=(held_out_error(halves, n_tokens, fourth),),
    )


def _joined(found: Mapping[int, Found], described: Provenance, shrinkage: str | None) -> SecondMoments:
    """Layers in one record, shrunk if they are to be."""
    records = [kept.record for kept in found.values()]
    shares = tuple(share for each in records for share in each.ledoit_wolf)
    shares = shares if len(shares) == len(records) else ()
    errors = tuple(error for each in records for error in each.ledoit_wolf_error) if shares else ()
    plain = tuple(each.held_out_error[0] for each in records)
    shrink = {} if shrinkage is None else dict(zip(found, shares, strict=True))
    return SecondMoments(
        provenance=described,
        moments=MomentsByLayer({layer: kept.place for layer, kept in found.items()}, shrink),
        corpus=records[0].corpus,
        n_tokens=records[0].n_tokens,
        layers=tuple(found),
        held_out_error=plain if shrinkage is None else errors,
        shrinkage=shrinkage,
        ledoit_wolf=shares,
        ledoit_wolf_error=errors,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Written(Record):
    """Text that a model wrote, kept because writing it takes longer than reading it for one more layer."""

    tokens: Int[Tensor, "row token"]


class _Steps:
    """Progress in tokens: of those that the model writes itself, writing is half of what is done with them."""

    def __init__(self, progress: Progress | None, text: _Text) -> None:
        assert text.corpus.tokens is not None
        self._progress, self._total, self._before = progress, text.corpus.tokens, 0.0

    def written(self, done: int, total: int) -> None:
        """So many tokens are written."""
        self._before = done / total / 2
        self.summed(0.0)

    def read(self, done: int, total: int) -> None:
        """So many tokens are read; that is little work, but one may want to stop it."""
        self.summed(0.0)

    def summed(self, share: float) -> None:
        """So much of the summing is done."""
        if self._progress:
            self._progress(int((self._before + (1 - self._before) * share) * self._total), self._total)


def _rows(model: HookedTransformer, text: _Text, steps: _Steps) -> Iterator[Int[Tensor, "row token"]]:
    """The corpus in its batches; what the model writes itself is kept for the next layers."""
    if text.shipped is not None:
        yield from text.shipped.to(model.W_E.device).split(BATCH)
        return
    if text.corpus.source != "self":
        yield from corpus_rows(model, text.corpus, steps.read)
        return
    path = None if text.folder is None else text.folder / "text.safetensors"
    if path is not None and there(path):
        try:
            yield from load(_Written, path).tokens.to(model.W_E.device).split(BATCH)
            return
        except DataError as error:
            logger.warning("writing the text for second moments again: %s", error)
    written = list(corpus_rows(model, text.corpus, steps.written))
    if path is not None:
        keep(_Written(provenance=text.described, tokens=torch.cat(written)), path, stacklevel=2)
    yield from written
