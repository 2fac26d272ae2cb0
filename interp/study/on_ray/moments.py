"""Second moments by several workers: each estimates a part of the layers, and the driver's cache keeps them for all.

The text that a model writes itself is written once, with the lowest layer, and then read by all. A worker's cache is a
folder of its own, as long as it estimates: what comes into it travels to the driver, and from there to the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.corpora import Corpus
from interp.editing.moments import SecondMoments, moments_folder
from interp.editing.moments_cache import keep, layer_path, load, there
from interp.results.record import Record, load_record
from interp.study.workers import Bench, Job

__all__ = ["Gathering", "moments_by_workers"]

T = TypeVar("T")


@runtime_checkable
class Gathering(Protocol):
    """Workers who do jobs that are no units of a study."""

    def __len__(self) -> int:
        """How many."""

    def share(self, value: T) -> Callable[[], T]:
        """See :class:`~interp.study.workers.Workers`."""

    def gather(
        self, jobs: Iterable[Job], keep: Callable[[str, Record], None], report: Callable[[float, str], None]
    ) -> None:
        """Do jobs, whose records are kept by a call, and how far they are is told to another."""


def moments_by_workers(
    workers: Gathering,
    estimate: Callable[..., SecondMoments],
    model: HookedTransformer,
    layers: Sequence[int],
    corpus: Corpus,
    progress: Callable[[int, int], None],
) -> SecondMoments:
    """Second moments for jobs of workers, each layer of which travels to those who need it.

    Args:
        workers: Who.
        estimate: :func:`~interp.editing.moments.second_moments`.
        model: The driver's, whose weights say where the cache keeps them.
        layers, corpus: Which, with a number of tokens.
        progress: Called with (tokens done, in all).
    """
    folder = moments_folder(model, corpus)
    missing = [layer for layer in layers if not there(layer_path(folder, layer))]
    n_missing, tokens = max(1, len(missing)), corpus.tokens or 0

    def kept(unit: str, record: Record) -> None:
        keep(record, folder / f"{unit}.safetensors", stacklevel=2)

    while missing:
        # who comes first writes the text; that is done with the lowest layer alone, so that the others need not wait
        parts = _parts(missing, len(workers)) if _texts(folder) else [missing[:1]]
        done = n_missing - len(missing)

        def report(part: float, label: str, done: int = done) -> None:
            progress(int((done + part) / n_missing * tokens), tokens)

        texts = workers.share({path.stem: load(Record, path) for path in _texts(folder)})
        workers.gather([_Estimate(estimate, part, corpus, texts) for part in parts], kept, report)
        missing = missing[sum(map(len, parts)) :]
    found = estimate(model, layers, corpus, progress=progress)
    shared = {layer: workers.share(C.numpy()) for layer, C in found.moments.items()}
    return replace(found, moments=_Shared(shared))


def _texts(folder: Path) -> list[Path]:
    """What the cache keeps beside second moments."""
    return [path for path in sorted(folder.glob("[!.]*.safetensors")) if not path.name.startswith("layer-")]


def _parts(layers: Sequence[int], count: int) -> list[list[int]]:
    """Layers in so many parts of neighbours, as who estimates one has run the model up to it."""
    ends = [len(layers) * part // count for part in range(count + 1)]
    return [list(layers[first:end]) for first, end in pairwise(ends) if end > first]


@dataclass(frozen=True)
class _Estimate:
    """Second moments of some layers, in a cache that lasts as long."""

    estimate: Callable[..., SecondMoments]
    layers: Sequence[int]
    corpus: Corpus
    texts: Callable[[], Mapping[str, Record]]
    label: str = "second moments"

    @property
    def size(self) -> int:
        return len(self.layers)

    def __call__(self, bench: Bench) -> None:
        def progress(part: int, whole: int) -> None:
            bench.report(self.size * part / whole, self.label)

        with tempfile.TemporaryDirectory(prefix="interp-second-moments-") as cache:
            folder = moments_folder(bench.model, self.corpus, cache)
            texts = self.texts()
            for unit, record in texts.items():
                keep(record, folder / f"{unit}.safetensors", stacklevel=2)
            self.estimate(bench.model, self.layers, self.corpus, cache=cache, progress=progress)
            for path in sorted(folder.glob("[!.]*.safetensors")):
                if path.stem not in texts:
                    bench.keep(path.stem, load_record(Record, path))


class _Shared(Mapping[int, Tensor]):
    """C by layer; a worker fetches one when it needs it."""

    def __init__(self, layers: Mapping[int, Callable[[], ndarray[Any, Any]]]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, layer: int) -> Float[Tensor, "d_mlp d_mlp"]:
        return torch.tensor(self._layers[layer]())

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)
