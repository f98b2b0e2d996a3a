"""Text, pickle and JSON give back the very same formula; simplification the same values."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronwise.errors import FormulaError
from neuronwise.formula import Base, Formula, Function, Number, with_functions
from tests.formula.strategies import CONSTANTS, NAMES, TAME, D, formulas

DATA = np.random.default_rng(5).uniform(-2, 2, (20, D))
FUNCTIONS = ("sin", "exp", "abs", "log", "relu", "tanh", "sqrt", "gauss")


def same(one, two):
    """Whether two formulas give bit-identical values, NaN where the other has it."""
    return np.array_equal(one.evaluate(DATA), two.evaluate(DATA), equal_nan=True)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(formulas(functions=FUNCTIONS), st.booleans())
def test_text_gives_back_the_formula(formula, named):
    formula = Formula(formula, inputs=NAMES) if named else formula
    again = Formula(str(formula), inputs=formula.inputs, weights=formula.weights)
    assert again == formula and hash(again) == hash(formula)
    assert str(again) == str(formula)
    assert same(again, formula)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CONSTANTS, CONSTANTS)
def test_every_constant_comes_back_bit_for_bit(a, b):
    formula = Formula.from_bases(["x**2", "x"], [a, b], intercept=a)
    again = Formula(str(formula))
    assert again == formula
    assert same(again, formula)
    assert Formula(Number(a)).root.value == Formula(str(Formula(Number(a)))).root.value == a


@settings(max_examples=40, deadline=None, derandomize=True)
@given(formulas())
def test_pickle_and_json_give_back_the_formula(formula):
    assert pickle.loads(pickle.dumps(formula)) == formula
    again = Formula.from_dict(json.loads(json.dumps(formula.to_dict())))
    assert again == formula
    assert same(again, formula)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(formulas(numbers=TAME, depth=2))
def test_simplification_keeps_the_values(formula):
    simple = formula.simplify()
    assert Formula(str(simple), weights=simple.weights) == simple
    data = np.random.default_rng(6).uniform(-3, 3, (50, D))
    expected, got = formula.evaluate(data), simple.evaluate(data)
    assert np.array_equal(np.isfinite(expected), np.isfinite(got))
    scale = sum(np.abs(Formula(t.node, weights=bound(formula, t.node)).evaluate(data)) for t in formula.terms)
    fine = np.isfinite(expected) & np.isfinite(scale)
    assert np.all(np.abs(got - expected)[fine] <= 1e-10 * scale[fine])


def bound(formula, node):
    return {name: formula.weights[name] for name in Formula(node).parameters}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2*(x + 1) - x", "x + 2*size"),
        ("x*x", "x**2"),
        ("x + x", "2*x"),
        ("x - x", "0"),
        ("x - 1 - x", "-1"),
        ("(x + 1)**2 - x**2 - 2*x", "size"),
        ("sum(x + 1) + sum(x - 1)", "2*x"),
        ("mean(2*x + 1)", "2*mean(x) + 1"),
        ("sum(x)*sum(x)", "sum(x)**2"),
        ("x*(2*x - 3)", "2*x**2 - 3*x"),
        ("<w1, x> + <w1, 2*x>", "3*<w1, x>"),
        ("<3, 2>", "6*size"),
        ("<x[0], x>", "sum(x)*x[0]"),
        ("sin(x)**2 + cos(x)**2", "size"),
        ("sqrt(x**2)", "abs(x)"),
        ("x/3 + x/7", "10*x/21"),
        ("2.5*x**2 - 1e-12*x", "2.5*x**2 - 1e-12*x"),
        ("-x**2 - 3", "-x**2 - 3"),
        ("max(x) + max(x)", "2*max(x)"),
        ("norm(x)**2", "norm(x)**2"),
        ("b1*x + x*b1", "2*b1*x"),
        ("-<w1, x>", "-<w1, x>"),
        ("b1*<w1, x>", "b1*<w1, x>"),
        ("pi*x - e", "pi*x - e"),
        ("x**(1/3)", "x**(1/3)"),
        ("x[0]/x[1]/2", "x[0]/(2*x[1])"),
        ("2**x + 2**x", "2*2**x"),
        ("-dot(x, 1)", "-x"),
    ],
)
def test_simple_forms(text, expected):
    assert str(Formula(text).simplify()) == expected


@pytest.mark.parametrize("text", ["exp(log(x))", "x/x", "sqrt(x)**2", "x**2/x"])
def test_what_is_undefined_somewhere_stays_so(text):
    before = Formula(text)
    data = np.array([[-1.0], [0.0], [2.0]])
    after = before.simplify().evaluate(data)
    assert np.array_equal(np.isfinite(before.evaluate(data)), np.isfinite(after))


def test_nothing_is_lost_by_cancellation():
    formula = Formula("(x - 1e8)**2")
    data = np.array([[1e8 + 1.0]])
    assert formula.simplify().evaluate(data) == formula.evaluate(data) == 1


def test_enormous_powers_are_left_alone():
    text = "((((2*x)**900)**900)**900)**900"
    formula = Formula(text)
    assert formula.simplify() is formula
    assert "mathtt" in formula.latex()
    assert "<mtext>" in formula.html()


def test_simplification_knows_the_users_functions():
    table = with_functions(Function.from_expression("swish", "x*sigmoid(x)"))
    formula = Formula("swish(x) + swish(x) + tan(x)*0", functions=table)
    assert str(formula.simplify()) == "2*swish(x)"


def test_functions_of_the_user_are_saved_by_their_expressions():
    inner = Function.from_expression("swish", "x*sigmoid(x)", doc="smooth")
    outer = Function.from_expression("twice", "2*swish(x)", functions=with_functions(inner))
    formula = Formula("twice(3*x) + 1", functions=with_functions(inner, outer))
    data = json.loads(json.dumps(formula.to_dict()))
    assert list(data["functions"]) == ["swish", "twice"]
    for again in (Formula.from_dict(data), pickle.loads(pickle.dumps(formula))):
        assert again == formula
        assert same(again, formula)
        assert again.functions["swish"].doc == "smooth"
    x = DATA
    assert np.allclose(formula.evaluate(x), (2 * 3 * x / (1 + np.exp(-3 * x))).sum(1) + 1)


def test_functions_in_python_have_to_be_brought_again():
    table = with_functions(Function("cube", cube, cube, derivative="3*x**2"))
    formula = Formula("cube(x)", functions=table)
    data = formula.to_dict()
    with pytest.raises(FormulaError, match="cube"):
        Formula.from_dict(data)
    assert Formula.from_dict(data, functions=table) == formula
    assert pickle.loads(pickle.dumps(formula)) == formula
    assert Formula("cube(x)", functions=with_functions(Function("cube", np.abs, cube))) != formula


def cube(x):
    return x**3


def test_data_of_something_else_are_refused():
    with pytest.raises(FormulaError, match="formula"):
        Formula.from_dict({"inputs": None})


def test_equality_is_of_text_names_and_weights():
    formula = Formula("<w, x>", weights={"w": [1.0, 2.0]})
    assert formula != Formula("<w, x>")
    assert formula != Formula("<w, x>", weights={"w": [1.0, 3.0]})
    assert Formula("x") != Formula("x", inputs=["a"])
    assert Formula("x") != "x"
    assert len({formula, Formula(formula), Formula("<w,  x>", weights={"w": [1, 2]})}) == 1


def test_text_does_not_depend_on_the_process_or_the_hash_seed():
    text = "cos(x)*x[1] + 3*x**2*x[0] + b1*norm(x) + sum(x)*sum(x**2)"
    code = (
        "import sys; from neuronwise.formula import Formula; f = Formula(sys.argv[1]);"
        "print(f.simplify(), f.latex(), f.parameterised(), sep='; ')"
    )
    environment = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, text], env=environment, capture_output=True, text=True, check=True
    )
    formula = Formula(text)
    here = "; ".join([str(formula.simplify()), formula.latex(), str(formula.parameterised())])
    assert done.stdout.strip() == here


@pytest.mark.parametrize("thing", [Formula("x"), Base("x")])
def test_nothing_of_a_formula_can_be_changed(thing):
    with pytest.raises(AttributeError, match="cannot be changed"):
        thing.functions = {}
    assert copy.deepcopy(thing) == thing


def test_copied_and_pickled_nodes_know_what_the_first_knew():
    root = Formula("x**2 + sin(2*x)*x[0] + <w1, exp(-x)> - pi").root
    for again in (copy.copy(root), copy.deepcopy(root), pickle.loads(pickle.dumps(root))):
        assert again == root
        assert hash(again) == hash(root)
        assert (again.depth, again.size, again.vector) == (root.depth, root.size, root.vector)
        assert {again: 1}[root] == 1
