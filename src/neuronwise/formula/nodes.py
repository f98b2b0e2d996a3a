"""The parts a formula is made of, and the functions that build them in canonical form.

Every node is either a *vector* (one number for each input) or a *scalar* (one number). Nodes are immutable and know
their hash, depth and size, so that comparing and caching them is cheap. Make them with the functions below, not with
the classes: they keep the form that the text of a formula reads back as.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

__all__ = [
    "Add",
    "Call",
    "Constant",
    "Div",
    "Dot",
    "Input",
    "Inputs",
    "Mul",
    "Neg",
    "Node",
    "Number",
    "Parameter",
    "Pow",
    "Reduce",
    "Size",
    "add",
    "canonical",
    "div",
    "mul",
    "neg",
    "rebuilt",
    "walk",
]


class Node:
    """A part of a formula. See the subclasses for the kinds there are."""

    __slots__ = ("_hash", "depth", "size", "vector")
    #: Whether it has one number for each input.
    vector: bool
    #: Levels of nodes, itself included.
    depth: int
    #: Number of nodes, itself included.
    size: int

    def __post_init__(self) -> None:
        children = self.children
        self._set("depth", 1 + max((child.depth for child in children), default=0))
        self._set("size", 1 + sum(child.size for child in children))
        self._set("vector", self._is_vector())
        self._set("_hash", hash((type(self).__name__, self.payload, children)))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _is_vector(self) -> bool:
        return any(child.vector for child in self.children)

    @property
    def children(self) -> tuple[Node, ...]:
        """The nodes directly below."""
        return ()

    @property
    def payload(self) -> object:
        """What distinguishes it from others with the same children."""
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields alone: the rest is worked out anew, since hashes differ between processes."""
        return type(self), tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]

    def __copy__(self) -> Self:
        """Return itself: nothing in it can change."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: nothing in it can change."""
        return self

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined,no-any-return]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            type(self) is type(other)
            and isinstance(other, Node)
            and hash(self) == hash(other)
            and self.payload == other.payload
            and self.children == other.children
        )


@dataclass(frozen=True, slots=True, eq=False)
class Number(Node):
    """A number."""

    value: float

    @property
    def payload(self) -> object:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Node):
    """``pi`` or ``e``."""

    name: str

    @property
    def payload(self) -> object:
        """The name."""
        return self.name

    @property
    def value(self) -> float:
        """The number that it stands for."""
        return math.pi if self.name == "pi" else math.e


@dataclass(frozen=True, slots=True, eq=False)
class Inputs(Node):
    """``x``: the vector of all inputs."""

    def _is_vector(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Input(Node):
    """``x[3]``: one input, counted from 0."""

    index: int

    @property
    def payload(self) -> object:
        """The index."""
        return self.index


@dataclass(frozen=True, slots=True, eq=False)
class Size(Node):
    """``size``: how many inputs there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Node):
    """``w1`` (a vector of weights), ``w1[3]`` (one of them), ``b1`` or ``c1`` (one number)."""

    name: str
    index: int | None = None

    @property
    def payload(self) -> object:
        """The name and the index."""
        return self.name, self.index

    def _is_vector(self) -> bool:
        return self.name[0] == "w" and self.index is None


@dataclass(frozen=True, slots=True, eq=False)
class Neg(Node):
    """``-a``."""

    argument: Node

    @property
    def children(self) -> tuple[Node, ...]:
        """The argument."""
        return (self.argument,)


@dataclass(frozen=True, slots=True, eq=False)
class Add(Node):
    """``a + b - c``, added from left to right; a difference is the sum with :class:`Neg`."""

    terms: tuple[Node, ...]

    @property
    def children(self) -> tuple[Node, ...]:
        """The terms."""
        return self.terms


@dataclass(frozen=True, slots=True, eq=False)
class Mul(Node):
    """``a*b*c``, multiplied from left to right."""

    factors: tuple[Node, ...]

    @property
    def children(self) -> tuple[Node, ...]:
        """The factors."""
        return self.factors


@dataclass(frozen=True, slots=True, eq=False)
class Div(Node):
    """``a/b``."""

    left: Node
    right: Node

    @property
    def children(self) -> tuple[Node, ...]:
        """Numerator and denominator."""
        return self.left, self.right


@dataclass(frozen=True, slots=True, eq=False)
class Pow(Node):
    """``a**b``."""

    base: Node
    exponent: Node

    @property
    def children(self) -> tuple[Node, ...]:
        """Base and exponent."""
        return self.base, self.exponent


@dataclass(frozen=True, slots=True, eq=False)
class Call(Node):
    """``sin(a)``: an elementwise function of the table."""

    name: str
    argument: Node

    @property
    def payload(self) -> object:
        """The name of the function."""
        return self.name

    @property
    def children(self) -> tuple[Node, ...]:
        """The argument."""
        return (self.argument,)


@dataclass(frozen=True, slots=True, eq=False)
class Reduce(Node):
    """``sum(v)``, ``mean(v)``, ``max(v)``, ``min(v)``, ``norm(v)``: a vector to one number."""

    name: str
    argument: Node

    @property
    def payload(self) -> object:
        """The name of the reduction."""
        return self.name

    @property
    def children(self) -> tuple[Node, ...]:
        """The vector."""
        return (self.argument,)

    def _is_vector(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, eq=False)
class Dot(Node):
    """``<a, b>``: the inner product; a number stands for the vector that has it everywhere."""

    left: Node
    right: Node

    @property
    def children(self) -> tuple[Node, ...]:
        """Both sides."""
        return self.left, self.right

    def _is_vector(self) -> bool:
        return False


def neg(node: Node) -> Node:
    """Return ``-node``; the sign goes into a leading number."""
    if isinstance(node, Neg):
        return node.argument
    return _flipped(node) or Neg(node)


def _flipped(node: Node) -> Node | None:
    """Return the node with the sign of its leading number changed, None where no number leads."""
    if isinstance(node, Number):
        return Number(-node.value)
    if isinstance(node, Mul) and (first := _flipped(node.factors[0])):
        return Mul((first, *node.factors[1:]))
    if isinstance(node, Div) and (first := _flipped(node.left)):
        return Div(first, node.right)
    return None


def add(*terms: Node) -> Node:
    """Return the sum, added from left to right; none of the terms is merged with another."""
    if not terms:
        return Number(0.0)
    return terms[0] if len(terms) == 1 else Add(terms)


def mul(*factors: Node) -> Node:
    """Return the product, multiplied from left to right; a leading sign goes in front of the whole."""
    if not factors:
        return Number(1.0)
    first, *rest = factors
    if not rest:
        return first
    if isinstance(first, Neg):
        return neg(mul(first.argument, *rest))
    if isinstance(first, Mul):
        return Mul((*first.factors, *rest))
    return Mul(factors)


def div(left: Node, right: Node) -> Node:
    """Return the quotient; a leading sign goes in front of the whole."""
    if isinstance(left, Neg):
        return neg(Div(left.argument, right))
    return Div(left, right)


def rebuilt(node: Node, children: tuple[Node, ...]) -> Node:
    """Return the node with other children, in canonical form."""
    match node:
        case Neg():
            return neg(*children)
        case Add():
            return add(*children)
        case Mul():
            return mul(*children)
        case Div():
            return div(*children)
        case Pow():
            return Pow(*children)
        case Dot():
            return Dot(*children)
        case Call():
            return Call(node.name, *children)
        case Reduce():
            return Reduce(node.name, *children)
    return node


def canonical(node: Node) -> Node:
    """Return the node in the form that its text reads back as; the numbers it evaluates to are the same."""
    return rebuilt(node, tuple(canonical(child) for child in node.children))


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and all below it, each parent before its children."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        waiting.extend(reversed(current.children))
