"""What is known about an elementwise expression without data: where it is defined, what values it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neuronwise.formula._plan import fold
from neuronwise.formula.functions import Function
from neuronwise.formula.interval import REALS, Interval
from neuronwise.formula.nodes import Add, Call, Div, Inputs, Mul, Neg, Node, Pow

#: Stands for the unknown finite bound of a function that is only said to be bounded.
_SOME = 1e6


def image(node: Node, functions: Mapping[str, Function], domain: Interval) -> Interval:
    """Return an interval that contains every value of an elementwise expression; it may be too wide."""
    value = fold(node, functions)
    if value is not None:
        return Interval(value, value, True, True)
    match node:
        case Inputs():
            return domain
        case Neg():
            inner = image(node.argument, functions, domain)
            return Interval(-inner.high, -inner.low)
        case Add():
            parts = [image(term, functions, domain) for term in node.terms]
            return Interval(sum(part.low for part in parts), sum(part.high for part in parts))
        case Mul():
            found = image(node.factors[0], functions, domain)
            for factor in node.factors[1:]:
                found = _product(found, image(factor, functions, domain))
            return found
        case Div():
            right = image(node.right, functions, domain)
            if right.low < 0.0 < right.high or 0.0 in (right.low, right.high):
                return REALS
            inverse = Interval(_inverse(right.high), _inverse(right.low))
            return _product(image(node.left, functions, domain), inverse)
        case Pow():
            return _power(node, functions, domain)
        case Call():
            return _call(functions[node.name], image(node.argument, functions, domain))
    return REALS


def _inverse(value: float) -> float:
    return 0.0 if math.isinf(value) else 1.0 / value


def _product(a: Interval, b: Interval) -> Interval:
    ends = [0.0 if 0.0 in (p, q) else p * q for p in a for q in b]
    return Interval(min(ends), max(ends))


def _power(node: Pow, functions: Mapping[str, Function], domain: Interval) -> Interval:
    inner = image(node.base, functions, domain)
    exponent = fold(node.exponent, functions)
    if exponent is None:
        return REALS
    with np.errstate(all="ignore"):
        ends = [float(np.power(np.float64(end), exponent)) for end in inner]
    even = exponent == int(exponent) and int(exponent) % 2 == 0
    if inner.low < 0.0:
        if exponent < 0 or exponent != int(exponent):
            return Interval(0.0, math.inf) if even else REALS
        low = 0.0 if inner.high > 0.0 else min(ends)
        return Interval(low, max(ends)) if even else Interval(ends[0], ends[1])
    return Interval(min(ends), max(ends))


def _call(function: Function, argument: Interval) -> Interval:
    if function.increasing:
        inside = function.defined_on
        with np.errstate(all="ignore"):
            ends = [
                float(function.numpy(np.float64(end)))
                for end in (max(argument.low, inside.low), min(argument.high, inside.high))
            ]
        if ends[0] <= ends[1]:
            return Interval(ends[0], ends[1])
    if function.bounded and not function.values_in.finite:
        return Interval(-_SOME, _SOME)
    return function.values_in


def growth(node: Node, functions: Mapping[str, Function], domain: Interval) -> float:
    """Return the power of x that an elementwise expression grows at most as; 0 where it is bounded."""
    if fold(node, functions) is not None or image(node, functions, domain).finite:
        return 0.0
    match node:
        case Inputs():
            return 1.0
        case Neg():
            return growth(node.argument, functions, domain)
        case Add():
            return max(growth(term, functions, domain) for term in node.terms)
        case Mul():
            return sum(growth(factor, functions, domain) for factor in node.factors)
        case Div():
            left = growth(node.left, functions, domain)
            right = fold(node.right, functions)
            # A denominator may come near 0 anywhere: nothing is taken off for its growth.
            return left if right is not None else max(left, 1.0)
        case Pow():
            exponent = fold(node.exponent, functions)
            if exponent is None:
                return math.inf
            return abs(exponent) * growth(node.base, functions, domain)
        case Call():
            inner = growth(node.argument, functions, domain)
            factor = functions[node.name].growth or 0.0
            if factor == 0.0:
                # A logarithm of an exponential grows like its argument, at most.
                return 1.0 if math.isinf(inner) else 0.0
            return factor * inner if inner else 0.0
    return math.inf


def domain_of(call: Callable[[Any], Any]) -> Interval:
    """Return where an elementwise expression is finite, by trying: the widest stretch without a gap.

    Args:
        call: The expression, array to array.

    Returns:
        The interval; ends within 20 are exact to rounding. Where several stretches are equally wide (1/x), the one
        above 0. Poles between the points tried are not seen.
    """
    magnitudes = np.concatenate([np.arange(1, 161) / 8, np.geomspace(1e-9, 0.1, 9)])
    points = np.unique(np.concatenate([-magnitudes, [0.0], magnitudes]))
    # Beyond where exp overflows nothing is tried: too large a number is no matter of the domain.
    fine = np.isfinite(call(points))
    if fine.all():
        return REALS
    if not fine.any():
        return Interval(0.0, 0.0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], fine, [False]]).astype(int)))
    runs = [(points[a], points[b - 1]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    low, high = max(runs, key=lambda run: (round(run[1] - run[0], 6), run[0]))
    start, low_in = _edge(call, low, points[points < low])
    end, high_in = _edge(call, high, points[points > high][::-1])
    return Interval(start, end, low_in, high_in)


def _edge(call: Callable[[Any], Any], good: float, beyond: Any) -> tuple[float, bool]:
    """Return where finiteness ends between a good point and the next point beyond it, and whether it is in."""
    if not len(beyond):
        return math.copysign(math.inf, good), False
    bad = float(beyond[-1])
    while True:
        middle = (good + bad) / 2
        if middle in (good, bad):
            break
        if np.isfinite(call(np.array([middle]))[0]):
            good = middle
        else:
            bad = middle
    # An end such as 0 or 1 is the first bad point or the last good one, give or take a rounding.
    nice = float(round(good, 9))
    if abs(nice - good) < 1e-9:
        return nice, bool(np.isfinite(call(np.array([nice]))[0]))
    return good, True
