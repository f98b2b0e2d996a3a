"""Estimators in the manner of scikit-learn: networks of task neurons, formulas, base functions as features."""

from neuronwise.estimators._guard import Guard
from neuronwise.estimators.classifier import TaskNeuronClassifier
from neuronwise.estimators.formula_model import FormulaClassifier, FormulaRegressor
from neuronwise.estimators.regressor import TaskNeuronRegressor
from neuronwise.estimators.transformer import BaseFunctionTransformer

__all__ = [
    "BaseFunctionTransformer",
    "FormulaClassifier",
    "FormulaRegressor",
    "Guard",
    "TaskNeuronClassifier",
    "TaskNeuronRegressor",
]
