"""The contract of scikit-learn, by its own checks."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from neuronwise.estimators import TaskNeuronClassifier, TaskNeuronRegressor

STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": "Repeated rows fall into other batches and validation parts "
    "than one row of twice the weight; rows of weight 0 are left out, which test_weights checks.",
}


def expected(estimator):
    return STOCHASTIC if isinstance(estimator, TaskNeuronClassifier | TaskNeuronRegressor) else {}


@parametrize_with_checks(
    [
        TaskNeuronRegressor("linear", max_epochs=40),
        TaskNeuronClassifier("linear", max_epochs=40),
    ],
    expected_failed_checks=expected,
)
def test_contract(estimator, check):
    check(estimator)
