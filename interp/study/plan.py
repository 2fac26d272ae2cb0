"""What a study of edits sets out to do, and how its units of work and their records are called.

One row of Table 1 is one editor at the layers of one locator; its cases are units of work. The plan is written when a
study starts, and everything is read by it afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.editing.methods import editor_named
from interp.errors import DataError, OptionError
from interp.facts.records import EditCase
from interp.locate.methods import locator_named
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study import paper
from interp.study.layers import drawn_layers, layer_span, layers_around, placed_editors, swept_layers
from interp.study.settings import EditStudySettings

__all__ = [
    "CONTROL",
    "LOCATED_AGAIN",
    "Plan",
    "PlannedRow",
    "again_unit",
    "case_unit",
    "check_cases",
    "finished",
    "layers_of",
    "planned",
    "read_plan",
    "unit_name",
    "why_not",
    "write_plan",
]

CONTROL = "random"
"""What stands for a locator where the layers are drawn."""

LOCATED_AGAIN = ("before", "after")
"""When one case is located once more: before its edit, and after."""

FILE = "selection.json"
Layers = tuple[int, ...]


def check_cases(cases: Sequence[EditCase]) -> None:
    """Refuse cases that cannot be told apart.

    Raises:
        OptionError: If there are none, or two have one id.
    """
    if not cases:
        raise OptionError("no cases to edit")
    twice = next((name for name, count in Counter(case.id for case in cases).items() if count > 1), None)
    if twice is not None:
        raise OptionError(f"two cases have the id {twice!r}; expected one each, as they are paired by it")


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """A row of Table 1 before anything is edited.

    Args:
        locator: Its name, :data:`CONTROL`, or empty for an editor that chooses its layers.
        editor: Its name.
        layers: Of each case; none where the editor chooses them.
    """

    locator: str
    editor: str
    layers: tuple[Layers, ...]

    @property
    def located_by(self) -> str:
        """What pointed to the layers, as Table 1 says it."""
        if self.locator == CONTROL:
            return "Random layer (control)"
        if not self.locator:
            return "Chosen by the editor"
        locator = locator_named(self.locator)
        return locator.located_by or locator.title

    @property
    def span(self) -> str:
        """The layers as Table 1 says them; of drawn ones how many there are, which is part of the comparison."""
        if self.locator != CONTROL:
            return layer_span(self.layers[0])
        widths = sorted({len(at) for at in self.layers})
        return f"{' or '.join(map(str, widths))} random"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study sets out to do.

    Args:
        cases: The ids of the cases.
        editors: Their names.
        chosen: The layer that each locator points to.
        layers: By locator and editor what is edited there.
        drawn: The control's layers of each case, by editor.
        swept: The layer sweep: by its last layer what the first editor edits.
        again: The locators that are run before and after an edit, and the first part of their units' names.
    """

    cases: tuple[str, ...]
    editors: tuple[str, ...]
    chosen: Mapping[str, int]
    layers: Mapping[str, Mapping[str, Layers]]
    drawn: Sequence[Mapping[str, Layers]]
    swept: Mapping[int, Layers]
    again: Mapping[str, str]

    @property
    def placed(self) -> tuple[str, ...]:
        """The editors that edit where a locator points, in their order; the first is that of the sweep."""
        return placed_editors(self.editors)

    def rows(self) -> Iterator[PlannedRow]:
        """The rows of Table 1, in its order."""
        for locator, by_editor in self.layers.items():
            for editor in self.placed:
                yield PlannedRow(locator=locator, editor=editor, layers=(by_editor[editor],) * len(self.cases))
        for editor in self.placed:
            yield PlannedRow(locator=CONTROL, editor=editor, layers=tuple(case[editor] for case in self.drawn))
        for editor in self.editors:
            if editor not in self.placed:
                yield PlannedRow(locator="", editor=editor, layers=((),) * len(self.cases))

    def to_edit(self) -> Iterator[tuple[str, Layers, int]]:
        """Every unit: editor, layers and case; one that several rows share comes several times."""
        for row in (*self.rows(), *map(self.sweep_row, self.swept)):
            for case, layers in enumerate(row.layers):
                yield row.editor, layers, case

    def sweep_row(self, layer: int) -> PlannedRow:
        """The cases of the layer sweep at one layer."""
        return PlannedRow(locator="", editor=self.placed[0], layers=(self.swept[layer],) * len(self.cases))

    @property
    def edit_located_again(self) -> tuple[str, Layers]:
        """The editor and layers of the edit that is located again: the first editor, where the last locator points."""
        return self.placed[0], list(self.layers.values())[-1][self.placed[0]]

    def why_not(self, skips: Skips, editor: str, layers: Layers, case: int) -> str | None:
        """Why a case was not edited at these layers; None if it was."""
        return why_not(skips, editor, layers, case)

    def case_located_again(self, skips: Skips) -> int:
        """The first case that was edited with what is located again.

        Raises:
            DataError: If none was.
        """
        edit = self.edit_located_again
        for case in range(len(self.cases)):
            if self.why_not(skips, *edit, case) is None:
                return case
        raise DataError(
            f"{skips.run.path}: every case was left out, the first because: {self.why_not(skips, *edit, 0)}"
        )


def planned(cases: Sequence[str], chosen: Mapping[str, int], n_layers: int, settings: EditStudySettings) -> Plan:
    """The plan of a study.

    Args:
        cases: The ids of the cases.
        chosen: The layer that each locator points to.
        n_layers: Of the model.
        settings: The study's.

    Raises:
        OptionError: If all editors choose their layers themselves.
    """
    placed = placed_editors(settings.editors)
    return Plan(
        cases=tuple(cases),
        editors=settings.editors,
        chosen=dict(chosen),
        layers={
            locator: {editor: layers_around(locator, editor, peak, n_layers) for editor in placed}
            for locator, peak in chosen.items()
        },
        drawn=drawn_layers(len(cases), placed, n_layers=n_layers, stride=settings.stride, seed=settings.seed),
        swept=swept_layers(placed[0], n_layers, settings.stride),
        again={name: name for name in settings.located_again},
    )


def unit_name(kind: str, editor: str, layers: Layers, case: int) -> str:
    """The name of a unit's record."""
    return f"{kind}-{editor}-{layer_span(layers)}-{case:04d}"


def case_unit(case: int) -> str:
    """The name under which a case is left out of everything."""
    return f"case-{case:04d}"


def why_not(skips: Skips, editor: str, layers: Layers, case: int) -> str | None:
    """Why a case was not edited at some layers; None if it was."""
    units = (case_unit(case), unit_name("case", editor, layers, case))
    return next((skips.reasons[unit] for unit in units if unit in skips), None)


def again_unit(plan: Plan, locator: str, when: str) -> str:
    """The name of the record of what is located again."""
    return f"{plan.again[locator]}-{when}"


def layers_of(layers: Layers) -> dict[str, Any]:
    """What a record must say of its layers; nothing where the editor chose them."""
    return {"layers": layers} if layers else {}


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


def write_plan(run: RunFolder, plan: Plan) -> None:
    """Keep what the study sets out to do."""
    run.write_json(
        FILE,
        {
            "cases": plan.cases,
            "editors": plan.editors,
            "chosen": plan.chosen,
            "layers": plan.layers,
            "drawn": plan.drawn,
            "swept": {str(layer): at for layer, at in plan.swept.items()},
            "again": plan.again,
        },
    )


def read_plan(run: RunFolder) -> Plan:
    """What the study in a folder set out to do.

    Raises:
        DataError: If the folder is not a study of edits, or damaged.
    """
    return run.read_json(FILE, lambda stored: _parsed(stored if "editors" in stored else _of_earlier(stored)))


def _parsed(stored: Any) -> Plan:
    plan = Plan(
        cases=tuple(str(case) for case in stored["cases"]),
        editors=tuple(str(name) for name in stored["editors"]),
        chosen={str(name): int(layer) for name, layer in stored["chosen"].items()},
        layers={name: _by_editor(entry) for name, entry in stored["layers"].items()},
        drawn=[_by_editor(entry) for entry in stored["drawn"]],
        swept={int(layer): tuple(map(int, at)) for layer, at in stored["swept"].items()},
        again={str(name): str(unit) for name, unit in stored["again"].items()},
    )
    if not plan.cases or len(plan.cases) != len(plan.drawn) or not plan.swept:
        raise ValueError(f"{len(plan.cases)} cases, {len(plan.drawn)} drawn layers, {len(plan.swept)} swept layers")
    if not plan.layers or set(plan.layers) != set(plan.chosen):
        raise ValueError(f"layers of {', '.join(plan.layers)}, chosen by {', '.join(plan.chosen)}")
    for by_editor in (*plan.layers.values(), *plan.drawn):
        if set(by_editor) != set(plan.placed) or not all(by_editor.values()):
            raise ValueError(f"layers of {', '.join(by_editor)}; the editors are {', '.join(plan.placed)}")
    return plan


def _by_editor(entry: Any) -> dict[str, Layers]:
    return {str(editor): tuple(map(int, at)) for editor, at in entry.items()}


def _of_earlier(stored: Any) -> dict[str, Any]:
    """The plan of an earlier version, which knew the paper's editors and locators alone, as one of today."""
    one, several = paper.EDITORS
    width = editor_named(several).config.width

    def layers(entry: Any) -> dict[str, Any]:
        if isinstance(entry, int):  # still earlier: a window that ended there, cut at the first layer
            return {one: [entry], several: list(range(max(0, entry - width + 1), entry + 1))}
        return {one: [entry[one]], several: entry[several]}

    placed = {locator: layers(stored["chosen"][name]) for locator, name in paper.EARLIER_LOCATORS.items()}
    return {
        "cases": stored["cases"],
        "editors": paper.EDITORS,
        "chosen": {locator: entry[one][0] for locator, entry in placed.items()},
        "layers": placed,
        "drawn": [layers(entry) for entry in stored["drawn"]],
        "swept": {layer: [layer] for layer in stored["swept"]},
        "again": paper.EARLIER_UNITS,
    }
