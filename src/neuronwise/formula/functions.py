"""The table of elementwise functions that a formula may call, and how a user adds one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from scipy import special

from neuronwise.errors import InvalidArgumentError
from neuronwise.formula._printing import BARE, PARAMETER, RESERVED
from neuronwise.formula.interval import REALS, Interval

__all__ = ["ALIASES", "FUNCTIONS", "Function", "with_functions"]


@dataclass(frozen=True)
class Function:
    """A function of one number that formulas apply to every element.

    Args:
        name: How it is written in a formula: letters, digits, underscores.
        numpy: Its NumPy form, array to array of the same shape.
        torch: Its torch form, tensor to tensor of the same shape; must be differentiable by autograd.
        sympy: Its SymPy form: the name of a SymPy function, or a callable on expressions. None leaves it as it is in
            simplification and prints its name.
        domain: The arguments where it is defined, as an :class:`Interval` or its text: ``"(0, inf)"``, ``"[-1, 1]"``.
        bounded: Whether all its values lie between two finite numbers.
        complexity: What it counts in :attr:`Formula.complexity`, at least 1.
        doc: One line about it.
        derivative: Its derivative as text in x, such as ``"cos(x)"``; None: formulas with it have no gradient.
        image: Which values it takes; None: every number, or some unknown finite interval where ``bounded``.
        increasing: Whether it never falls.
        growth: The power of its argument that it grows as: 1 for abs, 0.5 for sqrt, 0 for log. None: 0 where bounded,
            else infinity.
        expression: The text it was made from by :meth:`from_expression`.

    Raises:
        InvalidArgumentError: If the name cannot be written in a formula, or the complexity is less than 1.
    """

    name: str
    numpy: Callable[[Any], Any]
    torch: Callable[[torch.Tensor], torch.Tensor]
    sympy: str | Callable[[Any], Any] | None = None
    domain: Interval | str = REALS
    bounded: bool = False
    complexity: int = 1
    doc: str = ""
    derivative: str | None = None
    image: Interval | str | None = None
    increasing: bool = False
    growth: float | None = None
    expression: str | None = None

    def __post_init__(self) -> None:
        if not BARE.fullmatch(self.name) or self.name in RESERVED or PARAMETER.fullmatch(self.name):
            raise InvalidArgumentError(
                f"A function cannot be called {self.name!r}: take letters, digits and underscores, and no name that "
                f"formulas use for something else ({', '.join(sorted(RESERVED))}, w1, b1, c1)."
            )
        if self.complexity < 1:
            raise InvalidArgumentError(f"complexity must be at least 1, not {self.complexity}.")
        for field in ("domain", "image"):
            value = getattr(self, field)
            if isinstance(value, str):
                object.__setattr__(self, field, Interval.parse(value))
        if self.image is not None:
            object.__setattr__(self, "bounded", self.bounded or self.values_in.finite)
        if self.growth is None:
            object.__setattr__(self, "growth", 0.0 if self.bounded else math.inf)

    @property
    def defined_on(self) -> Interval:
        """The domain as an interval."""
        assert isinstance(self.domain, Interval)
        return self.domain

    @property
    def values_in(self) -> Interval:
        """The image as an interval; every number where it is not known."""
        return self.image if isinstance(self.image, Interval) else REALS

    @classmethod
    def from_expression(
        cls,
        name: str,
        expression: str,
        *,
        functions: Mapping[str, Function] | None = None,
        complexity: int | None = None,
        doc: str = "",
    ) -> Function:
        """Make a function from a formula in x; everything else about it is derived.

        Args:
            name: How it is written.
            expression: What it is, elementwise in x: ``"x*sigmoid(x)"``.
            functions: The functions that the expression may call; by default the table.
            complexity: What it counts; by default as much as its expression.
            doc: One line about it.

        Raises:
            FormulaError: If the expression cannot be read, or is not elementwise in x.

        Example:
            >>> swish = Function.from_expression("swish", "x*sigmoid(x)")
            >>> float(swish.numpy(0.0)), swish.growth
            (0.0, 1.0)
        """
        from neuronwise.formula.bases import Base

        base = Base(expression, functions=FUNCTIONS if functions is None else functions)
        return cls(
            name,
            numpy=base,
            torch=base,
            domain=base.domain,
            bounded=base.bounded,
            complexity=base.complexity if complexity is None else complexity,
            doc=doc,
            derivative=base.derivative_text,
            image=base.image,
            growth=base.growth,
            expression=base.text,
        )


def _softplus(x: torch.Tensor) -> torch.Tensor:
    # torch's own softplus is the identity above 20, which is 2e-9 off.
    return torch.logaddexp(x, torch.zeros_like(x))


def _step(x: torch.Tensor) -> torch.Tensor:
    # torch's own comparison makes 0 of NaN, and cuts the graph.
    return torch.where(torch.isnan(x), x, (x > 0).to(x.dtype))


def _sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isnan(x), x, torch.sign(x))


def _gauss(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-x * x)


def _numpy_relu(x: Any) -> Any:
    return np.maximum(x, 0.0)


def _numpy_softplus(x: Any) -> Any:
    return np.logaddexp(x, 0.0)


def _numpy_step(x: Any) -> Any:
    return np.where(np.isnan(x), x, np.greater(x, 0.0))


def _numpy_gauss(x: Any) -> Any:
    return np.exp(-np.multiply(x, x))


def _table() -> Mapping[str, Function]:
    inverse = "1/(1 - x**2)**0.5"
    one = Interval(-1.0, 1.0, True, True)
    half = math.pi / 2
    rows = [
        Function("sin", np.sin, torch.sin, "sin", image=one, complexity=3, derivative="cos(x)", doc="sine"),
        Function(
            "cos", np.cos, torch.cos, "cos", image=one, complexity=3, derivative="-sin(x)", doc="cosine"
        ),
        Function("tan", np.tan, torch.tan, "tan", complexity=4, derivative="1 + tan(x)**2", doc="tangent"),
        Function(
            "asin",
            np.arcsin,
            torch.asin,
            "asin",
            domain=one,
            image=Interval(-half, half, True, True),
            increasing=True,
            complexity=4,
            derivative=inverse,
            doc="inverse sine",
        ),
        Function(
            "acos",
            np.arccos,
            torch.acos,
            "acos",
            domain=one,
            image=Interval(0.0, math.pi, True, True),
            complexity=4,
            derivative=f"-{inverse}",
            doc="inverse cosine",
        ),
        Function(
            "atan",
            np.arctan,
            torch.atan,
            "atan",
            image=Interval(-half, half),
            increasing=True,
            complexity=4,
            derivative="1/(1 + x**2)",
            doc="inverse tangent",
        ),
        Function(
            "sinh",
            np.sinh,
            torch.sinh,
            "sinh",
            increasing=True,
            complexity=4,
            derivative="cosh(x)",
            doc="(e^x - e^-x)/2",
        ),
        Function(
            "cosh",
            np.cosh,
            torch.cosh,
            "cosh",
            image="[1, inf)",
            complexity=4,
            derivative="sinh(x)",
            doc="(e^x + e^-x)/2",
        ),
        Function(
            "tanh",
            np.tanh,
            torch.tanh,
            "tanh",
            image="(-1, 1)",
            increasing=True,
            complexity=3,
            derivative="1 - tanh(x)**2",
            doc="hyperbolic tangent",
        ),
        Function(
            "asinh",
            np.arcsinh,
            torch.asinh,
            "asinh",
            increasing=True,
            growth=0.0,
            complexity=4,
            derivative="1/(1 + x**2)**0.5",
            doc="inverse of sinh; a logarithm for both signs",
        ),
        Function(
            "exp",
            np.exp,
            torch.exp,
            "exp",
            image="(0, inf)",
            increasing=True,
            complexity=3,
            derivative="exp(x)",
            doc="e^x",
        ),
        Function(
            "expm1",
            np.expm1,
            torch.expm1,
            image="(-1, inf)",
            increasing=True,
            complexity=4,
            derivative="exp(x)",
            doc="e^x - 1, exact near 0",
        ),
        Function(
            "log",
            np.log,
            torch.log,
            "log",
            domain="(0, inf)",
            increasing=True,
            growth=0.0,
            complexity=3,
            derivative="1/x",
            doc="natural logarithm",
        ),
        Function(
            "log1p",
            np.log1p,
            torch.log1p,
            domain="(-1, inf)",
            increasing=True,
            growth=0.0,
            complexity=4,
            derivative="1/(1 + x)",
            doc="log(1 + x), exact near 0",
        ),
        Function(
            "sqrt",
            np.sqrt,
            torch.sqrt,
            "sqrt",
            domain="[0, inf)",
            image="[0, inf)",
            increasing=True,
            growth=0.5,
            complexity=2,
            derivative="0.5/sqrt(x)",
            doc="square root",
        ),
        Function(
            "abs",
            np.abs,
            torch.abs,
            "Abs",
            image="[0, inf)",
            growth=1.0,
            complexity=2,
            derivative="sign(x)",
            doc="absolute value",
        ),
        Function(
            "sign",
            np.sign,
            _sign,
            "sign",
            image=one,
            increasing=True,
            complexity=2,
            derivative="0",
            doc="-1, 0 or 1",
        ),
        Function(
            "step",
            _numpy_step,
            _step,
            image="[0, 1]",
            increasing=True,
            complexity=2,
            derivative="0",
            doc="1 above 0, else 0",
        ),
        Function(
            "relu",
            _numpy_relu,
            torch.relu,
            image="[0, inf)",
            increasing=True,
            growth=1.0,
            complexity=2,
            derivative="step(x)",
            doc="max(x, 0)",
        ),
        Function(
            "softplus",
            _numpy_softplus,
            _softplus,
            image="(0, inf)",
            increasing=True,
            growth=1.0,
            complexity=4,
            derivative="sigmoid(x)",
            doc="log(1 + e^x)",
        ),
        Function(
            "sigmoid",
            special.expit,
            torch.sigmoid,
            image="(0, 1)",
            increasing=True,
            complexity=3,
            derivative="sigmoid(x)*sigmoid(-x)",
            doc="1/(1 + e^-x)",
        ),
        Function(
            "erf",
            special.erf,
            torch.erf,
            "erf",
            image="(-1, 1)",
            increasing=True,
            complexity=4,
            derivative="2/sqrt(pi)*gauss(x)",
            doc="error function",
        ),
        Function(
            "gauss",
            _numpy_gauss,
            _gauss,
            image="(0, 1]",
            complexity=4,
            derivative="-2*x*gauss(x)",
            doc="e^(-x^2)",
        ),
    ]
    return MappingProxyType({row.name: row for row in rows})


#: Every function that formulas know: name -> :class:`Function`. A user's own are added by :func:`with_functions`.
FUNCTIONS: Final[Mapping[str, Function]] = _table()

#: Other ways to write a function of the table.
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ln": "log",
        "arcsin": "asin",
        "arccos": "acos",
        "arctan": "atan",
        "arcsinh": "asinh",
        "Abs": "abs",
        "fabs": "abs",
        "expit": "sigmoid",
        "logistic": "sigmoid",
        "heaviside": "step",
    }
)


def with_functions(*new: Function) -> Mapping[str, Function]:
    """Return the table with functions of your own, for ``functions=`` of :class:`Formula` and :class:`Base`.

    Args:
        *new: The functions to add; one of a name that the table has takes its place.

    Raises:
        InvalidArgumentError: If one is no :class:`Function`, or two have one name.

    Example:
        >>> table = with_functions(Function.from_expression("cube", "x**3"))
        >>> "cube" in table, "cube" in FUNCTIONS
        (True, False)
    """
    for function in new:
        if not isinstance(function, Function):
            raise InvalidArgumentError(
                f"with_functions takes Function objects, not {type(function).__name__}."
            )
    names = [function.name for function in new]
    if len(set(names)) < len(names):
        raise InvalidArgumentError(f"Every function needs a name of its own; these came: {', '.join(names)}.")
    return MappingProxyType({**FUNCTIONS, **{function.name: function for function in new}})
