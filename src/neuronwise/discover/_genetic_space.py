"""Where the genetic search fits its individuals: the data compressed to a grid on the axis that all inputs share.

What a vector term v stands for, ``sum_i v(x_i)``, is a linear function of the values of v on a grid: with local
interpolation ``sum_i v(x_ri) = sum_g H_rg v(t_g)``. A QR decomposition of H then replaces the n rows by at most as many
as there are grid points, without loss for least squares. A sum of vector terms is so fitted at a cost that depends on
neither n nor d.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._genetic_poles import divisors
from neuronwise.discover._trees import Node, apply, evaluate
from neuronwise.formula import Function

__all__ = ["Linearised", "Space", "curve_space", "grid_of", "interpolation", "residual_squares", "row_space"]

Array = NDArray[np.float64]

_STENCIL = 6  # points of the grid that interpolate between two of them
_BLOCK = 4096  # rows whose interpolation is held at once
_LARGEST = 1e8  # of a value on the grid; beyond it nothing is left of the digits
_FLAT = 1e-9  # a column whose part beside the constant is smaller than this share of its values is constant
_DEPENDENT = (
    1e-4  # what is left of a unit column that depends on the others: terms must not cancel to four digits
)


@dataclass(frozen=True)
class Linearised:
    """A weighted least-squares problem: the search's own, or the one that a deviance looks like at some predictor.

    Args:
        X: Inputs ``(n, d)``.
        response: What is to be explained ``(n, m)``.
        weight: Weights of the rows ``(n,)``.
    """

    X: Array
    response: Array
    weight: Array


@dataclass
class Space:
    """Grid, compressed rows and compressed response, and the memory of what was evaluated on them.

    Args:
        points: The grid ``(G,)``.
        functions: The table of functions.
        project: Compressed rows of the values on the grid, the constant projected out, ``(r, G)``.
        target: Compressed response, the constant projected out, ``(m, r)``.
        rest: Squares of the response that no vector term explains.
        plain: The same as ``project`` with the constant in, ``(r, G)``; the published search fits no constant.
        plain_target: The same of the response.
        sums: Interpolation to single rows ``(rows, G)``, for scalar terms; None where there are none.
        root: Square roots of the rows' weights ``(rows,)``; for scalar terms.
        covered: Which stretches between two points of the grid lie within the range of an input ``(G - 1,)``.
        memory: Numbers to keep in memory.
    """

    points: Array
    functions: Mapping[str, Function]
    project: Array
    target: Array
    rest: float
    plain: Array
    plain_target: Array
    sums: Array | None = None
    root: Array | None = None
    covered: NDArray[np.bool_] | None = None
    memory: int = 8_000_000
    _values: dict[str, Array] = field(default_factory=dict)
    _columns: dict[str, Array | None] = field(default_factory=dict)
    _poles: dict[str, bool] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Squares of the response about its mean."""
        return float((self.target**2).sum()) + self.rest

    def values(self, node: Node) -> Array | float:
        """Return the values of a tree on the grid (a vector), on the rows (a scalar), or its number (a constant)."""
        if node.op == "c":
            return node.value
        if node.op == "x":
            return self.points
        known = self._values.get(node.key)
        if known is not None:
            return known
        if node.op == "sum":
            found = self.summed(self.values(node.args[0]))
        else:
            found = apply(node.op, [self.values(arg) for arg in node.args], self.functions)
        if len(self._values) * len(self.points) > self.memory:
            _halve(self._values)
        self._values[node.key] = found
        return found

    def batch(self, node: Node, constants: Iterator[Array]) -> Array | float:
        """Return the values for many settings of the constants at once: ``(B, G)``, ``(B, rows)`` or ``(B, 1)``.

        Args:
            node: The tree.
            constants: For each constant, in the order of the tree, its B values ``(B, 1)``.
        """
        if not node.constants:
            return self.values(node)
        if node.op == "c":
            return next(constants)
        args = [self.batch(arg, constants) for arg in node.args]
        return self.summed(args[0]) if node.op == "sum" else apply(node.op, args, self.functions)

    def summed(self, values: Array | float) -> Array:
        """Return the sum over the inputs of every row, of values on the grid ``(..., G)``."""
        assert self.sums is not None, "this space has no rows for scalar terms"
        return np.asarray(values) @ self.sums.T

    def projected(self, node: Node, values: Array) -> Array:
        """Return values ``(..., G)`` of a vector term or ``(..., rows)`` of a scalar term as columns ``(..., r)``."""
        if node.kind != "scalar":
            return np.asarray(values @ self.project.T)
        assert self.root is not None
        one = self.root / np.linalg.norm(self.root)
        rows = values * self.root
        return np.asarray(rows - (rows @ one)[..., None] * one)

    def has_pole(self, term: Node) -> bool:
        """Whether something that a term divides by has both signs within the ranges of the inputs, or on the rows."""
        known = self._poles.get(term.key)
        if known is None:
            found = any(self.changes_sign(part.kind, self.values(part)) for part in divisors(term))
            known = self._poles[term.key] = found
        return known

    def changes_sign(self, kind: str, values: Array | float) -> bool:
        """Whether values on the grid (of a vector) or on the rows (of a scalar) have both signs."""
        below = np.asarray(values) < 0
        if kind != "vector":
            return bool(below.any() and not below.all())
        flips = below[1:] != below[:-1]
        return bool((flips if self.covered is None else flips & self.covered).any())

    def prepare(self, terms: Iterable[Node]) -> None:
        """Evaluate the columns of terms that are not in memory, all vector terms in one matrix product."""
        if (
            len(self._columns) * len(self.target.T) > self.memory
        ):  # first, so that no term asked for is forgotten
            _halve(self._columns)
        new = {term.key: term for term in terms if term.key not in self._columns}
        groups: dict[str, list[Node]] = {"vector": [], "scalar": []}
        for key, term in new.items():
            if term.kind in groups:
                groups[term.kind].append(term)
            else:
                self._columns[key] = None
        for group in groups.values():
            if group:
                self._fill(group)

    def _fill(self, group: Sequence[Node]) -> None:
        values = np.array([self.values(term) for term in group])
        size = np.abs(values).max(axis=1)
        usable = size < _LARGEST  # False for NaN
        columns = self.projected(group[0], np.where(usable[:, None], values, 0.0))
        norms = np.linalg.norm(columns, axis=1)
        scale = np.linalg.norm(self.plain, axis=1).max() if group[0].kind == "vector" else 1.0
        usable &= norms > _FLAT * scale * np.maximum(size, 1e-12)
        for term, column, norm, fine in zip(group, columns, norms, usable, strict=True):
            self._columns[term.key] = column / norm if fine else None

    def column(self, term: Node) -> Array | None:
        """Return a prepared term's column of length 1 ``(r,)``, None where it is undefined or constant."""
        return self._columns.get(term.key)

    def errors(self, individuals: Sequence[tuple[Node, ...]]) -> Array:
        """Return each individual's residual squares by least squares over its terms; infinity where it is unusable."""
        self.prepare(term for terms in individuals for term in terms)
        errors = np.full(len(individuals), np.inf)
        by_length: dict[int, list[int]] = {}
        stacks: dict[int, list[Array]] = {}
        for number, terms in enumerate(individuals):
            columns = [column for term in terms if (column := self._columns[term.key]) is not None]
            if len(columns) == len(terms):
                by_length.setdefault(len(terms), []).append(number)
                stacks.setdefault(len(terms), []).extend(columns)
        for length, numbers in by_length.items():
            if length == 0:
                errors[numbers] = self.total
                continue
            stack = np.array(stacks[length]).reshape(len(numbers), length, -1)
            errors[numbers] = residual_squares(stack, self.target) + self.rest
        return errors

    def plain_errors(self, trees: Sequence[Node], inputs: int) -> Array:
        """Return the residual squares of trees as they are, with no coefficient: the published fitness, times n.

        A tree's constant part is one offset, not one for each input (the paper's semantics).
        """
        zero = np.zeros(1)
        values = np.array(
            [np.broadcast_to(np.asarray(self.values(tree), dtype=float), self.points.shape) for tree in trees]
        )
        offsets = np.array([_at(tree, zero, self.functions) for tree in trees])
        ones = self.plain.sum(axis=1) / inputs
        fitted = values @ self.plain.T - (inputs - 1) * offsets[:, None] * ones
        errors: Array = ((self.plain_target[:1] - fitted) ** 2).sum(axis=1) + self.rest
        return np.where(np.isfinite(errors), errors, np.inf)


def _at(node: Node, x: Array, functions: Mapping[str, Function]) -> float:
    return float(evaluate(node, x, functions)[0])


def _halve(memory: dict[str, Array] | dict[str, Array | None]) -> None:
    """Forget the older half."""
    for key in list(memory)[: len(memory) // 2]:
        del memory[key]


def residual_squares(columns: Array, target: Array) -> Array:
    """Return what least squares leaves, for many small problems at once, by modified Gram-Schmidt.

    Args:
        columns: ``(B, K, r)``, each of about length 1.
        target: ``(m, r)``.

    Returns:
        ``(B,)``; infinity where the columns depend on each other.
    """
    left = np.broadcast_to(target, (len(columns), *target.shape)).copy()
    basis: list[Array] = []
    degenerate = np.zeros(len(columns), dtype=bool)
    for k in range(columns.shape[1]):
        column = columns[:, k]
        for one in basis:
            column = column - np.einsum("br,br->b", one, column)[:, None] * one
        norm = np.sqrt(np.einsum("br,br->b", column, column))
        degenerate |= ~(norm > _DEPENDENT)
        one = column / np.maximum(norm, _DEPENDENT)[:, None]
        basis.append(one)
        left -= np.einsum("bmr,br->bm", left, one)[:, :, None] * one[:, None, :]
    squares: Array = np.einsum("bmr,bmr->b", left, left)
    squares[degenerate] = np.inf
    return squares


def grid_of(X: Array, size: int) -> Array:
    """Return the distinct values of the inputs where they are few, else an even grid over their range."""
    distinct = np.unique(X)
    if len(distinct) <= size:
        return distinct
    return np.linspace(distinct[0], distinct[-1], size)


def interpolation(X: Array, points: Array) -> Array:
    """Return H ``(n, G)`` with ``sum_i v(x_ri) = sum_g H_rg v(t_g)``: of fifth degree between points of the grid."""
    n, size = len(X), len(points)
    row = np.arange(n)[:, None] * size
    nearest = np.searchsorted(points, X).clip(0, size - 1)
    if size < 8 or (points[nearest] == X).all():
        return np.bincount((row + nearest).ravel(), minlength=n * size).reshape(n, size).astype(float)
    step = (points[-1] - points[0]) / (size - 1)
    place = (X - points[0]) / step
    first = (place.astype(int) - (_STENCIL // 2 - 1)).clip(0, size - _STENCIL)
    u = place - first
    found = np.zeros(n * size)
    for shift in range(_STENCIL):
        weight = np.ones_like(u)
        for other in range(_STENCIL):
            if other != shift:
                weight *= (u - other) / (shift - other)
        found += np.bincount((row + first + shift).ravel(), weights=weight.ravel(), minlength=n * size)
    return found.reshape(n, size)


def _covered(X: Array, points: Array) -> NDArray[np.bool_]:
    """Return which stretches between two points of the grid lie within the range of an input."""
    low, high = X.min(axis=0)[:, None], X.max(axis=0)[:, None]
    inside: NDArray[np.bool_] = ((low < points[1:]) & (high > points[:-1])).any(axis=0)
    return inside


def curve_space(problem: Linearised, points: Array, functions: Mapping[str, Function]) -> Space:
    """Compress all rows, for vector terms only."""
    outputs = problem.response.shape[1]
    stacked = np.zeros((0, len(points) + outputs))
    for start in range(0, len(problem.X), _BLOCK):
        part = slice(start, start + _BLOCK)
        root = np.sqrt(problem.weight[part])[:, None]
        block = np.hstack([interpolation(problem.X[part], points), problem.response[part]]) * root
        stacked = np.vstack([stacked, block])
        if len(stacked) > len(points):
            stacked = np.asarray(np.linalg.qr(stacked, mode="r"))
    size = len(points)
    kept, rest = stacked[:size], float((stacked[size:, size:] ** 2).sum())
    plain, target = kept[:, :size], kept[:, size:].T
    one = plain.sum(axis=1)
    one = one / np.linalg.norm(one)
    return Space(
        points,
        functions,
        plain - np.outer(one, one @ plain),
        target - np.outer(target @ one, one),
        rest,
        plain,
        target,
        covered=_covered(problem.X, points),
    )


def row_space(
    problem: Linearised, points: Array, functions: Mapping[str, Function], rows: NDArray[np.int64]
) -> Space:
    """Take some rows as they are, for scalar terms as well."""
    sums = interpolation(problem.X[rows], points)
    root = np.sqrt(problem.weight[rows])
    plain, target = sums * root[:, None], (problem.response[rows] * root[:, None]).T
    one = root / np.linalg.norm(root)
    return Space(
        points,
        functions,
        plain - np.outer(one, one @ plain),
        target - np.outer(target @ one, one),
        0.0,
        plain,
        target,
        sums=sums,
        root=root,
        covered=_covered(problem.X, points),
    )
