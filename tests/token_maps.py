"""Made-up maps of tokens x layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from interp.locate.methods import locator_named
from interp.results.token_map import TokenMap


def a_map(
    values: torch.Tensor,
    tokens: Sequence[str] | None = None,
    subject_span: tuple[int, int] | None = None,
    *,
    locator: str = "resid",
    title: str = "t",
    unit: str = "u",
    **more: Any,
) -> TokenMap:
    """A map in the colours of a locator."""
    return TokenMap(
        locator=locator,
        title=title,
        unit=unit,
        hue=locator_named(locator).hue,
        values=values,
        tokens=tuple(tokens) if tokens is not None else tuple(f" {i}" for i in range(len(values))),
        subject_span=subject_span,
        **more,
    )
