import numpy as np

from neuronwise.estimators import compare


def test_task_neurons_with_the_linear_formula_equal_linear_ones_exactly():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = X @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=80)
    result = compare(
        X,
        y,
        learners=["task", "task_matched"],
        folds=3,
        tune=3,
        max_epochs=8,
        hidden=(6,),
        confidence="none",
        progress=False,
    )
    folds = result.tables["comparison_folds"].pivot_table(
        index=["fold", "metric"], columns="learner", values="value"
    )
    assert (result.tables["comparison_fits"]["formula"] == "linear").all()
    np.testing.assert_array_equal(folds["task"], folds["linear"])
    np.testing.assert_array_equal(folds["task_matched"], folds["linear"])
