"""The paper's study, which is the default: what it locates and edits with, and where it edits GPT2-XL.

Source: Chun & Hur, "Comparative Analysis of Techniques for Locating Knowledge Editing in Language Models: Integrated
Gradients vs. Causal Tracing", sections 3 and 4; its results are :data:`interp.plots.PAPER_TABLE1`.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EARLIER_LOCATORS", "EARLIER_UNITS", "EDITORS", "LOCATED_AGAIN", "LOCATORS", "MAPS", "PAPER_LAYERS"]

MAPS = ("attribution", "resid", "mlp", "attn")
"""The locators of Figure 1."""

LOCATORS = ("attribution", "mlp")
"""Those whose layers are edited; of causal tracing the one of MLP outputs, as these are what is edited."""

EDITORS = ("rome", "memit")

LOCATED_AGAIN = ("resid", "attribution")
"""The locators that are run once more on an edited model."""

PAPER_LAYERS: Mapping[str, int] = {"attribution": 1, "mlp": 17}
"""The layers that the paper's locators point to in GPT2-XL; MEMIT edits 1-5 and 13-17 there."""

EARLIER_LOCATORS: Mapping[str, str] = {"attribution": "attribution", "mlp": "tracing"}
"""What the records of earlier versions call them."""

EARLIER_UNITS: Mapping[str, str] = {"resid": "trace", "attribution": "attribution"}
"""How earlier versions named the records of what was located again."""
