"""The settings that an editor takes by default: those published for a model, or a rule for all others.

A model is recognised by its name and its size: the last part of the name without what only says how it was tuned or
stored (``-hf``, ``-chat``, ``-Instruct``, ...), so a tuned model takes the settings of the model it was tuned from.

Sources: ROME's and MEMIT's repositories (GPT2-XL, GPT-J), PMET's (GPT-J), EasyEdit's (Llama 2, Llama 3.2, Mistral,
Qwen 2.5; ROME on Llama 3), AlphaEdit's (MEMIT on Llama 3). EasyEdit publishes ROME without second moments; here they
are used unless ``second_moments="identity"`` is given. Its fine-tuning of Llama has no limit, so it is no FT-L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from transformer_lens import HookedTransformer

from interp.editing.config import METHODS, EditConfig, FtConfig, KnConfig, MemitConfig, PmetConfig, RomeConfig
from interp.errors import OptionError
from interp.options import check_choice, whole_number

__all__ = ["default_config"]

TUNED = frozenset({"hf", "chat", "instruct", "base", "it"})
"""Parts of a name that say how a model was tuned or stored, not which it is."""


@dataclass(frozen=True)
class _Published:
    """What was published for a model of some size."""

    n_layers: int
    d_mlp: int
    rome: RomeConfig
    memit: MemitConfig
    pmet: PmetConfig | None = None
    ft_l: FtConfig | None = None


_LLAMA_ROME = RomeConfig(layer=5, steps=25, weight_decay=1e-3)
_LLAMA_MEMIT = MemitConfig(layers=(4, 5, 6, 7, 8), steps=25, clamp=4, weight_decay=1e-3, second_moment_weight=15_000)
_LLAMA_3 = _Published(
    32, 14_336, _LLAMA_ROME,
    MemitConfig(layers=(4, 5, 6, 7, 8), steps=25, learning_rate=0.1, second_moment_weight=15_000),
)  # fmt: skip
_PUBLISHED = {
    "gpt2-xl": _Published(
        48, 6400, RomeConfig(layer=17), MemitConfig(layers=(13, 14, 15, 16, 17)), ft_l=FtConfig(layer=0)
    ),
    "gpt-j-6b": _Published(
        28,
        16_384,
        RomeConfig(layer=5),
        MemitConfig(layers=(3, 4, 5, 6, 7, 8), steps=25, second_moment_weight=15_000),
        PmetConfig(layers=(3, 4, 5, 6, 7, 8)),
        FtConfig(layer=0, limit=5e-5),
    ),
    "llama-2-7b": _Published(
        32,
        11_008,
        _LLAMA_ROME,
        _LLAMA_MEMIT,
        PmetConfig(
            layers=(4, 5, 6, 7, 8), steps=20, learning_rate=0.5, clamp=1, kl_weight=0.0625, second_moment_weight=15_000
        ),
    ),
    "llama-3-8b": _LLAMA_3,
    "llama-3.1-8b": _LLAMA_3,  # the same architecture; published for it: AlphaEdit, with the same target values
    "llama-3.2-3b": _Published(28, 8192, _LLAMA_ROME, _LLAMA_MEMIT),
    "mistral-7b-v0.1": _Published(32, 14_336, _LLAMA_ROME, _LLAMA_MEMIT),
    "qwen2.5-7b": _Published(28, 18_944, _LLAMA_ROME, _LLAMA_MEMIT),
}


def default_config(model: HookedTransformer, method: str, layer: int | None = None) -> EditConfig:
    """The published settings of a known model, or a rule's for others; the config's ``origin`` says which.

    The rule: ROME edits at the relative depth of GPT2-XL's layer 17 of 48, in models with gated MLPs at that of
    Llama's layer 5 of 32; MEMIT and PMET edit the five layers that end there. The second moment weighs 3 d_mlp
    (GPT2-XL: 20,000 at d_mlp 6,400). What is optimised stays as published for GPT2-XL (PMET: GPT-J). Where only PMET
    was not published for a model, it takes the layers and the weight of MEMIT; where only FT-L was not, ROME's layer.

    Args:
        model: The model.
        method: One of :data:`METHODS`.
        layer: Edit here instead (MEMIT, PMET: the last of five layers). Knowledge neurons choose their layers.

    Raises:
        OptionError: If the method does not exist, or takes no layer.
    """
    check_choice("method", method, METHODS)
    if method == "kn":
        if layer is not None:
            raise OptionError(f"kn takes no layer, got {layer!r}: knowledge neurons are where attribution finds them")
        return KnConfig(origin="published")
    name = _known(model)
    found: EditConfig | None = None
    if name is not None:
        found = getattr(_PUBLISHED[name], {"r-rome": "rome", "ft-l": "ft_l"}.get(method, method))
    config = replace(found, origin=f"published for {name}") if found is not None else _by_rule(model, method, name)
    if layer is None:
        return config
    layer = whole_number("layer", layer, least=0)
    origin = f"{config.origin}; layer given"
    if isinstance(config, MemitConfig | PmetConfig):
        return replace(config, layers=tuple(range(max(0, layer - 4), layer + 1)), origin=origin)
    assert isinstance(config, RomeConfig | FtConfig)
    return replace(config, layer=layer, origin=origin)


def _known(model: HookedTransformer) -> str | None:
    """The name under which a model's settings were published: its own, if its size fits too."""
    parts = model.cfg.model_name.rstrip("/").rsplit("/", 1)[-1].lower().removeprefix("meta-").split("-")
    name = "-".join(part for part in parts if part not in TUNED)
    published = _PUBLISHED.get(name)
    fits = published is not None and (model.cfg.n_layers, model.cfg.d_mlp) == (published.n_layers, published.d_mlp)
    return name if fits else None


def _by_rule(model: HookedTransformer, method: str, name: str | None) -> EditConfig:
    cfg = model.cfg
    assert cfg.d_mlp is not None
    if name is not None:
        at, layers = _PUBLISHED[name].rome.layer, _PUBLISHED[name].memit.layers
        weight = _PUBLISHED[name].memit.second_moment_weight
    else:
        depth = 5 / 32 if cfg.gated_mlp else 17 / 48
        at = min(cfg.n_layers - 1, math.floor(depth * cfg.n_layers + 0.5))
        layers, weight = tuple(range(max(0, at - 4), at + 1)), 3.0 * cfg.d_mlp
    if method in ("rome", "r-rome"):
        return RomeConfig(layer=at, origin="rule")
    if method == "ft-l":
        return FtConfig(layer=at, origin="rule")
    make = MemitConfig if method == "memit" else PmetConfig
    return make(layers=layers, second_moment_weight=weight, origin="rule")
