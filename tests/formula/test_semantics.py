"""What a formula means: the figures of the specification, vectors and scalars, terms."""

import numpy as np
import pandas as pd
import pytest
import torch

from neuronwise.errors import DataError, FormulaError, InvalidArgumentError
from neuronwise.formula import LIBRARY, Base, Formula, Inputs, Number, Pow, add, mul, neg

X = np.array([[0.0, 1], [1, 1], [2, 0], [-1, 1]])


def test_inner_products_of_the_specification():
    x = [[2.0, 3.0]]
    one = [1.0, 1.0]
    assert Formula("<w,x**2>", weights={"w": one}).evaluate(x) == 13
    assert Formula("<w1,x>*<w2,x>", weights={"w1": one, "w2": one}).evaluate(x) == 25


def test_unit_coefficients_are_summed_over_the_inputs():
    data = np.array([[1.0, 2], [3, 4], [-5, 6]])
    got = Formula("x**2 + x").evaluate(data)
    assert got.shape == (3,)
    assert np.array_equal(got, (data**2 + data).sum(1))


def test_the_formula_of_the_specification_and_its_coefficients():
    y = Formula("2*x**2 - 3*x").evaluate(X)
    assert np.array_equal(y, [-1, -2, 2, 4])
    columns = np.stack([base(X).sum(1) for base in (Base("x"), Base("x**2"))], 1)
    assert np.array_equal(columns.T, [[1, 2, 2, 0], [1, 2, 4, 2]])
    found, *_ = np.linalg.lstsq(columns, y, rcond=None)
    assert np.allclose(found, [-3, 2], atol=1e-12)


def test_products_of_inner_products_are_cp_terms():
    weights = {"w1": [1, 0], "w2": [0, 1], "w3": [1, 1], "w4": [1, -1]}
    cp = Formula("<w1,x>*<w2,x> + <w3,x>*<w4,x>", weights=weights)
    assert cp.evaluate([[1.0, 2.0]]) == -1
    units = np.eye(4)
    text = " + ".join(f"<w{i},x>*<w{i},x>" for i in range(4))
    full = Formula(text, weights={f"w{i}": units[i] for i in range(4)})
    data = np.random.default_rng(0).standard_normal((7, 4))
    assert np.allclose(full.evaluate(data), (data**2).sum(1), rtol=1e-14)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2*x**2 - 3*x + 1", lambda x: 1 + (2 * x**2 - 3 * x).sum(1)),
        ("2*(x + 1)", lambda x: (2 * (x + 1)).sum(1)),
        ("(x + 1)", lambda x: (x + 1).sum(1)),
        ("x + 1", lambda x: x.sum(1) + 1),
        ("x - (x + 1)", lambda x: x.sum(1) - (x + 1).sum(1)),
        ("sum(x + 1)", lambda x: (x + 1).sum(1)),
        ("mean(x)*max(x) - min(x)", lambda x: x.mean(1) * x.max(1) - x.min(1)),
        ("norm(x)", lambda x: np.sqrt((x**2).sum(1))),
        ("<2, x>", lambda x: 2 * x.sum(1)),
        ("dot(2, 3)", lambda x: np.full(len(x), 6.0 * x.shape[1])),
        ("<x, x**2>", lambda x: (x**3).sum(1)),
        ("<x[0], x>", lambda x: x[:, 0] * x.sum(1)),
        ("<x[0], x[1]>", lambda x: x[:, 0] * x[:, 1] * x.shape[1]),
        ("x*sum(x)", lambda x: x.sum(1) ** 2),
        ("sum(x)**2", lambda x: x.sum(1) ** 2),
        ("x*x", lambda x: (x**2).sum(1)),
        ("x[1]*x", lambda x: x[:, 1] * x.sum(1)),
        ("x[0]*x[1]", lambda x: x[:, 0] * x[:, 1]),
        ("size", lambda x: np.full(len(x), float(x.shape[1]))),
        ("-x**2", lambda x: -(x**2).sum(1)),
        ("2**-1*x", lambda x: 0.5 * x.sum(1)),
        ("2^3^1", lambda x: np.full(len(x), 8.0)),
        ("\N{MINUS SIGN}x − .5E+1", lambda x: -x.sum(1) - 5),
        ("pi*x - e", lambda x: np.pi * x.sum(1) - np.e),
        ("7", lambda x: np.full(len(x), 7.0)),
        ("exp(mean(x)) + ln(1 + sum(x**2)) + arctan(x)", None),
    ],
)
def test_meaning(text, expected):
    data = np.random.default_rng(1).uniform(-2, 2, (11, 3))
    if expected is None:
        expected = lambda x: np.exp(x.mean(1)) + np.log(1 + (x**2).sum(1)) + np.arctan(x).sum(1)  # noqa: E731
    formula = Formula(text)
    assert np.allclose(formula.evaluate(data), expected(data), rtol=1e-13, atol=1e-13)
    assert np.allclose(formula(torch.tensor(data)).numpy(), expected(data), rtol=1e-13, atol=1e-13)


def test_weights_of_the_layer_of_the_specification():
    formula = Formula("<w2, x**2> + <w1, x> + b", weights={"w2": [6, 6], "w1": [2, 2], "b": -3})
    assert formula.evaluate([[1.0, 2.0]]) == 33
    assert formula.parameters == ("w2", "w1", "b")


def test_many_rows_are_the_same_as_few():
    data = np.random.default_rng(2).standard_normal((40_000, 3))
    formula = Formula("x**5 - 2*sin(x)*norm(x) + x[2]")
    whole = formula.evaluate(data)
    assert np.allclose(whole[-5:], formula.evaluate(data[-5:]), rtol=1e-13)
    assert np.allclose(formula.gradient(data)[-5:], formula.gradient(data[-5:]), rtol=1e-13)
    base = Base("x**3 - x")
    assert np.array_equal(base(data)[-5:], base(data[-5:]))


def test_tensors_keep_shape_dtype_and_gradient():
    tensor = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    formula = Formula("<w1, x**2> + 3", weights={"w1": [1, 2, 3]})
    out = formula(tensor)
    assert out.shape == (2, 5) and out.dtype == torch.float32
    (gradient,) = torch.autograd.grad(out.sum(), tensor, create_graph=True)
    assert torch.allclose(gradient, 2 * tensor * torch.tensor([1.0, 2, 3]))
    assert formula(tensor.detach().bfloat16()).dtype == torch.bfloat16
    assert Formula("size")(tensor).shape == (2, 5)
    assert torch.equal(Formula("x")(torch.tensor([[1, 2]])), torch.tensor([3.0]))


def test_data_frames_and_lists_are_data():
    frame = pd.DataFrame({"age": [1.0, 2.0], "bill length (mm)": [3, 4]})
    formula = Formula("age*`bill length (mm)`", inputs=list(frame.columns))
    assert np.array_equal(formula.evaluate(frame), [3, 8])
    assert str(formula) == "age*`bill length (mm)`"


def test_undefined_values_come_through_without_a_warning():
    got = Formula("log(x) + x**0.5").evaluate([[-1.0], [0.0], [1.0]])
    assert np.isnan(got[0]) and got[1] == -np.inf and got[2] == 1


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_data_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match="shape"):
        Formula("x").evaluate(np.zeros(shape))


def test_data_of_another_width_are_refused():
    with pytest.raises(DataError, match="2 inputs; the data have 3"):
        Formula("x", inputs=["a", "b"]).evaluate(np.zeros((1, 3)))
    with pytest.raises(DataError, match=r"x\[4\]; the data have 3"):
        Formula("x[4]").evaluate(np.zeros((1, 3)))
    with pytest.raises(DataError, match="numbers"):
        Formula("x").evaluate([["a", "b"]])
    with pytest.raises(DataError, match="inputs"):
        Formula("<w, x>", weights={"w": [1, 2]})(torch.zeros(4, 3))
    with pytest.raises(DataError, match="shape"):
        Formula("x")(torch.tensor(1.0))
    with pytest.raises(FormulaError, match="no element 2; there are 2"):
        Formula("<w, x> + w[2]", weights={"w": [1, 2]})


def test_arrays_may_be_called_too():
    assert np.array_equal(Formula("2*x")(X), 2 * X.sum(1))


def test_a_free_parameter_is_named():
    for call in (lambda f: f.evaluate(X), lambda f: f(torch.tensor(X)), lambda f: f.gradient(X)):
        with pytest.raises(FormulaError, match="w1 is free"):
            call(Formula("<w1, x>"))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"w2": [1.0, 2]}, "no parameter 'w2'"),
        ({"w1": 3.0}, "a vector"),
        ({"b": [1.0]}, "one number"),
        ({"w1": [1.0, np.nan]}, "not all finite"),
        ({"w1": [1.0, 2], "w": [1.0]}, "different lengths"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, words):
    with pytest.raises(InvalidArgumentError, match=words):
        Formula("<w1, x> + <w, x> + b", weights=weights)


def test_weights_are_copied_and_cannot_be_changed():
    own = np.ones(2)
    formula = Formula("<w, x>", weights={"w": own})
    own[0] = 5
    assert formula.evaluate([[1.0, 1]]) == 2
    with pytest.raises(ValueError, match="read-only"):
        formula.weights["w"][0] = 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", ("constant", 3.0, None, None)),
        ("-2*b1", ("constant", -2.0, "b1", None)),
        ("x", ("elementwise", 1.0, None, "x")),
        ("-x", ("elementwise", -1.0, None, "x")),
        ("2*(x + 1)", ("elementwise", 2.0, None, "x + 1")),
        ("2*x**2/4", ("elementwise", 0.5, None, "x**2")),
        ("sum(2*sin(2*x))", ("elementwise", 2.0, None, "sin(2*x)")),
        ("<w1, x**2>", ("elementwise", 1.0, "w1", "x**2")),
        ("3*<x*w1, sin(x)>", ("elementwise", 3.0, "w1", "x*sin(x)")),
        ("c1*x**2", ("elementwise", 1.0, "c1", "x**2")),
        ("<w1, x>*<2, x**2>", ("product", 2.0, None, None)),
        ("-sum(x)**2", ("product", -1.0, None, None)),
        ("x[0]*x[1]", ("scalar", 1.0, None, None)),
        ("norm(x)", ("scalar", 1.0, None, None)),
        ("tanh(<w1, x>)", ("scalar", 1.0, None, None)),
        ("w1*w2*x", ("scalar", 1.0, None, None)),
        ("size", ("scalar", 1.0, None, None)),
    ],
)
def test_terms(text, expected):
    (term,) = Formula(text).terms
    base = None if term.base is None else term.base.text
    assert (term.kind, term.coefficient, term.weight, base) == expected


def test_factors_of_a_product():
    (term,) = Formula("<w1, x>*2*<x**2, 3*w2>").terms
    assert term.coefficient == 6
    assert term.factors == (("w1", Base("x")), ("w2", Base("x**2")))
    (square,) = Formula("<w1, x>**2").terms
    assert square.factors == (("w1", Base("x")), ("w1", Base("x")))


def test_from_bases():
    bases = LIBRARY[:3]
    shared = Formula.from_bases(bases, [1, -2.5, -1], intercept=1e-12)
    assert str(shared) == "x - 2.5*x**2 - x**3 + 1e-12"
    weights = np.arange(6.0).reshape(3, 2)
    group = Formula.from_bases(bases, weights=weights, intercept=-1, inputs=["a", "b"])
    assert str(group) == "<w1, x> + <w2, x**2> + <w3, x**3> - 1"
    expected = sum(base(X) @ row for base, row in zip(bases, weights, strict=True)) - 1
    assert np.allclose(group.evaluate(X), expected, rtol=1e-14)
    assert str(Formula.from_bases([], [])) == "0"
    assert str(Formula.from_bases(["2*x", "x*sin(x)"], [3, 2])) == "3*2*x + 2*x*sin(x)"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coefficients": [1.0], "weights": [[1.0]]},
        {"coefficients": [[1.0]]},
        {"weights": [1.0]},
        {"coefficients": [1.0, 2]},
        {"coefficients": [np.inf]},
        {"coefficients": [1.0], "intercept": np.nan},
    ],
)
def test_from_bases_refuses_what_does_not_fit(options):
    with pytest.raises(InvalidArgumentError):
        Formula.from_bases(["x"], **options)


def test_nodes_can_be_put_together():
    square = mul(Number(2.0), Pow(Inputs(), Number(2.0)))
    assert Formula(add(square, neg(Inputs()))) == Formula("2*x**2 - x")
    assert str(Formula(neg(square))) == "-2*x**2"


def test_names_that_mean_something_else_need_backquotes():
    names = ["x", "e", "b", "sin", "size", "ok"]
    formula = Formula("`x` + `e`*`b` + `sin` + `size` + ok", inputs=names)
    data = np.arange(6.0)[None]
    assert formula.evaluate(data) == 0 + 1 * 2 + 3 + 4 + 5
    assert Formula(str(formula), inputs=names) == formula
    awkward = ["a`b", "line\nbreak", " "]
    formula = Formula("x[0] + x[1] + x[2]", inputs=awkward)
    assert Formula(str(formula), inputs=awkward) == formula


@pytest.mark.parametrize("inputs", ["ab", ["a", "a"], ["a", 3]])
def test_names_must_be_texts_each_once(inputs):
    with pytest.raises(InvalidArgumentError):
        Formula("x", inputs=inputs)


def test_complexity_counts_functions_more():
    assert [Formula(text).complexity for text in ("x", "x**2", "x**7", "sin(x)", "x + 1")] == [1, 3, 8, 4, 3]
