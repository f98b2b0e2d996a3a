"""The terms of a formula as columns of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Base, Formula, Function, Mul, Number, Term, mul

__all__ = ["Column", "base_columns", "columns_of", "formula_from", "named"]


@dataclass(frozen=True, eq=False)
class Column:
    """One or several columns that belong together.

    Args:
        name: The term as text, without its number.
        base: The base function of ``<w, base(x)>``, which has a column for each input; None where it is one column.
        formula: What one column has in every row; None for a base function with a column for each input.
    """

    name: str
    base: Base | None = None
    formula: Formula | None = None

    def values(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the columns, (n, d) or (n, 1), for scaled inputs (n, d)."""
        if self.base is not None:
            return self.base(Z)
        assert self.formula is not None
        return self.formula.evaluate(Z)[:, None]


def columns_of(formula: Formula) -> tuple[Column, ...]:
    """Return the columns that a formula is a weighted sum of.

    A term with a weight vector, ``<w1, sin(x)>``, has a column for each input; any other term is one column:
    ``sin(x)`` alone stands for the sum over the inputs. Constants are left to the intercept.

    Args:
        formula: The formula.

    Raises:
        InvalidArgumentError: If a term has parameters inside that have no values, so that it is not linear in its
            weights.
    """
    found: dict[str, Column] = {}
    for term in formula.terms:
        if term.kind == "constant":
            continue
        column = _column(formula, term)
        found.setdefault(column.name, column)
    return tuple(found.values())


def _column(formula: Formula, term: Term) -> Column:
    if term.kind == "elementwise" and term.base is not None:
        if term.weight is not None and term.weight.startswith("w"):
            return Column(f"<w, {term.base.text}>", base=term.base)
        single = Formula.from_bases([term.base], [1.0], inputs=formula.inputs)
        return Column(str(single), formula=single)
    node = term.node
    if isinstance(node, Mul):  # the number in front is what the fit finds anew
        node = mul(*(factor for factor in node.factors if not isinstance(factor, Number)))
    whole = Formula(node, inputs=formula.inputs, functions=formula.functions)
    free = [name for name in whole.parameters if name not in formula.weights]
    if free:
        raise InvalidArgumentError(
            f"The term {whole} is not linear in its weights ({', '.join(free)} have no values), so least squares "
            "cannot find them. Give them values with Formula(..., weights=...), or use a TaskNeuronRegressor."
        )
    weights = {name: formula.weights[name] for name in whole.parameters}
    return Column(str(whole), formula=Formula(whole, weights=weights))


def base_columns(bases: Sequence[Base]) -> tuple[Column, ...]:
    """Return columns for base functions, each with one for each input."""
    return tuple(Column(f"<w, {base.text}>", base=base) for base in bases)


def named(base: Base, name: str) -> str:
    """Return a base function's text for one input: ``sin(2*x)`` of ``age`` is ``sin(2*age)``."""
    return re.sub(r"\bx\b", lambda _: name, base.text)


def formula_from(
    columns: Sequence[Column], weights: NDArray[np.float64], intercept: float, names: Sequence[str]
) -> Formula:
    """Return the formula of columns with their weights.

    Args:
        columns: The columns.
        weights: Of all columns in order, those of one base function beside each other.
        intercept: The constant.
        names: Names of the inputs.
    """
    texts: list[str] = []
    bound: dict[str, Any] = {}
    start = 0
    for column in columns:
        if column.base is not None:
            key = f"w{len(bound) + 1}"
            bound[key] = weights[start : start + len(names)]
            texts.append(f"<{key}, {column.base.text}>")
            start += len(names)
        else:
            texts.append(f"{float(weights[start])!r}*({_single(column, bound)})")
            start += 1
    texts.append(repr(float(intercept)))
    functions = {name: function for column in columns for name, function in _functions(column).items()}
    # Read without the names, which need not be plain words; then given them.
    formula = Formula(" + ".join(texts), weights=bound, functions=functions or None)
    return Formula(formula, inputs=list(names))


def _single(column: Column, bound: dict[str, Any]) -> str:
    """Return a column of its own as text of one number; its parameters get names that are still free."""
    assert column.formula is not None
    text = str(Formula(column.formula.root, functions=column.formula.functions))
    for name in column.formula.parameters:
        key = f"{name[0]}{len(bound) + 1}"
        # A mark in front, so that a new name is not taken for one still to be renamed.
        text = re.sub(rf"(?<!\w){name}\b", f"§{key}", text)
        bound[key] = column.formula.weights[name]
    text = text.replace("§", "")
    return f"sum({text})" if column.formula.root.vector else text


def _functions(column: Column) -> Mapping[str, Function]:
    owner = column.base if column.base is not None else column.formula
    assert owner is not None
    return owner.functions
