"""Intervals of means of paired differences, also on test parts whose training parts overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["resampled_interval", "side_of"]


def side_of(low: float, high: float) -> int:
    """Return on which side of 0 an interval lies: 1, -1, or 0 where it holds 0.

    Also 0 where the interval is not known, and where it has no length: that all differences agree to the last digit, as
    shares of few examples may, says nothing of their spread.

    Example:
        >>> side_of(0.1, 0.4), side_of(-0.4, -0.1), side_of(-0.1, 0.4), side_of(0.2, 0.2)
        (1, -1, 0, 0)
    """
    if not low < high:
        return 0
    return int(low > 0) - int(high < 0)


def resampled_interval(
    differences: NDArray[np.float64], ratio: float = 0.0, *, level: float = 0.95, above: bool = False
) -> tuple[float, float, float, float]:
    """Return the mean of paired differences, its interval and p, for training parts that overlap.

    The variance of the mean is (1/k + ratio) s^2, with k differences of variance s^2, instead of s^2/k (Nadeau and
    Bengio, "Inference for the generalization error", Machine Learning 52 (2003), equation 9); the interval is
    Student's with k - 1 degrees of freedom. With a ratio of 0 it is that of the paired t-test.

    Args:
        differences: One a test part, ``(k,)``.
        ratio: Rows of a test part by rows of its training part; 0 for differences that are independent.
        level: Coverage of the interval.
        above: Whether p is that of a mean above 0, one-sided, instead of that of a mean other than 0.
    """
    from scipy import stats  # takes half a second

    k = len(differences)
    mean = float(np.mean(differences)) if k else np.nan
    if k < 2:
        return mean, np.nan, np.nan, np.nan
    error = float(np.sqrt((1 / k + ratio) * np.var(differences, ddof=1)))
    if error == 0.0:
        return mean, mean, mean, 0.0 if mean > 0.0 or (mean < 0.0 and not above) else 1.0
    half = float(stats.t.ppf((1 + level) / 2, k - 1)) * error
    p = stats.t.sf(mean / error, k - 1) if above else 2 * stats.t.sf(abs(mean) / error, k - 1)
    return mean, mean - half, mean + half, float(p)
