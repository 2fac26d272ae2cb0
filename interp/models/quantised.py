"""Checkpoints whose weights are quantised: dequantised as they are read, or refused with what to do.

transformers turns some formats into plain numbers while it reads them, without a GPU; those are read. Of the others the
weights can only be used by kernels of their own, or need another library first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from interp.errors import ModelError, excerpt

__all__ = ["check_dequantised", "dequantised"]

READ = ("fp8", "mxfp4", "compressed-tensors")
"""Formats that transformers dequantises while it reads them."""

INSTEAD: Mapping[str, str] = {
    "bitsandbytes": (
        "load the model that was quantised, or, where bitsandbytes runs, save"
        " AutoModelForCausalLM.from_pretrained(folder).dequantize() and load that folder"
    ),
}
OTHERWISE = "load the model that was quantised"


def dequantised(config: PreTrainedConfig) -> dict[str, Any]:
    """Ask for plain numbers, where the config says that weights are quantised; what provenance says of it, or nothing.

    Raises:
        ModelError: If they cannot be dequantised here, naming the format and what to do.
    """
    given = getattr(config, "quantization_config", None)
    if given is None:
        return {}
    settings = given if isinstance(given, Mapping) else given.to_dict()
    method = settings.get("quant_method")
    if method not in READ:
        instead = INSTEAD.get(method, OTHERWISE) if isinstance(method, str) else OTHERWISE
        raise ModelError(
            f"its weights are quantised (quantization_config, quant_method {excerpt(method)}); expected plain float32,"
            f" float16 or bfloat16 weights: {instead}"
        )
    config.quantization_config = {**settings, "dequantize": True}
    return {"kind": "quantised", "quant_method": method}


def check_dequantised(model: PreTrainedModel) -> None:
    """Refuse a model with weights that are codes still.

    Raises:
        ModelError: Naming one, and its number format.
    """
    for name, weight in model.named_parameters():
        if weight.dtype != model.dtype:
            raise ModelError(f"weight {name} was not dequantised: it is {str(weight.dtype).removeprefix('torch.')}")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
