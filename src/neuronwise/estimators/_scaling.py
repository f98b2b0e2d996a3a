"""Inputs and targets in units of their own spread, measured on the training part only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError

__all__ = ["Scaler"]

_ROUNDS = 2
LARGEST_RAW = 10.0


@dataclass(frozen=True, eq=False)
class Scaler:
    """``(values - centre) / scale``, clipped.

    Args:
        centre: What is taken off each column, ``(d,)``.
        scale: What each column is divided by, ``(d,)``; 1 for a column that does not vary.
        clip: Largest absolute value afterwards, in standard deviations; None clips nothing.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float | None = None

    @classmethod
    def of_inputs(cls, values: NDArray[np.float64], weight: NDArray[np.float64], clip: float) -> Scaler:
        """Measure mean and standard deviation of the values within ``clip`` standard deviations, twice.

        One value a hundred deviations out would otherwise press all others together. A column of which nothing would be
        left, such as a rare indicator, keeps its plain mean and deviation.

        Args:
            values: Shape (n, d).
            weight: Of each row, (n,).
            clip: Standard deviations.
        """
        rows = weight[:, None]
        centre, spread = _moments(values, rows)
        for _ in range(_ROUNDS):
            inside = np.abs(values - centre) <= clip * spread
            mean, deviation = _moments(values, rows * inside)
            usable = deviation > 0
            centre, spread = np.where(usable, mean, centre), np.where(usable, deviation, spread)
        return cls(centre, _safe(spread, values), clip)

    @classmethod
    def of_formula_inputs(
        cls, values: NDArray[np.float64], weight: NDArray[np.float64], clip: float, scale: str
    ) -> Scaler:
        """Choose how the inputs of a formula are scaled, by the rule of :func:`neuronwise.discover.discover`.

        Args:
            values: Shape (n, d).
            weight: Of each row, (n,).
            clip: Standard deviations at which standardised inputs are clipped.
            scale: ``"auto"`` leaves inputs as they are where every column lies in [-10, 10] with a standard deviation
                between 0.1 and 10, for then the formula is about the inputs themselves; ``"standard"`` or ``"none"``.

        Raises:
            InvalidArgumentError: If there is no such rule.
        """
        if scale not in ("auto", "standard", "none"):
            raise InvalidArgumentError(f"scale must be 'auto', 'standard' or 'none', not {scale!r}.")
        moving = np.ptp(values, axis=0) > 0
        spread = _moments(values, weight[:, None])[1][moving]
        fits = np.abs(values).max() <= LARGEST_RAW and bool(((spread >= 0.1) & (spread <= 10)).all())
        if scale == "none" or (scale == "auto" and fits):
            return cls(np.zeros(values.shape[1]), np.ones(values.shape[1]))
        return cls.of_inputs(values, weight, clip)

    @classmethod
    def of_targets(cls, values: NDArray[np.float64], weight: NDArray[np.float64]) -> Scaler:
        """Measure mean and standard deviation of all values; targets are never clipped."""
        centre, spread = _moments(values, weight[:, None])
        return cls(centre, _safe(spread, values))

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scaled values of any finite size, (n, d)."""
        # Values near the largest number there is may overflow here; the clip brings them back.
        with np.errstate(over="ignore"):
            scaled = (values - self.centre) / self.scale
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)

    def undo(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values in the units that they had."""
        return values * self.scale + self.centre


def _moments(
    values: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = np.maximum(np.broadcast_to(weight, values.shape).sum(0), np.finfo(np.float64).tiny)
    mean = (values * weight).sum(0) / total
    return mean, np.sqrt(((values - mean) ** 2 * weight).sum(0) / total)


def _safe(spread: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    constant = spread <= 1e-12 * np.maximum(np.abs(values).max(0), np.finfo(np.float64).tiny)
    return np.where(constant, 1.0, spread)
