"""Attribution: how much every neuron contributes to one number of a model's output."""

from neuronwise.attribute.ablation import Ablation
from neuronwise.attribute.activation import Activation
from neuronwise.attribute.attribute import METHODS, attribute, score
from neuronwise.attribute.attribution import Attribution
from neuronwise.attribute.conductance import Conductance
from neuronwise.attribute.deeplift import DeepLift
from neuronwise.attribute.direct import DirectLogitAttribution
from neuronwise.attribute.elimination import Elimination, eliminate
from neuronwise.attribute.gradient import GradientTimesActivation
from neuronwise.attribute.influence import InternalInfluence
from neuronwise.attribute.integrated import IntegratedGradients
from neuronwise.attribute.log_increase import LogProbabilityIncrease
from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.noise import FusionGrad, NoiseGrad, SmoothGrad
from neuronwise.attribute.problem import Cost, Group, Problem
from neuronwise.attribute.quadrature import RULES, quadrature
from neuronwise.attribute.reference import Counterfactual
from neuronwise.attribute.selectivity import GroupSelectivity, group_selectivity
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
    "Ablation",
    "Activation",
    "Answers",
    "Attribution",
    "Conductance",
    "Cost",
    "Counterfactual",
    "DeepLift",
    "DirectLogitAttribution",
    "Elimination",
    "FusionGrad",
    "GradientTimesActivation",
    "Group",
    "GroupSelectivity",
    "IntegratedGradients",
    "InternalInfluence",
    "LogProbability",
    "LogProbabilityIncrease",
    "LogitDifference",
    "Method",
    "NeuronActivation",
    "NoiseGrad",
    "Outputs",
    "Probability",
    "Problem",
    "Scores",
    "SmoothGrad",
    "Target",
    "attribute",
    "eliminate",
    "group_selectivity",
    "quadrature",
    "score",
]
