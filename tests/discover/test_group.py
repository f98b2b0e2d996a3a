"""Group selection: random signed weights, awkward columns, classes and counts, many inputs."""

import numpy as np
import pytest

from neuronwise.discover import Group, Shared, _select, make_problem
from neuronwise.discover._beam import _factor
from neuronwise.discover._blocks import Block, Columns, Gram
from neuronwise.discover._select import Settings, fitted, select
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Base


def case(bases, n=600, d=5, noise=0.05, seed=0, width=2.0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-width, width, (n, d))
    y = sum(Base(base)(X) @ rng.standard_normal(d) for base in bases)
    return X, y + noise * y.std() * rng.standard_normal(n)


@pytest.mark.parametrize("d", [2, 5, 20])
@pytest.mark.parametrize("bases", [("x**2",), ("x", "sin(3*x)"), ("abs(x)", "x**3"), ("x", "cos(2*x)")])
def test_random_signed_weights(bases, d):
    X, y = case(bases, d=d)
    best = Group().search(make_problem(X, y))[0]
    assert set(best.terms) == set(bases)
    assert best.figures["explained"] > 0.99


def test_shared_coefficients_are_blind_to_signs():
    X, y = case(("x**2",), d=6)
    y = X**2 @ np.array([1, -1, 1, -1, 1, -1.0])
    assert Shared().search(make_problem(X, y))[0].figures["explained"] < 0.05
    assert Group().search(make_problem(X, y))[0].terms == ("x**2",)


def test_the_weights_are_those_of_the_target():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (400, 3))
    y = X @ [1, -2, 0] + np.sin(3 * X) @ [0.5, 0, 1] + 4
    formula = Group().search(make_problem(X, y))[0].formula
    assert str(formula).startswith("<w1, x> + <w2, sin(3*x)> + ")
    assert formula.weights["w1"] == pytest.approx([1, -2, 0], abs=1e-10)
    assert formula.weights["w2"] == pytest.approx([0.5, 0, 1], abs=1e-10)
    assert formula.evaluate(np.zeros((1, 3))) == pytest.approx(4)


class TestAwkwardColumns:
    def test_constant_and_duplicated_columns_change_nothing(self):
        X, y = case(("x", "x**2"))
        plain = Group().search(make_problem(X, y))[0]
        more = np.column_stack([X, np.ones(len(X)), X[:, 0], X[:, 0], np.zeros(len(X))])
        best = Group().search(make_problem(more, y))[0]
        assert best.terms == plain.terms
        assert best.criterion == pytest.approx(plain.criterion, rel=1e-6)
        assert best.figures["dof"] == pytest.approx(plain.figures["dof"], abs=1e-3)
        assert best.predict(more) == pytest.approx(plain.predict(X), abs=1e-6)

    def test_a_binary_column_has_one_direction_whatever_the_base(self):
        rng = np.random.default_rng(0)
        X = np.column_stack([rng.integers(0, 2, 300), rng.uniform(-1, 1, 300)]).astype(float)
        y = 3 * X[:, 0] + X[:, 1] + X[:, 1] ** 2
        found = Group().search(make_problem(X, y, bases="polynomial"))
        best = next(one for one in found if one.terms == ("x", "x**2"))
        assert best.figures["dof"] == pytest.approx(3, abs=1e-3)
        assert best.predict(X) == pytest.approx(y, abs=1e-9)

    def test_large_means_do_no_harm(self):
        X, y = case(("x", "x**2"))
        best = Group().search(make_problem(X + 1e5, y))[0]
        assert best.figures["explained"] > 0.99

    def test_blocks_are_made_orthonormal(self):
        X, y = case(("x",))
        X = np.column_stack([X, X[:, 0]])
        problem = make_problem(X, y)
        blocks = [Block(base.text, 1, base, 6) for base in problem.bases[:4]]
        gram = Gram(Columns(problem, blocks), problem.response)
        assert gram.ranks.tolist() == [5, 5, 5, 5]
        for k in range(4):
            assert gram.within[k] == pytest.approx(np.eye(5), abs=1e-10)

    def test_columns_that_are_not_kept_give_the_same(self):
        X, y = case(("x", "x**2"), n=300)
        problem = make_problem(X, y, sample_weight=np.random.default_rng(1).uniform(0.1, 2, 300))
        blocks = [Block(base.text, 1, base, 5) for base in problem.bases]
        kept, anew = Columns(problem, blocks), Columns(problem, blocks, memory=0)
        one, other = (Gram(columns, problem.response) for columns in (kept, anew))
        assert one.products == pytest.approx(other.products, abs=1e-9)
        assert one.cross == pytest.approx(other.cross, abs=1e-9)
        assert next(kept.pieces([3, 1]))[1] == pytest.approx(next(anew.pieces([3, 1]))[1])


class TestChance:
    def test_nothing_is_found_in_noise(self):
        for seed in range(15):
            rng = np.random.default_rng(seed)
            problem = make_problem(rng.uniform(-1, 1, (200, 6)), rng.standard_normal(200))
            assert Group().search(problem)[0].terms == ()

    def test_a_linear_target_gives_x(self):
        for seed in range(10):
            X, y = case(("x",), noise=0.4, seed=seed)
            assert Group().search(make_problem(X, y))[0].terms == ("x",)

    def test_heavy_tails_do_not_fool_it(self):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            problem = make_problem(rng.standard_normal((300, 5)), rng.standard_t(3, 300))
            assert Group().search(problem)[0].terms == ()


class TestLikelihood:
    def data(self, seed=0, n=1500, d=4):
        X, predictor = case(("x**2", "sin(3*x)"), n=n, d=d, noise=0, seed=seed)
        return X, (predictor - predictor.mean()) / predictor.std(), np.random.default_rng(seed + 1)

    def test_two_classes(self):
        X, predictor, rng = self.data()
        labels = rng.random(1500) < 1 / (1 + np.exp(-3 * predictor))
        best = Group().search(make_problem(X, labels))[0]
        assert best.terms == ("x**2", "sin(3*x)")
        assert best.link == "logit"
        assert np.corrcoef(best.predictor(X)[:, 0], predictor)[0, 1] > 0.98

    def test_the_names_of_classes_do_not_matter(self):
        X, predictor, rng = self.data()
        others = np.column_stack([2 * predictor, X[:, 0] ** 2, X[:, 1]])
        y = np.argmax(others + rng.gumbel(size=others.shape), axis=1)
        found = [
            Group().search(make_problem(X, np.array(list(names))[y]))[0] for names in ("abc", "cab", "bca")
        ]
        assert {one.terms for one in found} == {found[0].terms}
        assert [one.criterion for one in found] == pytest.approx([found[0].criterion] * 3, abs=0.5)
        assert found[0].predict(X).shape == (1500, 3)
        mean = np.mean([formula.weights["w1"] for formula in found[0].outputs], axis=0)
        assert mean == pytest.approx(0, abs=1e-9)

    def test_classes_that_can_be_told_apart_without_error(self):
        X, predictor, _ = self.data()
        best = Group().search(make_problem(X, predictor > 0))[0]
        assert best.terms == ("x**2", "sin(3*x)")
        assert np.isfinite(best.predict(X)).all()

    def test_counts(self):
        X, predictor, rng = self.data()
        best = Group().search(make_problem(X, rng.poisson(np.exp(predictor)), task="count"))[0]
        assert best.terms == ("x**2", "sin(3*x)")
        assert best.predict(X) == pytest.approx(np.exp(predictor), rel=0.6)

    def test_counts_that_vary_more_than_poisson_allows_are_not_over_read(self):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            problem = make_problem(
                rng.uniform(-2, 2, (600, 4)), rng.negative_binomial(1, 0.05, 600), task="count"
            )
            assert Group().search(problem)[0].terms == ()

    def test_labels_by_chance(self):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            X = rng.uniform(-2, 2, (300, 4))
            for classes in (2, 4):
                assert Group().search(make_problem(X, rng.integers(0, classes, 300)))[0].terms == ()

    def test_the_fit_is_that_of_maximum_likelihood(self):
        from sklearn.linear_model import LogisticRegression, PoissonRegressor

        X, predictor, rng = self.data()
        columns = np.column_stack([X, X**2])
        labels = (rng.random(1500) < 1 / (1 + np.exp(-predictor))).astype(int)
        counts = rng.poisson(np.exp(predictor / 2))
        for task, y, peer in (
            ("classification", labels, LogisticRegression(C=1e9, tol=1e-10, max_iter=5000)),
            ("count", counts, PoissonRegressor(alpha=0, tol=1e-10, max_iter=5000)),
        ):
            problem = make_problem(X, y, task=task, bases="x, x**2")
            one = fitted(problem, [Block(base.text, 1, base, 4) for base in problem.bases])
            expected = peer.fit(columns, y).coef_.ravel()
            assert np.concatenate([w[:, 0] for w in one.weights]) == pytest.approx(expected, abs=5e-3)


class TestManyInputs:
    def test_a_few_that_matter_are_found_among_many(self):
        rng = np.random.default_rng(0)
        X = rng.uniform(-2, 2, (300, 400))
        y = X[:, [3, 50, 200]] ** 2 @ [2, -3, 1.5] + 0.3 * rng.standard_normal(300)
        best = Group().search(make_problem(X, y))[0]
        assert best.terms == ("x**2",)
        assert best.figures["inputs"] < 10
        assert set(np.argsort(-np.abs(best.formula.weights["w1"]))[:3]) == {3, 50, 200}
        again = Group().refit(make_problem(X, y), best)
        assert (
            np.flatnonzero(again.formula.weights["w1"]).tolist()
            == np.flatnonzero(best.formula.weights["w1"]).tolist()
        )

    def test_nothing_is_found_in_noise_among_many(self):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            problem = make_problem(
                rng.uniform(-2, 2, (150, 300)), rng.standard_normal(150), bases="polynomial"
            )
            assert Group().search(problem)[0].terms == ()

    def test_blocks_too_many_for_a_gram_matrix_are_rated_first(self, monkeypatch):
        monkeypatch.setattr(_select, "_LARGEST", 30)
        X, y = case(("x**2", "sin(3*x)"), d=5)
        best = Group().search(make_problem(X, y))[0]
        assert set(best.terms) == {"x**2", "sin(3*x)"}


def test_terms_that_work_only_together_are_found():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(500)
    b = a + 0.05 * rng.standard_normal(500)
    columns = {"a": a, "b": b, **{f"c{k}": rng.standard_normal(500) for k in range(6)}}
    problem = make_problem(rng.uniform(-1, 1, (500, 1)), (a - b) * 20 + 0.1 * rng.standard_normal(500))
    problem.X[:, 0] = np.arange(500)
    blocks = [Block(n, 1, lambda X, v=v: v[X[:, 0].astype(int)][:, None], 1) for n, v in columns.items()]
    assert select(problem, blocks, Settings(exhaustive=0))[0].members == (0, 1)


def test_several_outputs():
    X, first = case(("x**2",), noise=0)
    _, second = case(("x",), noise=0, seed=1)
    second = X @ np.arange(1.0, 6)
    best = Group().search(make_problem(X, np.column_stack([first, second])))[0]
    assert best.terms == ("x", "x**2")
    assert best.predict(X) == pytest.approx(np.column_stack([first, second]), abs=1e-8)
    assert best.outputs[1].weights["w1"] == pytest.approx(np.arange(1.0, 6), abs=1e-8)


def test_a_refit_keeps_the_terms_and_uses_all_rows():
    X, y = case(("x", "x**2"), noise=0.3)
    problem = make_problem(X, y)
    found = Group().search(problem.take(np.arange(300)))[0]
    again = Group().refit(problem, found)
    assert again.terms == found.terms
    columns = np.column_stack([np.ones(600), X, X**2])
    expected = np.linalg.lstsq(columns, y, rcond=None)[0]
    assert again.formula.weights["w1"] == pytest.approx(expected[1:6], abs=1e-9)


def test_settings_are_checked():
    for option in ("width", "max_terms", "max_inputs"):
        with pytest.raises(InvalidArgumentError, match=option):
            Group(**{option: 0})


def test_blocks_that_are_nearly_the_same_still_have_a_factor():
    direction = np.array([3.0, 4.0, 12.0]) / 13
    nearly = np.outer(direction, direction) - 5e-9 * np.eye(3)
    lower = _factor(nearly)
    np.testing.assert_allclose(lower @ lower.T, nearly, atol=2e-7)
    exact = nearly + np.eye(3)
    np.testing.assert_allclose(_factor(exact) @ _factor(exact).T, exact, atol=1e-14)
    with pytest.raises(np.linalg.LinAlgError, match="smallest eigenvalue -1"):
        _factor(-np.eye(3))
