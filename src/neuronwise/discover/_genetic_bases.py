"""Base functions that a user gave to the genetic search: functions that trees may have, and forms to start from."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from neuronwise.discover._trees import ONE, Node, X, constant, make
from neuronwise.discover.problem import SearchProblem
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import FUNCTIONS, LIBRARY, Add, Base, Call, Div, Inputs, Mul, Neg, Number, Pow, walk
from neuronwise.formula import Node as Part

if TYPE_CHECKING:
    from neuronwise.discover.genetic import Genetic

__all__ = ["forms_of", "given_bases", "with_bases"]

_HIGHEST = 9  # power that is written as a product


def given_bases(problem: SearchProblem) -> tuple[Base, ...]:
    """Return the base functions of a problem where they are others than the library's, else none."""
    offered = {*map(str, problem.bases), *problem.dropped}
    return () if offered == set(map(str, LIBRARY)) else problem.bases


def with_bases(settings: Genetic, problem: SearchProblem) -> Genetic:
    """Return the settings with the functions that the user's base functions call, in place of the default ones.

    Raises:
        InvalidArgumentError: If the search is the published one, which has no functions.
    """
    given = given_bases(problem)
    if not given:
        return settings
    if not settings.coefficients:
        raise InvalidArgumentError(
            "The published search knows +, -, * and whole numbers and uses no base functions: leave out bases."
        )
    called = {
        part.name: base.functions[part.name]
        for base in given
        for part in walk(base.node)
        if isinstance(part, Call)
    }
    own = [function for name, function in called.items() if function is not FUNCTIONS.get(name)]
    kept = () if settings.functions == type(settings).functions else settings.functions
    extra = {function.name: function for function in (*own, *settings.extra)}
    return replace(settings, functions=tuple(dict.fromkeys([*kept, *called])), extra=tuple(extra.values()))


def forms_of(problem: SearchProblem, leaves: tuple[Node, ...] = (X,)) -> list[Node]:
    """Return the user's base functions as trees of each leaf; those with a power that trees have not are left out."""
    found = []
    for base in given_bases(problem):
        for leaf in leaves:
            tree = _tree(base.node, leaf)
            if tree is not None and tree.kind != "constant":
                found.append(tree)
    return found


def _tree(part: Part, leaf: Node) -> Node | None:
    """Return a part of a base function as a tree, None where it cannot be one."""
    if isinstance(part, Inputs):
        return leaf
    if isinstance(part, Number):
        return constant(part.value)
    if isinstance(part, Pow):
        return _power(part, leaf)
    args = [_tree(child, leaf) for child in part.children]
    known = [arg for arg in args if arg is not None]
    if len(known) < len(args):
        return None
    match part:
        case Neg():
            return make("neg", *known)
        case Call():
            return make(part.name, *known)
        case Div():
            return make("/", *known)
        case Add():
            return reduce(lambda one, other: make("+", one, other), known)
        case Mul():
            return reduce(lambda one, other: make("*", one, other), known)
    return None


def _power(part: Pow, leaf: Node) -> Node | None:
    base, exponent = _tree(part.base, leaf), _tree(part.exponent, leaf)
    if base is None or exponent is None or abs(exponent.value) not in range(1, _HIGHEST + 1):
        return None
    whole = abs(int(exponent.value))
    raised = {2: "square", 3: "cube"}
    if whole in raised:
        tree = make(raised[whole], base)
    else:
        tree = reduce(lambda one, _: make("*", one, base), range(whole - 1), base)
    return make("/", ONE, tree) if exponent.value < 0 else tree
