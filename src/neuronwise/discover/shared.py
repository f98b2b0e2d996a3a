"""Shared selection: one coefficient for each base function over all inputs, exact and deterministic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._blocks import Block
from neuronwise.discover._select import Chosen, Settings, fitted, select
from neuronwise.discover.candidate import Candidate, ranked
from neuronwise.discover.problem import SearchProblem
from neuronwise.formula import Base, Formula

__all__ = ["Shared"]


@dataclass(frozen=True)
class Shared:
    """Search ``y = c0 + sum_k c_k sum_i phi_k(x_i)``: every input passes through the same formula.

    One column for each base function, ``S_k = sum_i phi_k(x_i)``, one Gram matrix, then a search over sets of columns
    by the extended BIC, ``n ln(RSS/n) + k ln n + 2 ln C(K, k)``. Sets of which the criterion differs by less than 6 are
    a tie, and the simpler bases win. Where inputs act with different weights, let alone signs, use :class:`Group`.

    Args:
        width: Sets of base functions kept a level of the beam.
        exhaustive: Where there are no more sets than this, all are looked at.
        max_terms: Base functions of a formula at most.

    Source: arXiv 2405.02369, section 3 (the predictor); selection as in section 7 of our sheet.

    Example:
        >>> from neuronwise.discover import make_problem
        >>> X = np.random.default_rng(0).uniform(-1, 1, (200, 3))
        >>> best = Shared().search(make_problem(X, (2 * X**2 - 3 * X).sum(1)))[0]
        >>> best.terms
        ('x', 'x**2')
    """

    name: ClassVar[str] = "shared"

    width: int = 8
    exhaustive: int = 256
    max_terms: int = 8

    def __post_init__(self) -> None:
        self._settings()

    def search(
        self, problem: SearchProblem, *, engine: str = "local", workers: int | None = None
    ) -> list[Candidate]:
        """Return the best formulas, best first; see :meth:`Method.search`."""
        blocks = [Block(base.text, base.complexity, _summed(base), 1) for base in problem.bases]
        return ranked(_candidate(problem, one) for one in select(problem, blocks, self._settings()))

    def refit(self, problem: SearchProblem, candidate: Candidate) -> Candidate:
        """Return the formula with its numbers fitted to other rows; see :meth:`Refits.refit`."""
        chosen = tuple(base for base in problem.bases if base.text in candidate.terms)
        return self.fit(replace(problem, bases=chosen))

    def fit(self, problem: SearchProblem) -> Candidate:
        """Return the formula with all base functions of a problem, whatever it is worth."""
        blocks = [Block(base.text, base.complexity, _summed(base), 1) for base in problem.bases]
        return _candidate(problem, fitted(problem, blocks))

    def _settings(self) -> Settings:
        return Settings(self.width, self.exhaustive, self.max_terms)


class _summed:
    """The column ``sum_i phi(x_i)`` of a base function."""

    def __init__(self, base: Base) -> None:
        self.base = base

    def __call__(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self.base(X).sum(1, keepdims=True))


def _candidate(problem: SearchProblem, one: Chosen) -> Candidate:
    chosen = tuple(problem.bases[member] for member in one.members)
    table = np.array([weights[0] for weights in one.weights]).reshape(len(chosen), len(one.intercept))
    outputs = tuple(
        Formula.from_bases(chosen, table[:, output], intercept=float(value), inputs=problem.names)
        for output, value in enumerate(one.intercept)
    )
    form = (
        outputs[0]
        if len(outputs) == 1
        else Formula(" + ".join(map(str, chosen)) or "0", inputs=problem.names)
    )
    return Candidate(
        form,
        one.criterion,
        form.complexity,
        tuple(map(str, chosen)),
        outputs=outputs,
        link=problem.link,
        figures={"explained": one.explained, "dof": one.dof, "rows": one.rows},
    )
