"""The picture of a fitted estimator: how training went, and the formula input by input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["curves", "draw", "ranges"]

# More curves than this cannot be told apart.
MOST_CURVES = 6
POINTS = 201
# Share of the rows of an input beyond what is drawn.
SHARE_OUTSIDE = 0.02


def draw(estimator: Any, ax: Any = None) -> Any:
    """Draw learning curves, and beside them the terms of the formula; see :meth:`TaskNeuronRegressor.plot`.

    Args:
        estimator: A fitted one.
        ax: Axes for the learning curves alone.
    """
    if ax is not None:
        _learning(estimator, ax)
        return ax
    from matplotlib.figure import Figure

    found = curves(estimator)
    # Not through pyplot: a figure that nobody shows must not stay open.
    figure = Figure(figsize=(9 if found is not None else 4.8, 3.4), layout="constrained")
    axes = figure.subplots(1, 1 if found is None else 2, squeeze=False)[0]
    _learning(estimator, axes[0])
    if found is not None:
        unit = "input" if estimator.scale_ == "none" else "input (standardised)"
        _terms(found, axes[1], str(estimator.formula_), unit)
    return axes if found is not None else axes[0]


def _learning(estimator: Any, ax: Any) -> None:
    history = estimator.history_
    ax.plot(history["epoch"], history["train_loss"], label="training part")
    if history["validation_loss"].notna().any():
        ax.plot(history["epoch"], history["validation_loss"], label="validation part")
    ax.axvline(estimator.best_epoch_, color="0.6", linewidth=0.8, linestyle="--", label="kept weights")
    if (history["train_loss"] > 0).all():
        ax.set_yscale("log")
    ax.set(
        xlabel="epoch",
        ylabel="loss",
        title=f"Training ({'linear' if estimator.kind_ is None else 'task'} neurons)",
    )
    ax.legend(frameon=False)


def curves(estimator: Any) -> pd.DataFrame | None:
    """Return the parts of the formula that belong to single inputs: columns input, value, effect.

    Each over the values that most of the training part has, in the units of the formula. Only the inputs with the
    largest effects are there. None where the formula is no sum of weighted base functions with
    numbers.
    """
    formula = estimator.formula_
    if formula is None:
        return None
    elementwise = [term for term in formula.terms if term.kind == "elementwise"]
    numbers = formula.weights
    if not elementwise or any(term.weight is not None and term.weight not in numbers for term in elementwise):
        return None
    inputs = estimator.n_features_in_
    low, high = estimator._ranges
    grid = np.linspace(low, high, POINTS, axis=1)
    effects = np.zeros((inputs, POINTS))
    for term in elementwise:
        weight = (
            np.ones(inputs) if term.weight is None else np.asarray(numbers[term.weight], dtype=np.float64)
        )
        effects += term.coefficient * np.broadcast_to(weight, (inputs,))[:, None] * term.base(grid)
    spread = effects.std(1)
    order = [index for index in np.argsort(-spread, kind="stable")[:MOST_CURVES] if spread[index] > 0]
    names = estimator._names()
    parts = [
        pd.DataFrame(
            {"input": names[index], "value": grid[index], "effect": effects[index] - effects[index].mean()}
        )
        for index in order
    ]
    return pd.concat(parts, ignore_index=True) if parts else None


def ranges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return between which values nearly all rows of each input lie, (2, d).

    Args:
        values: Shape (n, d).
    """
    inner = np.quantile(values, [SHARE_OUTSIDE / 2, 1 - SHARE_OUTSIDE / 2], axis=0)
    # A rare indicator has next to no other values.
    whole = np.stack([values.min(0), values.max(0)])
    found: NDArray[np.float64] = np.where(inner[0] < inner[1], inner, whole)
    return found


def _terms(found: pd.DataFrame, ax: Any, formula: str, unit: str) -> None:
    for name, part in found.groupby("input", sort=False):
        ax.plot(part["value"], part["effect"], label=str(name))
    short = formula if len(formula) <= 60 else formula[:57] + "..."
    ax.set(xlabel=unit, ylabel="effect in the formula", title=short)
    ax.legend(frameon=False)
