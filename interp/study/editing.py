"""Where should one edit? Edit every case at the layers that each locator points to, and measure what it did.

1. ROME and MEMIT at the layers of each locator, and at control layers (:mod:`interp.study.plan`).
2. Layer sweep: ROME at every ``stride``-th layer.
3. Every case is edited by itself, on the unedited model, and evaluated before and after.
4. One edited model is located again.

A unit of work is one (case, method, layers): its patch and its evaluation are records in a run folder. Units of the
same method and layers are edited in fixed groups, and groups are evaluated together in fixed bundles, so an interrupted
study ends with the same numbers. A case that cannot be asked or edited is left out, and the folder says why
(:mod:`interp.results.skips`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformer_lens import HookedTransformer

from interp.editing.contexts import Contexts, write_contexts
from interp.editing.editor import edit_each
from interp.editing.moments import SecondMoments, second_moments
from interp.editing.rows import check_requests
from interp.errors import InterpWarning, OptionError
from interp.evaluation.protocol import Answers, CaseEvaluation, ask, check_case, evaluate_each
from interp.facts.records import EditCase, Fact
from interp.locate.class_average import ClassAverage
from interp.locate.methods.attribution import Attribution, attribute
from interp.locate.methods.causal_trace import CausalTrace, causal_trace
from interp.patches.patch import Patch
from interp.results.record import Provenance, provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import SKIPPABLE, Skips
from interp.study.locating import StudyProgress
from interp.study.plan import (
    LOCATORS,
    EditStudySettings,
    LayerChoice,
    case_unit,
    choose_layers,
    config_at,
    draw_control,
    finished,
    layer_span,
    layers_of,
    read_plan,
    unit_name,
)

__all__ = ["edit_cases"]

GROUP = 16  # cases that are optimised together
BUNDLE = 36  # cases that are evaluated together, as many as fill one batch of sampling: few rows take as long as many

R = TypeVar("R")
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

    Example:
        >>> run = interp.locate_facts(model, facts, "located", interp.LocateSettings(limit=2, samples=2))
        >>> settings = interp.EditStudySettings(limit=1, stride=5, fluency_tokens=20, corpus=interp.Corpus(tokens=2560))
        >>> edits = interp.edit_cases(model, cases, interp.class_averages(run), "edited", settings, noise=0.3)
        >>> len(list(edits.path.glob("records/*")))
        11

    A case that does not fit the model, or whose edit gives numbers that are not finite, is left out: the folder's
    ``skipped.json`` says why, and the tables count it.

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
        OptionError: If there are no cases, two have one id, or a given layer does not exist.
        DataError: If the folder cannot be written or holds another run.
        FactError: If no case fits the model (says why the first does not).
        NumericalError: If no case of several can be edited at the same layers (says why the first cannot).
    """
    settings = settings or EditStudySettings()
    assert model.cfg.d_mlp is not None
    settings = replace(settings, corpus=settings.corpus.sized(model.cfg.d_mlp))
    cases = list(cases)[: settings.limit]
    if not cases:
        raise OptionError("no cases to edit")
    twice = next((case.id for i, case in enumerate(cases) if case.id in {other.id for other in cases[:i]}), None)
    if twice is not None:
        raise OptionError(f"two cases have the id {twice!r}; expected one each, as they are paired by it")
    described = provenance(model)
    chosen = dict(settings.layers or choose_layers(averages, model.cfg.n_layers))
    for choice in chosen.values():
        config_at(model, "rome", (choice.rome,))
        config_at(model, "memit", choice.memit)
    swept = tuple(range(0, model.cfg.n_layers, settings.stride))
    drawn = draw_control(len(cases), chosen, n_layers=model.cfg.n_layers, stride=settings.stride, seed=settings.seed)
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
            "drawn": [asdict(choice) for choice in drawn],
        },
    )
    skips = Skips.of(run)
    report = progress or (lambda *_: None)
    _Work(model, cases, run, settings, described, chosen, swept, drawn, noise, skips, report).run_all()
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
    drawn: list[LayerChoice]
    noise: float
    skips: Skips
    report: StudyProgress

    def run_all(self) -> None:
        """Do what is missing."""
        self._leave_out_what_does_not_fit()
        plan = self._bundles()
        total = sum(_n_cases(bundle) for bundle in plan) + 2
        missing = [bundle for bundle in plan if not all(self._is_done(*group) for group in bundle)]
        done = total - 2 - sum(_n_cases(bundle) for bundle in missing)
        before = self._before(total, done)
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

    def _leave_out_what_does_not_fit(self) -> None:
        """Before the second moments, which may take hours."""
        errors: dict[str, Exception] = {}
        for i, case in enumerate(self.cases):
            try:
                check_requests(self.model, [case.request])
                check_case(self.model, case, fluency_tokens=self.settings.fluency_tokens)
            except SKIPPABLE as error:
                errors[case_unit(i)] = error
        self.skips.add(errors)
        if len(errors) == len(self.cases):
            raise errors[case_unit(0)]

    def _usable(self) -> list[int]:
        return [i for i in range(len(self.cases)) if case_unit(i) not in self.skips]

    def _left(self, method: str, layers: tuple[int, ...], members: Sequence[int]) -> list[int]:
        """Those of a group that were not left out."""
        names = {i: (case_unit(i), unit_name("case", method, layers, i)) for i in members}
        return [i for i in members if not any(name in self.skips for name in names[i])]

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
        usable = set(self._usable())
        groups = []
        for (method, layers), members in units.items():
            order = sorted(members & usable)
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
        left = self._left(method, layers, members)
        if any(self._evaluation(method, layers, i) is None for i in left):
            return False
        if (method, layers) != ("rome", (self.chosen["tracing"].rome,)) or not left:
            return True
        return self._patch(method, layers, left[0]) is not None  # it is located again

    def _evaluation(self, method: str, layers: tuple[int, ...], i: int) -> CaseEvaluation | None:
        unit = unit_name("case", method, layers, i)
        return self.run.get(CaseEvaluation, unit, case=self.cases[i].id, method=method, layers=layers)

    def _patch(self, method: str, layers: tuple[int, ...], i: int) -> Patch | None:
        unit = unit_name("patch", method, layers, i)
        return self.run.get(Patch, unit, method=method, layers=layers, requests=(self.cases[i].request,))

    def _before(self, total: int, done: int) -> dict[int, Answers]:
        answers: dict[int, Answers] = {}
        usable = self._usable()
        for first in range(0, len(usable), GROUP):
            members = usable[first : first + GROUP]
            found = {i: self.run.get(Answers, f"before-{i:04d}", case=self.cases[i].id) for i in members}
            if any(entry is None for entry in found.values()):
                self.report(done, total, "the unedited model's answers")
                answer = partial(self._answers, members)
                fresh = self._together([case_unit(i) for i in members], answer)
                for place, record in fresh.items():
                    self.run.put(f"before-{members[place]:04d}", record)
                    answers[members[place]] = record
            else:
                answers |= {i: entry for i, entry in found.items() if entry is not None}
        return answers

    def _answers(self, members: Sequence[int], places: Sequence[int]) -> list[Answers]:
        return ask(self.model, [self.cases[members[place]] for place in places], **self._asking())

    def _together(self, names: Sequence[str], work: Callable[[list[int]], Sequence[R]]) -> dict[int, R]:
        """Units worked on at once, by place; those that make it fail are left out, and the others done without them.

        If each of several fails, it is not theirs, and the run stops.
        """
        places = list(range(len(names)))
        try:
            return dict(zip(places, work(places), strict=True))
        except (*SKIPPABLE, OptionError) as error:
            failed: dict[int, Exception] = {0: error} if len(names) == 1 else {}
            for place in places if len(names) > 1 else []:
                try:
                    work([place])
                except (*SKIPPABLE, OptionError) as own:
                    failed[place] = own
            if not failed or len(failed) == len(names) > 1:
                raise
        self.skips.add({names[place]: why for place, why in failed.items()})
        rest = [place for place in places if place not in failed]
        return dict(zip(rest, work(rest), strict=True)) if rest else {}

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
        before: Mapping[int, Answers],
        done: int,
        total: int,
    ) -> None:
        patches: list[Patch] = []
        units: list[tuple[str, tuple[int, ...], int]] = []
        for method, layers, members in bundle:
            at = done + 0.7 * len(patches)
            label = f"{method} at {layer_span(layers)}"
            self.report(at, total, label)
            made = self._patches(method, layers, members, contexts, moments, partial(self._part, at, total, label))
            patches += made.values()
            units += [(method, layers, i) for i in made]
        names = [unit_name("case", *unit) for unit in units]

        def evaluate(places: list[int]) -> list[CaseEvaluation]:
            cases = [units[place][2] for place in places]
            return evaluate_each(
                self.model,
                [patches[place] for place in places],
                [self.cases[i] for i in cases],
                before=[before[i] for i in cases],
                **self._asking(),
            )

        for place, evaluation in self._together(names, evaluate).items():
            self.run.put(names[place], evaluation)

    def _patches(
        self,
        method: str,
        layers: tuple[int, ...],
        members: Sequence[int],
        contexts: Contexts,
        moments: SecondMoments,
        advance: Callable[[float], None],
    ) -> dict[int, Patch]:
        """By case. All or none are made: a patch depends in its last bits on what it is optimised with."""
        left = self._left(method, layers, members)
        kept = {i: patch for i in left if (patch := self._patch(method, layers, i)) is not None}
        if len(kept) == len(left):
            return kept

        def make(places: list[int]) -> list[Patch]:
            with warnings.catch_warnings():  # at layers where nothing is stored, most do not: the table counts them
                warnings.filterwarnings("ignore", ".* did not take", InterpWarning)
                return edit_each(
                    self.model,
                    [self.cases[left[place]].request for place in places],
                    method=method,
                    config=config_at(self.model, method, layers),
                    second_moments=moments,
                    contexts=contexts,
                    model_provenance=self.described,
                    progress=partial(_share, advance, 0.7 * len(members)),
                )

        made = self._together([unit_name("case", method, layers, i) for i in left], make)
        for place, patch in made.items():
            self.run.put(unit_name("patch", method, layers, left[place]), patch)
        return {left[place]: patch for place, patch in made.items()}

    def _locate_again(self, total: int) -> None:
        """Trace and attribute the first case that is left, before and after ROME at the tracing layer."""
        case = read_plan(self.run).located_again()
        request = self.cases[case].request
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
                patch = finished(self.run, Patch, unit_name("patch", "rome", layers, case))
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
