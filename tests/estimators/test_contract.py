"""The contract of scikit-learn, by its own checks."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from neuronwise.estimators import (
    BaseFunctionTransformer,
    FormulaClassifier,
    FormulaRegressor,
    TaskNeuronClassifier,
    TaskNeuronRegressor,
)

WEIGHTS = "check_sample_weight_equivalence_on_dense_data"
STOCHASTIC = {
    WEIGHTS: "Repeated rows fall into other batches and validation parts than one row of twice the weight; rows of "
    "weight 0 are left out, which test_rows_of_weight_0_are_as_good_as_absent checks.",
}
SEARCHED = {
    WEIGHTS: "The criterion of the search counts rows, so repeated rows are more evidence than weights."
}


def expected(estimator):
    if isinstance(estimator, TaskNeuronClassifier | TaskNeuronRegressor):
        return STOCHASTIC
    return SEARCHED if isinstance(estimator, FormulaRegressor) else {}


@parametrize_with_checks(
    [
        TaskNeuronRegressor(hidden=(8,), max_epochs=10, learning_rate=0.02),
        TaskNeuronClassifier("x**2 + x", hidden=(8,), max_epochs=20, guard=False),
        FormulaRegressor(),
        FormulaClassifier("<w1, x> + tanh(x)"),
        BaseFunctionTransformer(),
        BaseFunctionTransformer(method=None, bases="x, x**2, sin(x)"),
    ],
    expected_failed_checks=expected,
)
def test_contract(estimator, check):
    check(estimator)
