"""Formulas as data: JSON that another machine reads back, with the user's own functions by their expressions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from neuronwise.errors import FormulaError
from neuronwise.formula.bases import Base
from neuronwise.formula.functions import FUNCTIONS, Function
from neuronwise.formula.nodes import Call, Node, walk


def own_functions(root: Node, functions: Mapping[str, Function]) -> dict[str, Function]:
    """Return the user's functions that a node calls, each after those that its expression calls."""
    found: dict[str, Function] = {}
    for name in sorted({part.name for part in walk(root) if isinstance(part, Call)}):
        function = functions[name]
        if function is FUNCTIONS.get(name):
            continue
        if isinstance(function.numpy, Base):
            found.update(own_functions(function.numpy.node, function.numpy.functions))
        found[name] = function
    return found


def saved_functions(root: Node, functions: Mapping[str, Function]) -> dict[str, Any]:
    """Return the user's functions of a node as data; None for one in Python, which its user has to bring again."""
    return {
        name: None
        if function.expression is None
        else {"expression": function.expression, "complexity": function.complexity, "doc": function.doc}
        for name, function in own_functions(root, functions).items()
    }


def loaded_functions(data: Mapping[str, Any], given: Mapping[str, Function] | None) -> Mapping[str, Function]:
    """Return the table for a formula that was saved.

    Args:
        data: What :func:`saved_functions` returned.
        given: The user's table; its functions come before the saved ones.

    Raises:
        FormulaError: If a function in Python is not in the user's table.
    """
    table = dict(FUNCTIONS if given is None else given)
    for name, saved in data.items():
        if given is not None and name in given and given[name] is not FUNCTIONS.get(name):
            continue
        if saved is None:
            raise FormulaError(
                f"The formula calls {name}, which was written in Python and cannot be saved as data: give it with "
                "functions=with_functions(...)."
            )
        table[name] = Function.from_expression(
            name, saved["expression"], functions=table, complexity=saved["complexity"], doc=saved["doc"]
        )
    return MappingProxyType(table) if data or given is not None else FUNCTIONS


def saved_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights as lists and numbers; JSON keeps every bit of them."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else float(value)
        for name, value in weights.items()
    }
