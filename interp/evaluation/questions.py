"""What is asked of a model about an edit case, what it says, and which cases ask about the edits of a patch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from interp.errors import InterpWarning, OptionError
from interp.facts.records import EditCase, EditRequest
from interp.patches.patch import Patch

__all__ = ["Question", "Reading", "cases_of"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, what should follow, and the answer it competes with.

    Args:
        metric: The name of the measure that asks it (:data:`~interp.evaluation.measures.MEASURES`).
        kind: Within the measure: ``near``, ``alias``, ...; empty where there are no kinds.
    """

    metric: str
    kind: str
    prompt: str
    target: str
    rival: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model says to one question.

    Args:
        predicted: The top token wherever a target token stands, given the target's tokens before it.
        generated: Greedy continuation, as many tokens as the target has, and their text.
        log_probability: Of the target, mean per token, in nats.
        rival_log_probability: Of the rival.
    """

    predicted: tuple[int, ...]
    generated: tuple[int, ...]
    text: str
    log_probability: float
    rival_log_probability: float | None


def cases_of(patch: Patch, cases: Sequence[EditCase]) -> list[EditCase]:
    """The cases that ask about what a patch edits: those with the prompt (and subject) and the new answer of a request.

    The subject alone is not enough: of one subject several things can be edited, and a case about another prompt says
    nothing about the edit.

    Warns:
        InterpWarning: If some of the patch's edits have no case (names them); they are not evaluated.

    Raises:
        OptionError: If none has; names the first edit, and a case of the same subject if there is one.
    """
    wanted = {_asked(request): request for request in patch.requests}
    chosen = [case for case in cases if _asked(case.request) in wanted]
    found = {_asked(case.request) for case in chosen}
    missing = [request for key, request in wanted.items() if key not in found]
    if not chosen:
        near = [case for case in cases if any(case.request.fact.subject == r.fact.subject for r in missing)]
        text = f"; case {near[0].id} asks about {_edit(near[0].request)}" if near else ""
        raise OptionError(f"none of {len(cases)} cases asks about the patch's edit {_edit(missing[0])}{text}")
    if missing:
        warnings.warn(
            f"{len(missing)} of the patch's {len(wanted)} edits have no case and are not evaluated, such as"
            f" {_edit(missing[0])}",
            InterpWarning,
            stacklevel=2,
        )
    return chosen


def _asked(request: EditRequest) -> tuple[str, str, str]:
    return request.fact.template, request.fact.subject, request.new_target


def _edit(request: EditRequest) -> str:
    return f"{request.fact.prompt[:60]!r} (subject {request.fact.subject!r}) -> {request.new_target!r}"
