"""Inner scales: base functions of ``a * x`` with the ``a`` that suits the data, by variable projection."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from neuronwise.discover.candidate import Candidate, ranked
from neuronwise.discover.group import Group
from neuronwise.discover.problem import SearchProblem
from neuronwise.discover.shared import Shared
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Base, usable

__all__ = ["Scales"]

_GRID = 8  # scales of each function that are offered, evenly on a logarithmic axis
_ROUNDS = 3
_STEPS = 20
_STARTS = 3  # formulas on the grid whose scales are moved
_REFUSED = 1e300
_DIGITS = 5  # of a scale in a formula
_POWERS = ("x", "x**2", "x**3")


@dataclass(frozen=True)
class Scales:
    """Search with base functions of ``a * x``, the scales ``a`` fitted too. Off by default: one must ask for it.

    A grid of scales is offered to the selection; then, of the best three, one scale after the other is moved to where
    the criterion is lowest, the outer weights solved for at every step (variable projection), and terms that the others
    make needless are taken out. Each scale costs ``ln n`` more. Guards, without which nearly linear functions take the
    place of plain powers (section 7 of our sheet):

    - a scale stays within ``low`` and ``high`` divided by the spread of the inputs;
    - a function is refused if a plain power x, x**2 or x**3 explains more than ``collinear`` of it;
    - a formula with a scale must beat the best one without by ``advantage``.

    It tells scales apart only where the inputs reach far enough: sin(0.5*x) on [-1, 1] is a line.

    Args:
        of: The selection: :class:`Group` or :class:`Shared`.
        functions: Functions of ``x`` whose argument is scaled.
        low: Smallest scale, in units of one over the standard deviation of the inputs.
        high: Largest scale.
        collinear: Share of a function's variance that a power may explain.
        advantage: By how much the criterion must be lower than without scales; from 10 on evidence is "very strong".
    """

    name: ClassVar[str] = "scales"

    of: Group | Shared = field(default_factory=Group)
    functions: tuple[str, ...] = ("sin(x)", "cos(x)", "exp(x)", "exp(-x)", "tanh(x)", "exp(-x**2)")
    low: float = 0.5
    high: float = 6.0
    collinear: float = 0.98
    advantage: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise InvalidArgumentError(
                f"low must be positive and below high, not {self.low} and {self.high}."
            )
        if not 0 < self.collinear <= 1:
            raise InvalidArgumentError(f"collinear must be above 0 and at most 1, not {self.collinear}.")

    def search(
        self, problem: SearchProblem, *, engine: str = "local", workers: int | None = None
    ) -> list[Candidate]:
        """Return the best formulas, best first; see :meth:`Method.search`."""
        plain = self.of.search(problem)
        fitting = _Fitting(self, problem)
        kept, _ = usable(fitting.grid(), problem.X)
        wide = replace(problem, bases=(*problem.bases, *(base for base in kept if fitting.distinct(base))))
        found: dict[tuple[str, ...], Candidate] = {}
        for start in self.of.search(wide)[:_STARTS]:
            chosen = [base for base in wide.bases if base.text in start.terms]
            if any(base in fitting.sources for base in chosen):
                refined = fitting.refined(fitting.merged(chosen))
                found[refined.terms] = refined
        floor = min(candidate.criterion for candidate in plain) - self.advantage
        better = [one for one in found.values() if one.criterion < floor and fitting.has_scale(one)]
        # They have shown their advantage already; ties are broken among them only.
        return [*ranked(better), *plain][:20]

    def refit(self, problem: SearchProblem, candidate: Candidate) -> Candidate:
        """Return the formula with its outer weights fitted to other rows; the scales stay. See :meth:`Refits.refit`."""
        return self.of.fit(replace(problem, bases=tuple(Base(term) for term in candidate.terms)))


class _Fitting:
    """Scales of functions on one problem."""

    def __init__(self, method: Scales, problem: SearchProblem) -> None:
        self.method, self.problem = method, problem
        spread = float(problem.X.std())
        self.limits = (method.low / spread, method.high / spread)
        self.offered = len(problem.bases) + len(method.functions)
        #: Which function, and at which scale, a base function is.
        self.sources: dict[Base, tuple[str, float]] = {}
        for text in method.functions:
            for number in range(1, 4):
                self.scaled(text, float(number))

    def grid(self) -> list[Base]:
        """Return every function at every scale of the grid, those of the problem left out."""
        scales = np.geomspace(*self.limits, _GRID)
        return [self.scaled(text, float(a)) for text in self.method.functions for a in scales]

    def scaled(self, text: str, scale: float) -> Base:
        """Return a function of ``scale * x``."""
        number = float(f"{scale:.{_DIGITS}g}")
        base = Base(re.sub(r"\bx\b", f"({number!r}*x)", text))
        self.sources[base] = (text, number)
        return base

    def has_scale(self, candidate: Candidate) -> bool:
        """Return whether a formula has a function with a scale of its own."""
        own = {base.text for base in self.sources} - {base.text for base in self.problem.bases}
        return any(term in own for term in candidate.terms)

    def merged(self, chosen: Sequence[Base]) -> list[Base]:
        """Return functions of which none comes at two scales: on a grid two neighbours stand for one between them.

        Plain powers beside such a pair are kept; what the moved scale makes needless is taken out later.
        """
        by_function: dict[str, Base] = {}
        for base in chosen:
            by_function.setdefault(self.sources[base][0] if base in self.sources else base.text, base)
        return list(by_function.values())

    def refined(self, chosen: Sequence[Base]) -> Candidate:
        """Return the formula of these functions, their scales where they fit best, needless functions taken out."""
        bases = list(chosen)
        for _ in range(_ROUNDS):
            for place, base in enumerate(bases):
                if base in self.sources:
                    bases[place] = self._moved(bases, place)
        best = self._rated(bases)
        while len(bases) > 1:
            rated = [(self._rated([b for b in bases if b is not base]), base) for base in bases]
            shorter, needless = min(rated, key=lambda pair: pair[0].criterion)
            if shorter.criterion > best.criterion:
                break
            bases, best = [base for base in bases if base is not needless], shorter
        return best

    def distinct(self, base: Base) -> bool:
        """Return whether no plain power explains nearly all of a function, over all inputs together."""
        values = _centred(base(self.problem.X))
        whole = float((values**2).sum())
        if whole == 0:
            return False
        for power in _POWERS:
            columns = _centred(Base(power)(self.problem.X))
            along = (columns * values).sum(0) ** 2 / np.maximum((columns**2).sum(0), 1e-300)
            if float(along.sum()) > self.method.collinear * whole:
                return False
        return True

    def _moved(self, bases: Sequence[Base], place: int) -> Base:
        """Return one function with the scale at which the whole fits best, within a factor of two of where it is."""
        text, here = self.sources[bases[place]]

        def cost(log_scale: float) -> float:
            moved = self.scaled(text, math.exp(log_scale))
            if not np.isfinite(moved(self.problem.X)).all() or not self.distinct(moved):
                return _REFUSED
            return self._fit([*bases[:place], moved, *bases[place + 1 :]]).criterion

        bounds = (
            math.log(max(here / 2, self.limits[0] * 0.999)),
            math.log(min(here * 2, self.limits[1] * 1.001)),
        )
        found = minimize_scalar(
            cost, bounds=bounds, method="bounded", options={"maxiter": _STEPS, "xatol": 1e-5}
        )
        if found.fun < self._fit(bases).criterion:
            return self.scaled(text, math.exp(float(found.x)))
        return bases[place]

    def _rated(self, bases: Sequence[Base]) -> Candidate:
        fit = self._fit(bases)
        scales = sum(base in self.sources and base not in self.problem.bases for base in bases)
        choice = 2 * math.log(math.comb(self.offered, min(len(bases), self.offered)))
        return replace(fit, criterion=fit.criterion + scales * math.log(self.problem.n) + choice)

    def _fit(self, bases: Sequence[Base]) -> Candidate:
        order = sorted(dict.fromkeys(bases), key=lambda base: (base.complexity, base.text))
        return self.method.of.fit(replace(self.problem, bases=tuple(order)))


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = values - values.mean(0)
    return centred
