"""Formulas made from formulas: one term for each input, rounded numbers, fresh parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuronwise.errors import FormulaError
from neuronwise.formula._gradient import plus, substituted, times
from neuronwise.formula.functions import Function
from neuronwise.formula.nodes import (
    Add,
    Call,
    Div,
    Dot,
    Input,
    Inputs,
    Mul,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
    add,
    div,
    mul,
    rebuilt,
)
from neuronwise.formula.terms import peeled


def expanded(total: Node, weights: Mapping[str, Any], width: int) -> Node:
    """Return a formula in single inputs only, with the bound weights as numbers.

    Args:
        total: The formula as one number.
        weights: Values of the parameters; free ones stay.
        width: The number of inputs.

    Raises:
        FormulaError: If it has a max or min over the inputs, which no sum of terms is.
    """
    terms = total.terms if isinstance(total, Add) else (total,)
    parts: list[Node] = []
    for term in terms:
        inner = term.argument if isinstance(term, Reduce) and term.name == "sum" else None
        if inner is None and isinstance(term, Dot):
            inner = times(term.left, term.right)
        if inner is None:
            parts.append(_single(term, None, weights, width))
        else:
            parts += [_single(inner, index, weights, width) for index in range(width)]
    numbers = [part.value for part in parts if isinstance(part, Number)]
    return plus(*(part for part in parts if not isinstance(part, Number)), Number(float(sum(numbers))))


def _single(node: Node, index: int | None, weights: Mapping[str, Any], width: int) -> Node:
    """Return the element of a vector, or a scalar, written with single inputs."""
    match node:
        case Inputs():
            assert index is not None
            return Input(index)
        case Size():
            return Number(float(width))
        case Parameter():
            place = node.index if node.index is not None else (index if node.vector else None)
            if node.name in weights:
                value = weights[node.name]
                return Number(float(value if place is None else value[place]))
            return Parameter(node.name, place)
        case Dot():
            product = times(node.left, node.right)
            return plus(*(_single(product, i, weights, width) for i in range(width)))
        case Reduce():
            if node.name in ("max", "min"):
                raise FormulaError(
                    f"{node.name}(...) over the inputs cannot be written as terms of single inputs."
                )
            parts = [_single(node.argument, i, weights, width) for i in range(width)]
            if node.name == "norm":
                return Call("sqrt", plus(*(Pow(part, Number(2.0)) for part in parts)))
            return plus(*parts) if node.name == "sum" else div(plus(*parts), Number(float(width)))
    children = tuple(_single(child, index, weights, width) for child in node.children)
    return times(*children) if isinstance(node, Mul) else rebuilt(node, children)


def shortened(value: float, digits: int) -> float:
    """Return a number rounded to so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def rounded(root: Node, digits: int) -> Node:
    """Return a node with its numbers rounded to significant digits; exponents stay."""

    def replace(node: Node) -> Node | None:
        if isinstance(node, Number):
            return Number(shortened(node.value, digits))
        if isinstance(node, Pow):
            return Pow(substituted(node.base, replace), node.exponent)
        return None

    return substituted(root, replace)


def rounded_weights(weights: Mapping[str, Any], digits: int) -> dict[str, Any]:
    """Return the weights rounded to significant digits."""
    return {
        name: np.array([shortened(v, digits) for v in value])
        if isinstance(value, np.ndarray)
        else shortened(value, digits)
        for name, value in weights.items()
    }


class Parameteriser:
    """Throws the constants of a formula away and puts fresh parameters in their place.

    The rules of the package of Task-based Neurons (arXiv 2405.02369): a number in an inner product becomes a weight
    vector, a term that is no inner product becomes ``<w, term>``, a number that stands alone becomes b, an inner
    product without a number gets a factor c.

    Args:
        functions: The table.
    """

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self.counts = {"w": 0, "b": 0, "c": 0}

    def fresh(self, letter: str) -> Parameter:
        """Return a parameter that has not been used yet."""
        self.counts[letter] += 1
        return Parameter(f"{letter}{self.counts[letter]}")

    def formula(self, terms: Sequence[Node]) -> Node:
        """Return the formula of these top-level terms with parameters.

        Args:
            terms: The terms, each as one number.
        """
        varying = [term for term in terms if self.varies(term)]
        parts = [self.term(term) for term in varying]
        if len(varying) < len(terms):
            parts.append(self.fresh("b"))
        return add(*parts)

    def varies(self, node: Node) -> bool:
        """Whether a node depends on the inputs."""
        return isinstance(node, Inputs | Input) or any(self.varies(child) for child in node.children)

    def term(self, node: Node) -> Node:
        """Return a term without its number, with weights in its inner products."""
        _, factors = peeled(node, self.functions, powers=False)
        parts = [self.inside(factor) for factor in factors if self.varies(factor)]
        # Weights that scale the whole make a number in front of it superfluous.
        return mul(*parts) if any(_scalable(part) for part in parts) else mul(self.fresh("c"), *parts)

    def inside(self, node: Node) -> Node:
        """Return a part of a scalar term with parameters for its numbers."""
        match node:
            case Dot():
                return (
                    self.inner(times(node.left, node.right))
                    if self.numbered(node)
                    else mul(self.fresh("c"), node)
                )
            case Reduce(name="sum" | "mean"):
                return self.inner(node.argument)
            case Reduce():
                return node
            case Add():
                parts = [self.inside(term) for term in node.terms if self.varies(term)]
                constant = len(parts) < len(node.terms)
                return add(*parts, *([self.fresh("b")] if constant else []))
            case Pow():
                return Pow(self.inside(node.base), node.exponent)
            case Call():
                return Call(node.name, self.inside(node.argument))
            case Div():
                return div(
                    self.inside(node.left), self.inside(node.right) if self.varies(node.right) else node.right
                )
        if not node.children:
            return node
        _, factors = peeled(node, self.functions, powers=False)
        return mul(*(self.inside(factor) for factor in factors if self.varies(factor)))

    def numbered(self, node: Dot) -> bool:
        """Whether an inner product has a number or a weight in it."""
        for side in node.children:
            number, factors = peeled(side, self.functions, powers=False)
            if number != 1.0 or not factors or any(isinstance(factor, Parameter) for factor in factors):
                return True
        return False

    def inner(self, product: Node) -> Node:
        """Return the inner product of fresh weights and what is left of a product without its numbers."""
        _, factors = peeled(product, self.functions, powers=False)
        rest = mul(*(factor for factor in factors if not isinstance(factor, Parameter)))
        return Dot(self.fresh("w"), rest)


def _scalable(node: Node) -> bool:
    """Whether parameters can multiply a part by any number."""
    match node:
        case Parameter() | Dot(left=Parameter()):
            return True
        case Mul():
            return any(_scalable(factor) for factor in node.factors)
        case Add():
            return all(_scalable(term) for term in node.terms)
    return False
