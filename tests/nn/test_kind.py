"""Kinds: what formulas become, and that a layer computes the formula of its kind."""

import json
import pickle

import numpy as np
import pytest
import torch

from neuronwise.errors import FormulaError, InvalidArgumentError
from neuronwise.formula import Formula, Function, with_functions
from neuronwise.nn import KINDS, Block, Combine, Kind, NeuronLinear, kind, polynomial
from tests.nn.kinds import EVERY


def evaluated(layer, x):
    """What the layer's formula says for each neuron, with the layer's weights, in NumPy."""
    named = {name: value.detach().numpy() for name, value in layer.named_weights().items()}
    columns = []
    for neuron in range(layer.out_features):
        weights = {name: value[neuron] for name, value in named.items()}
        columns.append(Formula(layer.kind.formula, weights=weights).evaluate(x.numpy()))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("spec", EVERY)
def test_the_layer_computes_the_formula_of_its_kind(spec):
    torch.manual_seed(0)
    layer = NeuronLinear(4, 3, kind=spec, normalise=False, dtype=torch.float64)
    x = torch.rand(7, 4, dtype=torch.float64) + 0.5
    assert np.allclose(layer(x).detach().numpy(), evaluated(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", EVERY)
def test_neurons_differ_and_every_weight_gets_a_gradient(spec):
    torch.manual_seed(0)
    layer = NeuronLinear(4, 3, kind=spec)
    output = layer(torch.randn(9, 4) + 0.1)
    assert not torch.allclose(output[:, 0], output[:, 1])
    output.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert (parameter.grad != 0).any(), name
    for name, view in layer.named_weights().items():
        assert view.shape[0] == 3, name


@pytest.mark.parametrize("spec", EVERY)
def test_a_kind_comes_back_from_json_and_pickle(spec):
    found = kind(spec)
    again = Kind.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found == pickle.loads(pickle.dumps(found))
    assert hash(again) == hash(found)
    assert (again.name, again.lift, again.products) == (found.name, found.lift, found.products)


def test_the_published_example_of_the_sheet():
    layer = NeuronLinear(2, 1, kind="6*x**2 + 2*x - 3", normalise=False)
    with torch.no_grad():
        for name, value in {"w1": 6.0, "w2": 2.0, "b1": -3.0}.items():
            layer.named_weights()[name].fill_(value)
    assert layer(torch.tensor([[1.0, 2.0]])).item() == 33.0
    assert sum(p.numel() for p in layer.parameters()) == 5
    assert sum(p.numel() for p in NeuronLinear(10, 50, kind="x**2 + x").parameters()) == 1050


def test_sums_are_one_block_and_equal_features_one_product():
    assert len(kind("x + sin(x) - 3*x**2 + 1").blocks) == 1
    assert kind("quadratic_residual").products == 2
    assert [len(kind(name).blocks) for name in ("linear", "product", "quadratic")] == [1, 2, 3]
    assert polynomial(5).lift == kind(["x", "x**2", "x**3", "x**4", "x**5"]).lift


def test_numbers_give_way_to_weights_only_where_there_are_none():
    assert str(kind("2*x**2 - 3*x + 1").formula) == "<w1, x**2> + <w2, x> + b1"
    assert str(kind("0.5*<w1, x>*<w2, x> - <w3, x>").formula) == "<w1, x>*<w2, x> + <w3, x> + b1"
    assert str(kind("<w1, x> + x**2").formula) == "<w1, x> + <w2, x**2> + b1"


def test_weights_of_a_found_formula_do_not_matter():
    bound = Formula("<w1, x> + <w2, x**2>", weights={"w1": [1.0, 2.0], "w2": [0.0, 3.0]})
    assert kind(bound) == kind(Formula("<w1, x> + <w2, x**2>")).__class__.from_dict(kind(bound).to_dict())


def test_functions_of_the_user():
    table = with_functions(Function.from_expression("swish", "x*sigmoid(x)"))
    layer = NeuronLinear(
        3, 2, kind=kind("x + swish(x)", functions=table), normalise=False, dtype=torch.float64
    )
    x = torch.randn(5, 3, dtype=torch.float64)
    assert np.allclose(layer(x).detach().numpy(), evaluated(layer, x))
    inside = NeuronLinear(3, 2, kind=kind("swish(<w1, x>) + b1", functions=table))
    assert inside(torch.randn(5, 3)).shape == (5, 2)


def test_a_function_without_a_derivative_is_differentiated_by_autograd():
    table = with_functions(Function("bend", np.arcsinh, torch.asinh))
    torch.manual_seed(0)
    layer = NeuronLinear(3, 2, kind=kind("x + bend(x)", functions=table), dtype=torch.float64).eval()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


class Largest(Combine):
    """The largest of the blocks: a combination of one's own."""

    def __call__(self, blocks):
        return torch.maximum(blocks[0], blocks[1])

    def operations(self):
        return 1


def test_a_kind_made_by_hand():
    plain = kind("x").lift
    maxout = Kind("maxout", plain, (Block((0,), ("w1",)), Block((0,), ("w2",))), Largest())
    torch.manual_seed(0)
    layer = NeuronLinear(6, 4, kind=maxout)
    x = torch.randn(64, 6)
    named = layer.named_weights()
    assert torch.allclose(layer(x), torch.maximum(x @ named["w1"].T, x @ named["w2"].T), atol=1e-6)
    assert layer.kind.spread(6) > 0.1
    assert maxout.linear is None
    with pytest.raises(InvalidArgumentError, match="by hand"):
        maxout.to_dict()


@pytest.mark.parametrize("name", KINDS)
def test_names_are_kept(name):
    assert kind(name) is KINDS[name]
    assert kind(name).name == name


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("linaer", InvalidArgumentError, "linear"),
        (3, InvalidArgumentError, "int"),
        ("3", InvalidArgumentError, "nothing"),
        ("x + ", FormulaError, "x"),
        ("w1[2]*x[0]", FormulaError, "single weights"),
        ([], InvalidArgumentError, "base function"),
    ],
)
def test_what_is_no_kind(spec, error, match):
    with pytest.raises(error, match=match):
        kind(spec)


@pytest.mark.parametrize("degree", [0, -1, 2.0, True])
def test_what_is_no_degree(degree):
    with pytest.raises(InvalidArgumentError, match="degree"):
        polynomial(degree)
