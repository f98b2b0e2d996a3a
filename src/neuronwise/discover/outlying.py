"""Rows with a value so far from all others that a search would be about them and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["usual_rows"]

_TAIL = 0.005  # of the rows at either end of a column: only these can be far out
_FEWEST = 20  # rows: of fewer, nobody can say which are far out
_MOST = 0.05  # of the rows: where more would go, the columns have long tails, and all are kept


def usual_rows(
    X: NDArray[np.float64], target: NDArray[Any], task: str, *, by: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """Return which rows have no value far from all others, ``(n,)``.

    A value is far out where its distance from the central 99 % of its column is more than these are wide: for normal
    values that is beyond 7.7 standard deviations. At least one value at either end is not of the central ones, so a
    single wild one says nothing about itself. The target of a regression is looked at like an input, counts by their
    logarithm, classes not at all. Three things are no outliers: a column whose central values are all one, such as a
    rare indicator; a target where an input has such a rare value, which may explain it; and columns with tails so long
    that more than one row in 20 would go.

    Such a row brings one equation for its value alone. With enough base functions that grow there is always one that
    goes through it and hardly moves elsewhere, so it would be chosen; clipping the value leaves the row where no other
    is, with a target that belongs elsewhere.

    Args:
        X: Inputs in any units, ``(n, d)``.
        target: As in :class:`SearchProblem`.
        task: ``"regression"``, ``"classification"`` or ``"count"``.
        by: Indices of the rows by which all are judged; default: all.
    """
    rows = np.arange(len(X)) if by is None else by
    usual = np.ones(len(X), dtype=bool)
    if len(rows) < _FEWEST:
        return usual
    far, rare = _far(X, rows)
    usual &= ~far.any(1)
    if task != "classification":
        numbers = target.reshape(len(X), -1).astype(np.float64)
        beyond, _ = _far(np.log1p(numbers) if task == "count" else numbers, rows)
        usual &= ~(beyond.any(1) & ~rare.any(1))
    left = target[rows[usual[rows]]]
    if len(left) < (1 - _MOST) * len(rows) or (left == left[0]).all(0).any():
        return np.ones(len(X), dtype=bool)
    return usual


def _far(values: NDArray[np.float64], rows: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which values are far out, and which are rare ones of a column that has one value otherwise."""
    tail = math.ceil(_TAIL * len(rows))
    ends = np.partition(values[rows], (tail, len(rows) - 1 - tail), axis=0)
    low, high = ends[tail], ends[len(rows) - 1 - tail]
    with np.errstate(over="ignore"):
        beyond = np.maximum(low - values, values - high)
        wide = high - low
    return (beyond > wide) & (wide > 0), (beyond > 0) & (wide == 0)
