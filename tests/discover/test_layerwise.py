import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.discover import discover_layer
from neuronwise.errors import DataError, InvalidArgumentError, SiteNotFoundError
from neuronwise.sites import find_sites

MSE = nn.functional.mse_loss
BASES = "x, x**2, sin(3*x), tanh(2*x), abs(x)"


def fitted(model, layers, x, y, steps=200):
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = MSE(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return closure().item()


def network(power=2.0, seed=0):
    """A network whose third module is linear where the target is made of h + h**power of its inputs h."""
    generator = torch.Generator().manual_seed(seed)
    rows, hidden = 1500, 5
    x = torch.randn(rows, 4, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3), nn.Linear(3, 2))
    with torch.no_grad():
        h = model[1](model[0](x))
        h = (h - h.mean(0)) / h.std(0)
        y = h @ torch.randn(hidden, 2, generator=generator)
        if power:
            y = y + h**power @ torch.randn(hidden, 2, generator=generator)
        y = y + 0.05 * torch.randn(y.shape, generator=generator)
    loss = fitted(model, [model[2], model[3]], x, y)
    return model, x, y, loss


def test_what_the_layer_lacks_is_found_and_helps():
    model, x, y, before = network()
    found = discover_layer(model, "2", [(x[:1000], y[:1000]), (x[1000:], y[1000:])], loss=MSE, bases=BASES)
    assert "x**2" in found.discovery.terms
    assert set(found.discovery.terms) <= {"x", "x**2"}
    assert not found.linear
    assert found.directions == 2 and found.variance > 0.999  # three neurons read by two outputs
    assert found.discovery.figures["r2"] > 0.9
    converted = found.apply(model, copy=True).eval()
    torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)
    assert type(model[2]) is nn.Linear
    converted.train()
    converted(x)
    converted.eval()
    after = fitted(converted, [converted[2], converted[3]], x, y, steps=60)
    more = fitted(model, [model[2], model[3]], x, y, steps=60)
    assert after < 0.05 * more and more == pytest.approx(before, rel=0.01)


def test_a_layer_that_lacks_nothing_stays_linear():
    model, x, y, _ = network(power=0)
    found = discover_layer(model, "2", [(x, y)], loss=MSE, bases=BASES)
    assert found.linear and str(found.neuron) == "x"


def test_the_output_of_a_block_is_written_as_a_formula():
    class Block(nn.Module):
        def forward(self, x):
            return torch.sin(3 * x) @ torch.tensor([[1.0], [-2.0], [0.5]])

    x = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = nn.Sequential(Block(), nn.Flatten())
    found = discover_layer(
        model, "0", [x], target="output", bases="x, x**2, sin(1.7*x), sin(3*x)", method="group"
    )
    assert found.discovery.figures["r2"] > 0.99


def test_a_target_that_is_given():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    y = (x**2).sum(1)
    found = discover_layer(model, "0", [(x, y)], target="given", bases=BASES)
    assert set(found.discovery.terms) - {"x"} == {"x**2"}
    assert str(found.neuron).count("x") == 2  # and x itself, so that the layer can be converted
    found.apply(model)
    assert "x**2" in repr(model[0])


def test_positions_are_rows():
    model = nn.Sequential(nn.Linear(3, 2), nn.Identity())
    x = torch.randn(40, 12, 3, generator=torch.Generator().manual_seed(0))
    y = torch.sin(3 * x) @ torch.ones(3, 2) + x.sum(2, keepdim=True)
    fitted(model, [model], x, y)
    found = discover_layer(model, find_sites(model, "0")[0], [(x, y)], loss=MSE, bases=BASES, rows=400)
    assert "sin(3*x)" in found.discovery.terms
    assert found.discovery.figures["rows"] == 400


@pytest.mark.parametrize("conv", [nn.Conv1d(2, 3, 3, padding=1), nn.Conv2d(2, 3, (2, 3), stride=2)])
def test_convolutions_are_searched_by_the_patches_that_they_see(conv):
    one = isinstance(conv, nn.Conv1d)
    x = torch.randn(*((40, 2, 20) if one else (20, 2, 10, 10)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = conv(x**2) + conv(x)
    model = nn.Sequential(conv, nn.Identity())
    fitted(model, [conv], x, y)
    found = discover_layer(model, "0", [(x, y)], loss=MSE, bases=BASES)
    assert "x**2" in found.discovery.terms
    before = model(x)
    torch.testing.assert_close(found.apply(model, copy=True).eval()(x), before, atol=1e-5, rtol=1e-4)


def test_patches_are_what_the_convolution_reads():
    from neuronwise.discover.layerwise import _patches

    for conv, x in [
        (nn.Conv1d(2, 3, 3, padding=2, dilation=2, stride=2), torch.randn(4, 2, 15)),
        (nn.Conv2d(2, 3, (2, 3), padding=(1, 0)), torch.randn(4, 2, 6, 7)),
    ]:
        read = _patches(conv, x) @ conv.weight.flatten(1).T + conv.bias
        torch.testing.assert_close(read, conv(x).movedim(1, -1).flatten(0, -2))


def test_the_model_is_left_alone_and_the_answer_repeats():
    model, x, y, _ = network()
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    data = [(x[:700], y[:700]), (x[700:], y[700:])]
    random = torch.get_rng_state()
    one = discover_layer(model, "2", data, loss=MSE, bases=BASES, rows=600, seed=3)
    two = discover_layer(model, "2", data, loss=MSE, bases=BASES, rows=600, seed=3)
    assert torch.equal(random, torch.get_rng_state())
    assert model.training and all(p.grad is None or p.requires_grad for p in model.parameters())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert one.discovery.outputs == two.discovery.outputs
    assert np.isclose(one.variance, two.variance)


def test_wrong_arguments():
    model, x, y, _ = network()
    with pytest.raises(InvalidArgumentError, match="need a loss"):
        discover_layer(model, "2", [(x, y)])
    with pytest.raises(InvalidArgumentError, match="'gradient', 'output'"):
        discover_layer(model, "2", [(x, y)], target="error")
    with pytest.raises(InvalidArgumentError, match="rows"):
        discover_layer(model, "2", [(x, y)], loss=MSE, rows=3)
    with pytest.raises(InvalidArgumentError, match=r"\(inputs, target\)"):
        discover_layer(model, "2", [x], loss=MSE)
    with pytest.raises(SiteNotFoundError):
        discover_layer(model, "7", [(x, y)], loss=MSE)
    with pytest.raises(DataError, match="no batch"):
        discover_layer(model, "2", [], loss=MSE)
    with pytest.raises(DataError, match=r"4 of 800 values read by the layer .* are NaN or infinite"):
        holes = torch.where(torch.arange(200)[:, None] == 7, torch.nan, torch.randn(200, 4))
        discover_layer(nn.Linear(4, 1), "", [(holes, torch.randn(200, 1))], loss=MSE)
    with pytest.raises(DataError, match="does not vary"):
        discover_layer(model, "2", [(x, y)], loss=lambda out, _: 0 * out.sum())
    with pytest.raises(InvalidArgumentError, match="groups"):
        groups = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2))
        discover_layer(groups, "0", [torch.randn(5, 4, 9)], target="output")
