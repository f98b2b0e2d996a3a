"""Nodes compiled once into a list of NumPy or torch calls.

Whatever does not depend on the data (numbers, bound weights, ``size``) is computed while compiling; equal parts are
computed once; whole powers become products. Running a plan is a loop over closures without recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from neuronwise.errors import FormulaError, closest
from neuronwise.formula.functions import Function
from neuronwise.formula.nodes import (
    Add,
    Call,
    Constant,
    Div,
    Dot,
    Input,
    Inputs,
    Mul,
    Neg,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
)

Backend = Literal["numpy", "torch"]
#: Up to this whole exponent a power is computed by multiplication: faster than pow, and within a few roundings of it.
_MULTIPLIED = 32

_NUMPY_REDUCE: Mapping[str, Callable[..., Any]] = {
    "mean": lambda v: np.mean(v, axis=-1),
    "max": lambda v: np.max(v, axis=-1),
    "min": lambda v: np.min(v, axis=-1),
    "norm": lambda v: np.linalg.norm(v, axis=-1),
}
_TORCH_REDUCE: Mapping[str, Callable[..., Any]] = {
    "mean": lambda v: v.mean(-1),
    "max": lambda v: v.amax(-1),
    "min": lambda v: v.amin(-1),
    "norm": lambda v: torch.linalg.vector_norm(v, dim=-1),
}


@dataclass(frozen=True, slots=True)
class _Known:
    """A value known while compiling: a number, or one for each input."""

    value: Any
    vector: bool = False


@dataclass(frozen=True, slots=True)
class _Slot:
    """A value that is computed from the data."""

    index: int
    vector: bool


_Operand = _Known | _Slot
_Step = tuple[int, Callable[..., Any], tuple[int, ...]]


class Plan:
    """What to call, in which order, to get the roots' values from the inputs.

    Args:
        roots: The nodes to compute. Scalars become ``(...)``, vectors ``(..., d)``.
        backend: Whose functions to call.
        functions: The table of functions.
        weights: Values of the parameters.
        width: Number of inputs d; None for expressions that are elementwise in x, on arrays of any shape.
    """

    def __init__(
        self,
        roots: Sequence[Node],
        backend: Backend,
        functions: Mapping[str, Function],
        weights: Mapping[str, Any],
        width: int | None,
    ) -> None:
        compiler = _Compiler(backend, functions, weights, width)
        self.backend = backend
        self.outputs = [compiler.operand(root) for root in roots]
        self.constants = compiler.constants
        self.slots = compiler.count
        self.steps = _with_last_use(compiler.steps, self.outputs)

    def run(self, inputs: Any) -> list[Any]:
        """Return the value of each root; a number where it does not depend on the inputs.

        Args:
            inputs: ``(..., d)`` array or tensor of floats.
        """
        values: list[Any] = [None] * self.slots
        values[0] = inputs
        for index, value in self.constants:
            values[index] = value if self.backend == "numpy" else inputs.new_tensor(value)
        for slot, call, arguments, dead in self.steps:
            values[slot] = call(*[values[argument] for argument in arguments])
            for index in dead:
                values[index] = None
        return [out.value if isinstance(out, _Known) else values[out.index] for out in self.outputs]


def _with_last_use(
    steps: list[_Step], outputs: Sequence[_Operand]
) -> list[tuple[int, Callable[..., Any], tuple[int, ...], tuple[int, ...]]]:
    """Add to each step which values nobody needs after it, so that their memory is free for the next."""
    kept = {out.index for out in outputs if isinstance(out, _Slot)}
    planned = []
    for slot, call, arguments in reversed(steps):
        dead = tuple({argument for argument in arguments if argument not in kept})
        kept.update(dead)
        planned.append((slot, call, arguments, dead))
    return planned[::-1]


class _Compiler:
    def __init__(
        self,
        backend: Backend,
        functions: Mapping[str, Function],
        weights: Mapping[str, Any],
        width: int | None,
    ) -> None:
        self.backend = backend
        self.functions = functions
        self.weights = weights
        self.width = width
        self.steps: list[_Step] = []
        self.constants: list[tuple[int, NDArray[np.float64]]] = []
        self.count = 1
        self.memo: dict[Any, _Operand] = {}

    def operand(self, node: Node) -> _Operand:
        """Return where the node's value is, after adding the steps that compute it."""
        if node not in self.memo:
            self.memo[node] = self._compile(node)
        return self.memo[node]

    def _compile(self, node: Node) -> _Operand:
        match node:
            case Number() | Constant():
                return _Known(node.value)
            case Inputs():
                return _Slot(0, True)
            case Size():
                return _Known(float(self._d()))
            case Input():
                index = node.index
                return self.step(lambda x: x[..., index], [_Slot(0, True)], False)
            case Parameter():
                return self._parameter(node)
            case Neg():
                return self.elementwise(lambda a: -a, [self.operand(node.argument)])
            case Add():
                return self._chain(node.terms, lambda a, b: a + b)
            case Mul():
                return self._chain(node.factors, lambda a, b: a * b)
            case Div():
                parts = [self.operand(node.left), self.operand(node.right)]
                return self.elementwise(lambda a, b: a / b, parts)
            case Pow():
                return self._power(node)
            case Call():
                return self._call(node)
            case Dot():
                return self._dot(self.operand(node.left), self.operand(node.right))
            case Reduce():
                return self._reduce(node)
        raise TypeError(f"{type(node).__name__} is no node of a formula.")

    def _d(self) -> int:
        if self.width is None:
            raise FormulaError("The number of inputs is not known here.")
        return self.width

    def _parameter(self, node: Parameter) -> _Operand:
        if node.name not in self.weights:
            raise FormulaError(
                f"The parameter {node.name} is free: give its value, as in "
                f"Formula(text, weights={{{node.name!r}: ...}}), or use a layer that trains it. "
                f"An input of this name is written `{node.name}`, in backquotes."
            )
        value = self.weights[node.name]
        if node.index is not None:
            return _Known(float(value[node.index]))
        return _Known(value, node.vector)

    def step(self, call: Callable[..., Any], operands: Sequence[_Operand], vector: bool) -> _Slot:
        """Add a call whose arguments are all computed, and return where its value goes."""
        slot = _Slot(self.count, vector)
        self.count += 1
        indices = tuple(operand.index for operand in operands if isinstance(operand, _Slot))
        self.steps.append((slot.index, call, indices))
        return slot

    def constant(self, value: NDArray[np.float64]) -> _Slot:
        """Return a place that holds a vector known now; a tensor of the inputs' kind in torch."""
        slot = _Slot(self.count, True)
        self.count += 1
        self.constants.append((slot.index, value))
        return slot

    def spread(self, operand: _Operand) -> _Operand:
        """Return one computed number a row in a shape that goes with a vector a row."""
        if isinstance(operand, _Known) or operand.vector:
            return operand
        key = ("spread", operand.index)
        if key not in self.memo:
            self.memo[key] = self.step(lambda a: a[..., None], [operand], True)
        return self.memo[key]

    def elementwise(self, call: Callable[..., Any], operands: Sequence[_Operand]) -> _Operand:
        """Add an elementwise call of one or two operands, of which some may be known."""
        vector = any(operand.vector for operand in operands)
        if all(isinstance(operand, _Known) for operand in operands):
            with np.errstate(all="ignore"):
                value = call(*[np.float64(o.value) if not o.vector else o.value for o in operands])  # type: ignore[union-attr]
            return _Known(value if vector else float(value), vector)
        if vector:
            operands = [self.spread(operand) for operand in operands]
        operands = [
            self.constant(operand.value) if isinstance(operand, _Known) and operand.vector else operand
            for operand in operands
        ]
        if len(operands) == 2:
            left, right = operands
            if isinstance(left, _Known):
                number = left.value
                return self.step(lambda b: call(number, b), [right], vector)
            if isinstance(right, _Known):
                number = right.value
                return self.step(lambda a: call(a, number), [left], vector)
        return self.step(call, operands, vector)

    def _chain(self, nodes: Sequence[Node], call: Callable[[Any, Any], Any]) -> _Operand:
        total = self.operand(nodes[0])
        for node in nodes[1:]:
            total = self.elementwise(call, [total, self.operand(node)])
        return total

    def _power(self, node: Pow) -> _Operand:
        base, exponent = self.operand(node.base), self.operand(node.exponent)
        if isinstance(base, _Slot) and isinstance(exponent, _Known) and not exponent.vector:
            value = exponent.value
            if value == int(value) and 1 <= abs(value) <= _MULTIPLIED:
                positive = self._whole_power(base, int(abs(value)))
                return positive if value > 0 else self.elementwise(lambda a: 1.0 / a, [positive])
            if value == 0.5:
                return self.elementwise(np.sqrt if self.backend == "numpy" else torch.sqrt, [base])
        known = isinstance(base, _Known) and isinstance(exponent, _Known)
        return self.elementwise(np.power if self.backend == "numpy" or known else torch.pow, [base, exponent])

    def _whole_power(self, base: _Slot, exponent: int) -> _Operand:
        """Return base**exponent by squaring; lower powers that other terms need are shared."""
        if exponent == 1:
            return base
        key = ("power", base.index, exponent)
        if key not in self.memo:
            if exponent % 2:
                parts = [self._whole_power(base, exponent - 1), base]
            else:
                half = self._whole_power(base, exponent // 2)
                parts = [half, half]
            self.memo[key] = self.elementwise(lambda a, b: a * b, parts)
        return self.memo[key]

    def _call(self, node: Call) -> _Operand:
        if node.name not in self.functions:
            raise FormulaError(f"There is no function {node.name!r}. {closest(node.name, self.functions)}")
        function = self.functions[node.name]
        argument = self.operand(node.argument)
        plain = self.backend == "numpy" or isinstance(argument, _Known)
        return self.elementwise(function.numpy if plain else function.torch, [argument])

    def _dot(self, left: _Operand, right: _Operand) -> _Operand:
        if isinstance(left, _Known):
            left, right = right, left
        if isinstance(left, _Known) and isinstance(right, _Known):
            both = np.broadcast_to(np.float64(1.0) * left.value * right.value, self._d())
            return _Known(float(both.sum()))
        if isinstance(left, _Slot) and isinstance(right, _Known) and left.vector:
            return self._weighted(left, right)
        if left.vector and right.vector:
            product = self.elementwise(lambda a, b: a * b, [left, right])
            return self._weighted(product, _Known(1.0))
        # One side is a number a row, which stands for a constant vector: it comes out of the sum.
        number, other = (right, left) if left.vector else (left, right)
        total = self._weighted(other, _Known(1.0)) if other.vector else self._dot_numbers(other)
        return self.elementwise(lambda a, b: a * b, [number, total])

    def _dot_numbers(self, number: _Operand) -> _Operand:
        return self.elementwise(lambda a, b: a * b, [number, _Known(float(self._d()))])

    def _weighted(self, vector: _Operand, weight: _Known) -> _Operand:
        """Return the weighted sum over the inputs; one matrix product."""
        if isinstance(vector, _Known):
            return _Known(float(np.dot(vector.value, np.broadcast_to(weight.value, self._d()))))
        if self.backend == "torch" and not weight.vector:
            total = self.step(lambda v: v.sum(-1), [vector], False)
            return self.elementwise(lambda a, b: a * b, [total, weight]) if weight.value != 1.0 else total
        weights = self.constant(np.array(np.broadcast_to(np.float64(1.0) * weight.value, self._d())))
        return self.step(lambda v, w: v @ w, [vector, weights], False)

    def _reduce(self, node: Reduce) -> _Operand:
        if node.name == "sum":
            return self._sum(node.argument)
        argument = self.operand(node.argument)
        if isinstance(argument, _Known):
            value = np.broadcast_to(argument.value, self._d())
            return _Known(float(_NUMPY_REDUCE[node.name](value)))
        reducers = _NUMPY_REDUCE if self.backend == "numpy" else _TORCH_REDUCE
        return self.step(reducers[node.name], [argument], False)

    def _sum(self, node: Node) -> _Operand:
        """Return the sum over the inputs; numbers and weights in front of a term become the weights of the sum."""
        if isinstance(node, Neg):
            return self.elementwise(lambda a: -a, [self._sum(node.argument)])
        if isinstance(node, Mul):
            weight: _Operand = _Known(1.0)
            rest: list[_Operand] = []
            for factor in node.factors:
                operand = self.operand(factor)
                if isinstance(operand, _Known):
                    weight = self.elementwise(lambda a, b: a * b, [weight, operand])
                else:
                    rest.append(operand)
            if rest and isinstance(weight, _Known):
                vector = rest[0]
                for operand in rest[1:]:
                    vector = self.elementwise(lambda a, b: a * b, [vector, operand])
                return self._dot(vector, weight)
        operand = self.operand(node)
        return (
            self._dot(operand, _Known(1.0)) if isinstance(operand, _Slot) else self._dot(_Known(1.0), operand)
        )


def fold(node: Node, functions: Mapping[str, Function]) -> float | None:
    """Return the value of a node made of numbers only, None for any other."""
    match node:
        case Number() | Constant():
            return node.value
        case Inputs() | Input() | Size() | Parameter() | Reduce() | Dot():
            return None
    if node.vector or any(fold(child, functions) is None for child in node.children):
        return None
    compiler = _Compiler("numpy", functions, {}, None)
    known = compiler.operand(node)
    assert isinstance(known, _Known)
    return float(known.value)
