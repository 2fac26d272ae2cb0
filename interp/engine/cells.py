"""Cells: a state of the model at one token and layer, the unit that is restored, patched and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from interp.engine.base_runs import Site
from interp.errors import OptionError
from interp.options import check_choice, check_positive, python_numbers

__all__ = ["SITES", "STATES", "STATE_NAMES", "Cell", "State", "check_cells", "window_layers"]

State = Literal["resid", "mlp", "attn"]

STATES: tuple[State, ...] = ("resid", "mlp", "attn")
STATE_NAMES: Mapping[str, str] = {"resid": "residual stream", "mlp": "MLP outputs", "attn": "attention outputs"}
SITES: Mapping[str, Site] = {"mlp": "mlp_out", "attn": "attn_out"}
"""Where a sublayer's output stands."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A state at one token.

    Args:
        token: Position in the prompt.
        layer: The layer; for windows, their centre (:func:`window_layers`).
        state: The residual stream after the block, or the MLP or attention outputs of ``window`` blocks.
        window: Number of blocks; 1 for ``resid``.

    Raises:
        OptionError: If the state does not exist, or the residual stream has a window.
    """

    token: int
    layer: int
    state: State = "resid"
    window: int = 1

    def __post_init__(self) -> None:
        python_numbers(self)
        check_choice("state", self.state, STATES)
        check_positive(window=self.window)
        if self.state == "resid" and self.window != 1:
            raise OptionError(f"the residual stream is restored after one block, got a window of {self.window}")


def check_cells(cells: Sequence[Cell], n_tokens: int, n_layers: int) -> None:
    """Refuse cells that a prompt does not have.

    Raises:
        OptionError: If there are none, or one lies outside (names it).
    """
    if not cells:
        raise OptionError("cells is empty; expected at least one")
    for number, cell in enumerate(cells):
        for name, at, count in (("token", cell.token, n_tokens), ("layer", cell.layer, n_layers)):
            if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < count:
                raise OptionError(f"cell {number}: {name} {at!r} does not exist: there are {name}s 0 to {count - 1}")


def window_layers(layer: int, window: int, n_layers: int) -> range:
    """The blocks that are restored together around ``layer``: from l - window//2, ``window`` of them, clipped.

    As published: ``max(0, l - window // 2) .. min(n_layers, l - (-window // 2)) - 1``.
    """
    return range(max(0, layer - window // 2), min(n_layers, layer - (-window // 2)))
