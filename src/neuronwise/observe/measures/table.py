"""The table of measures: what each needs, what it sees, and what it cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.observe.measures._arrays import by_units, matrix
from neuronwise.observe.measures.capacity import capacity, weight_proxy
from neuronwise.observe.measures.decorrelation import decorrelation
from neuronwise.observe.measures.detection import Detection, detection, mutual_information, sparse_probe
from neuronwise.observe.measures.fms import fms
from neuronwise.observe.measures.monoscore import monoscore
from neuronwise.observe.measures.phi import (
    PhiTail,
    false_killing_rate,
    kurtosis,
    monosemantic_feature,
    phi_tail,
    sample_peak,
)
from neuronwise.observe.measures.selectivity import TopPrecision, ccmas, class_selectivity, top_precision
from neuronwise.observe.measures.sparsity import gini, hoyer, lifetime_sparsity, population_sparsity

__all__ = ["MEASURES", "Measure", "Need", "Sample", "chosen_measures", "markdown"]

#: What a measure may need beside activations.
Need = Literal["labels", "embeddings", "weights", "biases"]


@dataclass(frozen=True)
class Sample:
    """What is known of a site's activations on some samples.

    Args:
        activations: ``(n, unit)``.
        mean: Mean of every unit by other samples, ``(unit,)``; default: by these.
        variance: Variance of every unit by other samples; default: by these.
        labels: Class of every sample, below 0 for none, ``(n,)``.
        embeddings: By another encoder, ``(n, dimension)``.
        weights: What reads into every unit, ``(unit, dimension)``.
        biases: ``(unit,)``.
        seed: Seed of the splits that probes are measured by.
    """

    activations: Tensor
    mean: Tensor | None = None
    variance: Tensor | None = None
    labels: Tensor | None = None
    embeddings: Tensor | None = None
    weights: Tensor | None = None
    biases: Tensor | None = None
    seed: int = 0

    def has(self, need: Need) -> bool:
        """Return whether that is known."""
        return getattr(self, need) is not None

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every unit, those of other samples where they were given."""
        if self.mean is not None and self.variance is not None:
            return self.mean, self.variance
        tensor = matrix(self.activations)
        return by_units(lambda z: z.mean(0), tensor), by_units(lambda z: z.var(0), tensor)

    @cached_property
    def detection(self) -> Detection:
        """Every unit as a detector of every class, computed once for all measures that take it."""
        return detection(self.activations, self.labels)

    @cached_property
    def tail(self) -> PhiTail:
        """The tail of phi, computed once."""
        return phi_tail(self.activations, *self.statistics)

    @cached_property
    def precision(self) -> TopPrecision:
        """The strongest samples of every unit, computed once."""
        return top_precision(self.activations, self.labels)


@dataclass(frozen=True)
class Measure:
    """One measure.

    Args:
        name: Its name.
        function: From a :class:`Sample` to a number for every unit, or one for the site.
        per: ``"neuron"`` or ``"site"``.
        needs: What it needs beside activations.
        range: The values it can have, as text.
        sees: What it measures.
        blind_to: What it cannot see, and what misleads it.
        scale_free: Whether multiplying the whole site by a positive number leaves it unchanged.
    """

    name: str
    function: Callable[[Sample], Tensor]
    per: Literal["neuron", "site"]
    range: str
    sees: str
    blind_to: str
    needs: tuple[Need, ...] = ()
    scale_free: bool = True

    @property
    def of_activations(self) -> bool:
        """Whether it is one of activations, so that it can be had in another basis too, and not of weights."""
        return not {"weights", "biases"} & set(self.needs)

    def missing(self, sample: Sample) -> list[Need]:
        """Return what it needs and the sample does not have."""
        return [need for need in self.needs if not sample.has(need)]


def chosen_measures(wanted: Iterable[str] | None) -> tuple[Measure, ...]:
    """Return measures by their names; default: all.

    Raises:
        InvalidArgumentError: If there is no such measure.
    """
    if wanted is None:
        return tuple(MEASURES.values())
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in MEASURES:
            raise InvalidArgumentError(f"There is no measure {name!r}. {closest(name, MEASURES)}")
    return tuple(MEASURES[name] for name in dict.fromkeys(names))


def _mean(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64).mean()


def _false_killing(sample: Sample) -> Tensor:
    rate = false_killing_rate(sample.activations, sample.labels, *sample.statistics, share=0.02, floor=0.01)
    return torch.tensor(rate, dtype=torch.float64)


def _probe(sample: Sample) -> Tensor:
    scores = sparse_probe(sample.activations, sample.labels, seed=sample.seed)
    return _mean(score.balanced_accuracy for score in scores)


def _fms(sample: Sample) -> Tensor:
    return _mean(score.score for score in fms(sample.activations, sample.labels, seed=sample.seed))


def _kurtosis(sample: Sample) -> Tensor:
    return kurtosis(sample.activations, *sample.statistics, floor=0.01)


def _table(*measures: Measure) -> Mapping[str, Measure]:
    return MappingProxyType({measure.name: measure for measure in measures})


def _labelled(name: str, function: Callable[[Sample], Tensor], **rest: Any) -> Measure:
    return Measure(name, function, needs=("labels",), **rest)


_RARE = "what the unit fires for: phi is rarity, so two rare features look like one, a drop like a rise"
_COMMON = "what the active samples have in common; an offset makes any unit look dense"

#: The measures by name. A new one is a function in a file of this folder and an entry here.
MEASURES: Mapping[str, Measure] = _table(
    Measure(
        "phi_top",
        lambda sample: sample.tail.top,
        "neuron",
        "0 and above",
        "the mean of the largest 1 % of phi",
        _RARE,
    ),
    Measure(
        "phi_above_9",
        lambda sample: sample.tail.share,
        "neuron",
        "0 to 1",
        "the share of samples more than three standard deviations from the mean; 0.0027 for a Gaussian",
        f"{_RARE}; by own statistics it cannot exceed 1/9",
    ),
    Measure(
        "phi_peak",
        lambda sample: sample.tail.peak,
        "neuron",
        "0 and above",
        "the largest phi",
        f"{_RARE}; one sample decides, and it grows with the number of samples",
    ),
    Measure(
        "sample_peak",
        lambda sample: sample_peak(sample.activations, *sample.statistics).mean(),
        "site",
        "0 and above",
        "the mean over samples of the largest phi among the units, what top-1 selection picks",
        f"{_RARE}; wider sites have larger ones",
    ),
    Measure(
        "kurtosis",
        _kurtosis,
        "neuron",
        "about 1 and above",
        "the mean of phi squared; 3 for a Gaussian",
        f"{_RARE}; single samples and near-dead units rule it: read medians",
    ),
    Measure(
        "lifetime_sparsity",
        lambda sample: lifetime_sparsity(sample.activations),
        "neuron",
        "0 to 1",
        "how few samples carry the activation",
        _COMMON,
    ),
    Measure(
        "population_sparsity",
        lambda sample: population_sparsity(sample.activations).nanmean(),
        "site",
        "0 to 1",
        "how few units carry the activation of a sample",
        "whether they are the same units for every sample; the scales of the units against each other",
    ),
    Measure(
        "hoyer",
        lambda sample: hoyer(sample.activations),
        "neuron",
        "0 to 1",
        "how few samples carry the activation",
        _COMMON,
    ),
    Measure(
        "gini",
        lambda sample: gini(sample.activations),
        "neuron",
        "0 to 1",
        "how unequal the sizes of the activations are",
        _COMMON,
    ),
    _labelled(
        "feature_phi",
        lambda sample: monosemantic_feature(sample.activations, sample.labels, *sample.statistics)[1],
        per="neuron",
        range="0 and above",
        sees="the mean phi on the samples of the unit's feature l*; 1 for a unit that does not care",
        blind_to="features that are not among the classes; rare classes reach higher values",
    ),
    _labelled(
        "false_killing_rate",
        _false_killing,
        per="site",
        range="0 to 1",
        sees="the share of the top 2 % of phi that do not belong to their unit's feature",
        blind_to="whether the classes are features: 5 % or 67 % of the same model by the choice of classes",
    ),
    _labelled(
        "class_selectivity",
        lambda sample: class_selectivity(sample.activations, sample.labels),
        per="neuron",
        range="0 to 1",
        sees="how much the mean of the best class exceeds that of the others; negative values count as 0",
        blind_to="overlap, as it compares means; selectivity for several classes; not free of an offset",
    ),
    _labelled(
        "ccmas",
        lambda sample: ccmas(sample.activations, sample.labels),
        per="neuron",
        range="0 to 1",
        sees="the same against all other samples; negative values count as 0",
        blind_to="overlap; overestimates selectivity",
    ),
    _labelled(
        "precision",
        lambda sample: sample.precision.precision,
        per="neuron",
        range="0 to 1",
        sees="the share of the most frequent class among the 100 strongest samples",
        blind_to="all other samples: overestimates selectivity; read the hit rate beside it",
    ),
    _labelled(
        "hit_rate",
        lambda sample: sample.precision.hit_rate,
        per="neuron",
        range="0 to 1",
        sees="the share of that class that is among the 100 strongest samples",
        blind_to="larger classes cannot reach 1",
    ),
    _labelled(
        "false_alarm_rate",
        lambda sample: sample.precision.false_alarm_rate,
        per="neuron",
        range="0 to 1",
        sees="the share of all other samples that is among the 100 strongest",
        blind_to="it is small by construction where samples are many",
    ),
    _labelled(
        "auc",
        lambda sample: sample.detection.best("auc")[0],
        per="neuron",
        range="0 to 1",
        sees="the unit as detector of its best class, over all thresholds; 1/2 is chance for one class",
        blind_to="how rare the class is; detection by small values; the best of many classes exceeds 1/2 by chance",
    ),
    _labelled(
        "f1",
        lambda sample: sample.detection.best("f1")[0],
        per="neuron",
        range="0 to 1",
        sees="precision and recall of the best class at the best threshold",
        blind_to="a class of share p has 2p/(1 + p) for free; threshold chosen on the same samples",
    ),
    _labelled(
        "mcc",
        lambda sample: sample.detection.best("mcc")[0],
        per="neuron",
        range="0 to 1",
        sees="the correlation of the best threshold with the best class",
        blind_to="detection by small values; threshold chosen on the same samples",
    ),
    _labelled(
        "average_precision",
        lambda sample: sample.detection.best("average_precision")[0],
        per="neuron",
        range="0 to 1",
        sees="the mean precision over recall of the best class",
        blind_to="a class of share p has p for free; detection by small values",
    ),
    _labelled(
        "mutual_information",
        lambda sample: mutual_information(sample.activations, sample.labels),
        per="neuron",
        range="0 to the entropy of the classes, nats",
        sees="all that a unit says of the class, by any value",
        blind_to="whether that is one class or a mixture; above 0 by chance",
    ),
    _labelled(
        "sparse_probe",
        _probe,
        per="site",
        range="0 to 1",
        sees="the held-out balanced accuracy of the best single unit, mean over classes; 1/2 is chance",
        blind_to="what else the best units stand for, and all other units",
    ),
    _labelled(
        "fms",
        _fms,
        per="site",
        range="0 to 1",
        sees="whether one unit suffices for a class, is not replaceable and needs no help, mean over classes",
        blind_to="what else that unit stands for; capped by how well the site knows the class",
    ),
    Measure(
        "monoscore",
        lambda sample: monoscore(sample.activations, sample.embeddings),
        "neuron",
        "-1 to 1",
        "whether another encoder finds the samples alike that the unit fires for",
        "what the encoder does not tell apart; a unit that always fires scores the mean similarity, not 0",
        ("embeddings",),
    ),
    Measure(
        "decorrelation_samples",
        lambda sample: decorrelation(sample.activations, gram="sample"),
        "site",
        "0 to about 1",
        "how little two samples have in common",
        "the units: any rotation leaves it unchanged; an offset brings it to 0",
    ),
    Measure(
        "decorrelation_features",
        lambda sample: decorrelation(sample.activations, gram="feature"),
        "site",
        "0 to 1",
        "how little two units have in common",
        "dependence that is not linear; all uncorrelated bases look alike",
    ),
    Measure(
        "capacity",
        lambda sample: capacity(sample.weights),
        "neuron",
        "0 to 1",
        "the share of an input dimension that the neuron has for itself",
        "whether what overlaps ever occurs together; these are neurons, not features",
        ("weights",),
    ),
    Measure(
        "weight_proxy",
        lambda sample: weight_proxy(sample.weights, sample.biases),
        "neuron",
        "any; about 1/3 and below",
        "b |w|: in the toy model lower with more features on a unit",
        "the activations; the scale of the inputs: not comparable between models",
        ("weights", "biases"),
        scale_free=False,
    ),
)


def markdown() -> str:
    """Return the table of measures as Markdown, for the reference page."""
    lines = [
        "| measure | of | needs | range | sees | cannot see, is misled by |",
        "|---|---|---|---|---|---|",
    ]
    for measure in MEASURES.values():
        needs = ", ".join(measure.needs) or "nothing"
        scale = "" if measure.scale_free else " (not scale free)"
        lines.append(
            f"| `{measure.name}` | {measure.per} | {needs} | {measure.range}{scale} | {measure.sees} | "
            f"{measure.blind_to} |".replace("|w|", "\\|w\\|")
        )
    return "\n".join(lines) + "\n"
