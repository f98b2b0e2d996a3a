"""Text to nodes: a fixed grammar and fixed names; nothing of the text is ever run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import lark
from lark.visitors import Transformer_NonRecursive

from neuronwise.errors import FormulaError, closest
from neuronwise.formula._plan import fold
from neuronwise.formula._printing import PARAMETER, REDUCTIONS
from neuronwise.formula.functions import ALIASES, Function
from neuronwise.formula.nodes import (
    Add,
    Call,
    Constant,
    Div,
    Dot,
    Input,
    Inputs,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
    add,
    div,
    mul,
    neg,
)

#: Limits of what is read, so that no text can take long or overflow the stack.
MAX_TEXT = 150_000
MAX_TOKENS = 25_000
MAX_DEPTH = 100
MAX_NODES = 5_000
MAX_EXPONENT = 1000

_MINUS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})
_OPENING = {"(": ")", "[": "]", "<": ">"}
_READABLE = {
    "SIGN": "+ or -",
    "TIMES": "* or /",
    "POWER": "**",
    "NUMBER": "a number",
    "NAME": "a name",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "ANGLE": "<",
    "MORETHAN": ">",
    "COMMA": ",",
}


@dataclass(frozen=True)
class _Group:
    """A sum in brackets: one term, where the same sum without brackets is several."""

    node: Node


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(item: Any) -> Node:
    node = item.node if isinstance(item, _Group) else item
    assert isinstance(node, Node)
    return node


@lru_cache(maxsize=1)
def _grammar() -> lark.Lark:
    text = resources.files("neuronwise.formula").joinpath("grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(text, parser="lalr", maybe_placeholders=False)


@lark.v_args(inline=True)
class _Reader(Transformer_NonRecursive[Any, Node]):
    """Makes nodes from the parser's tree, from the leaves up, so that depth is limited before it can hurt."""

    def __init__(
        self, text: str, inputs: Sequence[str] | None, functions: Mapping[str, Function], elementwise: bool
    ) -> None:
        super().__init__()
        self.elementwise = elementwise
        self.text = text
        self.inputs = inputs
        self.functions = functions

    def fault(self, message: str, token: Any) -> FormulaError:
        return FormulaError(message, self.text, getattr(token, "start_pos", None))

    def checked(self, node: Node, token: Any) -> Node:
        if node.depth > MAX_DEPTH:
            raise self.fault(f"This is nested more than {MAX_DEPTH} levels deep: split the formula.", token)
        if node.size > MAX_NODES:
            raise self.fault(f"This has more than {MAX_NODES:,} parts: split the formula.", token)
        return node

    def start(self, item: Any) -> Node:
        # "(x + 1)" is one vector term, as "2*(x + 1)" is; without the brackets 1 would be an offset.
        if isinstance(item, _Group) and item.node.vector and not self.elementwise:
            return Reduce("sum", item.node)
        return _plain(item)

    def number(self, token: Any) -> Node:
        value = float(token)
        if math.isinf(value) or (value == 0.0 and any(c in "123456789" for c in token.lower().split("e")[0])):
            raise self.fault(f"{_short(token)} is outside what float64 can hold.", token)
        return Number(value)

    def name(self, token: Any) -> Node:
        text = str(token)
        if text == "x":
            return Inputs()
        if text == "size":
            return Size()
        if text in ("pi", "e"):
            return Constant(text)
        if PARAMETER.fullmatch(text):
            return Parameter(text)
        if self.inputs is not None and text in self.inputs:
            return Input(self.inputs.index(text))
        if text in self.functions or text in ALIASES or text in REDUCTIONS or text == "dot":
            raise self.fault(f"{text} is a function: write {text}(...).", token)
        known = ["x", "size", "pi", "e", *(self.inputs or ())]
        hint = (
            " Inputs are known by name after inputs=[...], else as x[0], x[1], ..."
            if self.inputs is None
            else ""
        )
        raise self.fault(
            f"{_short(text)!r} is no name that formulas know. {closest(_short(text), known)}{hint}", token
        )

    def quoted(self, token: Any) -> Node:
        name = str(token)[1:-1]
        if self.inputs is None:
            raise self.fault(f"An input called {_short(name)!r} is known only after inputs=[...].", token)
        if name not in self.inputs:
            raise self.fault(
                f"There is no input called {_short(name)!r}. {closest(_short(name), self.inputs)}", token
            )
        return Input(self.inputs.index(name))

    def indexed(self, token: Any, number: Any) -> Node:
        if not number.isdecimal():
            raise self.fault("An index is a whole number from 0.", number)
        # More digits than any array has elements; converting a very long text would take its time.
        if len(number) > 12:
            raise self.fault("There is no such input: the index is too large.", number)
        index = int(number)
        if str(token) == "x":
            if self.inputs is not None and index >= len(self.inputs):
                raise self.fault(f"There is no input {index}; there are {len(self.inputs)}, from 0.", number)
            return Input(index)
        if PARAMETER.fullmatch(token) and token[0] == "w":
            return Parameter(str(token), index)
        raise self.fault(f"Only x and weights such as w1 have elements, {str(token)!r} has not.", token)

    def group(self, item: Any) -> Any:
        return _Group(item) if isinstance(item, Add) else item

    def inner(self, token: Any, left: Any, right: Any) -> Node:
        return self.checked(Dot(_plain(left), _plain(right)), token)

    def call(self, token: Any, *rest: Any) -> Node:
        name = ALIASES.get(str(token), str(token)) if str(token) not in self.functions else str(token)
        arguments = [_plain(item) for item in rest]
        if name == "dot":
            if len(arguments) != 2:
                raise self.fault(f"dot takes two vectors, not {len(arguments)}.", token)
            return self.checked(Dot(*arguments), token)
        if name not in self.functions and name not in REDUCTIONS:
            known = [*self.functions, *REDUCTIONS, "dot"]
            raise self.fault(f"There is no function {_short(name)!r}. {closest(_short(name), known)}", token)
        if len(arguments) != 1:
            raise self.fault(f"{name} takes one argument, not {len(arguments)}.", token)
        (argument,) = arguments
        if name in REDUCTIONS:
            if not argument.vector:
                raise self.fault(
                    f"{name} takes a vector (something with x or w1), but its argument is one number.", token
                )
            return self.checked(Reduce(name, argument), token)
        return self.checked_value(Call(name, argument), token)

    def raised(self, base: Any, token: Any, exponent: Any) -> Node:
        return self.checked_value(Pow(_plain(base), _plain(exponent)), token)

    def checked_value(self, node: Node, token: Any) -> Node:
        problem = numeric_fault(node, self.functions)
        if problem is not None:
            raise self.fault(problem, token)
        return self.checked(node, token)

    def signed(self, token: Any, item: Any) -> Node:
        node = _plain(item)
        return self.checked(neg(node) if token == "-" else node, token)

    def multiplied(self, first: Any, *rest: Any) -> Node:
        # Runs of * stay one product, however long.
        run = [_plain(first)]
        for token, item in zip(rest[::2], rest[1::2], strict=True):
            if token == "*":
                run.append(_plain(item))
            else:
                run = [self.checked_value(div(mul(*run), _plain(item)), token)]
        return self.checked_value(mul(*run), rest[0])

    def chain(self, first: Any, *rest: Any) -> Node:
        terms = [_plain(first)]
        for sign, item in zip(rest[::2], rest[1::2], strict=True):
            terms.append(neg(_plain(item)) if sign == "-" else _plain(item))
        return self.checked_value(add(*terms), rest[0])


def parse(
    text: str, inputs: Sequence[str] | None, functions: Mapping[str, Function], *, elementwise: bool = False
) -> Node:
    """Return the node that a text stands for.

    Args:
        text: The formula.
        inputs: Names of the inputs.
        functions: The functions it may call.
        elementwise: Whether brackets around the whole are no more than brackets: ``(x + 1)`` is x + 1, not its sum.

    Raises:
        FormulaError: If it cannot be read; with the position.
    """
    if len(text) > MAX_TEXT:
        raise FormulaError(f"The formula has {len(text):,} characters; up to {MAX_TEXT:,} are read.")
    clean = text.translate(_MINUS)
    tokens = sum(1 for _ in re.finditer(r"[\w.]+|\S", clean))
    if tokens > MAX_TOKENS:
        raise FormulaError(f"The formula has {tokens:,} words and signs; up to {MAX_TOKENS:,} are read.")
    if not clean.strip():
        raise FormulaError("The formula is empty: write one, such as 'x**2 + sin(x)'.", text, 0)
    _check_brackets(clean, text)
    reader = _Reader(text, inputs, functions, elementwise)
    try:
        node = reader.transform(_grammar().parse(clean))
    except lark.exceptions.UnexpectedInput as error:
        raise _syntax(error, text) from None
    except lark.exceptions.VisitError as error:
        raise error.orig_exc from None
    assert isinstance(node, Node)
    return node


def _syntax(error: Any, text: str) -> FormulaError:
    """Return what the parser found as a message for people."""
    if isinstance(error, lark.exceptions.UnexpectedCharacters):
        position = error.pos_in_stream or 0
        shown = text[position]
        hint = " An input's name with such characters goes in backquotes." if shown not in "'\"" else ""
        return FormulaError(f"{shown!r} cannot stand in a formula.{hint}", text, position)
    # What is accepted is what can really follow; what is expected also has signs that fit in other places only.
    expected = getattr(error, "accepts", None) or getattr(error, "expected", None) or ()
    wanted = ", ".join(sorted({_READABLE[name] for name in expected if name in _READABLE}))
    token = getattr(error, "token", None)
    if token is None or token.type == "$END":
        return FormulaError(
            f"The formula ends where one of these should follow: {wanted}.", text, len(text.rstrip())
        )
    hint = (
        " Products need a *: 2*x." if "TIMES" in expected and token.type in ("NAME", "NUMBER", "LPAR") else ""
    )
    could = f"one of these could stand: {wanted}" if wanted else "the formula could only end"
    return FormulaError(
        f"{_short(str(token))!r} does not fit here; {could}.{hint}",
        text,
        token.start_pos,
    )


def _check_brackets(clean: str, text: str) -> None:
    """Find the bracket that has no partner; the parser would only say where it noticed."""
    open_: list[tuple[str, int]] = []
    quoted = False
    for position, character in enumerate(clean):
        if character == "`":
            quoted = not quoted
        elif quoted:
            continue
        elif character in _OPENING:
            open_.append((character, position))
        elif character in ")]>":
            if not open_:
                raise FormulaError(f"This {character!r} closes nothing.", text, position)
            opened, start = open_.pop()
            if _OPENING[opened] != character:
                raise FormulaError(
                    f"{opened!r} at character {start} needs {_OPENING[opened]!r}, not {character!r}.",
                    text,
                    position,
                )
    if open_:
        opened, start = open_[-1]
        raise FormulaError(f"This {opened!r} is never closed.", text, start)


def numeric_fault(node: Node, functions: Mapping[str, Function]) -> str | None:
    """Return what is wrong with the numbers directly in a node: 1/0, 9**9**9, x**5000; None where all is well."""
    if isinstance(node, Number | Constant):
        return None
    value = fold(node, functions)
    if value is not None:
        return None if math.isfinite(value) else "This is no finite number."
    if isinstance(node, Div) and fold(node.right, functions) == 0.0:
        return "This divides by zero."
    exponent = fold(node.exponent, functions) if isinstance(node, Pow) else None
    if exponent is not None and abs(exponent) > MAX_EXPONENT:
        return f"The exponent is {exponent:g}; up to {MAX_EXPONENT} are allowed."
    return None
