"""How far several score vectors, or sets of neurons, agree: are they about a fact, or about the wording of a prompt?"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from neuronwise.errors import InvalidArgumentError

__all__ = ["jaccard", "r1_squared"]


def jaccard(sets: Sequence[Collection[Hashable]]) -> float:
    """Return the mean Jaccard index of all pairs of sets, from 0 (disjoint) to 1 (equal).

    A pair of empty sets counts as 1; NaN where there is no pair.

    Example:
        >>> jaccard([{1, 2}, {2, 3}, {1, 2}])
        0.5555555555555555
    """
    made = [frozenset(each) for each in sets]
    values = [len(a & b) / len(a | b) if a or b else 1.0 for a, b in combinations(made, 2)]
    return float(np.mean(values)) if values else float("nan")


def r1_squared(vectors: ArrayLike) -> float:
    """Return how far n vectors lie on one line: 1 if they are parallel, 0 if orthogonal (Niu et al. 2024).

    With rows of length 1 and their largest singular value s, ``(s**2 - 1) / (n - 1)``; for two vectors the absolute
    cosine (https://arxiv.org/abs/2405.02421).

    Args:
        vectors: ``(n, dimension)``; rows that are 0 are left out. NaN where fewer than two remain.

    Raises:
        InvalidArgumentError: If it is no matrix.

    Example:
        >>> round(r1_squared([[1, 0], [1, 1]]), 6)
        0.707107
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise InvalidArgumentError(f"vectors must be a matrix, one row a vector, not of shape {rows.shape}.")
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    if len(rows) < 2:
        return float("nan")
    largest = float(np.linalg.eigvalsh(rows @ rows.T)[-1])
    return float(np.clip((largest - 1) / (len(rows) - 1), 0, 1))
