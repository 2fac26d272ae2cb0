"""What each editor is told. What it is told by default is in :mod:`interp.editing.published`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformer_lens import HookedTransformer

from interp.errors import OptionError
from interp.options import check_choice, check_layers, check_positive, python_numbers, real_number, whole_number

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
    "config_layers",
]

METHODS = ("rome", "r-rome", "memit", "pmet", "ft-l", "kn")


def _check_numbers(config: object, **bounds: tuple[float, float]) -> None:
    for name, (low, high) in bounds.items():
        real_number(name, getattr(config, name), low, high)


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
        origin: Where the settings come from: ``"given"``, ``"rule"`` (a guess for a model that nobody published any
            for), or which model they were published for. It does not count when configs are compared.
    """

    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl_weight: float = 0.0625
    stop_loss: float = 0.05
    origin: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        python_numbers(self)
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
        whole_number("layer", self.layer, least=0)


@dataclass(frozen=True, kw_only=True)
class SpreadConfig(TargetConfig):
    """What is spread over several layers, and the weight of their second moments against the new keys.

    Args:
        layers: Rising; any sequence of whole numbers.
        second_moment_weight: Times C is added to K K^T.
    """

    layers: tuple[int, ...]
    clamp: float = 0.75
    second_moment_weight: float = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers("layers", self.layers))
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
        origin: See :class:`TargetConfig`.
    """

    layer: int
    steps: int = 25
    learning_rate: float = 5e-4
    limit: float = 5e-4
    stop_loss: float = 0.01
    origin: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        python_numbers(self)
        check_positive(steps=self.steps)
        whole_number("layer", self.layer, least=0)
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
        origin: See :class:`TargetConfig`.
    """

    threshold: float = 0.2
    share: float = 0.7
    attribution_steps: int = 8
    scale: float = 1.0
    remove: float = 1.0
    insert: float = 8.0
    max_neurons: int = 20
    origin: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        python_numbers(self)
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
