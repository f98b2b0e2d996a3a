"""What a formula is made from, checked: names of inputs, nodes, values of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuronwise.errors import DataError, FormulaError, InvalidArgumentError, closest
from neuronwise.formula._parser import MAX_DEPTH, MAX_NODES, numeric_fault
from neuronwise.formula._printing import to_text
from neuronwise.formula.functions import Function
from neuronwise.formula.nodes import Call, Node, Number, Parameter, Reduce, canonical, walk


def names_of(inputs: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the inputs' names as a tuple.

    Raises:
        InvalidArgumentError: If they are no texts, or one comes twice.
    """
    if inputs is None:
        return None
    if isinstance(inputs, str):
        raise InvalidArgumentError("inputs= takes several names, ['age', 'weight'], not one text.")
    names = tuple(inputs)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InvalidArgumentError(f"Names of inputs are text; {wrong[0]!r} is {type(wrong[0]).__name__}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgumentError(f"Every input needs a name of its own; more than one is called {twice!r}.")
    return names


def checked_node(node: Node, functions: Mapping[str, Function]) -> Node:
    """Return a node that was not read from text in canonical form, after the checks that reading makes.

    Raises:
        FormulaError: If no text could give such a node.
    """
    if node.depth > MAX_DEPTH or node.size > MAX_NODES:
        raise FormulaError(
            f"The formula has {node.size:,} parts, {node.depth} levels deep; up to {MAX_NODES:,} parts and "
            f"{MAX_DEPTH} levels are allowed."
        )
    for part in walk(node):
        if isinstance(part, Call) and part.name not in functions:
            raise FormulaError(f"There is no function {part.name!r}. {closest(part.name, functions)}")
        if (problem := numeric_fault(part, functions)) is not None:
            raise FormulaError(f"{to_text(part)}: {problem}")
        if isinstance(part, Number) and not math.isfinite(part.value):
            raise FormulaError(f"A formula has finite numbers only, not {part.value}.")
        if isinstance(part, Reduce) and not part.argument.vector:
            raise FormulaError(f"{part.name} takes a vector, not {to_text(part.argument)}.")
    return canonical(node)


def bound_weights(
    weights: Mapping[str, ArrayLike], root: Node, inputs: tuple[str, ...] | None
) -> Mapping[str, Any]:
    """Return the parameters' values, numbers as float, vectors as read-only float64 arrays.

    Raises:
        InvalidArgumentError: If a name is unknown, or shapes or values do not fit.
    """
    known = list(dict.fromkeys(part.name for part in walk(root) if isinstance(part, Parameter)))
    found: dict[str, Any] = {}
    for name, value in weights.items():
        if name not in known:
            raise InvalidArgumentError(f"The formula has no parameter {name!r}. {closest(name, known)}")
        array = np.array(value, dtype=np.float64)
        if not np.isfinite(array).all():
            raise InvalidArgumentError(f"The weights {name} are not all finite.")
        if array.ndim != (1 if name[0] == "w" else 0) or not array.size:
            kind = "a vector (d,)" if name[0] == "w" else "one number"
            raise InvalidArgumentError(f"{name} is {kind}; what came has the shape {array.shape}.")
        array.setflags(write=False)
        found[name] = array if name[0] == "w" else float(array)
    lengths = {name: len(value) for name, value in found.items() if name[0] == "w"}
    if inputs is not None:
        lengths["inputs"] = len(inputs)
    if len(set(lengths.values())) > 1:
        raise InvalidArgumentError(f"Weights and inputs have different lengths: {lengths}.")
    return MappingProxyType({name: found[name] for name in known if name in found})


def table_of(X: ArrayLike) -> NDArray[np.float64]:
    """Return data as an array ``(n, d)`` of float64.

    Raises:
        DataError: If they are no such table.
    """
    try:
        data = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"A formula is evaluated on numbers: {error}") from error
    if data.ndim != 2:
        raise DataError(
            f"Data are a table of shape (n, d), not {data.shape}; for one row write X[None], for one column X[:, None]."
        )
    return data
