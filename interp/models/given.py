"""Models that are loaded already: what is checked of them before they are used.

A model of transformers is copied: its own weights, its number format and its tokenizer stay as they are. A
HookedTransformer is taken as it is, and what was done to its weights is noted: folded norms and centred weights change
no logit, so states, scores and edits of it are exact, for this model; a patch of it cannot be exported, for the
published model has other weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformer_lens import HookedTransformer
from transformers import PreTrainedModel

from interp.errors import ModelError, OptionError, excerpt
from interp.models.config import checked_family
from interp.models.folder import check_vocabulary
from interp.models.source import Opened, keep_source
from interp.models.tokens import front_tokens
from interp.models.weights import processing

__all__ = ["checked_hooked", "name_of", "opened_object"]


def name_of(model: nn.Module) -> str:
    """What a model that is loaded already calls itself: the name it came from, or its class."""
    return str(getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__)


def opened_object(model: nn.Module, tokenizer: Any) -> Opened:
    """A model of transformers and its tokenizer, checked; both are still the caller's own.

    Raises:
        OptionError: If it is of another kind, or there is no tokenizer.
        ModelError: If its architecture or a setting is not supported, its weights are quantised, not there, or not
            only those of its class (adapters beside them).
    """
    if not isinstance(model, PreTrainedModel):
        raise OptionError(
            "a model is a name, a folder, a file, a model of transformers or a HookedTransformer, got a"
            f" {type(model).__module__.split('.')[0]} {type(model).__name__} (an adapter beside a model: give its"
            " folder, or merge_and_unload() first)"
        )
    if tokenizer is None:
        raise OptionError(f"a {type(model).__name__} comes without its tokenizer: load_model(model, tokenizer=...)")
    kind = type(model).__name__
    try:
        config = copy.deepcopy(model.config)
        config.architectures = [kind]
        checked_family(config)
        check_vocabulary(tokenizer, config)
        with torch.device("meta"):
            expected = {name for name, _ in type(model)(config).named_parameters()}
        found = dict(model.named_parameters())
        if other := sorted(set(found) ^ expected):
            raise ModelError(
                f"its weights are not those of a {kind} alone: {other[0]} and {len(other) - 1} more (adapters beside"
                " them? merge_and_unload() first)"
            )
        if away := [name for name, weight in found.items() if weight.is_meta]:
            raise ModelError(f"weight {away[0]} is not in memory: load the model without offloading")
    except ModelError as error:
        raise ModelError(f"the {kind} that was given: {error}") from error
    source = {"kind": "transformers", "class": kind, "name_or_path": str(model.config.name_or_path)}
    return Opened(model=model, tokenizer=copy.deepcopy(tokenizer), source=source)


def checked_hooked(
    model: HookedTransformer, tokenizer: Any, dtype: torch.dtype | str, device: torch.device | None
) -> HookedTransformer:
    """The same HookedTransformer, with a note of what was done to its weights.

    Raises:
        OptionError: If it is in another number format or on another device than asked for, for it is not moved; or if
            a tokenizer is given.
        ModelError: If it has no tokenizer, or one that does not fit.
    """
    if tokenizer is not None:
        raise OptionError("tokenizer would do nothing: a HookedTransformer has its own (model.set_tokenizer)")
    name, weight = model.cfg.model_name, model.W_E
    if dtype not in ("auto", weight.dtype):
        raise OptionError(
            f"dtype must be that of the HookedTransformer, {weight.dtype}, got {dtype}: it is not converted"
            ' (dtype="auto" takes it as it is)'
        )
    if device is not None and device.type != weight.device.type:
        raise OptionError(f"device must be that of the HookedTransformer, {weight.device}, got {device}")
    tokenizer = model.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise ModelError(f"{name} has no tokenizer that knows character offsets (model.set_tokenizer)")
    beyond = [text for text, token in tokenizer.get_vocab().items() if token >= model.cfg.d_vocab]
    if beyond:
        raise ModelError(f"{name}: token {excerpt(beyond[0])} of its tokenizer is beyond d_vocab {model.cfg.d_vocab}")
    source = {
        "kind": "HookedTransformer",
        "class": type(model).__name__,
        "processed": list(processing(model)),
        "front": [str(tokenizer.convert_ids_to_tokens(token)) for token in front_tokens(tokenizer)],
    }
    keep_source(model, source)
    return model
