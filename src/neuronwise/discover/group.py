"""Group selection: each base function brings a weight for every input, which is what the neuron will have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._blocks import Block
from neuronwise.discover._select import Chosen, Settings, fitted, select
from neuronwise.discover.candidate import Candidate, ranked
from neuronwise.discover.problem import SearchProblem
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Formula

__all__ = ["Group", "fit_terms"]


@dataclass(frozen=True)
class Group:
    """Search ``y = b + sum_k <w_k, phi_k(x)>``: a base function is chosen with all its weights, or not at all.

    The criterion is ``n ln(RSS/n) + k d ln n + 2 ln C(K, k)`` for regression, and the deviance with the same penalty
    for classes and counts; with several outputs or classes each base function brings weights for all of them. Constant
    and duplicated columns are no directions and cost nothing. Criteria that differ by less than 6 are a tie, and the
    simpler bases win.

    With more inputs than ``max_inputs`` (or a third of the rows), only those that promise most by themselves are
    searched, at three sizes, and the choice is charged for: ``2 ln C(d, chosen)``. The others have weight 0.

    Args:
        width: Sets of base functions kept a level of the beam.
        exhaustive: Where there are no more sets than this, all are looked at.
        max_terms: Base functions of a formula at most.
        max_inputs: Inputs that are searched at most.

    Source: section 7 of our sheet on arXiv 2405.02369, where shared coefficients are shown to be the wrong criterion.

    Example:
        >>> from neuronwise.discover import make_problem
        >>> X = np.random.default_rng(0).uniform(-2, 2, (300, 3))
        >>> y = X**2 @ [1, -2, 0.5] + np.sin(3 * X) @ [0.5, 1, -1]
        >>> Group().search(make_problem(X, y))[0].terms
        ('x**2', 'sin(3*x)')
    """

    name: ClassVar[str] = "group"

    width: int = 8
    exhaustive: int = 256
    max_terms: int = 8
    max_inputs: int = 256

    def __post_init__(self) -> None:
        self._settings()
        if self.max_inputs < 1:
            raise InvalidArgumentError(f"max_inputs must be at least 1, not {self.max_inputs}.")

    def search(
        self, problem: SearchProblem, *, engine: str = "local", workers: int | None = None
    ) -> list[Candidate]:
        """Return the best formulas, best first; see :meth:`Method.search`."""
        found: dict[tuple[str, ...], Candidate] = {}
        for inputs in _subsets(problem, self.max_inputs):
            for one in self._chosen(problem, inputs):
                candidate = _candidate(problem, one, inputs)
                known = found.get(candidate.terms)
                if known is None or candidate.criterion < known.criterion:
                    found[candidate.terms] = candidate
        return ranked(found.values())

    def refit(self, problem: SearchProblem, candidate: Candidate) -> Candidate:
        """Return the formula with its numbers fitted to other rows; see :meth:`Refits.refit`."""
        weights = [values for formula in candidate.outputs for values in formula.weights.values()]
        used = np.flatnonzero(np.any(np.abs(weights), axis=0)) if weights else np.arange(problem.d)
        return fit_terms(problem, candidate.terms, used)

    def fit(self, problem: SearchProblem) -> Candidate:
        """Return the formula with all base functions of a problem and weights for all inputs, whatever it is worth."""
        return fit_terms(problem, tuple(base.text for base in problem.bases))

    def _chosen(self, problem: SearchProblem, inputs: NDArray[np.intp]) -> Iterator[Chosen]:
        part = problem if len(inputs) == problem.d else replace(problem, X=problem.X[:, inputs])
        charge = 2 * _log_binomial(problem.d, part.d)
        for one in select(part, _blocks(part), self._settings()):
            yield replace(one, criterion=one.criterion + charge) if one.members else one

    def _settings(self) -> Settings:
        return Settings(self.width, self.exhaustive, self.max_terms)


def fit_terms(
    problem: SearchProblem, terms: tuple[str, ...], inputs: NDArray[np.intp] | None = None
) -> Candidate:
    """Return the formula with the given terms, a weight for every input each, whatever it is worth.

    Args:
        problem: The rows.
        terms: Texts of base functions of the problem.
        inputs: Inputs that may have a weight; default: all.
    """
    chosen = np.arange(problem.d) if inputs is None else inputs
    whole = replace(problem, bases=tuple(base for base in problem.bases if base.text in terms))
    part = replace(whole, X=whole.X[:, chosen])
    return _candidate(whole, fitted(part, _blocks(part)), chosen)


def _blocks(problem: SearchProblem) -> list[Block]:
    return [Block(base.text, base.complexity, base, problem.d) for base in problem.bases]


def _subsets(problem: SearchProblem, most: int) -> list[NDArray[np.intp]]:
    """Return the inputs to search: all, or with many, those that promise most, in three numbers."""
    d = problem.d
    limit = min(most, max(1, problem.n // 3))
    if d <= limit:
        return [np.arange(d)]
    rated = _ratings(problem)
    order = np.lexsort((np.arange(d), -rated))
    sizes = sorted({limit, max(1, limit // 4), max(1, limit // 16)}, reverse=True)
    return [np.sort(order[:size]) for size in sizes]


def _ratings(problem: SearchProblem) -> NDArray[np.float64]:
    """Return for each input the share of the response that its best base function explains by itself."""
    response = problem.response
    weight = problem.row_weight
    total = float(weight.sum())
    whole = float((weight @ response**2).sum())
    best = np.zeros(problem.d)
    for base in problem.bases:
        values = base(problem.X)
        values -= weight @ values / total
        size = weight @ values**2
        along = values.T @ (weight[:, None] * response)
        share = (along**2).sum(1) / np.where(size > 0, size, np.inf) / whole
        best = np.maximum(best, share)
    return best


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _candidate(problem: SearchProblem, one: Chosen, inputs: NDArray[np.intp]) -> Candidate:
    chosen = tuple(problem.bases[member] for member in one.members)
    tables = np.zeros((len(one.intercept), len(chosen), problem.d))
    for number, weights in enumerate(one.weights):
        tables[:, number, inputs] = weights.T
    outputs = tuple(
        Formula.from_bases(chosen, weights=table, intercept=float(value), inputs=problem.names)
        for table, value in zip(tables, one.intercept, strict=True)
    )
    form = outputs[0] if len(outputs) == 1 else _form(problem, chosen)
    return Candidate(
        form,
        one.criterion,
        form.complexity,
        tuple(map(str, chosen)),
        outputs=outputs,
        link=problem.link,
        figures={"explained": one.explained, "dof": one.dof, "rows": one.rows, "inputs": len(inputs)},
    )


def _form(problem: SearchProblem, chosen: tuple[object, ...]) -> Formula:
    """Return the formula of several outputs, with free weights."""
    terms = [f"<w{number}, {base}>" for number, base in enumerate(chosen, 1)]
    return Formula(" + ".join([*terms, "b1"]), inputs=problem.names)
