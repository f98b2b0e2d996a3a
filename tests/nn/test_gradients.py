"""First and second derivatives, by autograd's own check, through torch.func, and through a compiler."""

import copy

import pytest
import torch
from torch import nn

from neuronwise.nn import NeuronConv2d, NeuronLinear
from tests.nn.kinds import EVERY, EXPRESSIONS, INPUTS


def called(layer):
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    return call


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("spec", EVERY)
def test_first_and_second_derivatives(spec, normalise):
    torch.manual_seed(1)
    layer = NeuronLinear(3, 2, kind=spec, dtype=torch.float64, normalise=normalise)
    layer(torch.randn(20, 3, dtype=torch.float64))
    layer.eval()
    x = (torch.rand(4, 3, dtype=torch.float64) * 4 - 2.1).requires_grad_()
    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(called(layer), arguments)
    assert torch.autograd.gradgradcheck(called(layer), arguments)


@pytest.mark.parametrize("spec", ["quadratic", "x + sin(x) + x**3"])
def test_derivatives_of_convolutions_in_groups(spec):
    torch.manual_seed(1)
    layer = NeuronConv2d(2, 4, 2, groups=2, kind=spec, dtype=torch.float64).eval()
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(called(layer), arguments)
    assert torch.autograd.gradgradcheck(called(layer), arguments)


@pytest.mark.parametrize("spec", ["x + sin(x) + x**2 + x**5", "cos(x)"])
def test_large_batches_in_pieces_have_the_gradients_of_small_ones(spec):
    torch.manual_seed(0)
    layer = NeuronLinear(300, 2, kind=spec).eval()
    x = torch.randn(1000, 300, requires_grad=True)
    layer(x).square().sum().backward()
    parts = x.detach().clone().requires_grad_()
    for part in parts.split(100):
        layer(part).square().sum().backward()
    assert torch.allclose(x.grad, parts.grad, atol=1e-5)


@pytest.mark.parametrize("base", ["sqrt(abs(x))", "1/x", "log(x)", "abs(x)", "relu(x)"])
def test_slopes_are_finite_where_a_base_function_is_not(base):
    layer = NeuronLinear(3, 2, kind=f"x + {base}")
    x = torch.tensor([[0.0, -1.0, 1.0], [0.0, 1e-9, -1e-9], [0.0, 3.0, -3.0]], requires_grad=True)
    output = layer.eval()(x)
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("spec", ["quadratic", "x + sin(x)", "sin(<w1, x>) + <w2, x>"])
def test_gradients_of_each_sample_through_torch_func(spec):
    torch.manual_seed(0)
    layer = NeuronLinear(4, 3, kind=spec)
    x = torch.randn(6, 4)
    layer(x)
    layer.eval()
    parameters = dict(layer.named_parameters())

    def loss(parameters, row):
        return torch.func.functional_call(layer, parameters, (row.unsqueeze(0),)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.allclose(each[name].sum(0), parameter.grad, atol=1e-5), name


def test_batches_of_running_statistics_are_refused():
    layer, x = NeuronLinear(4, 3, kind="x + sin(x)").eval(), torch.randn(6, 4)
    means = {"running_mean": torch.zeros(2, 4)}
    with pytest.raises(NotImplementedError, match="running statistics"):
        torch.func.vmap(lambda buffers: torch.func.functional_call(layer, buffers, (x,)))(means)


@pytest.mark.parametrize(
    "spec", [EVERY[0], "quadratic", "x + sqrt(abs(x)) + x**3", EXPRESSIONS[0], INPUTS[-1]]
)
def test_compiled_without_a_break_it_does_the_same(spec):
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = nn.Sequential(NeuronLinear(4, 3, kind=spec), nn.Tanh())
    other = copy.deepcopy(model)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for train in (True, False):
        model.train(train)
        other.train(train)
        x = torch.randn(9, 4)
        expected, found = model(x), compiled(x)
        assert torch.allclose(found, expected, atol=1e-5)
        expected.square().sum().backward()
        found.square().sum().backward()
    for (name, parameter), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(parameter.grad, twin.grad, atol=1e-4), name
    for (name, buffer), twin in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(buffer.double(), twin.double(), atol=1e-5), name


@pytest.mark.parametrize("spec", ["quadratic", "x + sin(x)"])
def test_compiled_convolutions(spec):
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = NeuronConv2d(4, 4, 3, padding=1, groups=2, kind=spec).eval()
    x = torch.randn(2, 4, 5, 5)
    assert torch.allclose(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x), atol=1e-5)


def test_memory_kept_for_the_backward_pass():
    """Of K base functions only their stack and the input are kept, not the steps in between."""
    kept = []
    layer = NeuronLinear(64, 1, kind="x + sin(x) + tanh(x) + x**3 + exp(x)")
    x = torch.randn(128, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert sum(t.numel() for t in kept if t.numel() >= x.numel()) == (5 + 1) * x.numel()
