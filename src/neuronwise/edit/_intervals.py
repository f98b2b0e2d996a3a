"""95 % intervals of means over facts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["interval"]

_RESAMPLES = 2000


def interval(values: NDArray[np.float64], *, share: bool, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean.

    Facts are the units: prompts of one fact are not independent of each other. The interval is that of the bootstrap
    over facts; where all facts agree at 0 or 1 and resampling would find no spread, the exact binomial one.

    Args:
        values: One value a fact, ``(fact,)``.
        share: Whether they are shares between 0 and 1.
        seed: Seed of the resampling.
    """
    from scipy import stats

    if not len(values):
        return np.nan, np.nan
    first = float(values[0])
    if bool((values == first).all()):
        if share and first in (0.0, 1.0):
            found = stats.binomtest(round(first * len(values)), len(values)).proportion_ci(method="exact")
            return float(found.low), float(found.high)
        return (np.nan, np.nan) if len(values) == 1 else (first, first)
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)
