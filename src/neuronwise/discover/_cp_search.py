"""Which powers and products a target consists of: forward, backward, by a criterion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from neuronwise.discover._beam import FLOOR, penalty
from neuronwise.discover._cp import Form, Shape, Target, degrees_of_freedom, fit
from neuronwise.discover.problem import SearchProblem

__all__ = ["Fitted", "Offer", "assess", "refit", "search", "targets_of"]

Array = NDArray[np.float64]

_ROUNDS = 3  # times that the classes' predictors are fitted in turn
_TRIAL = 15  # Gauss-Newton steps that a random start gets
_TRIED = 2  # additions a round that are fitted together with what is there


@dataclass(frozen=True)
class Offer:
    """What may be searched.

    Args:
        powers: Orders of powers that are offered.
        products: Orders of products that are offered.
        rank: Products of one order at most.
        starts: Random starts of every new product.
    """

    powers: tuple[int, ...]
    products: tuple[int, ...]
    rank: int
    starts: int

    @property
    def groups(self) -> int:
        """How many kinds of terms are offered."""
        return len(self.powers) + len(self.products)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A shape with its fit to every output.

    Args:
        shape: The terms.
        forms: One an output.
        criterion: What it leaves unexplained plus the penalty, relative to the empty form; lower is better.
        explained: Share of the variance or deviance.
        dof: Directions that it fits, for each output.
    """

    shape: Shape
    forms: tuple[Form, ...]
    criterion: float
    explained: float
    dof: int


def targets_of(problem: SearchProblem) -> list[Target]:
    """Return one target an output of a problem."""
    row = problem.row_weight
    link = {"softmax": "logit"}.get(problem.link, problem.link)
    return [Target(problem.X, y, row, link) for y in problem.targets.T]


class _Search:
    def __init__(self, problem: SearchProblem, offer: Offer) -> None:
        self.targets, self.offer = targets_of(problem), offer
        self.coupled = problem.link == "softmax"
        self.gaussian = problem.link == "identity"
        self.rng = np.random.default_rng(problem.seed)
        self.d = int(np.count_nonzero(np.ptp(problem.X, axis=0)))
        self.n = problem.n_weighted
        # Of the classes' predictors one is given by the others.
        self.outputs = len(self.targets) - self.coupled
        self.excess = 1.0
        self.null = self._losses([self._nothing() for _ in self.targets])
        self.seen: dict[Shape, Fitted] = {}
        if problem.task == "count":
            self.excess = self._dispersion()

    def _nothing(self) -> Form:
        return Form(0.0, {}, ())

    def _losses(self, forms: Sequence[Form]) -> Array:
        """Return the loss of every output (of classes: of all together) once constants are fitted."""
        if self.coupled:
            return (
                np.array([_softmax_loss(self.targets, forms)])
                if forms[0].shape.groups
                else self._class_shares()
            )
        if forms[0].shape.groups:
            return np.array([t.loss(f.evaluate(t.X)) for t, f in zip(self.targets, forms, strict=True)])
        return np.array([t.loss(np.full(len(t.y), t.start())) for t in self.targets])

    def _class_shares(self) -> Array:
        shares = [float(np.average(target.y, weights=target.row)) for target in self.targets]
        total = float(self.targets[0].row.sum())
        return np.array([-total * sum(share * math.log(share) for share in shares)])

    def _dispersion(self) -> float:
        """Return how much more counts vary than Poisson's law allows, by the fit of all powers; at least 1."""
        target = self.targets[0]
        powers = {order: np.zeros(target.X.shape[1]) for order in self.offer.powers}
        form, _ = fit(target, Form(target.start(), powers, ()))
        mean, _ = target.means(form.evaluate(target.X))
        left = float(target.row @ ((target.y - mean) ** 2 / np.maximum(mean, 1e-12)))
        return max(1.0, left / max(1, self.n - self.d * len(powers) - 1))

    def fitted(self, starts: Sequence[Form], *, sweeps: int = 0) -> Fitted:
        """Fit every output from its start and remember the result, if it is the best of this shape."""
        shape = starts[0].shape
        forms = list(starts)
        for _ in range(_ROUNDS if self.coupled and shape.groups else 1):
            for number, target in enumerate(self.targets):
                forms[number], _ = fit(
                    self._given_others(target, forms, number), forms[number], sweeps=sweeps
                )
        one = self.assessed(forms)
        known = self.seen.get(shape)
        if known is None or one.criterion < known.criterion:
            self.seen[shape] = one
        return self.seen[shape]

    def assessed(self, forms: Sequence[Form]) -> Fitted:
        """Return forms as they are with their criterion."""
        shape = forms[0].shape
        losses = self._losses(forms) if shape.groups else self.null
        explained = 1 - float(losses.sum() / self.null.sum())
        dof = degrees_of_freedom(shape, self.d)
        return Fitted(shape, tuple(forms), self.worth(losses) + self.cost(shape), explained, dof)

    def _given_others(self, target: Target, forms: Sequence[Form], number: int) -> Target:
        """Return the target of one class: given the others' predictors it is a logistic one with an offset."""
        if not self.coupled:
            return target
        others = [form.evaluate(target.X) for k, form in enumerate(forms) if k != number]
        return replace(target, offset=-logsumexp(np.array(others), axis=0))

    def worth(self, losses: Array) -> float:
        """Return what is left unexplained: ``n ln(RSS / TSS)``, or the deviance less that of the constant."""
        if self.gaussian:
            return self.n * float(np.log(np.maximum(losses / self.null, FLOOR)).sum())
        return 2 * float((losses - self.null).sum()) / self.excess

    def cost(self, shape: Shape) -> float:
        """Return the penalty."""
        dof = degrees_of_freedom(shape, self.d)
        return penalty(dof, self.outputs, self.n, shape.groups, self.offer.groups)

    def allowed(self, shape: Shape) -> bool:
        """Whether there are at least two rows for everything that is fitted."""
        return 2 * degrees_of_freedom(shape, self.d) <= self.n

    def additions(self, one: Fitted) -> list[tuple[float, list[Form]]]:
        """Return what may be added, with the criterion that it promises, best first."""
        left = []
        for number, (target, form) in enumerate(zip(self.targets, one.forms, strict=True)):
            given = self._given_others(target, one.forms, number)
            left.append(replace(given, offset=given.offset + form.evaluate(target.X)))
        found = []
        zeros = np.zeros(self.targets[0].X.shape[1])
        for order in self.offer.powers:
            shape = one.shape.with_power(order)
            if shape != one.shape and self.allowed(shape):
                extra = [fit(target, Form(0.0, {order: zeros}, ())) for target in left]
                found.append(self._promise(one, shape, extra))
        for order in self.offer.products:
            shape = one.shape.with_rank(order, one.shape.rank(order) + 1)
            if one.shape.rank(order) < self.offer.rank and self.allowed(shape):
                extra = [self._new_product(target, order) for target in left]
                found.append(self._promise(one, shape, extra))
        return sorted(found, key=lambda pair: pair[0])

    def _promise(
        self, one: Fitted, shape: Shape, extra: Sequence[tuple[Form, float]]
    ) -> tuple[float, list[Form]]:
        forms = []
        for old, (new, _) in zip(one.forms, extra, strict=True):
            powers = {**old.powers, **new.powers}
            forms.append(Form(old.intercept + new.intercept, powers, (*old.products, *new.products)))
        return self.worth(self._losses(forms)) + self.cost(shape), forms

    def _new_product(self, target: Target, order: int) -> tuple[Form, float]:
        """Return the best single product for what is left, from several random starts."""
        width = target.X.shape[1]
        starts = [
            Form(0.0, {}, (self.rng.standard_normal((order, width)),)) for _ in range(self.offer.starts)
        ]
        found = [fit(target, start, steps=_TRIAL, still=1e-3) for start in starts]
        return fit(target, min(found, key=lambda pair: pair[1])[0], sweeps=0, still=1e-4)

    def removals(self, one: Fitted) -> list[list[Form]]:
        """Return the forms without each of their powers, and with one product less of each order (the smallest)."""
        smaller = [[form.without(order) for form in one.forms] for order in one.shape.powers]
        X = self.targets[0].X
        return smaller + [
            [_without_smallest(form, order, X) for form in one.forms] for order, _ in one.shape.ranks
        ]


def _softmax_loss(targets: Sequence[Target], forms: Sequence[Form]) -> float:
    predictors = np.array([form.evaluate(target.X) for target, form in zip(targets, forms, strict=True)])
    indicators = np.array([target.y for target in targets])
    return float(targets[0].row @ (logsumexp(predictors, axis=0) - (indicators * predictors).sum(0)))


def _without_smallest(form: Form, order: int, X: Array) -> Form:
    sizes = [
        float((X @ factors.T).prod(1).std()) if len(factors) == order else math.inf
        for factors in form.products
    ]
    smallest = int(np.argmin(sizes))
    return Form(form.intercept, form.powers, tuple(f for j, f in enumerate(form.products) if j != smallest))


def assess(problem: SearchProblem, offer: Offer, forms: Sequence[Form]) -> Fitted:
    """Return forms as they are with their criterion.

    Args:
        problem: The problem.
        offer: What was searched.
        forms: One an output.
    """
    return _Search(problem, offer).assessed(forms)


def refit(problem: SearchProblem, offer: Offer, forms: Sequence[Form]) -> Fitted:
    """Return forms fitted from where they are.

    Args:
        problem: The problem.
        offer: What was searched.
        forms: One an output.
    """
    return _Search(problem, offer).fitted(forms)


def search(
    problem: SearchProblem, offer: Offer, *, start: Sequence[Form] | None = None, forward: bool = True
) -> list[Fitted]:
    """Return every shape that was fitted, lowest criterion first.

    Forward: to what is there, the powers and products that promise most for what is left are added, one a round, until
    the criterion does not fall any more in two rounds. Backward: whatever the criterion does not miss is taken away.
    Both in turn, until nothing changes.

    Args:
        problem: The problem; its seed is that of the random starts.
        offer: What may be searched.
        start: Forms of one shape to start from, one an output; by default none has a term.
        forward: Whether terms are added; else they are only taken away.
    """
    work = _Search(problem, offer)
    best = work.fitted([Form(0.0 if work.coupled else target.start(), {}, ()) for target in work.targets])
    if start is not None:
        begun = work.fitted(start)
        best = min(best, begun if forward else _backward(work, begun), key=_order)
    while forward:
        before = best
        best = _backward(work, _forward(work, best))
        if not _order(best) < _order(before):
            break
    return sorted(work.seen.values(), key=_order)


def _forward(work: _Search, best: Fitted) -> Fitted:
    current, waited = best, 0
    while waited < 2 and best.explained < 1 - FLOOR:
        found = [work.fitted(forms) for _, forms in work.additions(current)[:_TRIED]]
        if not found:
            break
        current = min(found, key=_order)
        waited += 1
        if _order(current) < _order(best):
            best, waited = current, 0
    return best


def _backward(work: _Search, best: Fitted) -> Fitted:
    while best.shape.groups:
        smaller = min((work.fitted(forms) for forms in work.removals(best)), key=_order)
        if not _order(smaller) < _order(best):
            break
        best = smaller
    return best


def _order(one: Fitted) -> tuple[float, int, Shape]:
    return one.criterion, one.shape.groups, one.shape
