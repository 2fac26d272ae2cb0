"""What is located, edited and asked: facts, edit requests and edit cases, as frozen records checked on construction."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from interp.errors import FactError, InterpWarning, excerpt

__all__ = ["EditCase", "EditRequest", "Fact", "Probe", "runs_into", "spaced_answer"]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A statement about a subject, and the answer a model should continue it with.

    Example:
        >>> fact = interp.Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
        >>> fact.prompt
        'The Eiffel Tower is located in the city of'

    Args:
        template: The statement with exactly one ``{}`` where the subject goes. It ends right before the
            answer and without white space, which belongs to the target.
        subject: What the statement is about.
        target: The answer, exactly as it continues the prompt: with its leading space in languages that put one
            (``" Paris"``; :func:`spaced_answer` adds it to an answer that was written without). ``None`` if the
            model's own top answer is what matters.
        relation: What kind of fact it is; facts of one relation can replace each other's subjects.
        paraphrases: Other templates for which the same target is right.

    Raises:
        FactError: If a field is empty, the template has no or several ``{}``, or the prompt or the target ends in
            white space (which would be a token of its own: a slip, and never a part of the answer).
    """

    template: str
    subject: str
    target: str | None = None
    relation: str | None = None
    paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for template in (self.template, *self.paraphrases):
            if not isinstance(template, str) or template.count("{}") != 1:
                raise FactError(f"a template needs exactly one {{}} for the subject, got {excerpt(template)}")
            if template != template.rstrip():
                raise FactError(
                    f"a template must not end in white space (it belongs to the target), got {excerpt(template)}"
                )
        if not isinstance(self.subject, str) or not self.subject.strip():
            raise FactError(f"the subject of {excerpt(self.template)} is empty")
        if self.subject != self.subject.strip():
            raise FactError(f"the subject {excerpt(self.subject)} starts or ends in white space")
        if self.target is not None and (not isinstance(self.target, str) or not self.target.strip()):
            raise FactError(f"the target of {excerpt(self.prompt)} is empty")
        if self.target is not None:
            _check_end("target", self.target, self.prompt)

    @classmethod
    def from_prompt(
        cls,
        prompt: str,
        subject: str,
        target: str | None = None,
        relation: str | None = None,
        *,
        occurrence: int | None = None,
    ) -> Fact:
        """The fact of a whole prompt, with the place of its subject found.

        Places where the subject stands as whole words come before all others (``"Rome"`` is not in ``"Romeo"``); then
        Korean words that begin with it, as particles are written without a space; then places inside of a longer word.

        Args:
            prompt: The prompt.
            subject: The subject, as it is written there.
            target, relation: As in :class:`Fact`.
            occurrence: Which of several places of the best kind, counted from 0; if None the first is taken, with a
                warning (:class:`interp.errors.InterpWarning`) if there are others or it is inside of a word.

        Raises:
            FactError: If the subject is empty, does not occur in the prompt, or not so often.
        """
        if not subject.strip():
            raise FactError(f"the subject of the prompt {excerpt(prompt)} is empty")
        if "{}" in prompt:
            raise FactError(f"the prompt {excerpt(prompt)} contains {{}}: fill in the subject, or build a Fact")
        places, inside = _places(prompt, subject)
        if not places:
            raise FactError(
                f"the subject {excerpt(subject)} does not occur in the prompt {excerpt(prompt)}"
                f"{_other_form(prompt, subject)}"
            )
        if occurrence is not None and not 0 <= occurrence < len(places):
            raise FactError(
                f"occurrence {occurrence} of the subject {excerpt(subject)}: the prompt {excerpt(prompt)} has it"
                f" {len(places)} times, so 0 to {len(places) - 1} can be chosen"
            )
        start = places[occurrence or 0]
        if occurrence is None and (inside or len(places) > 1):
            others = f", the first of {len(places)} places (occurrence=0 to {len(places) - 1})" if places[1:] else ""
            warnings.warn(
                f"the subject {excerpt(subject)} of {excerpt(prompt)} is taken at character {start}"
                + (" inside of a longer word" if inside else "")
                + others,
                InterpWarning,
                stacklevel=2,
            )
        template = prompt[:start] + "{}" + prompt[start + len(subject) :]
        return cls(template=template, subject=subject, target=target, relation=relation)

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return self.template.replace("{}", self.subject)

    @property
    def subject_characters(self) -> tuple[int, int]:
        """Start and end of the subject in ``prompt``, in characters, end exclusive."""
        start = self.template.index("{}")
        return start, start + len(self.subject)

    def paraphrased(self) -> tuple[Fact, ...]:
        """The same fact under each of its paraphrases."""
        return tuple(
            Fact(template=template, subject=self.subject, target=self.target, relation=self.relation)
            for template in self.paraphrases
        )

    def within(self, context: str) -> Fact:
        """The same fact with its prompt put into a context such as ``"It was a sunny day. {}"``.

        Raises:
            FactError: If the context does not have exactly one ``{}``.
        """
        if context.count("{}") != 1:
            raise FactError(f"a context needs exactly one {{}} for the prompt, got {excerpt(context)}")
        return Fact(
            template=context.replace("{}", self.template),
            subject=self.subject,
            target=self.target,
            relation=self.relation,
        )


@dataclass(frozen=True)
class EditRequest:
    """Make a model answer a fact's prompt with something else.

    Example:
        >>> request = interp.EditRequest(fact, new_target=" Rome")
        >>> request.fact.target, request.new_target
        (' Paris', ' Rome')

    Args:
        fact: The fact; its ``target`` is the answer so far, if it is known.
        new_target: The answer wanted, exactly as it continues the prompt: with its leading space in languages that
            put one (``" Rome"``; :func:`spaced_answer` adds it to an answer that was written without).

    Raises:
        FactError: If the new target is empty, ends in white space, or is the fact's own target.
    """

    fact: Fact
    _: KW_ONLY
    new_target: str

    def __post_init__(self) -> None:
        if not isinstance(self.new_target, str) or not self.new_target.strip():
            raise FactError(f"the new target of {excerpt(self.fact.prompt)} is empty")
        _check_end("new target", self.new_target, self.fact.prompt)
        if self.fact.target is not None and self.fact.target.strip() == self.new_target.strip():
            raise FactError(
                f"the new target of {excerpt(self.fact.prompt)} is its target already: {excerpt(self.new_target)}"
            )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A prompt and the text that is right after it, with its leading space in languages that put one.

    Raises:
        FactError: If one is empty or ends in white space.
    """

    prompt: str
    target: str

    def __post_init__(self) -> None:
        for name, value in (("prompt", self.prompt), ("target", self.target)):
            if not isinstance(value, str) or not value.strip():
                raise FactError(f"a probe's {name} is empty: {excerpt(self.prompt)} -> {excerpt(self.target)}")
        if self.prompt != self.prompt.rstrip():
            raise FactError(f"a probe's prompt must not end in white space, got {excerpt(self.prompt)}")
        _check_end("target", self.target, self.prompt)


@dataclass(frozen=True, kw_only=True)
class EditCase:
    """An edit and what to ask afterwards.

    Args:
        id: Unique name of the case.
        request: The edit.
        paraphrases: Whole prompts that should get the new target as well (generality).
        locality: Prompts that the edit should leave alone, with their true answers, by kind (``near``: the same
            relation of other subjects; ``far``: something else).
        portability: Prompts whose answer follows from the edit, with that answer, by kind (``alias``: another name
            of the subject; ``reasoning``: one step on from the new target; ``logical``: what the edit implies, such
            as the inverse relation).

    Raises:
        FactError: If the id is empty.
    """

    id: str
    request: EditRequest
    paraphrases: tuple[str, ...] = ()
    locality: Mapping[str, tuple[Probe, ...]] = field(default_factory=dict)
    portability: Mapping[str, tuple[Probe, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise FactError(f"the case of {excerpt(self.request.fact.prompt)} has no id")


def spaced_answer(prompt: str, answer: str) -> str:
    """An answer as the text that continues a prompt, where a file or a person leaves the space between them out.

    White space around the answer is dropped, then one space is put before it, unless

    - the prompt ends in an opening bracket or quotation mark (a straight ``"`` opens if it is the odd one; other marks
      that can open or close, such as ``'`` and ``»``, after white space), or
    - both sides are written without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan). The
      prompt's last letter and the answer's first one decide; a number follows such a prompt without a space as well.

    Args:
        prompt: What is continued, its subject filled in; white space at its end is ignored.
        answer: The answer, with or without white space around it.
    """
    prompt, answer = prompt.rstrip(), answer.strip()
    before = next((character for character in reversed(prompt) if _tells_script(character)), "")
    after = next((character for character in answer if _tells_script(character)), before)
    unspaced = bool(before) and bool(after) and _is_unspaced(before) and _is_unspaced(after)
    return answer if unspaced or _ends_in_opening_mark(prompt) else " " + answer


def _check_end(name: str, target: str, prompt: str) -> None:
    if target != target.rstrip():
        raise FactError(
            f"the {name} of {excerpt(prompt)} ends in white space, which would be a token of its own: {excerpt(target)}"
        )


def _places(prompt: str, subject: str) -> tuple[list[int], bool]:
    """Where the subject stands, of the best kind that there is (see :meth:`Fact.from_prompt`); whether inside words."""
    kinds: tuple[list[int], list[int], list[int]] = ([], [], [])
    start = prompt.find(subject)
    while start >= 0:
        end = start + len(subject)
        if _joined(prompt[:start][-1:], subject[0]):
            kinds[2].append(start)
        elif not _joined(subject[-1], prompt[end : end + 1]):
            kinds[0].append(start)
        else:
            kinds[1 if unicodedata.name(subject[-1], "").startswith("HANGUL") else 2].append(start)
        start = prompt.find(subject, start + 1)
    return next((kind for kind in kinds if kind), []), not kinds[0] and not kinds[1]


def _joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word (or one letter: a mark belongs to what it stands on)."""
    if not left or not right or unicodedata.category(left)[0] not in "LMN":
        return False
    kind = unicodedata.category(right)[0]
    return kind == "M" or (kind in "LN" and not _is_unspaced(left) and not _is_unspaced(right))


def _other_form(prompt: str, subject: str) -> str:
    """What to add to a message if the subject does occur, in another Unicode form; the two look the same."""
    plain = unicodedata.normalize("NFC", subject)
    if plain not in unicodedata.normalize("NFC", prompt):
        return ""
    longest = 4 * len(subject) + 4
    found = (
        prompt[start:end]
        for start in range(len(prompt))
        for end in range(start + 1, min(start + longest, len(prompt)) + 1)
        if unicodedata.normalize("NFC", prompt[start:end]) == plain
    )
    written = next(found, prompt)
    return (
        f" in this Unicode form: the subject is {subject!a}, the prompt has {written!a}; bring both into one"
        " form, for example with unicodedata.normalize('NFC', text)"
    )


def runs_into(prompt: str, target: str) -> bool:
    """Whether a target without a leading space runs into the prompt's last word, so that it cannot follow as a word.

    True if the prompt ends in a letter of a script with spaces between words and the target begins with a letter or
    a number.
    """
    if not prompt or not target or unicodedata.category(target[0])[0] not in "LMN":
        return False
    return unicodedata.category(prompt[-1])[0] in "LM" and not _is_unspaced(prompt[-1])


_CLOSED_BY: Mapping[str, str] = {"“": "„", "‘": "‚", "«": "»", "”": "“„", "’": "‘‚", "»": "«", "›": "‹", "‹": "›"}
"""Quotation marks that close another one in some language, and which ones they close."""

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # radicals, CJK punctuation, Hiragana, Katakana, Bopomofo
    (0x3190, 0xA4CF),  # more Katakana, Han, Yi; before it Hangul, which has spaces
    (0xAA60, 0xAA7F),  # more Burmese
    (0xF900, 0xFAFF),  # Han, for compatibility
    (0xFE30, 0xFE4F),  # CJK punctuation, vertical
    (0xFF01, 0xFF9F),  # full-width and half-width forms without Hangul
    (0x1B000, 0x1B16F),  # historic Kana
    (0x20000, 0x3FFFF),  # rarer Han
)
"""Code points of scripts that put no space between words, first and last of each range."""


def _is_unspaced(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _UNSPACED)


def _tells_script(character: str) -> bool:
    return character.isalpha() or _is_unspaced(character)


def _ends_in_opening_mark(prompt: str) -> bool:
    if not prompt:
        return False
    text, mark = prompt[:-1], prompt[-1]
    category = unicodedata.category(mark)
    if category == "Ps":  # also the low quotation marks
        return True
    if mark in '"`＂':
        return text.count(mark) % 2 == 0
    openers = _CLOSED_BY.get(mark, "")
    if any(text.count(opener) > text.count(mark) for opener in openers):
        return False
    if category == "Pi":
        return True
    return (mark == "'" or category == "Pf") and (not text or text[-1].isspace() or _ends_in_opening_mark(text))
