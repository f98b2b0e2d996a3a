"""Rows with a value far from all others: left out of every search, unless the columns have long tails."""

import numpy as np
import pytest

from neuronwise.discover import discover
from neuronwise.discover.outlying import usual_rows
from neuronwise.estimators import BaseFunctionTransformer, FormulaRegressor, TaskNeuronRegressor

_WRONG = ["an input", "the target", "both", "an input within the raw range", "a row that follows the formula"]


def table(seed, *, normal=False):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, 3)) if normal else rng.uniform(-2, 2, (400, 3))
    return X, rng.standard_normal((2, 3)), 0.1 * rng.standard_normal(400)


def spoilt(what, seed, *, normal=False):
    """Return a quadratic table of which one row is wild."""
    X, weights, noise = table(seed, normal=normal)
    y = X @ weights[0] + X**2 @ weights[1] + noise
    X[7, 1] = {"the target": X[7, 1], "an input within the raw range": 9.5}.get(what, 100 * X[:, 1].std())
    if what in ("the target", "both"):
        y[7] += 100 * y.std()
    if what == "a row that follows the formula":
        y = X @ weights[0] + X**2 @ weights[1] + noise
    return X, y


class TestSearches:
    @pytest.mark.parametrize("normal", [False, True])
    @pytest.mark.parametrize("what", _WRONG)
    def test_one_wild_row_changes_no_term(self, what, normal):
        X, y = spoilt(what, 1, normal=normal)
        found = discover(X, y, confidence="none", held_out=0)
        assert found.terms == ("x", "x**2")
        assert found.formula.weights["w2"] == pytest.approx(table(1, normal=normal)[1][1], abs=0.05)
        assert "far from all others: 1 row" in " ".join(found.notes)

    def test_keeping_it_lets_it_have_a_term_of_its_own(self):
        X, y = spoilt("an input", 0)
        found = discover(X, y, confidence="none", held_out=0, outlying="keep")
        assert set(found.terms) > {"x", "x**2"}
        assert "Left out of the search" not in " ".join(found.notes)

    @pytest.mark.parametrize(
        "model",
        [
            FormulaRegressor(),
            TaskNeuronRegressor(guard=False, hidden=(4,), max_epochs=2),
            BaseFunctionTransformer(),
        ],
        ids=lambda model: type(model).__name__,
    )
    @pytest.mark.parametrize("what", _WRONG)
    def test_nor_in_the_estimators(self, what, model):
        X, y = spoilt(what, 0)
        assert model.fit(X, y).discovery_.terms == ("x", "x**2")

    def test_small_inputs_stay_as_they_are_beside_a_wild_one(self):
        X, weights, noise = table(0)
        y = np.sin(3 * X) @ weights[0] + noise
        X[7, 1] = 1e6
        found = discover(X, y, confidence="none", held_out=0)
        assert found.scaling.raw
        assert found.terms == ("sin(3*x)",)
        with pytest.warns(UserWarning, match="rows: 1 of .*'x1' to"):
            assert np.abs(found.predict(X)).max() < 20

    def test_held_out_rows_are_measured_on_all_the_same(self):
        X, y = spoilt("the target", 0)
        seen = [discover(X, y, confidence="none", bases="x, x**2", seed=seed) for seed in range(8)]
        held_out = [found for found in seen if "Left out of the search" not in " ".join(found.notes)]
        assert 0 < len(held_out) < 8
        for found in held_out:
            assert found.figures["r2"] < 0.5
            assert "all rows but the 1 held-out" in " ".join(found.notes)
            assert found.formula.weights["w2"] == pytest.approx(table(0)[1][1], abs=0.05)


class TestRule:
    @pytest.mark.parametrize(
        "draw",
        [lambda rng, n: rng.uniform(-1, 1, n), lambda rng, n: rng.normal(size=n)],
        ids=["flat", "normal"],
    )
    def test_no_row_of_a_benign_table_is_far_out(self, draw):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            X = np.stack([draw(rng, 1000) for _ in range(5)], axis=1)
            assert usual_rows(X, X.sum(1) + X[:, 0] ** 2, "regression").all()
            # A steep function of one input has long tails itself.
            assert np.count_nonzero(~usual_rows(X, X[:, 0] ** 3, "regression")) <= 2

    def test_long_tails_are_kept(self):
        X = np.exp(2 * np.random.default_rng(0).normal(size=(1000, 30)))
        assert usual_rows(X, X[:, 0], "regression").all()

    def test_a_rare_indicator_and_what_it_explains_are_kept(self):
        X = np.random.default_rng(0).normal(size=(1000, 2))
        X[:, 1] = np.arange(1000) < 4
        y = X[:, 0] + 1000 * X[:, 1]
        assert usual_rows(X, y, "regression").all()
        assert not usual_rows(X[:, :1], y, "regression")[:4].any()

    def test_counts_are_judged_by_their_logarithm_and_classes_not_at_all(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(500, 2))
        counts = rng.poisson(np.exp(1 + X[:, 0])).astype(float)
        assert usual_rows(X, counts, "count").all()
        counts[3] = 1e7
        assert np.flatnonzero(~usual_rows(X, counts, "count")).tolist() == [3]
        labels = np.zeros(500, dtype=int)
        labels[3] = 99
        assert usual_rows(X, labels, "classification").all()

    def test_rows_are_judged_by_those_of_the_search(self):
        X = np.concatenate([np.linspace(-1, 1, 100), np.full(100, 50.0)])[:, None]
        y = np.arange(200.0)
        assert usual_rows(X, y, "regression").all()
        assert usual_rows(X, y, "regression", by=np.arange(100)).tolist() == [True] * 100 + [False] * 100

    def test_few_rows_and_a_target_that_would_not_vary_are_left_alone(self):
        X = np.append(np.arange(18.0), 1e6)[:, None]
        assert usual_rows(X, X[:, 0], "regression").all()
        X = np.append(np.arange(100.0), 1e6)[:, None]
        assert not usual_rows(X, X[:, 0], "regression")[-1]
        assert usual_rows(X, (X[:, 0] > 1000).astype(int), "classification").all()
