"""Base functions: the library, what is known about each, and which suit some data."""

import math
import pickle

import numpy as np
import pytest
import torch

from neuronwise.errors import DataError, FormulaError, InvalidArgumentError
from neuronwise.formula import LIBRARY, PRESETS, Base, Interval, bases, usable

EVERY = PRESETS["log"]


def test_the_library_has_the_25_of_the_specification():
    x = np.linspace(-2, 2, 9)
    powers = [x**k for k in range(1, 8)]
    waves = [f(k * x) for f in (np.sin, np.cos) for k in (1, 2, 3)]
    exps = [np.exp(k * x) for k in (1, -1, 2, -2)]
    rest = [np.abs(x), np.sqrt(np.abs(x)), np.log(1 + x**2), np.tanh(x), np.tanh(2 * x), np.exp(-(x**2))]
    expected = [*powers, *waves, *exps, *rest, 1 / (1 + x**2), np.maximum(x, 0)]
    assert len(LIBRARY) == len(expected) == len(set(LIBRARY)) == 25
    for base, values in zip(LIBRARY, expected, strict=True):
        assert np.allclose(base(x), values, rtol=1e-14, atol=1e-15), base


@pytest.mark.parametrize("base", EVERY, ids=str)
def test_numpy_and_torch_agree(base):
    x = np.linspace(0.01 if base in EVERY[25:] else -9, 9, 301).reshape(7, 43)
    tensor = torch.tensor(x)
    assert np.allclose(base(x), base(tensor).numpy(), rtol=1e-12, atol=1e-12)
    assert base(x).shape == x.shape
    assert base(tensor.float()).dtype == torch.float32


@pytest.mark.parametrize("base", EVERY, ids=str)
def test_what_is_said_about_a_base_is_true(base):
    far = np.array([s * 10.0**k for k in range(-2, 7) for s in (1, -1)])
    values = base(far[[x in base.domain for x in far]])
    assert base.bounded == (np.nanmax(np.abs(values)) < 5)
    low, high = base.image
    finite = values[np.isfinite(values)]
    assert np.all((finite >= low) & (finite <= high))
    if base.growth < math.inf:
        assert np.all(np.isfinite(base(np.array([1e3, 1e6]))))
        one, two = np.abs(base(np.array([1e3, 1e6])))
        assert two <= max(one, 1) * 1e3**base.growth * 2.5
    else:
        assert max(abs(base(np.array([-300.0, 300.0])))) > 1e100


@pytest.mark.parametrize("base", EVERY, ids=str)
def test_derivatives(base):
    x = np.linspace(0.05, 2.5, 50)
    x = x if base in EVERY[25:] else np.concatenate([-x, x])
    slope = (base(x + 1e-6) - base(x - 1e-6)) / 2e-6
    assert np.allclose(base.derivative()(x), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("x**3", "(-inf, inf)"),
        ("log(x)", "(0, inf)"),
        ("sqrt(x)", "[0, inf)"),
        ("sqrt(2 - x)", "(-inf, 2]"),
        ("asin(x)", "[-1, 1]"),
        ("log(1 - x**2)", "(-1, 1)"),
        ("1/x", "(0, inf)"),
        ("log(3*x + 1)", f"({-1 / 3}, inf)"),
        ("x**0.5", "[0, inf)"),
    ],
)
def test_domains_are_found(text, domain):
    found, expected = Base(text).domain, Interval.parse(domain)
    assert found.low == pytest.approx(expected.low, abs=1e-8)
    assert found.high == pytest.approx(expected.high, abs=1e-8)
    if text != "log(3*x + 1)":
        assert found == expected


def test_a_domain_can_be_given():
    base = Base("tan(x)", domain="(-1, 1)")
    assert base.domain == Interval(-1, 1)
    assert pickle.loads(pickle.dumps(base)).domain == base.domain


@pytest.mark.parametrize(
    ("text", "bounded", "growth"),
    [
        ("x*sin(x)", False, 1),
        ("x**3 - 2*x", False, 3),
        ("sin(x)**2", True, 0),
        ("exp(-abs(x))", True, 0),
        ("1/(2 + cos(x))", True, 0),
        ("tanh(x)*sigmoid(3*x) - 1", True, 0),
        ("sqrt(1 + x**2)", False, 1),
        ("log(1 + exp(x))", False, 1),
        ("x*exp(-x**2)", False, 1),
        ("exp(x)/2", False, math.inf),
        ("3", True, 0),
    ],
)
def test_boundedness_and_growth(text, bounded, growth):
    base = Base(text)
    assert (base.bounded, base.growth) == (bounded, growth)


def test_equality_is_of_the_canonical_text():
    assert Base("2*x") == Base(" 2 * x ") == Base("(2*x)")
    assert Base("x + 1") == Base("(x + 1)")
    assert Base("2*x") != Base("x*2")
    assert len({Base("x**2"), Base("x^2")}) == 1
    assert Base(Base("x")) == Base("x") and Base("x") != "x"
    assert pickle.loads(pickle.dumps(LIBRARY)) == LIBRARY


@pytest.mark.parametrize("text", ["x[0]", "<x, x>", "sum(x)", "w1*x", "b", "size*x", "x - mean(x)"])
def test_only_elementwise_expressions_are_bases(text):
    with pytest.raises(FormulaError, match="elementwise"):
        Base(text)
    with pytest.raises(InvalidArgumentError):
        Base(3)


def test_constants_have_the_shape_of_their_argument():
    assert np.array_equal(Base("x").derivative()(np.zeros((2, 3))), np.ones((2, 3)))
    assert torch.equal(Base("2")(torch.zeros(2, 3)), torch.full((2, 3), 2.0))
    assert Base("x**2")(3) == 9


def test_bases_by_name_text_and_list():
    assert bases("default") is LIBRARY
    assert bases("x, <1, 2>"[:1]) == (Base("x"),)
    assert bases("x, x**2, sin(2*x)") == bases(["x", Base("x**2"), "sin(2*x)"])
    assert bases(Base("x")) == (Base("x"),)
    assert bases("polynomial") == LIBRARY[:5] and bases("powers7") == LIBRARY[:7]
    assert [base.text for base in bases("log")[25:]] == ["log(x)", "sqrt(x)", "1/x"]
    assert bases("bounded")[0].text == "x" and all(base.bounded for base in bases("bounded")[1:])
    assert len(bases("bounded")) == 11


@pytest.mark.parametrize("spec", ["", [], "x, x", ["x", "x "], "polynomal", 3])
def test_lists_that_make_no_sense_are_refused(spec):
    with pytest.raises(InvalidArgumentError):
        bases(spec)
    with pytest.raises(FormulaError):
        bases("x, y")


def test_usable_says_why_not():
    data = np.column_stack([np.linspace(-1, 2, 41), np.linspace(1, 900, 41)])
    kept, dropped = usable([*EVERY, Base("x**60"), Base("step(x + 5)")], data, ["age", "income"])
    assert Base("x") in kept and Base("1/x") in kept and Base("x**7") in kept
    reasons = {base.text: reason for base, reason in dropped.items()}
    assert reasons["log(x)"].startswith("not finite for 14 of 41 values of age, such as -1")
    assert "income" in reasons["exp(x)"]
    assert "overflows" in reasons["x**60"]
    assert "constant" in reasons["step(x + 5)"]
    assert len(kept) + len(dropped) == 30
    assert "x[0]" in usable([Base("log(x)")], data)[1][Base("log(x)")]


@pytest.mark.parametrize("data", [np.zeros(3), np.zeros((0, 2)), np.zeros((2, 0))])
def test_usable_needs_a_table(data):
    with pytest.raises(DataError):
        usable(LIBRARY, data)
