"""The settings of ``interp where``: with which editor, and how much it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from interp.editing.corpora import Corpus
from interp.editing.methods import DEFAULT_EDITOR, EDITORS
from interp.locate.methods import LOCATORS
from interp.options import check_choice, check_seed
from interp.study import paper
from interp.study.layers import placed_editors
from interp.system.tables import check_names

__all__ = ["BUDGETS", "DEFAULT_BUDGET", "Budget", "WhereSettings"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many facts, cases and layers.

    Args:
        facts: That are located.
        cases: That every measured layer is edited on.
        more: That those layers are edited on besides which are still in question.
        held_out: That the chosen layer is edited on at the end; none of them has a part in the choice.
        coarse: Steps over the layers in the first round.
        layers: The most that are measured, if the first round has no more; all if None.
        in_question: The most that are edited on more cases.
    """

    facts: int
    cases: int
    more: int
    held_out: int
    coarse: int
    layers: int | None
    in_question: int

    def of(self, n_cases: int) -> tuple[int, int, int]:
        """Its three shares of so many cases: each as it is, or as large a part of what there is.

        None is held out where that would be too few for an interval; then they go to the choice.
        """
        wanted = self.cases, self.more, self.held_out
        if n_cases >= sum(wanted):
            return wanted
        held_out = n_cases * self.held_out // sum(wanted)
        held_out = held_out if held_out >= LEAST_HELD_OUT else 0
        more = (n_cases - held_out) * self.more // (self.cases + self.more)
        return n_cases - held_out - more, more, held_out


LEAST_HELD_OUT = 5
BUDGETS: Mapping[str, Budget] = {
    "small": Budget(facts=6, cases=12, more=8, held_out=12, coarse=6, layers=12, in_question=5),
    "medium": Budget(facts=12, cases=16, more=24, held_out=24, coarse=8, layers=18, in_question=8),
    "large": Budget(facts=25, cases=24, more=40, held_out=40, coarse=10, layers=None, in_question=12),
}
"""On SmolLM2-135M and one core small takes 26 minutes; by their units medium takes roughly 70, large 160."""
DEFAULT_BUDGET = "small"


@dataclass(frozen=True, kw_only=True)
class WhereSettings:
    """Everything that the answer depends on, besides the model, the facts and the cases.

    Args:
        editor: With which the layers are compared.
        locators: Whose peaks are named and measured too.
        budget: A name in :data:`BUDGETS`.
        context_kinds, corpus: See :class:`~interp.study.settings.EditStudySettings`; as for a single edit.
        seed: Of the order of the cases, the contexts, the bootstrap and the exchanges.
    """

    editor: str = DEFAULT_EDITOR
    locators: tuple[str, ...] = paper.LOCATORS
    budget: str = DEFAULT_BUDGET
    context_kinds: tuple[tuple[int, int], ...] = ((10, 5),)
    corpus: Corpus = field(default_factory=Corpus)
    seed: int = 0

    def __post_init__(self) -> None:
        check_names("editor", (self.editor,), EDITORS)
        check_names("locators", self.locators, LOCATORS)
        check_choice("budget", self.budget, tuple(BUDGETS))
        check_seed(self.seed)
        placed_editors((self.editor,))

    @property
    def fluency_tokens(self) -> int:
        """None: the score has no fluency in it."""
        return 0

    @property
    def allowed(self) -> Budget:
        """The budget in numbers."""
        return BUDGETS[self.budget]
