"""Starting forms of single inputs: sums of products of simple factors, and functions of such sums.

Many laws are a few products of powers, sums, differences and functions of one or two inputs, or their square,
reciprocal or logarithm is. Products are grown factor by factor (a beam on what they explain of the target by least
squares), further products on what is left, each then once more with the others given. For functions of sums the
target is turned round first: where ``1/y`` is a sum of products, y is the reciprocal of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._genetic_exact import ExactSpace
from neuronwise.discover._genetic_factors import LEVELS, SAFE, Pool, multiplied
from neuronwise.discover._genetic_tune import FLOOR
from neuronwise.discover._genetic_variation import Grammar, Individual
from neuronwise.discover._trees import ONE, Node, constant, input_of, joined, make

__all__ = ["product_forms"]

Array = NDArray[np.float64]

_HIGHEST = 9  # power of an input
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
    return bool(np.abs(y).min() > SAFE * np.abs(y).max())


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
    response = space.plain_target / np.maximum(space.root, 1e-300)  # rows of no weight do not count anyway
    found: list[Individual] = []
    if y is not None and part[0] == 0:
        found += _power_law(grammar, space, y)
        if found and space.errors(found).min() <= FLOOR * space.total:
            return found
    for level in range(LEVELS):  # simple factors first: the others can imitate them
        pool = Pool(grammar, space, level)
        for link in links[part[0] :: part[1]]:
            target, root = response, space.root
            if link is not None:
                assert y is not None
                slope = np.abs(link.slope(y))
                target, root = link.turn(y)[None], root / np.maximum(slope, _FLATTEST * np.median(slope))
            sums = pool.sums(target, root, deadline)
            sums += pool.polynomials(target, root) if level == 0 else []
            trees = [[pool.tree(product) for product in products] for products in sums]
            if link is None:
                forms = [joined(terms) for terms in trees]
            else:
                wrapped = [_wrapped(terms, link, target[0], root, space) for terms in trees]
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
    assert space.root is not None
    counted = space.root > 0
    columns, y = np.array([space.raw(leaf)[counted] for leaf in leaves]), y[counted]
    if not (_away_from_zero(y) and np.ptp(np.sign(y)) == 0 and (columns > 0).all()):
        return []
    known = np.vstack([np.log(columns), np.ones(len(y))]).T
    powers = np.linalg.lstsq(known, np.log(np.abs(y)), rcond=None)[0][:-1]
    sides: list[list[Node]] = [[], []]
    for leaf, power in zip(leaves, np.round(2 * powers).astype(int).tolist(), strict=True):
        whole, half = divmod(abs(power), 2)
        if whole > _HIGHEST or (half and "sqrt" not in grammar.functions):
            return []
        sides[power < 0] += [leaf] * whole + [make("sqrt", leaf)] * half
    if not any(sides):
        return []
    above, below = map(multiplied, sides)
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
