"""How inputs are brought into the range in which base functions are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError

__all__ = ["Scale", "Scaling", "scaling_for"]

Scale = Literal["auto", "none", "standard"]

_RAW_LIMIT = 10.0
_RAW_SPREAD = (0.1, 10.0)
_RAW_ROOM = 1.5


@dataclass(frozen=True, eq=False)
class Scaling:
    """``(x - centre) / scale``, clipped.

    Args:
        centre: What is taken off each input, ``(d,)``.
        scale: What each is divided by, ``(d,)``.
        clip: Largest absolute value afterwards; None where inputs are not clipped.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float | None

    @property
    def raw(self) -> bool:
        """Whether inputs are neither moved nor scaled."""
        return not self.centre.any() and bool((self.scale == 1).all())

    def apply(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scaled inputs, ``(n, d)``."""
        scaled = X if self.raw else (X - self.centre) / self.scale
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)


def scaling_for(X: NDArray[np.float64], scale: Scale, clip: float) -> Scaling:
    """Return the scaling of a table by the rule asked for.

    ``"auto"`` leaves inputs as they are where every column lies in [-10, 10] with a standard deviation between 0.1 and
    10 (a constant column is no hindrance), and clips what is predicted later at 1.5 times the largest absolute value: a
    power of a wild value would be a wild prediction. Else it standardises. Mean and standard deviation are of the
    values within ``clip`` standard deviations, measured twice, so that one wild value does not press all others
    together.

    Args:
        X: The rows that the search sees, ``(n, d)``.
        scale: ``"auto"``, ``"none"`` or ``"standard"``.
        clip: Standard deviations at which standardised inputs are clipped.

    Raises:
        InvalidArgumentError: If the rule is unknown or ``clip`` is not above 1.
    """
    if scale not in ("auto", "none", "standard"):
        raise InvalidArgumentError(f"scale must be 'auto', 'none' or 'standard', not {scale!r}.")
    if not clip > 1:
        raise InvalidArgumentError(f"clip must be above 1 standard deviation, not {clip}.")
    d = X.shape[1]
    if scale == "none":
        return Scaling(np.zeros(d), np.ones(d), None)
    if scale == "auto" and _fits_raw(X):
        return Scaling(np.zeros(d), np.ones(d), _RAW_ROOM * float(np.abs(X).max()) or None)
    centre, spread = X.mean(0), X.std(0)
    for _ in range(2):
        inside = np.abs(X - centre) <= clip * spread
        trimmed = np.where(inside, X, np.nan)
        mean, deviation = np.nanmean(trimmed, 0), np.nanstd(trimmed, 0)
        # A rare indicator must not lose the few rows in which it is 1.
        usable = deviation > 0
        centre, spread = np.where(usable, mean, centre), np.where(usable, deviation, spread)
    constant = spread <= 1e-12 * np.maximum(np.abs(X).max(0), 1e-300)
    return Scaling(centre, np.where(constant, 1.0, spread), float(clip))


def _fits_raw(X: NDArray[np.float64]) -> bool:
    low, high = _RAW_SPREAD
    spread = X.std(0)
    moving = np.ptp(X, axis=0) > 0
    return bool(np.abs(X).max() <= _RAW_LIMIT and ((spread >= low) & (spread <= high))[moving].all())
