import pickle

import pytest
import torch
from torch import nn

from neuronwise.errors import InvalidArgumentError, SiteNotFoundError
from neuronwise.sites import Site, WeightSlice


def test_a_site_is_an_address_that_can_be_hashed_compared_and_pickled():
    site = Site("a.b", "input", width=4, layer=1, call=2)
    assert pickle.loads(pickle.dumps(site)) == site
    assert len({site, Site("a.b", "input", width=4, layer=1, call=2)}) == 1
    assert str(site) == site.name == "a.b:input#2"


@pytest.mark.parametrize("wrong", [{"tensor": "middle", "width": 3}, {"tensor": "input", "width": 0}])
def test_impossible_sites_are_refused(wrong):
    with pytest.raises(InvalidArgumentError):
        Site("a", **wrong)


def test_weights_are_views_on_the_model():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(4, 2))
    reads = (WeightSlice("0.weight", 0, 4, 8, "gate"),)
    site = Site("2", "input", width=4, reads=reads, writes=WeightSlice("2.weight", 1, 0, 4, "out"))
    assert torch.equal(site.read_vectors(model)["gate"], model[0].weight[4:])
    assert torch.equal(site.biases(model), model[0].bias[4:])
    assert torch.equal(site.value_vectors(model), model[2].weight.T)
    with torch.no_grad():
        site.value_vectors(model)[1] += 1
        site.biases(model)[0] = 7
    assert torch.equal(site.value_vectors(model)[1], model[2].weight[:, 1])
    assert model[0].bias[4] == 7


def test_biases_are_none_without_a_bias_or_a_read():
    model = nn.Sequential(nn.Linear(3, 4, bias=False))
    assert Site("0", "output", 4, reads=(WeightSlice("0.weight", 0, 0, 4),)).biases(model) is None
    assert Site("0", "output", 4).biases(model) is None


def test_unknown_modules_and_parameters_name_the_closest():
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(SiteNotFoundError, match="Closest"):
        Site("9", "output", 4).module(model)
    with pytest.raises(SiteNotFoundError, match=r"0\.weight"):
        WeightSlice("0.wait", 0, 0, 4).view(model)
    with pytest.raises(SiteNotFoundError, match="write through"):
        Site("0", "output", 4).value_vectors(model)
