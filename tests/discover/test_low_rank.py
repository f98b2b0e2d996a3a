import math

import numpy as np
import pytest
import torch

from neuronwise.discover import Gates, LowRank, discover, make_problem
from neuronwise.discover._cp import Form, Shape, Target, degrees_of_freedom, fit
from neuronwise.discover._gates import HardConcrete, SearchModel, train
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Formula
from neuronwise.nn import kind

QUICK = Gates(epochs=20)


def product(rng, X, order):
    return np.prod(
        [X @ rng.standard_normal(X.shape[1]) / math.sqrt(X.shape[1]) for _ in range(order)], axis=0
    )


# The terms


def test_cp_term_by_hand():
    # Sheet, section 8.5: 1 * 2 + 3 * (-1) = -1.
    form = Form(0.0, {}, (np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 1], [1, -1]])))
    assert form.evaluate(np.array([[1.0, 2.0]])).tolist() == [-1]
    assert form.formula(["a", "b"]).evaluate([[1.0, 2.0]]).tolist() == [-1]


def test_as_many_products_as_inputs_make_a_power():
    X = np.random.default_rng(0).standard_normal((20, 4))
    units = tuple(np.stack([row, row]) for row in np.eye(4))
    np.testing.assert_allclose(Form(0.0, {}, units).evaluate(X), (X**2).sum(1))


def test_normalising_changes_no_value_and_undoes_a_change_of_scale_sign_and_order():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 4))
    one, two = rng.standard_normal((2, 4)), rng.standard_normal((3, 4))
    form = Form(0.5, {2: rng.standard_normal(4)}, (two, one))
    other = Form(0.5, form.powers, (one[::-1] * np.array([[-4.0], [-0.25]]), two[[2, 0, 1]]))
    np.testing.assert_allclose(form.normalised().evaluate(X), form.evaluate(X))
    for left, right in zip(form.normalised().products, other.normalised().products, strict=True):
        np.testing.assert_allclose(left, right)


def test_degrees_of_freedom():
    # The rank of the Jacobian is what they count.
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.standard_normal((400, 5)))
    for order, rank in [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1)]:
        factors = torch.tensor(rng.standard_normal((rank, order, 5)))
        jacobian = torch.autograd.functional.jacobian(
            lambda f: torch.einsum("nd,rkd->nrk", X, f).prod(2).sum(1), factors
        )
        measured = int(torch.linalg.matrix_rank(jacobian.reshape(400, -1), rtol=1e-9))
        assert degrees_of_freedom(Shape((), ((order, rank),)), 5) == measured
    assert degrees_of_freedom(Shape((1, 3), ((2, 50),)), 5) == 5 + 5 + 15


@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_product_is_fitted_from_any_start(order):
    rng = np.random.default_rng(order)
    X = rng.standard_normal((1000, 8))
    y = product(rng, X, order)
    target = Target(X, y, np.ones(1000))
    good = 0
    for seed in range(5):
        start = Form(0.0, {}, (np.random.default_rng(seed).standard_normal((order, 8)),))
        good += fit(target, start)[1] < 1e-6 * float(y @ y)
    assert good >= 4


# The search

CASES = {
    "powers": ((1, 2), {}),
    "one product": ((), {2: 1}),
    "two orders": ((), {2: 1, 3: 1}),
    "two products": ((), {2: 2}),
    "power and product": ((2,), {2: 1}),
    "linear and product": ((1,), {3: 1}),
    "nothing": ((), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_right_terms_with_the_right_rank(case):
    powers, ranks = CASES[case]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((800, 8))
    parts = [(X**order) @ rng.standard_normal(8) for order in powers]
    parts += [product(rng, X, order) for order, rank in ranks.items() for _ in range(rank)]
    signal = sum((part / part.std() for part in parts), np.zeros(800))
    y = signal + 0.05 * rng.standard_normal(800)
    best = LowRank(order=3, starts=2).search(make_problem(X, y))[0]
    labels = ["x" if order == 1 else f"x**{order}" for order in powers]
    assert best.terms == (*labels, *("*".join(["<w, x>"] * order) for order in ranks))
    assert {f"rank_{order}": rank for order, rank in ranks.items()} == {
        name: rank for name, rank in best.figures.items() if name.startswith("rank")
    }
    if parts:
        assert np.std(best.predict(X) - signal) < 0.05


def test_many_inputs():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 60))
    y = product(rng, X, 3) + 0.5 * X @ rng.standard_normal(60) / 8
    best = LowRank(order=3, starts=2).search(make_problem(X, y))[0]
    assert best.terms == ("x", "<w, x>*<w, x>*<w, x>")
    assert best.figures["explained"] > 0.9999


def test_a_sum_of_squares_is_a_power_and_not_d_products():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 4))
    found = LowRank(order=2, starts=2).search(make_problem(X, (X**2).sum(1) + 0.1 * rng.standard_normal(500)))
    assert found[0].terms == ("x**2",)


@pytest.mark.parametrize("task", ["two", "three", "count"])
def test_classes_and_counts(task):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((1500, 5))
    curve = 2 * product(rng, X, 2) * 2
    if task == "count":
        y = rng.poisson(np.exp(np.clip(curve, -3, 2)))
    elif task == "two":
        y = (curve + rng.logistic(size=1500) > 0).astype(int)
    else:
        y = (np.column_stack([curve, -curve, 0 * curve]) + rng.gumbel(size=(1500, 3))).argmax(1)
    problem = make_problem(X, y, task="count" if task == "count" else "classification")
    best = LowRank(order=2, starts=2).search(problem)[0]
    assert "<w, x>*<w, x>" in best.terms and "x" not in best.terms
    mean = best.predict(X)
    if task != "count":
        np.testing.assert_allclose(mean.sum(1), 1)
        truth = 1 / (1 + np.exp(-curve))
        if task == "two":
            assert np.abs(mean[:, 1] - truth).mean() < 0.05
    assert len(best.outputs) == (3 if task == "three" else 1)


def test_end_to_end_with_a_refit_and_a_neuron():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((600, 5))
    y = product(rng, X, 2) + (X**3) @ [0.5, -0.5, 0.2, 0, 0.3] + 0.1 * rng.standard_normal(600)
    found = discover(X, y, method=LowRank(order=3, starts=2), confidence="none", scale="none")
    assert found.terms == ("x**3", "<w, x>*<w, x>")
    assert found.figures["r2"] > 0.95
    again = Formula(str(found.formula), inputs=found.formula.inputs, weights=found.formula.weights)
    np.testing.assert_array_equal(again.evaluate(X), found.formula.evaluate(X))
    assert kind(found.neuron).products == 3
    search_only = LowRank(order=3, starts=2).search(make_problem(X[:450], y[:450], scale="none"))[0]
    whole = LowRank(order=3, starts=2).refit(make_problem(X, y, scale="none"), search_only)
    assert np.mean((whole.predict(X) - y) ** 2) < np.mean((search_only.predict(X) - y) ** 2)
    assert whole.terms == search_only.terms


def test_same_seed_same_formula_and_global_chance_untouched():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4))
    problem = make_problem(X, product(rng, X, 2) + rng.standard_normal(300))
    before = torch.get_rng_state()
    for method in (LowRank(order=2), LowRank(order=2, rank=2, search_by="gates", gates=QUICK)):
        assert method.search(problem)[0].formula == method.search(problem)[0].formula
    assert torch.equal(before, torch.get_rng_state())


# Gates


def test_gate_at_the_start_by_hand():
    # Sheet, section 8.6.
    gate = HardConcrete(1, 0.66, 0.9)
    assert gate.log_alpha.item() == pytest.approx(2.1972, abs=1e-4)
    assert gate(None).item() == pytest.approx(0.98, abs=1e-4)
    assert gate.expected().item() == pytest.approx(0.97768, abs=1e-5)
    with torch.no_grad():
        gate.log_alpha.fill_(-1.5826)
    assert gate.expected().item() == pytest.approx(0.5, abs=1e-4)


def test_random_gates_are_open_as_often_as_expected():
    gate = HardConcrete(1, 0.66, 0.3)
    noise = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (gate(noise) > 0).double().mean() == pytest.approx(gate.expected().item(), abs=0.01)


def test_the_terms_of_the_search_model():
    model = SearchModel(3, 2, (1, 2), (1, 2, 3), 4, Gates(), torch.Generator().manual_seed(0))
    assert model(torch.randn(7, 3), torch.rand(5)).shape == (7, 2)
    x = torch.randn(7, 3)
    u = model.factors.view(3, 6, 4, 2)  # inputs, slots of orders 1 + 2 + 3, rank, outputs
    order_2 = torch.einsum("nd,drc->nrc", x, u[:, 1]) * torch.einsum("nd,drc->nrc", x, u[:, 2])
    torch.testing.assert_close(model.terms(x)[:, 6:8], order_2.sum(1))
    torch.testing.assert_close(model.terms(x)[:, 2:4], x**2 @ model.weights[1])


@pytest.mark.parametrize("labels", [None, 2, 3])
def test_the_formula_is_the_trained_model(labels):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4))
    y = product(rng, X, 2) if labels is None else rng.integers(0, labels, 300)
    problem = make_problem(X, y, scale="none")
    method = LowRank(order=2, rank=3, search_by="gates", pruned=False, order_one_twice=True, gates=QUICK)
    gated = train(problem, (1, 2), (1, 2), 3, QUICK)
    found = method.search(problem)[0]
    assert gated.powers == (1, 2) and gated.products == (1, 2)  # 20 epochs do not close a gate
    assert found.terms == ("x", "x**2", "<w, x>", "<w, x>*<w, x>")
    predictor = np.column_stack([form.evaluate(X) for form in gated.forms])
    np.testing.assert_allclose(found.predictor(X), predictor, atol=1e-9)
    if labels is None:
        assert found.figures["explained"] > 0.1


def test_open_gates_are_pruned_to_what_the_criterion_misses():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((600, 5))
    y = product(rng, X, 2) + 0.05 * rng.standard_normal(600)
    found = LowRank(order=2, rank=2, search_by="gates", gates=Gates(epochs=40)).search(make_problem(X, y))[0]
    assert found.terms == ("<w, x>*<w, x>",) and found.figures["rank_2"] == 1


def test_published_settings():
    method = LowRank.published()
    assert (method.order, method.rank, method.gates.penalty, method.gates.epochs) == (5, 8, 0.05, 200)
    assert method.gates == Gates()
    with pytest.raises(InvalidArgumentError, match="counts"):
        rng = np.random.default_rng(0)
        method.search(make_problem(rng.random((50, 2)), rng.poisson(3, 50), task="count"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": 0},
        {"order": 21},
        {"rank": 0},
        {"starts": 0},
        {"search_by": "luck"},
        {"order_one_twice": True},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(InvalidArgumentError):
        LowRank(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch": 1}, {"penalty": -1}, {"warm_up": 0.9, "full_penalty": 0.5}]
)
def test_gates_out_of_range(wrong):
    with pytest.raises(InvalidArgumentError):
        Gates(**wrong)
