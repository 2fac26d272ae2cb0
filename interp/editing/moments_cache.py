"""The cache of second moments: a file for each layer, read when it is asked for and not kept in memory.

C of one layer of GPT2-XL has 164 MB, and a study edits at dozens of layers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from interp.editing.null_space import NullSpace
from interp.editing.shrinkage import shrunk
from interp.errors import DataError, InterpWarning
from interp.results.record import Record, load_record, save_record
from interp.system.files import only_one

__all__ = ["Found", "MomentsByLayer", "SecondMoments", "alone", "cached", "keep", "layer_path", "load", "there"]

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SecondMoments(Record):
    """C by layer, with the corpus it was estimated on.

    Args:
        moments: C of each layer, float32. What :func:`~interp.editing.moments.second_moments` returns reads a layer
            from its cache each time it is asked for.
        corpus: Source, tokens, row length and seed, with the source's revision.
        n_tokens: Tokens that were averaged.
        held_out_error: Per layer of ``layers``: the share by which k^T C^-1 k of unseen tokens exceeds that of
            seen ones, from halves of the corpus (shrunk as C is); infinite where half of it leaves C singular.
        shrinkage: How ``moments`` were shrunk: None or ``"ledoit-wolf"``.
        ledoit_wolf: Per layer the share of the identity that Ledoit and Wolf's rule gives C (in ``moments`` only if
            ``shrinkage`` says so); empty in records of earlier versions.
        ledoit_wolf_error: Per layer the held-out error with that rule.
    """

    moments: Mapping[int, Float[Tensor, "d_mlp d_mlp"]]
    corpus: dict[str, Any]
    n_tokens: int
    layers: tuple[int, ...]
    held_out_error: tuple[float, ...]
    shrinkage: str | None = None
    ledoit_wolf: tuple[float, ...] = ()
    ledoit_wolf_error: tuple[float, ...] = ()

    @cached_property
    def spaces(self) -> dict[Any, NullSpace]:
        """Null spaces that were found of them: a decomposition takes ten times what a factor does."""
        return {}


@dataclass(frozen=True)
class Found:
    """One layer that was found in the cache or estimated.

    Args:
        record: All but its C.
        place: C, or the file that holds it.
    """

    record: SecondMoments
    place: Tensor | Path

    @classmethod
    def of(cls, record: SecondMoments, place: Tensor | Path) -> Found:
        """From the record of one layer, whose C goes."""
        return cls(replace(record, moments={}), place)


class MomentsByLayer(Mapping[int, Tensor]):
    """C by layer; what is in a file is read, and its content hash checked, each time it is asked for."""

    def __init__(self, places: Mapping[int, Tensor | Path], shares: Mapping[int, float]) -> None:
        """Of layers.

        Args:
            places: C of each, or the file that holds it.
            shares: How far to shrink it; layers that are not in it are taken as they are.
        """
        self._places, self._shares = dict(places), dict(shares)

    def __getitem__(self, layer: int) -> Float[Tensor, "d_mlp d_mlp"]:
        """C of one layer.

        Raises:
            DataError: If its file was removed or damaged since.
        """
        place = self._places[layer]
        if isinstance(place, Path):
            try:
                place = load(SecondMoments, place).moments[layer]
            except DataError as error:
                raise DataError(
                    f"the second moment of layer {layer}: {error}; second_moments makes it again"
                ) from error
        return shrunk(place, self._shares[layer]) if layer in self._shares else place

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def cached(folder: Path | None, layer: int) -> Found | None:
    """A layer that is in the cache, whole; None if it is to be estimated (logged where it is damaged)."""
    path = None if folder is None else layer_path(folder, layer)
    if path is None or not there(path):
        return None
    try:
        return Found.of(load(SecondMoments, path), path)
    except DataError as error:
        logger.warning("estimating the second moment of layer %d again: %s", layer, error)
        return None


@contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """Wait for another process that estimates on the same text: what may take hours is done once, and then kept."""
    if folder is None:
        yield
        return
    with suppress(OSError):  # that it cannot be written is said when something is to be kept
        folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        yield


def layer_path(folder: Path, layer: int) -> Path:
    """Where a layer is kept."""
    return folder / f"layer-{layer}.safetensors"


def load(cls: type[R], path: Path) -> R:
    """What the cache holds; what cannot be checked, or belongs to another layer or key, is made again."""
    return load_record(cls, path, unit=path.stem, run=path.parent.name, unhashed=False)


def keep(record: Record, path: Path, *, stacklevel: int) -> bool:
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


def there(path: Path) -> bool:
    """Whether the cache holds such a file; one that may not be looked into holds nothing."""
    try:
        return path.exists()
    except OSError:  # a folder that may not be entered
        return False
