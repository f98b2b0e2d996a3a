"""A saved estimator, whichever it is."""

from __future__ import annotations

from pathlib import Path

from neuronwise.errors import NotAResultError
from neuronwise.estimators._saving import class_name
from neuronwise.estimators.classifier import TaskNeuronClassifier
from neuronwise.estimators.formula_model import FormulaClassifier, FormulaRegressor
from neuronwise.estimators.regressor import TaskNeuronRegressor

__all__ = ["SavedEstimator", "load_estimator"]

SavedEstimator = TaskNeuronRegressor | TaskNeuronClassifier | FormulaRegressor | FormulaClassifier


def load_estimator(folder: str | Path) -> SavedEstimator:
    """Return the estimator that the method ``save`` of one wrote; nothing in the folder is executed.

    Raises:
        NotAResultError: If the folder is not one.
        IncompleteResultError: If a file is missing.
        TamperedResultError: If a file is not what was written.
    """
    path = Path(folder)
    name = class_name(path)
    for known in (TaskNeuronRegressor, TaskNeuronClassifier, FormulaRegressor, FormulaClassifier):
        if known.__name__ == name:
            found: SavedEstimator = known.load(path)
            return found
    raise NotAResultError(f"{path} is a {name}, which this neuronwise does not know.")
