"""Sizes: what is counted is what the layers have, and matched widths are fair."""

import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.nn import NeuronLinear, count_operations, count_parameters, matched_width
from tests.nn.kinds import EVERY


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spec", EVERY)
def test_parameters_are_those_of_the_layer(spec, bias):
    layer = NeuronLinear(7, 5, bias, kind=spec)
    assert count_parameters(spec, 7, 5, bias=bias) == sum(p.numel() for p in layer.parameters())


def test_the_published_counts():
    assert count_parameters("x**2 + x", 2, 1) == 5
    assert count_parameters("x**2 + x", 10, 50) == 50 * (2 * 10 + 1)


def test_operations_grow_with_the_products():
    linear = count_operations("linear", 64, 32)
    assert linear == 2 * 64 * 32
    assert 2 * linear < count_operations("product", 64, 32) < 2.1 * linear
    assert 3 * linear < count_operations("quadratic", 64, 32) < 3.2 * linear


@pytest.mark.parametrize("out", [0, 3])
@pytest.mark.parametrize("by", ["parameters", "operations"])
@pytest.mark.parametrize("spec", EVERY)
def test_the_width_is_the_largest_that_does_not_cost_more(spec, by, out):
    def cost(kind, width):
        if by == "parameters":
            return count_parameters(kind, 20, width) + out * width
        return count_operations(kind, 20, width) + 2 * out * width

    width = matched_width(spec, 20, 64, by=by, out=out)
    assert cost(spec, width) <= cost("linear", 64) < cost(spec, width + 1)


def test_there_is_always_a_neuron():
    assert matched_width("quadratic", 10, 1) == 1


@pytest.mark.parametrize(
    "options", [{"width": 0}, {"width": 2.5}, {"in_features": 0}, {"out": -1}, {"by": "time"}]
)
def test_arguments_out_of_range(options):
    with pytest.raises(InvalidArgumentError):
        matched_width(**{"kind": "quadratic", "in_features": 3, "width": 4, **options})
