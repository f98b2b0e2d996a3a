"""Which neuron a network is built from: given by the user, or found by a search on the training part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import DataError, InvalidArgumentError, TableError
from neuronwise.formula import Formula

__all__ = ["FEWEST_TO_SEARCH", "Found", "Neuron", "check_formula", "given", "search"]

#: A search needs some rows; see neuronwise.discover.
FEWEST_TO_SEARCH = 10


@dataclass(frozen=True, eq=False)
class Neuron:
    """A kind of neuron, and where it comes from.

    Args:
        kind: The :class:`neuronwise.nn.Kind`; None for linear neurons.
        form: Text that is the same for the same kind.
        formula: The :class:`neuronwise.formula.Formula` found by a search, with its numbers, or given by the user;
            None for a kind that is known by a name only.
        discovery: What the search found, if there was one.
    """

    kind: Any
    form: str
    formula: Formula | None = None
    discovery: Any = None

    @property
    def is_linear(self) -> bool:
        """Whether it is the plain weighted sum."""
        return self.kind is None

    @property
    def text(self) -> str:
        """The formula without its numbers, or the name of the kind."""
        return "linear" if self.kind is None else str(self.kind)

    @classmethod
    def linear(cls, discovery: Any = None) -> Neuron:
        """Return the plain linear neuron."""
        return cls(None, "x", Formula("x"), discovery)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Args:
        formula: The formula in scaled inputs: with its numbers where there is one output, else its form.
        discovery: The :class:`neuronwise.discover.Discovery`, if one was asked for.
    """

    formula: Formula
    discovery: Any = None

    def neuron(self) -> Neuron:
        """Return the neuron of the formula; the linear one where the formula is a constant or a weighted sum."""
        from neuronwise.nn import kind

        terms = [term for term in self.formula.terms if term.kind != "constant"]
        if not terms or all(term.kind == "elementwise" and str(term.base) == "x" for term in terms):
            return Neuron(None, "x", self.formula, self.discovery)
        made = kind(self.formula)
        return Neuron(made, made.text, self.formula, self.discovery)


def given(formula: Any) -> Neuron:
    """Return the neuron of a formula, kind or list of base functions that the user gave.

    Args:
        formula: Text, Formula, Kind, name of a kind, or a sequence of base functions.

    Raises:
        InvalidArgumentError: If no neuron can be made from it.
        FormulaError: If a text cannot be parsed.
    """
    from neuronwise.nn import kind

    check_formula(formula)
    made = kind(formula)
    if made.is_linear:
        return Neuron.linear()
    return Neuron(made, made.text, formula if isinstance(formula, Formula) else made.formula)


def search(
    X: NDArray[np.float64],
    target: NDArray[Any],
    weight: NDArray[np.float64] | None,
    *,
    method: Any,
    bases: Any,
    names: Sequence[str],
    seed: int,
    record: bool = True,
) -> Found:
    """Search the formula of the neuron on scaled rows.

    Args:
        X: Inputs in the units that the formula is to be in (n, d).
        target: Scaled numbers (n, outputs), or codes of classes (n,).
        weight: Of each row, or None.
        method: As in :func:`neuronwise.discover.discover`.
        bases: As there.
        names: Names of the inputs.
        seed: Of everything with chance in it.
        record: Whether to make a :class:`neuronwise.discover.Discovery` of it, which takes longer than a small search.

    Raises:
        TableError: If the rows cannot be searched.
        InvalidArgumentError: If method or base functions are unknown.
    """
    from neuronwise.discover import discover, make_problem
    from neuronwise.discover.methods import method_of

    method = method_of(method)
    if len(X) < FEWEST_TO_SEARCH or _constant(target):
        return Found(Formula("x"))
    y = target[:, 0] if target.ndim == 2 and target.shape[1] == 1 else target
    options: dict[str, Any] = {
        "bases": bases,
        "task": "classification" if target.ndim == 1 else "regression",
        "inputs": list(names),
        "sample_weight": weight,
        "scale": "none",
        "seed": seed,
    }
    try:
        if not record:
            return Found(method.search(make_problem(X, y, **options))[0].formula)
        found = discover(X, y, method=method, held_out=0.0, confidence="none", **options)
    except DataError as error:
        raise TableError(f"No formula can be searched on the training part: {error}") from error
    return Found(found.formula, found)


def _constant(target: NDArray[Any]) -> bool:
    rows = target.reshape(len(target), -1)
    return bool((rows == rows[0]).all(0).any())


def check_formula(formula: Any) -> None:
    """Refuse what cannot be a formula before any work is done.

    Raises:
        InvalidArgumentError: If it is None, a number or an array.
    """
    if formula is None or isinstance(formula, bool | int | float | np.ndarray):
        raise InvalidArgumentError(
            f"formula must be 'auto', 'linear', a text such as 'x**2 + x', a Formula, or base functions; "
            f"not {formula!r}."
        )
