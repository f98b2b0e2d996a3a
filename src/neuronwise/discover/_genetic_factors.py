"""Factors of single inputs, their products, and sums of products that explain a target by least squares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement
from math import comb

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._genetic_exact import ExactSpace
from neuronwise.discover._genetic_variation import Grammar
from neuronwise.discover._trees import ONE, Node, constant, input_of, make

__all__ = ["LEVELS", "SAFE", "Pool", "Product", "multiplied"]

Array = NDArray[np.float64]
#: Places of factors in a pool.
Product = tuple[int, ...]

#: Kinds of factors: inputs; functions of one; sums, differences and their like of two; functions of two.
LEVELS = 4
#: Smallest value of a divisor, as a share of its largest.
SAFE = 1e-3
_ROWS = 200  # rows that factors are chosen on
_WIDTH = 24  # of the beam
_TERMS = 3
_NODE = 0.05  # what a node of a factor must explain, on the scale of ln(unexplained share)
_PERFECT = 1e-10  # unexplained share after which nothing is added
_DEPENDENT = 1e-6  # share of a column's squares that must be left beside the other terms
_DEGREES = (2, 3, 4)  # of sparse polynomials
_DENSEST = 0.5  # monomials of one at most, as a share of the rows
_SPARSE = 0.05  # what a monomial must add, as a share of the largest
_MONOMIALS = 6
_SWEEPS = 3  # how often each product is grown anew with the others given
_CALLED_PAIRS = 8  # inputs up to which functions of pairs are factors
_PAIRS = 20  # inputs up to which pairs are factors
_FLAT = 1e-7  # spread of a factor, as a share of its size, below which it is a constant


class Pool:
    """The factors and their values; the second half are the reciprocals of the first.

    Args:
        grammar: What trees are made of.
        space: The rows.
        level: Which factors there are, 0 to 3.
    """

    def __init__(self, grammar: Grammar, space: ExactSpace, level: int) -> None:
        count = space.target.shape[1]
        self.rows = np.unique(np.linspace(0, count - 1, min(count, _ROWS)).astype(int))
        self.depth = 2 * grammar.inputs + 2
        self.nodes: list[Node] = []
        values: list[Array] = []
        for node in _units(grammar, level):
            one = np.asarray(space.values(node), dtype=np.float64)
            size = np.abs(one).mean()
            if np.isfinite(one).all() and 0 < size < np.inf and np.ptp(one) > _FLAT * size:
                self.nodes.append(node)
                values.append(one[self.rows] / size)
        whole = np.array(values).reshape(len(values), len(self.rows))
        safe = np.abs(whole).min(axis=1, initial=np.inf) > SAFE * np.abs(whole).max(axis=1, initial=0.0)
        sizes = np.array([node.size + 1.0 for node in self.nodes])
        self.costs = _NODE * np.concatenate([sizes, sizes[safe]])
        self.choices = [*range(len(whole)), *(len(whole) + np.flatnonzero(safe)).tolist()]
        self.values = np.vstack([whole, 1 / whole[safe]])

    def tree(self, product: Product) -> Node:
        """Return a product of choices as a tree: one fraction."""
        sides: list[list[Node]] = [[], []]
        for place in product:
            below, which = divmod(self.choices[place], len(self.nodes))
            sides[below].append(self.nodes[which])
        above, below_ = (multiplied(side) for side in sides)
        return make("/", above, below_) if below_ is not ONE else above

    def sums(self, target: Array, root: Array, deadline: float | None) -> list[list[Product]]:
        """Return sums of one to three products that explain a target ``(m, rows)``, each in view of the others."""
        root = root[self.rows] / np.linalg.norm(root[self.rows])
        rows = target[:, self.rows] * root
        total = float(((rows - np.outer(rows @ root, root)) ** 2).sum())
        found: list[list[Product]] = []
        chosen: list[Product] = []
        if not len(self.values) or not total > 0:
            return found
        for count in range(_TERMS):
            for place in [count, *(list(range(count + 1)) * _SWEEPS if count else [])]:
                if deadline is not None and time.perf_counter() >= deadline:
                    return found
                others = chosen[:place] + chosen[place + 1 :]
                basis = self._basis(others, root)
                product = self._grown(rows - (rows @ basis) @ basis.T, basis, root, total)
                if product is None:
                    return found
                if place < count and product == chosen[place]:
                    continue
                chosen = [*others[:place], product, *others[place:]]
                if self._unexplained(chosen, rows, root) < _PERFECT * total:
                    lean = [chosen[:k] + chosen[k + 1 :] for k in range(len(chosen))]
                    fine = [one for one in lean if self._unexplained(one, rows, root) < _PERFECT * total]
                    return [*found, chosen, *fine]
            found.append(chosen)
        return found

    def polynomials(self, target: Array, root: Array) -> list[list[Product]]:
        """Return sparse polynomials of the factors that thresholded least squares finds, without and with reciprocals.

        A beam takes one product after the other and so misses sums of many alike. Source: sequential thresholding of
        Brunton, Proctor and Kutz 2016 (PNAS 113:3932).
        """
        root = root[self.rows] / np.linalg.norm(root[self.rows])
        rows = target[:, self.rows] * root
        found: list[list[Product]] = []
        powers, fractions = len(self.nodes), len(self.choices)
        for count, degree in [(count, degree) for count in (powers, fractions) for degree in _DEGREES]:
            if comb(count + degree, degree) > _DENSEST * len(self.rows):
                continue
            products: list[Product] = [
                product
                for length in range(1, degree + 1)
                for product in combinations_with_replacement(range(count), length)
                if not any(
                    self.choices[place] + powers in map(self.choices.__getitem__, product)
                    for place in product
                )
            ]
            while products:
                columns = np.array([root, *(self._column(product, root) for product in products)])
                norms = np.linalg.norm(columns - np.outer(columns @ root, root), axis=1)
                weights = np.linalg.lstsq(columns.T, rows.T, rcond=None)[0][1:]
                sizes = np.linalg.norm(weights, axis=1) * norms[1:]
                kept = [
                    one for one, size in zip(products, sizes, strict=True) if size > _SPARSE * sizes.max()
                ]
                if len(kept) == len(products):
                    found += [products] if len(products) <= _MONOMIALS else []
                    break
                products = kept
        return found

    def _column(self, product: Product, root: Array) -> Array:
        return np.asarray(self.values[list(product)].prod(axis=0) * root)

    def _basis(self, products: list[Product], root: Array) -> Array:
        columns = np.array([root, *(self._column(product, root) for product in products)])
        return np.linalg.qr((columns / np.linalg.norm(columns, axis=1, keepdims=True)).T)[0]

    def _unexplained(self, products: list[Product], rows: Array, root: Array) -> float:
        basis = self._basis(products, root)
        return float(((rows - (rows @ basis) @ basis.T) ** 2).sum())

    def _grown(self, left: Array, basis: Array, root: Array, total: float) -> Product | None:
        """Return the product that explains most of what is left, each factor worth its place; None: there is none."""
        squares, least = float((left**2).sum()), _PERFECT * total * 1e-3
        beam, costs = root[None], np.zeros(1)
        keys: list[Product] = [()]
        best: tuple[float, Product | None] = (np.log(max(squares, least)), None)
        for length in range(1, self.depth + 1):
            columns = (beam[:, None] * self.values).reshape(-1, len(root))
            gains = _gains(columns, basis, left)
            prices = (costs[:, None] + self.costs).ravel()
            scores = np.log(np.maximum(squares - gains, least)) + prices
            chosen: dict[float, int] = {}
            for place in np.argsort(scores, kind="stable")[: 6 * _WIDTH].tolist():
                chosen.setdefault(float(f"{gains[place]:.9g}"), place)  # other orders of the same factors
            places = list(chosen.values())[:_WIDTH]
            keys = [(*keys[place // len(self.values)], place % len(self.values)) for place in places]
            beam, costs = columns[places], prices[places]
            score = float(scores[places[0]])
            if score < best[0]:
                best = (score, keys[0])
            elif length > 2 + len(best[1] or ()):  # two factors together may do what neither does
                break
        return best[1]


def _gains(columns: Array, basis: Array, left: Array) -> Array:
    """Return how much of the squares each column explains beside the basis ``(M,)``."""
    norms = np.einsum("mr,mr->m", columns, columns)
    remaining = norms - ((columns @ basis) ** 2).sum(axis=1)
    usable = remaining > _DEPENDENT * norms  # False for NaN
    gains: Array = ((columns @ left.T) ** 2).sum(axis=1) / np.where(usable, remaining, 1.0)
    return np.where(usable, gains, 0.0)


def multiplied(nodes: list[Node]) -> Node:
    """Return the product of trees, repeated ones as powers."""
    product = ONE
    unique = {node.key: node for node in nodes}
    for key, node in sorted(unique.items()):
        count = sum(other.key == key for other in nodes)
        while count > 0:
            power = min(count, 3)
            count -= power
            factor = make("square", node) if power == 2 else make("cube", node) if power == 3 else node
            product = make("*", product, factor)
    return product


def _units(grammar: Grammar, level: int) -> Iterator[Node]:
    """Yield simple trees of one or two inputs."""
    leaves = [input_of(place) for place in range(grammar.inputs)]
    yield from leaves
    if level in (1, 3):
        yield from (make(name, leaf) for leaf in leaves for name in grammar.functions)
    if level < 2:
        return
    for leaf in leaves:
        yield make("+", ONE, leaf)
        yield make("+", constant(-1.0), leaf)
        if level == 2 and "sqrt" in grammar.functions:
            yield make("sqrt", leaf)
    if grammar.inputs > _PAIRS:
        return
    for one, other in combinations(leaves, 2):
        yield make("+", one, other)
        yield make("-", one, other)
        for op in "+-":
            squares = make(op, make("square", one), make("square", other))
            yield squares
            if "sqrt" in grammar.functions:
                yield make("sqrt", squares)
                yield make("sqrt", make("*", constant(-1.0), squares))
        if level == 3 and grammar.inputs <= _CALLED_PAIRS:
            pairs = (
                make("-", one, other),
                make("*", one, other),
                make("/", one, other),
                make("/", other, one),
            )
            called = [name for name in grammar.functions if name not in ("sqrt", "abs", "log")]
            yield from (make(name, pair) for name in called for pair in pairs)
