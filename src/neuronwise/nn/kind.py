"""Kinds of neurons: what a neuron does with its inputs before its activation, as a small frozen value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.formula import FUNCTIONS, Base, Formula, Function, bases
from neuronwise.nn._linear_form import LinearForm, linear_form
from neuronwise.nn._read import read
from neuronwise.nn._spread import LINEAR_VARIANCE, measured_spread
from neuronwise.nn.blocks import Block
from neuronwise.nn.combine import Combine, Sum, Term

__all__ = ["KINDS", "Kind", "KindLike", "kind", "polynomial"]


@dataclass(frozen=True)
class Kind:
    """A kind of neuron: base functions of the inputs, inner products of them with weights, and what comes of those.

    ``lift`` (features of each input) -> ``blocks`` (inner products, all in one matrix product where they read the same
    features) -> ``combine`` (one number for each neuron). The activation stays outside. Make one with :func:`kind`;
    one that no formula can say is made of its parts here, with a :class:`Combine` of its own.

    Args:
        name: What it is called.
        lift: The base functions.
        blocks: The inner products, and numbers of the neuron.
        combine: How they become the neuron's output.
        formula: The formula it was made from, its parameters free; None for one made by hand.
    """

    name: str
    lift: tuple[Base, ...]
    blocks: tuple[Block, ...]
    combine: Combine
    formula: Formula | None = None

    def __post_init__(self) -> None:
        if all(block.role == "bias" and not block.bases for block in self.blocks):
            raise InvalidArgumentError(
                f"A neuron of kind {self.name!r} would have nothing to tell it from the others. Write inner products, "
                "such as '<w1, x>'."
            )
        beyond = {index for block in self.blocks for index in block.bases} - set(range(len(self.lift)))
        if beyond:
            raise InvalidArgumentError(
                f"The blocks of {self.name!r} read base functions {sorted(beyond)}, and there are {len(self.lift)}."
            )

    @property
    def text(self) -> str:
        """Its formula, or its name where it has none; what a state dict is checked by."""
        return self.name if self.formula is None else str(self.formula)

    @property
    def products(self) -> int:
        """How many weights a neuron has for each input: the cost of the kind in linear layers."""
        return sum(block.rows for block in self.blocks)

    @property
    def is_sum(self) -> bool:
        """Whether the output is one inner product: a sum of base functions."""
        single = isinstance(self.combine, Sum) and self.combine.terms == (Term((0,)),)
        return single and len(self.blocks) == 1 and bool(self.blocks[0].bases)

    @cached_property
    def is_linear(self) -> bool:
        """Whether it is the weighted sum of the inputs."""
        return self.is_sum and [base.text for base in self.lift] == ["x"] and self.blocks[0].role == "bias"

    @cached_property
    def linear(self) -> LinearForm | None:
        """How its weights are set to compute any weighted sum and still to learn; None where that cannot be."""
        return linear_form(self.lift, self.blocks, self.combine)

    def spread(self, inputs: int) -> float:
        """Return the deviation of inner products at the start, for the output to vary as that of a linear neuron.

        The variance of a linear neuron under standard normal inputs is 1/3 with the initialisation of
        ``torch.nn.Linear``. For a sum of K base functions each has a share of 1/K; where inner products meet in a
        product or an expression, the deviation is measured once (see :mod:`neuronwise.nn._spread`).

        Args:
            inputs: Number of inputs, which matters only to kinds that read them one by one.
        """
        if self.is_sum:
            return math.sqrt(LINEAR_VARIANCE)
        return (
            measured_spread(self.blocks, self.combine, inputs) if self.combine.needs_inputs else self._spread
        )

    @cached_property
    def _spread(self) -> float:
        return measured_spread(self.blocks, self.combine, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values that JSON can hold; :meth:`from_dict` makes it anew.

        Raises:
            InvalidArgumentError: If no formula says it.
        """
        if self.formula is None:
            raise InvalidArgumentError(
                f"The kind {self.name!r} was made by hand, of no formula: save what it was made of yourself."
            )
        return {"name": self.name, "formula": self.formula.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Kind:
        """Return the kind that :meth:`to_dict` wrote down.

        Args:
            values: The plain values.

        Raises:
            InvalidArgumentError: If they are none of a kind.
            FormulaError: If the formula cannot be read.
        """
        if not {"name", "formula"} <= set(values):
            raise InvalidArgumentError(f"A kind is saved as name and formula, not as {sorted(values)}.")
        return _of_formula(Formula.from_dict(values["formula"]), str(values["name"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> Kind:
        """Return itself: nothing in it can change."""
        return self

    def __reduce__(self) -> Any:
        """Pickle as text, where there is one."""
        return super().__reduce__() if self.formula is None else (_of_formula, (self.formula, self.name))

    def __str__(self) -> str:
        return self.name


KindLike = Kind | Formula | str | Iterable[str | Base]
"""What :func:`kind` takes."""


def kind(spec: KindLike, *, functions: Mapping[str, Function] = FUNCTIONS) -> Kind:
    """Return a kind of neuron by name, by formula, or by its base functions.

    Where a term names no parameters, its numbers are thrown away and weights put in their place (``2*x**2 - 3*x + 1``
    becomes ``<w1, x**2> + <w2, x> + b1``), as in arXiv 2405.02369. Terms with parameters stay as they are, but for a
    number in front, which says nothing beside weights; values of parameters are not taken over. A neuron gets an offset
    where its formula has none. What came out is the kind's ``formula``.

    Args:
        spec: A name of :data:`KINDS`; text such as ``"x**2 + sin(x)"`` or
            ``"(<w1, x> + b1)*(<w2, x> + b2)"``; a :class:`Formula`; base functions, each with weights of its own; or a
            kind, which is returned.
        functions: The functions that text may call.

    Raises:
        InvalidArgumentError: If it is none of these, or a neuron would have no weights.
        FormulaError: If the text cannot be read.

    Example:
        >>> kind("x**2 + sin(x)").lift
        (Base('x**2'), Base('sin(x)'))
        >>> kind("quadratic").products
        3
    """
    if isinstance(spec, Kind):
        return spec
    if isinstance(spec, Formula):
        return _of_formula(spec, None)
    if isinstance(spec, str):
        if spec in KINDS:
            return KINDS[spec]
        if spec.isidentifier() and spec != "x":
            raise InvalidArgumentError(
                f"There is no kind {spec!r}. {closest(spec, KINDS)} A formula also does, such as 'x + sin(x)'."
            )
        return _of_formula(Formula(spec, functions=functions), None)
    if isinstance(spec, Iterable):
        return _of_bases(bases(list(spec), functions=functions), None)
    raise InvalidArgumentError(
        f"A kind is a name ({', '.join(KINDS)}), a formula, or base functions, not {type(spec).__name__}."
    )


def polynomial(degree: int) -> Kind:
    """Return the kind ``b + <w1, x> + <w2, x**2> + ...``, each power with weights of its own.

    Args:
        degree: The highest power, at least 1.

    Raises:
        InvalidArgumentError: If there is no such power.
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise InvalidArgumentError(f"The degree of a polynomial is a whole number from 1, not {degree!r}.")
    powers = [f"x**{power}" if power > 1 else "x" for power in range(1, degree + 1)]
    return _of_bases(bases(powers), f"polynomial({degree})")


def _of_bases(lift: tuple[Base, ...], name: str | None) -> Kind:
    table = {key: function for base in lift for key, function in base.functions.items()}
    terms = [f"<w{number}, {base.text}>" for number, base in enumerate(lift, 1)]
    return _of_formula(Formula(" + ".join([*terms, "b1"]), functions=table or FUNCTIONS), name)


def _of_formula(formula: Formula, name: str | None) -> Kind:
    lift, blocks, combine, free = read(formula)
    return Kind(name or str(formula), lift, blocks, combine, free)


def _table() -> Mapping[str, Kind]:
    formulas = {
        "linear": "<w1, x> + b1",
        "product": "(<w1, x> + b1)*(<w2, x> + b2)",
        "quadratic": "(<w1, x> + b1)*(<w2, x> + b2) + <w3, x**2> + b3",
        "quadratic_residual": "<w1, x>*<w2, x> + <w1, x> + b1",
        "quadratic_linear": "<w1, x>*<w2, x> + <w3, x> + b1",
    }
    table = {name: _of_formula(Formula(text), name) for name, text in formulas.items()}
    cubic = polynomial(3)
    table["polynomial"] = Kind("polynomial", cubic.lift, cubic.blocks, cubic.combine, cubic.formula)
    return MappingProxyType(table)


KINDS: Final[Mapping[str, Kind]] = _table()
"""Kinds by name.

- ``linear``: the weighted sum of ``torch.nn.Linear``.
- ``product``: the product of two.
- ``quadratic``: product and a weighted sum of squares (Fan, Cong, Wang 2018, arXiv 1709.01963, eq. 1).
- ``quadratic_residual``: ``(W1 x)*(W2 x) + W1 x + b`` (QRes; Bu, Karpatne 2021, arXiv 2101.08366).
- ``quadratic_linear``: ``(W1 x)*(W2 x) + W3 x + b`` (QuadraLib; Xu, Yu, Xiong, Chen, MLSys 2022).
- ``polynomial``: powers 1 to 3 of each input; other degrees with :func:`polynomial`.
"""
