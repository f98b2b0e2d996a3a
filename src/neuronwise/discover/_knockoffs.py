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
_TINY = 1e-9  # ridge, so that a group that others span can be solved for
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
        values, vectors = np.linalg.eigh(centred.T @ centred)
        keep = values > _RANK * max(float(values[-1]), 1e-300)
        out.append(centred @ (vectors * np.where(keep, 1 / np.sqrt(np.where(keep, values, 1.0)), 0.0)))
    return Blocks(np.hstack(out), out[0].shape[1])


@dataclass(frozen=True, eq=False)
class Decoys:
    """What a statistic sees of a target: the groups with ``copies`` knockoffs of each.

    Args:
        sigma: Products of the p original columns with one another, ``(p, p)``; each group's are the identity.
        apart: What the product of a column with its own copy lacks to 1, ``(p,)``.
        target: Products of all columns with the target, copy by copy, the originals first, ``((M + 1) p,)``.
        noise: Variance of the target's noise, estimated from what is in none of the columns.
        groups: Number of groups.
        copies: Number of knockoffs of each, M.
    """

    sigma: NDArray[np.float64]
    apart: NDArray[np.float64]
    target: NDArray[np.float64]
    noise: float
    groups: int
    copies: int

    def rows(self, copy: int, columns: slice) -> NDArray[np.float64]:
        """Return the products of some columns of one copy with all, ``(columns, (M + 1) p)``."""
        others = self.sigma[columns] - np.diag(self.apart)[columns]
        rows = np.tile(others, self.copies + 1)
        rows[:, copy * len(self.apart) : (copy + 1) * len(self.apart)] = self.sigma[columns]
        return rows


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
        self._inverse = inverse
        self._Q = Q
        self._sigma = np.eye(self._p)
        self._sigma[np.ix_(used, used)] = sigma
        # Empty columns have nothing to do with each other, nor with their copies.
        self._apart = np.ones(self._p)
        self._apart[used] = gamma

    def make(self, y: NDArray[np.float64], rng: np.random.Generator) -> Decoys:
        """Return what a statistic sees of a target.

        Args:
            y: The target, centred and its rows multiplied like the columns', ``(n,)``.
            rng: Draws the direction of the knockoffs.
        """
        cross = self._Q.T @ y
        residual = float(y @ y - cross @ self._inverse @ cross)
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
        return Decoys(self._sigma, self._apart, target.ravel(), max(noise, 1e-300), self.blocks.count, copies)


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
    size = len(decoys.apart) // decoys.groups
    target = decoys.target.copy()
    # What the groups taken in leave of each group's own products, and the directions taken in, as seen by all columns.
    blocks = np.tile(np.eye(size) * (1 + _TINY), (count, 1, 1))
    taken = np.empty((0, len(target)))
    importance, open_ = np.zeros(count), np.ones(count, dtype=bool)
    # Noise alone takes away a chi-squared number; the largest of many such is about this.
    limit = size + _ENTRY * (np.sqrt(size * np.log(count)) + np.log(count))
    for _ in range(count):
        parts = target.reshape(count, size, 1)
        drops = (parts * np.linalg.solve(blocks, parts)).sum((1, 2)) / decoys.noise
        drops[~open_] = -np.inf
        importance = np.where(open_, drops, importance)
        best = int(drops.argmax())
        if drops[best] < limit:
            break
        open_[best] = False
        inside = slice(best * size, (best + 1) * size)
        copy, group = divmod(best, decoys.groups)
        rows = decoys.rows(copy, slice(group * size, (group + 1) * size)) - taken[:, inside].T @ taken
        lower = np.linalg.cholesky(blocks[best])
        new = np.linalg.solve(lower, rows)
        target = target - new.T @ np.linalg.solve(lower, target[inside])
        seen = new.reshape(size, count, size).transpose(1, 0, 2)
        blocks = blocks - seen.transpose(0, 2, 1) @ seen
        blocks[best] = np.eye(size)
        taken = np.vstack([taken, new])
    return importance


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
