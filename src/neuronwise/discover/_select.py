"""Choose among blocks of columns: the engine of shared selection, group selection and interactions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._beam import FLOOR, Found, beam, least_squares, penalty
from neuronwise.discover._blocks import Block, Columns, Gram
from neuronwise.discover._deviance import Fit, ScoreSearch, fit, gauged, likelihood_of
from neuronwise.discover.problem import SearchProblem
from neuronwise.errors import InvalidArgumentError

__all__ = ["Chosen", "Settings", "fitted", "select"]

Array = NDArray[np.float64]

_MOST_DIRECTIONS = 0.5  # of the rows: beyond that a criterion for large samples says nothing
_LARGEST = 6000  # directions whose inner products are worked out; of more, the blocks that promise most
_FITTED = 4  # width of the beam where each set must be fitted by itself
_SCORED = 1 << 26  # values that a score test may go through; of more rows, a random part
_ROUNDS = 4  # in which blocks are rated then
_REFINE = 2  # steps that take the rounding of the Gram matrix off the coefficients


@dataclass(frozen=True)
class Settings:
    """How sets of blocks are searched.

    Args:
        width: Sets kept a level of the beam.
        exhaustive: Where there are no more sets than this, all are looked at.
        max_terms: Blocks in a set at most.
        keep: How many of the best are returned.
    """

    width: int = 8
    exhaustive: int = 256
    max_terms: int = 8
    keep: int = 20

    def __post_init__(self) -> None:
        for name in ("width", "max_terms", "keep"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name} must be at least 1, not {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class Chosen:
    """A set of blocks with its fit.

    Args:
        members: Numbers of the blocks, ascending.
        criterion: Criterion, relative to the set without blocks; lower is better.
        weights: Weights of each member's columns, ``(width, outputs)`` each, for the columns as they are.
        intercept: Constant of each output, ``(outputs,)``.
        explained: Share of the variance (regression) or deviance that it explains on the rows of the search.
        dof: Directions that it fits, for each output.
        complexity: Sum of the complexities of its blocks.
        rows: Rows that it was fitted to.
    """

    members: tuple[int, ...]
    criterion: float
    weights: tuple[Array, ...]
    intercept: Array
    explained: float
    dof: float
    complexity: float
    rows: int


def select(problem: SearchProblem, blocks: Sequence[Block], settings: Settings) -> list[Chosen]:
    """Return the best sets of blocks, lowest criterion first; ties are for the caller to break.

    Regression: ``sum over outputs of n ln(RSS/TSS) + dof ln n + 2 ln C(K, k)``, RSS/TSS not below 1e-12. Classes and
    counts: the deviance less that of the constant, and the same penalty; for counts that vary more than Poisson's law
    allows, the deviance is divided by the excess (quasi-likelihood). Source: sheet of the paper, section 7; Chen and
    Chen (2008) for the penalty.

    Args:
        problem: The problem.
        blocks: What is offered.
        settings: How to search.
    """
    if problem.task == "regression":
        return _by_least_squares(problem, blocks, settings)
    return _by_likelihood(problem, blocks, settings)


def fitted(problem: SearchProblem, blocks: Sequence[Block]) -> Chosen:
    """Return the fit of all blocks together, whatever it is worth.

    Args:
        problem: The problem.
        blocks: The blocks, none for the constant.
    """
    columns, members = Columns(problem, blocks), tuple(range(len(blocks)))
    n = problem.n_weighted
    if problem.task == "regression":
        targets = problem.targets
        unit = np.abs(targets - targets.mean(0)).max(0)
        gram = Gram(columns, targets / unit)
        inner, rss = _refined(gram, members)
        dof = float(gram.ranks.sum())
        criterion = n * float(
            np.log(np.maximum(rss / gram.totals, FLOOR)).sum()
        ) + problem.outputs * dof * math.log(n)
        explained = 1 - float((rss * unit**2).sum() / (gram.totals * unit**2).sum())
        mean = columns.row_weight @ targets / columns.total
        return _chosen(columns, Found(members, criterion, dof), inner * unit, mean, explained)
    likelihood = likelihood_of(problem)
    inside = np.concatenate([values for _, values in columns.pieces()])
    found, null = fit(likelihood, inside), fit(likelihood, inside[:, :0])
    dof = float(np.linalg.matrix_rank(inside)) if len(blocks) else 0.0
    criterion = found.deviance - null.deviance + likelihood.outputs * dof * math.log(n)
    inner, intercept = gauged(problem, found.weights, found.intercept)
    return _chosen(
        columns, Found(members, criterion, dof), inner, intercept, 1 - found.deviance / null.deviance
    )


def _by_least_squares(problem: SearchProblem, blocks: Sequence[Block], settings: Settings) -> list[Chosen]:
    columns, numbers = _promising(problem, blocks)
    n = problem.n_weighted
    targets = problem.targets
    # A target of any size: squares of very large and very small numbers would leave the range of floating point.
    unit = np.abs(targets - targets.mean(0)).max(0)
    gram = Gram(columns, targets / unit)
    space = least_squares(gram, n=n, most_directions=_MOST_DIRECTIONS * n)
    found = beam(space, width=settings.width, exhaustive=settings.exhaustive, most=settings.max_terms)
    mean = columns.row_weight @ targets / columns.total
    chosen = []
    for one in found[: settings.keep]:
        inner, rss = _refined(gram, one.members)
        gained = n * float(np.log(np.maximum(rss / gram.totals, FLOOR)).sum())
        cost = penalty(one.dof, problem.outputs, n, len(one.members), gram.count)
        explained = 1 - float((rss * unit**2).sum() / (gram.totals * unit**2).sum())
        refined = replace(one, criterion=gained + cost)
        chosen.append(_chosen(columns, refined, inner * unit, mean, explained))
    return _renumbered(chosen, numbers, gram.count, len(blocks))


def _refined(gram: Gram, members: tuple[int, ...]) -> tuple[Array, Array]:
    """Return weights of a set's scaled columns ``(widths, m)`` and its residual sums of squares ``(m,)``.

    The solution from the Gram matrix has the square of the columns' condition in its error; steps of iterative
    refinement on the columns themselves take it off.
    """
    columns, where = gram.columns, gram.where(members)
    index = columns.index(members)
    transform = gram.transform[np.ix_(index, where)]
    products = gram.products[np.ix_(where, where)]
    values, vectors = np.linalg.eigh(products) if len(where) else (np.empty(0), np.empty((0, 0)))
    keep = values > 1e-11
    inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    weights = transform @ (inverse @ gram.cross[where])
    rss = gram.totals
    for step in range(_REFINE + 1 if len(where) else 1):
        slope, rss = np.zeros((len(index), len(gram.totals))), np.zeros(len(gram.totals))
        for rows, values in columns.pieces(members):
            left = gram.response[rows] - values @ weights
            weighted = left * columns.row_weight[rows, None]
            slope += values.T @ weighted
            rss += (left * weighted).sum(0)
        if step < _REFINE and len(where):
            weights = weights + transform @ (inverse @ (transform.T @ slope))
    return weights, rss


def _chosen(columns: Columns, one: Found, scaled: Array, mean: Array, explained: float) -> Chosen:
    """Return a set with its weights for the columns as they are, from those for the scaled ones."""
    index = columns.index(one.members)
    weights = scaled / columns.scale[index, None]
    shift = columns.mean[index] @ weights
    intercept = mean - shift
    # What is left of two numbers that cancel is rounding, and no offset that a formula should show.
    intercept[np.abs(intercept) < 1e-13 * (np.abs(mean) + np.abs(shift) + np.abs(scaled).sum(0))] = 0.0
    cuts = np.cumsum([columns.blocks[block].width for block in one.members])[:-1]
    return Chosen(
        one.members,
        one.criterion,
        tuple(np.split(weights, cuts)) if one.members else (),
        intercept,
        explained,
        one.dof,
        sum(columns.blocks[block].complexity for block in one.members),
        columns.problem.n,
    )


def _by_likelihood(problem: SearchProblem, blocks: Sequence[Block], settings: Settings) -> list[Chosen]:
    problem = _thinned(problem, sum(block.width for block in blocks))
    columns, numbers = _promising(problem, blocks)
    gram = Gram(columns, problem.response)
    n = problem.n_weighted
    search = ScoreSearch(problem, columns, gram, most_directions=_MOST_DIRECTIONS * n)
    found = beam(
        search.space, width=min(settings.width, _FITTED), exhaustive=0, most=settings.max_terms, patience=1
    )
    excess = _excess(search, found)
    null = search.fits[()].deviance

    def rated(one: Found, found: Fit) -> float:
        if not one.members:
            return 0.0
        return (found.deviance - null) / excess + search.cost(one.members, one.dof)

    rough = sorted(found, key=lambda one: (rated(one, search.fits[one.members]), one.members))
    chosen = []
    for one in rough[: settings.keep]:
        refined = search.refine(one.members)
        index = columns.index(one.members)
        inner = gram.transform[np.ix_(index, gram.where(one.members))] @ refined.weights
        inner, intercept = gauged(problem, inner, refined.intercept)
        again = replace(one, criterion=rated(one, refined))
        chosen.append(_chosen(columns, again, inner, intercept, 1 - refined.deviance / null))
    return _renumbered(chosen, numbers, gram.count, len(blocks))


def _excess(search: ScoreSearch, found: list[Found]) -> float:
    """Return the dispersion of counts, by the set that leaves the least deviance."""
    if not search.likelihood.counts:
        return 1.0
    least = min(found, key=lambda one: search.fits[one.members].deviance)
    return search.likelihood.excess(search.fits[least.members].predictor, least.dof)


def _thinned(problem: SearchProblem, width: int) -> SearchProblem:
    """Return a random part of the rows where the score test would have to go through too many values."""
    most = max(1000, _SCORED // max(width, 1))
    if problem.n <= most:
        return problem
    rows = np.sort(np.random.default_rng(problem.seed).choice(problem.n, most, replace=False))
    return problem.take(rows)


def _promising(problem: SearchProblem, blocks: Sequence[Block]) -> tuple[Columns, list[int]]:
    """Return the columns of the blocks, and which blocks these are: all, or those that promise most.

    Where there are too many columns for one Gram matrix, each block is rated by itself, by the variance of the response
    that it explains. A share of the room goes to the best; then what the very best explains is taken off the response,
    and the others are rated again, so that a term comes in that is small beside another.
    """
    if sum(block.width for block in blocks) <= _LARGEST:
        return Columns(problem, blocks), list(range(len(blocks)))
    response, chosen, taken = problem.response, set[int](), 0
    for turn in range(1, _ROUNDS + 1):
        rated = []
        for number in set(range(len(blocks))) - chosen:
            gram = Gram(Columns(problem, [blocks[number]]), response)
            rated.append((-float((gram.cross**2).sum()), number))
        rated.sort()
        for _, number in rated:
            if taken + blocks[number].width > _LARGEST * turn / _ROUNDS and chosen:
                break
            chosen.add(number)
            taken += blocks[number].width
        response = _without(problem, blocks[rated[0][1]], response)
    numbers = sorted(chosen)
    return Columns(problem, [blocks[number] for number in numbers]), numbers


def _without(problem: SearchProblem, block: Block, response: Array) -> Array:
    """Return what of a response a block leaves unexplained."""
    gram = Gram(Columns(problem, [block]), response)
    explained = [values @ (gram.transform @ gram.cross) for _, values in gram.columns.pieces()]
    return response - np.concatenate(explained)


def _renumbered(chosen: list[Chosen], numbers: list[int], count: int, offered: int) -> list[Chosen]:
    """Return sets with the numbers of the blocks as offered, charged for all that were offered."""
    result = []
    for one in chosen:
        k = len(one.members)
        more = 2 * (math.log(math.comb(offered, k)) - math.log(math.comb(count, k)))
        members = tuple(numbers[member] for member in one.members)
        result.append(replace(one, members=members, criterion=one.criterion + more))
    return sorted(result, key=lambda one: (one.criterion, one.members))
