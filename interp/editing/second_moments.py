"""Second moments C = E[k k^T] of what enters W_out, for several layers in one pass over a corpus.

1. Run the corpus up to the highest wanted layer; a hook on ``mlp.hook_post`` of each wanted layer adds its tokens'
   k k^T. Sums of a few thousand tokens are float32, sums of these float64.
2. C is symmetric: only the blocks on and above the diagonal are computed (9/16 of the arithmetic).
3. Every other part is summed apart. C_a of the one half against the other says how far the number of tokens
   suffices: tr(C_a^-1 C_b) / d - 1, by how much k^T C^-1 k of unseen tokens exceeds that of seen ones, is 0 for
   endless text.

Text that the model writes itself is kept beside them: writing it is most of the time, and the next layer reads it.
The cache is content-addressed: weights, corpus and its revision, tokens, row length, seed, layer and number format.
A file in it that is damaged, or belongs elsewhere, is made again, which is logged.
Source: Meng et al. 2022, section 3.1 (there: 100,000 samples of Wikipedia).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.editing.corpora import BATCH, Corpus, corpus_rows
from interp.errors import DataError, NumericalError, OptionError
from interp.options import Progress
from interp.results import Provenance, Record, load_record, provenance, save_record

__all__ = ["SecondMoments", "accumulate", "second_moments"]

logger = logging.getLogger(__name__)

BLOCKS = 8
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SecondMoments(Record):
    """C by layer, with the corpus it was estimated on.

    Args:
        moments: C of each layer, float32.
        corpus: Source, tokens, row length and seed, with the source's revision.
        n_tokens: Tokens that were averaged.
        held_out_error: Per layer of ``layers``: the share by which k^T C^-1 k of unseen tokens exceeds that of
            seen ones, from halves of the corpus; infinite where half of it leaves C singular.
    """

    moments: dict[int, Float[Tensor, "d_mlp d_mlp"]]
    corpus: dict[str, Any]
    n_tokens: int
    layers: tuple[int, ...]
    held_out_error: tuple[float, ...]


def second_moments(
    model: HookedTransformer,
    layers: Sequence[int],
    corpus: Corpus | None = None,
    *,
    cache: str | Path | None = "",
    max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> SecondMoments:
    """Estimate the second moments of some layers.

    Args:
        model: The model.
        layers: Which layers.
        corpus: Which text; 20,000 tokens that the model samples from itself by default. More are better for wide
            MLPs: C of d_mlp neurons needs several times d_mlp tokens.
        cache: Folder of the cache; the user's cache folder by default, None for no cache.
        max_batch_tokens: The most tokens that go up the network at once (1,024 fit a CPU's caches; a GPU takes more).
        progress: Called with (tokens done, in all).

    Raises:
        OptionError: If a layer does not exist.
        DataError: If the corpus cannot be read or is too small.
        NumericalError: If there are fewer tokens than neurons, so that C is singular.
    """
    corpus = corpus or Corpus()
    wanted = tuple(sorted(set(layers)))
    d_mlp = model.cfg.d_mlp
    assert d_mlp is not None
    for layer in wanted:
        if not 0 <= layer < model.cfg.n_layers:
            raise OptionError(f"layer {layer} does not exist: the model has layers 0 to {model.cfg.n_layers - 1}")
    if not wanted:
        raise OptionError("second moments of no layer were asked for")
    if corpus.tokens < d_mlp:
        raise NumericalError(
            f"{corpus.tokens} tokens leave the second moment of {d_mlp} neurons singular: take at least {4 * d_mlp}"
        )
    described = provenance(model)
    key = {
        "weights": described.weights_hash,
        "dtype": described.dtype,
        "revision": corpus.revision(),
        **asdict(corpus),
    }
    folder = None
    if cache is not None:
        root = Path(cache) if cache else Path(platformdirs.user_cache_dir("interp")) / "second-moments"
        folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    found = {layer: record for layer in wanted if (record := _cached(folder, layer)) is not None}
    missing = [layer for layer in wanted if layer not in found]
    if missing:
        rows = _rows(model, corpus, folder, described, progress)
        sums, n_tokens = accumulate(model, missing, rows, max_batch_tokens=max_batch_tokens)
        for layer in missing:
            halves = sums.pop(layer)
            record = SecondMoments(
                provenance=described,
                moments={layer: (halves.sum(0) / n_tokens.sum()).float().cpu()},
                corpus={**asdict(corpus), "revision": str(key["revision"])},
                n_tokens=int(n_tokens.sum()),
                layers=(layer,),
                held_out_error=(_held_out_error(halves, n_tokens),),
            )
            if folder is not None:
                path = folder / f"layer-{layer}.safetensors"
                save_record(record, path, unit=path.stem, run=folder.name)
            found[layer] = record
    first = found[wanted[0]]
    return SecondMoments(
        provenance=described,
        moments={layer: found[layer].moments[layer] for layer in wanted},
        corpus=first.corpus,
        n_tokens=first.n_tokens,
        layers=wanted,
        held_out_error=tuple(found[layer].held_out_error[0] for layer in wanted),
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Written(Record):
    """Text that a model wrote, kept because writing it takes longer than reading it for one more layer."""

    tokens: Int[Tensor, "row token"]


def _rows(
    model: HookedTransformer,
    corpus: Corpus,
    folder: Path | None,
    described: Provenance,
    progress: Progress | None,
) -> Iterator[Int[Tensor, "row token"]]:
    """The corpus in its batches; what the model writes itself is kept for the next layers."""
    if corpus.source != "self" or folder is None:
        yield from corpus_rows(model, corpus, progress)
        return
    path = folder / "text.safetensors"
    try:
        batches = _load(_Written, path).tokens.to(model.W_E.device).split(BATCH)
    except DataError as error:
        if path.exists():
            logger.warning("writing the text for second moments again: %s", error)
        written = []
        for batch in corpus_rows(model, corpus, progress):
            written.append(batch)
            yield batch
        save_record(_Written(provenance=described, tokens=torch.cat(written)), path, unit=path.stem, run=folder.name)
        return
    done = 0
    for batch in batches:
        yield batch
        done += batch.numel()
        if progress:
            progress(min(done, corpus.tokens), corpus.tokens)


def _load(cls: type[R], path: Path) -> R:
    """What the cache holds; what cannot be checked, or belongs to another layer or key, is made again."""
    return load_record(cls, path, unit=path.stem, run=path.parent.name, unhashed=False)


def _cached(folder: Path | None, layer: int) -> SecondMoments | None:
    if folder is None or not (path := folder / f"layer-{layer}.safetensors").exists():
        return None
    try:
        return _load(SecondMoments, path)
    except DataError as error:
        logger.warning("estimating the second moment of layer %d again: %s", layer, error)
        return None


def accumulate(
    model: HookedTransformer,
    layers: Sequence[int],
    batches: Iterable[Int[Tensor, "row token"]],
    *,
    max_batch_tokens: int = 1024,
) -> tuple[dict[int, Float[Tensor, "half d_mlp d_mlp"]], Float[Tensor, "half"]]:
    """Sums of k k^T by layer, for the two halves of the rows, and the tokens in each.

    Raises:
        NumericalError: If an activation is not finite.
    """
    device, d_mlp = model.W_E.device, model.cfg.d_mlp
    assert d_mlp is not None
    # sums of thousands of products: float64 where the device has it
    wide = torch.float32 if device.type == "mps" else torch.float64
    sums = {layer: torch.zeros(2, d_mlp, d_mlp, dtype=wide, device=device) for layer in layers}
    counts = torch.zeros(2, dtype=torch.float64)
    recent = {layer: torch.zeros(d_mlp, d_mlp, device=device) for layer in layers}  # float32, of one part

    def add(value: Tensor, hook: HookPoint, *, layer: int) -> None:
        _add_gram(recent[layer], value.reshape(-1, value.shape[-1]).float())

    hooks: list[Any] = [(f"blocks.{layer}.mlp.hook_post", partial(add, layer=layer)) for layer in layers]
    half = 0
    for rows in batches:
        for part in rows.split(-(-len(rows) // 2)):
            for chunk in part.split(max(1, max_batch_tokens // rows.shape[1])):
                with torch.no_grad():
                    model.run_with_hooks(chunk, prepend_bos=False, stop_at_layer=max(layers) + 1, fwd_hooks=hooks)
            for layer in layers:
                sums[layer][half] += recent[layer]
                recent[layer].zero_()
            counts[half] += part.numel()
            half = 1 - half
    for layer in layers:
        for half_sum in sums[layer]:
            half_sum.triu_()  # within a block on the diagonal, a matrix product need not be symmetric to the bit
            half_sum += half_sum.triu(1).T
        if not torch.isfinite(sums[layer].sum()):  # any NaN or infinity survives a sum
            raise NumericalError(f"the activations that enter W_out of layer {layer} are not finite")
    return sums, counts


def _add_gram(total: Tensor, keys: Float[Tensor, "token d_mlp"]) -> None:
    """Add K^T K to the upper blocks of ``total``; the rest follows by symmetry."""
    for first, last in _blocks(keys.shape[1]):
        total[first:last, first:].addmm_(keys[:, first:last].T, keys[:, first:])


def _blocks(d_mlp: int) -> list[tuple[int, int]]:
    edges = [round(i * d_mlp / BLOCKS) for i in range(BLOCKS + 1)]
    return [(first, last) for first, last in pairwise(edges) if last > first]


def _held_out_error(halves: Tensor, n_tokens: Tensor) -> float:
    """tr(C_a^-1 C_b) / d - 1, averaged over the two ways round."""
    errors = []
    for a, b in ((0, 1), (1, 0)):
        if not n_tokens[a] or not n_tokens[b]:
            return float("inf")
        factor, failed = torch.linalg.cholesky_ex((halves[a] / n_tokens[a]).double())
        if int(failed):
            return float("inf")
        solved = torch.cholesky_solve((halves[b] / n_tokens[b]).double(), factor)
        errors.append(float(solved.diagonal().mean()) - 1)
    return sum(errors) / len(errors)
