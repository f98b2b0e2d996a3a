"""Every attribution method on every model of the zoo."""

import numpy as np
import pytest

from neuronwise.attribute import METHODS, attribute
from neuronwise.errors import InvalidArgumentError
from neuronwise.store import load_result
from tests.contracts.test_interventions import same, state
from tests.models import NAMES, make

# These read the unembedding, which the zoo's models do not name; tests/attribute has models for them.
READERS = ("direct_logit", "log_probability_increase")
# Models with norms, attention, or functions that are no modules between the neurons and the output.
NOT_PIECEWISE = ("transformer", "tied", "encoder", "reused")


def target(output, examples):
    return output.reshape(len(output), -1)[:, 1:].sum(1) if output.dim() > 2 else output[:, -1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_of_every_neuron_are_finite_the_same_again_and_keep(name, method, tmp_path):
    case = make(name)
    before = state(case.model)
    if method in READERS or (method == "deeplift" and name in NOT_PIECEWISE):
        with pytest.raises(
            InvalidArgumentError, match=r"integrated_gradients|IntegratedGradients|must be|LogProb"
        ):
            attribute(case.model, case.batch, target, sites=case.sites, method=method)
        same(before, state(case.model))
        return
    result = attribute(case.model, case.batch, target, sites=case.sites, method=method)
    same(before, state(case.model))
    assert [site.name for site in result.sites] == [site.name for site in case.sites]
    count = len(result.value)
    for site, scores in result.scores.items():
        positions = result.positions[site]
        assert scores.shape == (*positions.shape, site.width) and len(scores) == count
        assert np.isfinite(scores).all()
        # On the joint path a later site hides one before it where nothing passes beside it.
        assert scores.any() or (method.startswith("joint") and site != result.sites[-1])
    assert np.isfinite(result.value).all()
    assert result == attribute(case.model, case.batch, target, sites=case.sites, method=method)
    result.save(tmp_path / "found")
    loaded = load_result(tmp_path / "found")
    assert loaded == result and loaded.extremes(3).equals(result.extremes(3))
    assert loaded.summary() == result.summary()
