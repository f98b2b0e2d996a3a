"""Classes and counts: likelihoods, maximum-likelihood fits, and the score test by which blocks are proposed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax

from neuronwise.discover._beam import Found, Space, extensions, penalty
from neuronwise.discover._blocks import Columns, Gram
from neuronwise.discover.problem import SearchProblem

__all__ = ["Fit", "Likelihood", "likelihood_of", "score_search"]

Array = NDArray[np.float64]

# Weight of the squared predictor in a fit, for each row: classes that can be told apart without error would send the
# weights to infinity. It shrinks a predictor by far less than its own error.
_RIDGE = 1e-4
_STEPS = 200
_CAP = 50.0  # largest log count: e**50 is beyond any count, and its square is still a number
_SPAN = 1e-8


@dataclass(frozen=True)
class Likelihood:
    """How likely targets are, given predictors.

    Args:
        targets: Indicators of all classes but the last (of the second of two), or counts, ``(n, m)``.
        weight: How much each row counts, ``(n,)``.
        counts: Whether it is Poisson, else binomial or multinomial.
    """

    targets: Array
    weight: Array
    counts: bool

    @property
    def outputs(self) -> int:
        """Number of free predictors."""
        return self.targets.shape[1]

    def means(self, predictor: Array) -> Array:
        """Return the expected targets, ``(n, m)``."""
        if self.counts:
            return np.exp(np.minimum(predictor, _CAP))
        if self.outputs == 1:
            probability: Array = expit(predictor)
            return probability
        whole: Array = softmax(np.column_stack([predictor, np.zeros(len(predictor))]), axis=1)
        return whole[:, :-1]

    def loss(self, predictor: Array) -> float:
        """Return minus the log likelihood, without what does not depend on the predictor."""
        if self.counts:
            lost = (np.exp(np.minimum(predictor, _CAP)) - self.targets * predictor)[:, 0]
        else:
            zeros = np.zeros((len(predictor), 1))
            norm = logsumexp(np.concatenate([predictor, zeros], axis=1), axis=1)
            lost = norm - (self.targets * predictor).sum(1)
        return float(self.weight @ lost)

    def deviance(self, predictor: Array) -> float:
        """Return twice what the log likelihood lacks to that of a model with a parameter for every row."""
        if not self.counts:
            return 2 * self.loss(predictor)
        y = self.targets[:, 0]
        saturated = np.where(y > 0, y - y * np.log(np.maximum(y, 1)), 0.0)
        return 2 * (self.loss(predictor) - float(self.weight @ saturated))

    def start(self) -> Array:
        """Return the predictor of the model without terms, ``(m,)``."""
        mean = np.average(self.targets, axis=0, weights=self.weight)
        if self.counts:
            logs: Array = np.log(mean)
            return logs
        rest = 1 - mean.sum()
        odds: Array = np.log(np.maximum(mean, 1e-12) / max(rest, 1e-12))
        return odds

    def pearson(self, predictor: Array, dof: float) -> float:
        """Return how much more counts vary than Poisson's law allows, at least 1."""
        mean = self.means(predictor)[:, 0]
        excess = float(self.weight @ ((self.targets[:, 0] - mean) ** 2 / np.maximum(mean, 1e-12)))
        return max(1.0, excess / max(1.0, float(self.weight.sum()) - dof - 1))


def likelihood_of(problem: SearchProblem) -> Likelihood:
    """Return the likelihood of a problem of classes or counts."""
    targets = problem.targets
    if problem.task == "classification" and problem.outputs > 1:
        targets = targets[:, :-1]
    weight = np.ones(problem.n) if problem.weight is None else problem.weight
    return Likelihood(targets, weight, problem.task == "count")


@dataclass(frozen=True)
class Fit:
    """A maximum-likelihood fit on centred columns.

    Args:
        predictor: The predictors of the rows, ``(n, m)``.
        deviance: Their deviance.
        weights: Weights of the columns, ``(p, m)``.
        intercept: Constant of each predictor, ``(m,)``.
    """

    predictor: Array
    deviance: float
    weights: Array
    intercept: Array


def fit(likelihood: Likelihood, columns: Array, start: Array | None = None) -> Fit:
    """Return the fit of a generalised linear model with a slight ridge, by L-BFGS on orthonormal columns.

    Args:
        likelihood: The likelihood.
        columns: Centred columns, ``(n, p)``; they may depend on one another.
        start: Predictors to start from, ``(n, m)``.
    """
    n, m = likelihood.targets.shape
    row = likelihood.weight
    total = float(row.sum())
    white = _whitening(columns, row, total)
    inside = np.column_stack([np.ones(n), columns @ white])
    p = inside.shape[1]
    first = np.zeros((p, m))
    first[0] = likelihood.start()
    if start is not None:
        first = inside.T @ (row[:, None] * start) / total
    ridge = np.full((p, 1), _RIDGE * total)
    ridge[0] = 0.0

    def objective(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(p, m)
        predictor = inside @ weights
        lost = likelihood.loss(predictor) + 0.5 * float((ridge * weights**2).sum())
        slope = (
            inside.T @ (row[:, None] * (likelihood.means(predictor) - likelihood.targets)) + ridge * weights
        )
        return lost / total, slope.ravel() / total

    options = {"maxiter": _STEPS, "ftol": 1e-12, "gtol": 1e-7}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(p, m)
    predictor = inside @ found
    return Fit(predictor, likelihood.deviance(predictor), white @ found[1:], found[0])


def _whitening(columns: Array, row: Array, total: float) -> Array:
    if columns.shape[1] == 0:
        return np.empty((0, 0))
    values, vectors = np.linalg.eigh(columns.T @ (row[:, None] * columns) / total)
    keep = values > _SPAN * max(float(values[-1]), 1e-300)
    white: Array = vectors[:, keep] / np.sqrt(values[keep])
    return white


def score_search(
    problem: SearchProblem, columns: Columns, gram: Gram, *, width: int, most_directions: float
) -> tuple[Space, dict[tuple[int, ...], Fit]]:
    """Return the sets of blocks, rated by a likelihood, and the fits that are made on the way.

    A set's score test says what each further block would take off the deviance (Rao 1948); the ``width`` best are
    fitted, and the criterion is that of the fit: ``deviance + penalty`` less the same of the empty set.

    Args:
        problem: The problem.
        columns: Its columns.
        gram: Their inner products.
        width: Sets that are fitted for every set that is extended.
        most_directions: Directions of a set at most.
    """
    likelihood = likelihood_of(problem)
    n = int(np.count_nonzero(likelihood.weight))
    m = likelihood.outputs
    whole = next(columns.pieces())[1] @ gram.transform
    empty = fit(likelihood, np.empty((problem.n, 0)))
    fits: dict[tuple[int, ...], Fit] = {(): empty}
    dofs: dict[tuple[int, ...], float] = {(): 0.0}

    def expand(one: Found) -> list[Found]:
        gain, more = _scores(likelihood, fits[one.members], whole, gram, gram.where(one.members))
        dof = dofs[one.members]
        proposals = []
        for block in range(gram.count):
            members = tuple(sorted((*one.members, block)))
            if (
                block in one.members
                or more[block] < 0.5
                or dof + more[block] > most_directions
                or members in fits
            ):
                continue
            cost = penalty(dof + float(more[block]), m, n, len(members), gram.count)
            proposals.append((cost - gain[block], members, dof + float(more[block])))
        new = []
        for _, members, directions in sorted(proposals)[:width]:
            inside = whole[:, gram.where(members)]
            fits[members] = fit(likelihood, inside, fits[one.members].predictor)
            dofs[members] = directions
            gone = fits[members].deviance - empty.deviance
            new.append(Found(members, gone + penalty(directions, m, n, len(members), gram.count), directions))
        return new

    def done(one: Found) -> bool:
        return fits[one.members].deviance <= 1e-6 * empty.deviance

    return Space(expand, done, gram.count), fits


def _scores(
    likelihood: Likelihood, current: Fit, whole: Array, gram: Gram, inside: NDArray[np.intp]
) -> tuple[Array, Array]:
    """Return the score test of every block, ``(count,)``, and the directions that it adds."""
    means = likelihood.means(current.predictor)
    left = likelihood.weight[:, None] * (likelihood.targets - means)
    count, rank = gram.real.shape
    if likelihood.outputs == 1:
        spread = likelihood.weight * (means if likelihood.counts else means * (1 - means))[:, 0]
        weighted = whole * spread[:, None]
        centre = weighted.sum(0) / max(float(spread.sum()), 1e-300)
        # Each block with itself, and the set with all: never all with all.
        stacked = whole.reshape(len(whole), count, rank).transpose(1, 2, 0)
        shifted = centre.reshape(count, rank)
        blocks = stacked @ weighted.reshape(len(whole), count, rank).transpose(1, 0, 2)
        blocks -= float(spread.sum()) * shifted[:, :, None] * shifted[:, None, :]
        products = whole[:, inside].T @ weighted - float(spread.sum()) * np.outer(centre[inside], centre)
        # Blocks are brought back to variance 1, which the guard against spanned directions counts on.
        size = float(np.average(spread, weights=likelihood.weight))
        if size < 1e-9:
            return np.zeros(count), gram.ranks.astype(float)
        gain, more = extensions(products / size, blocks / size, whole.T @ left, inside, gram.real)
        return gain[:, 0] / size, more
    average = np.diag(np.average(means, axis=0, weights=likelihood.weight))
    average -= means.T @ (likelihood.weight[:, None] * means) / float(likelihood.weight.sum())
    values, vectors = np.linalg.eigh(average)
    white = vectors / np.sqrt(np.maximum(values, 1e-9))
    gain, more = extensions(gram.products[inside], gram.within, whole.T @ left @ white, inside, gram.real)
    return gain.sum(1), more
