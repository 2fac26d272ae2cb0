"""What every editor's settings have, and those of editors that optimise a target value.

An editor's own settings stand in its file below :mod:`interp.editing.methods`; what they are by default in a known
model comes from :mod:`interp.editing.published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from interp.errors import OptionError
from interp.options import check_layers, check_positive, python_numbers, real_number

__all__ = ["AtOneLayer", "EditConfig", "OverLayers", "SpreadConfig", "TargetConfig", "check_numbers", "window"]

C = TypeVar("C", bound="EditConfig")


def check_numbers(config: object, **bounds: tuple[float, float]) -> None:
    """Refuse fields that are no numbers within their bounds (both included).

    Raises:
        OptionError: Naming the field.
    """
    for name, (low, high) in bounds.items():
        real_number(name, getattr(config, name), low, high)


def window(first: int, width: int, n_layers: int) -> tuple[int, ...]:
    """So many layers from the first, moved into a model of ``n_layers``; fewer if it has fewer."""
    first = max(0, min(first, n_layers - width))
    return tuple(range(first, min(first + width, n_layers)))


class EditConfig:
    """The settings of an editor: each has a frozen dataclass of its own, which says at which layers it edits.

    Attributes:
        origin: Where the settings come from: ``"given"``, ``"rule"`` (a guess for a model that nobody published any
            for), which model they were published for, or with what layers were measured. It does not count when
            configs are compared.
        width: How many layers a study gives the editor; 0: it chooses its layers.
    """

    origin: str
    width: ClassVar[int] = 0

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers that these settings name; none where the editor chooses its layers."""
        return ()

    def at(self: C, layers: Sequence[int]) -> C:
        """The same settings at other layers; an editor of one layer edits the last of them.

        Raises:
            OptionError: If the editor chooses its layers.
        """
        raise OptionError(f"a {type(self).__name__} names no layers, got {layers!r}")

    def up_to(self: C, layer: int) -> C:
        """The same settings so that ``layer`` is the last that is edited.

        Raises:
            OptionError: If the editor chooses its layers.
        """
        return self.at((layer,))

    def from_(self: C, origin: str) -> C:
        """The same settings with another origin."""
        return self._with(origin=origin)

    def _with(self: C, **changes: Any) -> C:
        return replace(self, **changes)  # type: ignore[type-var]


class AtOneLayer(EditConfig):
    """Settings of an editor of one layer."""

    layer: int
    width: ClassVar[int] = 1

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layer."""
        return (self.layer,)

    def at(self: C, layers: Sequence[int]) -> C:
        """The same settings at the last of these layers."""
        return self._with(layer=layers[-1])


@dataclass(frozen=True, kw_only=True)
class TargetConfig(EditConfig):
    """How a target value is optimised (ROME, section 3.1; defaults: GPT2-XL).

    Args:
        steps: Evaluations of the loss; one Adam step fewer.
        learning_rate: Of Adam.
        weight_decay: Times ``|delta| / |v0|^2`` is added to the loss.
        clamp: delta is projected onto the ball of this radius, in units of ``|v0|``.
        kl_weight: Of the divergence from the initial prediction after "{subject} is a".
        stop_loss: The optimisation ends below this loss.
        origin: See :class:`EditConfig`.
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
        check_numbers(
            self,
            learning_rate=(1e-9, 1e3),
            weight_decay=(0, 1e6),
            clamp=(1e-9, 1e6),
            kl_weight=(0, 1e6),
            stop_loss=(0, 1e6),
        )

    def once_on_top(self) -> tuple[float, float] | None:
        """What changes for a request whose target is the top answer in every context; None: nothing.

        Returns:
            The factor of its NLL from then on, and the weighted divergence at or below which it ends.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class OverLayers(TargetConfig):
    """Settings of an editor that spreads a change over layers.

    Args:
        layers: Rising; any sequence of whole numbers.
    """

    layers: tuple[int, ...]
    clamp: float = 0.75
    width: ClassVar[int] = 5  # as published for GPT2-XL

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers("layers", self.layers))

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers."""
        return self.layers

    def at(self: C, layers: Sequence[int]) -> C:
        """The same settings at these layers."""
        return self._with(layers=tuple(layers))

    def up_to(self: C, layer: int) -> C:
        """The same settings at the ``width`` layers that end there, fewer near the first layer."""
        return self.at(range(max(0, layer + 1 - self.width), layer + 1))


@dataclass(frozen=True, kw_only=True)
class SpreadConfig(OverLayers):
    """What is spread over layers, and the weight of their second moments against the new keys.

    Args:
        second_moment_weight: Times C is added to K K^T.
    """

    second_moment_weight: float = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, second_moment_weight=(1e-9, 1e9))
