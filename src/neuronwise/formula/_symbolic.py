"""Nodes to SymPy and back, and simplification that keeps what vectors mean.

SymPy knows no vectors. Here ``x`` is one element of the inputs, and a sum over the inputs is taken apart first: numbers
come out of it, a constant in it counts ``size`` times, and what is left, ``sum(phi(x))``, is a symbol of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sympy

from neuronwise.errors import FormulaError
from neuronwise.formula._plan import Plan, fold
from neuronwise.formula._printing import to_text
from neuronwise.formula.bases import complexity_of
from neuronwise.formula.functions import Function
from neuronwise.formula.nodes import (
    Add,
    Call,
    Constant,
    Div,
    Dot,
    Input,
    Inputs,
    Mul,
    Neg,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
    add,
    div,
    mul,
    neg,
    walk,
)

#: Above this degree SymPy would compute enormous whole numbers.
MAX_DEGREE = 1000
#: SymPy's own simplification is tried on formulas of up to this many parts.
_MAX_SIMPLIFIED = 120
#: Powers of sums are multiplied out up to this degree.
_MAX_EXPANDED = 12
_EXACT = 2.0**53


class _NoForm(Exception):
    """SymPy returned something that formulas cannot say."""


def degree(node: Node, functions: Mapping[str, Function]) -> float:
    """Return the highest power that multiplying a node out could give."""
    inner = [degree(child, functions) for child in node.children]
    match node:
        case Pow():
            exponent = fold(node.exponent, functions)
            return max(1.0, abs(exponent or 1.0)) * max(inner)
        case Mul() | Div() | Dot():
            return sum(inner)
    return max(inner, default=1.0)


def number(value: float) -> Any:
    """Return a number of SymPy's: whole ones exact, others as float64."""
    return sympy.Integer(int(value)) if value == int(value) and abs(value) < _EXACT else sympy.Float(value)


def applied(function: Function, argument: Any, *, evaluate: bool = True) -> Any:
    """Return a function of a SymPy expression; one that SymPy does not know stays a name."""
    if isinstance(function.sympy, str):
        return getattr(sympy, function.sympy)(argument, evaluate=evaluate)
    if function.sympy is None:
        return sympy.Function(function.name, real=True)(argument)
    return function.sympy(argument)


class _Translation:
    """One formula in SymPy: its symbols, and what they stand for."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self.meaning: dict[Any, Node] = {}
        self.sums: dict[Any, tuple[str, Any]] = {}
        self.x = sympy.Symbol("x", real=True)
        self.meaning[self.x] = Inputs()
        self.elements = {self.x}

    def symbol(self, node: Node, name: str) -> Any:
        """Return the symbol of a leaf."""
        found = sympy.Symbol(name, real=True)
        self.meaning[found] = node
        if node.vector:
            self.elements.add(found)
        return found

    def expression(self, node: Node) -> Any:
        """Return a node as SymPy expression; of a vector, one element."""
        match node:
            case Number():
                return number(node.value)
            case Constant():
                return sympy.pi if node.name == "pi" else sympy.E
            case Inputs():
                return self.x
            case Input() | Parameter():
                return self.symbol(node, to_text(node))
            case Size():
                return self.size
            case Neg():
                return -self.expression(node.argument)
            case Add():
                return sympy.Add(*(self.expression(term) for term in node.terms))
            case Mul():
                return sympy.Mul(*(self.expression(factor) for factor in node.factors))
            case Div():
                return self.expression(node.left) / self.expression(node.right)
            case Pow():
                return self.expression(node.base) ** self.expression(node.exponent)
            case Call():
                return applied(self.functions[node.name], self.expression(node.argument))
            case Dot():
                return self.total("sum", self.expression(node.left) * self.expression(node.right))
            case Reduce(name="sum" | "mean"):
                return self.total(node.name, self.expression(node.argument))
            case Reduce():
                return self.symbol(node, to_text(node))
        raise _NoForm(type(node).__name__)

    @property
    def size(self) -> Any:
        """The symbol of the number of inputs."""
        found = sympy.Symbol("size", positive=True, integer=True)
        self.meaning[found] = Size()
        return found

    def total(self, name: str, element: Any) -> Any:
        """Return the sum (or mean) over the inputs of an expression: what does not vary comes out of it."""
        found = sympy.Integer(0)
        # expand_mul only here and only for what stands in front of brackets: (x + 1)**2 stays.
        for term in sympy.Add.make_args(_distributed(element, self.elements)):
            front, inner = term.as_independent(*self.elements, as_Add=False)
            if inner == 1:
                found += front * self.size if name == "sum" else front
            else:
                found += front * self.summed(name, inner)
        return found

    def summed(self, name: str, inner: Any) -> Any:
        """Return the symbol of the sum of an expression."""
        symbol = sympy.Symbol(f"{name}({sympy.sstr(inner)})", real=True)
        self.sums[symbol] = (name, inner)
        return symbol

    def again(self, expression: Any, change: Callable[[Any], Any]) -> Any:
        """Return an expression after a change of it and of what stands in its sums."""
        for _ in range(8):
            present = [s for s in expression.free_symbols if s in self.sums]
            new = {s: self.total(self.sums[s][0], change(self.sums[s][1])) for s in present}
            changed = change(expression.xreplace(new))
            if changed == expression:
                break
            expression = changed
        return expression

    def joined(self, expression: Any) -> Any:
        """Return SymPy's simplification after the sums over the inputs were put under one sum."""
        inside, outside = sympy.Integer(0), sympy.Integer(0)
        for term in sympy.Add.make_args(expression):
            symbols = [s for s in term.free_symbols if s in self.sums and self.sums[s][0] == "sum"]
            front = term.coeff(symbols[0]) if len(symbols) == 1 else sympy.Integer(0)
            if symbols and front.is_Number and front != 0 and term == front * symbols[0]:
                inside += front * self.sums[symbols[0]][1]
            else:
                outside += term
        return self.total("sum", sympy.simplify(inside)) + sympy.simplify(outside)

    def formula(self, expression: Any) -> Node:
        """Return the formula of an expression: a linear sum over the inputs becomes a vector term."""
        parts = [self._top(term) for term in sympy.Add.make_args(expression)]
        parts = [part for part in parts if part != Number(0.0)]
        ordered = sorted(parts, key=lambda p: (not p.vector, -complexity_of(p, self.functions), to_text(p)))
        return add(*ordered)

    def _top(self, term: Any) -> Node:
        sums = [s for s in term.free_symbols if s in self.sums]
        if len(sums) == 1:
            front, rest = term.as_independent(sums[0], as_Add=False)
            name, inner = self.sums[sums[0]]
            scalar = all(not isinstance(self.meaning.get(s), Input | Reduce) for s in front.free_symbols)
            if rest == sums[0] and name == "sum" and scalar:
                return self._weighted(inner, front)
        return self.node(term)

    def _weighted(self, inner: Any, front: Any) -> Node:
        """Return front times the sum of an expression: an inner product where it has one weight vector."""
        weights = [
            s for s in inner.free_symbols if isinstance(self.meaning.get(s), Parameter) and s in self.elements
        ]
        if len(weights) == 1:
            rest, own = inner.as_independent(weights[0], as_Add=False)
            if own == weights[0] and rest.has(self.x):
                inner_product = Dot(self.meaning[weights[0]], self.node(rest))
                return inner_product if front == 1 else self._product(front, inner_product)
        return self.node(front * inner)

    def _product(self, front: Any, node: Node) -> Node:
        first = self.node(front)
        if first == Number(-1.0):
            return neg(node)
        return mul(first, node)

    def node(self, expression: Any) -> Node:
        """Return the node of an expression.

        Raises:
            _NoForm: If formulas cannot say it.
        """
        if expression in self.sums:
            name, inner = self.sums[expression]
            node = self._weighted(inner, sympy.Integer(1)) if name == "sum" else self.node(inner)
            return node if isinstance(node, Dot) else Reduce(name, node)
        if expression in self.meaning:
            return self.meaning[expression]
        if expression.is_Number:
            return _number(expression)
        if expression in (sympy.pi, sympy.E):
            return Constant("pi" if expression == sympy.pi else "e")
        if expression.is_Add:
            terms = [self.node(term) for term in expression.as_ordered_terms()]
            return add(*terms)
        if expression.is_Mul:
            return self._quotient(expression)
        if expression.is_Pow:
            return self._power(expression.base, expression.exp)
        if expression.is_Function and len(expression.args) == 1:
            name = {"Abs": "abs"}.get(expression.func.__name__, expression.func.__name__)
            if name in self.functions:
                return Call(name, self.node(expression.args[0]))
        raise _NoForm(str(expression.func))

    def _power(self, base: Any, exponent: Any) -> Node:
        if exponent.is_Number and exponent < 0:
            return div(Number(1.0), self._power(base, -exponent))
        if exponent.is_Number and float(exponent) == 1.0:
            return self.node(base)
        if exponent == sympy.Rational(1, 2):
            return Call("sqrt", self.node(base))
        return Pow(self.node(base), self.node(exponent))

    def _quotient(self, product: Any) -> Node:
        """Return a product with its number in front and its negative powers as a denominator."""
        front, rest = product.as_coeff_Mul()
        upper, lower = list[Node](), list[Node]()
        for factor in sympy.Mul.make_args(rest) if rest.is_Add else rest.as_ordered_factors():
            base, exponent = factor.as_base_exp() if factor.is_Pow else (factor, sympy.Integer(1))
            if exponent.is_Number and exponent < 0:
                lower.append(self._power(base, -exponent))
            else:
                upper.append(self.node(factor))
        if front.is_Rational and not front.is_Integer:
            lower.insert(0, _number(sympy.Integer(front.q)))
            front = sympy.Integer(front.p)
        negative = front.is_negative
        size = -front if negative else front
        if float(size) != 1.0 or not upper:
            upper.insert(0, _number(size))
        found = div(mul(*upper), mul(*lower)) if lower else mul(*upper)
        return neg(found) if negative else found


def _distributed(element: Any, elements: set[Any]) -> Any:
    """Return an expression with what does not vary multiplied into its sums: 2*(x + 1) as 2*x + 2."""
    parts = []
    for term in sympy.Add.make_args(element):
        front, inner = term.as_independent(*elements, as_Add=False)
        parts += [front * part for part in sympy.Add.make_args(inner)]
    return sympy.Add(*parts)


def _number(value: Any) -> Node:
    if value.is_Rational and not value.is_Integer:
        return div(_number(sympy.Integer(value.p)), _number(sympy.Integer(value.q)))
    try:
        found = float(value)
    except (OverflowError, TypeError):
        raise _NoForm(str(value)) from None
    if not math.isfinite(found) or (found == 0.0 and value != 0):
        raise _NoForm(str(value))
    return Number(found)


def simplified(
    total: Node, functions: Mapping[str, Function], weights: Mapping[str, Any], width: int | None
) -> Node | None:
    """Return the simplest of several forms that SymPy finds, None where none gives the same values.

    Args:
        total: The formula as one number.
        functions: The table.
        weights: Values of the parameters; free ones are tried with random values.
        width: The number of inputs, None if any.
    """
    if degree(total, functions) > MAX_DEGREE:
        return None
    translation = _Translation(functions)
    expression = translation.expression(total)
    ways: list[Callable[[], Any]] = [lambda: expression]
    if degree(total, functions) <= _MAX_EXPANDED:
        ways.append(lambda: translation.again(expression, sympy.expand))
    if total.size <= _MAX_SIMPLIFIED:
        ways.append(lambda: translation.again(expression, sympy.simplify))
        ways.append(lambda: translation.joined(expression))
    same = _Same(total, functions, weights, width)
    found: list[Node] = []
    for way in ways:
        try:
            node = translation.formula(translation.again(way(), sympy.expand_mul))
        except _NoForm:
            continue
        if node not in found:
            found.append(node)
    for node in sorted(found, key=lambda n: complexity_of(n, functions)):
        if same(node):
            return node
    return None


class _Same:
    """Whether another formula has the same values, tried on seeded random rows, zeros among them."""

    def __init__(
        self, total: Node, functions: Mapping[str, Function], weights: Mapping[str, Any], width: int | None
    ) -> None:
        generator = np.random.default_rng(0)
        highest = max(
            (n.index + 1 for n in walk(total) if isinstance(n, Input | Parameter) and n.index is not None),
            default=1,
        )
        self.width = width or max(highest, 3)
        scales = np.repeat([0.0, 0.01, 0.3, 1.0, 3.0, 30.0], 24)[:, None]
        rows = generator.standard_normal((len(scales), self.width)) * scales
        self.rows = np.concatenate([rows, np.abs(rows), np.eye(self.width), -np.eye(self.width)])
        self.functions = functions
        self.weights = dict(weights)
        for node in walk(total):
            if isinstance(node, Parameter) and node.name not in self.weights:
                vector = node.name[0] == "w"
                self.weights[node.name] = (
                    generator.standard_normal(self.width) if vector else generator.standard_normal()
                )
        parts = total.terms if isinstance(total, Add) else (total,)
        values = [self._values(part) for part in parts]
        with np.errstate(all="ignore"):
            self.expected = np.sum(values, 0)
            self.scale = np.sum(np.abs(values), 0)

    def _values(self, node: Node) -> Any:
        with np.errstate(all="ignore"):
            (found,) = Plan([node], "numpy", self.functions, self.weights, self.width).run(self.rows)
        return np.broadcast_to(found, len(self.rows))

    def __call__(self, node: Node) -> bool:
        parts = node.terms if isinstance(node, Add) else (node,)
        scalars = [Reduce("sum", part) if part.vector else part for part in parts]
        found = self._values(add(*scalars))
        finite = np.isfinite(self.expected)
        if not np.array_equal(finite, np.isfinite(found)):
            return False
        with np.errstate(all="ignore"):
            gap = np.abs(found - self.expected)
        return bool(np.all(gap[finite] <= 1e-12 * self.scale[finite]))


def checked_simplification(
    total: Node, functions: Mapping[str, Function], weights: Any, width: int | None
) -> Node | None:
    """Return :func:`simplified`, None also where SymPy itself fails on the formula."""
    try:
        return simplified(total, functions, weights, width)
    except (FormulaError, _NoForm, ArithmeticError, NotImplementedError, RecursionError):
        return None
