"""Text for second moments: what the model writes itself, a text file, or a data set on a hub; as rows of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.generation import generate
from interp.errors import DataError, InterpError, OptionError
from interp.facts.sources import check_hub_name, hub_failure, read_text, shorten
from interp.models.tokens import encode
from interp.options import Progress, check_positive, check_seed, python_numbers

__all__ = ["BATCH", "Corpus", "corpus_rows"]

OPENINGS = (
    "The history of the", "In recent years, the", "A new study of", "When the war ended", "It is well known that",
    "I have always wanted to", "You will need a", "One of the most", "Many years ago, in", "Once upon a time",
    "After the end of", "As a result of", "This article is about", "They lived in the", "He was born in",
    "She is best known for", "There are many kinds of", "What is the best way", "How do you make", "For the first time",
    "On the other hand", "At the beginning of the", "People who live in", "Some of the first", "If you want to",
    "While the city of", "Scientists have found that", "My favorite book is", "We went to the", "During the winter of",
    "Most animals in the", "To understand why the", "From the top of", "Because of its", "Although it is often",
    "The president of the", "The company was founded", "The film tells the", "The river flows through",
    "Last week, the",
)  # fmt: skip
_LINE_END = "\n"
LEAST_TOKENS = 20_000
BATCH = 160
"""Rows a batch: many, because a step of sampling reads all weights for few rows too; more gain nothing on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus and how much of it.

    Args:
        source: ``"self"``: text that the model samples from itself; a path of a text file; or ``"hub:NAME"`` /
            ``"hub:NAME:CONFIG"``: the ``text`` field of a data set's train split, streamed.
        tokens: How many tokens; None for ten of each neuron of the model's MLPs, and 20,000 at least (see
            :meth:`sized`).
        row: Tokens a row; text is cut into rows of this length (the BOS token, where a model takes one, counts).
        seed: Of the sampling, for ``"self"``.
    """

    source: str = "self"
    tokens: int | None = None
    row: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        python_numbers(self)
        if not isinstance(self.source, str):
            raise OptionError(f"a corpus is 'self', a path or 'hub:NAME', got {self.source!r}")
        check_positive(row=self.row)
        if self.tokens is not None:
            check_positive(tokens=self.tokens)
        check_seed(self.seed)

    def sized(self, d_mlp: int) -> Corpus:
        """The corpus with its number of tokens: C of d_mlp neurons takes ten tokens a neuron.

        More gain little: from there on, edits keep at least 95% of what endless text would give them (published for
        models of several sizes).
        """
        return self if self.tokens is not None else replace(self, tokens=max(LEAST_TOKENS, 10 * d_mlp))

    def revision(self) -> str:
        """What else the tokens depend on: the first words of what is sampled, a file's bytes, a data set's revision.

        Raises:
            DataError: If the file cannot be read.
        """
        if self.source == "self":
            return "sampled-" + hashlib.sha256(repr(OPENINGS).encode()).hexdigest()[:16]
        if self.source.startswith("hub:"):
            return _hub_revision(self.source)
        return hashlib.sha256(_read(Path(self.source)).encode()).hexdigest()[:16]


def corpus_rows(
    model: HookedTransformer, corpus: Corpus, progress: Progress | None = None
) -> Iterator[Int[Tensor, "row token"]]:
    """Rows of tokens, in batches.

    Args:
        model: The model whose tokens they are (and that writes them, for ``"self"``).
        corpus: Which text.
        progress: Called with (tokens so far, in all).

    Raises:
        DataError: If the source cannot be read or has too little text (says how much it has).
    """
    assert model.cfg.d_mlp is not None
    wanted = corpus.sized(model.cfg.d_mlp).tokens
    assert wanted is not None
    length = min(corpus.row, model.cfg.n_ctx)
    n_rows = -(-wanted // length)
    if corpus.source == "self":
        for first in range(0, n_rows, BATCH):
            rows = range(first, min(first + BATCH, n_rows))
            yield _written(model, rows, length, corpus.seed, partial(_so_far, progress, rows, length, wanted))
            if progress:
                progress(min(rows.stop * length, wanted), wanted)
        return
    texts = _hub_texts(corpus.source) if corpus.source.startswith("hub:") else [_read(Path(corpus.source))]
    pending: list[list[int]] = []
    done = 0
    for ids in islice(_cut(model, texts, length), n_rows):
        pending.append(ids)
        if len(pending) == BATCH:
            yield torch.tensor(pending, device=model.W_E.device)
            done, pending = done + len(pending), []
            if progress:
                progress(min(done * length, wanted), wanted)
    if done + len(pending) < n_rows:
        raise DataError(
            f"{corpus.source}: has {(done + len(pending)) * length} tokens in rows of {length}, {wanted} were asked for"
        )
    if pending:
        yield torch.tensor(pending, device=model.W_E.device)
    if progress:
        progress(wanted, wanted)


def _so_far(progress: Progress | None, rows: range, length: int, wanted: int, done: int, steps: int) -> None:
    """Every token that is written is a step, at which the caller hears of it and can stop the work."""
    if progress:
        progress(min(int(length * (rows.start + len(rows) * done / steps)), wanted), wanted)


def _written(
    model: HookedTransformer, rows: range, length: int, seed: int, progress: Progress
) -> Int[Tensor, "row token"]:
    openings = [encode(model, opening) for opening in OPENINGS]
    shortest = min(len(opening) for opening in openings)  # of all, so that no row depends on the others of its batch
    if length <= shortest:
        raise DataError(f"rows of {length} tokens leave the model nothing to write")
    prompts = [openings[row % len(openings)][:shortest] for row in rows]
    seeds = [(seed * 1_000_003 + row) % 2**32 for row in rows]
    added = generate(model, prompts, length - shortest, top_k=None, seeds=seeds, progress=progress)
    return torch.cat([torch.tensor(prompts, device=added.device), added], 1)


def _cut(model: HookedTransformer, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """All texts, one after the other, in rows of equal length."""
    start = encode(model, "")  # the BOS token, if there is one
    row = list(start)
    for text in texts:
        for ids in _token_lines(model, text):
            for token in ids:
                row.append(token)
                if len(row) == length:
                    yield row
                    row = list(start)


def _token_lines(model: HookedTransformer, text: str) -> Iterator[list[int]]:
    """The tokens of each line as it follows another one: without the mark that SentencePiece puts before a text."""
    skip = len(encode(model, ""))
    before = encode(model, _LINE_END)
    first = True
    for line in text.splitlines(keepends=True):
        if not line.strip():
            continue
        ids = [] if first else encode(model, _LINE_END + line)
        follows = not first and ids[: len(before)] == before
        yield ids[len(before) :] if follows else encode(model, line)[skip:]
        first = False


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except DataError as error:
        hint = " (nor 'self' or 'hub:NAME')" if isinstance(error.__cause__, FileNotFoundError) else ""
        raise DataError(f"corpus {error}{hint}") from error


def _hub_texts(source: str) -> Iterator[str]:
    name, _, config = source.removeprefix("hub:").partition(":")
    check_hub_name(name)
    import datasets

    try:
        for record in datasets.load_dataset(name, config or None, split="train", streaming=True):
            yield record["text"]
    except (InterpError, MemoryError):
        raise
    except Exception as error:  # whatever a foreign data set makes the library raise
        raise DataError(hub_failure(source.removeprefix("hub:"), error)) from error


def _hub_revision(source: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    name = source.removeprefix("hub:").partition(":")[0]
    check_hub_name(name)
    try:
        return str(HfApi().dataset_info(name).sha)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 200)
        raise DataError(f"{source}: the Hugging Face hub cannot be asked for its revision: {reason}") from error
