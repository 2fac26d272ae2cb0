"""Which patches are on a model: its W_out is always the original plus what they add, in their order.

1. The model keeps its patches, the original W_out of the layers they touch, and the running sum of each such layer
   in float32 (float64 for float64 weights). One more patch adds its delta to the sum, however many are on; taking
   one back adds up the others anew; with the last one the original bits return.
2. A change is worked out first and then written layer by layer. Whatever is raised while it is written, the values
   before it come back; Ctrl-C waits until it is written. Should that fail too (a device that is gone), the model
   remembers it, and the next call about its patches brings them back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType, TracebackType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.engine.forward import wide
from interp.errors import ModelError
from interp.results.record import ON_MODEL

__all__ = ["Applied", "OnModel", "applied_hashes", "put_on", "state_of", "take_back", "undisturbed"]


@runtime_checkable
class Change(Protocol):
    """What is put on a model and taken back: a patch."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose W_out it changes."""
        ...

    def delta(self, layer: int) -> Tensor:
        """What is added to W_out of a layer."""
        ...

    def apply(self, model: HookedTransformer) -> None:
        """Put it on."""
        ...

    def revert(self, model: HookedTransformer) -> None:
        """Take it back."""
        ...


@dataclass(frozen=True, kw_only=True)
class OnModel:
    """What is on a model.

    Args:
        base_hash: Of the weights without patches.
        patches, hashes: What is on, in its order, and the content hash of each.
        originals, sums: By layer, W_out without patches, and with them before it is rounded to the model's numbers.
        torn: Whether writing a change was broken off, so that W_out may be anything.
    """

    base_hash: str
    patches: tuple[Any, ...] = ()
    hashes: tuple[str, ...] = ()
    originals: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)
    torn: bool = False

    def in_use(self) -> set[int]:
        """The layers that its patches change."""
        return {layer for patch in self.patches for layer in patch.layers}


def state_of(model: HookedTransformer) -> OnModel | None:
    """What is on a model; None if nothing is."""
    _mend(model)
    return model.__dict__.get(ON_MODEL)


def applied_hashes(model: HookedTransformer) -> tuple[str, ...]:
    """The content hashes of the patches that are on a model, in their order."""
    on = state_of(model)
    return () if on is None else on.hashes


def put_on(model: HookedTransformer, patch: Change, content: str, base_hash: str) -> None:
    """Add a patch.

    Args:
        model: The model.
        patch: The patch.
        content: Its content hash.
        base_hash: Of the weights without patches; counts where there are none on the model yet.

    Raises:
        ModelError: If something else has changed the weights since the last patch; the model is as before then.
    """
    on = state_of(model) or OnModel(base_hash=base_hash)
    _check_unchanged(model, on)
    before = _covering(model, on, patch.layers)
    sums = {layer: before.sums[layer] + patch.delta(layer).to(before.sums[layer]) for layer in patch.layers}
    after = replace(before, patches=(*on.patches, patch), hashes=(*on.hashes, content), sums={**before.sums, **sums})
    _write(model, before, after, patch.layers)


def take_back(model: HookedTransformer, contents: Collection[str]) -> None:
    """Take back the patches with these content hashes, all at once; what the others add stays.

    Raises:
        ModelError: If one is not on the model, or something else has changed the weights; the model is as before then.
    """
    on = state_of(model)
    if on is None or not set(contents) <= set(on.hashes):
        raise ModelError("the patch is not on the model")
    _check_unchanged(model, on)
    kept = [(p, h) for p, h in zip(on.patches, on.hashes, strict=True) if h not in contents]
    gone = [p for p, h in zip(on.patches, on.hashes, strict=True) if h in contents]
    touched = sorted({layer for patch in gone for layer in patch.layers})
    sums: dict[int, Tensor] = {}
    for layer in touched:
        sums[layer] = wide(on.originals[layer])
        for patch, _ in kept:
            if layer in patch.layers:
                sums[layer] = sums[layer] + patch.delta(layer).to(sums[layer])
    after = replace(on, patches=tuple(p for p, _ in kept), hashes=tuple(h for _, h in kept), sums={**on.sums, **sums})
    _write(model, on, after, touched)


class Applied(AbstractContextManager[HookedTransformer]):
    """A patch on a model within a ``with`` block, and off it afterwards.

    A class, not a generator: an interrupt between a generator's end and the block would leave the patch on.
    """

    def __init__(self, patch: Change, model: HookedTransformer) -> None:
        self.patch, self.model = patch, model
        self.entered = False

    def __enter__(self) -> HookedTransformer:
        there = applied_hashes(self.model)
        try:
            self.patch.apply(self.model)
            self.entered = True
        except BaseException:
            if applied_hashes(self.model) != there:
                self.patch.revert(self.model)
            raise
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        there = applied_hashes(self.model)
        try:
            undisturbed(lambda: self.patch.revert(self.model))
            self.entered = False
        except ModelError:
            self.entered = False
            raise
        except BaseException:  # whatever came in between
            if applied_hashes(self.model) == there:
                self.patch.revert(self.model)
            self.entered = False
            raise

    def __del__(self) -> None:
        if self.entered:  # interrupted in the instant before __exit__ began
            with suppress(BaseException):
                self.patch.revert(self.model)


def undisturbed(act: Callable[[], None]) -> None:
    """Do something short; Ctrl-C meanwhile takes effect when it is done."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        act()
        return
    waiting: list[FrameType | None] = []
    try:
        signal.signal(signal.SIGINT, lambda _, frame: waiting.append(frame))
        act()
    finally:
        signal.signal(signal.SIGINT, usual)
        if waiting:
            usual(signal.SIGINT, waiting[0])


def _w_out(model: HookedTransformer, layer: int) -> Tensor:
    block: Any = model.blocks[layer]
    return block.mlp.W_out.detach()


def _covering(model: HookedTransformer, on: OnModel, layers: Sequence[int]) -> OnModel:
    """The same with the originals of more layers."""
    new = {layer: _w_out(model, layer).clone() for layer in layers if layer not in on.originals}
    sums = {layer: wide(original) for layer, original in new.items()}
    return replace(on, originals={**on.originals, **new}, sums={**on.sums, **sums})


def _check_unchanged(model: HookedTransformer, on: OnModel) -> None:
    for layer in sorted(on.in_use()):
        W_out = _w_out(model, layer)
        if not torch.equal(W_out, on.sums[layer].to(W_out)):
            raise ModelError(f"W_out of layer {layer} was changed by something else while patches were on the model")


def _write(model: HookedTransformer, before: OnModel, after: OnModel, layers: Sequence[int]) -> None:
    """Go from one state, which covers all layers that change, to another, or stay."""

    def act() -> None:
        try:
            model.__dict__[ON_MODEL] = replace(before, torn=True)
            _copy(model, after, layers)
            _settle(model, after)
        except BaseException:
            _mend(model)
            raise

    undisturbed(act)


def _mend(model: HookedTransformer) -> None:
    """Bring back what was there before a change that was broken off."""
    on: OnModel | None = model.__dict__.get(ON_MODEL)
    if on is not None and on.torn:
        _copy(model, on, sorted(on.originals))
        _settle(model, on)


def _copy(model: HookedTransformer, on: OnModel, layers: Sequence[int]) -> None:
    in_use = on.in_use()
    for layer in layers:  # detached: without torch.no_grad, which an interrupt at its opening would leave on for good
        _w_out(model, layer).copy_(on.sums[layer] if layer in in_use else on.originals[layer])


def _settle(model: HookedTransformer, on: OnModel) -> None:
    in_use = on.in_use()
    if not on.patches:
        model.__dict__.pop(ON_MODEL, None)
        return
    model.__dict__[ON_MODEL] = replace(
        on,
        originals={layer: value for layer, value in on.originals.items() if layer in in_use},
        sums={layer: value for layer, value in on.sums.items() if layer in in_use},
        torn=False,
    )
