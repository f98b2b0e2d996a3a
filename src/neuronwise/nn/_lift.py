"""The features of each input, stacked: computed in one buffer, with an analytic derivative.

Plain autograd would keep every step between an input and its features for the backward pass. Here only the input is
kept and the steps are done again, which costs one multiple of the input in memory instead of a dozen. The backward
pass is itself differentiable.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Base
from neuronwise.nn._pieces import pieces

__all__ = ["Feature", "Lift"]

Normaliser = tuple[Tensor, Tensor]
"""Mean and reciprocal deviation of each input."""

_MARGIN = 1e-3
"""How near to a point where a base function or its slope is infinite an argument may come."""

_GRID = np.linspace(-8.0, 8.0, 16001)
_DENSITY = np.exp(-0.5 * _GRID**2) / np.exp(-0.5 * _GRID**2).sum()


@dataclass(frozen=True)
class Feature:
    """One base function with what keeps its values and slopes in bounds.

    Args:
        base: The function.
        slope: Its derivative; None if it calls a function that has none but by autograd.
        power: Its exponent, if it is a whole power of x.
        low: Smallest argument that it gets.
        high: Largest argument that it gets.
        hole: Arguments nearer to 0 than this are moved away from it; 0 for none.
        centre: What is subtracted from its values.
        scale: What they are divided by then.
        size: Root mean square of the resulting feature under a standard normal input.
    """

    base: Base
    slope: Base | None
    power: int | None
    low: float
    high: float
    hole: float
    centre: float
    scale: float
    size: float

    @classmethod
    def of(cls, base: Base, *, standardise: bool, clip: float) -> Feature:
        """Measure a base function under a standard normal argument.

        Args:
            base: The function.
            standardise: Whether its values are centred and scaled.
            clip: Bound of the argument; infinity for none.

        Raises:
            InvalidArgumentError: If its values are not finite even so.
        """
        power = _power_of(base)
        slope = None if base.derivative_text is None else base.derivative()
        low, high, hole = _safe_arguments(base, slope, clip)
        bounded = np.clip(_GRID, max(low, -clip), min(high, clip))
        values = base(_moved(bounded, hole))
        with np.errstate(all="ignore"):
            mean = float(_DENSITY @ values)
            deviation = math.sqrt(float(_DENSITY @ (values - mean) ** 2))
        if not math.isfinite(deviation):
            raise InvalidArgumentError(
                f"The base function {base.text!r} is not finite on ordinary inputs (-8 to 8): give a smaller clip=, or "
                "leave it out."
            )
        if deviation < 1e-12:
            raise InvalidArgumentError(
                f"The base function {base.text!r} is constant: it tells neurons nothing."
            )
        centre, scale = (mean, deviation) if standardise else (0.0, 1.0)
        size = math.sqrt(float(_DENSITY @ ((values - centre) / scale) ** 2))
        return cls(base, slope, power, low, high, hole, centre, scale, size)

    @property
    def at_zero(self) -> float:
        """Its value at 0."""
        return (float(self.base(_moved(np.zeros(1), self.hole))[0]) - self.centre) / self.scale

    @property
    def is_bare(self) -> bool:
        """Whether its values are those of the base function."""
        return self.centre == 0.0 and self.scale == 1.0

    def guarded(self, u: Tensor) -> Tensor:
        """Return the arguments moved to where the function and its slope are finite; differentiable."""
        if math.isfinite(self.low) or math.isfinite(self.high):
            u = torch.clamp(u, self.low, self.high)
        if self.hole:
            u = torch.where(u.abs() < self.hole, torch.where(u < 0, -self.hole, self.hole), u)
        return u

    def values(self, u: Tensor) -> Tensor:
        """Return the feature of arguments; differentiable, any dtype.

        Args:
            u: Arguments, bounded by the clip of the lift.
        """
        raw = u**self.power if self.power is not None else self.base(self.guarded(u))
        return raw if self.is_bare else (raw - self.centre) * (1.0 / self.scale)

    def slopes(self, u: Tensor) -> Tensor:
        """Return the derivative of :meth:`values` times the scale; differentiable."""
        guarded = self.guarded(u)
        assert self.slope is not None
        slope = self.slope(guarded)
        # Where the argument was moved, the feature does not follow it.
        return slope if guarded is u else torch.where(guarded == u, slope, 0.0)


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
            if feature.power is None:
                raw = feature.base(feature.guarded(u))
            else:
                while exponent < feature.power:
                    power = power * u if exponent == 1 else power.mul_(u)
                    exponent += 1
                raw = power
            if feature.is_bare:
                place.copy_(raw)
            else:
                shift = torch.tensor(-feature.centre / feature.scale, dtype=u.dtype)
                torch.add(shift, raw, alpha=1.0 / feature.scale, out=place)

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
        for part, above, place in zip(pieces(x, x), pieces(grad, x), pieces(result, x), strict=True):
            places = self._places(above, axis)
            through = self._slope_at(self._arguments(part, mean, scale), places)
            place.copy_(through) if scale is None else torch.mul(through, scale, out=place)
            for feature, direct in places:
                if feature is None:
                    place.add_(direct)
        return result

    def _slope_at(self, u: Tensor, places: list[tuple[Feature | None, Tensor]]) -> Tensor:
        """Return the gradient at bounded arguments, without the part of the features that are the input itself."""
        through: Tensor | None = None
        exponent = 1
        # Powers by Horner's rule, from the highest down: sum_k k g_k u^(k-1).
        for feature, part in sorted(places, key=_by_power, reverse=True):
            if feature is None or feature.power is None:
                continue
            if through is None:
                through = part.to(u.dtype) * (feature.power / feature.scale)
            else:
                for _ in range(exponent - feature.power):
                    through.mul_(u)
                through.add_(part, alpha=feature.power / feature.scale)
            exponent = feature.power
        if through is not None:
            for _ in range(exponent - 1):
                through.mul_(u)
        for feature, part in places:
            if feature is not None and feature.power is None:
                slope, factor = feature.slopes(u), 1.0 / feature.scale
                if through is None:
                    through = (part * slope).mul_(factor)
                else:
                    through.addcmul_(part.to(u.dtype), slope, value=factor)
        assert through is not None
        if math.isfinite(self.clip):
            through = torch.ops.aten.hardtanh_backward(through, u, -self.clip, self.clip)
        return through

    def _arguments(self, x: Tensor, mean: Tensor | None, scale: Tensor | None) -> Tensor:
        """Return standardised and bounded arguments, in no less than single precision."""
        u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if mean is not None and scale is not None:
            u = (u - mean) * scale
        return torch.clamp(u, -self.clip, self.clip) if math.isfinite(self.clip) else u

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


def _power_of(base: Base) -> int | None:
    """Return the exponent of a whole power of x, or None for any other function."""
    match = re.fullmatch(r"x(?:\*\*(\d+))?", base.text)
    return None if match is None else int(match[1] or 1)


def _moved(arguments: NDArray[np.float64], hole: float) -> NDArray[np.float64]:
    """Return arguments moved away from 0."""
    return np.where(np.abs(arguments) < hole, np.where(arguments < 0, -hole, hole), arguments)


def _safe_arguments(base: Base, slope: Base | None, clip: float) -> tuple[float, float, float]:
    """Return the smallest and largest argument with finite value and slope, and how far to keep from 0."""
    low, high = base.domain
    around = _GRID[np.abs(_GRID) >= _MARGIN]
    at_zero = [float(each(np.zeros(1))[0]) for each in (base, slope) if each is not None]
    hole = 0.0 if all(map(math.isfinite, at_zero)) else _MARGIN
    if hole and np.isfinite(base(around)).all():
        # Such as 1/x and sqrt(abs(x)): only 0 itself is out.
        return -math.inf, math.inf, hole
    low = -math.inf if low < -clip else low + _MARGIN
    high = math.inf if high > clip else high - _MARGIN
    return low, high, 0.0 if low >= 0.0 else hole
