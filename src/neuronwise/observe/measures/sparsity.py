"""How few samples (or units) carry a unit's (or sample's) activation. All take the size of signed values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from neuronwise.observe.measures._arrays import by_units, matrix, reduced_rows

__all__ = ["gini", "hoyer", "lifetime_sparsity", "population_sparsity"]


def lifetime_sparsity(activations: Any) -> Tensor:
    r"""Return :math:`(1 - \overline{|a|}^2/\overline{a^2})/(1 - 1/n)` of every unit over the samples, ``(unit,)``.

    0 for a constant size, 1 for a single active sample; NaN for a unit that is always 0. Needs no labels. Blind to what
    the active samples have in common; a constant offset makes any unit look dense.

    Source: Rolls and Tovee (1995); Vinje and Gallant (2000).
    """
    return by_units(lambda a: _treves_rolls(a, 0), activations)


def population_sparsity(activations: Any) -> Tensor:
    """Return the same over the units of every sample, ``(n,)``.

    Needs no labels. Blind to who the active units are: it is high, too, where the same few fire on every sample, and
    depends on the relative scales of the units.
    """
    return reduced_rows(lambda a: _treves_rolls(a, 1), matrix(activations))


def hoyer(activations: Any) -> Tensor:
    r"""Return Hoyer's :math:`(\sqrt n - L_1/L_2)/(\sqrt n - 1)` of every unit over the samples, ``(unit,)``, 0 to 1.

    Scale free. Needs no labels. Blind to what the active samples have in common, and to a constant offset as above.
    """

    def measure(a: Tensor) -> Tensor:
        root = math.sqrt(a.shape[0])
        ratio = a.abs().sum(0) / a.square().sum(0).sqrt()
        return (root - ratio) / (root - 1) if a.shape[0] > 1 else torch.full_like(ratio, torch.nan)

    return by_units(measure, activations)


def gini(activations: Any) -> Tensor:
    r"""Return the Gini index of the sizes of every unit's activations, ``(unit,)``, 0 to 1 - 1/n.

    :math:`1 - 2\sum_i \frac{|a|_{(i)}}{L_1}\,\frac{n - i + 1/2}{n}`, sizes ascending. Scale free, keeps its value when
    all samples are doubled. Needs no labels. Blind to what the active samples have in common.

    Source: Hurley and Rickard (2009), Eq. 21.
    """

    def measure(a: Tensor) -> Tensor:
        n = a.shape[0]
        sizes = a.abs().sort(0).values
        weights = (n - torch.arange(1, n + 1, dtype=a.dtype, device=a.device) + 0.5) / n
        return 1.0 - 2.0 * (weights[:, None] * sizes).sum(0) / sizes.sum(0)

    return by_units(measure, activations)


def _treves_rolls(a: Tensor, axis: int) -> Tensor:
    n = a.shape[axis]
    ratio = a.abs().mean(axis).square() / a.square().mean(axis)
    return (1.0 - ratio) / (1.0 - 1.0 / n) if n > 1 else torch.full_like(ratio, torch.nan)
