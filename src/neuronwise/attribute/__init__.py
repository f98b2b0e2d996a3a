"""Attribution: how much every neuron contributes to one number of a model's output."""

from neuronwise.attribute.activation import Activation
from neuronwise.attribute.attribute import METHODS, attribute, score
from neuronwise.attribute.attribution import Attribution
from neuronwise.attribute.gradient import GradientTimesActivation
from neuronwise.attribute.integrated import IntegratedGradients
from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Cost, Group, Problem, frozen_parameters
from neuronwise.attribute.quadrature import RULES, quadrature
from neuronwise.attribute.reference import Counterfactual
from neuronwise.attribute.targets import (
    Answers,
    LogitDifference,
    LogProbability,
    NeuronActivation,
    Outputs,
    Probability,
    Target,
)

__all__ = [
    "METHODS",
    "RULES",
    "Activation",
    "Answers",
    "Attribution",
    "Cost",
    "Counterfactual",
    "GradientTimesActivation",
    "Group",
    "IntegratedGradients",
    "LogProbability",
    "LogitDifference",
    "Method",
    "NeuronActivation",
    "Outputs",
    "Probability",
    "Problem",
    "Scores",
    "Target",
    "attribute",
    "frozen_parameters",
    "quadrature",
    "score",
]
