"""Every unit as a detector of every class: how well a threshold on it tells the class from the others.

These are the measures to prefer (Gale et al. 2019): unlike class means and top samples, they count what a unit misses
and what it fires for wrongly. All look for *large* values; a unit that detects by small ones has an AUC below 1/2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import by_units, classes_of, onehot

__all__ = [
    "Detection",
    "ProbeScore",
    "auc",
    "detection",
    "f_statistic",
    "mutual_information",
    "sparse_probe",
]

_IN_CACHE = 1 << 17  # values that are worked on together on a CPU


class Detection(NamedTuple):
    """Every unit as a detector of every class, each ``(class, unit)``; thresholds are each unit's best.

    Args:
        labels: The classes, ``(class,)``.
        auc: Area under the receiver operating characteristic, 0 to 1; 1/2 is chance.
        f1: Best F1 over all thresholds, 0 to 1; firing always gives 2p/(1 + p) for a class of share p.
        mcc: Best Matthews correlation over all thresholds, 0 to 1 (0: no threshold helps).
        average_precision: Mean precision over recall, 0 to 1; p is chance.
    """

    labels: Tensor
    auc: Tensor
    f1: Tensor
    mcc: Tensor
    average_precision: Tensor

    def best(self, measure: str = "auc") -> tuple[Tensor, Tensor]:
        """Return every unit's value for the class that it detects best, and that class, each ``(unit,)``."""
        values, number = getattr(self, measure).max(0)
        return values, self.labels[number]


class ProbeScore(NamedTuple):
    """A probe on few neurons for one class, on samples that were not used to find it.

    Args:
        label: The class.
        neurons: The neurons it uses, best first.
        f1: F1, 0 to 1.
        mcc: Matthews correlation, -1 to 1.
        balanced_accuracy: Mean of the two rates of recall, 0 to 1; 1/2 is chance.
    """

    label: int
    neurons: tuple[int, ...]
    f1: float
    mcc: float
    balanced_accuracy: float


def auc(activations: Any, labels: Any) -> Tensor:
    """Return the AUC of every unit as detector of every class, ``(class, unit)``, 0 to 1; classes ascending.

    From ranks, ties at their mean, so any increasing function of a unit leaves it unchanged. Needs labels. Blind to
    how rare a class is: 0.95 may still mean that most of what a unit fires for is something else (see average
    precision); and to units that stand for several classes together.
    """
    tensor, codes, _ = classes_of(activations, labels)
    members = onehot(codes)
    n = members.sum(1, keepdim=True)

    def measure(a: Tensor) -> Tensor:
        ranks = _ranks(a)
        return (members @ ranks - n * (n + 1) / 2) / (n * (len(a) - n))

    return by_units(measure, tensor)


def detection(activations: Any, labels: Any) -> Detection:
    """Return AUC, best F1, best MCC and average precision of every unit for every class.

    Samples of equal activation pass a threshold together. Needs labels. Blind to units that stand for several classes
    together; best F1 and MCC choose their threshold on the very samples, which flatters them where a class is small.

    Args:
        activations: ``(n, unit)``.
        labels: Class of every sample, below 0 for none.
    """
    tensor, codes, names = classes_of(activations, labels)
    count = len(names)
    parts = by_units(lambda a: _curves(a, codes, count), tensor)
    return Detection(names, *parts.unbind(0))


def f_statistic(activations: Any, labels: Any) -> Tensor:
    """Return the F-statistic between every class and the rest, ``(class, unit)``; NaN for a constant unit.

    Needs labels. Blind to everything but a difference of means; see ``sklearn.feature_selection.f_classif``.
    """
    tensor, codes, _ = classes_of(activations, labels)
    members = onehot(codes)
    n = members.sum(1, keepdim=True)

    def measure(a: Tensor) -> Tensor:
        away = a - a.mean(0)
        varies = a.amax(0) > a.amin(0)
        total = away.square().sum(0)
        between = (members @ away).square() * (1 / n + 1 / (len(a) - n))
        within = (total - between).clamp(min=0.0)
        return torch.where(varies, between * (len(a) - 2) / within, torch.nan)

    return by_units(measure, tensor)


def mutual_information(activations: Any, labels: Any, *, bins: int = 16, correct: bool = False) -> Tensor:
    r"""Return :math:`I(\mathrm{bin}(a); y)` in nats of every unit, ``(unit,)``, 0 to the entropy of the classes.

    Bins hold equally many samples (fewer where values are equal: these share a bin), so the measure is free of scale
    and sees also detection by small or middling values and several classes together. Needs labels. Blind to *which*
    class, so a unit that tells one class from all others and one that mixes half of the classes score alike. By chance
    it is about (bins - 1)(classes - 1)/(2n), not 0.

    Args:
        activations: ``(n, unit)``.
        labels: Class of every sample, below 0 for none.
        bins: Number of bins, at most.
        correct: Subtract the mean of what chance gives (Miller and Madow), but not below 0.

    Raises:
        InvalidArgumentError: If there are fewer than two bins.
    """
    if bins < 2:
        raise InvalidArgumentError(f"bins must be at least 2, not {bins}.")
    tensor, codes, names = classes_of(activations, labels)
    count = len(names)

    def measure(a: Tensor) -> Tensor:
        n, width = a.shape
        ranks = _ranks(a)
        place = ((ranks - 0.5) * bins / n).long().clamp(0, bins - 1)
        cell = (torch.arange(width, device=a.device) * bins + place) * count + codes[:, None]
        table = torch.bincount(cell.flatten(), minlength=width * bins * count).double()
        table = table.reshape(width, bins, count) / n
        rows, columns = table.sum(2, keepdim=True), table.sum(1, keepdim=True)
        value = torch.xlogy(table, table / (rows * columns).clamp(min=1e-300)).sum((1, 2))
        if correct:
            used = [(part > 0).sum((1, 2)) for part in (table, rows, columns)]
            value = value - (used[0] - used[1] - used[2] + 1) / (2 * n)
        return value.clamp(min=0.0)

    return by_units(measure, tensor)


def sparse_probe(
    activations: Any, labels: Any, *, k: int = 1, test: float = 0.3, seed: int = 0
) -> tuple[ProbeScore, ...]:
    """Return, for every class, what a logistic regression on the k units of the highest F-statistic can do.

    Units are chosen and the class-balanced regression is fitted on one part of the samples, scores are those on the
    rest. Needs labels. With k = 1 it says whether *some* neuron stands for the class; blind to what else that neuron
    stands for, and to all other neurons.

    Args:
        activations: ``(n, unit)``.
        labels: Class of every sample, below 0 for none.
        k: Number of units a probe may use.
        test: Share of the samples that scores are measured on.
        seed: Seed of the split.

    Raises:
        InvalidArgumentError: If k is not from 1 to the number of units, or a class has too few samples to be split.

    Source: Gurnee et al. (arXiv 2305.01610).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

    tensor, codes, names = classes_of(activations, labels)
    if not 1 <= k <= tensor.shape[1]:
        raise InvalidArgumentError(f"k must be from 1 to the {tensor.shape[1]} units, not {k}.")
    train, rest = split(codes, test, seed)
    ranking = f_statistic(tensor[train], codes[train]).nan_to_num(nan=-1.0)
    scores = []
    for number, name in enumerate(names.tolist()):
        chosen = ranking[number].topk(k).indices
        values = tensor[:, chosen].detach().double().cpu().numpy()
        inside = values[train]
        values = (values - inside.mean(0)) / np.where(inside.std(0) > 0, inside.std(0), 1.0)
        wanted = (codes == number).cpu().numpy()
        probe = LogisticRegression(class_weight="balanced").fit(values[train], wanted[train])
        guess, truth = probe.predict(values[rest]), wanted[rest]
        scores.append(
            ProbeScore(
                int(name),
                tuple(chosen.tolist()),
                float(f1_score(truth, guess, zero_division=0.0)),
                float(matthews_corrcoef(truth, guess)),
                float(balanced_accuracy_score(truth, guess)),
            )
        )
    return tuple(scores)


def split(codes: Tensor, test: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples to fit on and those to measure on, every class in both in the same share."""
    from sklearn.model_selection import train_test_split

    try:
        train, rest = train_test_split(
            np.arange(len(codes)), test_size=test, stratify=codes.cpu().numpy(), random_state=seed
        )
    except ValueError as error:
        sizes = torch.bincount(codes)
        raise InvalidArgumentError(
            f"The samples cannot be split, a share of {test} to measure on: {error} The smallest class has "
            f"{int(sizes.min())} samples. Leave rare classes out (label -1), or take more samples."
        ) from error
    return train, rest


def _ranks(a: Tensor) -> Tensor:
    """Return the rank of every value within its unit, from 1, ties at their mean, ``(n, unit)``."""
    from scipy.stats import rankdata

    rows = a.detach().T.contiguous().cpu().numpy()  # a unit's values side by side: several times as fast
    return torch.from_numpy(rankdata(rows, axis=1)).to(a.device).T


def _curves(a: Tensor, codes: Tensor, count: int) -> Tensor:
    """Return the four measures of some units, ``(4, class, unit)``, a few at a time so that all stays in cache."""
    few = max(1, _IN_CACHE // len(a)) if a.device.type == "cpu" else a.shape[1]
    parts = [_few_curves(piece.contiguous(), codes, count) for piece in torch.split(a.T, few)]
    return torch.cat(parts, -1)


def _few_curves(rows: Tensor, codes: Tensor, count: int) -> Tensor:
    """Return the four measures of some units, ``(4, class, unit)``, from their values ``(unit, n)``."""
    n = rows.shape[1]
    middle, last = _places(rows)
    result = []
    for label in range(count):
        members = (codes == label).nonzero()[:, 0]
        p = len(members)
        # Whatever threshold is best lets in a sample of the class last, so those of the class are all that count.
        passed = last[:, members].sort(1).values
        hits = _last_equal(passed)
        inside = (passed * (n - passed)).clamp(min=1.0)  # where this is 0, so is the numerator
        mcc = (n * hits - p * passed) / (inside * (p * (n - p))).sqrt()
        result.append(
            torch.stack(
                [
                    1.0 - (middle[:, members].sum(1) - p * (p + 1) / 2) / (p * (n - p)),
                    (2 * hits / (passed + p)).amax(1),
                    mcc.amax(1).clamp(min=0.0),
                    (hits / passed).mean(1),
                ]
            )
        )
    return torch.stack(result, 1)


def _places(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return every value's place from the largest, from 1: the mean and the last place of all that equal it."""
    values, order = rows.sort(1, descending=True)
    last = _last_equal(values)
    before = torch.zeros_like(last)
    before[:, 1:] = torch.where(values[:, 1:] != values[:, :-1], last[:, :-1], 0.0)
    middle = (before.cummax(1).values + 1 + last) / 2
    return torch.empty_like(last).scatter_(1, order, middle), torch.empty_like(last).scatter_(1, order, last)


def _last_equal(ordered: Tensor) -> Tensor:
    """Return, for every value of an ordered row, the place from 1 of the last that equals it."""
    length = ordered.shape[1]
    place = torch.arange(1, length + 1, dtype=torch.float64, device=ordered.device).expand_as(ordered)
    goes_on = torch.zeros_like(ordered, dtype=torch.bool)
    goes_on[:, :-1] = ordered[:, 1:] == ordered[:, :-1]
    if not bool(goes_on.any()):
        return place.clone()
    return place.masked_fill(goes_on, float(length)).flip(1).cummin(1).values.flip(1)
