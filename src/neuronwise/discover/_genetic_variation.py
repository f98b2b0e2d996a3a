"""How the genetic search grows, crosses and changes trees; all chance comes from the generator that is handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from neuronwise.discover._trees import (
    BINARY,
    ONE,
    POWERS,
    Node,
    X,
    constant,
    input_of,
    joined,
    make,
    replaced,
    skeleton,
    terms_of,
    walk,
)

__all__ = ["Grammar", "Individual", "catalogue", "cross", "mutate", "seedling"]

#: The terms of an individual, sorted, each once; its key joins theirs.
Individual = tuple[Node, ...]

_AFFINE = 0.45  # how often the argument of a function gets a factor or an offset
_LEAF = 0.35
_INVERSE = 0.25  # of the products with a second factor: how many are quotients
_SINGLE_INVERSE = 0.4  # the same of single inputs
#: Where the choice of what to grow ends for functions, powers and sums; the rest are products.
_SHARES = (0.45, 0.6, 0.75)
_SINGLE_SHARES = (0.3, 0.4, 0.6)


@dataclass(frozen=True)
class Grammar:
    """What trees may be made of.

    Args:
        functions: Names of functions of one argument.
        scalars: Share of new terms that are scalars (functions and products of sums).
        max_size: Nodes of a term at most.
        max_terms: Terms of an individual at most.
        depth: Levels of a new tree at most.
        inputs: Number of single inputs that are leaves; 0: none are.
        shared: Whether there are vectors of all inputs.
    """

    functions: tuple[str, ...]
    scalars: float
    max_size: int
    max_terms: int
    depth: int = 3
    inputs: int = 0
    shared: bool = True

    def leaf(self, rng: Random, *, single: bool) -> Node:
        """Return one input, or the vector of all."""
        return input_of(rng.randrange(self.inputs)) if single else X

    def is_single(self, rng: Random) -> bool:
        """Draw whether a new scalar is one of single inputs."""
        return self.inputs > 0 and (not self.shared or rng.random() < 0.5)


def catalogue(grammar: Grammar) -> list[Node]:
    """Return all small forms: functions of simple arguments, their products, reciprocals and compositions.

    What formulas of science are mostly made of; chance alone would take many generations to come by some of them. Their
    constants are placeholders, to be tuned.
    """
    two, minus = constant(2.0), constant(-1.0)
    square = make("square", X)
    arguments = [X, make("*", two, X), make("+", two, X), make("*", minus, square), make("+", two, square)]
    called = [make(name, argument) for name in grammar.functions for argument in arguments]
    below = [make("+", two, part) for part in (X, square, *called)]
    inverse = [make("/", ONE, part) for part in below]
    units = [X, square, make("cube", X), *called, *inverse[:2]]
    found = [*units, *inverse[2:], make("/", ONE, make("+", square, make("+", two, X)))]
    found += [make("*", one, other) for place, one in enumerate(units) for other in units[place:]]
    for name in grammar.functions:
        found += [make(name, make(op, two, part)) for part in (*called, make("cube", X)) for op in "+*"]
        found.append(make(name, make("+", square, make("*", two, X))))
    if grammar.scalars > 0:
        total, squares = make("sum", X), make("sum", square)
        found += [make("*", one, other) for one in (total, squares) for other in (total, squares)]
        inner = [make("*", two, part) for part in (total, squares)]
        shifted = [make("+", two, part) for part in (*inner, make("+", total, squares))]
        functions = [make(name, part) for name in grammar.functions for part in (*inner, *shifted)]
        found += [*functions, *(make("/", ONE, part) for part in shifted)]
        found += [make("*", part, function) for part in (total, squares) for function in functions]
    unique = {
        skeleton(term): term for whole in found for term in terms_of(whole) if term.size <= grammar.max_size
    }
    return list(unique.values())


def seedling(grammar: Grammar, rng: Random) -> Individual:
    """Return a new individual of one to three terms."""
    count = 1 + min(int(rng.expovariate(1.0)), grammar.max_terms - 1, 2)
    return joined(part for _ in range(count) for part in terms_of(_term(grammar, rng)))


def number(rng: Random) -> Node:
    """Return a constant: a small whole number or any number of that order."""
    if rng.random() < 0.5:
        return constant(rng.choice((-3, -2, -1, 1, 2, 3)))
    return constant(rng.gauss(0.0, 2.0) or 1.0)


def _term(grammar: Grammar, rng: Random) -> Node:
    if grammar.is_single(rng):
        return _tree(grammar, rng, rng.randint(1, grammar.depth), single=True)
    if rng.random() < grammar.scalars:
        return _scalar(grammar, rng)
    return _tree(grammar, rng, rng.randint(1, grammar.depth))


def _tree(grammar: Grammar, rng: Random, depth: int, *, single: bool = False) -> Node:
    """Return a vector tree, or a scalar of single inputs; one that folds to a constant is a leaf instead."""
    found = _grown(grammar, rng, depth, single=single)
    return found if found.kind != "constant" else grammar.leaf(rng, single=single)


def _grown(grammar: Grammar, rng: Random, depth: int, *, single: bool) -> Node:
    if depth <= 0 or rng.random() < _LEAF * (depth < grammar.depth):
        return grammar.leaf(rng, single=single)
    called, raised, added = _SINGLE_SHARES if single else _SHARES
    kind = rng.random()
    if kind < called and grammar.functions:
        return make(rng.choice(grammar.functions), _argument(grammar, rng, depth - 1, single=single))
    if kind < raised:
        return make(rng.choice(("square", "square", "cube")), _tree(grammar, rng, depth - 1, single=single))
    left = _tree(grammar, rng, depth - 1, single=single)
    if kind < added:
        other = number(rng) if rng.random() < 0.6 else _tree(grammar, rng, depth - 1, single=single)
        return make("+" if rng.random() < 0.7 else "-", left, other)
    if single and rng.random() < _SINGLE_INVERSE:
        return make("/", left, _tree(grammar, rng, depth - 1, single=True))
    if rng.random() < _INVERSE:
        top = constant(1.0) if rng.random() < 0.5 else left
        bottom = make("+", number(rng), _tree(grammar, rng, depth - 1, single=single))
        return make("/", top, bottom)
    return make("*", left, _tree(grammar, rng, depth - 1, single=single))


def _argument(grammar: Grammar, rng: Random, depth: int, *, single: bool) -> Node:
    inner = _tree(grammar, rng, depth, single=single)
    if rng.random() < _AFFINE:
        inner = make("*", number(rng), inner)
    if rng.random() < _AFFINE / 2:
        inner = make("+", number(rng), inner)
    return inner


def _scalar(grammar: Grammar, rng: Random) -> Node:
    """Return a product of inner products, or a function of a shifted one: what a neuron can be made of."""
    total = make("sum", _tree(grammar, rng, rng.randint(0, 1)))
    if rng.random() < 0.4 or not grammar.functions:
        other = make("sum", _tree(grammar, rng, rng.randint(0, 1)))
        return make("*", total, other)
    inner = make("*", number(rng), total) if rng.random() < 0.7 else total
    if rng.random() < _AFFINE / 2:
        inner = make("+", number(rng), inner)
    return make(rng.choice(grammar.functions), inner)


def cross(one: Individual, other: Individual, grammar: Grammar, rng: Random) -> Individual:
    """Return a child of two: terms of both, or a term with a subtree of the other's."""
    if rng.random() < 0.4 or not one or not other:
        pool = [*one, *other]
        return _limited(
            rng.sample(pool, rng.randint(1, min(len(pool), grammar.max_terms))) if pool else [], grammar, rng
        )
    place = rng.randrange(len(one))
    target, giver = one[place], rng.choice(other)
    donors = list(walk(giver))
    position, old = _position(target, rng)
    fitting = [node for node in donors if node.kind == old.kind]
    if not fitting:
        return _limited([*one, giver], grammar, rng)
    return _with_term(one, place, replaced(target, position, rng.choice(fitting)), grammar, rng)


def _position(tree: Node, rng: Random) -> tuple[int, Node]:
    nodes = list(walk(tree))
    position = rng.randrange(len(nodes))
    return position, nodes[position]


def _with_term(terms: Individual, place: int, new: Node, grammar: Grammar, rng: Random) -> Individual:
    kept = [term for number, term in enumerate(terms) if number != place]
    return _limited([*kept, *terms_of(new)], grammar, rng)


def _limited(terms: Sequence[Node], grammar: Grammar, rng: Random) -> Individual:
    """Return an individual within the limits, of the terms that are no constants."""
    fitting = [term for term in terms if term.kind != "constant" and term.size <= grammar.max_size]
    if len(fitting) > grammar.max_terms:
        fitting = rng.sample(fitting, grammar.max_terms)
    return joined(fitting)


def mutate(terms: Individual, grammar: Grammar, rng: Random) -> Individual:
    """Return a changed individual: one of the changes of ``_CHANGES``."""
    if not terms or (rng.random() < 0.15 and len(terms) < grammar.max_terms):
        return _limited([*terms, *terms_of(_term(grammar, rng))], grammar, rng)
    place = rng.randrange(len(terms))
    if rng.random() < 0.1 and len(terms) > 1:
        return _with_term(terms, place, constant(0.0), grammar, rng)
    if rng.random() < 0.1 and len(terms) > 1:
        return _merged(terms, grammar, rng)
    change = rng.choice(_CHANGES)
    return _with_term(terms, place, change(terms[place], grammar, rng), grammar, rng)


def _merged(terms: Individual, grammar: Grammar, rng: Random) -> Individual:
    """Two terms become their product, or one of them the other's divisor."""
    one, other = rng.sample(range(len(terms)), 2)
    left, right = terms[one], terms[other]
    rest = [term for number, term in enumerate(terms) if number not in (one, other)]
    if left.kind != right.kind:
        left, right = (make("sum", term) if term.kind == "vector" else term for term in (left, right))
    product = make("*", left, right)
    if rng.random() < _INVERSE and (left.kind == "vector" or grammar.inputs):
        plain = grammar.inputs > 0 and rng.random() < 0.5
        product = make("/", left, right if plain else make("+", number(rng), right))
    return _limited([*rest, *terms_of(product)], grammar, rng)


def _new_subtree(term: Node, grammar: Grammar, rng: Random) -> Node:
    position, old = _position(term, rng)
    if old.kind == "constant":
        return replaced(term, position, number(rng))
    return replaced(term, position, _like(old, grammar, rng, grammar.depth - 1))


def _like(old: Node, grammar: Grammar, rng: Random, depth: int) -> Node:
    """Return a new tree of the kind of another, a vector or a scalar."""
    if old.kind == "vector":
        return _tree(grammar, rng, rng.randint(0, depth))
    if grammar.is_single(rng):
        return _tree(grammar, rng, rng.randint(0, depth), single=True)
    return _scalar(grammar, rng)


def _hoisted(term: Node, grammar: Grammar, rng: Random) -> Node:
    position, old = _position(term, rng)
    inner = [node for node in walk(old) if node.kind == old.kind]
    return replaced(term, position, rng.choice(inner))


def _wrapped(term: Node, grammar: Grammar, rng: Random) -> Node:
    """A subtree gets something around it: a function, a power, another factor or summand."""
    position, old = _position(term, rng)
    if old.kind == "constant":
        return replaced(term, position, number(rng))
    kind = rng.random()
    if kind < 0.35 and grammar.functions:
        new = make(rng.choice(grammar.functions), old)
    elif kind < 0.5:
        new = make(rng.choice(tuple(POWERS)), old)
    else:
        other = _tree(grammar, rng, 1) if old.kind == "vector" else _like(old, grammar, rng, 1)
        new = make(
            rng.choice(("*", "*", "/", "/", "+", "-") if grammar.inputs else ("*", "*", "+")), old, other
        )
    return replaced(term, position, new)


def _affine(term: Node, grammar: Grammar, rng: Random) -> Node:
    """A subtree gets a factor or an offset, where the search can put the right number in later."""
    position, old = _position(term, rng)
    return replaced(term, position, make(rng.choice(("*", "+")), number(rng), old))


def _point(term: Node, grammar: Grammar, rng: Random) -> Node:
    """An operator or function becomes another, a constant another number."""
    position, old = _position(term, rng)
    if old.op == "c":
        return replaced(term, position, constant(old.value * rng.gauss(1.0, 0.5) or 1.0))
    if old.op == "input":
        return replaced(term, position, grammar.leaf(rng, single=True))
    if old.op in BINARY:
        return replaced(term, position, make(rng.choice(BINARY), *old.args))
    if old.op in POWERS or old.op in grammar.functions:
        return replaced(term, position, make(rng.choice((*grammar.functions, *POWERS)), *old.args))
    return _affine(term, grammar, rng)


_CHANGES: tuple[Callable[[Node, Grammar, Random], Node], ...] = (
    _new_subtree,
    _new_subtree,
    _hoisted,
    _wrapped,
    _affine,
    _point,
    _point,
)
