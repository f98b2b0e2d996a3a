"""How much more a unit fires for one class than for the others."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import by_units, classes_of, matrix, onehot

__all__ = ["Signed", "TopPrecision", "ccmas", "class_selectivity", "top_precision"]

#: What to do with negative activations, for which the index is not defined: cut them at 0, lift every unit by its
#: smallest value, or refuse them.
Signed = Literal["rectify", "shift", "refuse"]


class TopPrecision(NamedTuple):
    """What a unit's strongest samples are, each ``(unit,)``.

    Args:
        precision: Share of the most frequent class among them, 0 to 1.
        label: That class.
        hit_rate: Share of that class's samples that are among them.
        false_alarm_rate: Share of all other samples that are among them.
    """

    precision: Tensor
    label: Tensor
    hit_rate: Tensor
    false_alarm_rate: Tensor


def class_selectivity(activations: Any, labels: Any, *, signed: Signed = "rectify") -> Tensor:
    r"""Return the class selectivity index :math:`(\mu_{max} - \mu_{rest})/(\mu_{max} + \mu_{rest})`, ``(unit,)``.

    From the means of the classes; the rest is the mean of the other classes' means. 0 to 1; NaN for a unit that is
    always 0. Scale free, but not free of an offset. Needs labels. Blind to overlap: it compares means, so one class may
    stand out though most of its samples do not; and to selectivity for several classes together.

    Args:
        activations: ``(n, unit)``; the index is defined for values that are not negative.
        labels: Class of every sample, below 0 for none.
        signed: What to do with negative activations.

    Raises:
        InvalidArgumentError: If there are negative activations and ``signed="refuse"``.

    Source: Morcos et al. (2018); Leavitt and Morcos (arXiv 2003.01262).
    """
    tensor, codes, _ = classes_of(activations, labels)
    members = onehot(codes)
    members /= members.sum(1, keepdim=True)

    def measure(a: Tensor) -> Tensor:
        means = members @ _not_negative(a, signed)
        top = means.amax(0)
        return _index(top, (means.sum(0) - top) / (len(means) - 1))

    return by_units(measure, tensor)


def ccmas(activations: Any, labels: Any, *, signed: Signed = "rectify") -> Tensor:
    """Return the class-conditional mean activity selectivity, ``(unit,)``, 0 to 1.

    As :func:`class_selectivity`, but the rest is the mean over all samples of other classes, so that large classes
    count for more. Needs labels. It overestimates selectivity (Gale et al. 2019): look at the hit and false-alarm rates
    of :func:`top_precision` beside it.
    """
    tensor, codes, _ = classes_of(activations, labels)
    members = onehot(codes)
    n = members.sum(1, keepdim=True)

    def measure(a: Tensor) -> Tensor:
        sums = members @ _not_negative(a, signed)
        means = sums / n
        top, best = means.max(0)
        others = (sums.sum(0) - sums.gather(0, best[None])[0]) / (len(tensor) - n[best, 0])
        return _index(top, others)

    return by_units(measure, tensor)


def top_precision(activations: Any, labels: Any, *, top: int = 100) -> TopPrecision:
    """Return the share of the most frequent class among every unit's strongest samples, with hit and false-alarm rate.

    Samples that are equal at the edge count in part, so their order does not matter. Needs labels. Blind to all other
    samples, and so overestimates selectivity: precision 1 with a hit rate of 0.02 is a unit that misses 98 % of its
    class. Never below the share of the largest class where samples are many.

    Args:
        activations: ``(n, unit)``.
        labels: Class of every sample, below 0 for none.
        top: Number of strongest samples; all, if there are fewer.

    Raises:
        InvalidArgumentError: If ``top`` is below 1.

    Source: Zhou et al. (2015); Gale et al. (2019).
    """
    if top < 1:
        raise InvalidArgumentError(f"top must be at least 1, not {top}.")
    tensor, codes, names = classes_of(activations, labels)
    members = onehot(codes)
    count = min(top, len(tensor))

    def measure(a: Tensor) -> Tensor:
        level = a.kthvalue(len(a) - count + 1, 0).values
        above, equal = (a > level).double(), (a == level).double()
        weight = above + equal * ((count - above.sum(0)) / equal.sum(0))
        hits = members @ weight
        best, number = hits.max(0)
        size = members.sum(1)[number]
        return torch.stack([best / count, number.double(), best / size, (count - best) / (len(a) - size)])

    precision, number, hit, alarm = by_units(measure, matrix(tensor))
    return TopPrecision(precision, names[number.long()], hit, alarm)


def _not_negative(a: Tensor, signed: Signed) -> Tensor:
    if signed == "rectify":
        return a.clamp(min=0.0)
    if signed == "shift":
        return a - a.amin(0)
    if signed != "refuse":
        raise InvalidArgumentError(f"signed must be 'rectify', 'shift' or 'refuse', not {signed!r}.")
    if bool((a < 0).any()):
        raise InvalidArgumentError(
            "Class selectivity is not defined for negative activations. Say what to do with them: signed='rectify' "
            "cuts them at 0, signed='shift' lifts every unit by its smallest value."
        )
    return a


def _index(top: Tensor, rest: Tensor) -> Tensor:
    total = top + rest
    return torch.where(total > 0, (top - rest) / total, torch.nan)
