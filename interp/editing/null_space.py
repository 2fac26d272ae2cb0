"""The null space of usual keys: the directions in which the second moment C of a layer's keys is small.

What is multiplied with keys that were projected on it cannot be seen by keys in the other directions, which are those
that usual text is made of (Fang et al. 2025, AlphaEdit, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["NullSpace", "null_space"]


@dataclass(frozen=True, kw_only=True)
class NullSpace:
    """A null space.

    Args:
        basis: Orthonormal, float64: of the null space, or of all that is not in it, whichever has fewer vectors.
        inside: Whether it is of the null space.
        nearest: Relative distance from the threshold to the nearest eigenvalue.
    """

    basis: Float[Tensor, "d_mlp vector"]
    inside: bool
    nearest: float

    @property
    def dimension(self) -> int:
        """Of the null space."""
        return self.basis.shape[1] if self.inside else self.basis.shape[0] - self.basis.shape[1]

    def project(self, keys: Float[Tensor, "d_mlp fact"]) -> Float[Tensor, "d_mlp fact"]:
        """P K in float64."""
        keys = keys.double()
        there = self.basis @ (self.basis.T @ keys)
        return there if self.inside else keys - there


def null_space(moment: Float[Tensor, "d_mlp d_mlp"], threshold: float, *, relative: bool = False) -> NullSpace:
    """The eigenvectors of C whose eigenvalue lies strictly below a threshold, by a decomposition in float64.

    Args:
        moment: C.
        threshold: If ``relative``, a multiple of the mean eigenvalue.
        relative: See ``threshold``.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    least = threshold * float(values.mean()) if relative else threshold
    small = int((values < least).sum())
    inside = small <= len(values) - small
    basis = vectors[:, :small] if inside else vectors[:, small:]
    return NullSpace(basis=basis.clone(), inside=inside, nearest=float((values / least - 1).abs().min()))
