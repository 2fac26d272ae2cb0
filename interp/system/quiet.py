"""Silence where libraries draw progress bars of their own, which say neither what for nor how long in all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

__all__ = ["without_bars"]


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers while it reads, converts or writes a model; afterwards they are as they were."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    shown, convert = logging.is_progress_bar_enabled(), gguf.tqdm
    logging.disable_progress_bar()
    reader: Any = gguf
    reader.tqdm = partial(convert, disable=True)  # the one that takes no notice of the setting
    try:
        yield
    finally:
        reader.tqdm = convert
        if shown:
            logging.enable_progress_bar()
