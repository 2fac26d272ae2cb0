"""Reading the settings of a Hugging Face config: what is not covered is refused by name, never ignored.

What several families share stands in :mod:`interp.models.families.fields`; a family's own file puts it together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from interp.errors import ModelError, excerpt

__all__ = ["Settings"]

NO_EFFECT = frozenset(
    (
        # names, versions, number formats
        *("architectures", "transformers_version", "dtype", "auto_map", "tokenizer_class", "transformers.js_config"),
        *("unsloth_version", "unsloth_fixed"),
        # training: its start, its dropout, its memory
        *("initializer_range", "gradient_checkpointing", "attention_dropout", "hidden_dropout", "classifier_dropout"),
        *("attention_probs_dropout_prob", "hidden_dropout_prob", "attn_pdrop", "embd_pdrop", "resid_pdrop"),
        # what a pass gives beside the logits, and in which parts it is run
        *("use_cache", "return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward"),
        # tokens of one kind, which the tokenizer knows
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"),
        # other tasks
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "prefix"),
        # both matrices are there, whether they are one or two
        "tie_word_embeddings",
    )
)
"""Settings that do not change the logits of any language model."""

FORMER: Mapping[str, Any] = {
    "add_cross_attention": False,
    "is_decoder": False,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
    "torchscript": False,
    "use_bfloat16": False,
}
"""What earlier versions of transformers wrote into any config, with the values that say nothing."""


class Settings:
    """The settings of one config. Reading one says that it is covered; :meth:`refuse_others` looks at the rest.

    A setting that is None counts as not given. One that nobody read is let pass if it is in :data:`NO_EFFECT`, or has
    the value that its config class gives it anyway. Names that begin with an underscore are notes of the libraries.
    """

    def __init__(
        self, architecture: str, values: Mapping[str, Any], defaults: Mapping[str, Any], *, within: str = ""
    ) -> None:
        self.architecture = architecture
        self._values = values
        self._defaults = {**FORMER, **defaults}
        self._within = within
        self._covered: set[str] = set()
        self._parts: dict[str, Settings] = {}

    def value(self, name: str, default: Any = None) -> Any:
        """A setting as it is."""
        self._covered.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive whole number.

        Raises:
            ModelError: If it is none.
        """
        value = self.value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(name, "a positive whole number", value)
        return value

    def positive(self, name: str) -> float:
        """A positive finite number.

        Raises:
            ModelError: If it is none.
        """
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self._wrong(name, "a positive number", value)
        return value

    def share(self, name: str, default: float) -> float:
        """A number above 0 and up to 1.

        Raises:
            ModelError: If it is none.
        """
        value = self.value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise self._wrong(name, "a number above 0 and up to 1", value)
        return value

    def divided(self, whole: str, parts: str) -> int:
        """One positive whole number divided by another.

        Raises:
            ModelError: If it leaves a rest.
        """
        value, count = self.whole(whole), self.whole(parts)
        if value % count:
            raise ModelError(f"{self._within}{whole} {value} cannot be divided by {parts} {count}")
        return value // count

    def must_be(self, **expected: Any) -> None:
        """Settings of which one value alone is covered; it is also what they are where they are not given.

        Raises:
            ModelError: If one has another value.
        """
        for name, value in expected.items():
            found = self.value(name, value)
            if found != value:
                raise self._wrong(f"{name} of {self.architecture}", repr(value), found)

    def without_effect(self, *names: str) -> None:
        """Settings of this family that do not change its logits, beside those of :data:`NO_EFFECT`."""
        self._covered.update(names)

    def part(self, name: str) -> Settings:
        """Settings within one setting.

        Raises:
            ModelError: If it is no object.
        """
        value = self.value(name)
        if not isinstance(value, Mapping):
            raise ModelError(f"{self._within}{name} must be an object of settings, got {excerpt(value)}")
        return self._parts.setdefault(name, Settings(self.architecture, value, {}, within=f"{self._within}{name}: "))

    def not_covered(self) -> dict[str, Any]:
        """What could change the logits and nobody read, whatever its value; without that of :meth:`part`."""
        covered = self._covered | NO_EFFECT
        return {name: found for name, found in self._values.items() if name not in covered and name[:1] != "_"}

    def refuse_others(self) -> None:
        """Refuse what nobody read, where it says something.

        Raises:
            ModelError: Naming the setting and what it is.
        """
        for name, value in self.not_covered().items():
            if value is not None and not (name in self._defaults and self._defaults[name] == value):
                raise ModelError(
                    f"{self._within}setting {name} of {self.architecture} is not known here, got {excerpt(value)}: if"
                    " it does not change what the model computes, take it out of config.json"
                )
        for part in self._parts.values():
            part.refuse_others()

    def _wrong(self, name: str, expected: str, value: Any) -> ModelError:
        return ModelError(f"{self._within}setting {name} must be {expected}, got {excerpt(value)}")
