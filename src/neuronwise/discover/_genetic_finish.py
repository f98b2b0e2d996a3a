"""The end of the genetic search: finalists fitted on the data, constants rounded, formulas simplified and ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from neuronwise.discover._deviance import fit, likelihood_of
from neuronwise.discover._genetic_exact import ExactSpace, exact_space
from neuronwise.discover._genetic_island import Member
from neuronwise.discover._genetic_job import Outcome, linearised, spaces_of
from neuronwise.discover._genetic_poles import EXACT
from neuronwise.discover._genetic_space import Linearised, Space
from neuronwise.discover._genetic_tune import FLOOR, constants_of, is_simple, rounded, tuned
from neuronwise.discover._genetic_variation import Individual
from neuronwise.discover._trees import Node, X, apply, input_of, joined, skeleton, text
from neuronwise.discover.candidate import TIE, Candidate, ranked
from neuronwise.discover.problem import SearchProblem
from neuronwise.errors import FormulaError
from neuronwise.formula import Formula

if TYPE_CHECKING:
    from neuronwise.discover.genetic import Genetic

__all__ = ["Finish"]

Array = NDArray[np.float64]

_FINALISTS = 12
_POLISHED = 5
_POLISHING_STEPS = 12
_POLISHABLE = 400_000  # inputs of all rows up to which constants are tuned on the data themselves
_NODE = 2.0  # what each weighted node costs in the criterion: about 2 ln of the choices there are for it
_BETWEEN = 1000  # places between the rows at which finalists must be defined
_EXPLODES = 10.0  # how much further from the middle than on the rows a term may be between them
_SAME = 1e-9  # of the predictor's spread: what rounding and simplifying may change
_SIMPLIFIABLE = 30
_DIGITS = 11  # of coefficients
_SIMPLIFIED = 1  # SymPy takes up to seconds for a formula, and trees are in a canonical form anyway


@dataclass(frozen=True)
class Fitted:
    """An individual fitted on the data.

    Args:
        terms: Its terms.
        weights: Coefficients ``(K, m)``.
        intercept: ``(m,)``.
        predictor: ``(n, m)``.
        criterion: Lower is better.
        explained: Share of the squares, or of the deviance, that it explains.
    """

    terms: Individual
    weights: Array
    intercept: Array
    predictor: Array
    criterion: float
    explained: float


class Finish:
    """Gathers what the islands found, and makes candidates of it.

    Args:
        settings: The search's settings.
        problem: The problem.
    """

    def __init__(self, settings: Genetic, problem: SearchProblem) -> None:
        self.settings = settings
        self.problem = problem
        self.solved = False
        self._found: dict[str, Member] = {}
        self._spread = 1.0
        self._exact: ExactSpace = exact_space(linearised(problem, None), settings.table)
        self._between: ExactSpace = _between(problem, settings)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Take in the fronts of islands."""
        for outcome in outcomes:
            for member in outcome.front:
                self._found.setdefault(member.key, member)
            self.solved |= self.settings.coefficients and outcome.error <= FLOOR

    def best_predictor(self) -> Array:
        """Return the predictor of the best individual so far, for a new linearisation ``(n, outputs)``."""
        with np.errstate(all="ignore"):
            return min(map(self._fit, self._promising(_POLISHED)), key=lambda one: one.criterion).predictor

    def candidates(self) -> list[Candidate]:
        """Return the finalists as candidates, best first."""
        problem = self.problem
        with np.errstate(all="ignore"):
            if not self.settings.coefficients:
                return self._published()
            fitted = [self._fit(terms) for terms in [*self._plainest(), *self._promising(_FINALISTS)]]
            fitted += self._laws()
            if problem.task == "count":
                # Counts that vary more than Poisson's law allows would otherwise buy terms that are not there.
                richest = max(_distinct(fitted), key=lambda one: one.explained)
                self._spread = likelihood_of(problem).excess(richest.predictor, len(richest.terms))
                fitted = [self._fit(one.terms) for one in fitted]
            fitted = self._improved(_distinct(fitted))
            made = [
                self._candidate(one, simplify=place < _SIMPLIFIED)
                for place, one in enumerate(fitted[:_FINALISTS])
            ]
        return ranked({str(one.formula): one for one in reversed(made)}.values())

    def _plainest(self) -> list[Individual]:
        """Return the individuals that are always rated: the constant and the linear ones."""
        inputs = self.settings.inputs
        leaves = joined(map(input_of, range(self.problem.d)))
        return [(), *([(X,)] if inputs != "single" else []), *([leaves] if inputs != "shared" else [])]

    def _laws(self) -> list[Fitted]:
        """Return individuals with a pole between the data that, tuned, leave no error; the others are none."""
        promising = self._promising(_POLISHED, pole=True)
        if not promising:
            return []
        space = self._space()
        return [self._fit(self._tuned(terms, space)) for terms in promising]

    def _tuned(self, terms: Individual, space: Space) -> Individual:
        return tuned(terms, space, steps=_POLISHING_STEPS, starts=0, rng=Random(0))[0]

    def _promising(self, count: int, *, pole: bool = False) -> list[Individual]:
        """Return the individuals with the lowest criterion, by their errors in the search."""
        n = self.problem.n
        usable = [one for one in self._found.values() if np.isfinite(one.error) and one.pole == pole]
        usable.sort(key=lambda one: (n * np.log(max(one.error, FLOOR)) + self._cost(one.terms), one.key))
        seen: dict[str, Individual] = {}
        for one in usable:
            seen.setdefault(_form(one.terms), one.terms)
            if len(seen) == count:
                break
        return list(seen.values())

    def _cost(self, terms: Individual) -> float:
        """Return what a form costs: ``ln n`` for each number fitted, and the choices that led to it."""
        numbers = len(terms) * self._exact.target.shape[0]
        numbers += sum(not is_simple(value) for value in constants_of(terms))
        nodes = sum(term.size for term in terms)
        return float(np.log(self.problem.n) * numbers + _NODE * nodes)

    def _improved(self, fitted: list[Fitted]) -> list[Fitted]:
        """Tune the best on the data, round their constants, and leave out terms that are not wanted."""
        space = self._space()
        finals: list[Fitted] = []
        for one in fitted[:_POLISHED]:
            lean = self._lean(one)
            sharp = self._fit(self._tuned(lean.terms, space))
            simple = self._lean(self._fit(rounded(sharp.terms, space, rows=self.problem.n)[0]))
            finals.append(simple if simple.criterion <= sharp.criterion + TIE else sharp)
        # Of two with the same form the polished one is kept.
        return _distinct([*_distinct(finals), *fitted])

    def _lean(self, one: Fitted) -> Fitted:
        """Return the fit without the terms that the criterion does not want, the least wanted first."""
        while one.terms:
            less = [self._fit(one.terms[:place] + one.terms[place + 1 :]) for place in range(len(one.terms))]
            best = min(less, key=lambda fitted: fitted.criterion)
            if best.criterion > one.criterion:
                break
            one = best
        return one

    def _space(self) -> Space:
        """Return where finalists are tuned: on the data, or with very many on the grid."""
        problem = self.problem
        predictor = None if problem.task == "regression" or problem.outputs > 1 else self.best_predictor()
        if problem.X.size <= _POLISHABLE:
            return exact_space(linearised(problem, predictor), self.settings.table)
        vector, mixed = spaces_of(self.settings, problem, predictor)
        return mixed or vector

    def _fit(self, terms: Individual) -> Fitted:
        """Return the fit on the data; infinitely bad where it explodes or is undefined between them."""
        found = self._fit_rows(terms)
        if self.settings.poles or 1 - found.explained <= EXACT or not any(map(self._gapped, terms)):
            return found
        return replace(found, criterion=np.inf)

    def _gapped(self, term: Node) -> bool:
        """Whether a term has a pole or a gap in its domain between the rows."""
        if self._exact.has_pole(term) or self._between.has_pole(term):
            return True
        rows, between = self._exact.raw(term), self._between.raw(term)
        middle = np.median(rows)
        return not np.abs(between - middle).max() <= _EXPLODES * np.abs(rows - middle).max()  # True for NaN

    def _fit_rows(self, terms: Individual) -> Fitted:
        problem, exact = self.problem, self._exact
        raw = np.array([exact.raw(term) for term in terms]).reshape(len(terms), problem.n).T
        weight = problem.row_weight
        centre = np.average(raw, axis=0, weights=weight) if len(terms) else np.zeros(0)
        if not np.isfinite(raw).all():
            outputs = exact.target.shape[0]
            return Fitted(
                terms,
                np.zeros((len(terms), outputs)),
                np.zeros(outputs),
                np.zeros((problem.n, outputs)),
                np.inf,
                0.0,
            )
        if problem.task != "regression":
            return self._likeliest(terms, raw - centre, centre)
        root = np.sqrt(weight)[:, None]
        targets = problem.targets
        mean = np.average(targets, axis=0, weights=weight)
        columns = (raw - centre) * root
        norms = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
        weights = np.linalg.lstsq(columns / norms, (targets - mean) * root, rcond=None)[0] / norms[:, None]
        intercept = mean - centre @ weights
        predictor = raw @ weights + intercept
        left = float((weight[:, None] * (targets - predictor) ** 2).sum())
        share = max(left / float((weight[:, None] * (targets - mean) ** 2).sum()), FLOOR)
        return Fitted(
            terms,
            weights,
            intercept,
            predictor,
            problem.n * float(np.log(share)) + self._cost(terms),
            1 - share,
        )

    def _likeliest(self, terms: Individual, columns: Array, centre: Array) -> Fitted:
        likelihood = likelihood_of(self.problem)
        empty = fit(likelihood, np.empty((self.problem.n, 0)))
        found = fit(likelihood, columns)
        criterion = (found.deviance - empty.deviance) / self._spread + self._cost(terms)
        weights, intercept, predictor = (
            found.weights,
            found.intercept - centre @ found.weights,
            found.predictor,
        )
        if self.problem.outputs > likelihood.outputs:  # the last class has predictor 0
            weights, intercept, predictor = (
                np.concatenate([part, np.zeros((*part.shape[:-1], 1))], axis=-1)
                for part in (weights, intercept, predictor)
            )
        return Fitted(
            terms, weights, intercept, predictor, criterion, 1 - found.deviance / max(empty.deviance, 1e-300)
        )

    def _candidate(self, one: Fitted, *, simplify: bool) -> Candidate:
        problem = self.problem
        names, table = problem.names, self.settings.table
        outputs = tuple(self._written(one, m, simplify=simplify) for m in range(len(one.intercept)))
        forms = [Formula(text(term), inputs=names, functions=table) for term in one.terms]
        form = (
            outputs[0]
            if len(outputs) == 1
            else Formula(" + ".join(map(str, forms)) or "0", inputs=names, functions=table)
        )
        return Candidate(
            form,
            one.criterion,
            form.complexity,
            tuple(map(str, forms)),
            outputs=outputs,
            link=problem.link,
            figures={"explained": one.explained, "rows": float(problem.n), "dof": float(len(one.terms))},
        )

    def _written(self, one: Fitted, output: int, *, simplify: bool) -> Formula:
        """Return an output's formula, with the digits that matter, in SymPy's form where that is shorter."""
        predictor, weights = one.predictor[:, output], one.weights[:, output]
        change = _SAME * max(float(np.ptp(predictor)), 1e-12)
        intercept = float(one.intercept[output])
        for digits in (_DIGITS, 17):
            values = [float(f"{weight:.{digits}g}") for weight in weights]
            offset = 0.0 if abs(intercept) < change / 10 else float(f"{intercept:.{digits}g}")
            formula = Formula(
                _text(one.terms, values, offset), inputs=self.problem.names, functions=self.settings.table
            )
            if np.abs(formula.evaluate(self.problem.X) - predictor).max() <= change:
                break
        if not simplify or formula.complexity > _SIMPLIFIABLE:
            return formula
        try:
            simple = formula.simplify()
        except FormulaError:
            return formula
        same = np.abs(simple.evaluate(self.problem.X) - predictor).max() <= change
        return simple if same and simple.complexity < formula.complexity else formula

    def _published(self) -> list[Candidate]:
        """Return the published search's trees as polynomials, their constant part once."""
        problem = self.problem
        mean = np.average(problem.targets[:, 0], weights=problem.weight)
        total = float(np.average((problem.targets[:, 0] - mean) ** 2, weights=problem.weight))
        made: dict[str, Candidate] = {}
        for member in self._found.values():
            if not np.isfinite(member.fitness):
                continue
            powers = _polynomial(member.terms[0])
            written = " + ".join(
                f"({value!r})*x**{k}" if k else repr(value)
                for k, value in enumerate(powers)
                if value or not k
            )
            formula = Formula(written, inputs=problem.names).simplify()
            error = problem.targets[:, 0] - formula.evaluate(problem.X)
            left = float(np.average(error**2, weights=problem.weight))
            terms = tuple(f"x**{k}" if k > 1 else "x" for k, value in enumerate(powers) if value and k)
            share = max(left / total, FLOOR)
            figures = {"explained": 1 - share, "rows": float(problem.n), "dof": float(len(terms))}
            made.setdefault(
                str(formula),
                Candidate(
                    formula, problem.n * float(np.log(share)), formula.complexity, terms, figures=figures
                ),
            )
        return ranked(made.values())


def _between(problem: SearchProblem, settings: Genetic) -> ExactSpace:
    """Return places on the lines from one row to another."""
    rng = np.random.default_rng(problem.seed)
    one, other = rng.integers(problem.n, size=(2, _BETWEEN))
    part = rng.random((_BETWEEN, 1))
    X = part * problem.X[one] + (1 - part) * problem.X[other]
    return exact_space(Linearised(X, np.zeros((_BETWEEN, 1)), np.ones(_BETWEEN)), settings.table)


def _form(terms: Sequence[Node]) -> str:
    return " ; ".join(skeleton(term) for term in terms)


def _distinct(fitted: Sequence[Fitted]) -> list[Fitted]:
    """Return the fits by their criterion, the first of each form, those that can be evaluated only."""
    found: dict[str, Fitted] = {}
    for one in fitted:
        if np.isfinite(one.criterion):
            found.setdefault(_form(one.terms), one)
    return sorted(found.values(), key=lambda one: (one.criterion, len(one.terms)))


def _text(terms: Individual, weights: Sequence[float], intercept: float) -> str:
    """Return the text of a weighted sum; a factor of 1 and an offset of 0 are left out."""
    parts = []
    for weight, term in zip(weights, terms, strict=True):
        inner = text(term)
        parts.append(f"({inner})" if weight == 1 else f"({weight!r})*({inner})")
    if intercept or not parts:
        parts.append(f"({intercept!r})")
    return " + ".join(parts)


def _polynomial(tree: Node) -> list[float]:
    """Return the coefficients of a tree of +, -, * and the sign, the constant first."""

    def build(node: Node) -> Polynomial:
        if node.op == "x":
            return Polynomial([0.0, 1.0])
        if node.op == "c":
            return Polynomial([node.value])
        if node.op == "neg":
            return -build(node.args[0])
        return cast(Polynomial, apply(node.op, [build(arg) for arg in node.args], {}))

    return [float(value) for value in build(tree).coef]
