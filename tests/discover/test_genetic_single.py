"""The genetic search on single inputs: laws found, starting forms, and how formulas are written."""

from random import Random

import numpy as np
import pytest

from neuronwise.discover import Genetic, discover, make_problem
from neuronwise.discover._genetic_exact import exact_space
from neuronwise.discover._genetic_factors import Pool
from neuronwise.discover._genetic_job import linearised
from neuronwise.discover._genetic_products import product_forms
from neuronwise.discover._genetic_variation import Grammar, cross, mutate, seedling
from neuronwise.discover._trees import X as VECTOR
from neuronwise.discover._trees import input_of, make, text, walk
from neuronwise.formula import FUNCTIONS, Formula
from neuronwise.nn import kind

SMALL = {"population": 30, "generations": 5, "islands": 1, "epochs": 1, "starts": 8}
GRAMMAR = Grammar(("sin", "exp", "sqrt", "log"), 0.0, 40, 4, inputs=3, shared=False)


def data(law, *, n=300, d=3, seed=0):
    X = np.random.default_rng(seed).uniform(0.5, 2, (n, d))
    return X, Formula(law).evaluate(X)


def search(law, n=300, d=3, **settings):
    X, y = data(law, n=n, d=d)
    problem = make_problem(X, y, scale="none", task="regression")
    return Genetic(**{**SMALL, "inputs": "single", **settings}).search(problem), X, y


@pytest.mark.parametrize(
    "law",
    [
        "2.5*x[0]*sin(x[1])/x[2]",
        "x[0]**3*sqrt(x[1])/x[2]**2",
        "x[0]*x[1] - 3*x[1]*sin(2*x[2])",
        "1/(1/x[0] + x[1]/x[2])",
        "sqrt(x[0]**2 + x[1]**2 + 3*x[2]**2)",
        "x[0]*exp(-x[1]/x[2])",
    ],
)
def test_finds_laws_that_hold_outside_the_data_as_well(law):
    found, _, _ = search(law)
    wide = np.random.default_rng(1).uniform(0.3, 4, (500, 3))
    wanted = Formula(law).evaluate(wide)
    assert np.abs(found[0].formula.evaluate(wide) - wanted).max() < 1e-6 * np.ptp(wanted)


def test_finds_a_law_without_starting_forms():
    found, X, y = search("x[0]*x[1] + sin(x[2])", catalogue=False, generations=25, population=80)
    assert 1 - ((found[0].predict(X) - y) ** 2).mean() / y.var() > 0.9999


def test_both_kinds_of_inputs_together():
    found, _, _ = search("x[0]*x[1] + sum(x**2)", inputs="both", catalogue=False, generations=20)
    wide = np.random.default_rng(1).uniform(0.3, 4, (500, 3))
    wanted = Formula("x[0]*x[1] + sum(x**2)").evaluate(wide)
    assert np.abs(found[0].formula.evaluate(wide) - wanted).max() < 1e-6 * np.ptp(wanted)


def test_shared_search_has_no_single_inputs():
    found, _, _ = search("x[0]*x[1]", inputs="shared", catalogue=False)
    assert all("x0" not in str(one.formula) and "x[" not in str(one.formula) for one in found)


def test_candidates_read_back_exactly_and_are_accepted_as_kinds_of_neurons():
    found, X, _ = search("x[0]*sin(x[1]) + exp(x[2])/x[0]", catalogue=False)
    assert len(found) > 3
    for one in found:
        again = Formula(str(one.formula), inputs=one.formula.inputs)
        assert again == one.formula
        assert (again.evaluate(X) == one.predict(X)).all()
        if one.terms:
            kind(one.formula)


def test_formulas_have_the_names_of_the_inputs():
    pandas = pytest.importorskip("pandas")
    X, y = data("x[0]*x[1]**2/2")
    table = pandas.DataFrame(X, columns=["mass", "speed", "colour"])
    method = Genetic(inputs="single", **SMALL)
    found = discover(table, y, method=method, scale="none", confidence="none")
    assert str(found.formula) == "0.5*mass*speed**2"


def test_noise_does_not_buy_terms():
    X = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    y = np.random.default_rng(5).normal(size=300)
    first = Genetic(inputs="single", **SMALL).search(make_problem(X, y, task="regression"))[0]
    assert first.terms == ()


def test_classes_counts_weights_and_several_outputs():
    X, y = data("x[0]*x[1]/x[2]")
    rng = np.random.default_rng(2)
    settings = Genetic(inputs="single", **SMALL)
    labels = np.where(rng.random(300) < 1 / (1 + np.exp(-4 * (y - 1))), "yes", "no")
    assert np.corrcoef(settings.search(make_problem(X, labels))[0].predictor(X)[:, 0], y)[0, 1] > 0.9
    mild = X[:, 0] * X[:, 1] - 1
    counted = settings.search(make_problem(X, rng.poisson(np.exp(mild)), task="count"))[0]
    # A linear predictor, which so few counts do not tell from the product with certainty, reaches 0.97.
    assert np.corrcoef(np.log(counted.predict(X)), mild)[0, 1] > 0.96
    wrong = np.where(np.arange(300) < 50, 7.0, y)
    weight = (np.arange(300) >= 50).astype(float)
    weighted = settings.search(make_problem(X, wrong, scale="none", sample_weight=weight))[0]
    assert np.allclose(weighted.predict(X)[50:], y[50:], atol=1e-6)
    both = np.column_stack([y, X[:, 0] / X[:, 1]])
    assert np.allclose(settings.search(make_problem(X, both, scale="none"))[0].predict(X), both, atol=1e-6)


def test_rows_are_drawn_where_there_are_many():
    found, _, _ = search("x[0]/x[1]", n=3000, generations=2)
    assert found[0].terms == ("x0/x1",)
    assert found[0].figures["rows"] == 3000


def test_memoised_columns_are_those_of_the_formula():
    X, y = data("x[0]")
    space = exact_space(linearised(make_problem(X, y, scale="none"), None), FUNCTIONS)
    tree = make("/", make("sin", input_of(1)), make("+", input_of(0), make("sum", VECTOR)))
    wanted = np.sin(X[:, 1]) / (X[:, 0] + X.sum(1))
    assert np.allclose(space.raw(tree), wanted, rtol=1e-12)
    assert np.allclose(Formula(text(tree)).evaluate(X), wanted, rtol=1e-12)
    assert space.values(input_of(2)) is space.values(input_of(2))
    with pytest.raises(TypeError, match="sum the vector first"):
        make("*", VECTOR, input_of(0))


def test_variation_stays_within_single_inputs_and_limits():
    rng = Random(0)
    pool = [seedling(GRAMMAR, rng) for _ in range(50)]
    for _ in range(1000):
        child = mutate(cross(rng.choice(pool), rng.choice(pool), GRAMMAR, rng), GRAMMAR, rng)
        assert len(child) <= GRAMMAR.max_terms
        for term in child:
            assert term.size <= GRAMMAR.max_size and term.kind == "scalar"
            assert all(node.op not in ("x", "sum") for node in walk(term))
            assert all(node.value in (0, 1, 2) for node in walk(term) if node.op == "input")
        pool[rng.randrange(50)] = child


def test_factors_explain_sums_of_products():
    X, y = data("x[0]*x[1]**2 + 3*x[2]")
    space = exact_space(linearised(make_problem(X, y, scale="none"), None), FUNCTIONS)
    pool = Pool(GRAMMAR, space, 0)
    response = (y - y.mean())[None]
    last = pool.sums(response, np.ones(300), None)[-1]
    assert {text(pool.tree(product)) for product in last} == {"(x[1])**2*x[0]", "x[2]"}
    sparse = pool.polynomials(response, np.ones(300))
    assert {frozenset(text(pool.tree(product)) for product in one) for one in sparse} >= {
        frozenset({"(x[1])**2*x[0]", "x[2]"})
    }


def test_starting_forms_are_left_to_time_and_to_the_limits():
    X, y = data("sin(x[0]*x[1]) + x[2]**4")
    space = exact_space(linearised(make_problem(X, y, scale="none"), None), FUNCTIONS)
    with np.errstate(all="ignore"):
        forms = product_forms(GRAMMAR, space, y, (0, 1), None)
        assert forms and all(term.size <= GRAMMAR.max_size for terms in forms for term in terms)
        assert len(product_forms(GRAMMAR, space, y, (0, 1), 0.0)) < len(forms)
