"""Which layers a study edits: where each locator points to, where editors of several layers stand around it.

A locator points to the layer of its largest class-averaged value at the last subject token. Editors of one layer edit
that one. Editors of several begin there for attribution and end there for tracing, as in the paper (1: 1-5; 17: 13-17).
The control's layers are drawn for each case: of one layer from those of the layer sweep, of several from the windows
that begin at every such layer.

Every locator gets as many layers: a window that would reach beyond the model is moved into it, not cut (up to layer 2
are 0-4). Editing one layer or five is another edit, whoever chose them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig, window
from interp.editing.defaults import check_config
from interp.editing.methods import editor_named
from interp.errors import OptionError
from interp.locate.class_average import ClassAverage
from interp.locate.methods import locator_named
from interp.models.tokens import TOKEN_CLASSES

__all__ = [
    "LAST_SUBJECT",
    "config_at",
    "drawn_layers",
    "layer_span",
    "layers_around",
    "peak_layers",
    "placed_editors",
    "swept_layers",
]

LAST_SUBJECT = TOKEN_CLASSES.index("Last subject token")

Layers = tuple[int, ...]


def peak_layers(averages: Sequence[ClassAverage], locators: Sequence[str]) -> dict[str, int]:
    """The layer that each locator points to.

    Raises:
        OptionError: If a locator's map is missing, or has no value at the last subject token.
    """
    peaks = {average.method: average.peak[LAST_SUBJECT] for average in averages}
    for name in locators:
        if name not in peaks:
            raise OptionError(f"layers are chosen from the maps of {', '.join(locators)}; that of {name} is missing")
        if peaks[name] < 0:
            raise OptionError(f"{name} points to no layer: its map has no value at the last subject token")
    return {name: peaks[name] for name in locators}


def placed_editors(editors: Sequence[str]) -> tuple[str, ...]:
    """The editors that edit where a locator points; the others choose their layers.

    Raises:
        OptionError: If there is none.
    """
    placed = tuple(name for name in editors if editor_named(name).config.width)
    if not placed:
        raise OptionError(
            f"editors: {', '.join(editors)} choose their layers; expected one or more that edit where a locator points"
        )
    return placed


def layers_around(locator: str, editor: str, peak: int, n_layers: int) -> Layers:
    """The layers that an editor edits where a locator points to ``peak``."""
    width = editor_named(editor).config.width
    return window(peak if locator_named(locator).window == "from" else peak - width + 1, width, n_layers)


def swept_layers(editor: str, n_layers: int, stride: int) -> dict[int, Layers]:
    """The layer sweep: every such layer, and which layers an editor edits whose last one it is."""
    width = min(editor_named(editor).config.width, n_layers)
    return {last: window(last - width + 1, width, n_layers) for last in range(width - 1, n_layers, stride)}


def drawn_layers(
    n_cases: int, editors: Sequence[str], *, n_layers: int, stride: int, seed: int
) -> list[dict[str, Layers]]:
    """The control's layers of each case, by editor; editors of as many layers share them."""
    widths = {name: editor_named(name).config.width for name in editors}
    generator = np.random.default_rng(seed)
    starts = {
        width: generator.choice(range(0, max(1, n_layers - width + 1), stride), size=n_cases).tolist()
        for width in sorted(set(widths.values()))
    }
    return [
        {name: window(starts[width][case], width, n_layers) for name, width in widths.items()}
        for case in range(n_cases)
    ]


def config_at(model: HookedTransformer, editor: str, layers: Layers) -> EditConfig:
    """An editor's default settings at other layers; without any, where it edits by itself.

    Raises:
        OptionError: If a layer does not exist.
    """
    config = editor_named(editor).default(model)
    if layers:
        config = config.at(layers)
    check_config(model, editor, config)
    return config


def layer_span(layers: Sequence[int]) -> str:
    """Layers as text: ``17``, ``13-17``, ``1,2,4``; ``own`` where the editor chooses them."""
    if not layers:
        return "own"
    if list(layers) != list(range(layers[0], layers[-1] + 1)):
        return ",".join(map(str, layers))
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
