"""A fact: a statement about a subject that ends right before the answer."""

from __future__ import annotations

from dataclasses import dataclass

from interp.errors import FactError

__all__ = ["Fact"]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A statement about a subject, and the answer a model should continue it with.

    Args:
        template: The statement with exactly one ``{}`` where the subject goes. It ends right before the
            answer and without white space, which belongs to the target.
        subject: What the statement is about.
        target: The answer, with its leading space in languages that put one (``" Paris"``); ``None`` if the
            model's own top answer is what matters.
        relation: What kind of fact it is; facts of one relation can replace each other's subjects.
        paraphrases: Other templates for which the same target is right.

    Raises:
        FactError: If a field is empty, the template has no or several ``{}``, or the prompt ends in white
            space.
    """

    template: str
    subject: str
    target: str | None = None
    relation: str | None = None
    paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for template in (self.template, *self.paraphrases):
            if not isinstance(template, str) or template.count("{}") != 1:
                raise FactError(f"a template needs exactly one {{}} for the subject, got {template!r}")
            if template != template.rstrip():
                raise FactError(f"a template must not end in white space (it belongs to the target), got {template!r}")
        if not isinstance(self.subject, str) or not self.subject.strip():
            raise FactError(f"the subject of {self.template!r} is empty")
        if self.subject != self.subject.strip():
            raise FactError(f"the subject {self.subject!r} starts or ends in white space")
        if self.target is not None and (not isinstance(self.target, str) or not self.target.strip()):
            raise FactError(f"the target of {self.prompt!r} is empty")

    @classmethod
    def from_prompt(cls, prompt: str, subject: str, target: str | None = None, relation: str | None = None) -> Fact:
        """The fact of a whole prompt; its subject is the first occurrence of ``subject``.

        Raises:
            FactError: If the subject is empty or does not occur in the prompt.
        """
        if not subject.strip():
            raise FactError(f"the subject of the prompt {prompt!r} is empty")
        start = prompt.find(subject)
        if start < 0:
            raise FactError(f"the subject {subject!r} does not occur in the prompt {prompt!r}")
        if "{}" in prompt:
            raise FactError(f"the prompt {prompt!r} contains {{}}: fill in the subject, or build a Fact")
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
