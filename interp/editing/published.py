"""Models that editors' settings were published for, where each was edited, and the rule for all others.

A model is recognised by its name and its size: the last part of the name without what only says how it was tuned or
stored (``-hf``, ``-chat``, ``-Instruct``, ...), so a tuned model takes the settings of the model it was tuned from.

The rule for other models: ROME's layer is at the relative depth of GPT2-XL's layer 17 of 48, in models with gated MLPs
at that of Llama's layer 5 of 32; the layers of MEMIT are the five that end there. The second moment weighs 3 d_mlp
(GPT2-XL: 20,000 at d_mlp 6,400).

Sources: ROME's and MEMIT's repositories (GPT2-XL, GPT-J), PMET's (GPT-J), EasyEdit's (Llama 2, Llama 3.2, Mistral,
Qwen 2.5; ROME on Llama 3), AlphaEdit's (MEMIT on Llama 3). EasyEdit publishes ROME without second moments; here they
are used unless ``second_moments="identity"`` is given. Its fine-tuning of Llama has no limit, so it is no FT-L.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig

__all__ = ["LIKE_LLAMA", "LLAMA_3", "RULE", "Places", "places", "published_or_rule"]

RULE = "rule"
"""The origin of settings that nobody published for a model."""

TUNED = frozenset({"hf", "chat", "instruct", "base", "it"})
"""Parts of a name that say how a model was tuned or stored, not which it is."""


@dataclass(frozen=True)
class Places:
    """Where a model is edited.

    Args:
        layer: By editors of one layer.
        layers: By editors of several.
        second_moment_weight: Of the second moments against the new keys, where a change is spread.
        known: The name of the model that this was published for; None: by the rule.
    """

    layer: int
    layers: tuple[int, ...]
    second_moment_weight: float
    known: str | None = None


LLAMA_3 = ("llama-3-8b", "llama-3.1-8b")  # one architecture
LIKE_LLAMA = ("llama-2-7b", "llama-3.2-3b", "mistral-7b-v0.1", "qwen2.5-7b")
_MIDDLE = (5, (4, 5, 6, 7, 8), 15_000)
# name: layers, d_mlp, (layer of one, layers of several, weight of the second moments)
_KNOWN: Mapping[str, tuple[int, int, tuple[int, tuple[int, ...], float]]] = {
    "gpt2-xl": (48, 6400, (17, (13, 14, 15, 16, 17), 20_000)),
    "gpt-j-6b": (28, 16_384, (5, (3, 4, 5, 6, 7, 8), 15_000)),
    "llama-2-7b": (32, 11_008, _MIDDLE),
    "llama-3-8b": (32, 14_336, _MIDDLE),
    "llama-3.1-8b": (32, 14_336, _MIDDLE),
    "llama-3.2-3b": (28, 8192, _MIDDLE),
    "mistral-7b-v0.1": (32, 14_336, _MIDDLE),
    "qwen2.5-7b": (28, 18_944, _MIDDLE),
}


def places(model: HookedTransformer) -> Places:
    """Where a model is edited: as published for it, or by the rule."""
    cfg = model.cfg
    assert cfg.d_mlp is not None
    name = "-".join(part for part in _parts(cfg.model_name) if part not in TUNED)
    n_layers, d_mlp, where = _KNOWN.get(name, (None, None, None))
    if where is not None and (cfg.n_layers, cfg.d_mlp) == (n_layers, d_mlp):
        return Places(*where, known=name)
    depth = 5 / 32 if cfg.gated_mlp else 17 / 48
    at = min(cfg.n_layers - 1, math.floor(depth * cfg.n_layers + 0.5))
    return Places(at, tuple(range(max(0, at - 4), at + 1)), 3.0 * cfg.d_mlp)


def _parts(model_name: str) -> list[str]:
    return model_name.rstrip("/").rsplit("/", 1)[-1].lower().removeprefix("meta-").split("-")


Config = TypeVar("Config", bound=EditConfig)


def published_or_rule(
    model: HookedTransformer, published: Mapping[str, Config], rule: Callable[[Places], Config]
) -> Config:
    """An editor's settings that were published for a model, or those that it takes by a rule.

    Args:
        model: The model.
        published: By the model's name.
        rule: For all others, from where the model is edited.

    Returns:
        Settings whose ``origin`` says which of the two they are.
    """
    where = places(model)
    if where.known is not None and where.known in published:
        return published[where.known].from_(f"published for {where.known}")
    return rule(where).from_(RULE)
