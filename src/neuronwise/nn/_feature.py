"""One base function as a layer of neurons uses it: standardised, kept where it and its slope are finite."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Base

__all__ = ["Feature"]

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
        power: Its exponent, if it is a whole power of x from 2.
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


def _power_of(base: Base) -> int | None:
    """Return the exponent of a whole power of x from 2, or None for any other function."""
    match = re.fullmatch(r"x\*\*(\d+)", base.text)
    return None if match is None or int(match[1]) < 2 else int(match[1])


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
