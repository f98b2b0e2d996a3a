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

from neuronwise.errors import DataError, FormulaError, InvalidArgumentError, closest
from neuronwise.formula._gradient import ZERO, element, gradients, plus
from neuronwise.formula._parser import MAX_DEPTH, MAX_NODES, MAX_TEXT, parse
from neuronwise.formula._plan import Backend, Plan
from neuronwise.formula._printing import to_text
from neuronwise.formula.bases import Base, complexity_of
from neuronwise.formula.functions import FUNCTIONS, Function
from neuronwise.formula.nodes import (
    Call,
    Dot,
    Input,
    Inputs,
    Mul,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
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
    2405.02369, section 3); ``x**2 + x`` is a sum over the inputs as well. ``x[3]`` and the names of inputs are single
    inputs; ``sum mean max min norm`` make one number of a vector, ``<a, b>`` is the inner product (a number in it stands for the
    vector that has it everywhere), ``size`` is the number of inputs. Names such as ``w1`` are weight vectors, ``b1``
    and ``c1`` single numbers.

    Formulas are immutable and hashable, and pickled as text. Nothing of a text is ever run as code.

    Args:
        formula: The text, another formula, or a node.
        inputs: Names of the inputs, in order. Names that are no plain words are written in backquotes.
        weights: Values of the parameters: d numbers for w1, one for b1. Others stay free, and the formula cannot be evaluated.
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
        self.inputs: tuple[str, ...] | None = _names(inputs)
        self.root: Node = _root(formula, self.inputs, self.functions)
        self.weights: Mapping[str, Any] = _bound(weights or {}, self.root, self.inputs)
        self._plans: dict[tuple[str, Backend, int], Plan] = {}
        highest = max((part.index for part in walk(self.root) if isinstance(part, Input)), default=-1)
        self._width = _width(self.inputs, self.weights)
        if self._width is not None and highest >= self._width:
            raise FormulaError(f"There is no input x[{highest}]; there are {self._width}, from 0.", str(self))

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
                f"{len(found)} base functions need numbers of shape {wanted}, not {values.shape}."
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

    def _index(self, name: str | int) -> int:
        if isinstance(name, str):
            if self.inputs is not None and name in self.inputs:
                return self.inputs.index(name)
            node = parse(name, self.inputs, self.functions)
            if not isinstance(node, Input):
                raise FormulaError(f"{name!r} is no single input: write a name or x[0].", name)
            return node.index
        if name < 0 or (self._width is not None and name >= self._width):
            raise FormulaError(f"There is no input {name}; they count from 0 to {(self._width or 1) - 1}.")
        return name

    def _with(self, node: Node, weights: Mapping[str, Any] | None = None) -> Formula:
        """Return a formula of another node with what of the weights it has."""
        names = {part.name for part in walk(node) if isinstance(part, Parameter)}
        values = self.weights if weights is None else weights
        kept = {name: value for name, value in values.items() if name in names}
        return Formula(node, inputs=self.inputs, weights=kept, functions=self.functions)

    def _data(self, X: ArrayLike) -> NDArray[np.float64]:
        try:
            data = np.asarray(X, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"A formula is evaluated on numbers: {error}") from error
        if data.ndim != 2:
            raise DataError(
                f"Data are a table of shape (n, d), not {data.shape}; for one row write X[None], for one column X[:, None]."
            )
        self._check_width(data.shape[1])
        return data

    def _check_width(self, width: int) -> None:
        needed = 1 + max((part.index for part in walk(self.root) if isinstance(part, Input)), default=0)
        if self._width is not None and width != self._width:
            raise DataError(f"The formula is for {self._width} inputs; the data have {width}.")
        if width < needed:
            raise DataError(f"The formula uses x[{needed - 1}]; the data have {width} inputs.")

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
        called = {part.name for part in walk(self.root) if isinstance(part, Call)}
        own = tuple(
            self.functions[name] for name in sorted(called) if self.functions[name] is not FUNCTIONS.get(name)
        )
        return self.root, self.inputs, weights, own

    def __reduce__(self) -> tuple[Any, ...]:
        own = tuple(f for name, f in self.functions.items() if FUNCTIONS.get(name) is not f)
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


def _names(inputs: Sequence[str] | None) -> tuple[str, ...] | None:
    if inputs is None:
        return None
    if isinstance(inputs, str):
        raise InvalidArgumentError("inputs= takes several names, ['age', 'weight'], not one text.")
    names = tuple(inputs)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InvalidArgumentError(f"Names of inputs are text; {wrong[0]!r} is {type(wrong[0]).__name__}.")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InvalidArgumentError(
            f"Every input needs a name of its own; more than one is called {twice[0]!r}."
        )
    return names


def _root(formula: object, inputs: tuple[str, ...] | None, functions: Mapping[str, Function]) -> Node:
    match formula:
        case Formula():
            return formula.root
        case str():
            return parse(formula, inputs, functions)
        case Node():
            if formula.depth > MAX_DEPTH or formula.size > MAX_NODES:
                raise FormulaError(
                    f"The formula has {formula.size:,} parts, {formula.depth} levels deep; up to {MAX_NODES:,} parts "
                    f"and {MAX_DEPTH} levels are allowed."
                )
            return _checked(canonical(formula), functions)
    raise InvalidArgumentError(f"A formula is text such as 'x**2 + sin(x)', not {type(formula).__name__}.")


def _checked(root: Node, functions: Mapping[str, Function]) -> Node:
    """Return a node that was not read from text, after the checks that reading makes."""
    for part in walk(root):
        if isinstance(part, Call) and part.name not in functions:
            raise FormulaError(f"There is no function {part.name!r}. {closest(part.name, functions)}")
        if isinstance(part, Number) and not math.isfinite(part.value):
            raise FormulaError(f"A formula has finite numbers only, not {part.value}.")
        if isinstance(part, Reduce) and not part.argument.vector:
            raise FormulaError(f"{part.name} takes a vector, not {to_text(part.argument)}.")
    return root


def _bound(weights: Mapping[str, ArrayLike], root: Node, inputs: tuple[str, ...] | None) -> Mapping[str, Any]:
    """Return the parameters' values as floats and read-only arrays."""
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


def _width(inputs: tuple[str, ...] | None, weights: Mapping[str, Any]) -> int | None:
    """Return the number of inputs where names or weights say it."""
    if inputs is not None:
        return len(inputs)
    return next((len(value) for name, value in weights.items() if name[0] == "w"), None)
