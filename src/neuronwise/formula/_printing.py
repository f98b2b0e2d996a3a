"""A node as text that reads back as the same node."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

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
    neg,
)

REDUCTIONS = ("sum", "mean", "max", "min", "norm")
RESERVED = frozenset({"x", "size", "pi", "e", "dot", *REDUCTIONS})
PARAMETER = re.compile(r"[wbc]\d*")
BARE = re.compile(r"[^\W\d]\w*")

# What binds how tightly.
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(5)


def number_text(value: float) -> str:
    """Return the shortest text of a number that reads back as the same number."""
    if value == int(value) and abs(value) < 1e16 and math.copysign(1.0, value) == (1 if value >= 0 else -1):
        return str(int(value))
    return repr(value)


def input_text(index: int, inputs: Sequence[str] | None) -> str:
    """Return how an input is written: by name where there are names, in backquotes where the name needs them."""
    if inputs is None or index >= len(inputs):
        return f"x[{index}]"
    name = inputs[index]
    if not name.strip() or "`" in name or not name.isprintable():
        return f"x[{index}]"
    plain = BARE.fullmatch(name) and name not in RESERVED and not PARAMETER.fullmatch(name)
    return name if plain else f"`{name}`"


def to_text(node: Node, inputs: Sequence[str] | None = None) -> str:
    """Return the canonical text of a node."""
    return _text(node, _SUM, inputs)


def _text(node: Node, tightness: int, inputs: Sequence[str] | None) -> str:
    """Return the text, in brackets where it binds less tightly than its place asks for."""
    own, text = _parts(node, inputs)
    return f"({text})" if own < tightness else text


def _parts(node: Node, inputs: Sequence[str] | None) -> tuple[int, str]:
    match node:
        case Number():
            text = number_text(node.value)
            return (_SIGN if text[0] == "-" else _ATOM), text
        case Constant():
            return _ATOM, node.name
        case Inputs():
            return _ATOM, "x"
        case Size():
            return _ATOM, "size"
        case Input():
            return _ATOM, input_text(node.index, inputs)
        case Parameter():
            return _ATOM, node.name if node.index is None else f"{node.name}[{node.index}]"
        case Add():
            return _SUM, _sum(node, inputs)
        case Neg():
            # What follows the sign is read as a whole product: -x*y is -(x*y).
            inner = _PRODUCT if isinstance(node.argument, Mul | Div) else _POWER
            return _PRODUCT if inner == _PRODUCT else _SIGN, "-" + _text(node.argument, inner, inputs)
        case Mul():
            first, *rest = node.factors
            parts = [_text(first, _PRODUCT, inputs), *(_text(factor, _POWER, inputs) for factor in rest)]
            return _PRODUCT, "*".join(parts)
        case Div():
            return _PRODUCT, f"{_text(node.left, _PRODUCT, inputs)}/{_text(node.right, _POWER, inputs)}"
        case Pow():
            base, exponent = _text(node.base, _ATOM, inputs), _text(node.exponent, _SIGN, inputs)
            return _POWER, f"{base}**{exponent}"
        case Dot():
            return _ATOM, f"<{_text(node.left, _SUM, inputs)}, {_text(node.right, _SUM, inputs)}>"
        case Call() | Reduce():
            return _ATOM, f"{node.name}({_text(node.argument, _SUM, inputs)})"
    raise TypeError(f"{type(node).__name__} is no node of a formula.")


def _sum(node: Add, inputs: Sequence[str] | None) -> str:
    parts = [_text(node.terms[0], _PRODUCT, inputs)]
    for term in node.terms[1:]:
        text = _text(term, _PRODUCT, inputs)
        if text[0] == "-":
            parts.append(f" - {_text(neg(term), _PRODUCT, inputs)}")
        else:
            parts.append(f" + {text}")
    return "".join(parts)
