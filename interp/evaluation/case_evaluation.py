"""One case before and after one edit: what was asked, what was answered, and what the measures make of it."""

from __future__ import annotations

from dataclasses import dataclass

from interp.evaluation.measure import Said
from interp.evaluation.measures import measures
from interp.evaluation.protocols import PROTOCOLS
from interp.evaluation.questions import Question, Reading
from interp.options import check_choice
from interp.patches.patch import Outcome
from interp.results.record import Record

__all__ = ["CaseEvaluation"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CaseEvaluation(Record):
    """One case before and after one edit.

    Args:
        case: Its id.
        method, layers: The edit.
        outcome: How the case's request ended in the patch; None if the patch does not edit it.
        questions, targets: What was asked, and the token ids of each target.
        before, after: The readings.
        continuation_before, continuation_after: Sampled from the edit prompt.
        fluency_before, fluency_after: Of these.
    """

    case: str
    method: str
    layers: tuple[int, ...]
    outcome: Outcome | None
    questions: tuple[Question, ...]
    targets: tuple[tuple[int, ...], ...]
    before: tuple[Reading, ...]
    after: tuple[Reading, ...]
    continuation_before: str
    continuation_after: str
    fluency_before: float | None
    fluency_after: float | None

    @property
    def took(self) -> bool:
        """Whether the edited model answers the edit prompt anew: each token of it on top, those before it given."""
        edited = [i for i, question in enumerate(self.questions) if question.metric == "reliability"]
        return all(self.after[i].predicted == self.targets[i] for i in edited)

    def scores(self, protocol: str | None = "teacher-forced", *, edited: bool = True) -> dict[str, float | None]:
        """The case's measures by name; None where nothing was asked.

        Those in percent are in [0, 1]: the mean within each kind of question, then over kinds. Not among them is what
        is an average of other measures' means: the score of Table 1.

        Args:
            protocol: One of :data:`~interp.evaluation.protocols.PROTOCOLS`; None for the measures that go by no
                protocol (fluency).
            edited: Of the edited model, or of the model before.

        Raises:
            OptionError: If the protocol does not exist.
        """
        if protocol is not None:
            check_choice("protocol", protocol, tuple(PROTOCOLS))
        said = self._said(protocol, edited)
        under = measures(by_protocol=protocol is not None)
        return {measure.name: measure.value(said) for measure in under if measure.value is not None}

    def _said(self, protocol: str | None, edited: bool) -> Said:
        fluency = self.fluency_after if edited else self.fluency_before
        continuation = self.continuation_after if edited else self.continuation_before
        return Said(
            questions=self.questions,
            targets=self.targets,
            before=self.before,
            readings=self.after if edited else self.before,
            continuation=None if fluency is None else continuation,  # records hold an empty text where none was sampled
            fluency=fluency,
            protocol=None if protocol is None else PROTOCOLS[protocol],
        )
