"""Trees as published (arXiv 2405.02369 and its code): +, -, * and the sign, whole constants, no canonical form."""

from __future__ import annotations

from random import Random

from neuronwise.discover._trees import Node, X, constant, walk

__all__ = ["crossed", "grown", "mutated"]

_OPERATORS = ("+", "-", "*", "neg")
_X = 0.7  # how often a leaf is x
_CONSTANTS = (-20, 20)  # the upper end not in
_DEPTH = 4


def grown(rng: Random, depth: int = _DEPTH, *, root: bool = True) -> Node:
    """Return a random tree; above the lowest level a node is a leaf in one of five cases, the root never."""
    if depth == 0 or (not root and rng.random() < 0.2):
        return X if rng.random() < _X else constant(rng.randrange(*_CONSTANTS))
    op = rng.choice(_OPERATORS)
    return Node(op, tuple(grown(rng, depth - 1, root=False) for _ in range(1 if op == "neg" else 2)))


def crossed(one: Node, other: Node, limit: int, rng: Random) -> Node:
    """Return the first tree with a subtree of the second in it; the first itself where that is too large."""
    donors = list(walk(other))
    child = _replaced(one, rng.randrange(len(list(walk(one)))), rng.choice(donors))
    return child if child.size <= limit else one


def mutated(one: Node, limit: int, rng: Random) -> Node:
    """Return the tree with a new random subtree in it; the tree itself where that is too large."""
    child = _replaced(one, rng.randrange(len(list(walk(one)))), grown(rng, 2))
    return child if child.size <= limit else one


def _replaced(node: Node, position: int, new: Node) -> Node:
    if position == 0:
        return new
    position -= 1
    args = list(node.args)
    for number, arg in enumerate(args):
        count = sum(1 for _ in walk(arg))
        if position < count:
            args[number] = _replaced(arg, position, new)
            break
        position -= count
    return Node(node.op, tuple(args))
