"""How well formulas predict rows that no search has seen, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover.candidate import Candidate
from neuronwise.discover.problem import SearchProblem

__all__ = ["Figure", "Losses", "held_out_figures", "losses"]

Array = NDArray[np.float64]

_NORMAL = 1.96  # of the normal distribution, for 95 %
_SMALLEST = 1e-12  # of a probability


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval, NaN where it has none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def within(self, low: float = -np.inf, high: float = np.inf) -> Figure:
        """Return the figure with its interval cut to values that it can have."""
        ends = np.clip([self.low, self.high], low, high)
        return Figure(self.value, float(ends[0]), float(ends[1]))


@dataclass(frozen=True)
class Losses:
    """What a formula loses in each row, and what the constant loses there.

    Args:
        own: Squared error, or deviance, ``(n,)``.
        constant: The same of the constant: the mean, or shares of the classes, of the search's rows.
        right: Whether the most probable class is the right one, ``(n,)``; None where there are no classes.
        weight: How much each row counts.
        undefined: Rows for which the formula gives no number; they are left out.
    """

    own: Array
    constant: Array
    right: NDArray[np.bool_] | None
    weight: Array
    undefined: int

    def explained(self) -> float:
        """Return the share of the constant's loss that the formula saves (R2, or deviance explained)."""
        return 1 - float(self.weight @ self.own) / float(self.weight @ self.constant)


def losses(candidate: Candidate, problem: SearchProblem, search: SearchProblem) -> Losses:
    """Return what a candidate loses on each row of ``problem``; the constant is measured on ``search``.

    With several outputs a row's loss is the sum over outputs of squared errors in units of the output's variance.
    """
    predictor = candidate.predictor(problem.X)
    prediction = candidate.predict(problem.X).reshape(problem.n, -1)
    defined = np.isfinite(predictor).all(1) & np.isfinite(prediction).all(1)
    weight = problem.row_weight
    row = search.row_weight
    mean = row @ search.targets / row.sum()
    right = None
    if problem.task == "regression":
        spread = row @ (search.targets - mean) ** 2 / row.sum()
        own = ((problem.targets - prediction) ** 2 / spread).sum(1)
        constant = ((problem.targets - mean) ** 2 / spread).sum(1)
    elif problem.task == "count":
        own, constant = (
            _poisson(problem.y, prediction[:, 0]),
            _poisson(problem.y, np.full(problem.n, mean[0])),
        )
    else:
        chosen = (np.arange(problem.n), problem.y)
        shares = np.array([1 - mean[0], mean[0]]) if problem.outputs == 1 else mean
        own = -2 * np.log(np.maximum(prediction[chosen], _SMALLEST))
        constant = -2 * np.log(np.maximum(shares[problem.y], _SMALLEST))
        right = (prediction.argmax(1) == problem.y)[defined]
    return Losses(own[defined], constant[defined], right, weight[defined], int((~defined).sum()))


def _poisson(y: Array, mean: Array) -> Array:
    expected = np.maximum(mean, _SMALLEST)
    found: Array = 2 * (np.where(y > 0, y * np.log(np.maximum(y, 1) / expected), 0.0) - (y - expected))
    return found


def held_out_figures(
    best: Losses, linear: Losses | None, problem: SearchProblem, search: SearchProblem
) -> dict[str, Figure]:
    """Return the figures of the held-out rows, with the intervals of ratios of means (delta method).

    Args:
        best: Losses of the formula.
        linear: Losses of the linear formula on the same rows, or None.
        problem: The held-out rows.
        search: The rows of the search.
    """
    name = "r2" if problem.task == "regression" else "deviance_explained"
    figures = {name: _ratio(best.constant - best.own, best.constant, best.weight).within(high=1.0)}
    ones = np.ones(len(best.own))
    if problem.task == "regression" and problem.outputs == 1:
        row = search.row_weight
        variance = float(row @ (search.y - row @ search.y / row.sum()) ** 2 / row.sum())
        error = _ratio(best.own * variance, ones, best.weight)
        figures["rmse"] = Figure(*(max(v, 0.0) ** 0.5 for v in (error.value, error.low, error.high)))
    if best.right is not None:
        figures["accuracy"] = _ratio(best.right.astype(np.float64), ones, best.weight).within(0.0, 1.0)
        commonest = np.bincount(search.y, weights=search.weight).argmax()
        figures["accuracy_constant"] = Figure(
            float(np.average(problem.y == commonest, weights=problem.weight))
        )
    if linear is not None and len(linear.own) == len(best.own):
        explained = _ratio(linear.constant - linear.own, linear.constant, linear.weight)
        figures[f"{name}_linear"] = explained.within(high=1.0)
        figures["gain_over_linear"] = _ratio(linear.own - best.own, best.constant, best.weight)
    return figures


def _ratio(above: Array, below: Array, weight: Array) -> Figure:
    """Return ``sum(above) / sum(below)`` with its interval: a row counts by how much it bends the ratio."""
    size = float(weight @ below)
    value = float(weight @ above) / size
    error = float(np.sqrt((weight**2) @ (above - value * below) ** 2)) / size
    return Figure(value, value - _NORMAL * error, value + _NORMAL * error)
