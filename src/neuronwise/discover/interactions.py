"""Interactions of few inputs: all monomials of a degree as one group, chosen by the criterion of group selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._beam import FLOOR, penalty
from neuronwise.discover._cp import Form
from neuronwise.discover._cp_search import Offer, search
from neuronwise.discover._deviance import fit, gauged, likelihood_of
from neuronwise.discover._monomials import Monomials, Subset, as_products, count, groups_of, subsets
from neuronwise.discover.candidate import Candidate, ranked
from neuronwise.discover.low_rank import candidate_of, refitted
from neuronwise.discover.problem import SearchProblem
from neuronwise.errors import FormulaError, InvalidArgumentError
from neuronwise.formula import Formula

__all__ = ["Interactions"]

Array = NDArray[np.float64]

_RANK = 1e-9
_FITTED = 12  # subsets that are fitted by likelihood: those that the score test puts first
_KEEP = 6  # subsets that are written as formulas
_LISTED = 300  # mixed monomials that are written one by one
_WRITTEN = 200  # products in a formula at most; of more monomials the plain list is shorter


@dataclass(frozen=True)
class Interactions:
    """Search polynomials: for each degree the powers ``x_i**k`` are one group, all mixed monomials another.

    The criterion is that of group selection, ``n ln(RSS/n) + p ln n + 2 ln C(K, k)`` with p columns (for classes and
    counts the deviance instead), and every subset of groups is looked at, so the result is exact. What a neuron can be
    made of are inner products, so mixed monomials are written as products of them: a quadratic form by its eigenvalues,
    higher degrees input by input. With ``low_rank`` fewer products of free factors are fitted as well (see
    :class:`LowRank`), and where they do as well with fewer numbers by the same criterion, that formula is first; then
    ``figures["monomials"]`` of the runner-up says how many monomials it stands for.

    The number of mixed monomials grows as d to the degree: this search is for few inputs. The method does not use the
    base functions of the problem.

    Args:
        order: Highest degree, up to 6.
        max_columns: Monomials at most.
        form: ``"products"``, or ``"monomials"``: every mixed monomial by itself, ``0.5*x[0]*x[1]``, which is easy to
            read for two or three inputs, and no kind of neuron.
        low_rank: Whether fewer products are tried; with ``form="products"`` only.
        rank: Products of one degree at most, in that.

    Source: section 7 of our sheet on NeuronSeek (arXiv 2506.15715); Fan et al. 2018 (arXiv 1709.01963) for quadratic
    neurons.

    Example:
        >>> from neuronwise.discover import make_problem
        >>> X = np.random.default_rng(0).uniform(-1, 1, (300, 3))
        >>> problem = make_problem(X, 2 * X[:, 0] * X[:, 1] - X[:, 2] ** 2)
        >>> Interactions(order=2, form="monomials").search(problem)[0].terms
        ('x**2', 'x[i]*x[j]')
    """

    name: ClassVar[str] = "interactions"
    uses_bases: ClassVar[bool] = False

    order: int = 3
    max_columns: int = 3000
    form: Literal["products", "monomials"] = "products"
    low_rank: bool = True
    rank: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 6:
            raise InvalidArgumentError(f"order must be between 1 and 6, not {self.order}.")
        if self.form not in ("products", "monomials"):
            raise InvalidArgumentError(f"form must be 'products' or 'monomials', not {self.form!r}.")
        if self.rank < 1 or self.max_columns < 1:
            raise InvalidArgumentError(
                f"rank and max_columns must be at least 1, not {self.rank} and {self.max_columns}."
            )

    def search(
        self, problem: SearchProblem, *, engine: str = "local", workers: int | None = None
    ) -> list[Candidate]:
        """Return the best formulas, best first; see :meth:`Method.search`.

        Raises:
            InvalidArgumentError: If there are more monomials than ``max_columns``.
        """
        total = count(problem.d, self.order)
        if total > self.max_columns:
            raise InvalidArgumentError(
                f"{problem.d} inputs have {total:,} monomials up to degree {self.order}, and max_columns is "
                f"{self.max_columns:,}. Search products of inner products instead: method='low_rank'; or lower order."
            )
        groups = groups_of(problem.d, self.order)
        columns = [_Columns(group, problem.X, problem.row_weight) for group in groups]
        found = _rated(problem, columns)
        candidates = self._written(problem, columns, found)
        if self.form == "products" and self.low_rank:
            best = found[0].members
            candidates += self._with_fewer(problem, [groups[member] for member in best])
        if not candidates:
            raise InvalidArgumentError(
                f"The best polynomial of {problem.d} inputs has too many monomials for a formula. Lower order, or "
                "search products of inner products: method='low_rank'."
            )
        return ranked(candidates)

    def _written(
        self, problem: SearchProblem, columns: Sequence[_Columns], found: Sequence[_Rated]
    ) -> list[Candidate]:
        """Return the candidates down to the first that is too long for a formula: worse ones must not stand in."""
        candidates: list[Candidate] = []
        for one in found:
            try:
                candidates.append(self._candidate(problem, columns, one))
            except FormulaError:
                break
        return candidates

    def refit(self, problem: SearchProblem, candidate: Candidate) -> Candidate:
        """Return a candidate with its numbers fitted to all rows of a problem; see :class:`Refits`."""
        groups = {group.label: group for group in groups_of(problem.d, self.order)}
        if "monomials" not in candidate.figures:
            powers = tuple(range(1, self.order + 1))
            return refitted(problem, Offer(powers, powers[1:], self.rank, starts=1), candidate)
        columns = [_Columns(groups[label], problem.X, problem.row_weight) for label in candidate.terms]
        dof = sum(part.white.shape[1] for part in columns)
        everything = Subset(tuple(range(len(columns))), (), dof)
        if problem.task == "regression":
            one = _by_least_squares(problem, columns, everything, candidate.criterion)
        else:
            one = replace(_by_likelihood(problem, columns, [everything])[0], criterion=candidate.criterion)
        return self._candidate(problem, columns, one)

    def _candidate(self, problem: SearchProblem, columns: Sequence[_Columns], one: _Rated) -> Candidate:
        chosen = [columns[member] for member in one.members]
        weights, intercept = one.weights, one.intercept
        outputs = tuple(
            self._formula(problem, chosen, [table[:, m] for table in weights], float(intercept[m]))
            for m in range(len(intercept))
        )
        form = outputs[0] if len(outputs) == 1 else outputs[0].parameterised()
        return Candidate(
            form,
            one.criterion,
            form.complexity,
            tuple(part.group.label for part in chosen),
            outputs=outputs,
            link=problem.link,
            figures={
                "explained": one.explained,
                "dof": float(one.dof),
                "monomials": float(sum(len(part.group.index) for part in chosen)),
            },
        )

    def _formula(
        self, problem: SearchProblem, chosen: Sequence[_Columns], weights: Sequence[Array], intercept: float
    ) -> Formula:
        powers = {p.group.order: w for p, w in zip(chosen, weights, strict=True) if p.group.pure}
        mixed = [(p.group, w) for p, w in zip(chosen, weights, strict=True) if not p.group.pure]
        if self.form == "products":
            products = [product for g, w in mixed for product in as_products(g.index, w, problem.d)]
            if len(products) <= _WRITTEN:
                return Form(intercept, powers, tuple(products)).normalised().formula(problem.names)
        return _listed(Form(intercept, powers, ()), mixed, problem)

    def _with_fewer(self, problem: SearchProblem, groups: Sequence[Monomials]) -> list[Candidate]:
        """Return candidates with products of free factors, of the degrees that were found."""
        degrees = {group.order for group in groups if not group.pure}
        if not degrees:
            return []
        powers = tuple(sorted(degrees | {group.order for group in groups}))
        offer = Offer(powers, tuple(sorted(degrees)), self.rank, starts=3)
        extra = len(groups_of(problem.d, self.order)) - offer.groups
        found = [candidate_of(problem, one) for one in search(problem, offer)[:_KEEP]]
        # What was not offered to this second search was offered to the first.
        return [_charged(one, offer.groups, extra) for one in found]


def _listed(plain: Form, mixed: Sequence[tuple[Monomials, Array]], problem: SearchProblem) -> Formula:
    """Return a formula with every mixed monomial by itself; of many, those that differ in one input as inner product.

    Args:
        plain: Powers and intercept.
        mixed: Groups with the weights of their monomials.
        problem: The problem.
    """
    weights, terms = plain.weights(), []
    many = sum(len(group.index) for group, _ in mixed) > _LISTED
    for group, values in mixed:
        if not many:
            terms += [
                f"{float(value)!r}*" + "*".join(f"x[{i}]" for i in index)
                for index, value in zip(group.index.tolist(), values, strict=True)
                if value
            ]
            continue
        first, place = np.unique(group.index[:, :-1], axis=0, return_inverse=True)
        vectors = np.zeros((len(first), problem.d))
        vectors[place.ravel(), group.index[:, -1]] = values
        for index, vector in zip(first.tolist(), vectors, strict=True):
            name = f"w{len(weights) + 1}"
            weights[name] = vector
            terms.append("*".join([*(f"x[{i}]" for i in index), f"<{name}, x>"]))
    return Formula(" + ".join([*terms, plain.text()]), inputs=problem.names, weights=weights)


def _charged(one: Candidate, offered: int, extra: int) -> Candidate:
    chosen = len(one.terms)
    more = penalty(0, 1, 2, chosen, offered + extra) - penalty(0, 1, 2, chosen, offered)
    return replace(one, criterion=one.criterion + more)


class _Columns:
    """A group's columns, weighted, centred and orthonormal, and the way back to the monomials' weights."""

    def __init__(self, group: Monomials, X: Array, row: Array) -> None:
        self.group = group
        raw = group.columns(X)
        self.mean = np.average(raw, axis=0, weights=row)
        centred = (raw - self.mean) * np.sqrt(row)[:, None]
        scale = np.linalg.norm(centred, axis=0)
        self.scale = np.where(scale > 1e-12 * np.maximum(np.linalg.norm(raw, axis=0), 1e-300), scale, np.inf)
        values, vectors = np.linalg.eigh((centred / self.scale).T @ (centred / self.scale))
        keep = values > _RANK * max(float(values[-1]), 1e-300)
        self.back = (vectors[:, keep] / np.sqrt(values[keep])) / self.scale[:, None]
        self.white = centred @ self.back


@dataclass(frozen=True, eq=False)
class _Rated:
    members: tuple[int, ...]
    criterion: float
    explained: float
    dof: int
    weights: tuple[Array, ...]
    intercept: Array


def _rated(problem: SearchProblem, columns: Sequence[_Columns]) -> list[_Rated]:
    """Return the best subsets with their fits, best first."""
    n = problem.n_weighted
    unit = np.abs(problem.response).max(0)
    response = problem.response / unit * np.sqrt(problem.row_weight)[:, None]
    order = sorted(range(len(columns)), key=lambda k: columns[k].white.shape[1])
    found = subsets([columns[k].white for k in order], response, n / 2)
    found = [Subset(tuple(sorted(order[k] for k in one.members)), one.left, one.dof) for one in found]
    totals = np.array(next(one.left for one in found if not one.members))

    def criterion(one: Subset) -> float:
        fit_ = n * float(np.log(np.maximum(np.array(one.left) / totals, FLOOR)).sum())
        return fit_ + penalty(one.dof, len(totals), n, len(one.members), len(columns))

    found.sort(key=lambda one: (criterion(one), one.members))
    if problem.task == "regression":
        rated = [_by_least_squares(problem, columns, one, criterion(one)) for one in found[:_KEEP]]
    else:
        kept = found[:_FITTED] + [one for one in found[_FITTED:] if not one.members]
        rated = _by_likelihood(problem, columns, kept)
    return sorted(rated, key=lambda one: (one.criterion, one.members))


def _by_least_squares(
    problem: SearchProblem, columns: Sequence[_Columns], one: Subset, criterion: float
) -> _Rated:
    targets = problem.targets
    mean = np.average(targets, axis=0, weights=problem.weight)
    y = (targets - mean) * np.sqrt(problem.row_weight)[:, None]
    whole = np.hstack([np.empty((problem.n, 0)), *(columns[k].white for k in one.members)])
    inner = np.linalg.lstsq(whole, y, rcond=1e-10)[0]
    explained = 1 - float(((y - whole @ inner) ** 2).sum() / (y**2).sum())
    weights, intercept = _unwhitened(columns, one.members, inner, mean)
    return _Rated(one.members, criterion, explained, one.dof, weights, intercept)


def _by_likelihood(
    problem: SearchProblem, columns: Sequence[_Columns], found: Sequence[Subset]
) -> list[_Rated]:
    likelihood = likelihood_of(problem)
    n = problem.n_weighted
    fits = []
    for one in found:
        parts = [
            (columns[k].group.columns(problem.X) - columns[k].mean) @ columns[k].back for k in one.members
        ]
        fits.append(fit(likelihood, np.hstack([np.empty((problem.n, 0)), *parts])))
    null = fit(likelihood, np.empty((problem.n, 0))).deviance
    largest = max(range(len(found)), key=lambda k: found[k].dof)
    excess = likelihood.excess(fits[largest].predictor, found[largest].dof) if likelihood.counts else 1.0
    rated = []
    for one, fitted in zip(found, fits, strict=True):
        cost = penalty(one.dof, likelihood.outputs, n, len(one.members), len(columns))
        inner, start = gauged(problem, fitted.weights, fitted.intercept)
        weights, intercept = _unwhitened(columns, one.members, inner, start)
        criterion = (fitted.deviance - null) / excess + cost
        rated.append(_Rated(one.members, criterion, 1 - fitted.deviance / null, one.dof, weights, intercept))
    return rated


def _unwhitened(
    columns: Sequence[_Columns], members: tuple[int, ...], inner: Array, mean: Array
) -> tuple[tuple[Array, ...], Array]:
    """Return the monomials' weights ``(m, outputs)`` of each member, and the intercepts."""
    cuts = np.cumsum([columns[k].white.shape[1] for k in members])[:-1]
    parts = np.split(inner, cuts) if members else []
    weights = tuple(columns[k].back @ part for k, part in zip(members, parts, strict=True))
    intercept = mean - sum(columns[k].mean @ w for k, w in zip(members, weights, strict=True))
    return weights, np.atleast_1d(intercept)
