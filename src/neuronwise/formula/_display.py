"""Formulas for people: LaTeX and MathML, by SymPy's printers."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.mathml import MathMLPresentationPrinter

from neuronwise.formula._rewrite import shortened
from neuronwise.formula._symbolic import MAX_DEGREE, applied, degree
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

_LATEX_SPECIAL = re.compile(r"([\\{}_^#&$%~ ])")
_LATEX_NAMES = {"\\": r"\backslash ", "^": r"\hat{}", "~": r"\sim ", " ": r"\ "}


def _escaped(text: str) -> str:
    """Return text with what LaTeX would take for commands escaped."""
    return _LATEX_SPECIAL.sub(lambda found: _LATEX_NAMES.get(found[1], "\\" + found[1]), text)


class _Name(sympy.Symbol):  # type: ignore[misc]
    """An input's name, printed upright and as it is; SymPy would take an underscore for an index."""

    def _latex(self, printer: LatexPrinter) -> str:
        return rf"\mathrm{{{_escaped(self.name)}}}"

    def _mathml_presentation(self, printer: MathMLPresentationPrinter) -> Any:
        element = printer.dom.createElement("mi")
        # The printer writes text as it stands: a name must not bring markup of its own.
        element.appendChild(printer.dom.createTextNode(html.escape(self.name)))
        return element


def product(*factors: Any) -> Any:
    """Return a product that SymPy leaves as it is, flat, so that numbers stand in front."""
    flat = [part for factor in factors for part in (factor.args if factor.is_Mul else (factor,))]
    kept = sorted((part for part in flat if part != 1), key=lambda part: not part.is_number)
    kept = kept or [sympy.Integer(1)]
    return kept[0] if len(kept) == 1 else sympy.Mul(*kept, evaluate=False)


def _sum(terms: Sequence[Any]) -> Any:
    return terms[0] if len(terms) == 1 else sympy.Add(*terms, evaluate=False)


class _Display:
    """A formula as a SymPy expression that reads as mathematics: the vector terms under one sum over i."""

    def __init__(self, functions: Mapping[str, Function], inputs: Sequence[str] | None, digits: int) -> None:
        self.functions = functions
        self.inputs = inputs
        self.digits = digits
        self.size = sympy.Symbol("d")
        self.index = sympy.Symbol("i")

    def formula(self, root: Node) -> Any:
        """Return the expression of a whole formula."""
        terms = root.terms if isinstance(root, Add) else (root,)
        vectors = [self.node(term) for term in terms if term.vector]
        scalars = [self.node(term) for term in terms if not term.vector]
        summed = [self.total(_sum(vectors))] if vectors else []
        return _sum([*summed, *scalars])

    def total(self, element: Any) -> Any:
        """Return the sum over the inputs."""
        return sympy.Sum(element, (self.index, 1, self.size))

    def number(self, value: float) -> Any:
        """Return a number as it is to be printed."""
        short = shortened(value, self.digits)
        if value == int(value) and abs(value) < 1e6:
            return sympy.Integer(int(value))
        return sympy.Float(repr(short), self.digits)

    def symbol(self, name: str, index: object = None) -> Any:
        """Return x_i, w_{1 i}, b_1."""
        parts = [name[0], *([name[1:]] if name[1:] else []), *([] if index is None else [str(index)])]
        return sympy.Symbol("_".join(parts))

    def node(self, node: Node) -> Any:
        """Return a node's expression; of a vector, the i-th element."""
        match node:
            case Number():
                return self.number(node.value)
            case Constant():
                return sympy.pi if node.name == "pi" else sympy.E
            case Inputs():
                return self.symbol("x", "i")
            case Input():
                named = self.inputs is not None and node.index < len(self.inputs)
                return (
                    _Name(self.inputs[node.index])
                    if named and self.inputs
                    else self.symbol("x", node.index + 1)
                )
            case Size():
                return self.size
            case Parameter():
                place = "i" if node.vector else node.index
                return self.symbol(node.name, place + 1 if isinstance(place, int) else place)
            case Neg():
                return product(sympy.Integer(-1), self.node(node.argument))
            case Add():
                return sympy.Add(*(self.node(term) for term in node.terms), evaluate=False)
            case Mul():
                return product(*(self.node(factor) for factor in node.factors))
            case Div():
                lower = sympy.Pow(self.node(node.right), -1, evaluate=False)
                return product(self.node(node.left), lower)
            case Pow():
                return sympy.Pow(self.node(node.base), self.node(node.exponent), evaluate=False)
            case Call():
                return applied(self.functions[node.name], self.node(node.argument), evaluate=False)
            case Dot():
                return self.total(product(self.node(node.left), self.node(node.right)))
            case Reduce():
                return self._reduced(node)
        raise TypeError(f"{type(node).__name__} is no node of a formula.")

    def _reduced(self, node: Reduce) -> Any:
        element = self.node(node.argument)
        match node.name:
            case "sum":
                return self.total(element)
            case "mean":
                return product(self.total(element), sympy.Pow(self.size, -1))
            case "norm":
                return sympy.sqrt(self.total(sympy.Pow(element, 2, evaluate=False)), evaluate=False)
        return sympy.Function(node.name)(element)


def _shown(
    root: Node, functions: Mapping[str, Function], inputs: Sequence[str] | None, digits: int
) -> Any | None:
    """Return what to print, None where SymPy would work out enormous powers."""
    return None if degree(root, functions) > MAX_DEGREE else _Display(functions, inputs, digits).formula(root)


def latex(root: Node, text: str, functions: Mapping[str, Function], inputs: Any, digits: int) -> str:
    """Return LaTeX, without dollar signs.

    Args:
        root: The formula as it is written.
        text: Its text, for what cannot be set as mathematics.
        functions: The table.
        inputs: Names of the inputs.
        digits: Significant digits of numbers.
    """
    shown = _shown(root, functions, inputs, digits)
    if shown is None:
        return rf"\mathtt{{{_escaped(text)}}}"
    return str(sympy.latex(shown))


def _numeric_entities(text: str) -> str:
    """Return markup whose entities XML knows as well as HTML."""
    return re.sub(
        r"&(?!amp|lt|gt|quot|apos)\w+;", lambda found: f"&#x{ord(html.unescape(found[0])):x};", text
    )


def mathml(root: Node, text: str, functions: Mapping[str, Function], inputs: Any, digits: int) -> str:
    """Return presentation MathML, which browsers show without any script; arguments as :func:`latex`."""
    shown = _shown(root, functions, inputs, digits)
    if shown is None:
        body = f"<mtext>{html.escape(text)}</mtext>"
    else:
        body = _numeric_entities(sympy.mathml(shown, printer="presentation"))
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{body}</math>'
