"""Derivatives as nodes: the chain rule, from the root down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from neuronwise.errors import FormulaError
from neuronwise.formula.functions import FUNCTIONS, Function
from neuronwise.formula.nodes import (
    Add,
    Call,
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
    rebuilt,
)

ZERO, ONE = Number(0.0), Number(1.0)


def times(*factors: Node) -> Node:
    """Return a product: one number in front, no ones, quotients joined; 0 where a factor is 0."""
    value, upper, lower = 1.0, list[Node](), list[Node]()
    waiting = list(reversed(factors))
    while waiting:
        match waiting.pop():
            case Number() as number:
                value *= number.value
            case Neg() as negative:
                value = -value
                waiting.append(negative.argument)
            case Mul() as product:
                waiting.extend(reversed(product.factors))
            case Div() as quotient:
                lower.append(quotient.right)
                waiting.append(quotient.left)
            case other:
                upper.append(other)
    if value == 0.0:
        return ZERO
    if abs(value) != 1.0 or not upper:
        upper.insert(0, Number(abs(value)))
    found = div(mul(*upper), mul(*lower)) if lower else mul(*upper)
    return neg(found) if value < 0.0 else found


def plus(*terms: Node) -> Node:
    """Return a sum without its zeros, nested sums of scalars and vectors flattened."""
    return add(*[term for term in terms if term != ZERO])


def over(left: Node, right: Node) -> Node:
    """Return a quotient; 0 where the numerator is 0."""
    return ZERO if left == ZERO else times(div(left, right))


def power(base: Node, exponent: Node) -> Node:
    """Return a power; the base itself for an exponent of 1."""
    if exponent == ONE:
        return base
    return ONE if exponent == ZERO else Pow(base, exponent)


def gradients(root: Node, functions: Mapping[str, Function]) -> tuple[Node, dict[int, Node]]:
    """Return the derivatives of a node as nodes.

    Args:
        root: A scalar; or an expression that is elementwise in x, of which the first result is then the
            derivative of each element by its own input.
        functions: The table, for the derivatives of functions.

    Returns:
        The derivative by x (a vector, or a number that stands for a constant one), and by each input that occurs
        as ``x[i]``, which comes on top of it.

    Raises:
        FormulaError: If a function has no derivative.
    """
    reverse = _Reverse(functions)
    reverse.visit(root, ONE)
    return plus(*reverse.vector), {index: plus(*parts) for index, parts in sorted(reverse.single.items())}


class _Reverse:
    """Carries the derivative of the root by each node down to the leaves."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self.vector: list[Node] = []
        self.single: dict[int, list[Node]] = {}

    def visit(self, node: Node, outer: Node) -> None:
        """Add what a node contributes.

        Args:
            node: The node.
            outer: The derivative of the root by it: a vector for a vector (a number where it is the same for all
                elements), a scalar for a scalar.
        """
        if outer == ZERO:
            return
        match node:
            case Inputs():
                self.vector.append(outer)
            case Input():
                self.single.setdefault(node.index, []).append(outer)
            case Neg():
                self.pass_on(node, node.argument, neg(outer))
            case Add():
                for term in node.terms:
                    self.pass_on(node, term, outer)
            case Mul():
                for index, factor in enumerate(node.factors):
                    others = node.factors[:index] + node.factors[index + 1 :]
                    self.pass_on(node, factor, times(outer, *others))
            case Div():
                self.pass_on(node, node.left, over(outer, node.right))
                rest = over(times(outer, node.left), power(node.right, Number(2.0)))
                self.pass_on(node, node.right, neg(rest))
            case Pow():
                self.visit_power(node, outer)
            case Call():
                inner = derivative_of(node.name, self.functions, node.argument)
                self.pass_on(node, node.argument, times(outer, inner))
            case Dot():
                self.visit_side(node.left, times(outer, node.right))
                self.visit_side(node.right, times(outer, node.left))
            case Reduce():
                self.visit_reduction(node, outer)

    def pass_on(self, parent: Node, child: Node, outer: Node) -> None:
        """Visit a child of an elementwise node; a scalar in a vector collects from all elements."""
        if not depends(child):
            return
        self.visit(child, total(outer) if parent.vector and not child.vector else outer)

    def visit_side(self, side: Node, outer: Node) -> None:
        """Visit one side of an inner product."""
        if depends(side):
            self.visit(side, outer if side.vector else total(outer))

    def visit_power(self, node: Pow, outer: Node) -> None:
        base, exponent = node.base, node.exponent
        if depends(base):
            lower = (
                Number(exponent.value - 1.0) if isinstance(exponent, Number) else plus(exponent, Number(-1.0))
            )
            self.pass_on(node, base, times(outer, exponent, power(base, lower)))
        if depends(exponent):
            self.pass_on(node, exponent, times(outer, node, Call("log", base)))

    def visit_reduction(self, node: Reduce, outer: Node) -> None:
        argument = node.argument
        match node.name:
            case "sum":
                inner = outer
            case "mean":
                inner = over(outer, Size())
            case "norm":
                inner = over(times(outer, argument), node)
            case _:
                # 1 where the extreme is taken, shared where several inputs take it.
                taken = add(ONE, neg(Call("sign", Call("abs", add(argument, neg(node))))))
                inner = over(times(outer, taken), Reduce("sum", taken))
        if depends(argument):
            self.visit(argument, inner)


def total(node: Node) -> Node:
    """Return the sum over all inputs of a derivative; a number counts ``size`` times."""
    return Reduce("sum", node) if node.vector else times(Size(), node)


def depends(node: Node) -> bool:
    """Whether a node depends on the inputs."""
    return isinstance(node, Inputs | Input) or any(depends(child) for child in node.children)


def substituted(node: Node, replace: Callable[[Node], Node | None]) -> Node:
    """Return the node with parts replaced.

    Args:
        node: The node.
        replace: Returns what comes in the place of a node, None to look at its children.
    """
    new = replace(node)
    if new is not None:
        return new
    return rebuilt(node, tuple(substituted(child, replace) for child in node.children))


def element(node: Node, index: int) -> Node:
    """Return one element of a vector as a scalar; a scalar stays as it is."""

    def replace(part: Node) -> Node | None:
        match part:
            case Inputs():
                return Input(index)
            case Parameter() if part.vector:
                return Parameter(part.name, index)
            case Reduce() | Dot():
                return part
        return None

    return substituted(node, replace)


def derivative_of(name: str, functions: Mapping[str, Function], argument: Node) -> Node:
    """Return the derivative of a function at a node.

    Raises:
        FormulaError: If the function has none.
    """
    text = functions[name].derivative
    if text is None:
        raise FormulaError(
            f"The function {name} has no derivative: make it with derivative='...' or Function.from_expression."
        )
    node = _standard(text) if functions is FUNCTIONS else _parsed(text, functions)
    return substituted(node, lambda part: argument if isinstance(part, Inputs) else None)


def _parsed(text: str, functions: Mapping[str, Function]) -> Node:
    from neuronwise.formula._parser import parse

    return parse(text, None, functions, elementwise=True)


@lru_cache(maxsize=256)
def _standard(text: str) -> Node:
    return _parsed(text, FUNCTIONS)
