"""The paper's Table 1, as printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PAPER_TABLE1", "PaperRow"]


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of the paper's Table 1.

    Args:
        locator: What pointed to the layers.
        method: The editor.
        layers: Which layers, as text.
        numbers: As printed, by measure: scores in percent, fluency in bits x 100.
    """

    locator: str
    method: str
    layers: str
    numbers: Mapping[str, float]


PAPER_TABLE1 = (
    PaperRow(
        locator="Attribution score", method="rome", layers="1",
        numbers={"reliability": 65.58, "locality": 56.91, "portability": 27.23, "fluency": 493.46, "score": 43.14},
    ),
    PaperRow(
        locator="Attribution score", method="memit", layers="1-5",
        numbers={"reliability": 48.31, "locality": 87.98, "portability": 31.65, "fluency": 596.52, "score": 47.13},
    ),
    PaperRow(
        locator="Causal tracing", method="rome", layers="17",
        numbers={"reliability": 99.88, "locality": 67.83, "portability": 35.04, "fluency": 577.19, "score": 56.29},
    ),
    PaperRow(
        locator="Causal tracing", method="memit", layers="13-17",
        numbers={"reliability": 64.35, "locality": 81.89, "portability": 32.12, "fluency": 593.56, "score": 50.95},
    ),
)  # fmt: skip
"""GPT2-XL on ZsRE, from Table 1 of Chun & Hur, "Comparative Analysis of Techniques for Locating Knowledge Editing in
Language Models: Integrated Gradients vs. Causal Tracing"; the layers from its section 4. It prints neither intervals
nor the number of cases nor generality."""
