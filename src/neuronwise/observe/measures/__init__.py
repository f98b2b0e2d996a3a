"""What can be said of activations ``(n, unit)``: how monosemantic units are, by measures that disagree."""

from neuronwise.observe.measures._arrays import finite_rows
from neuronwise.observe.measures.basis import principal_directions, random_directions, turned
from neuronwise.observe.measures.capacity import capacity, weight_proxy
from neuronwise.observe.measures.decorrelation import Gram, decorrelation
from neuronwise.observe.measures.detection import (
    Detection,
    ProbeScore,
    auc,
    detection,
    f_statistic,
    mutual_information,
    sparse_probe,
)
from neuronwise.observe.measures.fms import FeatureScore, fms, fms_score
from neuronwise.observe.measures.liveness import Liveness, liveness
from neuronwise.observe.measures.monoscore import linear_monoscore, monoscore
from neuronwise.observe.measures.phi import (
    PhiTail,
    false_killing_rate,
    feature_phi,
    kurtosis,
    monosemantic_feature,
    phi,
    phi_tail,
    sample_peak,
)
from neuronwise.observe.measures.selectivity import (
    Signed,
    TopPrecision,
    ccmas,
    class_selectivity,
    top_precision,
)
from neuronwise.observe.measures.sparsity import gini, hoyer, lifetime_sparsity, population_sparsity
from neuronwise.observe.measures.table import MEASURES, Measure, Need, Sample, chosen_measures

__all__ = [
    "MEASURES",
    "Detection",
    "FeatureScore",
    "Gram",
    "Liveness",
    "Measure",
    "Need",
    "PhiTail",
    "ProbeScore",
    "Sample",
    "Signed",
    "TopPrecision",
    "auc",
    "capacity",
    "ccmas",
    "chosen_measures",
    "class_selectivity",
    "decorrelation",
    "detection",
    "f_statistic",
    "false_killing_rate",
    "feature_phi",
    "finite_rows",
    "fms",
    "fms_score",
    "gini",
    "hoyer",
    "kurtosis",
    "lifetime_sparsity",
    "linear_monoscore",
    "liveness",
    "monoscore",
    "monosemantic_feature",
    "mutual_information",
    "phi",
    "phi_tail",
    "population_sparsity",
    "principal_directions",
    "random_directions",
    "sample_peak",
    "sparse_probe",
    "top_precision",
    "turned",
    "weight_proxy",
]
