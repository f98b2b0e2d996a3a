"""How inputs are brought into the range in which base functions are evaluated, and targets into units of their own."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError

__all__ = ["Scale", "Scaling", "scaling_for", "scaling_of_targets", "warn_of_clipped"]

Scale = Literal["auto", "none", "standard"]

_RAW_LIMIT = 10.0
_RAW_SPREAD = (0.1, 10.0)
_RAW_ROOM = 1.5
_ROUNDS = 2
_SHOWN = 5  # columns in a warning
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, eq=False)
class Scaling:
    """``(x - centre) / scale``, clipped.

    Args:
        centre: What is taken off each column, ``(d,)``.
        scale: What each is divided by, ``(d,)``; 1 for a column that does not vary.
        clip: Largest absolute value afterwards; None where nothing is clipped.
        reach: Largest absolute value of each column that was seen, scaled and not clipped, ``(d,)``; None if not known.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float | None = None
    reach: NDArray[np.float64] | None = None

    @property
    def raw(self) -> bool:
        """Whether values are neither moved nor scaled."""
        return not self.centre.any() and bool((self.scale == 1).all())

    def apply(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scaled values, ``(n, d)``."""
        scaled = self._scaled(X)
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)

    def beyond(self, X: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which values are clipped and farther out than any that was seen, ``(n, d)``."""
        if self.clip is None:
            return np.zeros(X.shape, dtype=bool)
        seen = 0.0 if self.reach is None else self.reach
        # A value that was seen comes back with an error of rounding where it has been kept in its own units.
        return np.abs(self._scaled(X)) > np.maximum(self.clip, seen) * (1 + 1e-9)

    def _scaled(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        # Values near the largest number there is may overflow here; the clip brings them back.
        with np.errstate(over="ignore"):
            return X if self.raw else (X - self.centre) / self.scale

    def undo(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values in the units that they had, ``(n, d)``."""
        return X * self.scale + self.centre


def scaling_for(
    X: NDArray[np.float64], scale: str, clip: float, *, weight: NDArray[np.float64] | None = None
) -> Scaling:
    """Return the scaling of a table by the rule asked for.

    ``"auto"`` leaves inputs as they are where every column lies in [-10, 10] with a standard deviation between 0.1 and
    10 (a constant column is no hindrance), and clips what is predicted later at 1.5 times the largest absolute value: a
    power of a wild value would be a wild prediction. Else it standardises. Mean and standard deviation are of the
    values within ``clip`` standard deviations, measured twice, so that one wild value does not press all others
    together; a column of which nothing would be left, such as a rare indicator, keeps its plain ones.

    Args:
        X: The rows that the search sees, ``(n, d)``.
        scale: ``"auto"``, ``"none"`` or ``"standard"``.
        clip: Standard deviations at which standardised inputs are clipped.
        weight: How much each row counts, ``(n,)``; None counts all alike.

    Raises:
        InvalidArgumentError: If the rule is unknown or ``clip`` is not above 1.
    """
    if scale not in ("auto", "none", "standard"):
        raise InvalidArgumentError(f"scale must be 'auto', 'none' or 'standard', not {scale!r}.")
    if not clip > 1:
        raise InvalidArgumentError(f"clip must be above 1 standard deviation, not {clip}.")
    d = X.shape[1]
    if scale == "none":
        return Scaling(np.zeros(d), np.ones(d))
    rows = np.ones((len(X), 1)) if weight is None else weight[:, None]
    centre, spread = _moments(X, rows)
    if scale == "auto" and _fits_raw(X, spread):
        seen = np.abs(X).max(0)
        return Scaling(np.zeros(d), np.ones(d), _RAW_ROOM * float(seen.max()) or None, seen)
    for _ in range(_ROUNDS):
        mean, deviation = _moments(X, rows * (np.abs(X - centre) <= clip * spread))
        # A rare indicator must not lose the few rows in which it is 1.
        usable = deviation > 0
        centre, spread = np.where(usable, mean, centre), np.where(usable, deviation, spread)
    safe = _safe(spread, X)
    return Scaling(centre, safe, float(clip), np.abs((X - centre) / safe).max(0))


def warn_of_clipped(scaling: Scaling, X: NDArray[np.float64], names: Sequence[str]) -> None:
    """Warn of values that are clipped before something is predicted from them, and farther out than any seen.

    The warning names the line of the first caller outside this library and scikit-learn.

    Args:
        scaling: How inputs are scaled.
        X: Raw inputs, ``(n, d)``.
        names: Of the columns.
    """
    beyond = scaling.beyond(X)
    rows = int(beyond.any(1).sum())
    if not rows or scaling.clip is None:
        return
    columns = np.flatnonzero(beyond.any(0))
    low, high = scaling.undo(np.array([[-scaling.clip], [scaling.clip]]))
    shown = [
        f"{names[i]!r} to [{low[i]:.4g}, {high[i]:.4g}] (rows: {beyond[:, i].sum()})"
        for i in columns[:_SHOWN]
    ]
    more = f" and {len(columns) - _SHOWN} more columns" if len(columns) > _SHOWN else ""
    warnings.warn(
        f"Inputs far outside of those that the model was made from were clipped, rows: {rows} of {len(X)}; columns: "
        f"{', '.join(shown)}{more}. What is predicted there is what is predicted at the clip.",
        stacklevel=_level_outside(),
    )


def _level_outside() -> int:
    """Return the level of the first caller outside, as :func:`warnings.warn` counts: 1 is the caller of this one.

    The command line is a caller like any other: it shows warnings that point at it.
    """
    stack = enumerate(traceback.walk_stack(inspect.currentframe()))
    names = ((level, str(frame.f_globals.get("__name__"))) for level, (frame, _) in stack)
    return next(
        (
            level
            for level, name in names
            if name.startswith("neuronwise.cli.") or name.partition(".")[0] not in ("neuronwise", "sklearn")
        ),
        1,
    )


def scaling_of_targets(values: NDArray[np.float64], weight: NDArray[np.float64]) -> Scaling:
    """Return the scaling by mean and standard deviation of all values; targets are never clipped.

    Args:
        values: Shape ``(n, outputs)``.
        weight: How much each row counts, ``(n,)``.
    """
    centre, spread = _moments(values, weight[:, None])
    return Scaling(centre, _safe(spread, values))


def _fits_raw(X: NDArray[np.float64], spread: NDArray[np.float64]) -> bool:
    low, high = _RAW_SPREAD
    moving = np.ptp(X, axis=0) > 0
    return bool(np.abs(X).max() <= _RAW_LIMIT and ((spread >= low) & (spread <= high))[moving].all())


def _moments(
    values: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = np.maximum(np.broadcast_to(weight, values.shape).sum(0), _TINY)
    mean = (values * weight).sum(0) / total
    return mean, np.sqrt(((values - mean) ** 2 * weight).sum(0) / total)


def _safe(spread: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    constant = spread <= 1e-12 * np.maximum(np.abs(values).max(0), _TINY)
    return np.where(constant, 1.0, spread)
