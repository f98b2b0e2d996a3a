"""Groups of monomials, and homogeneous polynomials as sums of products of inner products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

__all__ = ["Monomials", "Subset", "as_products", "count", "groups_of", "subsets"]

Array = NDArray[np.float64]

_RIDGE = 1e-10
_ALL = 2e10  # multiplications that looking at every subset may take; else only small subsets
_FEW = 3  # groups in a subset, where there are too many subsets for all
_ZERO = 1e-12  # of the largest eigenvalue


@dataclass(frozen=True, eq=False)
class Monomials:
    """Monomials that are chosen together.

    Args:
        order: Their degree.
        pure: Whether they are the powers ``x_i**order``, else all others of the degree.
        index: The inputs of each monomial, ``(m, order)``.
    """

    order: int
    pure: bool
    index: NDArray[np.intp]

    @property
    def label(self) -> str:
        """Its text: ``x**3``, or ``x[i]*x[j]*x[k]`` for the mixed ones."""
        if self.pure:
            return "x" if self.order == 1 else f"x**{self.order}"
        return "*".join(f"x[{letter}]" for letter in "ijklmn"[: self.order])

    @property
    def complexity(self) -> int:
        """How complex the group is; simpler ones come first."""
        return 2 * self.order + (not self.pure)

    def columns(self, X: Array) -> Array:
        """Return the monomials, ``(n, m)``."""
        values = X[:, self.index[:, 0]]
        for place in range(1, self.order):
            values = values * X[:, self.index[:, place]]
        return values


def groups_of(d: int, order: int) -> list[Monomials]:
    """Return the powers and the mixed monomials of every degree up to ``order``, simplest first.

    Args:
        d: Number of inputs.
        order: Highest degree.
    """
    groups = []
    for degree in range(1, order + 1):
        powers = np.repeat(np.arange(d)[:, None], degree, axis=1)
        groups.append(Monomials(degree, True, powers))
        if degree > 1 and d > 1:
            every = combinations_with_replacement(range(d), degree)
            mixed = np.array([index for index in every if index[0] != index[-1]])
            groups.append(Monomials(degree, False, mixed))
    return groups


@dataclass(frozen=True)
class Subset:
    """Some of the groups.

    Args:
        members: Their numbers, ascending.
        left: Residual sum of squares of every output.
        dof: Directions that they fit.
    """

    members: tuple[int, ...]
    left: tuple[float, ...]
    dof: int


def subsets(blocks: Sequence[Array], response: Array, most: float) -> list[Subset]:
    """Return every subset of groups with its residual sum of squares.

    One group after the other is taken in or not; of those that come later only the part is kept that the ones taken in
    leave. Where that takes too long, subsets of up to three groups.

    Args:
        blocks: Orthonormal, centred columns of each group, smallest first.
        response: Centred response, ``(n, m)``.
        most: Directions that a subset may have.
    """
    sizes = [block.shape[1] for block in blocks]
    work = sum(2 ** (len(sizes) - 1) * size**3 / 3 for size in sizes)
    limit = len(blocks) if work <= _ALL else _FEW
    whole = np.hstack(blocks)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    found = [Subset((), tuple((response**2).sum(0)), 0)]

    def visit(first: int, products: Array, cross: Array, before: Subset) -> None:
        for group in range(first, len(blocks)):
            at = slice(starts[group] - starts[first], starts[group + 1] - starts[first])
            dof = before.dof + sizes[group]
            if dof > most or not sizes[group]:
                continue
            lower = cholesky(products[at, at] + _RIDGE * np.eye(sizes[group]), lower=True, check_finite=False)
            solved = solve_triangular(lower, cross[at], lower=True, check_finite=False)
            left = np.maximum(np.array(before.left) - (solved**2).sum(0), 0)
            taken = Subset((*before.members, group), tuple(left), dof)
            found.append(taken)
            if len(taken.members) < limit and group + 1 < len(blocks):
                shadow = solve_triangular(lower, products[at, at.stop :], lower=True, check_finite=False)
                rest = products[at.stop :, at.stop :] - shadow.T @ shadow
                visit(group + 1, rest, cross[at.stop :] - shadow.T @ solved, taken)

    visit(0, whole.T @ whole, whole.T @ response, found[0])
    return found


def as_products(index: NDArray[np.intp], weights: Array, d: int) -> list[Array]:
    """Return a homogeneous polynomial as a sum of products of inner products, exactly.

    Degree 2: the symmetric matrix's eigenvalues, a positive one paired with a negative one: ``a (u.x)**2 - b (v.x)**2``
    is a product of two inner products, so that a matrix of rank r takes at most r products, and ``(u.x)(v.x)`` takes
    one. Higher degrees: ``sum_i x_i p_i(x)`` with each ``p_i`` taken apart in the same way.

    Args:
        index: The inputs of each monomial in ascending order, ``(m, degree)``.
        weights: Its weight, ``(m,)``.
        d: Number of inputs.

    Returns:
        Factors ``(degree, d)`` of each product.
    """
    degree = index.shape[1]
    if degree == 2:
        matrix = np.zeros((d, d))
        np.add.at(matrix, (index[:, 0], index[:, 1]), weights / 2)
        np.add.at(matrix, (index[:, 1], index[:, 0]), weights / 2)
        return _pairs(matrix)
    products = []
    for first in np.unique(index[:, 0]):
        rows = index[:, 0] == first
        unit = np.eye(1, d, first)
        products += [np.vstack([unit, rest]) for rest in as_products(index[rows, 1:], weights[rows], d)]
    return products


def _pairs(matrix: Array) -> list[Array]:
    values, vectors = np.linalg.eigh(matrix)
    large = np.abs(values) > _ZERO * np.abs(values).max(initial=0)
    roots = vectors * np.sqrt(np.abs(values))
    positive = [roots[:, k] for k in np.flatnonzero(large & (values > 0))[::-1]]
    negative = [roots[:, k] for k in np.flatnonzero(large & (values < 0))]
    both = min(len(positive), len(negative))
    products = [np.stack([u - v, u + v]) for u, v in zip(positive[:both], negative[:both], strict=True)]
    products += [np.stack([u, u]) for u in positive[both:]]
    return products + [np.stack([-v, v]) for v in negative[both:]]


def count(d: int, order: int) -> int:
    """Return the number of monomials of degree 1 to ``order``."""
    return math.comb(d + order, order) - 1
