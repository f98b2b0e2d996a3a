import numpy as np
import pytest

from neuronwise.discover import Interactions, discover, make_problem
from neuronwise.discover._monomials import as_products, count, groups_of, subsets
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Formula
from neuronwise.nn import kind


def target(rng, X, labels, noise=0.05):
    """A sum of the groups named, each with random weights and variance 1, and noise."""
    groups = {group.label: group for group in groups_of(X.shape[1], 3)}
    parts = [(c := groups[label].columns(X)) @ rng.standard_normal(c.shape[1]) for label in labels]
    signal = sum((part / part.std() for part in parts), np.zeros(len(X)))
    return signal + noise * rng.standard_normal(len(X))


def test_groups_are_all_monomials_once():
    groups = groups_of(4, 3)
    assert [group.label for group in groups] == ["x", "x**2", "x[i]*x[j]", "x**3", "x[i]*x[j]*x[k]"]
    every = [tuple(row) for group in groups for row in group.index.tolist()]
    assert len(set(every)) == len(every) == count(4, 3)
    X = np.array([[2.0, 3, 5, 7]])
    assert sorted(groups[2].columns(X)[0]) == [6, 10, 14, 15, 21, 35]


def test_subsets_have_the_residuals_of_least_squares():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((60, 1))
    parts = [rng.standard_normal((60, size)) + shared for size in (1, 2, 4)]
    blocks = [np.linalg.qr(part - part.mean(0))[0] for part in parts]
    response = rng.standard_normal((60, 2))
    response -= response.mean(0)
    found = {one.members: one for one in subsets(blocks, response, most=6)}
    assert set(found) == {(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}  # all three have 7 directions
    for members, one in found.items():
        design = np.hstack([np.zeros((60, 1)), *(blocks[k] for k in members)])
        left = response - design @ np.linalg.lstsq(design, response)[0]
        np.testing.assert_allclose(one.left, (left**2).sum(0), rtol=1e-8)


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_mixed_monomials_as_products_are_the_same_function(degree):
    rng = np.random.default_rng(degree)
    X = rng.standard_normal((50, 4))
    group = next(one for one in groups_of(4, degree) if one.order == degree and not one.pure)
    weights = rng.standard_normal(len(group.index))
    products = as_products(group.index, weights, 4)
    total = sum((X @ factors.T).prod(1) for factors in products)
    np.testing.assert_allclose(total, group.columns(X) @ weights, atol=1e-10)


def test_a_quadratic_form_takes_few_products():
    index = np.array([[0, 1]])
    assert len(as_products(index, np.array([3.0]), 5)) == 1
    every = next(one for one in groups_of(6, 2) if not one.pure)
    assert len(as_products(every.index, np.random.default_rng(0).standard_normal(15), 6)) <= 5


@pytest.mark.parametrize(
    "labels",
    [("x",), ("x", "x**2"), ("x[i]*x[j]",), ("x", "x[i]*x[j]"), ("x**3",), ("x**2", "x[i]*x[j]*x[k]"), ()],
)
def test_the_right_groups_are_found(labels):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((800, 5))
    problem = make_problem(X, target(rng, X, labels))
    for method in (Interactions(form="monomials"), Interactions(low_rank=False)):
        assert method.search(problem)[0].terms == labels


def test_both_forms_are_the_same_function_and_read_back():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 4))
    problem = make_problem(X, target(rng, X, ("x**2", "x[i]*x[j]")), scale="none")
    plain = Interactions(form="monomials").search(problem)[0]
    products = Interactions(low_rank=False).search(problem)[0]
    np.testing.assert_allclose(plain.predict(X), products.predict(X), atol=1e-9)
    assert "x0*x1" in str(plain.formula)
    for formula in (plain.formula, products.formula):
        again = Formula(str(formula), inputs=formula.inputs, weights=formula.weights)
        np.testing.assert_array_equal(again.evaluate(X), formula.evaluate(X))


def test_a_single_product_is_told_from_a_full_quadratic_form():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 6))
    one = (X @ rng.standard_normal(6)) * (X @ rng.standard_normal(6))
    found = Interactions(order=2).search(make_problem(X, one + 0.1 * rng.standard_normal(500)))
    assert found[0].terms == ("<w, x>*<w, x>",)
    assert found[0].figures["dof"] == 11  # two vectors of 6, less a scale
    assert any(other.figures.get("monomials") == 21 for other in found)


def test_a_neuron_comes_of_it():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 4))
    found = discover(
        X, target(rng, X, ("x[i]*x[j]",)), method=Interactions(), confidence="none", scale="none"
    )
    assert found.figures["r2"] > 0.98
    assert kind(found.neuron).products >= 2
    np.testing.assert_allclose(found.predict(X), found.formula.evaluate(X))


@pytest.mark.parametrize("task", ["two", "three", "count"])
def test_classes_and_counts(task):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1200, 3))
    curve = 2 * target(rng, X, ("x[i]*x[j]",), noise=0)
    if task == "count":
        y = rng.poisson(np.exp(np.clip(curve, -3, 2)))
    elif task == "two":
        y = np.where(curve + rng.logistic(size=1200) > 0, "yes", "no")
    else:
        y = (np.column_stack([curve, -curve, 0 * curve]) + rng.gumbel(size=(1200, 3))).argmax(1)
    problem = make_problem(X, y, task="count" if task == "count" else "classification")
    method = Interactions(order=2, low_rank=False)
    best = method.search(problem)[0]
    assert best.terms == ("x[i]*x[j]",) or (task == "count" and "x[i]*x[j]" in best.terms)
    assert best.figures["explained"] > 0.2
    again = method.refit(problem, best)
    np.testing.assert_allclose(again.predict(X), best.predict(X), atol=1e-3)


def test_a_refit_uses_all_rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 3))
    y = target(rng, X, ("x**2", "x[i]*x[j]"), noise=0.5)
    whole = make_problem(X, y, scale="none")
    for method in (Interactions(form="monomials"), Interactions()):
        part = method.search(whole.take(np.arange(200)))[0]
        again = method.refit(whole, part)
        assert again.terms == part.terms
        assert np.mean((again.predict(X) - y) ** 2) < np.mean((part.predict(X) - y) ** 2)
    best = method.search(whole)[0]
    np.testing.assert_allclose(method.refit(whole, best).predict(X), best.predict(X), atol=1e-4)


def test_many_monomials_are_written_as_inner_products():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 12))
    y = target(rng, X, ("x[i]*x[j]*x[k]",))
    best = Interactions(form="monomials").search(make_problem(X, y, scale="none"))[0]
    assert best.terms == ("x[i]*x[j]*x[k]",) and best.figures["monomials"] == 352
    assert np.mean((best.predict(X) - y) ** 2) < 0.05**2
    again = Interactions(low_rank=False).search(make_problem(X, y, scale="none"))[0]
    np.testing.assert_allclose(again.predict(X), best.predict(X), atol=1e-8)


def test_rows_of_weight_zero_are_not_there():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 3))
    y = target(rng, X, ("x", "x[i]*x[j]"))
    row = np.r_[np.ones(250), np.zeros(150)]
    method = Interactions(order=2, form="monomials")
    weighted = method.search(make_problem(X, y, sample_weight=row, scale="none"))[0]
    plain = method.search(make_problem(X[:250], y[:250], scale="none"))[0]
    np.testing.assert_allclose(weighted.predict(X), plain.predict(X), atol=1e-8)


def test_duplicated_and_constant_inputs():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3))
    y = target(rng, X, ("x[i]*x[j]",))
    wide = np.column_stack([X, X[:, 0], np.ones(300)])
    best = Interactions(order=2, form="monomials").search(make_problem(wide, y, scale="none"))[0]
    assert best.figures["explained"] > 0.99
    assert np.isfinite(best.predict(wide)).all()


def test_too_many_inputs_name_the_other_search():
    X = np.random.default_rng(0).standard_normal((60, 30))
    with pytest.raises(InvalidArgumentError, match=r"5,455 monomials.*low_rank"):
        Interactions().search(make_problem(X, X[:, 0]))


@pytest.mark.parametrize(
    "wrong", [{"order": 0}, {"order": 7}, {"form": "tree"}, {"rank": 0}, {"max_columns": 0}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(InvalidArgumentError):
        Interactions(**wrong)
