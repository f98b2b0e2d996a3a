"""Typed trees of the genetic search: vectors (one number for each input), scalars (one number) and constants.

Trees are immutable, kept in a canonical form by :func:`make`, and known by their text ``key``: equal keys mean equal
trees, in every process, so that columns are memoised by key. Vector trees are purely elementwise; ``sum`` makes a
scalar of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronwise.formula import Function

__all__ = [
    "BINARY",
    "ONE",
    "POWERS",
    "Node",
    "X",
    "constant",
    "evaluate",
    "input_of",
    "make",
    "replaced",
    "terms_of",
    "text",
    "walk",
]

Array = NDArray[np.float64]

BINARY = ("+", "-", "*", "/")
#: Powers are operators of one argument: a general power is undefined for negative numbers.
POWERS: Mapping[str, int] = {"square": 2, "cube": 3}
_COMMUTATIVE = ("+", "*")
_EVEN = ("square", "abs", "cos", "cosh", "gauss")
_ODD = ("sin", "tan", "tanh", "sinh", "atan", "asin", "cube")
_TINY = 1e-300
_PLAIN = ("x", "c", "input", *BINARY, "neg", "sum")


class Node:
    """A tree. Made by :func:`make` and :func:`constant`, never changed.

    Args:
        op: ``"x"``, ``"c"`` (a constant), ``"input"`` (a single one, a scalar), an operator, ``"neg"``, a power,
            ``"sum"`` or the name of a function.
        args: Its arguments.
        value: The number, of a constant; which one it is, of a single input.
    """

    __slots__ = ("args", "constants", "depth", "key", "kind", "op", "size", "value")

    def __init__(self, op: str, args: tuple[Node, ...] = (), value: float = 0.0) -> None:
        self.op = op
        self.args = args
        self.value = value
        #: Weighted nodes of the tree: a power counts 2, a function 3, so that powers are simpler than sines.
        self.size: int = (1 if op in _PLAIN else 2 if op in POWERS else 3) + sum(arg.size for arg in args)
        self.depth: int = 1 + max((arg.depth for arg in args), default=0)
        #: How many constants there are in it.
        self.constants: int = (op == "c") + sum(arg.constants for arg in args)
        if op == "c":
            self.kind, self.key = "constant", repr(value)
        elif op == "x":
            self.kind, self.key = "vector", "x"
        elif op == "input":
            self.kind, self.key = "scalar", f"x[{value:.0f}]"
        else:
            self.kind = (
                "scalar"
                if op == "sum"
                else next((arg.kind for arg in args if arg.kind != "constant"), "constant")
            )
            self.key = f"{op}({','.join([arg.key for arg in args])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Node, (self.op, self.args, self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return text(self)


def constant(value: float) -> Node:
    """Return a constant; minus zero is zero."""
    return Node("c", (), float(value) + 0.0)


def input_of(place: int) -> Node:
    """Return a single input, which is a scalar."""
    return Node("input", (), float(place))


X = Node("x")
ONE = constant(1.0)


def make(op: str, *args: Node) -> Node:
    """Return an operator or function of trees in canonical form: constants folded and first, neutral elements gone.

    Raises:
        TypeError: If a vector and a scalar would be mixed.
    """
    if op in BINARY:
        left, right = args
        if {left.kind, right.kind} == {"vector", "scalar"}:
            raise TypeError(f"{op} of a vector and a scalar: sum the vector first.")
        return _binary(op, left, right)
    (arg,) = args
    if op == "neg":
        return _binary("*", constant(-1.0), arg)
    if arg.kind == "constant" and op in POWERS:
        return _folded(arg.value ** POWERS[op] if abs(arg.value) < 1e50 else math.nan)
    if op == "sum":
        if arg.kind == "constant":
            return constant(
                math.nan
            )  # it stands for a multiple that depends on the number of inputs: worthless
        if arg.kind != "vector":
            raise TypeError("Only a vector can be summed.")
        factor, inner = _factor(arg)
        return _binary("*", constant(factor), Node("sum", (inner,)))
    if _factor(arg)[0] < 0 and op in (*_EVEN, *_ODD):
        positive = _binary("*", constant(-1.0), arg)
        return make(op, positive) if op in _EVEN else _binary("*", constant(-1.0), make(op, positive))
    if op == "square" and arg.op == "abs":
        arg = arg.args[0]
    return Node(op, (arg,))


def _binary(op: str, left: Node, right: Node) -> Node:
    if left.op == "c" and right.op == "c":
        return _folded(_numbers(op, left.value, right.value))
    if op == "-":
        if left.key == right.key:
            return constant(0.0)
        if right.op == "c":
            return _binary("+", left, constant(-right.value))
        if left.op == "c" and left.value == 0:
            return _binary("*", constant(-1.0), right)
        factor, inner = _factor(right)
        if factor < 0:
            return _binary("+", left, _binary("*", constant(-factor), inner))
    elif op == "/":
        if left.key == right.key:
            return ONE
        if right.op == "c":
            return _binary("*", constant(1 / right.value), left) if right.value else constant(math.nan)
        factor, inner = _factor(left)
        if factor != 1 and inner is not left:
            return _binary("*", constant(factor), _binary("/", inner, right))
    if op in _COMMUTATIVE:
        if right.op == "c" or (left.op != "c" and right.key < left.key):
            left, right = right, left
        return _sum(left, right) if op == "+" else _product(left, right)
    return Node(op, (left, right))


def _sum(left: Node, right: Node) -> Node:
    if left.op == "c":
        if left.value == 0:
            return right
        if right.op == "+" and right.args[0].op == "c":
            return _binary("+", _folded(left.value + right.args[0].value), right.args[1])
    elif left.key == right.key:
        return _binary("*", constant(2.0), left)
    return Node("+", (left, right))


def _product(left: Node, right: Node) -> Node:
    if left.op == "c":
        if left.value == 1:
            return right
        if left.value == 0:
            return left
        if right.op == "*" and right.args[0].op == "c":
            return _binary("*", _folded(left.value * right.args[0].value), right.args[1])
        return Node("*", (left, right))
    (one, first), (other, second) = _factor(left), _factor(right)
    if one != 1 or other != 1:
        return _binary("*", _folded(one * other), _binary("*", first, second))
    return make("square", left) if left.key == right.key else Node("*", (left, right))


def _factor(node: Node) -> tuple[float, Node]:
    """Return the constant factor in front and what it multiplies."""
    return (node.args[0].value, node.args[1]) if node.op == "*" and node.args[0].op == "c" else (1.0, node)


def _numbers(op: str, left: float, right: float) -> float:
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    return left / right if abs(right) > _TINY else math.nan


def _folded(value: float) -> Node:
    """Return a constant; what is not a finite number makes every tree that holds it worthless, so it is kept as NaN."""
    return constant(value if math.isfinite(value) else math.nan)


def walk(node: Node) -> Iterator[Node]:
    """Yield the tree and all below it, each parent before its arguments."""
    yield node
    for arg in node.args:
        yield from walk(arg)


def replaced(node: Node, position: int, new: Node) -> Node:
    """Return the tree with the subtree at a position of :func:`walk` replaced, in canonical form."""
    if position == 0:
        return new
    position -= 1
    args = list(node.args)
    for number, arg in enumerate(args):
        count = _count(arg)
        if position < count:
            args[number] = replaced(arg, position, new)
            break
        position -= count
    return make(node.op, *args)


def _count(node: Node) -> int:
    return 1 + sum(_count(arg) for arg in node.args)


def with_constants(node: Node, values: Iterator[float]) -> Node:
    """Return the tree, its shape untouched, with other constants, taken in the order of :func:`walk`."""
    if node.op == "c":
        return constant(next(values))
    return Node(node.op, tuple(with_constants(arg, values) for arg in node.args)) if node.constants else node


def tidied(node: Node) -> Node:
    """Return the tree in canonical form again, after its constants were changed."""
    return make(node.op, *(tidied(arg) for arg in node.args)) if node.args else node


def skeleton(node: Node) -> str:
    """Return the key with every constant replaced by ``c``."""
    if not node.constants:
        return node.key
    return "c" if node.op == "c" else f"{node.op}({','.join([skeleton(arg) for arg in node.args])})"


def terms_of(node: Node) -> list[Node]:
    """Split a tree at its top-level sums into terms without coefficients, leaving constants out."""
    factor, inner = _factor(node)
    if node.op == "c":
        return []
    if factor != 1:
        return terms_of(inner)
    if node.op in ("+", "-"):
        return terms_of(node.args[0]) + terms_of(node.args[1])
    if node.op == "sum":
        return terms_of(node.args[0])
    return [node]


def evaluate(node: Node, x: Array, functions: Mapping[str, Function]) -> Array:
    """Return the values of a vector tree at points.

    Args:
        node: A tree without ``sum``.
        x: Points, of any shape.
        functions: The table of functions.
    """
    if node.op == "x":
        return x
    if node.op == "c":
        return np.full(x.shape, node.value)
    found: Array = apply(node.op, [evaluate(arg, x, functions) for arg in node.args], functions)
    return found


def apply(op: str, values: list[Any], functions: Mapping[str, Function]) -> Any:
    """Return an operator or function (any but ``sum``) of arrays or numbers."""
    first = values[0]
    if op == "+":
        return first + values[1]
    if op == "-":
        return first - values[1]
    if op == "*":
        return first * values[1]
    if op == "/":
        return first / values[1]
    if op == "neg":
        return -first
    if op == "square":
        return first * first
    if op == "cube":
        return first * first * first
    return functions[op].numpy(first)


def text(node: Node, number: Callable[[float], str] = repr) -> str:
    """Return the tree as the text of a formula, in brackets wherever they could be needed."""
    if node.op in ("x", "input"):
        return node.key
    if node.op == "c":
        return number(node.value) if node.value >= 0 else f"({number(node.value)})"
    parts = [text(arg, number) for arg in node.args]
    if node.op in BINARY:
        inner = [
            f"({part})" if arg.op in BINARY else part for part, arg in zip(parts, node.args, strict=True)
        ]
        return f" {node.op} ".join(inner) if node.op in "+-" else node.op.join(inner)
    if node.op in POWERS:
        return f"({parts[0]})**{POWERS[node.op]}"
    return f"{node.op}({parts[0]})"


def joined(terms: Iterable[Node]) -> tuple[Node, ...]:
    """Return terms once each, in the order of size and key: how an individual holds them."""
    unique = {term.key: term for term in terms}
    return tuple(sorted(unique.values(), key=lambda term: (term.size, term.key)))
