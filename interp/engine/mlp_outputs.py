"""From what W_out returns to what enters the residual stream: the same, or its norm.

Of most models an MLP adds u = w W_out + b_out to the stream as it is. Where a norm stands behind it (Gemma 2 and 3,
OLMo 2), it adds

    norm(u) = g * u / rho(u),    rho(u) = sqrt(mean(u^2) + eps)

What ``hook_mlp_out`` shows is what enters the stream; what a patch of W_out changes is u. No hook shows u itself, but
the norm's own two hooks do: ``hook_normalized`` (u / rho) times ``hook_scale`` (rho). A change of u is made there too:
(u + change) / rho(u + change) goes on in place of u / rho(u), as if W_out had returned it.

What enters the stream lies on the ellipsoid of all g * x with mean(x^2) = 1 - eps / rho^2: no other value can be
reached, and none that differs from 0 where g is 0. The length of u says next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp.engine.base_runs import Hook
from interp.engine.forward import wide
from interp.models.weights import norm_after_mlp

__all__ = ["MlpOutput", "Placed", "mlp_output"]

HALVINGS = 200  # of an interval, to its last bit


class Placed(NamedTuple):
    """Nodes and weights on [0, 1] of each fact's own."""

    nodes: Float[Tensor, "fact step"]
    weights: Float[Tensor, "fact step"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MlpOutput:
    """The end of one layer's MLP; of a layer without a norm there every method does what it says without one.

    Args:
        model: The model.
        layer: The layer.
        norm: The name of the norm within the block; None without one.
    """

    model: HookedTransformer
    layer: int
    norm: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The hooks that :meth:`returned` reads."""
        block = f"blocks.{self.layer}."
        if self.norm is None:
            return (f"{block}hook_mlp_out",)
        return (f"{block}{self.norm}.hook_normalized", f"{block}{self.norm}.hook_scale")

    def returned(self, seen: Mapping[str, Tensor]) -> Float[Tensor, "*batch d_model"]:
        """u, what W_out returned, from what the hooks :attr:`names` saw."""
        first, *scale = (seen[name] for name in self.names)
        return (first * scale[0]).to(self.model.cfg.dtype) if scale else first

    def entering(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What enters the stream if W_out returns u, in float32 or wider. Differentiable."""
        return u if self.norm is None else wide(u) / self.rho(u) * self.gain()

    def reaching(
        self, wanted: Float[Tensor, "row d_model"], u: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """What W_out must return, as long as u, so that what enters the stream is as near to a value as it can be.

        That is g * x rms(u) / rho(u) with mean(x^2) = 1, and the nearest point of an ellipsoid with half axes a is

            x = a * wanted / (a^2 + m),    m > -min(a^2) such that mean(x^2) = 1

        (m is 0 where the value itself can be reached). m is found by bisection, in float64.
        """
        if self.norm is None:
            return wanted
        rms = wide(u).pow(2).mean(-1, keepdim=True).sqrt().double()
        axes = self.gain().double() * rms / self.rho(u).double()
        squares, pull = axes**2, axes * wanted.double()
        least, length = squares.amin(-1, keepdim=True), math.sqrt(u.shape[-1])
        high = pull.norm(dim=-1, keepdim=True) / length
        low = (high - squares.amax(-1, keepdim=True) + least).clamp(min=0)
        tiny = torch.finfo(torch.float64).tiny
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            too_long = (pull / (squares - least + middle + tiny)).norm(dim=-1, keepdim=True) > length
            low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
        x = pull / (squares - least + high + tiny)
        # inside of all that can be reached along the shortest axis (a gain of 0): that one takes up what is left
        rest = (length**2 - x.pow(2).sum(-1, keepdim=True)).clamp(min=0).sqrt()
        shortest = torch.nn.functional.one_hot(squares.argmin(-1), x.shape[-1])
        return ((x + shortest * torch.where(rest > 1e-6 * length, rest, 0)) * rms).to(wide(u).dtype)

    def changed(self, change: Callable[[Tensor], Tensor]) -> list[Hook]:
        """Hooks under which W_out returns ``change(u)`` in place of u."""
        if self.norm is None:
            return [(self.names[0], lambda value, hook: change(value))]
        scales: list[Tensor] = []

        def keep(value: Tensor, hook: HookPoint) -> None:
            scales[:] = [value]

        def put(value: Tensor, hook: HookPoint) -> Tensor:
            u = change((value * scales.pop()).to(self.model.cfg.dtype))
            return wide(u) / self.rho(u)

        normalized, scale = self.names
        return [(scale, keep), (normalized, put)]

    def gain(self) -> Float[Tensor, "d_model"]:
        """g; ones without a norm."""
        b_out = self._mlp.b_out.detach()
        return torch.ones_like(wide(b_out)) if self.norm is None else wide(self._module.w.detach())

    def rho(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """What the norm divides u by; 1 without one."""
        if self.norm is None:
            return torch.ones_like(wide(u)[..., :1])
        return (wide(u).pow(2).mean(-1, keepdim=True) + self._module.eps).sqrt()

    # along the path from 0 to w

    def moved(
        self,
        w: Float[Tensor, "fact token neuron"],
        mlp_out: Float[Tensor, "fact token d_model"],
        facts: Int[Tensor, "row"],
        scales: Float[Tensor, "row"],
    ) -> Float[Tensor, "row token d_model"]:
        """What enters the stream if w of some facts is multiplied by some scales, minus what does (``mlp_out``)."""
        if self.norm is None:
            return (scales - 1)[:, None, None] * (wide(mlp_out[facts]) - wide(self._mlp.b_out.detach()))
        return self.entering(self._scaled(w, facts, scales)) - wide(mlp_out[facts])

    def before(
        self,
        gradient: Float[Tensor, "row token d_model"],
        w: Float[Tensor, "fact token neuron"],
        facts: Int[Tensor, "row"],
        scales: Float[Tensor, "row"],
    ) -> Float[Tensor, "row token d_model"]:
        """Gradients with respect to what W_out returns, from those with respect to what enters the stream."""
        if self.norm is None:
            return gradient
        u = self._scaled(w, facts, scales).requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.entering(u), u, wide(gradient))[0]

    def placed(
        self, w: Float[Tensor, "fact token neuron"], nodes: Float[Tensor, "step"], weights: Float[Tensor, "step"]
    ) -> Placed:
        """Nodes and weights of an integral over the scale a from 0 to 1, set where norm(a u) of each fact turns.

        norm(a u) has all of its length as soon as a is some times c = sqrt(eps) / rms(u), about a thousandth; it stays
        there, and its gradient falls as 1 / a. With a = c sinh(t) the integrand is smooth in t, from 0 to asinh(1 / c),
        so that nodes in t do what nodes in a do without a norm. c is the geometric mean over the tokens: it moves the
        nodes, not the integral. A node at 1 stays there.
        """
        if self.norm is None:
            return Placed(nodes.expand(len(w), -1), weights.expand(len(w), -1))
        u = self._scaled(w, torch.arange(len(w), device=w.device), nodes.new_ones(len(w))).double()
        eps = float(self._module.eps)
        rms = u.pow(2).mean(-1).clamp(min=1e-6 * eps).log().mean(-1, keepdim=True).mul(0.5).exp()
        c = math.sqrt(eps) / rms
        end = (1 / c).asinh()
        t = end * nodes.double()
        return Placed((c * t.sinh()).to(nodes), (weights.double() * end * c * t.cosh()).to(weights))

    def _scaled(
        self, w: Float[Tensor, "fact token neuron"], facts: Int[Tensor, "row"], scales: Float[Tensor, "row"]
    ) -> Float[Tensor, "row token d_model"]:
        own, of_row = facts.unique(return_inverse=True)
        product = wide(w[own]) @ wide(self._mlp.W_out.detach())
        return scales[:, None, None] * product[of_row] + wide(self._mlp.b_out.detach())

    @property
    def _mlp(self) -> Any:
        return self.model.blocks[self.layer].mlp

    @property
    def _module(self) -> Any:
        return getattr(self.model.blocks[self.layer], str(self.norm))


def mlp_output(model: HookedTransformer, layer: int) -> MlpOutput:
    """The end of a layer's MLP.

    Raises:
        OptionError: If the model's MLPs end in something else.
    """
    return MlpOutput(model=model, layer=layer, norm=norm_after_mlp(model))
