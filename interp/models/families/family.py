"""What a model family is: all that loading and export have to know of an architecture of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from interp.models.families.settings import Settings

__all__ = ["Family"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models. What is true of one of them alone stands in its file, and nowhere else."""

    architecture: str
    """As Hugging Face names it; the key in the table."""
    model_type: str
    """The ``model_type`` of its configs."""
    known: Mapping[str, str]
    """Names to start from, and what each is."""
    settings: Callable[[Settings], dict[str, Any]]
    """Its settings -> the fields of the HookedTransformerConfig. What it does not read is refused by name, see
    :class:`interp.models.families.settings.Settings`."""
    convert: Callable[[Any, HookedTransformerConfig], dict[str, Tensor]]
    """The Hugging Face model -> the parameters of the HookedTransformer by name, views of its weights where they can
    be; biases that it does not have may be left out."""
    block: str
    """The name of a block's module, with a gap for the layer at its end."""
    down_projection: str | None
    """Within a block, the name of the module whose weight is W_out; None if there is no such one (experts): patches
    of such a family are not exported."""
    d_in_first: bool = False
    """Whether that weight is [d_in, d_out], as of a Conv1D, and not [d_out, d_in], as of a Linear."""
    own_unembedding: bool = False
    """Whether W_U is a matrix of its own even where a model ties it to its embedding, as one of them is scaled."""

    def layer_of(self, weight: str) -> int | None:
        """The layer that the name of a weight speaks of, with or without what a file leaves out in front."""
        blocks = re.escape(self.block.split(".")[-2])
        found = re.search(rf"(?:^|\.){blocks}\.(\d+)\.", weight)
        return int(found[1]) if found else None
