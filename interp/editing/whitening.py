"""C^-1 k: keys against the second moment of a layer, solved in float64 and refused where C is singular.

Without second moments C is the identity. To ROME its scale is nothing: it cancels. Editors that spread a change weigh C
against the new keys (MEMIT: 20,000 for C = E[k k^T] of GPT2-XL), so there the identity is multiplied by the mean over
the new keys of |k|^2 / d_mlp: as large as a second moment of keys of that length, and the weight means what it means
with one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.editing.null_space import NullSpace, null_space
from interp.engine.batches import free_bytes
from interp.errors import NumericalError, OptionError

__all__ = ["Moments", "Whitening"]

Moments = Mapping[int, Tensor] | Literal["identity"]
"""Second moment C [d_mlp, d_mlp] by layer, perhaps read only when it is asked for, or the identity in every layer."""

SINGULAR = 1e-14  # smallest accepted ratio of squared Cholesky pivots
KEPT_SHARE = 1 / 4  # of the free memory: the most that a factor may take to be kept
ASYMMETRIC = 1e-4  # largest accepted |C - C^T|, against the largest entry: Cholesky reads one half and never sees it


class Whitening:
    """Solves with the second moments; factors are kept for the next solves while there is room for them.

    The factor of one layer takes 8 d_mlp^2 bytes (2.1 GB on GPT-J). One that would take more than a quarter of the
    memory that is free serves one solve and is made again for the next, so that at most one such is there at a time.
    """

    def __init__(self, moments: Moments, spaces: dict[Any, NullSpace] | None = None) -> None:
        """Of second moments.

        Args:
            moments: They.
            spaces: Their null spaces that were found before, to which those found here are added.
        """
        self._moments = moments
        self._factors: dict[int, Tensor] = {}
        self._spaces = {} if spaces is None else spaces

    def prepare(self, layers: Iterable[int], d_mlp: int, device: torch.device) -> None:
        """Factorise some layers now: what does not fit is found before anything is optimised.

        Raises: See :meth:`solve`.
        """
        for layer in layers:
            self.solve(layer, torch.zeros(d_mlp, 1, device=device))

    def null_space(
        self, layer: int, threshold: float, d_mlp: int, device: torch.device, *, relative: bool = False
    ) -> NullSpace:
        """The null space of C, kept for the next solves while there is room for it.

        Args:
            layer: Which.
            threshold, relative: See :func:`~interp.editing.null_space.null_space`.
            d_mlp, device: Of the keys.

        Raises:
            OptionError: As :meth:`solve`, or if C is the identity.
            NumericalError: If C is not finite.
        """
        if isinstance(self._moments, str):
            raise OptionError("the identity as second moment has no directions that matter less: estimate them (None)")
        key = layer, threshold, relative, str(device)
        found = self._spaces.get(key)
        if found is None:
            moment = _checked(self._moment_of(layer).to(device), layer, d_mlp)
            if not torch.isfinite(moment).all():
                raise NumericalError(f"the second moment of layer {layer} is not finite")
            found = null_space(moment, threshold, relative=relative)
            if self._has_room(found.basis):
                self._spaces[key] = found
        return found

    def solve(self, layer: int, keys: Float[Tensor, "d_mlp fact"]) -> Float[Tensor, "d_mlp fact"]:
        """C^-1 K in float64.

        Raises:
            OptionError: If the layer has no second moment, or it is of another size.
            NumericalError: If C is singular, or not finite.
        """
        keys = keys.double()
        if isinstance(self._moments, str):
            return keys
        factor = self._factors.get(layer)
        if factor is None:
            factor = _factorised(self._moment_of(layer).to(keys.device), layer, len(keys))
            if self._has_room(factor):
                self._factors[layer] = factor
        return torch.cholesky_solve(keys, factor)

    @staticmethod
    def _has_room(matrix: Tensor) -> bool:
        free = free_bytes(matrix.device)
        return free is None or matrix.numel() * matrix.element_size() <= KEPT_SHARE * free

    def _moment_of(self, layer: int) -> Tensor:
        assert not isinstance(self._moments, str)
        if layer not in self._moments:
            raise OptionError(f"layer {layer} has no second moment; given are layers {sorted(self._moments)}")
        return self._moments[layer]

    def weighted(self, layer: int, keys: Float[Tensor, "d_mlp fact"], weight: float) -> Float[Tensor, "d_mlp fact"]:
        """(weight C)^-1 K in float64, the identity scaled to the keys."""
        if isinstance(self._moments, str):
            weight = weight * float(keys.double().square().sum(0).mean()) / len(keys)
        return self.solve(layer, keys) / weight

    def regularised(self, layer: int, keys: Float[Tensor, "d_mlp fact"], weight: float) -> Float[Tensor, "d_mlp fact"]:
        """(weight C + K K^T)^-1 K in float64 (MEMIT, equation 14), by the small system of the facts."""
        adjusted = self.weighted(layer, keys, weight)
        small = torch.eye(keys.shape[1], dtype=adjusted.dtype, device=keys.device) + keys.double().T @ adjusted
        return torch.linalg.solve(small, adjusted, left=False)


def _checked(moment: Tensor, layer: int, d_mlp: int) -> Tensor:
    if moment.shape != (d_mlp, d_mlp):
        raise OptionError(f"the second moment of layer {layer} is {tuple(moment.shape)}, expected {(d_mlp, d_mlp)}")
    if (moment - moment.T).abs().max() > ASYMMETRIC * moment.abs().max():
        raise OptionError(f"the second moment of layer {layer} is not symmetric")
    return moment


def _factorised(moment: Tensor, layer: int, d_mlp: int) -> Float[Tensor, "d_mlp d_mlp"]:
    factor, failed = torch.linalg.cholesky_ex(_checked(moment, layer, d_mlp).double())
    pivots = factor.diagonal().square()
    if int(failed) or not torch.isfinite(factor).all() or pivots.min() < SINGULAR * pivots.max():
        raise NumericalError(
            f"the second moment of layer {layer} is singular for its size {d_mlp}: use more tokens of text, or"
            " second_moments='identity'"
        )
    return factor
