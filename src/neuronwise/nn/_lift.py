"""The features of each input, stacked: computed in one buffer, with an analytic derivative.

Plain autograd would keep every step between an input and its features for the backward pass. Here only the input is
kept and the steps are done again, which costs one multiple of the input in memory instead of a dozen. The backward
pass is itself differentiable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuronwise.nn._feature import Feature
from neuronwise.nn._pieces import pieces

__all__ = ["Lift", "Normaliser"]

Normaliser = tuple[Tensor, Tensor]
"""Mean and reciprocal deviation of each input."""


@dataclass(frozen=True)
class Lift:
    """Some base functions that are stacked for one matrix product.

    Args:
        features: The base functions in their order; None stands for the input itself.
        clip: Bound of the arguments; infinity for none.
        groups: Into how many groups the features are cut before stacking, for convolutions.
    """

    features: tuple[Feature | None, ...]
    clip: float
    groups: int = 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Lift:
        """Return itself: nothing in it can change."""
        return self

    @property
    def is_identity(self) -> bool:
        """Whether the stack is the input itself."""
        return self.features == (None,)

    def __call__(self, x: Tensor, axis: int, normaliser: Normaliser | None) -> Tensor:
        """Return the stacked features: base k of input i at ``k * width + i`` on the feature axis.

        Args:
            x: Any shape.
            axis: Its feature axis, negative.
            normaliser: Mean and reciprocal deviation of each input, or None to take the inputs as they are.
        """
        if self.is_identity:
            return x
        shape = (self.groups, -1) if self.groups > 1 else (-1,)
        lead = x.shape[:axis]
        if self.groups == 1 and len(lead) > 1:
            x = x.flatten(0, len(lead) - 1)
        if self.groups > 1:
            # Each group of channels gets its own features, next to each other: as a convolution in groups wants them.
            x = torch.unflatten(x, axis, shape)
        shape = (*shape, *[1] * (-axis - 1))
        mean, scale = (None, None) if normaliser is None else (part.view(shape) for part in normaliser)
        by_autograd = any(feature is not None and feature.slope is None for feature in self.features)
        # Compilers and exporters fuse plain operations by themselves, and see through them.
        if by_autograd or torch.compiler.is_compiling():
            stacked = self.plain(x, axis, mean, scale)
        else:
            stacked = _Lifted.apply(x, mean, scale, self, axis)  # type: ignore[no-untyped-call]
        if self.groups > 1:
            return stacked.flatten(axis - 1, axis)
        return torch.unflatten(stacked, 0, lead) if len(lead) > 1 else stacked

    def plain(self, x: Tensor, axis: int, mean: Tensor | None, scale: Tensor | None) -> Tensor:
        """Return the stacked features in plain differentiable operations."""
        u = self._arguments(x, mean, scale)
        return torch.cat([x if f is None else f.values(u).to(x.dtype) for f in self.features], dim=axis)

    def write(self, x: Tensor, axis: int, mean: Tensor | None, scale: Tensor | None) -> Tensor:
        """Return the stacked features, each written in its place; not differentiable."""
        size = list(x.shape)
        size[axis] *= len(self.features)
        stacked = x.new_empty(size)
        for part, places in zip(pieces(x, x), pieces(stacked, x), strict=True):
            self._fill(part, places, axis, mean, scale)
        return stacked

    def _fill(self, x: Tensor, stacked: Tensor, axis: int, mean: Tensor | None, scale: Tensor | None) -> None:
        u = self._arguments(x, mean, scale)
        power, exponent = u, 1
        for feature, place in sorted(self._places(stacked, axis), key=_by_power):
            if feature is None:
                place.copy_(x)
                continue
            factor = 1.0 / feature.scale
            shift = None if feature.is_bare else torch.tensor(-feature.centre * factor, dtype=u.dtype)
            if feature.power is None:
                raw = feature.base(feature.guarded(u))
                place.copy_(raw) if shift is None else torch.add(shift, raw, alpha=factor, out=place)
                continue
            while exponent < feature.power - 1:
                power = power * u if exponent == 1 else power.mul_(u)
                exponent += 1
            # The last factor in one pass with what standardises the power.
            if shift is None:
                torch.mul(power, u, out=place)
            else:
                torch.addcmul(shift, power, u, value=factor, out=place)

    def slope(self, x: Tensor, grad: Tensor, axis: int, mean: Tensor | None, scale: Tensor | None) -> Tensor:
        """Return the gradient at the input in plain differentiable operations."""
        u = self._arguments(x, mean, scale)
        direct, through = torch.zeros_like(x), torch.zeros_like(u)
        for feature, part in self._places(grad, axis):
            if feature is None:
                direct = direct + part
            else:
                through = through + part * (feature.slopes(u) * (1.0 / feature.scale))
        if math.isfinite(self.clip):
            through = torch.where(u.abs() < self.clip, through, 0.0)
        if scale is not None:
            through = through * scale
        return direct + through.to(x.dtype)

    def write_slope(
        self, x: Tensor, grad: Tensor, axis: int, mean: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        """Return the gradient at the input with few temporary tensors; not differentiable."""
        result = torch.empty_like(x)
        # The last factor of the gradient in one pass with what the features that are the input itself add.
        factor: Tensor | float = self._unit if scale is None else scale * self._unit
        for part, above, place in zip(pieces(x, x), pieces(grad, x), pieces(result, x), strict=True):
            places = self._places(above, axis)
            through = self._slope_at(self._arguments(part, mean, scale), places)
            direct = [part for feature, part in places if feature is None]
            if not direct:
                torch.mul(through, factor, out=place)
            elif isinstance(factor, Tensor):
                torch.addcmul(direct[0], through, factor, out=place)
            else:
                torch.add(direct[0], through, alpha=factor, out=place)
        return result

    @property
    def _unit(self) -> float:
        """The number in the slope of the feature that comes first: the highest power, or else the first in order."""
        first = max((feature for feature in self.features if feature is not None), key=lambda f: f.power or 0)
        return (first.power or 1) / first.scale

    def _slope_at(self, u: Tensor, places: list[tuple[Feature | None, Tensor]]) -> Tensor:
        """Return the gradient at bounded arguments, without the part of the features that are the input itself.

        In units of the number in the first feature's slope, by which a later pass multiplies.
        """
        unit, exponent = self._unit, 0
        through: Tensor | None = None
        # Powers by Horner's rule, from the highest down: sum_k k g_k u^(k-1).
        for feature, part in sorted(places, key=_by_power, reverse=True):
            if feature is None or feature.power is None:
                continue
            if through is None:
                through, exponent = part * u, feature.power - 1
                continue
            for _ in range(exponent - feature.power):
                through.mul_(u)
            through.add_(part, alpha=feature.power / feature.scale / unit)
            exponent = feature.power
        if through is not None:
            for _ in range(exponent - 1):
                through.mul_(u)
        for feature, part in places:
            if feature is not None and feature.power is None:
                slope = feature.slopes(u)
                if through is None:
                    through = part * slope
                else:
                    through.addcmul_(part.to(u.dtype), slope, value=1.0 / feature.scale / unit)
        assert through is not None
        if math.isfinite(self.clip):
            torch.ops.aten.hardtanh_backward.grad_input(through, u, -self.clip, self.clip, grad_input=through)
        return through

    def _arguments(self, x: Tensor, mean: Tensor | None, scale: Tensor | None) -> Tensor:
        """Return standardised and bounded arguments, in no less than single precision."""
        u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if mean is not None and scale is not None:
            u = (u - mean).mul_(scale)
        if math.isfinite(self.clip):
            u = torch.clamp(u, -self.clip, self.clip) if u is x else u.clamp_(-self.clip, self.clip)
        return u

    def _places(self, stacked: Tensor, axis: int) -> list[tuple[Feature | None, Tensor]]:
        """Return each feature with its place in a stack, a view of the shape of the input."""
        places = torch.unflatten(stacked, axis, (len(self.features), -1)).unbind(axis - 1)
        return list(zip(self.features, places, strict=True))


class _Lifted(torch.autograd.Function):
    """The stacked features, keeping only the input for the backward pass."""

    @staticmethod
    def forward(x: Tensor, mean: Tensor | None, scale: Tensor | None, lift: Lift, axis: int) -> Tensor:
        return lift.write(x, axis, mean, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mean, scale, ctx.lift, ctx.axis = inputs
        ctx.save_for_backward(x, mean, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale = ctx.saved_tensors
        # Gradients are on here only if somebody asked for the gradient of this gradient.
        work = ctx.lift.slope if torch.is_grad_enabled() else ctx.lift.write_slope
        return work(x, grad, ctx.axis, mean, scale), None, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        mean: Tensor | None,
        scale: Tensor | None,
        lift: Lift,
        axis: int,
    ) -> tuple[Tensor, int]:
        batch = in_dims[0]
        if batch is None or in_dims[1] is not None or in_dims[2] is not None:
            raise NotImplementedError(
                "torch.vmap over the running statistics of a layer of neurons is not possible."
            )
        stacked: Tensor = _Lifted.apply(x.movedim(batch, 0), mean, scale, lift, axis)  # type: ignore[no-untyped-call]
        return stacked, 0


def _by_power(entry: tuple[Feature | None, Tensor]) -> int:
    feature = entry[0]
    return 0 if feature is None or feature.power is None else feature.power
