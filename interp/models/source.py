"""Where a model's weights come from, where its name does not say it: a GGUF file, an adapter, an object.

It is kept with the model, as plain JSON, and goes into the provenance of whatever is computed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformer_lens import HookedTransformer
from transformers import PreTrainedModel

__all__ = ["Opened", "keep_source", "said_of", "source_of"]

_SOURCE = "interp_source"
"""The attribute under which a model keeps it."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A Hugging Face model and its tokenizer, on the CPU.

    Args:
        model, tokenizer: Both.
        source: Where the weights come from; empty where the name says it.
    """

    model: PreTrainedModel
    tokenizer: Any
    source: Mapping[str, Any] = field(default_factory=dict)


def keep_source(model: HookedTransformer, source: Mapping[str, Any]) -> None:
    """Note where a model's weights come from."""
    if source:
        model.__dict__[_SOURCE] = dict(source)


def source_of(model: HookedTransformer) -> dict[str, Any]:
    """Where a model's weights come from; empty where its name says it."""
    return dict(model.__dict__.get(_SOURCE, {}))


def said_of(source: Mapping[str, Any]) -> str:
    """The same in one line; empty where there is nothing to say."""
    kind = source.get("kind")
    return _SAID[kind](source) if kind in _SAID else ""


def _gguf(source: Mapping[str, Any]) -> str:
    formats = ", ".join(f"{count} {name}" for name, count in source["quantisation"].items())
    return f"dequantised to {source['dequantised']} from {source['file']} (tensors: {formats})"


def _adapter(source: Mapping[str, Any]) -> str:
    below = said_of(source["base_source"])
    return (
        f"{source['peft_type']} adapter {source['adapter']}, merged into {source['base']} with weights"
        f" {source['base_weights'][:8]}" + (f" ({below})" if below else "")
    )


def _quantised(source: Mapping[str, Any]) -> str:
    return f"dequantised from {source['quant_method']}"


def _object(source: Mapping[str, Any]) -> str:
    return f"copied from a {source['class']} ({source['name_or_path'] or 'without a name'})"


def _hooked(source: Mapping[str, Any]) -> str:
    processed = ", ".join(source["processed"])
    return "a HookedTransformer as it was given" + (f", processed: {processed}" if processed else "")


_SAID = {
    "gguf": _gguf,
    "adapter": _adapter,
    "quantised": _quantised,
    "transformers": _object,
    "HookedTransformer": _hooked,
}
