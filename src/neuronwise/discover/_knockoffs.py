"""Fixed-X group knockoffs, several copies of each, from sums of squares and products alone.

The columns are brought into coordinates in which every group is orthonormal; then the matrix S of the knockoffs is one
number times the identity (equicorrelated groups). The copies themselves are never made: in the linear model all that a
statistic may look at are the products of columns with each other, which are known, and with the target, which are
linear in it plus a uniformly random direction of what is left of the target. A repeat therefore costs the same whatever
the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import DataError

__all__ = ["Blocks", "Decoys", "Maker", "decoy_e_values", "e_bh", "whitened", "wins"]

_RANK = 1e-8  # directions of a group with less than this share of its largest variance are left out
_SAFE = 0.999  # S stays this far inside the cone, so that the joint products stay positive definite
_ENTRY = 2.0  # forward selection ends where no group takes away this much more than noise would


@dataclass(frozen=True, eq=False)
class Blocks:
    """Groups of columns, centred, each orthonormal by itself.

    Args:
        columns: ``(n, K * size)``; groups of lower rank are filled up with zero columns.
        size: Columns of each group.
    """

    columns: NDArray[np.float64]
    size: int

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(self.columns.shape[1]) // self.size


def whitened(groups: Sequence[NDArray[np.float64]], row: NDArray[np.float64]) -> Blocks:
    """Return groups of columns, centred and each orthonormal by itself.

    Args:
        groups: Columns of each group, ``(n, size)``, all of one size.
        row: Weights of the rows, positive, ``(n,)``; rows are multiplied with their root.
    """
    root = np.sqrt(row)[:, None]
    ones = root / np.linalg.norm(root)
    out = []
    for group in groups:
        weighted = group * root
        centred = weighted - ones * (ones.T @ weighted)
        scale = np.linalg.norm(centred, axis=0)
        centred = centred / np.where(scale > 1e-12 * np.linalg.norm(weighted, axis=0), scale, np.inf)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        keep = values**2 > _RANK * max(float(values[0]) ** 2, 1e-300)
        out.append(np.where(keep, left, 0.0))
    return Blocks(np.hstack(out), out[0].shape[1])


@dataclass(frozen=True, eq=False)
class Decoys:
    """What a statistic sees of a target: the groups with ``copies`` knockoffs of each.

    Args:
        products: Products of all columns, copy by copy, the originals first, ``((M + 1) p, (M + 1) p)``.
        target: Their products with the target, ``((M + 1) p,)``.
        noise: Variance of the target's noise, estimated from what is in none of the columns.
        groups: Number of groups.
        copies: Number of knockoffs of each, M.
    """

    products: NDArray[np.float64]
    target: NDArray[np.float64]
    noise: float
    groups: int
    copies: int


class Maker:
    """Makes knockoffs of one set of groups for any target.

    Args:
        blocks: The groups.
        copies: Knockoffs of each, at least 1.

    Raises:
        DataError: If there are too few rows: ``(copies + 1) * columns + 1`` are needed.
    """

    def __init__(self, blocks: Blocks, copies: int) -> None:
        self.blocks, self.copies = blocks, copies
        used = np.flatnonzero((blocks.columns**2).sum(0) > 0.5)
        self._used, self._p = used, blocks.columns.shape[1]
        rows, rank = len(blocks.columns), len(used)
        self._left = rows - 1 - (copies + 1) * rank
        if self._left < 1:
            raise DataError(
                f"Knockoffs of {rank} columns need at least {2 * rank + 2} rows, and there are {rows}. Give fewer "
                "base functions or inputs, or more rows."
            )
        Q = blocks.columns[:, used]
        sigma = Q.T @ Q
        values, vectors = np.linalg.eigh(sigma)
        factor = (copies + 1) / copies
        self.gamma = min(1.0, _SAFE * factor * max(float(values[0]), 0.0))
        gamma = self.gamma
        inverse = (vectors / values) @ vectors.T
        self._shrink = np.eye(rank) - gamma * inverse
        along = (copies + 1) * gamma - copies * gamma**2 / values
        self._along = (vectors * np.sqrt(np.maximum(along, 0.0))) @ vectors.T
        self._project = inverse @ Q.T
        self._Q = Q
        self._products = self._joint(sigma)

    def _joint(self, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the products of all columns; empty columns have 1 with themselves and 0 with others."""
        full = np.eye(self._p)
        full[np.ix_(self._used, self._used)] = sigma
        apart = np.zeros((self._p, self._p))
        apart[self._used, self._used] = self.gamma
        empty = np.ones(self._p)
        empty[self._used] = 0.0
        apart += np.diag(empty)
        copies = self.copies + 1
        return np.kron(np.ones((copies, copies)), full - apart) + np.kron(np.eye(copies), apart)

    def make(self, y: NDArray[np.float64], rng: np.random.Generator) -> Decoys:
        """Return what a statistic sees of a target.

        Args:
            y: The target, centred and its rows multiplied like the columns', ``(n,)``.
            rng: Draws the direction of the knockoffs.
        """
        cross = self._Q.T @ y
        residual = float(y @ y - cross @ (self._project @ y))
        copies, rank = self.copies, len(self._used)
        # A uniformly random direction of the residual space, seen through M * rank of its coordinates.
        normal = rng.standard_normal((copies, rank))
        rest = rng.chisquare(self._left)
        length = max(residual, 0.0) / (float((normal**2).sum()) + rest)
        seen = normal * np.sqrt(length)
        mean = seen.sum(0) / copies
        fakes = self._shrink @ cross + np.sqrt(self.gamma) * (seen - mean) + self._along @ mean
        target = np.zeros((copies + 1, self._p))
        target[0, self._used] = cross
        target[1:, self._used] = fakes
        noise = length * rest / self._left
        return Decoys(self._products, target.ravel(), max(noise, 1e-300), self.blocks.count, copies)


def wins(decoys: Decoys) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Say which copy of each group explains most, and by how much.

    The importance of a group or copy is the sum of squares it takes away when forward selection takes it in, or at the
    end of the selection, over the variance of the noise.

    Returns:
        Which copy won, 0 for the original, ``(K,)``; and by how much it beats the median of the others, ``(K,)``.
    """
    importance = _forward(decoys).reshape(decoys.copies + 1, decoys.groups)
    order = np.sort(importance, axis=0)
    return importance.argmax(0), order[-1] - np.median(order[:-1], axis=0)


def _forward(decoys: Decoys) -> NDArray[np.float64]:
    count = (decoys.copies + 1) * decoys.groups
    size = len(decoys.target) // count
    rest, target = decoys.products.copy(), decoys.target.copy()
    importance = np.zeros(count)
    open_ = np.ones(count, dtype=bool)
    # Noise alone takes away a chi-squared number; the largest of many such is about this.
    limit = size + _ENTRY * (np.sqrt(size * np.log(count)) + np.log(count))
    for _ in range(count):
        drops = _drops(rest, target, size) / decoys.noise
        drops[~open_] = -np.inf
        importance = np.where(open_, drops, importance)
        best = int(drops.argmax())
        if drops[best] < limit:
            break
        open_[best] = False
        inside = slice(best * size, (best + 1) * size)
        block = rest[inside, inside] + 1e-9 * np.eye(size)
        gain = np.linalg.solve(block, rest[inside])
        target = target - gain.T @ target[inside]
        rest = rest - rest[:, inside] @ gain
    return importance


def _drops(rest: NDArray[np.float64], target: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the sum of squares that each group would take away now, ``(groups,)``."""
    count = len(target) // size
    at = np.arange(count)
    blocks = rest.reshape(count, size, count, size)[at, :, at, :] + 1e-9 * np.eye(size)
    parts = target.reshape(count, size, 1)
    drops: NDArray[np.float64] = (parts * np.linalg.solve(blocks, parts)).sum((1, 2))
    return drops


def decoy_e_values(
    won: NDArray[np.int64], margin: NDArray[np.float64], copies: int, level: float
) -> NDArray[np.float64]:
    """Return one e-value a group from one run of knockoffs.

    The threshold T is the smallest margin t with ``(1 + #{decoys with margin >= t}) / M`` at most ``level`` times
    the number of originals with a margin of at least t (Barber and Candès 2015, eq. 1.9; Gimenez and Zou 2019 for M
    copies); the e-value of an original beyond it is ``K M / (1 + #{decoys beyond})`` (Ren and Barber 2024, eq. 7).

    Args:
        won: Which copy won, ``(K,)``.
        margin: By how much, ``(K,)``.
        copies: M.
        level: The false discovery rate of the run.
    """
    original = won == 0
    values = np.zeros(len(won))
    for threshold in np.sort(margin[margin > 0]):
        beyond = margin >= threshold
        decoys = np.count_nonzero(beyond & ~original)
        found = np.count_nonzero(beyond & original)
        if (1 + decoys) / copies <= level * found:
            values[beyond & original] = len(won) * copies / (1 + decoys)
            break
    return values


def e_bh(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each e-value, the smallest level at which it is selected by the e-BH rule (Wang and Ramdas 2022).

    Args:
        values: e-values of K hypotheses, however dependent, ``(K,)``.
    """
    order = np.argsort(-values, kind="stable")
    with np.errstate(divide="ignore"):
        level = len(values) / (values[order] * np.arange(1, len(values) + 1))
    adjusted = np.minimum.accumulate(level[::-1])[::-1]
    out = np.empty(len(values))
    out[order] = np.minimum(adjusted, 1.0)
    return out
