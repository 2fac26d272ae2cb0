"""A map of one prompt: a value for each token and each layer, and how to read it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.errors import OptionError

__all__ = ["TokenMap"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenMap:
    """What a locator found in one prompt, as every figure, page, table and average takes it.

    Args:
        locator: The name of what it was found with.
        title: What it shows.
        unit: What a value means.
        hue: Of its colours, in degrees.
        values: NaN where there is none.
        tokens: The text of each token.
        subject_span: The subject's tokens, end exclusive; ``None`` to mark none.
        answer: What was located, if a heading is to say so.
        probability: Of the answer.

    Raises:
        OptionError: If the values do not fit the tokens, or the subject does not lie within them.
    """

    locator: str
    title: str
    unit: str
    hue: float
    values: Float[Tensor, "token layer"]
    tokens: tuple[str, ...]
    subject_span: tuple[int, int] | None
    answer: str | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        values, n = self.values, len(self.tokens)
        if values.ndim != 2 or 0 in values.shape or len(values) != n:
            raise OptionError(f"values of shape {tuple(values.shape)} do not fit {n} tokens; expected (tokens, layers)")
        start, end = self.subject_span or (0, n)
        if not 0 <= start < end <= n:
            raise OptionError(f"the subject span {(start, end)} does not lie within {n} tokens")
