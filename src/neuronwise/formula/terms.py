"""The terms of a formula, sorted by what a neuron can be made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from neuronwise.formula._plan import fold
from neuronwise.formula.bases import Base
from neuronwise.formula.functions import Function
from neuronwise.formula.nodes import (
    Add,
    Div,
    Dot,
    Input,
    Inputs,
    Mul,
    Neg,
    Node,
    Parameter,
    Pow,
    Reduce,
    Size,
    mul,
    walk,
)

__all__ = ["Term", "terms_of"]


@dataclass(frozen=True)
class Term:
    """One of the terms that a formula is the sum of.

    Args:
        kind: ``"elementwise"``: ``coefficient * <weight, base(x)>``. ``"product"``: the coefficient times the inner
            products of ``factors``. ``"constant"``: ``coefficient``, times ``weight`` if there is one. ``"scalar"``:
            anything else; see ``node``.
        node: The term as one number: a vector term stands in a sum.
        coefficient: The number in front; 1 for the kind ``"scalar"``.
        weight: The parameter in front: a weight vector (w1) or one number (b1, c1).
        base: The base function of an elementwise term.
        factors: ``(weight, base)`` of each inner product of a product.
    """

    kind: Literal["constant", "elementwise", "product", "scalar"]
    node: Node
    coefficient: float = 1.0
    weight: str | None = None
    base: Base | None = None
    factors: tuple[tuple[str | None, Base], ...] = ()


def terms_of(root: Node, functions: Mapping[str, Function]) -> tuple[Term, ...]:
    """Return the top-level terms of a formula.

    Args:
        root: The formula as it is written: vector terms stand for their sums.
        functions: The table.
    """
    parts = root.terms if isinstance(root, Add) else (root,)
    return tuple(_term(part, functions) for part in parts)


def _term(node: Node, functions: Mapping[str, Function]) -> Term:
    scalar = Reduce("sum", node) if node.vector else node
    coefficient, factors = peeled(scalar, functions)
    if not factors:
        return Term("constant", scalar, coefficient)
    if len(factors) == 1 and isinstance(factors[0], Parameter):
        parameter = factors[0]
        if parameter.index is None and not parameter.vector:
            return Term("constant", scalar, coefficient, parameter.name)
    single = [part for part in factors if isinstance(part, Parameter)]
    products = [part for part in factors if not isinstance(part, Parameter)]
    linear = [_linear(part, functions) for part in products]
    found = [form for form in linear if form is not None]
    if len(found) < len(linear) or len(single) > 1 or any(part.index is not None for part in single):
        return Term("scalar", scalar)
    for number, _, _ in found:
        coefficient *= number
    name = single[0].name if single else None
    if len(found) == 1:
        _, weight, base = found[0]
        if name is None or weight is None:
            return Term("elementwise", scalar, coefficient, weight or name, base)
    elif name is None and found:
        return Term("product", scalar, coefficient, factors=tuple((w, b) for _, w, b in found))
    return Term("scalar", scalar)


def peeled(node: Node, functions: Mapping[str, Function], *, powers: bool = True) -> tuple[float, list[Node]]:
    """Return the number in front of a product, and its other factors.

    Args:
        node: The product, or anything else.
        functions: The table.
        powers: Whether the second to fourth power of a scalar is written out as factors.
    """
    value = fold(node, functions)
    if value is not None:
        return value, []
    coefficient, factors = 1.0, [node]
    match node:
        case Neg():
            coefficient, factors = peeled(node.argument, functions, powers=powers)
            coefficient = -coefficient
        case Mul():
            pairs = [peeled(factor, functions, powers=powers) for factor in node.factors]
            coefficient, factors = (
                math.prod(number for number, _ in pairs),
                [f for _, rest in pairs for f in rest],
            )
        case Div() if (divisor := fold(node.right, functions)) is not None:
            coefficient, factors = peeled(node.left, functions, powers=powers)
            coefficient /= divisor
        case Pow() if powers and not node.vector and fold(node.exponent, functions) in (2.0, 3.0, 4.0):
            number, inner = peeled(node.base, functions, powers=powers)
            count = int(fold(node.exponent, functions) or 1)
            coefficient, factors = math.prod([number] * count), inner * count
    # Numbers that overflow when they are put together stay where they are.
    return (coefficient, factors) if math.isfinite(coefficient) else (1.0, [node])


def _linear(node: Node, functions: Mapping[str, Function]) -> tuple[float, str | None, Base] | None:
    """Return (number, weight, base function) of a weighted sum over the inputs, None for anything else."""
    if isinstance(node, Reduce) and node.name == "sum":
        parts: list[Node] = [node.argument]
    elif isinstance(node, Dot):
        parts = [node.left, node.right]
    else:
        return None
    coefficient, weights, rest = 1.0, list[Parameter](), list[Node]()
    for part in parts:
        number, factors = peeled(part, functions)
        coefficient *= number
        for factor in factors:
            if isinstance(factor, Parameter):
                weights.append(factor)
            else:
                rest.append(factor)
    plain = all(
        not isinstance(part, Input | Parameter | Reduce | Dot | Size)
        for factor in rest
        for part in walk(factor)
    )
    has_x = any(isinstance(part, Inputs) for factor in rest for part in walk(factor))
    if not plain or not has_x or len(weights) > 1 or any(weight.index is not None for weight in weights):
        return None
    return coefficient, weights[0].name if weights else None, Base(mul(*rest), functions=functions)
