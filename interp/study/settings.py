"""The settings of a study: how facts are located, and what is edited where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from interp.editing.corpora import Corpus
from interp.editing.methods import EDITORS
from interp.engine.corruption import CORRUPTIONS, Corruption
from interp.engine.integrated_gradients import RULES, Rule
from interp.errors import OptionError, excerpt
from interp.locate.methods import LOCATORS
from interp.options import check_choice, check_noise, check_positive, check_seed, whole_number
from interp.study import paper
from interp.system.tables import check_names

__all__ = ["PRESETS", "EditStudySettings", "LocateSettings"]


@dataclass(frozen=True, kw_only=True)
class LocateSettings:
    """Everything that the numbers of Figure 1 depend on, besides the model and the facts.

    Args:
        locators: Their names; by default every one that there is.
        samples, window, corruption, seed: Of causal tracing.
        noise: Standard deviation, or ``"3sigma"`` over all facts that were given.
        attribution_tokens: ``"all"`` tokens on one joint path, or ``"each"`` by itself (several times slower).
        steps, rule: Of the quadrature.
        limit: How many known facts to take; all if None.
        selection_seed: Of the order in which facts are tried.
    """

    locators: tuple[str, ...] = field(default_factory=lambda: tuple(LOCATORS))
    samples: int = 10
    window: int = 10
    corruption: Corruption = "gaussian"
    noise: float | Literal["3sigma"] = "3sigma"
    seed: int = 1
    attribution_tokens: Literal["all", "each"] = "all"
    steps: int = 20
    rule: Rule = "riemann"
    limit: int | None = 12
    selection_seed: int = 0

    def __post_init__(self) -> None:
        check_names("locators", self.locators, LOCATORS)
        check_positive(samples=self.samples, window=self.window, steps=self.steps)
        check_choice("corruption", self.corruption, CORRUPTIONS)
        check_noise(self.noise)
        check_seed(self.seed)
        check_seed(self.selection_seed)
        check_choice("attribution_tokens", self.attribution_tokens, ("all", "each"))
        check_choice("rule", self.rule, RULES)
        if self.limit is not None:
            check_positive(limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class EditStudySettings:
    """Everything that Table 1 depends on, besides the model, the cases and the located layers.

    Args:
        editors: Every case is edited with each of these. The first is also that of the layer sweep, and what is
            located again was edited with it.
        locators: Whose layers are edited; the paper's by default.
        located_again: The locators that are run before and after one edit.
        limit: How many cases, in their order; all if None.
        stride: The layer sweep edits every such layer.
        context_kinds: (tokens, texts) of the contexts that the model writes.
        corpus: Of the second moments.
        fluency_tokens: Tokens that are sampled for fluency.
        seed: Of the contexts, the control's layers, the sampling and the bootstrap.
        layers: The layer of each locator, instead of the one that it points to.
    """

    editors: tuple[str, ...] = paper.EDITORS
    locators: tuple[str, ...] = paper.LOCATORS
    located_again: tuple[str, ...] = paper.LOCATED_AGAIN
    limit: int | None = 12
    stride: int = 3
    context_kinds: tuple[tuple[int, int], ...] = ((10, 5),)
    corpus: Corpus = field(default_factory=Corpus)
    fluency_tokens: int = 100
    seed: int = 0
    layers: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        check_names("editors", self.editors, EDITORS)
        check_names("locators", self.locators, LOCATORS)
        check_names("located_again", self.located_again, LOCATORS)
        check_positive(stride=self.stride, fluency_tokens=self.fluency_tokens)
        if self.limit is not None:
            check_positive(limit=self.limit)
        check_seed(self.seed)
        if self.layers is not None:
            self._check_layers(self.layers)

    def _check_layers(self, layers: object) -> None:
        if not isinstance(layers, Mapping):
            raise OptionError(f"layers must map locators to their layers, got {layers!r}")
        if set(layers) != set(self.locators):
            given = ", ".join(excerpt(name) for name in layers)
            raise OptionError(f"layers must be given for {', '.join(self.locators)}, got those of {given or 'none'}")
        for name, layer in layers.items():
            whole_number(f"layers: {name}", layer, least=0)


PRESETS: Mapping[str, EditStudySettings] = {
    "default": EditStudySettings(),
    "paper": EditStudySettings(
        limit=None,
        context_kinds=((5, 10), (10, 10)),
        corpus=Corpus(source="hub:wikimedia/wikipedia:20231101.en", tokens=10_000_000, row=512),
        layers=paper.PAPER_LAYERS,
    ),
}
"""``paper``: its layers of GPT2-XL, ROME's contexts, Wikipedia, every case."""
