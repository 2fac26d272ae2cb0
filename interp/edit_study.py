"""Where should one edit? Edit every case at the layers that each locator points to, and measure what it did.

1. Layers: attribution and tracing each point to the layer of the largest class-averaged value at the last subject
   token (tracing: of MLP outputs, which is what is edited). ROME edits that layer. MEMIT's five layers begin there for
   attribution and end there for tracing, as in the paper (1: 1-5; 17: 13-17), as far as the model has them. The control
   is a layer drawn for each case from those of the layer sweep; MEMIT's layers end there.
2. Layer sweep: ROME at every ``stride``-th layer.
3. Every case is edited by itself, on the unedited model, and evaluated before and after.
4. One edited model is located again.

A unit of work is one (case, method, layers): its patch and its evaluation are records in a run folder. Units of the
same method and layers are computed in fixed groups, so an interrupted study ends with the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig, MemitConfig, RomeConfig, check_config, default_config
from interp.editing.contexts import Contexts, write_contexts
from interp.editing.corpora import Corpus
from interp.editing.editor import edit_each
from interp.editing.patch import Patch
from interp.editing.second_moments import SecondMoments, second_moments
from interp.errors import DataError, OptionError
from interp.evaluation.protocol import Answers, CaseEvaluation, ask, evaluate_each
from interp.evaluation.statistics import Interval, rank_correlation
from interp.evaluation.summary import Comparison, TableRow, compared, table_row
from interp.facts import EditCase, Fact
from interp.locate.attribution import Attribution, attribute
from interp.locate.causal_trace import CausalTrace, causal_trace
from interp.locate.class_average import ClassAverage
from interp.options import check_positive, check_seed
from interp.results import Provenance, provenance
from interp.runs import RunFolder
from interp.study import StudyProgress
from interp.tokens import TOKEN_CLASSES

__all__ = [
    "PAPER_LAYERS",
    "PRESETS",
    "EditResults",
    "EditStudySettings",
    "LayerChoice",
    "Relocated",
    "Strength",
    "choose_layers",
    "edit_cases",
    "edit_results",
    "relocated",
]

LAST_SUBJECT = TOKEN_CLASSES.index("Last subject token")
WINDOW = 5  # MEMIT's layers, as published for GPT2-XL
GROUP = 16  # cases that are optimised and evaluated together
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
        if self.layers is not None and set(self.layers) != {"attribution", "tracing"}:
            raise OptionError(f"layers must be given for attribution and tracing, got {sorted(self.layers)}")


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


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strongly a locator points to each layer, at the last subject token.

    Args:
        locator, title, unit: What it is.
        mean, low, high: By layer, over the facts, with 95% intervals.
        chosen: The layer that the locator chose.
        correlation: Spearman's, with the edit score over the layers of the sweep.
    """

    locator: str
    title: str
    unit: str
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chosen: int
    correlation: Interval


@dataclass(frozen=True, kw_only=True)
class EditResults:
    """What the study found.

    Args:
        rows: Table 1: before any edit, then each locator with each editor.
        comparisons: Tracing against attribution, and both against the control, paired by case.
        by_layer: The layer sweep.
        strengths: Of the two locators.
    """

    rows: tuple[TableRow, ...]
    comparisons: tuple[Comparison, ...]
    by_layer: Mapping[int, TableRow]
    strengths: tuple[Strength, ...]


@dataclass(frozen=True, kw_only=True)
class Relocated:
    """The first case located before and after its edit."""

    case: str
    trace: tuple[CausalTrace, CausalTrace]
    attribution: tuple[Attribution, Attribution]


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
        "attribution": LayerChoice(rome=first, memit=tuple(range(first, min(n_layers, first + WINDOW)))),
        "tracing": LayerChoice(rome=last, memit=_ending_at(last)),
    }


def edit_cases(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    averages: Sequence[ClassAverage],
    folder: str | Path,
    settings: EditStudySettings | None = None,
    *,
    noise: float,
    source: str = "given cases",
    progress: StudyProgress | None = None,
) -> RunFolder:
    """Edit and evaluate cases at every layer of the study; interrupted, a second call does what is missing.

    Args:
        model: The model; it is left as it is.
        cases: What to edit; the first ``limit`` count.
        averages: The class-averaged maps of the locating part.
        folder: The run folder.
        settings: See :class:`EditStudySettings`.
        noise: Of the tracing before and after an edit.
        source: Where the cases come from, for the record.
        progress: Called as units advance.

    Raises:
        OptionError: If there are no cases, or a given layer does not exist.
        DataError: If the folder cannot be written or holds another run.
        FactError: If a case does not fit the model.
    """
    settings = settings or EditStudySettings()
    cases = list(cases)[: settings.limit]
    if not cases:
        raise OptionError("no cases to edit")
    described = provenance(model)
    chosen = dict(settings.layers or choose_layers(averages, model.cfg.n_layers))
    for choice in chosen.values():
        _config(model, "rome", (choice.rome,))
        _config(model, "memit", choice.memit)
    swept = tuple(range(0, model.cfg.n_layers, settings.stride))
    drawn = np.random.default_rng(settings.seed).choice(swept, size=len(cases)).tolist()
    run = RunFolder.open(
        folder,
        {
            **asdict(settings),
            "cases": source,
            "cases_sha256": hashlib.sha256(repr(cases).encode()).hexdigest()[:16],
            "chosen": {name: asdict(choice) for name, choice in chosen.items()},
            "noise": noise,
            "provenance": asdict(described),
        },
    )
    run.write_json(
        "selection.json",
        {
            "cases": [case.id for case in cases],
            "chosen": {name: asdict(choice) for name, choice in chosen.items()},
            "swept": swept,
            "drawn": drawn,
        },
    )
    work = _Work(model, cases, run, settings, described, chosen, swept, drawn, noise, progress or (lambda *_: None))
    work.run_all()
    return run


def edit_results(run: RunFolder, averages: Sequence[ClassAverage]) -> EditResults:
    """Table 1 and the layer sweep from records alone.

    Raises:
        DataError: If the study is not finished (names the first missing record).
    """
    plan = _plan(run)
    chosen, swept, drawn, seed = plan.chosen, plan.swept, plan.drawn, plan.seed
    n = len(drawn)

    def evaluated(method: str, layers: Sequence[tuple[int, ...]]) -> list[CaseEvaluation]:
        return [_finished(run, CaseEvaluation, _unit("case", method, at, i)) for i, at in enumerate(layers)]

    groups: dict[tuple[str, str], list[CaseEvaluation]] = {}
    rows: list[TableRow] = []
    for locator, title in LOCATORS.items():
        for method in ("rome", "memit"):
            layers = _layers(locator, method, chosen, drawn)
            groups[locator, method] = evaluated(method, layers)
            text = "random" if locator == "random" else _span(layers[0])
            rows.append(table_row(groups[locator, method], locator=title, layers=text, seed=seed))
    unedited = table_row(groups["tracing", "rome"], locator="Before any edit", layers="-", edited=False, seed=seed)
    comparisons = [
        compared(groups[a, method], groups[b, method], names=(LOCATORS[a], LOCATORS[b]), seed=seed)
        for method in ("rome", "memit")
        for a, b in (("tracing", "attribution"), ("tracing", "random"), ("attribution", "random"))
    ]
    by_layer = {
        layer: table_row(evaluated("rome", [(layer,)] * n), locator="Layer sweep", layers=str(layer), seed=seed)
        for layer in swept
    }
    scores = [by_layer[layer].scores["teacher-forced"]["score"].mean for layer in swept]
    maps = {average.method: average for average in averages}
    strengths = []
    for locator, method in (("attribution", "attribution"), ("tracing", "mlp")):
        mean, low, high = (
            tuple(float(x) for x in values[LAST_SUBJECT])
            for values in (maps[method].mean, maps[method].low, maps[method].high)
        )
        strengths.append(
            Strength(
                locator=LOCATORS[locator],
                title=maps[method].title,
                unit=maps[method].unit,
                mean=mean,
                low=low,
                high=high,
                chosen=chosen[locator].rome,
                correlation=rank_correlation([mean[layer] for layer in swept], scores, seed=seed),
            )
        )
    return EditResults(
        rows=(unedited, *rows), comparisons=tuple(comparisons), by_layer=by_layer, strengths=tuple(strengths)
    )


def relocated(run: RunFolder) -> Relocated:
    """The first case's maps before and after its edit.

    Raises:
        DataError: If the study is not finished.
    """
    return Relocated(
        case=_plan(run).cases[0],
        trace=tuple(_finished(run, CausalTrace, f"trace-{when}") for when in ("before", "after")),
        attribution=tuple(_finished(run, Attribution, f"attribution-{when}") for when in ("before", "after")),
    )


@dataclass(frozen=True)
class _Work:
    """The units of one study."""

    model: HookedTransformer
    cases: list[EditCase]
    run: RunFolder
    settings: EditStudySettings
    described: Provenance
    chosen: Mapping[str, LayerChoice]
    swept: tuple[int, ...]
    drawn: list[int]
    noise: float
    report: StudyProgress

    def run_all(self) -> None:
        """Do what is missing."""
        plan = self._groups()
        total = sum(len(members) for _, _, members in plan) + 2
        missing = [entry for entry in plan if not self._is_done(*entry)]
        done = total - 2 - sum(len(members) for _, _, members in missing)
        before = self._before(total, done)  # first: a case that does not fit the model is found here
        contexts: Contexts | None = None
        moments: SecondMoments | None = None
        if missing:
            self.report(done, total, "contexts and second moments")
            contexts = write_contexts(self.model, kinds=self.settings.context_kinds, seed=self.settings.seed)
            wanted = sorted({layer for _, layers, _ in plan for layer in layers})
            moments = second_moments(
                self.model,
                wanted,
                self.settings.corpus,
                progress=lambda part, whole: self.report(done, total, f"second moments: {part} of {whole} tokens"),
            )
        for method, layers, members in missing:
            assert contexts is not None
            assert moments is not None
            label = f"{method} at {_span(layers)}"
            self.report(done, total, label)
            self._edit(method, layers, members, contexts, moments, before, partial(self._part, done, total, label))
            done += len(members)
        self._locate_again(total)
        self.report(total, total, "done")

    def _part(self, done: int, total: int, label: str, share: float) -> None:
        self.report(done + share, total, label)

    def _groups(self) -> list[tuple[str, tuple[int, ...], list[int]]]:
        """(method, layers, cases): each unit once, in groups that do not depend on what is finished."""
        units: dict[tuple[str, tuple[int, ...]], set[int]] = {}
        for locator in LOCATORS:
            for method in ("rome", "memit"):
                for case, layers in enumerate(_layers(locator, method, self.chosen, self.drawn)):
                    units.setdefault((method, layers), set()).add(case)
        for layer in self.swept:
            units.setdefault(("rome", (layer,)), set()).update(range(len(self.cases)))
        groups = []
        for (method, layers), members in units.items():
            order = sorted(members)
            groups += [(method, layers, order[first : first + GROUP]) for first in range(0, len(order), GROUP)]
        return groups

    def _is_done(self, method: str, layers: tuple[int, ...], members: list[int]) -> bool:
        if any(self.run.get(CaseEvaluation, _unit("case", method, layers, i)) is None for i in members):
            return False
        if (method, layers) != ("rome", (self.chosen["tracing"].rome,)) or 0 not in members:
            return True
        return self.run.get(Patch, _unit("patch", method, layers, 0)) is not None  # it is located again

    def _before(self, total: int, done: int) -> list[Answers]:
        answers: list[Answers] = []
        for first in range(0, len(self.cases), GROUP):
            members = range(first, min(first + GROUP, len(self.cases)))
            found = [self.run.get(Answers, f"before-{i:04d}") for i in members]
            if any(entry is None for entry in found):
                self.report(done, total, "the unedited model's answers")
                fresh = ask(self.model, [self.cases[i] for i in members], **self._asking())
                for i, record in zip(members, fresh, strict=True):
                    self.run.put(f"before-{i:04d}", record)
                answers += fresh
            else:
                answers += [entry for entry in found if entry is not None]
        return answers

    def _asking(self) -> dict[str, Any]:
        return {
            "fluency_tokens": self.settings.fluency_tokens,
            "seed": self.settings.seed,
            "model_provenance": self.described,
        }

    def _edit(
        self,
        method: str,
        layers: tuple[int, ...],
        members: list[int],
        contexts: Contexts,
        moments: SecondMoments,
        before: list[Answers],
        advance: Any,
    ) -> None:
        cases = [self.cases[i] for i in members]
        config = _config(self.model, method, layers)
        patches = edit_each(
            self.model,
            [case.request for case in cases],
            method=method,
            config=config,
            second_moments=moments,
            contexts=contexts,
            model_provenance=self.described,
            progress=lambda part, whole: advance(0.7 * len(members) * part / whole),
        )
        found = evaluate_each(self.model, patches, cases, before=[before[i] for i in members], **self._asking())
        for i, patch, evaluation in zip(members, patches, found, strict=True):
            self.run.put(_unit("patch", method, layers, i), patch)
            self.run.put(_unit("case", method, layers, i), evaluation)

    def _locate_again(self, total: int) -> None:
        """Trace and attribute the first case before and after ROME at the tracing layer."""
        request = self.cases[0].request
        old = request.fact
        new = Fact(template=old.template, subject=old.subject, target=request.new_target)
        for index, (when, fact) in enumerate((("before", old), ("after", new))):
            kinds = (("trace", CausalTrace), ("attribution", Attribution))
            if all(self.run.get(kind, f"{name}-{when}") is not None for name, kind in kinds):
                continue
            self.report(total - 2 + index, total, f"locating again: {when} the edit")
            if when == "before":
                self._locate(fact, when, self.described)
            else:
                layers = (self.chosen["tracing"].rome,)
                patch = _finished(self.run, Patch, _unit("patch", "rome", layers, 0))
                with patch.applied(self.model):
                    self._locate(fact, when, provenance(self.model))

    def _locate(self, fact: Fact, when: str, described: Provenance) -> None:
        self.run.put(
            f"trace-{when}", causal_trace(self.model, fact, state="resid", noise=self.noise, model_provenance=described)
        )
        self.run.put(f"attribution-{when}", attribute(self.model, fact, tokens="all", model_provenance=described))


def _config(model: HookedTransformer, method: str, layers: tuple[int, ...]) -> EditConfig:
    default = default_config(model, method)
    if isinstance(default, MemitConfig):
        config: EditConfig = MemitConfig(layers=layers, second_moment_weight=default.second_moment_weight)
    else:
        config = RomeConfig(layer=layers[0])
    check_config(model, method, config)
    return config


def _ending_at(layer: int) -> tuple[int, ...]:
    return tuple(range(max(0, layer - WINDOW + 1), layer + 1))


def _layers(
    locator: str, method: str, chosen: Mapping[str, LayerChoice], drawn: Sequence[int]
) -> list[tuple[int, ...]]:
    """The edited layers of each case."""
    if locator == "random":
        return [(layer,) if method == "rome" else _ending_at(layer) for layer in drawn]
    choice = chosen[locator]
    return [(choice.rome,) if method == "rome" else choice.memit] * len(drawn)


def _span(layers: Sequence[int]) -> str:
    if list(layers) != list(range(layers[0], layers[-1] + 1)):
        return ",".join(map(str, layers))
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def _unit(kind: str, method: str, layers: Sequence[int], case: int) -> str:
    return f"{kind}-{method}-{_span(layers)}-{case:04d}"


def _finished(run: RunFolder, cls: Any, unit: str) -> Any:
    record = run.get(cls, unit)
    if record is None:
        raise DataError(f"{run.path}: the study is not finished: {unit} is missing")
    return record


@dataclass(frozen=True)
class _Plan:
    """What a study set out to do."""

    cases: list[str]
    chosen: dict[str, LayerChoice]
    swept: tuple[int, ...]
    drawn: list[int]
    seed: int


def _plan(run: RunFolder) -> _Plan:
    stored: Any = run.read_json("selection.json")
    try:
        plan = _Plan(
            cases=[str(case) for case in stored["cases"]],
            chosen={
                name: LayerChoice(
                    rome=int(stored["chosen"][name]["rome"]), memit=tuple(map(int, stored["chosen"][name]["memit"]))
                )
                for name in ("attribution", "tracing")
            },
            swept=tuple(map(int, stored["swept"])),
            drawn=[int(layer) for layer in stored["drawn"]],
            seed=int(run.settings()["seed"]),
        )
        if not plan.cases or len(plan.cases) != len(plan.drawn) or not plan.swept:
            raise ValueError(f"{len(plan.cases)} cases, {len(plan.drawn)} drawn layers")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{run.path}: selection.json is damaged: {error!r}") from error
    return plan
