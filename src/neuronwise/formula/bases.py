"""Base functions: elementwise expressions in x, the library of them, and which of them suit some data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neuronwise.errors import DataError, FormulaError, InvalidArgumentError, closest
from neuronwise.formula._gradient import gradients
from neuronwise.formula._growth import domain_of, growth, image
from neuronwise.formula._parser import parse
from neuronwise.formula._plan import Plan
from neuronwise.formula._printing import to_text
from neuronwise.formula.functions import FUNCTIONS, Function
from neuronwise.formula.interval import Interval
from neuronwise.formula.nodes import (
    Call,
    Dot,
    Input,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
    canonical,
    walk,
)

__all__ = ["LIBRARY", "PRESETS", "Base", "bases", "complexity_of", "usable"]

#: Elements that are worked on at a time: what a core's cache holds.
_CHUNK = 16_384
#: Above this a value's square, summed over many rows, overflows.
_LARGEST = 1e140


class Base:
    """A function of one number, applied to every input: a formula in x alone, such as ``sin(2*x)``.

    Immutable; two are equal where their canonical text is.

    Args:
        expression: The formula; ``x`` is the input. A node, as :attr:`Formula.root` consists of, also does.
        functions: The functions that it may call.
        domain: Where it is finite; by default found by trying.

    Raises:
        FormulaError: If it cannot be read, or is more than an elementwise formula in x.

    Example:
        >>> base = Base("sin(2*x)")
        >>> base(np.array([0.0, 1.0])).round(3)
        array([0.   , 0.909])
        >>> base.bounded, base.growth, str(base.derivative())
        (True, 0.0, '2*cos(2*x)')
    """

    def __init__(
        self,
        expression: str | Base | Node,
        *,
        functions: Mapping[str, Function] = FUNCTIONS,
        domain: Interval | str | None = None,
    ) -> None:
        if isinstance(expression, Base):
            functions, expression = expression.functions, expression.node
        if isinstance(expression, str):
            node = parse(expression, None, functions, elementwise=True)
        elif isinstance(expression, Node):
            node = canonical(expression)
        else:
            raise InvalidArgumentError(
                f"A base function is text such as 'sin(2*x)', not {type(expression).__name__}."
            )
        self.text: str = to_text(node)
        for part in walk(node):
            if isinstance(part, Input | Parameter | Reduce | Dot | Size):
                raise FormulaError(
                    f"A base function is elementwise in x; {self.text!r} has {to_text(part)!r} in it.",
                    self.text,
                )
        self.node: Node = node
        self.functions: Mapping[str, Function] = functions
        self._domain = Interval.parse(domain) if isinstance(domain, str) else domain
        self._plans = {
            "numpy": Plan([node], "numpy", functions, {}, None),
            "torch": Plan([node], "torch", functions, {}, None),
        }

    @overload
    def __call__(self, values: torch.Tensor) -> torch.Tensor: ...
    @overload
    def __call__(self, values: ArrayLike) -> NDArray[np.float64]: ...
    def __call__(self, values: Any) -> Any:
        """Return the function of every element, in the same shape.

        Args:
            values: A tensor (dtype and device are kept; differentiable) or an array (computed in float64).
        """
        if isinstance(values, torch.Tensor):
            tensor = values if values.is_floating_point() else values.to(torch.get_default_dtype())
            (out,) = self._plans["torch"].run(tensor)
            return out if isinstance(out, torch.Tensor) else torch.full_like(tensor, out)
        array = np.asarray(values, dtype=np.float64)
        flat = array.reshape(-1)
        found = np.empty_like(flat)
        with np.errstate(all="ignore"):
            for start in range(0, len(flat), _CHUNK):
                (out,) = self._plans["numpy"].run(flat[start : start + _CHUNK])
                found[start : start + _CHUNK] = out
        return found.reshape(array.shape)

    @cached_property
    def domain(self) -> Interval:
        """Where it is finite: the widest interval without a gap (above 0 for 1/x), found by trying, or as given."""
        return self._domain or domain_of(self)

    @cached_property
    def image(self) -> Interval:
        """An interval that has all its values; it may be wider than they are."""
        return image(self.node, self.functions, self.domain)

    @property
    def bounded(self) -> bool:
        """Whether all its values lie between two finite numbers, as far as can be shown."""
        return self.image.finite

    @cached_property
    def growth(self) -> float:
        """The power of x that it grows at most as: 3 for x**3, 0 where bounded, infinity for exp."""
        return growth(self.node, self.functions, self.domain)

    @cached_property
    def complexity(self) -> int:
        """How many parts it has, functions counting more than x; ties between fits go to the simpler."""
        return complexity_of(self.node, self.functions)

    def derivative(self) -> Base:
        """Return the derivative.

        Raises:
            FormulaError: If it calls a function without one.
        """
        return Base(gradients(self.node, self.functions)[0], functions=self.functions)

    @property
    def derivative_text(self) -> str | None:
        """The derivative as text; None where a function has none."""
        try:
            return self.derivative().text
        except FormulaError:
            return None

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise AttributeError(f"A base function cannot be changed; make another for another {name}.")
        super().__setattr__(name, value)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Base({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Base) and self.text == other.text and _called(self) == _called(other)

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> tuple[Any, ...]:
        own = tuple(f for name, f in self.functions.items() if FUNCTIONS.get(name) is not f)
        return _rebuild, (self.text, own, self._domain)


def _rebuild(text: str, own: tuple[Function, ...], domain: Interval | None) -> Base:
    """Return a base function as it was before it was pickled."""
    table = MappingProxyType({**FUNCTIONS, **{f.name: f for f in own}}) if own else FUNCTIONS
    return Base(text, functions=table, domain=domain)


def _called(base: Base) -> dict[str, Function]:
    """Return the user's own functions that a base function calls."""
    names = {part.name for part in walk(base.node) if isinstance(part, Call)}
    return {name: base.functions[name] for name in names if base.functions[name] is not FUNCTIONS.get(name)}


def complexity_of(node: Node, functions: Mapping[str, Function]) -> int:
    """Return how many parts a node has; a function counts its own complexity, x**k as k - 1 products."""
    total = 0
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Call):
            total += functions[part.name].complexity
        elif isinstance(part, Pow) and isinstance(part.exponent, Number):
            value = abs(part.exponent.value)
            total += max(2, int(value)) if value == int(value) else 4
            waiting.append(part.base)
            continue
        else:
            total += 1
        waiting.extend(part.children)
    return total


#: The 25 base functions: powers to 7, sin and cos of x, 2x, 3x, exp of x, -x, 2x, -2x, and 8 more.
LIBRARY: Final[tuple[Base, ...]] = tuple(
    Base(text)
    for text in (
        *("x", "x**2", "x**3", "x**4", "x**5", "x**6", "x**7"),
        *("sin(x)", "sin(2*x)", "sin(3*x)", "cos(x)", "cos(2*x)", "cos(3*x)"),
        *("exp(x)", "exp(-x)", "exp(2*x)", "exp(-2*x)"),
        *(
            "abs(x)",
            "sqrt(abs(x))",
            "log(1 + x**2)",
            "tanh(x)",
            "tanh(2*x)",
            "exp(-x**2)",
            "1/(1 + x**2)",
            "relu(x)",
        ),
    )
)

#: Sets of base functions by name.
PRESETS: Final[Mapping[str, tuple[Base, ...]]] = MappingProxyType(
    {
        "default": LIBRARY,
        "polynomial": LIBRARY[:5],
        "powers7": LIBRARY[:7],
        "bounded": (LIBRARY[0], *(base for base in LIBRARY if base.bounded)),
        "log": (*LIBRARY, Base("log(x)"), Base("sqrt(x)"), Base("1/x")),
    }
)


def bases(
    spec: str | Base | Iterable[str | Base], *, functions: Mapping[str, Function] = FUNCTIONS
) -> tuple[Base, ...]:
    """Return base functions by a preset's name, as a list in one text, or one by one.

    Args:
        spec: ``"default"``, ``"polynomial"``, ``"powers7"``, ``"bounded"`` or ``"log"``; or ``"x, x**2, sin(x)"``; or
            several texts or base functions.
        functions: The functions that they may call.

    Raises:
        InvalidArgumentError: If there are none, or one comes twice.
        FormulaError: If one cannot be read.

    Example:
        >>> bases("x, x**2, sin(x)")
        (Base('x'), Base('x**2'), Base('sin(x)'))
    """
    if isinstance(spec, str):
        if spec.strip() in PRESETS:
            return PRESETS[spec.strip()]
        parts: list[str | Base] = list(_split(spec))
    elif isinstance(spec, Base):
        parts = [spec]
    elif isinstance(spec, Iterable):
        parts = list(spec)
    else:
        raise InvalidArgumentError(f"bases takes text or base functions, not {type(spec).__name__}.")
    if not parts:
        raise InvalidArgumentError(f"There is no base function. Presets: {', '.join(PRESETS)}.")
    try:
        found = tuple(part if isinstance(part, Base) else Base(part, functions=functions) for part in parts)
    except FormulaError as error:
        if len(parts) == 1 and isinstance(spec, str) and spec.isidentifier():
            raise InvalidArgumentError(f"There is no preset {spec!r}. {closest(spec, PRESETS)}") from error
        raise
    twice = sorted({base.text for base in found if found.count(base) > 1})
    if twice:
        raise InvalidArgumentError(f"These base functions come more than once: {', '.join(twice)}.")
    return found


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "(<[") - (character in ")>]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def usable(
    bases: Sequence[Base], X: ArrayLike, names: Sequence[str] | None = None
) -> tuple[tuple[Base, ...], dict[Base, str]]:
    """Return the base functions that can be computed on data, and why the others cannot.

    Args:
        bases: The base functions.
        X: ``(n, d)`` data, finite.
        names: Names of the inputs, for the reasons.

    Returns:
        Those that are finite, not enormous (above 1e140 sums of squares overflow) and not constant on all inputs; and
        a reason for each of the others.

    Raises:
        DataError: If X is no table of numbers.
    """
    data = np.asarray(X, dtype=np.float64)
    if data.ndim != 2 or not data.size:
        raise DataError(
            f"Data are a table (n, d) with at least one row and one column, not of shape {data.shape}."
        )
    kept, dropped = [], {}
    for base in bases:
        reason = _fault(base, data, names)
        if reason is None:
            kept.append(base)
        else:
            dropped[base] = reason
    return tuple(kept), dropped


def _fault(base: Base, data: NDArray[np.float64], names: Sequence[str] | None) -> str | None:
    """Return why a base function cannot be used on data, None where it can."""
    values = base(data)
    low, high = values.min(0), values.max(0)
    for column in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))):
        bad = ~np.isfinite(values[:, column])
        name = names[int(column)] if names is not None else f"x[{column}]"
        example = data[int(np.argmax(bad)), column]
        return f"not finite for {int(bad.sum())} of {len(data)} values of {name}, such as {example:g}"
    largest = float(max(high.max(), -low.min()))
    if largest > _LARGEST:
        return f"overflows: its largest value on the data is {largest:.3g}"
    if np.all(low == high):
        return "constant on every input"
    return None
