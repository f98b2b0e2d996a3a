"""From a formula with free parameters to the parts of a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from neuronwise.errors import FormulaError
from neuronwise.formula import FUNCTIONS, Base, Formula, Function
from neuronwise.formula.nodes import (
    Add,
    Call,
    Constant,
    Dot,
    Input,
    Mul,
    Neg,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
    add,
    mul,
    rebuilt,
    walk,
)
from neuronwise.nn.blocks import Block
from neuronwise.nn.combine import BlockNode, Combine, Sum, Term

__all__ = ["read"]

_MOST_FACTORS = 8
"""Up to this whole exponent a power of a block is a product."""


def read(formula: Formula) -> tuple[tuple[Base, ...], tuple[Block, ...], Combine, Formula]:
    """Return base functions, blocks, combination, and the formula that these compute.

    Args:
        formula: A formula; see :func:`neuronwise.nn.kind` for what becomes of its numbers.

    Raises:
        FormulaError: If it names single weights.
    """
    formula = _freed(formula)
    top = _terms(formula.root)
    for whole in (True, False):
        users = _Users(whole=whole)
        for term in top:
            users.visit(term)
        if not users.shared():
            break
    reader = _Reader(users, formula.functions)
    terms = reader.merged([reader.term(node) for node in top])
    called = {node.name for node in walk(formula.root) if isinstance(node, Call)}
    own = tuple(f for name, f in formula.functions.items() if name in called and FUNCTIONS.get(name) is not f)
    return tuple(reader.lift), tuple(reader.blocks), Sum(tuple(terms), own), formula


def _freed(formula: Formula) -> Formula:
    """Return the formula with parameters in place of numbers, and with an offset."""
    for node in walk(formula.root):
        if isinstance(node, Parameter) and node.index is not None:
            raise FormulaError(
                f"A kind of neuron has whole weight vectors, not single weights such as {node.name}[{node.index}].",
                str(formula),
            )
    parts = formula.root.terms if isinstance(formula.root, Add) else (formula.root,)
    written = [part for part in parts if _parameters(part)]
    bare = [part for part in parts if not _parameters(part)]
    kept = [_without_number(part) for part in written]
    names = {name for part in kept for name in _parameters(part)}
    if bare:
        others = Formula(add(*bare), inputs=formula.inputs, functions=formula.functions).parameterised().root
        fresh = {name: _unused(name[0], names) for name in sorted(_parameters(others))} if names else {}
        others = _renamed(others, fresh)
        kept += others.terms if isinstance(others, Add) else (others,)
        names = {name for part in kept for name in _parameters(part)}
    if not any(_has_offset(node) for part in kept for node in walk(part)) and not any(map(_is_number, kept)):
        kept.append(Parameter(_unused("b", names)))
    return Formula(add(*kept), inputs=formula.inputs, functions=formula.functions)


def _parameters(node: Node) -> set[str]:
    return {part.name for part in walk(node) if isinstance(part, Parameter)}


def _unused(letter: str, names: set[str]) -> str:
    """Return a parameter's name that is not among the names, and put it there."""
    name = next(f"{letter}{n}" for n in range(1, len(names) + 2) if f"{letter}{n}" not in names)
    names.add(name)
    return name


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    if isinstance(node, Parameter):
        return Parameter(names.get(node.name, node.name))
    return rebuilt(node, tuple(_renamed(child, names) for child in node.children))


def _without_number(node: Node) -> Node:
    """Return a term without sign and number in front."""
    if isinstance(node, Neg):
        return _without_number(node.argument)
    if isinstance(node, Mul):
        factors = [factor for factor in node.factors if not isinstance(factor, Number | Constant)]
        return mul(*factors)
    return node


def _has_offset(node: Node) -> bool:
    """Whether a node is, or adds, a number of the neuron."""
    return isinstance(node, Add) and any(_is_number(term) for term in node.terms)


def _terms(root: Node) -> list[Node]:
    """Return the terms of a formula, each a scalar: a vector stands for its sum."""
    parts = root.terms if isinstance(root, Add) else (root,)
    return [_scalar(part) for part in parts]


def _scalar(node: Node) -> Node:
    """Return a term as a scalar, sums over inputs with one weight vector as inner products."""
    if isinstance(node, Reduce) and node.name == "sum":
        node = node.argument
    if not node.vector:
        return rebuilt(node, tuple(_scalar_inside(child) for child in node.children))
    factors = node.factors if isinstance(node, Mul) else (node,)
    weights = [f for f in factors if isinstance(f, Parameter) and f.vector]
    rest = [f for f in factors if f not in weights]
    if len(weights) == 1 and rest and _is_elementwise(product := mul(*rest)):
        return Dot(weights[0], product)
    return Reduce("sum", node)


def _scalar_inside(node: Node) -> Node:
    if isinstance(node, Reduce) and node.name == "sum":
        return _scalar(node)
    return rebuilt(node, tuple(_scalar_inside(child) for child in node.children))


def _is_elementwise(node: Node) -> bool:
    """Whether a node is a base function: one number for each input, of nothing but that input."""
    other = Input | Parameter | Reduce | Dot | Size
    return node.vector and not any(isinstance(part, other) for part in walk(node))


def _is_number(node: Node) -> bool:
    return isinstance(node, Parameter) and not node.vector


def _pair(node: Node) -> tuple[str, Node] | None:
    """Return weight name and base function of an inner product, or None for anything else."""
    if not isinstance(node, Dot):
        return None
    for weight, other in ((node.left, node.right), (node.right, node.left)):
        if isinstance(weight, Parameter) and weight.vector and _is_elementwise(other):
            return weight.name, other
    return None


def _as_block(node: Node, *, whole: bool) -> tuple[tuple[tuple[str, Node], ...], str | None] | None:
    """Return pairs and offset of a block: an inner product, or (``whole``) a sum of some and at most one number."""
    if (pair := _pair(node)) is not None:
        return (pair,), None
    if not whole or not isinstance(node, Add):
        return None
    pairs = [_pair(term) for term in node.terms]
    numbers = [term.name for term in node.terms if isinstance(term, Parameter) and not term.vector]
    found = tuple(pair for pair in pairs if pair is not None)
    if not found or len(found) + len(numbers) != len(node.terms) or len(numbers) > 1:
        return None
    return found, (numbers[0] if numbers else None)


@dataclass
class _Users:
    """Which blocks, or other parts, use each parameter."""

    whole: bool
    users: dict[str, set[object]] = field(default_factory=dict)

    def visit(self, node: Node) -> None:
        block = _as_block(node, whole=self.whole)
        if block is not None:
            pairs, offset = block
            for name in [*(pair[0] for pair in pairs), *([offset] if offset else [])]:
                self.users.setdefault(name, set()).add(block)
            if len({pair[0] for pair in pairs}) < len(pairs):
                self.users[pairs[0][0]].add("twice")
            return
        if isinstance(node, Parameter):
            self.users.setdefault(node.name, set()).add("by itself")
        for child in node.children:
            self.visit(child)

    def shared(self) -> set[str]:
        """Return the parameters of blocks that something else uses, too."""
        return {name for name, users in self.users.items() if len(users) > 1}


class _Reader:
    """Collects base functions and blocks while it rewrites the terms of a formula."""

    def __init__(self, users: _Users, functions: Mapping[str, Function]) -> None:
        self.whole, self.shared, self.functions = users.whole, users.shared(), functions
        self.lift: list[Base] = []
        self.blocks: list[Block] = []
        self.known: dict[object, int] = {}

    def term(self, node: Node) -> Term:
        """Return a term of the formula as a product."""
        if isinstance(node, Neg):
            inner = self.term(node.argument)
            return Term(inner.factors, -inner.coefficient)
        parts = node.factors if isinstance(node, Mul) else (node,)
        coefficient = 1.0
        factors: list[int | Node] = []
        if _is_number(node):
            return Term((self._number(parts[0], "bias"),))
        for part in parts:
            if isinstance(part, Number):
                coefficient *= part.value
                continue
            base, count = part, 1
            if isinstance(part, Pow) and isinstance(part.exponent, Number):
                power = part.exponent.value
                if power == int(power) and 2 <= power <= _MOST_FACTORS:
                    base, count = part.base, int(power)
            factor = self._factor(base)
            if isinstance(factor, int):
                factors += [factor] * count
            else:
                factors.append(factor if count == 1 else Pow(factor, Number(float(count))))
        return Term(tuple(factors), coefficient)

    def merged(self, terms: list[Term]) -> list[Term]:
        """Return the terms with all inner products that are only added as one block, which one matrix product does."""
        used = [factor for term in terms for factor in term.factors if isinstance(factor, int)]
        inside = {n.index for term in terms for n in term.nodes() if isinstance(n, BlockNode)}
        alone = [term.factors[0] for term in terms if term.is_plain and len(term.factors) == 1]
        added = [i for i in alone if isinstance(i, int) and used.count(i) == 1 and i not in inside]
        sums = [i for i in added if self.blocks[i].bases]
        offsets = [i for i in added if self.blocks[i].is_number or self.blocks[i].offset]
        if not sums or len(added) == 1 or len(offsets) > 1:
            return terms
        target = Block(
            tuple(base for i in sums for base in self.blocks[i].bases),
            tuple(name for i in sums for name in self.blocks[i].weights),
            "bias" if offsets else None,
            self.blocks[offsets[0]].offset if offsets else None,
        )
        keep = [i for i in range(len(self.blocks)) if i not in added]
        order = {old: new for new, old in enumerate(keep)}
        blocks = [self.blocks[i] for i in keep]
        rest = [_renumbered(term, order) for term in terms if not _is_among(term, added)]
        self.blocks = [*blocks, target]
        return [*rest, Term((len(keep),))]

    def _factor(self, node: Node) -> int | Node:
        found = _as_block(node, whole=self.whole)
        if found is not None and self.shared.isdisjoint([found[1], *(name for name, _ in found[0])]):
            return self._block(*found)
        if _is_number(node):
            assert isinstance(node, Parameter)
            return self._number(node, "factor")
        return self._expression(node)

    def _expression(self, node: Node) -> Node:
        """Return a node with its blocks and parameters replaced."""
        if isinstance(node, Parameter) and node.vector:
            key = ("weights", node.name)
            if key not in self.known:
                self.known[key] = len(self.blocks)
                self.blocks.append(Block((), (node.name,), "weights"))
            return BlockNode(self.known[key], weights=True)
        if not node.vector and (_is_number(node) or _as_block(node, whole=self.whole) is not None):
            found = _as_block(node, whole=self.whole)
            usable = found is None or self.shared.isdisjoint([found[1], *(name for name, _ in found[0])])
            if usable:
                factor = self._factor(node)
                assert isinstance(factor, int)
                return BlockNode(factor)
        return rebuilt(node, tuple(self._expression(child) for child in node.children))

    def _block(self, pairs: tuple[tuple[str, Node], ...], offset: str | None) -> int:
        key = (pairs, offset)
        if key not in self.known:
            indices = tuple(self._base(Base(node, functions=self.functions)) for _, node in pairs)
            names = tuple(name for name, _ in pairs)
            self.known[key] = len(self.blocks)
            self.blocks.append(Block(indices, names, "bias" if offset else None, offset))
        return self.known[key]

    def _number(self, node: Node, role: str) -> int:
        assert isinstance(node, Parameter)
        if node.name not in self.known:
            self.known[node.name] = len(self.blocks)
            self.blocks.append(Block((), (), "bias" if role == "bias" else "factor", node.name))
        return self.known[node.name]

    def _base(self, base: Base) -> int:
        if base not in self.lift:
            self.lift.append(base)
        return self.lift.index(base)


def _is_among(term: Term, blocks: list[int]) -> bool:
    return term.is_plain and len(term.factors) == 1 and term.factors[0] in blocks


def _renumbered(term: Term, order: Mapping[int, int]) -> Term:
    def of(node: Node) -> Node:
        if isinstance(node, BlockNode):
            return BlockNode(order[node.index], node.weights)
        return rebuilt(node, tuple(of(child) for child in node.children))

    factors = tuple(order[f] if isinstance(f, int) else of(f) for f in term.factors)
    return Term(factors, term.coefficient)
