"""Where should one edit? Edit every case at the layers that each locator points to, and measure what it did.

1. ROME and MEMIT at the layers of each locator, and at control layers (:mod:`interp.edit_plan`).
2. Layer sweep: ROME at every ``stride``-th layer.
3. Every case is edited by itself, on the unedited model, and evaluated before and after.
4. One edited model is located again.

A unit of work is one (case, method, layers): its patch and its evaluation are records in a run folder. Units of the
same method and layers are edited in fixed groups, and groups are evaluated together in fixed bundles, so an interrupted
study ends with the same numbers.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformer_lens import HookedTransformer

from interp.edit_plan import (
    LOCATORS,
    EditStudySettings,
    LayerChoice,
    choose_layers,
    config_at,
    finished,
    layer_span,
    layers_of,
    unit_name,
)
from interp.editing.contexts import Contexts, write_contexts
from interp.editing.editor import edit_each
from interp.editing.patch import Patch
from interp.editing.second_moments import SecondMoments, second_moments
from interp.errors import InterpWarning, OptionError
from interp.evaluation.protocol import Answers, CaseEvaluation, ask, evaluate_each
from interp.facts import EditCase, Fact
from interp.locate.attribution import Attribution, attribute
from interp.locate.causal_trace import CausalTrace, causal_trace
from interp.locate.class_average import ClassAverage
from interp.results import Provenance, provenance
from interp.runs import RunFolder
from interp.study import StudyProgress

__all__ = ["edit_cases"]

GROUP = 16  # cases that are optimised together
BUNDLE = 36  # cases that are evaluated together, as many as fill one batch of sampling: few rows take as long as many

Group = tuple[str, tuple[int, ...], list[int]]
"""Method, layers and cases."""


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
    assert model.cfg.d_mlp is not None
    settings = replace(settings, corpus=settings.corpus.sized(model.cfg.d_mlp))
    cases = list(cases)[: settings.limit]
    if not cases:
        raise OptionError("no cases to edit")
    described = provenance(model)
    chosen = dict(settings.layers or choose_layers(averages, model.cfg.n_layers))
    for choice in chosen.values():
        config_at(model, "rome", (choice.rome,))
        config_at(model, "memit", choice.memit)
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
        plan = self._bundles()
        total = sum(_n_cases(bundle) for bundle in plan) + 2
        missing = [bundle for bundle in plan if not all(self._is_done(*group) for group in bundle)]
        done = total - 2 - sum(_n_cases(bundle) for bundle in missing)
        before = self._before(total, done)  # first: a case that does not fit the model is found here
        contexts: Contexts | None = None
        moments: SecondMoments | None = None
        if missing:
            self.report(done, total, "contexts and second moments")
            contexts = write_contexts(self.model, kinds=self.settings.context_kinds, seed=self.settings.seed)
            wanted = sorted({layer for bundle in plan for _, layers, _ in bundle for layer in layers})
            moments = second_moments(
                self.model,
                wanted,
                self.settings.corpus,
                progress=lambda part, whole: self.report(done, total, f"second moments: {part} of {whole} tokens"),
            )
        for bundle in missing:
            assert contexts is not None
            assert moments is not None
            self._edit(bundle, contexts, moments, before, done, total)
            done += _n_cases(bundle)
        self._locate_again(total)
        self.report(total, total, "done")

    def _part(self, done: float, total: int, label: str, share: float) -> None:
        self.report(done + share, total, label)

    def _groups(self) -> list[Group]:
        """Each unit once, in groups that do not depend on what is finished."""
        units: dict[tuple[str, tuple[int, ...]], set[int]] = {}
        for locator in LOCATORS:
            for method in ("rome", "memit"):
                for case, layers in enumerate(layers_of(locator, method, self.chosen, self.drawn)):
                    units.setdefault((method, layers), set()).add(case)
        for layer in self.swept:
            units.setdefault(("rome", (layer,)), set()).update(range(len(self.cases)))
        groups = []
        for (method, layers), members in units.items():
            order = sorted(members)
            groups += [(method, layers, order[first : first + GROUP]) for first in range(0, len(order), GROUP)]
        return groups

    def _bundles(self) -> list[list[Group]]:
        """Consecutive groups that are evaluated together."""
        bundles: list[list[Group]] = []
        for group in self._groups():
            if bundles and _n_cases(bundles[-1]) + len(group[2]) <= BUNDLE:
                bundles[-1].append(group)
            else:
                bundles.append([group])
        return bundles

    def _is_done(self, method: str, layers: tuple[int, ...], members: list[int]) -> bool:
        if any(self._evaluation(method, layers, i) is None for i in members):
            return False
        if (method, layers) != ("rome", (self.chosen["tracing"].rome,)) or 0 not in members:
            return True
        return self._patch(method, layers, 0) is not None  # it is located again

    def _evaluation(self, method: str, layers: tuple[int, ...], i: int) -> CaseEvaluation | None:
        unit = unit_name("case", method, layers, i)
        return self.run.get(CaseEvaluation, unit, case=self.cases[i].id, method=method, layers=layers)

    def _patch(self, method: str, layers: tuple[int, ...], i: int) -> Patch | None:
        unit = unit_name("patch", method, layers, i)
        return self.run.get(Patch, unit, method=method, layers=layers, requests=(self.cases[i].request,))

    def _before(self, total: int, done: int) -> list[Answers]:
        answers: list[Answers] = []
        for first in range(0, len(self.cases), GROUP):
            members = range(first, min(first + GROUP, len(self.cases)))
            found = [self.run.get(Answers, f"before-{i:04d}", case=self.cases[i].id) for i in members]
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
        bundle: list[Group],
        contexts: Contexts,
        moments: SecondMoments,
        before: list[Answers],
        done: int,
        total: int,
    ) -> None:
        patches: list[Patch] = []
        for method, layers, members in bundle:
            label = f"{method} at {layer_span(layers)}"
            self.report(done + 0.7 * len(patches), total, label)
            advance = partial(self._part, done + 0.7 * len(patches), total, label)
            names = [unit_name("patch", method, layers, i) for i in members]
            kept = [patch for i in members if (patch := self._patch(method, layers, i)) is not None]
            if len(kept) < len(members):  # all or none: a patch depends in its last bits on what it is optimised with
                with warnings.catch_warnings():  # at layers where nothing is stored, most do not: the table counts them
                    warnings.filterwarnings("ignore", ".* did not take", InterpWarning)
                    kept = edit_each(
                        self.model,
                        [self.cases[i].request for i in members],
                        method=method,
                        config=config_at(self.model, method, layers),
                        second_moments=moments,
                        contexts=contexts,
                        model_provenance=self.described,
                        progress=partial(_share, advance, 0.7 * len(members)),
                    )
                for name, patch in zip(names, kept, strict=True):
                    self.run.put(name, patch)
            patches += kept
        units = [(method, layers, i) for method, layers, members in bundle for i in members]
        cases = [self.cases[i] for *_, i in units]
        found = evaluate_each(self.model, patches, cases, before=[before[i] for *_, i in units], **self._asking())
        for (method, layers, i), evaluation in zip(units, found, strict=True):
            self.run.put(unit_name("case", method, layers, i), evaluation)

    def _locate_again(self, total: int) -> None:
        """Trace and attribute the first case before and after ROME at the tracing layer."""
        request = self.cases[0].request
        old = request.fact
        new = Fact(template=old.template, subject=old.subject, target=request.new_target)
        for index, (when, fact) in enumerate((("before", old), ("after", new))):
            kinds = (("trace", CausalTrace), ("attribution", Attribution))
            if all(self.run.get(kind, f"{name}-{when}", fact=fact) is not None for name, kind in kinds):
                continue
            self.report(total - 2 + index, total, f"locating again: {when} the edit")
            if when == "before":
                self._locate(fact, when, self.described)
            else:
                layers = (self.chosen["tracing"].rome,)
                patch = finished(self.run, Patch, unit_name("patch", "rome", layers, 0))
                with patch.applied(self.model):
                    self._locate(fact, when, provenance(self.model))

    def _locate(self, fact: Fact, when: str, described: Provenance) -> None:
        self.run.put(
            f"trace-{when}", causal_trace(self.model, fact, state="resid", noise=self.noise, model_provenance=described)
        )
        self.run.put(f"attribution-{when}", attribute(self.model, fact, tokens="all", model_provenance=described))


def _n_cases(bundle: Sequence[Group]) -> int:
    return sum(len(members) for *_, members in bundle)


def _share(advance: Callable[[float], None], cases: float, part: int, whole: int) -> None:
    advance(cases * part / whole)
