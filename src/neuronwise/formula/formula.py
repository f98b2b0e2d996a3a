"""Formulas: one sample's inputs to one number, as text that can be read, computed, differentiated and printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neuronwise.errors import DataError, FormulaError, InvalidArgumentError, counted
from neuronwise.formula._checks import bound_weights, checked_node, names_of, table_of
from neuronwise.formula._gradient import ZERO, element, gradients, plus
from neuronwise.formula._parser import parse
from neuronwise.formula._plan import Backend, Plan
from neuronwise.formula._printing import to_text
from neuronwise.formula._saving import loaded_functions, own_functions, saved_functions, saved_weights
from neuronwise.formula.bases import Base, complexity_of
from neuronwise.formula.functions import FUNCTIONS, Function
from neuronwise.formula.nodes import (
    Dot,
    Input,
    Inputs,
    Mul,
    Node,
    Number,
    Parameter,
    Pow,
    add,
    canonical,
    mul,
    neg,
    walk,
)
from neuronwise.formula.terms import Term, terms_of

__all__ = ["Formula"]

#: Elements that are worked on at a time: what a core's cache holds.
_CHUNK = 16_384
#: A vector of ones, whatever the inputs are.
_ONES = Pow(Inputs(), Number(0.0))


class Formula:
    """A function of one sample's inputs, written as text.

    ``x`` is the vector of all inputs; functions and ``+ - * / **`` work on each element. A formula is split at its
    outermost + and -: a term that is a vector stands for the sum of its elements, a term that is one number is added
    once. So ``2*x**2 - 3*x + 1`` is 1 + sum_i (2 x_i^2 - 3 x_i), the vector semantics of Task-based Neurons (arXiv
    2405.02369); ``x**2 + x`` is a sum over the inputs as well. ``x[3]`` and the names of inputs are single inputs;
    ``sum mean max min norm`` make one number of a vector, ``<a, b>`` is the inner product (a number in it stands for
    the vector that has it everywhere), ``size`` is the number of inputs. Names such as ``w1`` are weight vectors,
    ``b1`` and ``c1`` single numbers.

    Formulas are immutable and hashable, and pickled as text. Nothing of a text is ever run as code.

    Args:
        formula: The text, another formula, or a node.
        inputs: Names of the inputs, in order. Names that are no plain words are written in backquotes.
        weights: Values of the parameters: d numbers for w1, one for b1. Others stay free, and the formula cannot be
            evaluated.
        functions: The functions it may call, see :func:`with_functions`.

    Raises:
        FormulaError: If the text cannot be read, or types do not fit.
        InvalidArgumentError: If names or weights do not fit.

    Example:
        >>> formula = Formula("2*x**2 - 3*x + 1")
        >>> formula.evaluate([[0, 1], [1, 1], [2, 0]])
        array([ 0., -1.,  3.])
        >>> [str(term.base) for term in formula.terms if term.base]
        ['x**2', 'x']
    """

    def __init__(
        self,
        formula: str | Formula | Node,
        *,
        inputs: Sequence[str] | None = None,
        weights: Mapping[str, ArrayLike] | None = None,
        functions: Mapping[str, Function] | None = None,
    ) -> None:
        if isinstance(formula, Formula):
            inputs = formula.inputs if inputs is None else inputs
            weights = {**formula.weights, **(weights or {})}
            functions = formula.functions if functions is None else functions
        self.functions: Mapping[str, Function] = FUNCTIONS if functions is None else functions
        self.inputs: tuple[str, ...] | None = names_of(inputs)
        self.root: Node = self._read(formula)
        self.weights: Mapping[str, Any] = bound_weights(weights or {}, self.root, self.inputs)
        self._plans: dict[tuple[str, Backend, int], Plan] = {}
        vectors = [len(value) for name, value in self.weights.items() if name[0] == "w"]
        #: How many inputs it is for, where names or weights say it.
        self.width: int | None = next(iter(vectors), None) if self.inputs is None else len(self.inputs)
        if self.width is not None and self._needed > self.width:
            raise FormulaError(
                f"There is no element {self._needed - 1}; there are {self.width}, from 0.", str(self)
            )

    def _read(self, formula: object) -> Node:
        match formula:
            case Formula():
                return formula.root
            case str():
                return parse(formula, self.inputs, self.functions)
            case Node():
                return checked_node(formula, self.functions)
        raise InvalidArgumentError(
            f"A formula is text such as 'x**2 + sin(x)', not {type(formula).__name__}."
        )

    @cached_property
    def _needed(self) -> int:
        """How many inputs there must be at least."""
        indices = [part.index for part in walk(self.root) if isinstance(part, Input | Parameter)]
        return max((index + 1 for index in indices if index is not None), default=1)

    @classmethod
    def from_bases(
        cls,
        bases: Iterable[Base | str],
        coefficients: ArrayLike | None = None,
        *,
        weights: ArrayLike | None = None,
        intercept: float = 0.0,
        inputs: Sequence[str] | None = None,
    ) -> Formula:
        """Make the formula that is a sum of base functions.

        Args:
            bases: K base functions.
            coefficients: ``(K,)``: one number for each, the same for all inputs: ``2*x**2 - 3*x``.
            weights: ``(K, d)``, instead of coefficients: one number for each and each input: ``<w1, x**2> + <w2, x>``.
            intercept: A number to add.
            inputs: Names of the inputs.

        Raises:
            InvalidArgumentError: If not exactly one of coefficients and weights is given, or its shape is another.
        """
        found = [base if isinstance(base, Base) else Base(base) for base in bases]
        if (coefficients is None) == (weights is None):
            raise InvalidArgumentError("Give either coefficients (K,) or weights (K, d).")
        values = np.asarray(coefficients if weights is None else weights, dtype=np.float64)
        if values.ndim != (1 if weights is None else 2) or len(values) != len(found):
            wanted = f"({len(found)},)" if weights is None else f"({len(found)}, d)"
            raise InvalidArgumentError(
                f"The numbers of {counted(len(found), 'base function')} have shape {wanted}, not {values.shape}."
            )
        if not np.isfinite(values).all() or not math.isfinite(intercept):
            raise InvalidArgumentError("Coefficients, weights and intercept must be finite numbers.")
        terms: list[Node] = []
        for number, base in enumerate(found):
            if weights is None:
                terms.append(_scaled(float(values[number]), base.node))
            else:
                terms.append(Dot(Parameter(f"w{number + 1}"), base.node))
        if intercept or not terms:
            terms.append(Number(float(intercept)))
        bound = None if weights is None else {f"w{k + 1}": row for k, row in enumerate(values)}
        table = {name: function for base in found for name, function in base.functions.items()}
        functions = (
            FUNCTIONS if all(base.functions is FUNCTIONS for base in found) else MappingProxyType(table)
        )
        return cls(add(*terms), inputs=inputs, weights=bound, functions=functions)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, each before those below it."""
        return tuple(walk(self.root))

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters, free and bound, in the order they come in."""
        return tuple(dict.fromkeys(part.name for part in walk(self.root) if isinstance(part, Parameter)))

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The terms it is the sum of, sorted by kind."""
        return terms_of(self.root, self.functions)

    @cached_property
    def complexity(self) -> int:
        """How many parts it has, functions counting more than x."""
        return complexity_of(self.root, self.functions)

    @cached_property
    def _text(self) -> str:
        return to_text(self.root, self.inputs)

    def evaluate(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the formula's value for every row, computed in float64.

        Args:
            X: ``(n, d)`` data.

        Returns:
            ``(n,)``. NaN or infinite where the formula is not defined.

        Raises:
            DataError: If X has the wrong shape.
            FormulaError: If a parameter is free.
        """
        data = self._data(X)
        (found,) = self._run("value", data)
        return found

    @overload
    def __call__(self, X: torch.Tensor) -> torch.Tensor: ...
    @overload
    def __call__(self, X: ArrayLike) -> NDArray[np.float64]: ...
    def __call__(self, X: Any) -> Any:
        """Return the formula's value: of arrays as :meth:`evaluate`, of tensors ``(..., d)`` as a tensor ``(...)``.

        Args:
            X: The data. A tensor's dtype and device are kept, and gradients flow to it.

        Raises:
            DataError: If X has the wrong shape.
            FormulaError: If a parameter is free.
        """
        if not isinstance(X, torch.Tensor):
            return self.evaluate(X)
        if X.ndim < 1:
            raise DataError("A tensor of inputs has the shape (..., d), not ().")
        self._check_width(X.shape[-1])
        tensor = X if X.is_floating_point() else X.to(torch.get_default_dtype())
        (found,) = self._plan("value", "torch", X.shape[-1]).run(tensor)
        return found if isinstance(found, torch.Tensor) else tensor.new_full(X.shape[:-1], found)

    def gradient(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the derivative by every input, for every row; in closed form.

        Args:
            X: ``(n, d)`` data.

        Returns:
            ``(n, d)``. Where a derivative jumps (abs and relu at 0) the value that torch takes: 0.

        Raises:
            DataError: If X has the wrong shape.
            FormulaError: If a parameter is free, or a function has no derivative.
        """
        data = self._data(X)
        common, *single = self._run("gradient", data)
        for index, values in zip(self._derivatives[1], single, strict=True):
            common[:, index] += values
        return common

    def derivative(self, name: str | int) -> Formula:
        """Return the derivative by one input as a formula.

        Args:
            name: The input: its name, ``"x[3]"``, or its index.

        Raises:
            FormulaError: If there is no such input, or a function has no derivative.
        """
        index = self._index(name)
        common, single = self._derivatives
        node = canonical(plus(element(common, index), single.get(index, ZERO)))
        return self._with(node)

    @cached_property
    def _derivatives(self) -> tuple[Node, dict[int, Node]]:
        return gradients(self._total, self.functions)

    @cached_property
    def _total(self) -> Node:
        """The formula as one number: every vector term in a sum."""
        return add(*(term.node for term in self.terms))

    def simplify(self) -> Formula:
        """Return a formula of the same values, shorter where SymPy finds one.

        Vector terms become ``number * base``, equal ones are put together, a constant inside a sum counts ``size``
        times: ``2*(x + 1) - x`` becomes ``x + 2*size``. What SymPy proposes is tried on random rows before it is
        taken, so that a formula that is undefined somewhere stays so, and nothing is lost by cancellation; the
        formula itself comes back where nothing passes.
        """
        from neuronwise.formula._symbolic import checked_simplification

        node = checked_simplification(self._total, self.functions, self.weights, self.width)
        return self if node is None else self._with(node)

    def expanded(self, names: Sequence[str] | None = None) -> Formula:
        """Return the formula written out for each input, with the weights' values in it; for few inputs.

        Args:
            names: Names of the inputs; by default those it has.

        Raises:
            InvalidArgumentError: If the number of inputs is not known.
            FormulaError: If it has a max or min over the inputs, or becomes too large.

        Example:
            >>> str(Formula("x**2 + 1").expanded(["age", "height"]))
            'age**2 + height**2 + 1'
        """
        from neuronwise.formula._rewrite import expanded

        inputs = self.inputs if names is None else names_of(names)
        width = self.width if inputs is None else len(inputs)
        if width is None:
            raise InvalidArgumentError("How many inputs are there? Give names=['a', 'b', ...].")
        self._check_width(width)
        node = expanded(self._total, self.weights, width)
        return Formula(node, inputs=inputs, functions=self.functions)

    def rounded(self, digits: int = 4) -> Formula:
        """Return the formula with numbers and weights rounded to significant digits; exponents stay.

        Args:
            digits: How many, from 1 to 17.

        Raises:
            InvalidArgumentError: If digits is out of range.
        """
        from neuronwise.formula._rewrite import rounded, rounded_weights

        _check_digits(digits)
        return self._with(rounded(self.root, digits), rounded_weights(self.weights, digits))

    def parameterised(self) -> Formula:
        """Return the form that a neuron trains: constants thrown away, fresh free parameters in their place.

        The rules of Task-based Neurons (arXiv 2405.02369): a number in an inner product becomes a weight vector w, a
        term that is no inner product becomes ``<w, term>``, numbers that stand alone become one b, an inner product
        without a number gets a factor c. Found coefficients are no initial values.

        Example:
            >>> str(Formula("6*x**2 + 2*x - 3").parameterised())
            '<w1, x**2> + <w2, x> + b1'
        """
        from neuronwise.formula._rewrite import Parameteriser

        node = Parameteriser(self.functions).formula([term.node for term in self.terms])
        return Formula(node, inputs=self.inputs, functions=self.functions)

    def latex(self, decimals: int = 4) -> str:
        """Return the formula in LaTeX, without dollar signs; vector terms under a sum over i.

        Args:
            decimals: Significant digits of the numbers.
        """
        from neuronwise.formula._display import latex

        _check_digits(decimals)
        return latex(self.root, self._text, self.functions, self.inputs, decimals)

    def html(self, decimals: int = 4) -> str:
        """Return the formula as presentation MathML, which browsers show by themselves.

        Args:
            decimals: Significant digits of the numbers.
        """
        from neuronwise.formula._display import mathml

        _check_digits(decimals)
        return mathml(self.root, self._text, self.functions, self.inputs, decimals)

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def to_dict(self) -> dict[str, Any]:
        """Return the formula as data for JSON, without loss; :meth:`from_dict` reads it."""
        return {
            "formula": self._text,
            "inputs": None if self.inputs is None else list(self.inputs),
            "weights": saved_weights(self.weights),
            "functions": saved_functions(self.root, self.functions),
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, functions: Mapping[str, Function] | None = None
    ) -> Formula:
        """Return the formula that :meth:`to_dict` made data of.

        Args:
            data: The data.
            functions: The table; needed where the formula calls functions that were written in Python.

        Raises:
            FormulaError: If the data are not of a formula, or a function is missing.
        """
        missing = {"formula", "inputs", "weights", "functions"} - set(data)
        if missing:
            raise FormulaError(f"These are no data of a formula: {', '.join(sorted(missing))} is not there.")
        table = loaded_functions(data["functions"], functions)
        return cls(data["formula"], inputs=data["inputs"], weights=data["weights"], functions=table)

    def _index(self, name: str | int) -> int:
        if isinstance(name, str):
            if self.inputs is not None and name in self.inputs:
                return self.inputs.index(name)
            node = parse(name, self.inputs, self.functions)
            if not isinstance(node, Input):
                raise FormulaError(f"{name!r} is no single input: write a name or x[0].", name)
            return node.index
        if name < 0 or (self.width is not None and name >= self.width):
            known = "" if self.width is None else f"; there are {self.width}"
            raise FormulaError(f"There is no input {name}{known}. They count from 0.")
        return name

    def _with(self, node: Node, weights: Mapping[str, Any] | None = None) -> Formula:
        """Return a formula of another node with what of the weights it has."""
        names = {part.name for part in walk(node) if isinstance(part, Parameter)}
        values = self.weights if weights is None else weights
        kept = {name: value for name, value in values.items() if name in names}
        return Formula(node, inputs=self.inputs, weights=kept, functions=self.functions)

    def _data(self, X: ArrayLike) -> NDArray[np.float64]:
        data = table_of(X)
        self._check_width(data.shape[1])
        return data

    def _check_width(self, width: int) -> None:
        if self.width is not None and width != self.width:
            raise DataError(f"The formula is for {counted(self.width, 'input')}; the data have {width}.")
        if width < self._needed:
            raise DataError(
                f"The formula uses x[{self._needed - 1}]; the data have {counted(width, 'input')}."
            )

    def _plan(self, what: str, backend: Backend, width: int) -> Plan:
        key = (what, backend, width)
        if key not in self._plans:
            if what == "value":
                roots = [self._total]
            else:
                common, single = self._derivatives
                # One number a row for all inputs becomes a vector, so that its shape is known.
                roots = [common if common.vector else mul(common, _ONES), *single.values()]
            self._plans[key] = Plan(roots, backend, self.functions, self.weights, width)
        return self._plans[key]

    def _run(self, what: str, data: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Run a plan on blocks of rows that fit a core's cache; vectors come as (n, d), scalars as (n,)."""
        plan = self._plan(what, "numpy", data.shape[1])
        shapes = [data.shape if what != "value" and not k else (len(data),) for k in range(len(plan.outputs))]
        found = [np.empty(shape) for shape in shapes]
        rows = max(_CHUNK // max(data.shape[1], 1), 1)
        with np.errstate(all="ignore"):
            for start in range(0, len(data), rows):
                for whole, part in zip(found, plan.run(data[start : start + rows]), strict=True):
                    whole[start : start + rows] = part
        return found

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise AttributeError(f"A formula cannot be changed; make another for another {name}.")
        super().__setattr__(name, value)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Formula({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        weights = tuple(sorted((name, np.asarray(value).tobytes()) for name, value in self.weights.items()))
        own = tuple(own_functions(self.root, self.functions).values())
        return self.root, self.inputs, weights, own

    def __reduce__(self) -> tuple[Any, ...]:
        own = tuple(own_functions(self.root, self.functions).values())
        weights = {name: np.array(value) for name, value in self.weights.items()}
        return _rebuild, (self._text, self.inputs, weights, own)


def _rebuild(text: str, inputs: Any, weights: Any, own: tuple[Function, ...]) -> Formula:
    """Return a formula as it was before it was pickled."""
    table = MappingProxyType({**FUNCTIONS, **{f.name: f for f in own}}) if own else FUNCTIONS
    return Formula(text, inputs=inputs, weights=weights, functions=table)


def _scaled(value: float, node: Node) -> Node:
    """Return value * node as a person would write it."""
    if value == 1.0:
        return node
    if value == -1.0:
        return neg(node)
    factors = node.factors if isinstance(node, Mul) else (node,)
    return mul(Number(value), *factors)


def _check_digits(digits: int) -> None:
    if not 1 <= digits <= 17:
        raise InvalidArgumentError(f"Numbers have 1 to 17 significant digits, not {digits}.")
