"""What a study of edited layers sets out to do: settings, the layers of each locator, the names of its units.

Attribution and tracing each point to the layer of the largest class-averaged value at the last subject token
(tracing: of MLP outputs, which is what is edited). ROME edits that layer. MEMIT's five layers begin there for
attribution and end there for tracing, as in the paper (1: 1-5; 17: 13-17). The control's ROME layer is drawn for each
case from those of the layer sweep, its MEMIT window from those that begin at every such layer.

Every locator gets as many layers: a window that would reach beyond the model is moved into it, not cut (tracing's at
layer 2 is 0-4). Editing one layer or five is another edit, whoever chose them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig
from interp.editing.corpora import Corpus
from interp.editing.defaults import check_config, default_config
from interp.errors import DataError, OptionError
from interp.locate.class_average import ClassAverage
from interp.models.tokens import TOKEN_CLASSES
from interp.options import check_positive, check_seed
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips

__all__ = [
    "LAST_SUBJECT",
    "LOCATORS",
    "PAPER_LAYERS",
    "PRESETS",
    "EditStudySettings",
    "LayerChoice",
    "Plan",
    "case_unit",
    "choose_layers",
    "config_at",
    "draw_control",
    "finished",
    "layer_span",
    "layers_of",
    "layers_text",
    "read_plan",
    "unit_name",
]

LAST_SUBJECT = TOKEN_CLASSES.index("Last subject token")
WINDOW = 5  # MEMIT's layers, as published for GPT2-XL
LOCATORS = {"attribution": "Attribution score", "tracing": "Causal tracing", "random": "Random layer (control)"}


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """The layers that a locator points to."""

    rome: int
    memit: tuple[int, ...]


PAPER_LAYERS: Mapping[str, LayerChoice] = {
    "attribution": LayerChoice(rome=1, memit=(1, 2, 3, 4, 5)),
    "tracing": LayerChoice(rome=17, memit=(13, 14, 15, 16, 17)),
}
"""What the paper edits in GPT2-XL."""


@dataclass(frozen=True, kw_only=True)
class EditStudySettings:
    """Everything that Table 1 depends on, besides the model, the cases and the located layers.

    Args:
        limit: How many cases, in their order; all if None.
        stride: The layer sweep edits every such layer.
        context_kinds: (tokens, texts) of the contexts that the model writes.
        corpus: Of the second moments.
        fluency_tokens: Tokens that are sampled for fluency.
        seed: Of the contexts, the control's layers, the sampling and the bootstrap.
        layers: Layers by locator (``attribution``, ``tracing``) instead of the located ones.
    """

    limit: int | None = 12
    stride: int = 3
    context_kinds: tuple[tuple[int, int], ...] = ((10, 5),)
    corpus: Corpus = field(default_factory=Corpus)
    fluency_tokens: int = 100
    seed: int = 0
    layers: Mapping[str, LayerChoice] | None = None

    def __post_init__(self) -> None:
        check_positive(stride=self.stride, fluency_tokens=self.fluency_tokens)
        if self.limit is not None:
            check_positive(limit=self.limit)
        check_seed(self.seed)
        if self.layers is not None and not isinstance(self.layers, Mapping):
            raise OptionError(f"layers must map locators to their layers, got {self.layers!r}")
        if self.layers is not None and set(self.layers) != {"attribution", "tracing"}:
            raise OptionError(f"layers must be given for attribution and tracing, got {sorted(map(str, self.layers))}")


PRESETS: Mapping[str, EditStudySettings] = {
    "default": EditStudySettings(),
    "paper": EditStudySettings(
        limit=None,
        context_kinds=((5, 10), (10, 10)),
        corpus=Corpus(source="hub:wikimedia/wikipedia:20231101.en", tokens=10_000_000, row=512),
        layers=PAPER_LAYERS,
    ),
}
"""``paper``: its layers of GPT2-XL, ROME's contexts, Wikipedia, every case."""


def choose_layers(averages: Sequence[ClassAverage], n_layers: int) -> dict[str, LayerChoice]:
    """The layers that attribution and tracing point to (step 1 of the module).

    Raises:
        OptionError: If a map is missing.
    """
    peaks = {average.method: average.peak[LAST_SUBJECT] for average in averages}
    if not {"attribution", "mlp"} <= set(peaks):
        raise OptionError(f"layers are chosen from the attribution and mlp maps, got {sorted(peaks)}")
    first, last = peaks["attribution"], peaks["mlp"]
    return {
        "attribution": LayerChoice(rome=first, memit=_window(first, WINDOW, n_layers)),
        "tracing": LayerChoice(rome=last, memit=_window(last - WINDOW + 1, WINDOW, n_layers)),
    }


def draw_control(
    n_cases: int, chosen: Mapping[str, LayerChoice], *, n_layers: int, stride: int, seed: int
) -> list[LayerChoice]:
    """The control's layers of each case; its windows are as wide as those of the locators (the widest of them)."""
    width = max(len(choice.memit) for choice in chosen.values())
    generator = np.random.default_rng(seed)
    layers = generator.choice(range(0, n_layers, stride), size=n_cases).tolist()
    starts = generator.choice(range(0, max(1, n_layers - width + 1), stride), size=n_cases).tolist()
    return [
        LayerChoice(rome=layer, memit=_window(start, width, n_layers))
        for layer, start in zip(layers, starts, strict=True)
    ]


def config_at(model: HookedTransformer, method: str, layers: tuple[int, ...]) -> EditConfig:
    """A method's default settings at other layers.

    Raises:
        OptionError: If a layer does not exist.
    """
    config = default_config(model, method).at(layers)
    check_config(model, method, config)
    return config


def _window(first: int, width: int, n_layers: int) -> tuple[int, ...]:
    """So many layers from the first, moved into the model."""
    first = max(0, min(first, n_layers - width))
    return tuple(range(first, min(first + width, n_layers)))


def layers_of(
    locator: str, method: str, chosen: Mapping[str, LayerChoice], drawn: Sequence[LayerChoice]
) -> list[tuple[int, ...]]:
    """The edited layers of each case."""
    choices = drawn if locator == "random" else [chosen[locator]] * len(drawn)
    return [(choice.rome,) if method == "rome" else choice.memit for choice in choices]


def layers_text(locator: str, layers: Sequence[tuple[int, ...]]) -> str:
    """What a row of Table 1 says of its layers; of drawn ones how many there are, which is part of the comparison."""
    if locator != "random":
        return layer_span(layers[0])
    widths = sorted({len(at) for at in layers})
    return f"{' or '.join(map(str, widths))} random"


def layer_span(layers: Sequence[int]) -> str:
    """Layers as text: ``17``, ``13-17``, ``1,2,4``."""
    if list(layers) != list(range(layers[0], layers[-1] + 1)):
        return ",".join(map(str, layers))
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def unit_name(kind: str, method: str, layers: Sequence[int], case: int) -> str:
    """The name of a unit's record."""
    return f"{kind}-{method}-{layer_span(layers)}-{case:04d}"


def finished(run: RunFolder, cls: Any, unit: str, **expected: Any) -> Any:
    """A record that must be there.

    Args: See :meth:`interp.results.run_folder.RunFolder.read`.

    Raises:
        DataError: If it is not, is damaged, or is not what its name says (names it).
    """
    record = run.read(cls, unit, **expected)
    if record is None:
        raise DataError(f"{run.path}: the study is not finished: {unit} is missing")
    return record


def case_unit(case: int) -> str:
    """The name under which a case is left out of everything."""
    return f"case-{case:04d}"


@dataclass(frozen=True)
class Plan:
    """What a study set out to do, and what it had to leave out."""

    cases: list[str]
    chosen: dict[str, LayerChoice]
    swept: tuple[int, ...]
    drawn: list[LayerChoice]
    seed: int
    skips: Skips

    def why_not(self, method: str, layers: Sequence[int], case: int) -> str | None:
        """Why a case was not edited by a method at these layers; None if it was."""
        units = (case_unit(case), unit_name("case", method, layers, case))
        return next((self.skips.reasons[unit] for unit in units if unit in self.skips), None)

    def located_again(self) -> int:
        """The first case that was edited by ROME at tracing's layer.

        Raises:
            DataError: If none was.
        """
        layers = (self.chosen["tracing"].rome,)
        for case in range(len(self.cases)):
            if self.why_not("rome", layers, case) is None:
                return case
        raise DataError(
            f"{self.skips.run.path}: every case was left out, the first because: {self.why_not('rome', layers, 0)}"
        )


def read_plan(run: RunFolder) -> Plan:
    """What the study in a folder set out to do.

    Raises:
        DataError: If the folder is not a study of edits, or damaged.
    """
    seed, skips = run.settings().get("seed"), Skips.of(run)
    return run.read_json("selection.json", lambda stored: _parsed_plan(stored, seed, skips))


def _parsed_plan(stored: Any, seed: Any, skips: Skips) -> Plan:
    plan = Plan(
        cases=[str(case) for case in stored["cases"]],
        chosen={name: _choice(stored["chosen"][name]) for name in ("attribution", "tracing")},
        swept=tuple(map(int, stored["swept"])),
        drawn=[_choice(entry) for entry in stored["drawn"]],
        seed=int(seed),
        skips=skips,
    )
    if not plan.cases or len(plan.cases) != len(plan.drawn) or not plan.swept:
        raise ValueError(f"{len(plan.cases)} cases, {len(plan.drawn)} drawn layers")
    return plan


def _choice(stored: Any) -> LayerChoice:
    if isinstance(stored, int):  # the control of earlier versions: a window that ended there, cut at the first layer
        return LayerChoice(rome=stored, memit=tuple(range(max(0, stored - WINDOW + 1), stored + 1)))
    return LayerChoice(rome=int(stored["rome"]), memit=tuple(map(int, stored["memit"])))
