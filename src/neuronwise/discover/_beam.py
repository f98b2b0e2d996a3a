"""The search over sets of blocks: a beam, exhaustive where that is cheap, by a criterion that charges for choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from neuronwise.discover._blocks import Gram

__all__ = ["FLOOR", "Found", "Space", "beam", "extensions", "least_squares", "penalty"]

Array = NDArray[np.float64]

#: Below this share of the variance a residual is rounding: a smaller one is no better. Without it a target without
#: noise gets a further term that fits the rounding.
FLOOR = 1e-12
_RIDGE = 1e-12  # of a direction's own variance; for directions that other blocks span already
_RIDGES = (0.0, 1e-9, 1e-7, 1e-5)  # inner products are those of directions of length 1


@dataclass(frozen=True)
class Found:
    """A set of blocks that was looked at.

    Args:
        members: Numbers of the blocks, ascending.
        criterion: Its criterion.
        dof: Directions that it fits.
    """

    members: tuple[int, ...]
    criterion: float
    dof: float


def penalty(dof: float, outputs: int, n: int, chosen: int, offered: int) -> float:
    """Return what a set of blocks costs: the extended BIC, ``dof * outputs * ln n + 2 ln C(offered, chosen)``.

    Source: Chen and Chen (2008), Biometrika 95:759, with gamma = 1.

    Args:
        dof: Directions that it fits, for each output.
        outputs: Number of outputs.
        n: Number of rows.
        chosen: How many blocks it has.
        offered: Of how many.
    """
    return dof * outputs * math.log(n) + 2 * math.log(math.comb(offered, chosen))


def extensions(
    products: Array, blocks: Array, cross: Array, inside: NDArray[np.intp], real: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return what every block adds to a set: sums of squares ``(count, m)`` and directions ``(count,)``.

    Args:
        products: Inner products of the set's directions with all, ``(len(inside), count * rank)``.
        blocks: Inner products within each block, ``(count, rank, rank)``.
        cross: Inner products of all directions with the response, ``(count * rank, m)``.
        inside: The set's directions.
        real: Which directions are no padding, ``(count, rank)``.
    """
    count, rank = real.shape
    left, remaining = cross, blocks
    if len(inside):
        lower = _factor(products[:, inside])
        shadow = solve_triangular(lower, products, lower=True, check_finite=False)
        solved = solve_triangular(lower, cross[inside], lower=True, check_finite=False)
        left = cross - shadow.T @ solved
        by_block = np.ascontiguousarray(shadow.reshape(-1, count, rank).transpose(1, 0, 2))
        remaining = blocks - by_block.transpose(0, 2, 1) @ by_block
    left = left.reshape(count, rank, -1)
    # Padding gets a one on the diagonal: it is solved for, to zero, and does no harm.
    padded = remaining + np.eye(rank) * np.where(real, _RIDGE, 1.0)[:, None, :]
    if rank == 1:
        inverse: Array = 1.0 / np.maximum(padded, _RIDGE / 2)
    else:
        inverse = np.asarray(np.linalg.inv(padded), dtype=np.float64)
    weights = inverse @ left
    # Not left.T @ weights: this way the ridge costs its square only, far below the floor.
    gain = 2 * (left * weights).sum(1) - (weights * (remaining @ weights)).sum(1)
    dof = (real * (1 - _RIDGE * np.diagonal(inverse, axis1=1, axis2=2))).sum(1)
    return np.maximum(gain, 0), np.clip(dof, 0, None)


def _factor(products: Array) -> Array:
    """Return the Cholesky factor; of blocks that are nearly the same with the least ridge at which there is one."""
    for ridge in _RIDGES:
        try:
            lower: Array = cholesky(products + ridge * np.eye(len(products)), lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return lower
    raise np.linalg.LinAlgError(
        f"Inner products with the smallest eigenvalue {np.linalg.eigvalsh(products)[0]:g}."
    )


@dataclass(frozen=True, eq=False)
class Space:
    """What a search goes through.

    Args:
        expand: Function of a set that gives sets with one block more, each only the first time that it comes up.
        done: Whether a set leaves nothing to explain.
        count: Number of blocks.
    """

    expand: Callable[[Found], Sequence[Found]]
    done: Callable[[Found], bool]
    count: int


def beam(space: Space, *, width: int, exhaustive: int, most: int, patience: int = 2) -> list[Found]:
    """Search over sets of blocks and return all that were looked at, best first.

    Level by level, the best ``width`` sets are extended by every block; the search ends after ``patience`` levels
    without a better set. Then single members of the best set are exchanged as long as that helps.

    Args:
        space: What to search.
        width: Sets kept a level.
        exhaustive: Where there are no more sets than this, all are looked at.
        most: Blocks in a set at most.
        patience: Levels without a better set before the search ends; with two, terms are found that work only together.
    """
    empty, most = Found((), 0.0, 0.0), min(most, space.count)
    every = sum(math.comb(space.count, size) for size in range(most + 1))
    keep = every if every <= exhaustive else width
    seen: dict[tuple[int, ...], Found] = {(): empty}
    expanded: set[tuple[int, ...]] = set()

    def extend(one: Found) -> list[Found]:
        if one.members in expanded:
            return []
        expanded.add(one.members)
        fresh = [found for found in space.expand(one) if found.members not in seen]
        seen.update((found.members, found) for found in fresh)
        return fresh

    level, best, waited = [empty], empty, 0
    for _ in range(most):
        found = sorted((new for one in level for new in extend(one)), key=_order)
        if not found:
            break
        level, waited = found[:keep], waited + 1
        if _order(found[0]) < _order(best):
            best, waited = found[0], 0
        if space.done(best) or (waited >= patience and keep < every):
            break
    _exchange(best, seen, extend)
    return sorted(seen.values(), key=_order)


def _exchange(
    best: Found,
    seen: dict[tuple[int, ...], Found],
    extend: Callable[[Found], list[Found]],
) -> None:
    """Exchange members of the best set for others, one at a time, until none is better."""
    while True:
        for member in best.members:
            rest = _reached(tuple(m for m in best.members if m != member), seen, extend)
            if rest is not None:
                extend(rest)
        better = min(seen.values(), key=_order)
        if better is best:
            return
        best = better


def _reached(
    members: tuple[int, ...],
    seen: dict[tuple[int, ...], Found],
    extend: Callable[[Found], list[Found]],
) -> Found | None:
    """Return a set that may not have been looked at yet, by way of its smaller ones; None if it cannot be."""
    if members not in seen:
        smaller = _reached(members[:-1], seen, extend)
        if smaller is not None:
            extend(smaller)
    return seen.get(members)


def _order(found: Found) -> tuple[float, int, tuple[int, ...]]:
    return found.criterion, len(found.members), found.members


def least_squares(gram: Gram, *, n: int, most_directions: float) -> Space:
    """Return the sets of blocks of a Gram matrix, rated by least squares.

    The criterion is ``sum over outputs of n ln(RSS / TSS)`` plus :func:`penalty`.

    Args:
        gram: The Gram matrix.
        n: Number of rows that count.
        most_directions: Directions of a set at most.
    """
    outputs = len(gram.totals)
    residuals: dict[tuple[int, ...], tuple[Array, float]] = {(): (gram.totals, 0.0)}

    def expand(one: Found) -> list[Found]:
        rss, dof = residuals[one.members]
        inside = gram.where(one.members)
        gain, more = extensions(gram.products[inside], gram.within, gram.cross, inside, gram.real)
        new = []
        for block in range(gram.count):
            # A block that adds no direction is spanned by the set already.
            if block in one.members or more[block] < 0.5 or dof + more[block] > most_directions:
                continue
            members = tuple(sorted((*one.members, block)))
            if members in residuals:
                continue
            residuals[members] = (np.maximum(rss - gain[block], 0), dof + float(more[block]))
            left, directions = residuals[members]
            fit = n * float(np.log(np.maximum(left / gram.totals, FLOOR)).sum())
            cost = penalty(directions, outputs, n, len(members), gram.count)
            new.append(Found(members, fit + cost, directions))
        return new

    def done(one: Found) -> bool:
        return bool((residuals[one.members][0] <= FLOOR * gram.totals).all())

    return Space(expand, done, gram.count)
