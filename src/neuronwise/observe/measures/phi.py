r"""The Monosemantic Scale and what can be read from it: its tail, its fourth moment, its features.

.. math:: \phi(z) = (z - \bar z)^2 / (S^2 + \epsilon\,\overline{S^2})

By statistics of the same n samples its mean is (n - 1)/n for every unit, so a mean of phi can neither rise nor fall:
all there is to see is how it is spread.

Source: arXiv 2312.11560, Eq. 7; arXiv 2503.23298, Eqs. 2-4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import by_units, classes_of, matrix, onehot, reduced_rows

__all__ = [
    "PhiTail",
    "false_killing_rate",
    "feature_phi",
    "kurtosis",
    "monosemantic_feature",
    "phi",
    "phi_tail",
    "sample_peak",
]


class PhiTail(NamedTuple):
    """The tail of phi of every unit, each ``(unit,)``.

    Args:
        top: Mean of the largest 1 %, at least 0.
        share: Share of the samples above the threshold, 0 to 1.
        peak: Largest phi.
    """

    top: Tensor
    share: Tensor
    peak: Tensor


def phi(activations: Any, mean: Any = None, variance: Any = None, *, floor: float = 0.01) -> Tensor:
    """Return the Monosemantic Scale of every activation, float64 ``(n, unit)``, at least 0.

    Needs no labels. Blind to what a unit fires for: it says how rare a value is. A unit that fires for two rare things
    scores as a clean one, one that fires for exactly one thing on half of the samples scores 1, and a rare drop scores
    as a rare rise.

    Args:
        activations: ``(n, unit)``.
        mean: Mean of every unit, ``(unit,)``; default: that of the activations.
        variance: Variance of every unit; default: that of the activations, divisor n - 1.
        floor: Share of the mean variance of all units that is added to each.

    Raises:
        InvalidArgumentError: If mean and variance are not given together or do not fit.
    """
    tensor = matrix(activations).double()
    centre, scale = _statistics(tensor, mean, variance, floor)
    return (tensor - centre).square() / scale


def phi_tail(
    activations: Any,
    mean: Any = None,
    variance: Any = None,
    *,
    floor: float = 0.01,
    top: float = 0.01,
    threshold: float = 9.0,
) -> PhiTail:
    """Return the tail of every unit's phi.

    Needs no labels. Blind to a polysemantic unit with rare features; grows with the number of samples (the peak) and is
    ruled by near-dead units, so leave those out (:func:`liveness`).

    Args:
        activations: ``(n, unit)``.
        mean: As in :func:`phi`; frozen statistics of *other* samples make it a held-out measure.
        variance: As in :func:`phi`.
        floor: As in :func:`phi`.
        top: Share of the samples that count as the top (at least one).
        threshold: What counts as large.
    """
    tensor = matrix(activations)
    centre, scale = _statistics(tensor, mean, variance, floor)
    count = max(1, round(top * tensor.shape[0]))
    both = torch.stack([centre, scale])

    def tails(z: Tensor, statistics: Tensor) -> Tensor:
        values = (z - statistics[0]).square() / statistics[1]
        largest = values.topk(count, 0).values
        return torch.stack([largest.mean(0), (values > threshold).double().mean(0), largest[0]])

    return PhiTail(*_with_statistics(tails, tensor, both))


def sample_peak(activations: Any, mean: Any = None, variance: Any = None, *, floor: float = 0.01) -> Tensor:
    """Return the largest phi over the units of every sample, ``(n,)``: what top-1 selection would pick."""
    tensor = matrix(activations)
    centre, scale = _statistics(tensor, mean, variance, floor)
    return reduced_rows(lambda z: ((z - centre).square() / scale).amax(1), tensor)


def kurtosis(activations: Any, mean: Any = None, variance: Any = None, *, floor: float = 0.0) -> Tensor:
    """Return the mean of phi squared of every unit, ``(unit,)``, at least 1 by own statistics (3 for a Gaussian).

    Needs no labels. Blind to which samples make the tail, and ruled by single samples: use medians over units. By own
    statistics it is the population kurtosis times ((n - 1)/n)^2; a constant unit has none: NaN.
    """
    tensor = matrix(activations)
    centre, scale = _statistics(tensor, mean, variance, floor, constant=torch.nan)
    both = torch.stack([centre, scale])
    return _with_statistics(
        lambda z, statistics: ((z - statistics[0]).square() / statistics[1]).square().mean(0), tensor, both
    )


def feature_phi(
    activations: Any, labels: Any, mean: Any = None, variance: Any = None, *, floor: float = 0.01
) -> Tensor:
    """Return the mean phi of every unit on the samples of every class, ``(class, unit)``, at least 0 (Eq. 2 of L2E).

    Needs labels that part the samples. Blind to features that are not among the classes: a unit is monosemantic
    *relative to the partition*.
    """
    centre, scale = _statistics(matrix(activations), mean, variance, floor)
    tensor, codes, _ = classes_of(activations, labels)
    members = onehot(codes)
    share = members / members.sum(1, keepdim=True)
    return _with_statistics(
        lambda z, statistics: share @ ((z - statistics[0]).square() / statistics[1]),
        tensor,
        torch.stack([centre, scale]),
    )


def monosemantic_feature(
    activations: Any, labels: Any, mean: Any = None, variance: Any = None, *, floor: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Return every unit's relatively monosemantic feature l* and its phi, each ``(unit,)`` (Eq. 3 of L2E).

    Returns:
        The label, and the mean phi on its samples: 1 is what a unit has that does not care for the classes.
    """
    values = feature_phi(activations, labels, mean, variance, floor=floor)
    best, number = values.max(0)
    return classes_of(activations, labels)[2][number], best


def false_killing_rate(
    activations: Any,
    labels: Any,
    mean: Any = None,
    variance: Any = None,
    *,
    k: int | None = None,
    share: float | None = None,
    floor: float = 0.0,
) -> float:
    """Return the share of the k largest phi, over all samples and units, that are not of their unit's feature l*.

    0 to 1 (Eq. 4 of L2E); entries equal to the k-th largest all count. Needs labels that part the samples. Blind to
    whether the classes are features at all; the choice of classes decides the result.

    Args:
        activations: ``(n, unit)``.
        labels: Class of every sample, below 0 for none.
        mean: As in :func:`phi`.
        variance: As in :func:`phi`.
        k: How many entries an inhibitor would pick.
        share: The same as a share of all entries; one of the two is needed.
        floor: As in :func:`phi`.

    Raises:
        InvalidArgumentError: If not exactly one of ``k`` and ``share`` is given, or it picks nothing or too much.
    """
    if (k is None) == (share is None):
        raise InvalidArgumentError("Give either k, a number of entries, or share, a share of all entries.")
    centre, scale = _statistics(matrix(activations), mean, variance, floor)
    tensor, codes, names = classes_of(activations, labels)
    feature, _ = monosemantic_feature(tensor, names[codes], centre, scale, floor=0.0)
    count = k if k is not None else max(1, round((share or 0.0) * tensor.numel()))
    if not 1 <= count <= tensor.numel():
        raise InvalidArgumentError(
            f"k must be from 1 to {tensor.numel()}, the number of entries, not {count}."
        )
    both = torch.stack([centre, scale, feature.double()])
    largest = torch.empty(0, dtype=torch.float64, device=tensor.device)

    def level(z: Tensor, statistics: Tensor) -> Tensor:
        nonlocal largest
        values = torch.cat([largest, ((z - statistics[0]).square() / statistics[1]).flatten()])
        largest = values.topk(min(count, len(values)), sorted=False).values
        return statistics[0]

    def picked(z: Tensor, statistics: Tensor) -> Tensor:
        chosen = (z - statistics[0]).square() / statistics[1] >= largest.amin()
        wrong = names[codes][:, None] != statistics[2]
        return torch.stack([(chosen & wrong).sum(0), chosen.sum(0)])

    _with_statistics(level, tensor, both)
    wrong, all_picked = _with_statistics(picked, tensor, both).sum(1)
    return float(wrong / all_picked)


def _statistics(
    tensor: Tensor, mean: Any, variance: Any, floor: float, *, constant: float = torch.inf
) -> tuple[Tensor, Tensor]:
    """Return mean and stabilised variance in float64; ``constant`` where the latter is 0."""
    if (mean is None) != (variance is None):
        raise InvalidArgumentError("Give mean and variance together, or neither.")
    if mean is None:
        centre = by_units(lambda z: z.mean(0), tensor)
        spread = by_units(_variance, tensor)
    else:
        centre = torch.as_tensor(mean, dtype=torch.float64, device=tensor.device).reshape(-1)
        spread = torch.as_tensor(variance, dtype=torch.float64, device=tensor.device).reshape(-1)
        if centre.shape != tensor.shape[1:] or spread.shape != tensor.shape[1:]:
            raise InvalidArgumentError(
                f"mean and variance must have one number for each of {tensor.shape[1]} units, not {len(centre)} and "
                f"{len(spread)}."
            )
    scale = spread + floor * spread.mean()
    return centre, torch.where(scale > 0, scale, constant)


def _variance(z: Tensor) -> Tensor:
    if len(z) < 2:
        return torch.zeros_like(z[0])
    return torch.where(z.amax(0) > z.amin(0), z.var(0), 0.0)  # the mean of equal values is rounded


def _with_statistics(function: Any, tensor: Tensor, statistics: Tensor) -> Tensor:
    """Work on some units at a time, with their columns of the statistics."""
    seen = 0

    def piece(z: Tensor) -> Tensor:
        nonlocal seen
        seen += z.shape[1]
        result: Tensor = function(z, statistics[:, seen - z.shape[1] : seen])
        return result

    return by_units(piece, tensor)
