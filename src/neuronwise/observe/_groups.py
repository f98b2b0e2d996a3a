"""Standard errors from groups of batches: the weighted delete-a-group jackknife.

Neighbouring tokens are not independent, so the textbook formulas for independent draws understate the error of every
statistic of activations. Whole batches are dealt to a fixed number of groups instead, and a statistic's spread over
"all groups but one" gives its standard error whatever the dependence within a batch.

Source: F. Busing, E. Meijer, R. van der Leeden, "Delete-m jackknife for unequal m", Statistics and Computing 9 (1999).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUPS", "Floats", "jackknife", "pool"]

Floats = NDArray[np.float64]

#: Groups of batches. The relative error of a standard error from g groups is about 1/sqrt(2 (g - 1)): 18 % for 16.
GROUPS = 16


def pool(n: Floats, mean: Floats, *central: Floats) -> tuple[Floats, ...]:
    """Pool groups' counts, means and central sums of powers 2, 3, 4 over their first axis.

    Args:
        n: Counts ``(..., group, neuron)``.
        mean: Means, same shape; ignored where the count is 0.
        *central: Sums over the group of ``(x - mean)**p`` for p = 2, then 3, then 4, as far as wanted.

    Returns:
        Count, mean and central sums with the group axis gone.

    Source: P. Pebay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
    moments", Sandia report SAND2008-6212 (2008).
    """
    total = n.sum(-2)
    safe = np.where(total > 0, total, 1.0)
    # Subtracting a common centre first keeps the weighted mean exact to rounding for large means.
    centre = np.where(n > 0, mean, 0.0).max(-2)
    pooled = centre + (n * np.where(n > 0, mean - centre[..., None, :], 0.0)).sum(-2) / safe
    shift = np.where(n > 0, mean - pooled[..., None, :], 0.0)
    sums: list[Floats] = []
    if len(central) > 0:
        sums.append((central[0] + n * shift**2).sum(-2))
    if len(central) > 1:
        sums.append((central[1] + 3 * shift * central[0] + n * shift**3).sum(-2))
    if len(central) > 2:
        sums.append((central[2] + 4 * shift * central[1] + 6 * shift**2 * central[0] + n * shift**4).sum(-2))
    return (total, np.where(total > 0, pooled, np.nan), *sums)


def jackknife(
    statistic: Callable[..., dict[str, Floats]], n: Floats, *parts: Floats
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return statistics over all groups and their jackknife standard errors.

    Args:
        statistic: Takes counts and parts ``(..., group, neuron)`` and returns arrays ``(..., neuron)`` by name.
        n: Counts ``(group, neuron)``.
        *parts: Further group-wise arrays, same shape.

    Returns:
        The statistics, and their standard errors: NaN where fewer than two groups have seen anything.
    """
    groups = n.shape[0]
    whole = statistic(n, *parts)
    keep = (1.0 - np.eye(groups))[:, :, None]
    without = statistic(n[None] * keep, *(part[None] * keep for part in parts))
    total = n.sum(0)
    used = n > 0
    count = used.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.where(used, total / np.where(used, n, 1.0), np.inf)
        errors: dict[str, Floats] = {}
        for name, value in whole.items():
            pseudo = np.where(used, h * value - (h - 1.0) * without[name], 0.0)
            centre = np.where(used, pseudo / h, 0.0).sum(
                0
            )  # large groups count for more (Busing et al. 1999)
            spread = np.where(used, (pseudo - centre) ** 2 / (h - 1.0), 0.0)
            errors[name] = np.where(count > 1, np.sqrt(spread.sum(0) / count), np.nan)
    return whole, errors
