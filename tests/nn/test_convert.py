"""Conversion: the same outputs at first, every new weight can learn, and what cannot be replaced says so."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from neuronwise.errors import InvalidArgumentError, SiteNotFoundError
from neuronwise.nn import KINDS, NeuronConv2d, NeuronLinear, convert
from neuronwise.sites import Site, find_sites
from tests.nn.kinds import PRODUCTS
from tests.sites.families import batch, build

CONTAINING = (
    *KINDS,
    "x + x**2 + sin(x)",
    PRODUCTS[0] + " + x",
    "sin(<w1, x>) + <w2, x>",
    "c1*<w1, x>**2 + <w2, x>",
)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class Residual(nn.Module):
    """A block as in a ResNet."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, groups=2, bias=False)
        self.down = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.down(x)).relu()


def model_of(name):
    torch.manual_seed(0)
    if name == "mlp":
        return nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 2)
        )
    if name == "resnet":
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
            Residual(8, 8, 1),
            Residual(8, 12, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 4),
        )
    if name == "conv1d":
        return nn.Sequential(
            nn.Conv1d(4, 6, 3, padding="same", groups=2), nn.ReLU(), nn.Conv1d(6, 2, 3, dilation=2)
        )
    return build(name)


def outputs(name, model, dtype):
    generator = torch.Generator().manual_seed(1)
    shapes = {"mlp": (5, 6), "resnet": (2, 3, 8, 8), "conv1d": (2, 4, 9)}
    if name in shapes:
        return model(torch.randn(shapes[name], generator=generator, dtype=dtype))
    return model(**batch(name)).logits


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("spec", CONTAINING)
@pytest.mark.parametrize("name", ["mlp", "resnet", "conv1d"])
@pytest.mark.parametrize("train", [True, False])
def test_outputs_are_the_same_at_first_and_all_new_weights_learn(name, spec, dtype, tolerance, train):
    model = model_of(name).to(dtype).train(train)
    before = outputs(name, copy.deepcopy(model), dtype)
    made = convert(model, LAYERS, spec)
    assert made is model
    layers = [m for m in model.modules() if isinstance(m, NeuronLinear | NeuronConv2d)]
    assert (len(layers) > 0 or name == "conv1d") and all(layer.training is train for layer in layers)
    after = outputs(name, model, dtype)
    assert (after - before).abs().max() <= tolerance * before.abs().max()
    moved = _after_steps(name, model, dtype, train)
    assert all(moved.values()), [key for key, value in moved.items() if not value]


def _after_steps(name, model, dtype, train):
    """Whether each parameter has moved after two steps: the first may only free the factor that was 0."""
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        found = outputs(name, model, dtype)
        target = torch.linspace(-1, 1, found.numel(), dtype=dtype).view_as(found)
        (found - target).square().sum().backward()
        optimiser.step()
    return {key: not torch.equal(p, start[key]) for key, p in model.named_parameters()}


@pytest.mark.parametrize("spec", ["quadratic", "x + sin(x)"])
@pytest.mark.parametrize(("name", "where", "count"), [("gpt2", "*.mlp.c_*", 4), ("llama", "*.mlp.*_proj", 6)])
def test_transformers_of_hugging_face(name, where, count, spec):
    model = model_of(name).double()
    before = outputs(name, model, torch.float64)
    made = convert(model, where, spec, copy=True)
    assert sum(isinstance(m, NeuronLinear) for m in made.modules()) == count
    assert not any(isinstance(m, NeuronLinear) for m in model.modules())
    after = outputs(name, made, torch.float64)
    assert (after - before).abs().max() <= 1e-12 * before.abs().max()
    after.sum().backward()
    assert all(p.grad is not None for key, p in made.named_parameters() if ".mlp." in key)


def test_a_transformer_layer_of_torch_does_not_go_past_the_new_layers():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    made = convert(layer, ["linear1", "linear2"], "quadratic", copy=True)
    with torch.no_grad():
        before = layer(x)
        assert torch.allclose(made(x), before, atol=1e-5)
        made.linear1.weight.normal_()
        assert not torch.allclose(made(x), before, atol=1e-2)
    with pytest.raises(InvalidArgumentError, match="without being called"):
        convert(layer, "self_attn.out_proj", "quadratic")


def test_ways_to_say_where():
    model = model_of("mlp")
    every = {"0", "2", "4"}

    def converted(where):
        made = convert(model, where, "x + sin(x)", copy=True)
        return {name for name, module in made.named_modules() if isinstance(module, NeuronLinear)}

    assert converted("0") == converted("0:output") == converted(Site("0", "output", width=8)) == {"0"}
    assert converted("*") == converted(nn.Linear) == converted(["0", "2", "4"]) == every
    assert converted((nn.Linear, nn.Conv2d)) == every
    assert converted(lambda name, module: name == "2") == {"2"}
    assert isinstance(convert(nn.Linear(3, 2), "", "x + sin(x)"), NeuronLinear)


def test_weights_device_mode_and_freezing_are_kept():
    model = model_of("mlp").double().eval()
    model[0].requires_grad_(False)
    old = model[0].weight.detach().clone()
    convert(model, "0", "x**2 + x")
    assert torch.equal(model[0].named_weights()["w2"], old)
    assert not any(p.requires_grad for p in model[0].parameters())
    assert not model[0].training
    meta = convert(nn.Sequential(nn.Linear(4, 3, device="meta")), "0", "quadratic")
    assert meta[0].weight.is_meta


def test_the_seed_decides_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    made = [convert(model_of("mlp"), nn.Linear, "quadratic_linear", seed=seed) for seed in (0, 0, 1)]
    torch.set_rng_state(state)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    convert(model_of_unseeded(), nn.Linear, "quadratic_linear")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(made[0][0].weight, made[1][0].weight)
    assert not torch.equal(made[0][0].weight, made[2][0].weight)


def model_of_unseeded():
    with torch.random.fork_rng(devices=[]):
        return model_of("mlp")


def test_a_layer_at_two_places_is_replaced_at_both():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    x = torch.randn(3, 4)
    before = model(x)
    convert(model, "0", "quadratic")
    assert model[0] is model[2]
    assert torch.allclose(model(x), before, atol=1e-6)


def test_kinds_without_x():
    model = model_of("mlp")
    with pytest.raises(InvalidArgumentError, match="keep_output=False"):
        convert(model, "0", "sin(x)")
    with pytest.raises(InvalidArgumentError, match="cannot start as the linear"):
        convert(model, "0", "<w1, x>**2")
    assert isinstance(convert(model, "0", "sin(x)", keep_output=False)[0], NeuronLinear)


def _tied(model):
    model[4].weight = nn.Parameter(torch.zeros(2, 8))
    model.extra = nn.Linear(8, 2)
    model.extra.weight = model[4].weight


def _hooked(model):
    model[4].register_forward_hook(lambda *_: None)


def _parametrised(model):
    nn.utils.parametrizations.weight_norm(model[4])


def _converted(model):
    convert(model, "4", "quadratic")


@pytest.mark.parametrize(
    ("prepare", "match"),
    [
        (_tied, "tied"),
        (_hooked, "hooks"),
        (_parametrised, "Parametrized|parametrisation"),
        (_converted, "already"),
    ],
)
def test_what_cannot_be_replaced_leaves_the_model_as_it_was(prepare, match):
    model = model_of("mlp")
    prepare(model)
    before = dict(model.named_modules())
    with pytest.raises(InvalidArgumentError, match=match):
        convert(model, ["0", "4"], "quadratic")
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize(
    ("where", "error", "match"),
    [
        ("nothing", SiteNotFoundError, "Closest"),
        ("1", InvalidArgumentError, "ReLU"),
        (nn.Conv2d, InvalidArgumentError, "matches no"),
        (3, InvalidArgumentError, "int"),
    ],
)
def test_places_that_are_none(where, error, match):
    with pytest.raises(error, match=match):
        convert(model_of("mlp"), where, "quadratic")


def test_a_model_that_is_none():
    with pytest.raises(InvalidArgumentError, match=r"\.model"):
        convert(SimpleNamespace(model=nn.Linear(2, 2)), "", "quadratic")


@pytest.mark.parametrize("plain", [nn.Conv1d, nn.Conv2d])
def test_neurons_of_converted_convolutions_are_found_as_before(plain):
    """With the weights that read into them and that they write through, where these are one row a neuron."""

    def make():
        layers = (plain(3, 8, 3), nn.ReLU(), nn.Dropout(), plain(8, 6, 3), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*layers, nn.LazyLinear(2))

    model = make()
    before = list(find_sites(model))
    assert before[0].writes is not None
    convert(model, "0", "x + sin(x)")
    convert(model, "3", "quadratic")
    first, second = find_sites(model)
    # Weights of two base functions side by side: still a row for each neuron. Those of a product are no such rows.
    assert first == replace(before[0], writes=None) and first.reads == before[0].reads
    assert second == replace(before[1], reads=())
    assert first.read_vectors(model)["in"].shape[0] == first.width
    assert list(find_sites(convert(make(), (nn.Conv1d, nn.Conv2d), "linear"))) == before
