"""What each editor is told, with the published defaults of known models and a rule for all others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformer_lens import HookedTransformer

from interp.errors import OptionError
from interp.options import check_choice, check_positive

__all__ = [
    "METHODS",
    "EditConfig",
    "FtConfig",
    "KnConfig",
    "MemitConfig",
    "PmetConfig",
    "RomeConfig",
    "TargetConfig",
    "check_config",
    "default_config",
]

METHODS = ("rome", "r-rome", "memit", "pmet", "ft-l", "kn")


def _check_numbers(config: object, **bounds: tuple[float, float]) -> None:
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise OptionError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


def _check_layers(layers: object) -> None:
    whole = isinstance(layers, tuple) and all(isinstance(x, int) and not isinstance(x, bool) for x in layers)
    if not whole or not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:  # type: ignore[call-overload, index]
        raise OptionError(f"layers must be a tuple of rising whole numbers from 0, got {layers!r}")


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """How a target value is optimised (ROME, section 3.1; defaults: GPT2-XL).

    Args:
        steps: Evaluations of the loss; one Adam step fewer.
        learning_rate: Of Adam.
        weight_decay: Times |delta| / |v0|^2 is added to the loss.
        clamp: delta is projected onto the ball of this radius, in units of |v0|.
        kl_weight: Of the divergence from the initial prediction after "{subject} is a".
        stop_loss: The optimisation ends below this loss.
    """

    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl_weight: float = 0.0625
    stop_loss: float = 0.05

    def __post_init__(self) -> None:
        check_positive(steps=self.steps)
        _check_numbers(
            self,
            learning_rate=(1e-9, 1e3),
            weight_decay=(0, 1e6),
            clamp=(1e-9, 1e6),
            kl_weight=(0, 1e6),
            stop_loss=(0, 1e6),
        )


@dataclass(frozen=True, kw_only=True)
class RomeConfig(TargetConfig):
    """ROME and R-ROME: one layer."""

    layer: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_layers((self.layer,))


@dataclass(frozen=True, kw_only=True)
class SpreadConfig(TargetConfig):
    """What is spread over several layers, and the weight of their second moments against the new keys."""

    layers: tuple[int, ...]
    clamp: float = 0.75
    second_moment_weight: float = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_layers(self.layers)
        _check_numbers(self, second_moment_weight=(1e-9, 1e9))


@dataclass(frozen=True, kw_only=True)
class MemitConfig(SpreadConfig):
    """MEMIT (defaults: GPT2-XL)."""


@dataclass(frozen=True, kw_only=True)
class PmetConfig(SpreadConfig):
    """PMET (defaults: its own for GPT-J)."""

    steps: int = 30
    learning_rate: float = 0.2
    kl_weight: float = 1.0
    second_moment_weight: float = 6_000


@dataclass(frozen=True, kw_only=True)
class FtConfig:
    """FT-L: fine-tune one W_out, no entry moving further than ``limit``.

    Args:
        layer: The layer.
        steps, learning_rate: Of Adam.
        limit: Radius of the L-infinity ball around the original weights.
        stop_loss: The optimisation ends below this loss.
    """

    layer: int
    steps: int = 25
    learning_rate: float = 5e-4
    limit: float = 5e-4
    stop_loss: float = 0.01

    def __post_init__(self) -> None:
        check_positive(steps=self.steps)
        _check_layers((self.layer,))
        _check_numbers(self, learning_rate=(1e-12, 1e3), limit=(1e-12, 1e3), stop_loss=(0, 1e6))


@dataclass(frozen=True, kw_only=True)
class KnConfig:
    """Knowledge neurons (Dai et al. 2022, section 4): scale their value vectors, or move them to the new answer.

    Args:
        threshold, share: Of :func:`interp.refined_neurons`, over the fact's prompt and its paraphrases.
        attribution_steps: Gauss-Legendre nodes of the attribution scores.
        scale: The neurons' rows of W_out are multiplied by this: 1 leaves, 0 erases, 2 doubles.
        remove, insert: How often the unembedding direction of the old answer is subtracted from them, and that of
            the new one added (the paper's 1 and 8).
        max_neurons: The highest-scoring neurons at most.
    """

    threshold: float = 0.2
    share: float = 0.7
    attribution_steps: int = 8
    scale: float = 1.0
    remove: float = 1.0
    insert: float = 8.0
    max_neurons: int = 20

    def __post_init__(self) -> None:
        check_positive(attribution_steps=self.attribution_steps, max_neurons=self.max_neurons)
        _check_numbers(self, threshold=(1e-9, 1), share=(1e-9, 1), scale=(-1e3, 1e3), remove=(0, 1e6), insert=(0, 1e6))


EditConfig = RomeConfig | MemitConfig | PmetConfig | FtConfig | KnConfig

_CONFIGS: dict[str, type] = {
    "rome": RomeConfig,
    "r-rome": RomeConfig,
    "memit": MemitConfig,
    "pmet": PmetConfig,
    "ft-l": FtConfig,
    "kn": KnConfig,
}

_PUBLISHED: dict[str, tuple[int, tuple[int, int], float, float]] = {
    # ROME's layer, MEMIT's first and last, second-moment weights of MEMIT and PMET
    "gpt2-xl": (17, (13, 17), 20_000, 20_000),
    "gpt-j-6b": (5, (3, 8), 15_000, 6_000),
    "llama-2-7b": (5, (4, 8), 15_000, 15_000),
    "llama-3.1-8b": (5, (4, 8), 15_000, 15_000),
}


def default_config(model: HookedTransformer, method: str, layer: int | None = None) -> EditConfig:
    """The published settings of a known model, or the rule for others.

    The rule: ROME edits at the relative depth of GPT2-XL's layer 17 of 48, in models with gated MLPs at that of
    Llama's layer 5 of 32; MEMIT and PMET edit the five layers that end there. The second moment weighs 3 d_mlp
    (GPT2-XL: 20,000 at d_mlp 6,400). What is optimised stays as published for GPT2-XL.

    Args:
        model: The model.
        method: One of :data:`METHODS`.
        layer: Edit here instead (MEMIT, PMET: the last of five layers).

    Raises:
        OptionError: If the method does not exist.
    """
    check_choice("method", method, METHODS)
    name = model.cfg.model_name.rsplit("/", 1)[-1].lower().removesuffix("-hf")
    n_layers, d_mlp = model.cfg.n_layers, model.cfg.d_mlp
    assert d_mlp is not None
    if name in _PUBLISHED:
        at, (first, last), memit_weight, pmet_weight = _PUBLISHED[name]
    else:
        depth = 5 / 32 if model.cfg.gated_mlp else 17 / 48
        at = min(n_layers - 1, math.floor(depth * n_layers + 0.5))
        first, last = max(0, at - 4), at
        memit_weight = pmet_weight = 3.0 * d_mlp
    if layer is not None:
        at, first, last = layer, max(0, layer - 4), layer
    layers = tuple(range(first, last + 1))
    if method in ("rome", "r-rome"):
        return RomeConfig(layer=at)
    if method == "memit":
        return MemitConfig(layers=layers, second_moment_weight=memit_weight)
    if method == "pmet":
        return PmetConfig(layers=layers, second_moment_weight=pmet_weight)
    return FtConfig(layer=at) if method == "ft-l" else KnConfig()


def check_config(model: HookedTransformer, method: str, config: EditConfig) -> None:
    """Refuse a config of another method, or with a layer that the model does not have.

    Raises:
        OptionError: Naming the layer and the model's number of layers.
    """
    check_choice("method", method, METHODS)
    if type(config) is not _CONFIGS[method]:
        raise OptionError(f"{method} takes a {_CONFIGS[method].__name__}, got a {type(config).__name__}")
    layers = config_layers(config)
    for layer in layers:
        if layer >= model.cfg.n_layers:
            raise OptionError(
                f"layer {layer} does not exist: {model.cfg.model_name} has layers 0 to {model.cfg.n_layers - 1}"
            )


def config_layers(config: EditConfig) -> tuple[int, ...]:
    """The layers that a config names (none for knowledge neurons, which choose theirs)."""
    if isinstance(config, RomeConfig | FtConfig):
        return (config.layer,)
    return config.layers if isinstance(config, SpreadConfig) else ()
