"""Blocks of columns: what each term brings, evaluated, centred, scaled, and as one Gram matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover.problem import SearchProblem

__all__ = ["Block", "Columns", "Gram"]

Array = NDArray[np.float64]

_MEMORY = 1 << 29  # bytes of evaluated columns that are kept; more are evaluated anew, in pieces
_PIECE = 1 << 15  # values evaluated at once: small enough for the second-level cache
_RANK = 1e-10  # directions with less than this share of a block's variance are rounding


@dataclass(frozen=True, eq=False)
class Block:
    """One term that can be chosen as a whole.

    Args:
        label: The term as a text without weights, such as ``"x**2"``.
        complexity: How complex it is; simpler ones win ties.
        columns: Function of scaled inputs ``(n, d)`` that gives its columns ``(n, width)``.
        width: How many columns it has, each with a coefficient of its own.
    """

    label: str
    complexity: float
    columns: Callable[[Array], Array]
    width: int


class Columns:
    """The columns of all blocks over a problem's rows, centred and scaled to variance 1.

    Args:
        problem: The problem; its weights weigh rows in every mean.
        blocks: The blocks.
        memory: Bytes that may be kept.
    """

    def __init__(self, problem: SearchProblem, blocks: Sequence[Block], *, memory: int = _MEMORY) -> None:
        self.problem, self.blocks = problem, tuple(blocks)
        self.starts = np.concatenate([[0], np.cumsum([block.width for block in blocks])]).astype(int)
        self.row_weight = problem.row_weight
        self.total = float(self.row_weight.sum())
        self._kept: Array | None = None
        if problem.n * self.width * 8 <= memory:
            self._kept = np.empty((problem.n, self.width))
            for rows in self._pieces():
                self._evaluate(rows, self._kept[rows])
        self.mean, self.scale = self._moments()
        if self._kept is not None:
            self._kept -= self.mean
            self._kept /= self.scale

    @property
    def width(self) -> int:
        """Number of columns of all blocks."""
        return int(self.starts[-1])

    def of(self, block: int) -> slice:
        """Return where the columns of a block are."""
        return slice(int(self.starts[block]), int(self.starts[block + 1]))

    def index(self, members: Sequence[int]) -> NDArray[np.intp]:
        """Return the numbers of the columns of some blocks."""
        parts = [np.arange(self.starts[block], self.starts[block + 1]) for block in members]
        return np.concatenate(parts).astype(np.intp) if parts else np.empty(0, np.intp)

    def pieces(self, members: Sequence[int] | None = None) -> Iterator[tuple[slice, Array]]:
        """Go through the rows: ``(rows, columns of these rows)``, all at once where they are kept.

        Args:
            members: The blocks whose columns are wanted; default: all.
        """
        if self._kept is not None:
            rows = slice(0, self.problem.n)
            yield rows, self._kept if members is None else self._kept[:, self.index(members)]
            return
        chosen = range(len(self.blocks)) if members is None else members
        where = self.index(chosen)
        size = max(1, _MEMORY // (32 * max(1, len(where))))
        for start in range(0, self.problem.n, size):
            rows = slice(start, min(start + size, self.problem.n))
            X = self.problem.X[rows]
            values = [self.blocks[block].columns(X) for block in chosen]
            yield rows, (np.concatenate(values, axis=1) - self.mean[where]) / self.scale[where]

    def _pieces(self) -> Iterator[slice]:
        size = max(16, _PIECE // self.problem.d)
        for start in range(0, self.problem.n, size):
            yield slice(start, min(start + size, self.problem.n))

    def _evaluate(self, rows: slice, out: Array) -> None:
        X = self.problem.X[rows]
        for number, block in enumerate(self.blocks):
            out[:, self.of(number)] = block.columns(X)

    def _moments(self) -> tuple[Array, Array]:
        """Return mean and standard deviation of every column, in two passes so that large means do no harm."""
        mean, variance = np.zeros(self.width), np.zeros(self.width)
        for rows, values in self._raw():
            mean += self.row_weight[rows] @ values
        mean /= self.total
        for rows, values in self._raw():
            variance += self.row_weight[rows] @ (values - mean) ** 2
        scale = np.sqrt(variance / self.total)
        largest = np.maximum(np.abs(mean), 1e-300)
        return mean, np.where(scale <= 1e-13 * largest, np.inf, scale)

    def _raw(self) -> Iterator[tuple[slice, Array]]:
        for rows in self._pieces():
            if self._kept is not None:
                yield rows, self._kept[rows]
                continue
            values = np.empty((rows.stop - rows.start, self.width))
            self._evaluate(rows, values)
            yield rows, values


class Gram:
    """Inner products of all blocks with one another and with a response, each block made orthonormal in itself.

    Constant and duplicated columns of a block carry no direction and are left out, so ``ranks`` may be less than the
    widths. Blocks are padded to the largest rank with zeros, so that all can be worked on at once.

    Args:
        columns: The columns.
        response: What is to be explained, ``(n, m)``; centred here.
    """

    def __init__(self, columns: Columns, response: Array) -> None:
        self.columns = columns
        row = columns.row_weight
        self.response = response - row @ response / columns.total
        self.totals = row @ self.response**2
        plain, cross = np.zeros((columns.width, columns.width)), np.zeros((columns.width, response.shape[1]))
        for rows, values in columns.pieces():
            weighted = values * row[rows, None]
            plain += values.T @ weighted
            cross += weighted.T @ self.response[rows]
        count = len(columns.blocks)
        bases = [_orthonormal(plain[columns.of(k), columns.of(k)]) for k in range(count)]
        self.ranks = np.array([basis.shape[1] for basis in bases])
        self.rank = max(1, int(self.ranks.max(initial=1)))
        self.transform = np.zeros((columns.width, count * self.rank))
        for k, basis in enumerate(bases):
            self.transform[columns.of(k), k * self.rank : k * self.rank + basis.shape[1]] = basis
        self.products = _sandwich(plain, bases, columns, self.rank)
        self.cross = self.transform.T @ cross

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.columns.blocks)

    @cached_property
    def within(self) -> Array:
        """The inner products within each block, ``(count, rank, rank)``."""
        square = self.products.reshape(self.count, self.rank, self.count, self.rank)
        return np.stack([square[k, :, k] for k in range(self.count)])

    @cached_property
    def real(self) -> NDArray[np.bool_]:
        """Which directions are no padding, ``(count, rank)``."""
        return np.arange(self.rank) < self.ranks[:, None]

    def where(self, members: Sequence[int]) -> NDArray[np.intp]:
        """Return the directions of some blocks."""
        parts = [np.arange(k * self.rank, k * self.rank + self.ranks[k]) for k in members]
        return np.concatenate(parts).astype(np.intp) if parts else np.empty(0, np.intp)


def _orthonormal(products: Array) -> Array:
    """Return ``(width, rank)`` that makes columns with these inner products orthonormal."""
    if products.shape == (1, 1):
        return np.array([[products[0, 0] ** -0.5]]) if products[0, 0] > 0 else np.empty((1, 0))
    values, vectors = np.linalg.eigh(products)
    keep = values > _RANK * max(values[-1], 0)
    whitened: Array = vectors[:, keep] / np.sqrt(values[keep])
    return whitened


def _sandwich(plain: Array, bases: Sequence[Array], columns: Columns, rank: int) -> Array:
    """Return ``transform.T @ plain @ transform``, block by block: the transform is mostly zeros."""
    count = len(bases)
    half = np.zeros((columns.width, count * rank))
    for k, basis in enumerate(bases):
        half[:, k * rank : k * rank + basis.shape[1]] = plain[:, columns.of(k)] @ basis
    whole = np.zeros((count * rank, count * rank))
    for k, basis in enumerate(bases):
        whole[k * rank : k * rank + basis.shape[1]] = basis.T @ half[columns.of(k)]
    return whole
