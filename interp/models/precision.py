"""How precisely float32 matrices are multiplied, and a model of a narrower format with the same weights in float32.

``"highest"`` multiplies in float32. ``"high"`` lets the device use TensorFloat32 (10 bits after the point instead of
23), which cards are several times faster in; ``"medium"`` bfloat16 (7 bits). A device that has neither multiplies as
before: CPUs change nothing under ``"high"``, and few do under ``"medium"``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformer_lens import HookedTransformer

from interp.models.weights import share_buffers
from interp.options import check_choice

__all__ = ["PRECISIONS", "current_precision", "in_float32", "matmul_precision"]

PRECISIONS = ("highest", "high", "medium")


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Multiply float32 matrices this precisely within a ``with`` block; afterwards all settings are as before.

    It is a setting of the process, as it is PyTorch's: other threads multiply so too.

    Example:
        >>> with interp.models.matmul_precision("high"):
        ...     interp.causal_trace(model, fact, samples=2).provenance.matmul_precision
        'high'

    Args:
        precision: ``"highest"``, ``"high"`` or ``"medium"``.

    Raises:
        OptionError: If there is no such precision.
    """
    check_choice("matmul_precision", precision, PRECISIONS)
    before, of_backends = _said(), [(matmul, _own(matmul, above)) for matmul, above in _backends()]
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before)
        for matmul, own in of_backends:  # which the line above sets too, to what they may not have been
            matmul.fp32_precision = own


def current_precision() -> str:
    """How precisely float32 matrices are multiplied now: ``"highest"``, ``"high"`` or ``"medium"``."""
    said = _said()
    if said is not None:
        return said
    found = {matmul.fp32_precision for matmul, _ in _backends()}
    return "medium" if "bf16" in found else "high" if "tf32" in found else "highest"


def _said() -> str | None:
    """What PyTorch says of all backends; None where the settings of single ones do not agree with it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _backends() -> list[tuple[Any, Any]]:
    """The settings of single backends with those that they follow; PyTorch has them since 2.9."""
    pairs: list[tuple[Any, Any]] = [
        (torch.backends.cuda.matmul, torch.backends),
        (getattr(torch.backends.mkldnn, "matmul", None), torch.backends.mkldnn),
    ]
    return [pair for pair in pairs if all(hasattr(each, "fp32_precision") for each in pair)]


def _own(matmul: Any, above: Any) -> str:
    """A backend's own setting: none where it follows the one above it."""
    return "none" if matmul.fp32_precision == above.fp32_precision else str(matmul.fp32_precision)


def in_float32(model: HookedTransformer) -> HookedTransformer:
    """A copy of a model with the same weights in float32: what its numbers are but for the rounding of arithmetic.

    It takes four bytes a parameter.

    Args:
        model: Of any number format; it is left as it is. Patches that are on it are in the weights of the copy.
    """
    cfg = copy.deepcopy(model.cfg)
    cfg.dtype, cfg.init_weights = torch.float32, False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        wide = HookedTransformer(cfg, move_to_device=False)
    wide.tokenizer, wide.cfg.tokenizer_prepends_bos = model.tokenizer, model.cfg.tokenizer_prepends_bos
    weights = {name: parameter.detach().float() for name, parameter in model.named_parameters()}
    for name, table in model.named_buffers(remove_duplicate=False):
        # those of scaled positions are not made from the config; all others it has made itself
        if name.endswith(("rotary_sin", "rotary_cos")) and not torch.equal(wide.get_buffer(name).to(table), table):
            weights[name] = table.float()
    wide.load_state_dict(weights, strict=False, assign=True)
    wide.to(model.W_E.device, print_details=False)
    share_buffers(wide)
    wide.requires_grad_(False)
    return wide.eval()
