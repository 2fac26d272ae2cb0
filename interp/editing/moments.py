"""Second moments C = E[k k^T] of what enters W_out, for several layers in one pass over a corpus.

1. Run the corpus up to the highest wanted layer; a hook on ``mlp.hook_post`` of each wanted layer adds its tokens'
   k k^T. Sums of a few thousand tokens are float32, sums of these float64.
2. C is symmetric: only the blocks on and above the diagonal are computed (9/16 of the arithmetic).
3. Every other part is summed apart. C_a of the one half against the other says how far the number of tokens
   suffices: tr(C_a^-1 C_b) / d - 1, by how much k^T C^-1 k of unseen tokens exceeds that of seen ones, is 0 for
   endless text. Above :data:`HELD_OUT_LIMIT` editors warn.
4. Where text is short, C can be shrunk towards the identity (:mod:`interp.editing.shrinkage`).

C is that of the unedited model: patches that are on the model are taken off while it is estimated.

Text that the model writes itself is kept beside them: writing it is most of the time, and the next layer reads it.
The cache is content-addressed: weights, corpus and its revision, tokens, row length, seed, layer and number format.
A file in it that is damaged, or belongs elsewhere, is made again, which is logged.
Source: Meng et al. 2022, section 3.1 (there: 100,000 samples of Wikipedia).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.corpora import BATCH, Corpus, corpus_rows
from interp.editing.grams import accumulate, held_out_error
from interp.editing.shrinkage import ledoit_wolf, shrunk
from interp.editing.unedited import unedited, unedited_provenance
from interp.errors import DataError, InterpWarning, NumericalError, OptionError
from interp.options import Progress, check_choice, check_positive
from interp.results.record import Provenance, Record, load_record, save_record
from interp.system.files import only_one

__all__ = [
    "HELD_OUT_LIMIT",
    "SecondMoments",
    "second_moments",
    "warn_of_held_out_error",
]

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
HELD_OUT_LIMIT = 4.0
"""The largest held-out error that passes without a warning. It is that of half the text: for independent tokens it
would be reached at 2.5 tokens a neuron, where all of the text has an error of two thirds. Ten a neuron give 0.25.
"""
SHRINKAGES = ("ledoit-wolf",)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SecondMoments(Record):
    """C by layer, with the corpus it was estimated on.

    Args:
        moments: C of each layer, float32.
        corpus: Source, tokens, row length and seed, with the source's revision.
        n_tokens: Tokens that were averaged.
        held_out_error: Per layer of ``layers``: the share by which k^T C^-1 k of unseen tokens exceeds that of
            seen ones, from halves of the corpus (shrunk as C is); infinite where half of it leaves C singular.
        shrinkage: How ``moments`` were shrunk: None or ``"ledoit-wolf"``.
        ledoit_wolf: Per layer the share of the identity that Ledoit and Wolf's rule gives C (in ``moments`` only if
            ``shrinkage`` says so); empty in records of earlier versions.
        ledoit_wolf_error: Per layer the held-out error with that rule.
    """

    moments: dict[int, Float[Tensor, "d_mlp d_mlp"]]
    corpus: dict[str, Any]
    n_tokens: int
    layers: tuple[int, ...]
    held_out_error: tuple[float, ...]
    shrinkage: str | None = None
    ledoit_wolf: tuple[float, ...] = ()
    ledoit_wolf_error: tuple[float, ...] = ()


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
        OptionError: If a layer or the shrinkage does not exist.
        DataError: If the corpus cannot be read or is too small.
        NumericalError: If there are fewer tokens than neurons, so that C is singular, and it is not to be shrunk.

    Warns:
        InterpWarning: If half of the text leaves C singular; at a held-out error above :data:`HELD_OUT_LIMIT` editors
            warn when they use it.
    """
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
        with _alone(text.folder):
            found |= _there(text.folder, [layer for layer in wanted if layer not in found], shrinkage)
            missing = [layer for layer in wanted if layer not in found]
            if missing:
                found |= _estimate(model, missing, text, max_batch_tokens, progress)
    moments = _joined([found[layer] for layer in wanted], text.described, shrinkage)
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
    """

    corpus: Corpus
    revision: str
    described: Provenance
    folder: Path | None


def _text(model: HookedTransformer, corpus: Corpus, cache: str | Path | None) -> _Text:
    described, revision = unedited_provenance(model), corpus.revision()
    folder = None
    if cache is not None:
        key = {"weights": described.weights_hash, "dtype": described.dtype, "revision": revision, **asdict(corpus)}
        root = Path(cache) if cache else Path(platformdirs.user_cache_dir("interp")) / "second-moments"
        folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    return _Text(corpus=corpus, revision=revision, described=described, folder=folder)


def _estimate(
    model: HookedTransformer, layers: Sequence[int], text: _Text, max_batch_tokens: int, progress: Progress | None
) -> dict[int, SecondMoments]:
    """Layers that are not in the cache, in one pass over the text; they are put there, until that fails once."""
    with unedited(model):
        said = _LastSaid(progress)
        rows = _rows(model, text, said)
        sums = accumulate(model, layers, rows, max_batch_tokens=max_batch_tokens, beat=said.again)
    source = {**asdict(text.corpus), "revision": text.revision}
    found, folder = {}, text.folder
    for layer in layers:
        record = _estimated(layer, sums.products.pop(layer), sums.fourth[layer], sums.counts, text.described, source)
        if folder is not None and not _kept(record, folder / f"layer-{layer}.safetensors", stacklevel=3):
            folder = None
        found[layer] = record
    return found


def _estimated(
    layer: int, halves: Tensor, fourth: Tensor, n_tokens: Tensor, described: Provenance, source: dict[str, Any]
) -> SecondMoments:
    """One layer as the cache keeps it: C as it is, and what shrinking it would take."""
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


def _joined(found: Sequence[SecondMoments], described: Provenance, shrinkage: str | None) -> SecondMoments:
    """Layers in one record, shrunk if they are to be."""
    moments = {layer: C for each in found for layer, C in each.moments.items()}
    shares = tuple(share for each in found for share in each.ledoit_wolf)
    shares = shares if len(shares) == len(found) else ()
    errors = tuple(error for each in found for error in each.ledoit_wolf_error) if shares else ()
    plain = tuple(each.held_out_error[0] for each in found)
    if shrinkage is not None:
        moments = {layer: shrunk(C, share) for (layer, C), share in zip(moments.items(), shares, strict=True)}
    return SecondMoments(
        provenance=described,
        moments=moments,
        corpus=found[0].corpus,
        n_tokens=found[0].n_tokens,
        layers=tuple(moments),
        held_out_error=plain if shrinkage is None else errors,
        shrinkage=shrinkage,
        ledoit_wolf=shares,
        ledoit_wolf_error=errors,
    )


def _kept(record: Record, path: Path, *, stacklevel: int) -> bool:
    """Put a record into the cache; what cost minutes is not lost where that cannot be written."""
    try:
        save_record(record, path, unit=path.stem, run=path.parent.name)
    except DataError as error:
        warnings.warn(
            f"second moments and their text are not kept for the next time: {error}",
            InterpWarning,
            stacklevel=stacklevel + 1,
        )
        return False
    return True


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Written(Record):
    """Text that a model wrote, kept because writing it takes longer than reading it for one more layer."""

    tokens: Int[Tensor, "row token"]


class _LastSaid:
    """A progress that says the same again, so that the work can be stopped between what it counts."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._last = progress, (0, 1)

    def __call__(self, done: int, total: int) -> None:
        self._last = done, total
        self.again()

    def again(self) -> None:
        if self._progress:
            self._progress(*self._last)


def _rows(model: HookedTransformer, text: _Text, progress: Progress | None) -> Iterator[Int[Tensor, "row token"]]:
    """The corpus in its batches; what the model writes itself is kept for the next layers."""
    corpus = text.corpus
    if corpus.source != "self" or text.folder is None:
        yield from corpus_rows(model, corpus, progress)
        return
    path = text.folder / "text.safetensors"
    try:
        batches = _load(_Written, path).tokens.to(model.W_E.device).split(BATCH)
    except DataError as error:
        if _exists(path):
            logger.warning("writing the text for second moments again: %s", error)
        written = []
        for batch in corpus_rows(model, corpus, progress):
            written.append(batch)
            yield batch
        _kept(_Written(provenance=text.described, tokens=torch.cat(written)), path, stacklevel=2)
        return
    assert corpus.tokens is not None
    done = 0
    for batch in batches:
        yield batch
        done += batch.numel()
        if progress:
            progress(min(done, corpus.tokens), corpus.tokens)


def _load(cls: type[R], path: Path) -> R:
    """What the cache holds; what cannot be checked, or belongs to another layer or key, is made again."""
    return load_record(cls, path, unit=path.stem, run=path.parent.name, unhashed=False)


def _there(folder: Path | None, layers: Sequence[int], shrinkage: str | None) -> dict[int, SecondMoments]:
    """What the cache holds of some layers; of those to be shrunk without what lacks the sums, of earlier versions."""
    found = {layer: record for layer in layers if (record := _cached(folder, layer)) is not None}
    return {layer: record for layer, record in found.items() if shrinkage is None or record.ledoit_wolf}


@contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Wait for another process that estimates on the same text: what may take hours is done once, and then kept."""
    if folder is None:
        yield
        return
    with suppress(OSError):  # that it cannot be written is said when something is to be kept
        folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        yield


def _cached(folder: Path | None, layer: int) -> SecondMoments | None:
    path = None if folder is None else folder / f"layer-{layer}.safetensors"
    if path is None or not _exists(path):
        return None
    try:
        return _load(SecondMoments, path)
    except DataError as error:
        logger.warning("estimating the second moment of layer %d again: %s", layer, error)
        return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be entered
        return False
