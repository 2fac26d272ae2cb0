"""The units of work of a study of edits: one case, edited by one editor at one place, and evaluated.

A unit's patch and its evaluation are records in the run folder. Units of the same editor and layers are edited in
fixed groups, and groups are evaluated together in fixed bundles: these follow from the plan and from which cases fit
the model, whatever is finished or left out. So an interrupted study ends with the same numbers, and so do several
shards, each with every so many-th bundle (:mod:`interp.study.shard`), and workers that are given bundles
(:mod:`interp.study.workers`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from transformer_lens import HookedTransformer

from interp.editing.contexts import Contexts, write_contexts
from interp.editing.editor import edit_each
from interp.editing.methods import editor_named
from interp.editing.moments import SecondMoments, second_moments
from interp.editing.rows import check_requests
from interp.errors import InterpWarning, OptionError
from interp.evaluation.protocol import Answers, CaseEvaluation, ask, check_case, evaluate_each
from interp.facts.records import EditCase
from interp.patches.patch import Patch
from interp.results.run_folder import RunFolder
from interp.results.skips import SKIPPABLE, Skips
from interp.study.layers import config_at, layer_span
from interp.study.plan import LOCATED_AGAIN, Plan, case_unit, layers_of, unit_name
from interp.study.rounds import Round
from interp.study.settings import EditStudySettings
from interp.study.stage import Stage
from interp.study.where_settings import WhereSettings
from interp.study.workers import Bench, Job, Ledger, StudyProgress, Workers

__all__ = ["Work"]

GROUP = 16  # cases that are optimised together
BUNDLE = 36  # cases that are evaluated together, as many as fill one batch of sampling: few rows take as long as many

R = TypeVar("R")
Group = tuple[str, tuple[int, ...], list[int]]
"""Editor, layers and cases."""


@dataclass(frozen=True)
class Work:
    """The units of one study, of which the workers do all or a shard."""

    model: HookedTransformer
    cases: list[EditCase]
    run: RunFolder
    settings: EditStudySettings | WhereSettings
    plan: Plan | Round
    skips: Skips
    workers: Workers
    report: StudyProgress

    def ledger(self, done: float) -> Ledger:
        """Where jobs' records go when so many units are done."""
        return Ledger(run=self.run, skips=self.skips, report=self.report, total=self.total, done=done)

    @cached_property
    def total(self) -> int:
        """The shard's units in all; the last ones are locating before and after an edit, where that is the shard's."""
        edit = self.plan.edit_located_again
        own = sum(map(_n_cases, self._own()))
        if edit is None:
            return own
        first = next(place for place, bundle in enumerate(self.bundles) if any(group[:2] == edit for group in bundle))
        return own + len(LOCATED_AGAIN) * self.workers.shard.owns(first)

    def do_all(self) -> None:
        """Edit and evaluate what is missing of the shard."""
        own = self._own()
        missing = [bundle for bundle in own if not all(self._is_done(*group) for group in bundle)]
        total = self.total
        done = sum(map(_n_cases, own)) - sum(map(_n_cases, missing))
        before = self._before(total, done)
        if not missing:
            return
        self.report(done, total, "contexts and second moments")
        write = partial(write_contexts, kinds=self.settings.context_kinds, seed=self.settings.seed)
        shared = _Shared(contexts=self.workers.ask(write), moments=self._second_moments(done, total))
        bundles = map(partial(self._job, before, self.workers.share(shared)), missing)
        self.workers.do(bundles, self.ledger(done))

    def locates_again(self) -> bool:
        """Whether the case that is located before and after its edit is this shard's.

        It is the first that was not left out, which may have to be found out yet by another shard.
        """
        for place, bundle in enumerate(self.bundles):
            for group in bundle:
                if group[:2] == self.plan.edit_located_again:
                    if not self._is_done(*group):
                        return False
                    if self._left(*group):
                        return self.workers.shard.owns(place)
        return True  # all were left out, which is an error

    @cached_property
    def bundles(self) -> list[list[Group]]:
        """Consecutive groups that are evaluated together, of all shards."""
        bundles: list[list[Group]] = []
        for group in self._groups():
            if bundles and _n_cases(bundles[-1]) + len(group[2]) <= BUNDLE:
                bundles[-1].append(group)
            else:
                bundles.append([group])
        return bundles

    def _own(self) -> list[list[Group]]:
        return self.workers.shard.share(self.bundles)

    def _second_moments(self, done: int, total: int) -> SecondMoments | None:
        """Of every layer that an editor with target values is to edit, also in other shards: one pass finds them."""
        groups = [group for bundle in self.bundles for group in bundle if editor_named(group[0]).sites]
        wanted = sorted({layer for _, layers, _ in groups for layer in layers})
        if not wanted:
            return None
        return self.workers.second_moments(
            second_moments,
            wanted,
            self.settings.corpus,
            lambda part, whole: self.report(done, total, Stage("second moments", part, whole, "tokens")),
        )

    @cached_property
    def _usable(self) -> list[int]:
        """The cases that fit the model; the others are left out before the second moments, which may take hours."""
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
        return [i for i in range(len(self.cases)) if case_unit(i) not in errors]

    def _left(self, method: str, layers: tuple[int, ...], members: Sequence[int]) -> list[int]:
        """Those of a group that were not left out."""
        names = {i: (case_unit(i), unit_name("case", method, layers, i)) for i in members}
        return [i for i in members if not any(name in self.skips for name in names[i])]

    def _groups(self) -> list[Group]:
        """Each unit once, in groups that do not depend on what is finished."""
        units: dict[tuple[str, tuple[int, ...]], set[int]] = {}
        for editor, layers, case in self.plan.to_edit():
            units.setdefault((editor, layers), set()).add(case)
        usable = set(self._usable)
        groups = []
        for (method, layers), members in units.items():
            order = sorted(members & usable)
            groups += [(method, layers, order[first : first + GROUP]) for first in range(0, len(order), GROUP)]
        return groups

    def _is_done(self, method: str, layers: tuple[int, ...], members: list[int]) -> bool:
        left = self._left(method, layers, members)
        if any(self._evaluation(method, layers, i) is None for i in left):
            return False
        if (method, layers) != self.plan.edit_located_again or not left:
            return True
        return self._patch(method, layers, left[0]) is not None

    def _evaluation(self, method: str, layers: tuple[int, ...], i: int) -> CaseEvaluation | None:
        unit = unit_name("case", method, layers, i)
        return self.run.get(CaseEvaluation, unit, case=self.cases[i].id, method=method, **layers_of(layers))

    def _patch(self, method: str, layers: tuple[int, ...], i: int) -> Patch | None:
        unit = unit_name("patch", method, layers, i)
        return self.run.get(Patch, unit, method=method, requests=(self.cases[i].request,), **layers_of(layers))

    def _before(self, total: int, done: int) -> dict[int, Answers]:
        """The unedited model's answers to the shard's cases, which other shards ask for too."""
        own = {i for bundle in self._own() for *_, members in bundle for i in members}
        asked = [self._usable[first : first + GROUP] for first in range(0, len(self._usable), GROUP)]
        answers: dict[int, Answers] = {}
        wanted: list[int] = []

        def jobs() -> Iterator[Job]:
            groups = self.workers.shard.in_turn([group for group in asked if own & set(group)])
            n_cases, n_asked = sum(map(len, groups)), 0
            for group in groups:
                self.skips.refresh()
                members = [i for i in group if case_unit(i) not in self.skips]
                found = {i: self._answers(i) for i in members}
                if any(entry is None for entry in found.values()):
                    wanted.extend(members)
                    label = Stage("the unedited model's answers", n_asked, n_cases, "cases")
                    yield _AskCases(cases={i: self.cases[i] for i in members}, asking=self._asking(), label=label)
                else:
                    answers.update((i, entry) for i, entry in found.items() if entry is not None)
                n_asked += len(group)

        self.workers.do(jobs(), self.ledger(done))
        answers.update((i, entry) for i in wanted if (entry := self._answers(i)) is not None)
        return answers

    def _answers(self, i: int) -> Answers | None:
        return self.run.get(Answers, _before_unit(i), case=self.cases[i].id)

    def _asking(self) -> dict[str, Any]:
        return {
            "fluency_tokens": self.settings.fluency_tokens,
            "seed": self.settings.seed,
            "model_provenance": self.workers.described,
        }

    def _job(self, before: Mapping[int, Answers], shared: Callable[[], _Shared], bundle: Sequence[Group]) -> Job:
        """What is missing of a bundle."""
        groups = []
        for method, layers, members in bundle:
            left = self._left(method, layers, members)
            kept = {i: patch for i in left if (patch := self._patch(method, layers, i)) is not None}
            cases = {i: self.cases[i] for i in left}
            groups.append(_GroupLeft(method, layers, len(members), cases, kept if len(kept) == len(left) else None))
        wanted = {i for group in groups for i in group.cases}
        return _EditBundle(
            groups=groups, before={i: before[i] for i in sorted(wanted)}, shared=shared, asking=self._asking()
        )


@dataclass(frozen=True, kw_only=True)
class _AskCases:
    """What the unedited model answers to cases; it is no unit of the study by itself."""

    cases: Mapping[int, EditCase]
    asking: Mapping[str, Any]
    label: str
    size: int = 0

    def __call__(self, bench: Bench) -> None:
        bench.report(0.0, self.label)
        order = list(self.cases)

        def answers(places: list[int]) -> list[Answers]:
            return ask(bench.model, [self.cases[order[place]] for place in places], **self.asking)

        for place, record in _together([case_unit(i) for i in order], answers, bench).items():
            bench.keep(_before_unit(order[place]), record)


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What every bundle needs."""

    contexts: Contexts
    moments: SecondMoments | None


@dataclass(frozen=True)
class _GroupLeft:
    """Of a group of so many cases those that were not left out, and their patches if all are there."""

    method: str
    layers: tuple[int, ...]
    size: int
    cases: Mapping[int, EditCase]
    kept: Mapping[int, Patch] | None


@dataclass(frozen=True, kw_only=True)
class _EditBundle:
    """Groups that are edited one after the other, and evaluated together."""

    groups: Sequence[_GroupLeft]
    before: Mapping[int, Answers]
    shared: Callable[[], _Shared]
    asking: Mapping[str, Any]

    @property
    def label(self) -> str:
        return _label(self.groups[0])

    @property
    def size(self) -> int:
        return sum(group.size for group in self.groups)

    def __call__(self, bench: Bench) -> None:
        shared = self.shared()
        patches: list[Patch] = []
        units: list[tuple[str, int, EditCase]] = []
        for group in self.groups:
            so_far = 0.7 * len(patches)
            bench.report(so_far, _label(group))
            for i, patch in (self._patches(group, shared, so_far, bench) if group.kept is None else group.kept).items():
                patches.append(patch)
                units.append((unit_name("case", group.method, group.layers, i), i, group.cases[i]))
        names = [name for name, *_ in units]

        def evaluate(places: list[int]) -> list[CaseEvaluation]:
            return evaluate_each(
                bench.model,
                [patches[place] for place in places],
                [units[place][2] for place in places],
                before=[self.before[units[place][1]] for place in places],
                **self.asking,
            )

        for place, evaluation in _together(names, evaluate, bench).items():
            bench.keep(names[place], evaluation)

    def _patches(self, group: _GroupLeft, shared: _Shared, so_far: float, bench: Bench) -> dict[int, Patch]:
        """By case. All or none are made: a patch depends in its last bits on what it is optimised with."""
        given: dict[str, Any] = {}
        if editor_named(group.method).sites:
            given = {"second_moments": shared.moments, "contexts": shared.contexts}
        left = list(group.cases)

        def make(places: list[int]) -> list[Patch]:
            with warnings.catch_warnings():  # at layers where nothing is stored, most do not: the table counts them
                warnings.filterwarnings("ignore", ".* did not take", InterpWarning)
                return edit_each(
                    bench.model,
                    [group.cases[left[place]].request for place in places],
                    method=group.method,
                    config=config_at(bench.model, group.method, group.layers),
                    **given,
                    model_provenance=bench.described,
                    progress=lambda part, whole: bench.report(so_far + 0.7 * group.size * part / whole, _label(group)),
                )

        made = _together([unit_name("case", group.method, group.layers, i) for i in left], make, bench)
        for place, patch in made.items():
            bench.keep(unit_name("patch", group.method, group.layers, left[place]), patch)
        return {left[place]: patch for place, patch in made.items()}


def _together(names: Sequence[str], work: Callable[[list[int]], Sequence[R]], bench: Bench) -> dict[int, R]:
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
    bench.leave_out({names[place]: why for place, why in failed.items()})
    rest = [place for place in places if place not in failed]
    return dict(zip(rest, work(rest), strict=True)) if rest else {}


def _label(group: _GroupLeft) -> str:
    return f"{group.method} at {layer_span(group.layers)}"


def _before_unit(i: int) -> str:
    return f"before-{i:04d}"


def _n_cases(bundle: Sequence[Group]) -> int:
    return sum(len(members) for *_, members in bundle)
