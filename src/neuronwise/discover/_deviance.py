"""Classes and counts: likelihoods, maximum-likelihood fits, and the score test by which blocks are proposed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from neuronwise.discover._beam import Found, Space, extensions, penalty
from neuronwise.discover._blocks import Columns, Gram
from neuronwise.discover.problem import SearchProblem

__all__ = ["Fit", "Likelihood", "ScoreSearch", "fit", "gauged", "likelihood_of"]

Array = NDArray[np.float64]

# Weight of the squared predictor in a fit, for each row: classes that can be told apart without error would send the
# weights to infinity. It shrinks a predictor by far less than its own error.
_RIDGE = 1e-4
_STEPS = 200
_ROUGH, _FINE = 0.1, 1e-4  # precision of a deviance while searching, and of those that are reported
_CAP = 50.0  # largest log count: e**50 is beyond any count, and its square is still a number
_SPAN = 1e-8
_START, _MORE = 8, 4  # blocks that are fitted as extensions of the empty set, and of any other
_SLACK = 3.0  # by how much a score test may fall short of the deviance that a block takes off


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
        return int(self.targets.shape[1])

    def evaluate(self, predictor: Array) -> tuple[float, Array]:
        """Return minus the log likelihood, without what does not depend on the predictor, and the expected targets.

        Args:
            predictor: Predictors, ``(n, m)``.
        """
        fit = self.targets * predictor
        if self.counts:
            means = np.exp(np.minimum(predictor, _CAP))
            return float(self.weight @ (means - fit).sum(1)), means
        # The last class has predictor 0; the largest of each row is taken out, so that nothing overflows.
        top = np.maximum(predictor.max(1, keepdims=True), 0)
        means = np.exp(predictor - top)
        norm = means.sum(1, keepdims=True) + np.exp(-top)
        means /= norm
        return float(self.weight @ ((top + np.log(norm))[:, 0] - fit.sum(1))), means

    def means(self, predictor: Array) -> Array:
        """Return the expected targets, ``(n, m)``."""
        return self.evaluate(predictor)[1]

    def spread(self, means: Array) -> Array:
        """Return the mean covariance of the targets about their expected values, ``(m, m)``."""
        size = float(self.weight.sum())
        average = np.diag(self.weight @ means / size)
        return average if self.counts else average - means.T @ (self.weight[:, None] * means) / size

    def deviance(self, predictor: Array) -> float:
        """Return twice what the log likelihood lacks to that of a model with a parameter for every row."""
        loss, _ = self.evaluate(predictor)
        if not self.counts:
            return 2 * loss
        y = self.targets[:, 0]
        saturated = np.where(y > 0, y - y * np.log(np.maximum(y, 1)), 0.0)
        return 2 * (loss - float(self.weight @ saturated))

    def start(self) -> Array:
        """Return the predictor of the model without terms, ``(m,)``."""
        mean = np.average(self.targets, axis=0, weights=self.weight)
        rest = 1.0 if self.counts else max(1 - float(mean.sum()), 1e-12)
        logs: Array = np.log(np.maximum(mean, 1e-12) / rest)
        return logs

    def excess(self, predictor: Array, dof: float) -> float:
        """Return how much more counts vary than Poisson's law allows (Pearson), at least 1."""
        mean = self.means(predictor)[:, 0]
        squares = float(self.weight @ ((self.targets[:, 0] - mean) ** 2 / np.maximum(mean, 1e-12)))
        return max(1.0, squares / max(1.0, float(self.weight.sum()) - dof - 1))


def likelihood_of(problem: SearchProblem) -> Likelihood:
    """Return the likelihood of a problem of classes or counts."""
    targets = problem.targets
    if problem.task == "classification" and problem.outputs > 1:
        targets = targets[:, :-1]
    weight = problem.row_weight
    return Likelihood(targets, weight, problem.task == "count")


def gauged(problem: SearchProblem, weights: Array, intercept: Array) -> tuple[Array, Array]:
    """Return weights for all classes that add up to zero over them, from those relative to the last class.

    Args:
        problem: The problem; if it has not more than two classes all stays as it is.
        weights: Of the columns, ``(p, m)``.
        intercept: Shape ``(m,)``.
    """
    if problem.link != "softmax":
        return weights, intercept
    weights = np.column_stack([weights, np.zeros(len(weights))])
    intercept = np.append(intercept, 0.0)
    return weights - weights.mean(1, keepdims=True), intercept - intercept.mean()


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


def fit(
    likelihood: Likelihood, columns: Array, start: Array | None = None, *, precision: float = _FINE
) -> Fit:
    """Return the fit of a generalised linear model with a slight ridge.

    By L-BFGS in coordinates in which the second derivative is about the identity: columns are made orthonormal, outputs
    are divided by the root of their mean covariance.

    Args:
        likelihood: The likelihood.
        columns: Centred columns, ``(n, p)``; they may depend on one another.
        start: Predictors to start from, ``(n, m)``.
        precision: By how much the deviance may be off, about.
    """
    n, m = likelihood.targets.shape
    row = likelihood.weight[:, None]
    total = float(row.sum())
    white = _whitening(columns, likelihood.weight, total)
    inside = np.column_stack([np.ones(n), columns @ white])
    p = inside.shape[1]
    ridge = np.full((p, 1), _RIDGE * total)
    ridge[0] = 0.0
    if start is None:
        start = np.tile(likelihood.start(), (n, 1))
    first = inside.T @ (row * start) / total
    outward, inward = _coordinates(likelihood, inside @ first)

    def objective(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(p, m) @ outward
        loss, means = likelihood.evaluate(inside @ weights)
        slope = inside.T @ (row * (means - likelihood.targets)) + ridge * weights
        return loss + 0.5 * float((ridge * weights**2).sum()), (slope @ outward.T).ravel()

    begin = (first @ inward).ravel()
    # L-BFGS converges fast here: after a step that gains a part of the precision there is less than that to gain.
    options = {"maxiter": _STEPS, "ftol": 0.1 * precision / max(abs(objective(begin)[0]), 1.0), "gtol": 0.0}
    solved = minimize(objective, begin, jac=True, method="L-BFGS-B", options=options)
    found = solved.x.reshape(p, m) @ outward
    predictor = inside @ found
    return Fit(predictor, likelihood.deviance(predictor), white @ found[1:], found[0])


def _coordinates(likelihood: Likelihood, predictor: Array) -> tuple[Array, Array]:
    """Return the matrix that turns coordinates of the outputs into outputs, and its inverse."""
    size = float(likelihood.weight.sum())
    values, vectors = np.linalg.eigh(likelihood.spread(likelihood.means(predictor)))
    roots = np.sqrt(size * np.maximum(values, 1e-3 * max(float(values[-1]), 1e-6)))
    return (vectors / roots).T, vectors * roots


def _whitening(columns: Array, row: Array, total: float) -> Array:
    if columns.shape[1] == 0:
        return np.empty((0, 0))
    values, vectors = np.linalg.eigh(columns.T @ (row[:, None] * columns) / total)
    keep = values > _SPAN * max(float(values[-1]), 1e-300)
    white: Array = vectors[:, keep] / np.sqrt(values[keep])
    return white


class ScoreSearch:
    """Sets of blocks, rated by a likelihood.

    A set's score test says what each further block would take off the deviance (Rao 1948); the best of those that may
    be worth their penalty are fitted, and the criterion is that of the fit: ``deviance + penalty`` less the same of
    the empty set.

    Args:
        problem: The problem.
        columns: Its columns, all kept.
        gram: Their inner products.
        most_directions: Directions of a set at most.
    """

    def __init__(
        self, problem: SearchProblem, columns: Columns, gram: Gram, *, most_directions: float
    ) -> None:
        self.likelihood = likelihood_of(problem)
        self.n = problem.n_weighted
        self._gram, self._most = gram, most_directions
        self._whole = next(columns.pieces())[1] @ gram.transform
        self.fits: dict[tuple[int, ...], Fit] = {(): fit(self.likelihood, np.empty((problem.n, 0)))}
        self._dofs: dict[tuple[int, ...], float] = {(): 0.0}

    @property
    def space(self) -> Space:
        """What a beam goes through."""
        return Space(self._expand, self._done, self._gram.count)

    def refine(self, members: tuple[int, ...]) -> Fit:
        """Return the fit of a set, to full precision."""
        inside = self._whole[:, self._gram.where(members)]
        return fit(self.likelihood, inside, self.fits[members].predictor)

    def cost(self, members: tuple[int, ...], dof: float) -> float:
        """Return the penalty of a set."""
        return penalty(dof, self.likelihood.outputs, self.n, len(members), self._gram.count)

    def _expand(self, one: Found) -> list[Found]:
        new = []
        proposals = self._proposals(one)
        for number, (hopeless, _, members, dof) in enumerate(proposals[: _MORE if one.members else _START]):
            # One is fitted in any case: whoever reads the result wants to see the next best.
            if hopeless and number > 0:
                break
            inside = self._whole[:, self._gram.where(members)]
            found = fit(self.likelihood, inside, self.fits[one.members].predictor, precision=_ROUGH)
            self.fits[members], self._dofs[members] = found, dof
            new.append(Found(members, found.deviance - self.fits[()].deviance + self.cost(members, dof), dof))
        return new

    def _proposals(self, one: Found) -> list[tuple[bool, float, tuple[int, ...], float]]:
        gain, more = self._scores(one.members)
        dof = self._dofs[one.members]
        paid = self.cost(one.members, dof)
        proposals = []
        for block in range(self._gram.count):
            members = tuple(sorted((*one.members, block)))
            with_it = dof + float(more[block])
            if block in one.members or more[block] < 0.5 or with_it > self._most or members in self.fits:
                continue
            cost = self.cost(members, with_it) - paid
            proposals.append((bool(_SLACK * gain[block] < cost), cost - float(gain[block]), members, with_it))
        return sorted(proposals)

    def _done(self, one: Found) -> bool:
        return self.fits[one.members].deviance <= 1e-6 * self.fits[()].deviance

    def _scores(self, members: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the score test of every block, ``(count,)``, and the directions that it adds."""
        likelihood, gram, whole = self.likelihood, self._gram, self._whole
        means = likelihood.means(self.fits[members].predictor)
        left = whole.T @ (likelihood.weight[:, None] * (likelihood.targets - means))
        inside = gram.where(members)
        spread = likelihood.spread(means)
        if likelihood.outputs > 1:
            # The covariance of a row's classes is taken to be the same in all rows, which makes the outputs separable.
            values, vectors = np.linalg.eigh(spread)
            white = vectors / np.sqrt(np.maximum(values, 1e-9))
            gain, more = extensions(gram.products[inside], gram.within, left @ white, inside, gram.real)
            return gain.sum(1), more
        size = float(spread[0, 0])
        if size < 1e-9:
            return np.zeros(gram.count), gram.ranks.astype(float)
        share = likelihood.weight * (means if likelihood.counts else means * (1 - means))[:, 0] / size
        products, blocks = self._weighted(share, inside)
        gain, more = extensions(products, blocks, left, inside, gram.real)
        return gain[:, 0] / size, more

    def _weighted(self, share: Array, inside: NDArray[np.intp]) -> tuple[Array, Array]:
        """Return inner products under other row weights: of a set with all, and within each block."""
        count, rank = self._gram.real.shape
        total = float(share.sum())
        weighted = self._whole * share[:, None]
        centre = weighted.sum(0) / total
        products = self._whole[:, inside].T @ weighted - total * np.outer(centre[inside], centre)
        blocks = np.empty((count, rank, rank))
        for k in range(count):
            where = slice(k * rank, (k + 1) * rank)
            blocks[k] = self._whole[:, where].T @ weighted[:, where]
            blocks[k] -= total * np.outer(centre[where], centre[where])
        return products, blocks
