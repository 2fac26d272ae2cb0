"""Settings of Hugging Face models as those of a HookedTransformer, checked: what is not covered is refused by name."""

from __future__ import annotations

import copy
import math
from typing import Any

from transformers import PreTrainedConfig

from interp.errors import ModelError, excerpt
from interp.models.families import family_named
from interp.models.families.family import Family
from interp.models.families.settings import Settings
from interp.models.quantised import dequantised

__all__ = ["checked_family", "hooked_config"]

ACTIVATIONS = ("gelu_new", "gelu_fast", "silu", "relu", "gelu", "gelu_pytorch_tanh", "relu2")
"""Activations that Hugging Face and TransformerLens compute alike."""

MOST_LAYERS = 10_000


def checked_family(hf: PreTrainedConfig) -> Family:
    """The family of a config, all of whose settings are covered.

    Raises:
        ModelError: If it names no supported architecture, its ``model_type`` is that of another one, its weights are
            quantised, or naming the setting that is not covered or impossible, what was expected and what it is.
    """
    family = family_named((getattr(hf, "architectures", None) or ["unknown"])[0])
    if hf.model_type != family.model_type:
        raise ModelError(
            f"architecture {family.architecture} expects model_type {family.model_type!r}, got {hf.model_type!r}"
        )
    dequantised(copy.deepcopy(hf))
    hooked_config(family, hf)
    return family


def hooked_config(family: Family, hf: PreTrainedConfig) -> dict[str, Any]:
    """The HookedTransformerConfig fields of a Hugging Face config.

    Raises:
        ModelError: Naming the setting that is not covered or impossible, what was expected and what it is.
    """
    values = {name: value for name, value in hf.to_dict().items() if name != "quantization_config"}
    given = Settings(family.architecture, values, type(hf)().to_dict())
    fields = family.settings(given)
    given.refuse_others()
    if fields["act_fn"] not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise ModelError(f"activation {excerpt(fields['act_fn'])} is not supported; supported are {supported}")
    eps = fields["eps"]
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ModelError(f"the epsilon of its normalization must be a number from 0 on, got {excerpt(eps)}")
    if fields["n_layers"] > MOST_LAYERS:
        raise ModelError(f"it has {fields['n_layers']} layers; expected at most {MOST_LAYERS}")
    return fields
