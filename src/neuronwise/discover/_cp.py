"""Sums of powers and of products of inner products: ``b + sum_k <w_k, x**k> + sum_j prod_m <u_jm, x>``, fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from neuronwise.formula import Formula

__all__ = ["Form", "Shape", "Target", "degrees_of_freedom", "fit", "power_label", "product_label"]

Array = NDArray[np.float64]

_RIDGE = 1e-9
_STILL = 1e-7  # relative drop of the loss below which a step has brought nothing
_TRIES = 10  # dampings that are tried for one step
_CAP = 50.0  # largest log count: e**50 is beyond any count, and its square is still a number
# Weight of the squared predictor for each row: classes that can be told apart without error would send it to infinity.
_SHRINK = 1e-4


@dataclass(frozen=True, order=True)
class Shape:
    """Which terms there are.

    Args:
        powers: Orders of the elementwise powers, ascending.
        ranks: ``(order, number of products)``, ascending by order.
    """

    powers: tuple[int, ...] = ()
    ranks: tuple[tuple[int, int], ...] = ()

    @property
    def groups(self) -> int:
        """How many kinds of terms it has; all products of one order are one."""
        return len(self.powers) + len(self.ranks)

    def rank(self, order: int) -> int:
        """Return the number of products of an order."""
        return dict(self.ranks).get(order, 0)

    def with_power(self, order: int) -> Shape:
        """Return the shape with one power more."""
        return replace(self, powers=tuple(sorted({*self.powers, order})))

    def with_rank(self, order: int, rank: int) -> Shape:
        """Return the shape with another number of products of an order."""
        ranks = {**dict(self.ranks), order: rank}
        return replace(self, ranks=tuple(sorted((k, r) for k, r in ranks.items() if r)))

    def labels(self) -> tuple[str, ...]:
        """Return its terms as texts without weights, simplest first."""
        powers = [power_label(order) for order in self.powers]
        return (*powers, *(product_label(order) for order, _ in self.ranks))


def power_label(order: int) -> str:
    """Return the text of a power."""
    return "x" if order == 1 else f"x**{order}"


def product_label(order: int) -> str:
    """Return the text of a product of ``order`` inner products, without weights."""
    return "*".join(["<w, x>"] * order)


@dataclass(frozen=True, eq=False)
class Form:
    """The numbers of one predictor.

    Args:
        intercept: b.
        powers: ``{order: weights (d,)}``.
        products: Factors ``(order, d)`` of each product.
    """

    intercept: float
    powers: Mapping[int, Array]
    products: tuple[Array, ...]

    @property
    def shape(self) -> Shape:
        """Which terms it has."""
        ranks: dict[int, int] = {}
        for factors in self.products:
            ranks[len(factors)] = ranks.get(len(factors), 0) + 1
        return Shape(tuple(sorted(self.powers)), tuple(sorted(ranks.items())))

    def evaluate(self, X: Array) -> Array:
        """Return its values, ``(n,)``."""
        total = np.full(len(X), self.intercept)
        for order, weights in self.powers.items():
            total += X**order @ weights
        for factors in self.products:
            total += (X @ factors.T).prod(1)
        return total

    def scaled(self, factor: float, shift: float = 0.0) -> Form:
        """Return ``factor * self + shift``."""
        powers = {order: factor * weights for order, weights in self.powers.items()}
        products = tuple(np.vstack([factor * f[:1], f[1:]]) for f in self.products)
        return Form(factor * self.intercept + shift, powers, products)

    def without(self, order: int) -> Form:
        """Return the form without the power of an order."""
        return replace(self, powers={k: w for k, w in self.powers.items() if k != order})

    def normalised(self) -> Form:
        """Return the same function with the factors of each product of one length, in a fixed order and sign.

        The largest weight of every factor but the first is positive; products come by order and importance.
        """
        products = []
        for factors in self.products:
            lengths = np.linalg.norm(factors, axis=1)
            if not lengths.all():
                continue
            units = factors / lengths[:, None]
            signs = np.sign(units[np.arange(len(units)), np.abs(units).argmax(1)])
            units = units * signs[:, None]
            units = units[np.lexsort(np.round(units, 6).T[::-1])]
            units = units * np.exp(np.log(lengths).mean())
            units[0] *= signs.prod()
            products.append(units)
        products.sort(key=lambda f: (len(f), -float(np.linalg.norm(f))))
        return replace(self, products=tuple(products))

    def formula(self, names: Sequence[str]) -> Formula:
        """Return the formula ``<w1, x> + <w2, x>*<w3, x> + b``."""
        return Formula(self.text(), inputs=names, weights=self.weights())

    def weights(self) -> dict[str, Array]:
        """Return the weight vectors by their names in :meth:`text`."""
        vectors = [self.powers[order] for order in sorted(self.powers)]
        vectors += [row for factors in self.products for row in factors]
        return {f"w{number}": vector for number, vector in enumerate(vectors, 1)}

    def text(self, *, free: bool = False) -> str:
        """Return the formula's text.

        Args:
            free: Write the intercept as ``b1``, not as its number.
        """
        number, terms = 0, []
        for order in sorted(self.powers):
            number += 1
            terms.append(f"<w{number}, {power_label(order)}>")
        for factors in self.products:
            terms.append("*".join(f"<w{number + m}, x>" for m in range(1, len(factors) + 1)))
            number += len(factors)
        return " + ".join([*terms, "b1" if free else repr(float(self.intercept))])


def degrees_of_freedom(shape: Shape, d: int) -> int:
    """Return how many directions a form can move in.

    A product of order k has ``k d - (k - 1)``: lengths can be moved between factors. R products of order 2 make up a
    symmetric matrix of rank 2 R with ``2 R d - R (2 R - 1)``. No order has more than its monomials.

    Args:
        shape: The terms.
        d: Number of inputs that vary.
    """
    total = len(shape.powers) * d
    for order, rank in shape.ranks:
        if order == 2:
            rank = min(rank, (d + 1) // 2)
            free = 2 * rank * d - rank * (2 * rank - 1)
        else:
            free = rank * (order * d - (order - 1))
        total += min(free, math.comb(d + order - 1, order))
    return total


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be fitted, for one predictor.

    Args:
        X: Inputs, ``(n, d)``.
        y: Numbers, indicators of a class, or counts, ``(n,)``.
        row: Weights of the rows, ``(n,)``.
        link: ``"identity"`` (least squares), ``"logit"`` (one class or not) or ``"log"`` (Poisson).
        offset: What is added to the predictor, ``(n,)``: what other terms or other classes say already.
    """

    X: Array
    y: Array
    row: Array
    link: str = "identity"
    offset: Array | float = 0.0

    def means(self, predictor: Array) -> tuple[Array, Array]:
        """Return the expected target and its slope in the predictor, ``(n,)`` each."""
        whole = predictor + self.offset
        if self.link == "identity":
            return whole, np.ones_like(whole)
        if self.link == "logit":
            mean = expit(whole)
            return mean, mean * (1 - mean)
        mean = np.exp(np.minimum(whole, _CAP))
        return mean, mean

    def loss(self, predictor: Array) -> float:
        """Return half the residual sum of squares, or minus the log likelihood with a slight ridge."""
        whole = predictor + self.offset
        if self.link == "identity":
            return 0.5 * float(self.row @ (self.y - whole) ** 2)
        if self.link == "logit":
            lost = np.logaddexp(0, whole) - self.y * whole
        else:
            lost = np.exp(np.minimum(whole, _CAP)) - self.y * whole
        return float(self.row @ (lost + 0.5 * _SHRINK * predictor**2))

    def start(self) -> float:
        """Return the best constant predictor where there is no offset."""
        mean = float(np.average(self.y, weights=self.row))
        if self.link == "identity":
            return mean
        return math.log(mean / (1 - mean)) if self.link == "logit" else math.log(mean)

    def linearised(self) -> Target:
        """Return the least-squares problem of one Newton step from the offset alone, or from the best constant."""
        if self.link == "identity":
            return self
        base = np.zeros(len(self.X)) if np.ndim(self.offset) else np.full(len(self.X), self.start())
        mean, slope = self.means(base)
        slope = np.maximum(slope, 1e-6)
        return Target(self.X, base + (self.y - mean) / slope, self.row * slope)


def fit(
    target: Target, start: Form, *, sweeps: int = 5, steps: int = 60, still: float = _STILL
) -> tuple[Form, float]:
    """Return a form fitted from a start, and its loss.

    A few sweeps of alternating least squares - given all factors but one of each product, the rest is linear - bring
    random factors near a solution; damped Gauss-Newton steps (Levenberg and Marquardt; Fisher scoring for classes and
    counts) go the rest of the way, where alternating alone would need thousands of sweeps.

    Args:
        target: What is to be fitted.
        start: Where to start; its terms are kept.
        sweeps: Alternating sweeps; 0 for a start that is near a solution.
        steps: Gauss-Newton steps at most.
        still: Share of the loss that a step must take away for another to follow.
    """
    if sweeps and start.products:
        start = _alternated(target.linearised(), start, sweeps)
    work = _Newton(target, start)
    for _ in range(steps):
        if not work.step(still):
            break
    return work.form(), work.lost


def _alternated(target: Target, start: Form, sweeps: int) -> Form:
    X, root = target.X, np.sqrt(target.row)
    fixed = _fixed(start, X) * root[:, None]
    inner = fixed.T @ fixed
    y = (target.y - target.offset) * root
    products = [np.array(factors) for factors in start.products]
    heights = [X @ factors.T for factors in products]
    weights = np.zeros(fixed.shape[1])
    for _ in range(sweeps):
        for slot in range(max(map(len, products))):
            active = [j for j, factors in enumerate(products) if len(factors) > slot]
            moving = np.hstack([X * (np.delete(heights[j], slot, 1).prod(1) * root)[:, None] for j in active])
            gram, right = _normal(inner, fixed, moving, y)
            weights = _damped(gram, right, _RIDGE)
            parts = np.split(weights[fixed.shape[1] :], len(active))
            for part, j in zip(parts, active, strict=True):
                products[j][slot] = part
                products[j] = _balanced(products[j])
                heights[j] = X @ products[j].T
    return _form(start, weights[: fixed.shape[1]], products, X.shape[1])


class _Newton:
    """Levenberg-Marquardt steps on all numbers of a form at once."""

    def __init__(self, target: Target, start: Form) -> None:
        self.target, self.shape = target, start
        self.fixed = _fixed(start, target.X)
        self.linear = np.concatenate([[start.intercept], *(start.powers[k] for k in sorted(start.powers))])
        self.products = [np.array(factors) for factors in start.products]
        self.damping = 1e-2
        self.heights, self.predictor, self.lost = self._value(self.linear, self.products)

    def form(self) -> Form:
        return _form(self.shape, self.linear, self.products, self.target.X.shape[1])

    def _value(self, linear: Array, products: list[Array]) -> tuple[list[Array], Array, float]:
        heights = [self.target.X @ factors.T for factors in products]
        predictor = self.fixed @ linear
        for height in heights:
            predictor = predictor + height.prod(1)
        lost = self.target.loss(predictor)
        return heights, predictor, lost if math.isfinite(lost) else math.inf

    def _equations(self) -> tuple[Array, Array]:
        X, target = self.target.X, self.target
        mean, slope = target.means(self.predictor)
        ridge = 0.0 if target.link == "identity" else _SHRINK
        root = np.sqrt(target.row * (np.maximum(slope, 1e-9) + ridge))
        left = target.row * (target.y - mean - ridge * self.predictor) / np.maximum(root, 1e-300)
        fixed = self.fixed * root[:, None]
        columns = [
            X * (np.delete(height, slot, 1).prod(1) * root)[:, None]
            for factors, height in zip(self.products, self.heights, strict=True)
            for slot in range(len(factors))
        ]
        moving = np.hstack(columns) if columns else np.empty((len(X), 0))
        return _normal(fixed.T @ fixed, fixed, moving, left)

    def step(self, still: float) -> bool:
        """Take one step; return whether another may bring more."""
        gram, right = self._equations()
        for _ in range(_TRIES):
            change = _damped(gram, right, self.damping if self.products else _RIDGE)
            linear, products, at = self.linear + change[: len(self.linear)], [], len(self.linear)
            for factors in self.products:
                products.append(factors + change[at : at + factors.size].reshape(factors.shape))
                at += factors.size
            heights, predictor, lost = self._value(linear, products)
            if lost < self.lost:
                break
            self.damping = min(self.damping * 4, 1e12)
        else:
            return False
        gain = self.lost - lost
        self.linear, self.products, self.heights = linear, products, heights
        self.predictor, self.lost = predictor, lost
        self.damping = max(self.damping / 5, _RIDGE)
        return gain > still * max(abs(lost), 1e-14 * float(self.target.row @ self.target.y**2))


def _fixed(form: Form, X: Array) -> Array:
    return np.hstack([np.ones((len(X), 1)), *(X**order for order in sorted(form.powers))])


def _form(like: Form, linear: Array, products: list[Array], d: int) -> Form:
    powers = {order: linear[1 + k * d : 1 + (k + 1) * d] for k, order in enumerate(sorted(like.powers))}
    return Form(float(linear[0]), powers, tuple(products))


def _normal(inner: Array, fixed: Array, moving: Array, y: Array) -> tuple[Array, Array]:
    """Return the normal equations of ``[fixed, moving]``."""
    cross = fixed.T @ moving
    return np.block([[inner, cross], [cross.T, moving.T @ moving]]), np.concatenate(
        [fixed.T @ y, moving.T @ y]
    )


def _damped(gram: Array, right: Array, damping: float) -> Array:
    """Solve normal equations with a ridge in units of each column."""
    scale = np.sqrt(np.maximum(np.diagonal(gram), 1e-300))
    scaled = gram / scale / scale[:, None]
    scaled[np.diag_indices_from(scaled)] += damping
    solved: Array = np.linalg.solve(scaled, right / scale) / scale
    return solved


def _balanced(factors: Array) -> Array:
    lengths = np.linalg.norm(factors, axis=1)
    if not lengths.all():
        return factors
    balanced: Array = factors * (np.exp(np.log(lengths).mean()) / lengths)[:, None]
    return balanced
