"""Other forms of a formula: written out, rounded, with fresh parameters, in LaTeX and MathML."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings

from neuronwise.errors import DataError, FormulaError, InvalidArgumentError
from neuronwise.formula import Formula, Function, Input, Inputs, Reduce, with_functions
from tests.formula.strategies import TAME, D, formulas

DATA = np.random.default_rng(8).uniform(0.2, 2, (10, D))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(formulas(numbers=TAME, functions=("sin", "exp", "abs"), depth=2))
def test_written_out_a_formula_has_the_same_values(formula):
    if any(isinstance(node, Reduce) and node.name in ("max", "min") for node in formula.nodes):
        with pytest.raises(FormulaError, match="over the inputs"):
            formula.expanded(["a", "d", "f"])
        return
    whole = formula.expanded(["a", "d", "f"])
    assert not any(isinstance(node, Inputs | Reduce) for node in whole.nodes)
    expected, got = formula.evaluate(DATA), whole.evaluate(DATA)
    fine = np.isfinite(expected)
    size = sum(np.abs(Formula(term.node).evaluate(DATA)) for term in whole.terms)
    assert np.all(np.abs(got - expected)[fine] <= 1e-9 * (1 + size[fine]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2*x**2 - 3*x + 1", "2*a**2 + 2*d**2 - 3*a - 3*d + 1"),
        ("<w1, x> - 2", "0.5*a - 4*d - 2"),
        ("2*(x + 1)", "2*(a + 1) + 2*(d + 1)"),
        ("mean(x)", "(a + d)/2"),
        ("norm(x)", "sqrt(a**2 + d**2)"),
        ("<w1, x>**2", "(0.5*a - 4*d)**2"),
        ("size + 3", "5"),
        ("x[0]*w1[1]", "-4*a"),
        ("x - x", "a + d - a - d"),
    ],
)
def test_written_out(text, expected):
    formula = Formula(text)
    weights = {"w1": [0.5, -4.0]} if formula.parameters else {}
    assert str(Formula(formula, weights=weights).expanded(["a", "d"])) == expected


def test_written_out_needs_the_number_of_inputs():
    with pytest.raises(InvalidArgumentError, match="How many inputs"):
        Formula("x").expanded()
    with pytest.raises(DataError, match="2 inputs"):
        Formula("x", inputs=["a", "d"]).expanded(["a", "d", "f"])
    assert str(Formula("x", inputs=["a", "d"]).expanded()) == "a + d"
    assert str(Formula("<w, x>", weights={"w": [1, 2]}).expanded()) == "x[0] + 2*x[1]"
    assert str(Formula("<w, x>").expanded(["a", "d"])) == "w[0]*a + w[1]*d"


def test_rounding_keeps_exponents_and_shortens_weights():
    formula = Formula("2.123456*x**2.5 - 1.98765e-12*<w1, x>", weights={"w1": [1.23456, -9.8765]})
    short = formula.rounded(3)
    assert str(short) == "2.12*x**2.5 - 1.99e-12*<w1, x>"
    assert np.array_equal(short.weights["w1"], [1.23, -9.88])
    for digits in (0, 18):
        with pytest.raises(InvalidArgumentError, match="digits"):
            formula.rounded(digits)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6*x**2 + 2*x - 3", "<w1, x**2> + <w2, x> + b1"),
        ("x**2", "<w1, x**2>"),
        ("1 + x + 2", "<w1, x> + b1"),
        ("-sin(2*x)", "<w1, sin(2*x)>"),
        ("<2, x>*<3, x>", "<w1, x>*<w2, x>"),
        ("-5*<2, x>*<w7, x>", "<w1, x>*<w2, x>"),
        ("<x, x>", "c1*<x, x>"),
        ("<x, x**2> - <x, x>", "c1*<x, x**2> + c2*<x, x>"),
        ("exp(<2, x> + 1)", "c1*exp(<w1, x> + b1)"),
        ("x[0]*x[1]", "c1*x[0]*x[1]"),
        ("(<1, x> + 2)*(<3, x**2> - 1) + x", "(<w1, x> + b1)*(<w2, x**2> + b2) + <w3, x>"),
        ("<2, x>**2", "c1*<w1, x>**2"),
        ("mean(3*x)", "<w1, x>"),
        ("norm(x)", "c1*norm(x)"),
        ("b3 + size", "b1"),
    ],
)
def test_constants_are_thrown_away(text, expected):
    found = Formula(text).parameterised()
    assert str(found) == expected
    assert not found.weights and Formula(str(found)) == found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(formulas(numbers=TAME, depth=2))
def test_every_formula_can_be_parameterised(formula):
    found = formula.parameterised()
    assert found.parameters and not found.weights
    assert Formula(str(found)) == found
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(D) if name[0] == "w" else 0.5 for name in found.parameters}
    assert Formula(found, weights=values).evaluate(DATA).shape == (10,)
    constant = not any(isinstance(node, Inputs | Input) for node in formula.nodes)
    assert (found.parameters == ("b1",)) == constant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2*x**2 - 3*x + 1", r"\sum_{i=1}^{d} \left(2 x_{i}^{2} - 3 x_{i}\right) + 1"),
        ("<w1, x>*b2", r"b_{2} \sum_{i=1}^{d} w_{1 i} x_{i}"),
        ("x[0]/x[1]", r"\frac{x_{1}}{x_{2}}"),
        ("exp(log(x))", r"\sum_{i=1}^{d} e^{\log{\left(x_{i} \right)}}"),
        ("1.23456e-12*x", r"\sum_{i=1}^{d} 1.235 \cdot 10^{-12} x_{i}"),
        ("mean(x)", r"\frac{\sum_{i=1}^{d} x_{i}}{d}"),
        ("norm(x)", r"\sqrt{\sum_{i=1}^{d} x_{i}^{2}}"),
        ("pi - size", r"\pi - d"),
        ("relu(x)", r"\sum_{i=1}^{d} \operatorname{relu}{\left(x_{i} \right)}"),
        ("age*`a_b c%`", r"\mathrm{a\_b\ c\%} \mathrm{age}"),
    ],
)
def test_latex(text, expected):
    formula = Formula(text, inputs=["age", "a_b c%"] if "age" in text else None)
    assert formula.latex() == expected
    assert formula._repr_latex_() == f"$\\displaystyle {expected}$"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    formulas(
        inputs=("age", "<b>&", "x_1 2"), functions=("sin", "exp", "abs", "sqrt", "relu", "sigmoid"), depth=2
    )
)
def test_markup_is_well_formed(formula):
    tree = ElementTree.fromstring(formula.html())
    assert tree.tag == "{http://www.w3.org/1998/Math/MathML}math"
    latex = formula.latex()
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


def test_names_bring_no_markup_of_their_own():
    formula = Formula("x[0]*x", inputs=["<script>alert(1)</script>", "b"])
    assert "<script" not in formula.html()


def test_numbers_are_shown_as_short_as_asked():
    formula = Formula("1.23456789*x")
    assert "1.23 " in formula.latex(decimals=3)
    assert "<mn>1.2</mn>" in formula.html(decimals=2)
    with pytest.raises(InvalidArgumentError):
        formula.latex(decimals=0)


def test_a_users_function_may_bring_its_sympy_form():
    half = Function("half", lambda x: x / 2, lambda x: x / 2, sympy=lambda x: x / 2)
    table = with_functions(half)
    formula = Formula("half(x) + half(x)", functions=table)
    assert str(formula.simplify()) == "x"
    assert r"\frac{x_{i}}{2}" in formula.latex()
