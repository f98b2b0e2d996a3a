"""Every function of the table: NumPy and torch agree, derivatives and what is said about each are true."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from neuronwise.errors import FormulaError, InvalidArgumentError
from neuronwise.formula import FUNCTIONS, Base, Formula, Function, Interval, with_functions
from neuronwise.formula.functions import ALIASES


def points(function, count=401, far=30.0):
    """Arguments all over the domain, its ends included where they are in."""
    low, high = function.domain
    inside = np.linspace(max(low, -far), min(high, far), count)
    return np.array([p for p in inside if p in function.domain])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_torch_agree(name):
    function = FUNCTIONS[name]
    x = points(function)
    one, two = Base(f"{name}(x)")(x), Base(f"{name}(x)")(torch.tensor(x)).numpy()
    assert np.isfinite(one).all()
    assert np.all(np.abs(one - two) <= 1e-12 * np.maximum(np.abs(one), 1))
    whole = Formula(f"{name}(x)")
    assert np.allclose(
        whole.evaluate(x[:, None]), whole(torch.tensor(x[:, None])).numpy(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_those_of_torch(name):
    function = FUNCTIONS[name]
    low, high = function.domain
    x = points(function)
    x = torch.tensor(x[(x > low) & (x < high)], requires_grad=True)
    (expected,) = torch.autograd.grad(function.torch(x).sum(), x, allow_unused=True)
    expected = np.zeros(len(x)) if expected is None else expected.numpy()
    got = Base(f"{name}(x)").derivative()(x.detach().numpy())
    assert np.allclose(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_said_about_a_function_is_true(name):
    function = FUNCTIONS[name]
    values = function.numpy(points(function, far=20))
    low, high = function.values_in
    assert low <= values.min() and values.max() <= high
    assert function.bounded == function.values_in.finite
    if function.increasing:
        assert np.all(np.diff(values) >= 0)
    if not math.isinf(function.growth) and function.domain.high == math.inf:
        ends = np.abs(function.numpy(np.array([1e4, 1e8])))
        assert ends[1] <= max(ends[0], 1) * 1e4**function.growth * 2.5
    assert function.doc and function.complexity >= 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_outside_its_domain_a_function_is_not_finite(name):
    low, high = FUNCTIONS[name].domain
    outside = [end + step for end, step in ((low, -0.1), (high, 0.1)) if math.isfinite(end)]
    for array in (Base(f"{name}(x)")(np.array(outside)), Base(f"{name}(x)")(torch.tensor(outside)).numpy()):
        assert not np.isfinite(array).any()


def test_nan_stays_nan():
    for name in FUNCTIONS:
        if name != "step":
            assert np.isnan(Base(f"{name}(x)")(np.array([np.nan]))).all(), name
            assert torch.isnan(Base(f"{name}(x)")(torch.tensor([torch.nan]))).all(), name


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_print_as_the_function(alias):
    assert ALIASES[alias] in FUNCTIONS
    assert str(Formula(f"{alias}(x)")) == f"{ALIASES[alias]}(x)"


def test_softplus_is_right_where_torchs_own_is_linear():
    x = torch.tensor([20.5], dtype=torch.float64)
    assert float(Base("softplus(x)")(x) - x) == pytest.approx(math.exp(-20.5), rel=1e-5)


def test_a_function_from_an_expression():
    swish = Function.from_expression("swish", "x*sigmoid(x)")
    assert not swish.bounded and swish.growth == 1 and swish.complexity == 6
    assert pickle.loads(pickle.dumps(swish)) == swish
    bump = Function.from_expression("bump", "exp(-x**2)", complexity=2)
    assert bump.bounded and bump.complexity == 2
    root = Function.from_expression("root", "sqrt(x - 1)")
    assert root.domain == Interval.parse("[1, inf)")
    table = with_functions(swish, bump)
    x = np.linspace(-3, 3, 50)
    base = Base("swish(2*x) + bump(x)", functions=table)
    assert np.allclose(base(x), 2 * x / (1 + np.exp(-2 * x)) + np.exp(-(x**2)))
    tensor = torch.tensor(x, requires_grad=True)
    (expected,) = torch.autograd.grad(base(tensor).sum(), tensor)
    assert np.allclose(base.derivative()(x), expected.numpy())
    assert pickle.loads(pickle.dumps(base)) == base
    assert "swish" not in FUNCTIONS


def test_a_function_in_python():
    cbrt = Function(
        "cbrt", np.cbrt, lambda t: t.sign() * t.abs() ** (1 / 3), derivative="1/(3*cbrt(x)**2)", growth=1 / 3
    )
    formula = Formula("cbrt(x)", functions=with_functions(cbrt))
    assert formula.evaluate([[8.0, -27.0]]) == pytest.approx(-1)
    assert formula.gradient([[8.0, -27.0]])[0] == pytest.approx([1 / 12, 1 / 27])
    assert Base("cbrt(x)", functions=with_functions(cbrt)).growth == pytest.approx(1 / 3)


def test_a_function_without_a_derivative_says_so():
    table = with_functions(Function("odd", np.cbrt, torch.sign))
    assert Function.from_expression("twice", "2*odd(x)", functions=table).derivative is None
    with pytest.raises(FormulaError, match="no derivative"):
        Formula("odd(x)", functions=table).gradient([[1.0]])


@pytest.mark.parametrize("name", ["x", "sum", "w1", "b", "pi", "a b", "2a", "", "dot", "size"])
def test_names_that_formulas_use_are_refused(name):
    with pytest.raises(InvalidArgumentError, match="cannot be called"):
        Function(name, np.sin, torch.sin)


def test_mistakes_in_tables_are_refused():
    with pytest.raises(InvalidArgumentError, match="complexity"):
        Function("f", np.sin, torch.sin, complexity=0)
    with pytest.raises(InvalidArgumentError, match="Function objects"):
        with_functions(np.sin)
    with pytest.raises(InvalidArgumentError, match="of its own"):
        with_functions(Function("f", np.sin, torch.sin), Function("f", np.cos, torch.cos))
    with pytest.raises(InvalidArgumentError, match="interval"):
        Function("f", np.sin, torch.sin, domain="0 to 1")
    with pytest.raises(FormulaError, match="elementwise"):
        Function.from_expression("f", "x - mean(x)")


@pytest.mark.parametrize("text", ["", "[]", "(1, 2, 3)", "(2, 1)", "{0, 1}", "(a, b)"])
def test_texts_that_are_no_interval_are_refused(text):
    with pytest.raises(InvalidArgumentError):
        Interval.parse(text)


def test_intervals():
    half = Interval.parse("[0, inf)")
    assert 0 in half and -1e-300 not in half and math.inf not in half
    assert 1 not in Interval.parse("(0,1)") and 1 in Interval.parse("(0,1]")
    assert str(half) == "[0, inf)" and Interval.parse(str(half)) == half


def test_the_page_of_the_language_lists_every_function():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "formula.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ") for line in page.splitlines() if line.startswith("| `") and line.count("|") == 7
    ]
    listed = {row[0].strip("| `"): row for row in rows}
    assert list(listed) == list(FUNCTIONS)
    for name, row in listed.items():
        function = FUNCTIONS[name]
        shown = [str(function.domain), str(function.values_in), str(function.complexity)]
        assert [cell.strip() for cell in row[2:5]] == shown
        assert set(row[5].strip(" |").replace("`", "").split(", ")) - {""} == {
            a for a in ALIASES if ALIASES[a] == name
        }
