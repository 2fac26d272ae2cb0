"""Every number of every editor's settings has bounds: both are taken, what lies beyond either is refused by name."""

import dataclasses
import math

import pytest

from interp.editing import FtConfig, KnConfig, MemitConfig, PmetConfig, RomeConfig
from interp.errors import OptionError
from interp.options import MOST

LAYER, LAYERS = {"layer": 0}, {"layers": (0,)}
TARGET = {
    "learning_rate": (1e-9, 1e3),
    "weight_decay": (0, 1e6),
    "clamp": (1e-9, 1e6),
    "kl_weight": (0, 1e6),
    "stop_loss": (0, 1e6),
}
BOUNDS = {
    RomeConfig: (LAYER, TARGET),
    MemitConfig: (LAYERS, {**TARGET, "second_moment_weight": (1e-9, 1e9)}),
    PmetConfig: (
        LAYERS,
        {
            **TARGET,
            "second_moment_weight": (1e-9, 1e9),
            "weight_on_top": (0, 1e6),
            "divergence_on_top": (0, 1e6),
        },
    ),
    FtConfig: (LAYER, {"learning_rate": (1e-12, 1e3), "limit": (1e-12, 1e3), "stop_loss": (0, 1e6)}),
    KnConfig: (
        {},
        {"threshold": (1e-9, 1), "share": (1e-9, 1), "scale": (-1e3, 1e3), "remove": (0, 1e6), "insert": (0, 1e6)},
    ),
}
COUNTS = {
    RomeConfig: ("steps",),
    MemitConfig: ("steps",),
    PmetConfig: ("steps",),
    FtConfig: ("steps",),
    KnConfig: ("attribution_steps", "max_neurons"),
}
CASES = [
    pytest.param(make, needed, name, low, high, id=f"{make.__name__}-{name}")
    for make, (needed, bounds) in BOUNDS.items()
    for name, (low, high) in bounds.items()
]


@pytest.mark.parametrize(("make", "needed", "name", "low", "high"), CASES)
def test_bounds(make, needed, name, low, high):
    for value in (low, high):
        assert getattr(make(**needed, **{name: value}), name) == value
    for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan):
        with pytest.raises(OptionError, match=f"^{name} must be a number from"):
            make(**needed, **{name: value})


@pytest.mark.parametrize("make", BOUNDS)
def test_counts(make):
    needed, _ = BOUNDS[make]
    for name in COUNTS[make]:
        assert getattr(make(**needed, **{name: 1}), name) == 1
        with pytest.raises(OptionError, match=f"^{name} must be a positive whole number, got 0"):
            make(**needed, **{name: 0})
        if name in MOST:
            most, _ = MOST[name]
            assert getattr(make(**needed, **{name: most}), name) == most
            with pytest.raises(OptionError, match=f"^{name} must be at most"):
                make(**needed, **{name: most + 1})


@pytest.mark.parametrize("make", BOUNDS)
def test_nothing_is_left_without_bounds(make):
    named = {field.name for field in dataclasses.fields(make)} - {"layer", "layers", "origin"}
    assert named == {*BOUNDS[make][1], *COUNTS[make]}
