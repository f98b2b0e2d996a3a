"""Random formulas for hypothesis: built from nodes, so that every form of them comes up."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from neuronwise.errors import FormulaError
from neuronwise.formula import (
    Add,
    Call,
    Constant,
    Div,
    Dot,
    Formula,
    Input,
    Inputs,
    Mul,
    Neg,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
)

D = 3
NAMES = ("age", "bill length (mm)", "w1")
CONSTANTS = st.one_of(
    st.sampled_from(
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.1, -0.5, 1e-12, -3e-300, 5e-324, 1.5e300, 1e16, -123456789.0, 1 / 3]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
#: Numbers whose sums and products stay far from overflow and cancellation.
TAME = st.sampled_from([1.0, -1.0, 2.0, -3.0, 0.5, 0.1, -2.5e-3, 7.0, 1e3])
WEIGHTS = {"w1": np.array([0.5, -1.25, 2.0]), "w2": np.array([1.0, 1e-3, -3.0]), "b1": -0.75, "c2": 2.0}


@st.composite
def nodes(draw, *, vector, numbers=CONSTANTS, functions=("sin", "exp", "abs", "log"), depth=3):
    """A node of one type, with every kind of node below it."""

    def some(vector, depth):
        if depth == 0 or draw(st.integers(0, 4)) == 0:
            if vector:
                return draw(st.sampled_from([Inputs(), Inputs(), Parameter("w1"), Parameter("w2")]))
            return draw(
                st.one_of(
                    st.builds(Number, numbers),
                    st.sampled_from([Input(0), Input(1), Input(2), Size(), Parameter("b1"), Parameter("c2")]),
                    st.sampled_from([Parameter("w1", 2), Constant("pi"), Constant("e")]),
                )
            )

        def operands(count):
            # A vector needs one at least; its other operands may be numbers.
            kinds = [vector, *(vector and draw(st.booleans()) for _ in range(count - 1))]
            return tuple(some(kind, depth - 1) for kind in draw(st.permutations(kinds)))

        kind = draw(st.sampled_from(["add", "mul", "div", "pow", "neg", "call", "reduce", "dot"]))
        if kind == "add":
            return Add(operands(draw(st.integers(2, 3))))
        if kind == "mul":
            return Mul(operands(draw(st.integers(2, 3))))
        if kind == "div":
            return Div(*operands(2))
        if kind == "pow":
            return Pow(
                some(vector, depth - 1), Number(draw(st.sampled_from([2.0, 3.0, -1.0, 0.5, 7.0, 1.5])))
            )
        if kind == "neg":
            return Neg(some(vector, depth - 1))
        if kind == "call" or vector:
            return Call(draw(st.sampled_from(functions)), some(vector, depth - 1))
        if kind == "reduce":
            name = draw(st.sampled_from(["sum", "mean", "max", "min", "norm"]))
            return Reduce(name, some(True, depth - 1))
        return Dot(some(draw(st.booleans()), depth - 1), some(True, depth - 1))

    return some(vector, depth)


@st.composite
def formulas(draw, *, inputs=None, **options):
    """A formula of one to three terms, vectors and scalars, its parameters bound."""
    count = draw(st.integers(1, 3))
    terms = [draw(nodes(vector=draw(st.booleans()), **options)) for _ in range(count)]
    root = terms[0] if count == 1 else Add(tuple(terms))
    try:
        free = Formula(root, inputs=inputs)
    except FormulaError:  # such as 1e300*1e300, which is no number
        assume(False)
    return Formula(free, weights={name: WEIGHTS[name] for name in free.parameters})
