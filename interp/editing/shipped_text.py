"""Text that a model has written already, shipped with the package: for second moments, nothing needs to be written.

Writing 20,000 tokens takes minutes, and another machine may write others: sampling follows the last bits of logits. A
shipped text is what :mod:`interp.editing.corpora` samples from these weights with these settings (``python -m
benchmarks.write_text`` makes it again and compares); numbers that rest on it rest on the same text everywhere.

It is taken for the very weights (by their hash) and the very corpus (source, row length, seed, first words), or for the
first rows of it where fewer tokens are asked for: no row depends on the others. In all else the model writes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.editing.corpora import Corpus
from interp.errors import DataError
from interp.results.record import Provenance
from interp.system.files import write_atomically

__all__ = ["SHIPPED", "ShippedText", "load_text", "save_text", "shipped_text"]

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "data"
SHIPPED: Mapping[str, str] = {"8d52113edd5fc7abd995fe0ebf60de0c": "smollm2-135m.npz"}
"""The file of each text, by the hash of the weights that wrote it."""


@dataclass(frozen=True, eq=False)
class ShippedText:
    """A text and where it comes from.

    Args:
        tokens: The rows.
        corpus: The settings that it was written with, and the revision of the first words.
        provenance: Of the model that wrote it: name, weights, number format, device, versions.
    """

    tokens: Int[Tensor, "row token"]
    corpus: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def revision(self) -> str:
        """What records call it: a hash of its tokens."""
        return f"shipped-{_hash(self.tokens)[:16]}"

    def first(self, corpus: Corpus) -> ShippedText | None:
        """The rows that a corpus asks for; None if it is not this text, or wants more."""
        asked = {**asdict(corpus), "revision": corpus.revision()}
        wanted, there = asked.pop("tokens"), self.corpus["tokens"]
        if asked != {name: value for name, value in self.corpus.items() if name != "tokens"} or wanted > there:
            return None
        n_rows = -(-wanted // self.tokens.shape[1])
        return ShippedText(self.tokens[:n_rows], self.corpus, self.provenance)


def shipped_text(weights_hash: str, corpus: Corpus) -> ShippedText | None:
    """The text that comes with the package for these weights and this corpus; None if there is none.

    Args:
        weights_hash: Of the unedited model.
        corpus: With a number of tokens.
    """
    name = SHIPPED.get(weights_hash)
    if name is None or corpus.source != "self":
        return None
    try:
        text = load_text(FOLDER / name)
    except DataError as error:
        logger.warning("the model writes its text for second moments itself: %s", error)
        return None
    return text.first(corpus) if text.provenance["weights_hash"] == weights_hash else None


def load_text(path: Path) -> ShippedText:
    """Read a text that :func:`save_text` wrote.

    Raises:
        DataError: If the file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            tokens = torch.from_numpy(stored["tokens"].astype(np.int64))
            about = json.loads(str(stored["about"]))
            text, hashed = ShippedText(tokens, about["corpus"], about["provenance"]), about["sha256"]
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable text: {error!r}") from error
    if (found := _hash(tokens)) != hashed:
        raise DataError(f"{path} is damaged: its tokens have the hash {found}, expected {hashed}")
    return text


def save_text(path: Path, tokens: Int[Tensor, "row token"], corpus: Corpus, described: Provenance) -> None:
    """Write a text and where it comes from as a compressed file of numpy's (npz).

    Args:
        path: Where to.
        tokens: What the model wrote.
        corpus: With a number of tokens.
        described: The model.

    Raises:
        DataError: If the place cannot be written.
    """
    about = {
        "corpus": {**asdict(corpus), "revision": corpus.revision()},
        "provenance": asdict(described),
        "sha256": _hash(tokens),
    }
    kind = np.uint16 if int(tokens.max()) < 2**16 else np.uint32
    written = io.BytesIO()
    np.savez_compressed(written, tokens=tokens.cpu().numpy().astype(kind), about=np.array(json.dumps(about)))
    write_atomically(path, written.getvalue())


def _hash(tokens: Tensor) -> str:
    """Of the token ids alone, however they are stored."""
    return hashlib.sha256(tokens.cpu().numpy().astype("<u4").tobytes()).hexdigest()
