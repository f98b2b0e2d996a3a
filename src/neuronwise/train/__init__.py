"""Training: monosemanticity inhibited or encouraged in any training loop."""

from neuronwise.train.audit import audit
from neuronwise.train.audited import Audit
from neuronwise.train.controller import Controller
from neuronwise.train.decorrelation import Decorrelation
from neuronwise.train.excess import ExcessPenalty
from neuronwise.train.health import NeuronHealth
from neuronwise.train.method import Method
from neuronwise.train.methods import METHODS
from neuronwise.train.monoscore import MonoScoreReward
from neuronwise.train.monosemanticity import Monosemanticity
from neuronwise.train.penalties import L2E, KurtosisPenalty, TailPenalty
from neuronwise.train.replacement import (
    GatedReversal,
    MEmeL,
    MEmeLTune,
    NaiveDeactivation,
    ReversedDeactivation,
)
from neuronwise.train.selectivity import ClassSelectivity
from neuronwise.train.solu import SoLU
from neuronwise.train.view import View

__all__ = [
    "L2E",
    "METHODS",
    "Audit",
    "ClassSelectivity",
    "Controller",
    "Decorrelation",
    "ExcessPenalty",
    "GatedReversal",
    "KurtosisPenalty",
    "MEmeL",
    "MEmeLTune",
    "Method",
    "MonoScoreReward",
    "Monosemanticity",
    "NaiveDeactivation",
    "NeuronHealth",
    "ReversedDeactivation",
    "SoLU",
    "TailPenalty",
    "View",
    "audit",
]
