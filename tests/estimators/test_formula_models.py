"""Formulas as models, and base functions as features."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.estimators import BaseFunctionTransformer, FormulaClassifier, FormulaRegressor
from neuronwise.estimators._columns import columns_of, formula_from
from neuronwise.formula import Formula


def data(n=300, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, 3))
    y = X**2 @ [1, -2, 0.5] + np.sin(3 * X) @ [0.5, 1, -1] + 4
    return pd.DataFrame(X, columns=["p", "q", "r"]), y


def test_the_formula_is_found_and_is_the_model():
    X, y = data()
    model = FormulaRegressor().fit(X[:200], y[:200])
    assert {term.base.text for term in model.formula_.terms if term.base} >= {"x**2", "sin(3*x)"}
    assert model.score(X[200:], y[200:]) > 0.95
    np.testing.assert_allclose(model.formula_.evaluate(X), model.predict(X))  # about the inputs as they are
    wide = FormulaRegressor().fit(100 * X, y)
    assert wide.input_scaler_.scale.min() > 50
    scaled = wide.input_scaler_.apply(100 * X.to_numpy())
    np.testing.assert_allclose(wide.formula_.evaluate(scaled), wide.predict(100 * X))
    assert model.discovery_.inputs == ("p", "q", "r")


def test_a_warning_of_clipped_inputs_names_the_line_that_asked():
    X, y = data()
    far = 100 * X
    pipeline = make_pipeline(BaseFunctionTransformer(bases="x, x**2", method=None), Ridge()).fit(X, y)
    classifier = FormulaClassifier("x").fit(X, y > 0)
    asked = (
        FormulaRegressor("x").fit(X, y).predict,
        pipeline.predict,
        classifier.predict,
        classifier.predict_proba,
        classifier.predict_log_proba,
    )
    with pytest.warns(UserWarning, match="clipped") as said:
        for ask in asked:
            ask(far)
    assert [warning.filename for warning in said] == [__file__] * len(asked)


def test_terms_have_a_weight_for_each_input_or_one_for_all():
    X, y = data()
    each = FormulaRegressor("<w1, x**2>").fit(X, y)
    shared = FormulaRegressor("x**2").fit(X, y)
    assert each.score(X, y) > shared.score(X, y) + 0.3
    assert len(each.formula_.weights["w1"]) == 3
    assert not shared.formula_.weights
    single = FormulaRegressor("p*q + sin(r)").fit(X, X["p"] * X["q"])
    assert single.score(X, X["p"] * X["q"]) > 0.99


def test_least_squares_is_that_of_scikit_learn():
    X, y = data()
    weight = np.random.default_rng(1).uniform(0.1, 2, len(X))
    model = FormulaRegressor(["x", "x**2"], alpha=0.0).fit(X, y, sample_weight=weight)
    Z = model.input_scaler_.apply(X.to_numpy())
    expected = Ridge(alpha=0.0).fit(np.hstack([Z, Z**2]), y, sample_weight=weight)
    np.testing.assert_allclose(model.predict(X), expected.predict(np.hstack([Z, Z**2])))
    np.testing.assert_allclose(model.formula_.weights["w2"], expected.coef_[3:])


def test_a_classifier_of_two_and_of_three_classes():
    X, _ = data()
    radius = (X.to_numpy() ** 2).sum(1)
    for labels in (radius > 4, np.array(["in", "mid", "out"])[np.digitize(radius, [2.5, 5])]):
        model = FormulaClassifier("x**2").fit(X, labels)
        assert model.score(X, labels) > 0.9
        np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
        Z = model.input_scaler_.apply(X.to_numpy())
        column = (Z**2).sum(1)[:, None]
        column = (column - column.mean()) / column.std()
        expected = LogisticRegression(max_iter=2000).fit(column, labels)
        np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(column), atol=1e-4)


def test_models_are_saved(tmp_path):
    X, y = data()
    model = FormulaRegressor().fit(X, np.column_stack([y, X["p"]]))
    again = FormulaRegressor.load(model.save(tmp_path / "one"))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.formulas_ == model.formulas_
    assert again.discovery_ == model.discovery_
    labels = np.where(y > 4, "high", "low")
    classifier = FormulaClassifier("<w1, x> + <w2, x**2>").fit(X, labels)
    loaded = FormulaClassifier.load(classifier.save(tmp_path / "two"))
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert loaded.predict(X).tolist() == classifier.predict(X).tolist()


def test_models_refuse_what_they_cannot_fit():
    X, y = data(60)
    with pytest.raises(InvalidArgumentError, match="not linear in its weights"):
        FormulaRegressor("<w1, x>*<w2, x>").fit(X, y)
    with pytest.raises(InvalidArgumentError, match=r"log\(x\).* not finite in row"):
        FormulaRegressor("<w1, log(x)>").fit(X, y)
    with pytest.raises(InvalidArgumentError, match="alpha"):
        FormulaRegressor(alpha=-1).fit(X, y)
    with pytest.raises(InvalidArgumentError, match="scale"):
        FormulaRegressor(scale="robust").fit(X, y)
    with pytest.raises(InvalidArgumentError, match="C must"):
        FormulaClassifier(C=0).fit(X, y > 4)
    with pytest.raises(DataError, match="constant"):
        FormulaRegressor().fit(X, np.ones(60))


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("<w1, x> + <w2, x**2> + 3", {}),
        ("2*x**2 - 3*x + 1", {}),
        ("x[0]*x[2] + 5*<w1, x>*<w2, x> + sin(<w3, x>)", {"w1": [1, 2, 3], "w2": [1, 0, 1], "w3": [1, 1, 1]}),
        ("age*x1", {}),
        ("2", {}),
    ],
)
def test_columns_and_back(text, weights):
    Z = np.random.default_rng(0).normal(size=(20, 3))
    columns = columns_of(Formula(text, weights=weights, inputs=["x0", "x1", "age"]))
    design = np.hstack([np.zeros((20, 0)), *(column.values(Z) for column in columns)])
    numbers = 0.5 * np.arange(1, design.shape[1] + 1)
    formula = formula_from(columns, numbers, 1.5, ["x0", "w1", "my age"])
    np.testing.assert_allclose(formula.evaluate(Z), design @ numbers + 1.5)


def test_features():
    X, y = data()
    found = BaseFunctionTransformer().fit(X, y)
    names = found.get_feature_names_out().tolist()
    assert {"p**2", "q**2", "r**2", "sin(3*p)"} <= set(names)
    Z = found.input_scaler_.apply(X.to_numpy())
    frame = clone(found).set_output(transform="pandas").fit(X, y).transform(X)
    assert list(frame.columns) == names
    np.testing.assert_allclose(frame["q**2"], Z[:, 1] ** 2)
    model = make_pipeline(BaseFunctionTransformer(), Ridge()).fit(X[:200], y[:200])
    assert model.score(X[200:], y[200:]) > 0.95


def test_features_without_a_search_and_of_noise():
    X, _ = data()
    every = BaseFunctionTransformer(method=None, bases="x, x**2, log(x)").fit(X)
    assert every.transform(X).shape == (300, 6)  # the logarithm is not defined here
    noise = BaseFunctionTransformer().fit(X, np.random.default_rng(3).normal(size=300))
    assert noise.get_feature_names_out().tolist() == ["p", "q", "r"]
    shared = BaseFunctionTransformer(method="shared").fit(X, (X**2).sum(axis=1))
    assert shared.transform(X).shape == (300, 3)
    classes = BaseFunctionTransformer().fit(X, np.where((X**2).sum(axis=1) > 4, "out", "in"))
    assert classes.discovery_.task == "classification"
    with pytest.raises(ValueError, match="requires y"):
        BaseFunctionTransformer().fit(X)
    with pytest.raises(InvalidArgumentError, match="task"):
        BaseFunctionTransformer(task="count").fit(X, X["p"])
