"""Derivatives: against torch, central differences, and by one input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from neuronwise.errors import FormulaError
from neuronwise.formula import Formula
from tests.formula.strategies import TAME, D, formulas

SMOOTH = [
    "2*x**2 - 3*x + 1",
    "x**2*x[1] - x[0]*x[2]",
    "sin(3*x)*exp(-x) + tanh(x)/(2 + cos(x))",
    "<w1, x>*<w2, x**2>",
    "(<w1, x> + b1)**3",
    "norm(x) + mean(x)**2",
    "x*sum(x**2)",
    "exp(mean(x))*x",
    "max(x)*min(x) + max(x**2)",
    "<x, sin(x)>",
    "<x[0], x>",
    "<x[0], 2>",
    "<3, x>**2/norm(x)",
    "2**x + (1.5 + sin(x))**x",
    "x[0]**x[1]",
    "softplus(x) - sigmoid(2*x) + erf(x)*gauss(x)",
    "log(1 + x**2)*sqrt(1 + abs(x))",
    "mean(w1*x)*size",
    "sum(w2)*x + 5",
    "x**0 + 3",
]
WEIGHTS = {"w1": [0.5, -1.25, 2.0], "w2": [1.0, 1e-3, -3.0], "b1": -0.75}
DATA = np.random.default_rng(3).uniform(0.3, 1.7, (9, D))


def bound(text):
    free = Formula(text)
    return Formula(free, weights={name: WEIGHTS[name] for name in free.parameters})


def by_torch(formula, data):
    tensor = torch.tensor(data, requires_grad=True)
    out = formula(tensor).sum()
    if not out.requires_grad:
        return np.zeros_like(data)
    (found,) = torch.autograd.grad(out, tensor)
    return found.numpy()


@pytest.mark.parametrize("text", SMOOTH)
def test_against_torch(text):
    formula = bound(text)
    expected = by_torch(formula, DATA)
    assert np.allclose(formula.gradient(DATA), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("text", SMOOTH)
def test_against_central_differences(text):
    formula = bound(text)
    got = formula.gradient(DATA)
    for column in range(D):
        step = np.zeros(D)
        step[column] = 1e-6
        slope = (formula.evaluate(DATA + step) - formula.evaluate(DATA - step)) / 2e-6
        assert np.allclose(got[:, column], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", SMOOTH)
def test_one_derivative_is_a_column_of_the_gradient(text):
    formula = Formula(bound(text), inputs=["a", "b", "c"])
    gradient = formula.gradient(DATA)
    for index, name in enumerate(["a", 1, "x[2]"]):
        derivative = formula.derivative(name)
        assert np.allclose(derivative.evaluate(DATA), gradient[:, index], rtol=1e-11, atol=1e-12)
        assert Formula(str(derivative), inputs=formula.inputs, weights=derivative.weights) == derivative


@settings(max_examples=80, deadline=None, derandomize=True)
@given(formulas(numbers=TAME, functions=("sin", "exp", "tanh", "atan"), depth=2))
def test_random_formulas_against_torch(formula):
    expected, got = by_torch(formula, DATA), formula.gradient(DATA)
    # Where a value overflows on the way, the two may meet NaN at different places.
    fine = np.isfinite(expected) & np.isfinite(got)
    assert np.allclose(got[fine], expected[fine], rtol=1e-8, atol=1e-8)
    assert fine.mean() > 0.5 or not np.isfinite(formula.evaluate(DATA)).all()


def test_where_a_slope_jumps_the_value_is_torchs():
    formula = Formula("abs(x) + relu(x) + max(x)")
    data = np.array([[0.0, 0.0], [0.0, -1.0], [2.0, 2.0]])
    assert np.array_equal(formula.gradient(data), by_torch(formula, data))


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("2*x**2 - 3*x + 1", 0, "4*x[0] - 3"),
        ("<w1, x**2>", 1, "2*w1[1]*x[1]"),
        ("sin(2*x)", 2, "2*cos(2*x[2])"),
        ("x[0]*x[1]", 0, "x[1]"),
        ("x[0]*x[1]", 2, "0"),
        ("x", 5, "1"),
        ("mean(x)", 0, "1/size"),
        ("b1", 0, "0"),
    ],
)
def test_derivatives_are_short(text, name, expected):
    assert str(Formula(text).derivative(name)) == expected


@pytest.mark.parametrize("name", ["c", "x", -1, 2, "x[2]", "a + b"])
def test_there_is_no_such_input(name):
    with pytest.raises(FormulaError):
        Formula("a*b", inputs=["a", "b"]).derivative(name)
