"""Starting forms of single inputs: sums of products of simple factors, and functions of such sums.

Many laws are a few products of powers, sums, differences and functions of one or two inputs, or their square,
reciprocal or logarithm is. Products are grown factor by factor (a beam on what they explain of the target by least
squares), further products on what is left, each then once more with the others given. For functions of sums the
target is turned round first: where ``1/y`` is a sum of products, y is the reciprocal of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._genetic_exact import ExactSpace
from neuronwise.discover._genetic_tune import FLOOR
from neuronwise.discover._genetic_variation import Grammar, Individual
from neuronwise.discover._trees import ONE, Node, constant, input_of, joined, make

__all__ = ["product_forms"]

Array = NDArray[np.float64]
Product = tuple[int, ...]

_ROWS = 200  # rows that factors are chosen on
_WIDTH = 24  # of the beam
_TERMS = 3
_NODE = 0.05  # what a node of a factor must explain, on the scale of ln(unexplained share)
_PERFECT = 1e-10  # unexplained share after which nothing is added
_SAFE = 1e-3  # smallest value of a divisor, as a share of its largest
_DEPENDENT = 1e-6  # share of a column's squares that must be left beside the other terms
_HIGHEST = 9  # power of an input
_SWEEPS = 3  # how often each product is grown anew with the others given
_LEVELS = 4  # of factors: inputs; functions of one; sums, differences and their like of two; functions of two
_PAIRS = 20  # inputs up to which pairs are factors
_CALLED_PAIRS = 8  # inputs up to which functions of pairs are factors
_WHOLE = 1e-7  # a constant nearer to a multiple of one half is that multiple
_FLATTEST = 0.05  # of the median slope: where a turned target hardly changes, rows do not count without bound


@dataclass(frozen=True)
class _Link:
    """A way to turn the target round: ``turn(y)`` is a sum of products where y is ``wrap`` of it.

    Args:
        name: The function that undoes it, or an operator.
        turn: What is done to the target.
        slope: Its derivative.
        wrap: What is done to the sum.
        fits: Whether the target allows it.
        free: ``"scale"`` or ``"offset"`` where the outer coefficient makes up for that of the sum, else ``""``.
    """

    name: str
    turn: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    wrap: Callable[[Node], Node]
    fits: Callable[[Array], bool]
    free: str


def _away_from_zero(y: Array) -> bool:
    return bool(np.abs(y).min() > _SAFE * np.abs(y).max())


def _positive(y: Array) -> bool:
    return bool(y.min() > 0) and _away_from_zero(y)


_LINKS = (
    _Link("/", lambda y: 1 / y, lambda y: 1 / y**2, lambda s: make("/", ONE, s), _away_from_zero, "scale"),
    _Link("sqrt", lambda y: y**2, lambda y: 2 * y, lambda s: make("sqrt", s), _positive, "scale"),
    _Link("exp", np.log, lambda y: 1 / y, lambda s: make("exp", s), _positive, "offset"),
    _Link(
        "sqrt",
        lambda y: y**-2,
        lambda y: 2 * y**-3,
        lambda s: make("/", ONE, make("sqrt", s)),
        _positive,
        "scale",
    ),
    _Link("log", np.exp, np.exp, lambda s: make("log", s), lambda y: bool(np.abs(y).max() < 20), "scale"),
    _Link("asin", np.sin, np.cos, lambda s: make("asin", s), lambda y: bool(np.abs(y).max() < 1.57), ""),
)


def product_forms(
    grammar: Grammar, space: ExactSpace, y: Array | None, part: tuple[int, int], deadline: float | None
) -> list[Individual]:
    """Return starting individuals of single inputs.

    Args:
        grammar: What trees are made of.
        space: The rows, and the target that sums of products explain.
        y: The target itself ``(rows,)``, to turn round; None where that makes no sense (classes, counts, several).
        part: Which ways to turn it round are tried: ``(first, step)``; the first is to leave it as it is.
        deadline: On the clock of ``time.perf_counter``.
    """
    links: list[_Link | None] = [None]
    if y is not None:
        known = ("/", *grammar.functions)
        links += [link for link in _LINKS if link.name in known and link.fits(y)]
    assert space.root is not None
    found: list[Individual] = []
    if y is not None and part[0] == 0:
        found += _power_law(grammar, space, y)
        if found and space.errors(found).min() <= FLOOR * space.total:
            return found
    for level in range(_LEVELS):  # simple factors first: the others can imitate them
        pool = _Pool(grammar, space, level)
        for link in links[part[0] :: part[1]]:
            if link is None:
                sums = pool.sums(space.plain_target / space.root, space.root, deadline)
                forms = [joined(map(pool.tree, products)) for products in sums]
            else:
                assert y is not None
                slope = np.abs(link.slope(y))
                root = space.root / np.maximum(slope, _FLATTEST * np.median(slope))
                sums = pool.sums(link.turn(y)[None], root, deadline)
                wrapped = [
                    _wrapped(list(map(pool.tree, one)), link, link.turn(y), root, space) for one in sums
                ]
                forms = [(one,) for one in wrapped if one is not None]
            forms = [
                terms for terms in forms if terms and all(term.size <= grammar.max_size for term in terms)
            ]
            found += forms
            if len(forms) and space.errors(forms).min() <= FLOOR * space.total:
                return found
    return found


def _power_law(grammar: Grammar, space: ExactSpace, y: Array) -> list[Individual]:
    """Return the product of powers of inputs, in steps of one half, that fits the logarithm of the target best."""
    leaves = [input_of(place) for place in range(grammar.inputs)]
    columns = np.array([space.raw(leaf) for leaf in leaves])
    if not (_away_from_zero(y) and np.ptp(np.sign(y)) == 0 and (columns > 0).all()):
        return []
    powers = np.linalg.lstsq(np.vstack([np.log(columns), np.ones(len(y))]).T, np.log(np.abs(y)), rcond=None)[
        0
    ][:-1]
    sides: list[list[Node]] = [[], []]
    for leaf, power in zip(leaves, np.round(2 * powers).astype(int).tolist(), strict=True):
        whole, half = divmod(abs(power), 2)
        if whole > _HIGHEST or (half and "sqrt" not in grammar.functions):
            return []
        sides[power < 0] += [leaf] * whole + [make("sqrt", leaf)] * half
    if not any(sides):
        return []
    above, below = map(_multiplied, sides)
    return [(above if below is ONE else make("/", above, below),)]


def _wrapped(terms: list[Node], link: _Link, target: Array, root: Array, space: ExactSpace) -> Node | None:
    """Return the function of a weighted sum of terms, None where it is no function of the inputs."""
    columns = np.array([np.ones(len(target)), *(space.raw(term) for term in terms)])
    norms = np.linalg.norm(columns * root, axis=1)
    weights = np.linalg.lstsq((columns * root / norms[:, None]).T, target * root, rcond=None)[0] / norms
    shares = np.abs(weights) * np.abs(columns).mean(axis=1)
    weights[shares < _WHOLE * shares.max()] = 0.0
    if link.free == "offset":
        weights[0] = 0.0
    if not weights[1:].any():
        return None
    if link.free == "scale":
        weights /= np.abs(weights[1:][weights[1:] != 0][0])
    halves = np.round(2 * weights) / 2
    weights = np.where((np.abs(weights - halves) < _WHOLE) & (halves != 0), halves, weights)
    total = constant(weights[0])
    for weight, term in zip(weights[1:], terms, strict=True):
        total = make("+", total, make("*", constant(weight), term))
    return link.wrap(total)


class _Pool:
    """The factors and their values; the second half are the reciprocals of the first.

    Args:
        grammar: What trees are made of.
        space: The rows.
        level: Which factors there are, 0 to 3.
    """

    def __init__(self, grammar: Grammar, space: ExactSpace, level: int) -> None:
        self.rows = np.arange(len(space.target.T))[:_ROWS]
        self.depth = 2 * grammar.inputs + 2
        self.nodes: list[Node] = []
        values: list[Array] = []
        for node in _units(grammar, level):
            one = np.asarray(space.values(node), dtype=np.float64)
            size = np.abs(one).mean()
            if np.isfinite(one).all() and 0 < size < np.inf and np.ptp(one) > _WHOLE * size:
                self.nodes.append(node)
                values.append(one[self.rows] / size)
        whole = np.array(values).reshape(len(values), len(self.rows))
        safe = np.abs(whole).min(axis=1, initial=np.inf) > _SAFE * np.abs(whole).max(axis=1, initial=0.0)
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
        above, below_ = (_multiplied(side) for side in sides)
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
                    return [*found, chosen]
            found.append(chosen)
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


def _multiplied(nodes: list[Node]) -> Node:
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
