"""Estimators in the manner of scikit-learn: networks of task neurons, formulas, base functions as features."""

from neuronwise.estimators._guard import Guard
from neuronwise.estimators.classifier import TaskNeuronClassifier
from neuronwise.estimators.compare import compare
from neuronwise.estimators.comparison import Comparison
from neuronwise.estimators.formula_model import FormulaClassifier, FormulaRegressor
from neuronwise.estimators.loading import load_estimator
from neuronwise.estimators.regressor import TaskNeuronRegressor
from neuronwise.estimators.transformer import BaseFunctionTransformer

__all__ = [
    "BaseFunctionTransformer",
    "Comparison",
    "FormulaClassifier",
    "FormulaRegressor",
    "Guard",
    "TaskNeuronClassifier",
    "TaskNeuronRegressor",
    "compare",
    "load_estimator",
]
