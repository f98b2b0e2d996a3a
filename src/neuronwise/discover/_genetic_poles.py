"""Poles: where a divisor changes its sign between the data, no row says how the formula explodes there.

A divisor is continuous wherever its tree is defined. If it has different signs at two rows, it is zero somewhere
between them. A product is zero where a factor is, so divisors are looked at factor by factor: ``(x - 1)**2`` by
``x - 1``.
"""

from __future__ import annotations

from collections.abc import Iterator

from neuronwise.discover._trees import POWERS, Node, make, walk

__all__ = ["EXACT", "divisors"]

#: Unexplained share below which a formula may have a pole between the data: it is a law that has one.
EXACT = 1e-10


def divisors(term: Node) -> Iterator[Node]:
    """Yield the factors of everything that a tree divides by; none may change its sign."""
    if "/" not in term.key and "tan(" not in term.key:
        return
    for node in walk(term):
        if node.op == "/":
            yield from _factors(node.args[1])
        elif node.op == "tan":
            yield from _factors(make("cos", node.args[0]))


def _factors(node: Node) -> Iterator[Node]:
    if node.op in POWERS or node.op in ("abs", "sqrt", "neg") or node.op == "/":
        yield from _factors(node.args[0])
    elif node.op == "*":
        for arg in node.args:
            yield from _factors(arg)
    elif node.op not in ("c", "exp"):
        yield node
