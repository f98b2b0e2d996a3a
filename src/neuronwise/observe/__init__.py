"""Watching neurons: one streaming pass over a corpus, with reducers, on any engine."""

from neuronwise.observe.ablation import METRICS, Ablation, Metric, ablate
from neuronwise.observe.activations import Activations, BatchInfo
from neuronwise.observe.active import ActiveFraction
from neuronwise.observe.activity import Activity
from neuronwise.observe.class_means import ClassMeans
from neuronwise.observe.coactivation import CoActivation
from neuronwise.observe.examples import TopExamples
from neuronwise.observe.extremes import Extremes
from neuronwise.observe.histogram import Histogram
from neuronwise.observe.moments import Moments
from neuronwise.observe.monosemanticity import Monosemanticity, monosemanticity
from neuronwise.observe.observe import REDUCERS, observe
from neuronwise.observe.observer import Observer, batch_info
from neuronwise.observe.quantiles import Quantiles
from neuronwise.observe.reducer import Reducer
from neuronwise.observe.sample import RowSample
from neuronwise.observe.statistics import AllReduce, RunningStatistics, Unit

__all__ = [
    "METRICS",
    "REDUCERS",
    "Ablation",
    "Activations",
    "ActiveFraction",
    "Activity",
    "AllReduce",
    "BatchInfo",
    "ClassMeans",
    "CoActivation",
    "Extremes",
    "Histogram",
    "Metric",
    "Moments",
    "Monosemanticity",
    "Observer",
    "Quantiles",
    "Reducer",
    "RowSample",
    "RunningStatistics",
    "TopExamples",
    "Unit",
    "ablate",
    "batch_info",
    "monosemanticity",
    "observe",
]
