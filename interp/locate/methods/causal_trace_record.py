"""What causal tracing found: the answer's probability, or another metric of it, in every restored run.

The metrics are those of Meng et al. 2022 (probability) and Zhang & Nanda 2023 (logit difference).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interp.engine.cells import STATE_NAMES
from interp.facts.records import Fact
from interp.options import check_choice
from interp.results.mapped import MapRecord
from interp.results.token_map import TokenMap
from interp.system.readable import number, probability, token_label

__all__ = ["HUES", "CausalTrace"]

_METRIC_NAMES = {"probability": "P(answer)", "log_probability": "log P(answer)", "logit_difference": "logit difference"}
HUES: Mapping[str, float] = {"resid": 300.0, "mlp": 150.0, "attn": 25.0}
"""Of the maps, by state."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CausalTrace(MapRecord):
    """What :func:`~interp.locate.methods.causal_trace.causal_trace` found, per token and layer.

    Args:
        scores: The metric after restoring a cell, averaged over samples.
        standard_error: Of the indirect effect over samples; NaN for a single sample.
        clean_score, corrupted_score: The metric in the clean and in the corrupted run.
        clean_probability, corrupted_probability: The answer's probability in them, whatever the metric.
        tokens: The text of each token.
        subject_span: The subject's tokens, end exclusive.
        answer, answer_id: The token whose probability is traced: the first of the target, or the model's own
            top answer if the fact has no target.
        top_answer: What the model answers in the clean run.
        known: Whether that is the answer; only such facts belong into an average.
        foil, foil_id: What the logit difference compares with: the answer under corruption.
        replacements: The subjects that replaced this one (symmetric corruption).
        noise: Standard deviation (half the width, if uniform) of the noise; 0 for symmetric corruption.
    """

    fact: Fact
    scores: Float[Tensor, "token layer"]
    standard_error: Float[Tensor, "token layer"]
    clean_score: float
    corrupted_score: float
    clean_probability: float
    corrupted_probability: float
    tokens: tuple[str, ...]
    subject_span: tuple[int, int]
    answer: str
    answer_id: int
    top_answer: str
    known: bool
    foil: str | None
    foil_id: int | None
    replacements: tuple[str, ...]
    state: str
    window: int
    samples: int
    noise: float
    seed: int
    corruption: str
    replace: bool
    metric: str
    sever: str | None

    @property
    def indirect_effect(self) -> Float[Tensor, "token layer"]:
        """Restored minus corrupted (Meng et al. 2022, section 2.1)."""
        return self.scores - self.corrupted_score

    @property
    def total_effect(self) -> float:
        """Clean minus corrupted."""
        return self.clean_score - self.corrupted_score

    @property
    def restored(self) -> str:
        """What a cell restores, in words."""
        return STATE_NAMES[self.state] + ("" if self.state == "resid" else f", window of {self.window}")

    @property
    def heading(self) -> str:
        """The fact that was traced."""
        return f"Causal trace of “{self.fact.prompt}” → “{token_label(self.answer)}”"

    def remarks(self) -> tuple[str, ...]:
        """What was restored, how the subject was corrupted, and the answer in both runs."""
        if self.corruption == "symmetric":
            corruption = f"{self.samples} other subject(s)"
        else:
            corruption = f"{self.samples} samples of {self.corruption} noise {number(self.noise)}"
        return (
            f"{self.restored}; P(answer) {probability(self.clean_probability)} clean,"
            f" {probability(self.corrupted_probability)} corrupted ({corruption})"
            + ("" if self.known else f"; the model answers “{token_label(self.top_answer)}”"),
        )

    def map(self, values: Literal["indirect_effect", "scores"] = "indirect_effect") -> TokenMap:
        """The indirect effects, or the metric itself in the restored runs, by token and layer.

        Raises:
            OptionError: If ``values`` is neither of the two.
        """
        check_choice("values", values, ("indirect_effect", "scores"))
        what = _METRIC_NAMES[self.metric]
        return TokenMap(
            locator=self.state,
            title=f"Causal tracing: {self.restored}",
            unit=f"indirect effect on {what}" if values == "indirect_effect" else what,
            hue=HUES[self.state],
            values=self.indirect_effect if values == "indirect_effect" else self.scores,
            tokens=self.tokens,
            subject_span=self.subject_span,
            answer=self.answer,
            probability=self.clean_probability,
        )
