"""The hosts: like torch's layers in the place of which they stand, and kind to bad inputs."""

import copy
import io
import itertools

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.nn import NeuronConv1d, NeuronConv2d, NeuronLinear, kind
from tests.nn.kinds import EVERY, PRODUCTS, SUMS, WINDOWED

LINEARS = [
    (nn.Linear, NeuronLinear, (6, 5), {}, (7, 6)),
    (nn.Linear, NeuronLinear, (6, 5), {"bias": False}, (2, 3, 6)),
    (nn.Conv1d, NeuronConv1d, (4, 6, 3), {"padding": 1, "stride": 2, "groups": 2}, (3, 4, 9)),
    (nn.Conv1d, NeuronConv1d, (4, 6, 3), {"padding": "same", "padding_mode": "circular"}, (3, 4, 9)),
    (
        nn.Conv2d,
        NeuronConv2d,
        (4, 6, (3, 2)),
        {"padding": (1, 0), "dilation": 2, "bias": False},
        (2, 4, 8, 9),
    ),
    (
        nn.Conv2d,
        NeuronConv2d,
        (4, 4, 3),
        {"padding": 1, "groups": 4, "padding_mode": "reflect"},
        (2, 4, 5, 5),
    ),
]


@pytest.mark.parametrize(("plain", "ours", "sizes", "options", "shape"), LINEARS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kind_linear_is_torchs_layer_bit_for_bit(plain, ours, sizes, options, shape, dtype):
    torch.manual_seed(3)
    theirs = plain(*sizes, **options, dtype=dtype)
    torch.manual_seed(3)
    layer = ours(*sizes, **options, dtype=dtype)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)
    x = torch.randn(shape, dtype=dtype)
    assert torch.equal(layer(x), theirs(x))
    layer.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("spec", WINDOWED)
def test_a_convolution_is_the_linear_layer_on_every_patch(spec, groups):
    torch.manual_seed(0)
    conv = NeuronConv2d(
        4, 6, (2, 3), stride=(1, 2), groups=groups, kind=spec, normalise=False, dtype=torch.float64
    )
    x = torch.rand(2, 4, 5, 7, dtype=torch.float64) + 0.5
    patches = nn.functional.unfold(x, (2, 3), stride=(1, 2)).transpose(1, 2)
    found = []
    for group in range(groups):
        neurons, inputs = slice(6 // groups * group, 6 // groups * (group + 1)), 24 // groups
        linear = NeuronLinear(inputs, 6 // groups, kind=conv.kind, normalise=False, dtype=torch.float64)
        with torch.no_grad():
            for name, view in linear.named_weights().items():
                view.copy_(
                    conv.named_weights()[name][neurons].flatten(1)
                    if view.dim() > 1
                    else conv.named_weights()[name][neurons]
                )
        found.append(linear(patches[..., inputs * group : inputs * (group + 1)]))
    expected = torch.cat(found, -1).transpose(1, 2)
    assert torch.allclose(conv(x).flatten(2), expected, rtol=1e-10, atol=1e-10)


def test_convolutions_in_one_dimension_are_those_in_two():
    torch.manual_seed(0)
    flat = NeuronConv1d(4, 6, 3, padding=1, groups=2, kind="x + cos(x)")
    wide = NeuronConv2d(4, 6, (1, 3), padding=(0, 1), groups=2, kind="x + cos(x)")
    with torch.no_grad():
        for name, view in wide.named_weights().items():
            view.copy_(flat.named_weights()[name].view_as(view))
    x = torch.randn(3, 4, 8)
    assert torch.allclose(flat(x), wide(x.unsqueeze(2)).squeeze(2), atol=1e-5)
    assert torch.allclose(flat.eval()(x[0]), flat(x)[0], atol=1e-6)


def test_padding_is_the_bare_formula_at_zero_or_the_average_input():
    x = torch.randn(1, 1, 5)
    bare = NeuronConv1d(1, 1, 3, padding=1, kind="cos(x)", normalise=False)
    w = bare.named_weights()["w1"].flatten()
    first = w[0] * 1.0 + w[1] * x[0, 0, 0].cos() + w[2] * x[0, 0, 1].cos() + bare.bias[0]
    assert torch.allclose(bare(x)[0, 0, 0], first, atol=1e-6)
    layer = NeuronConv1d(1, 1, 3, padding=1, kind="cos(x)").eval()
    with torch.no_grad():
        layer.named_weights()["w1"][..., 1:] = 0.0
    assert torch.allclose(layer(x)[0, 0, 0], layer.bias[0])


def test_kinds_that_read_inputs_one_by_one_have_no_convolution():
    with pytest.raises(InvalidArgumentError, match="NeuronLinear"):
        NeuronConv2d(3, 4, 3, kind="x[0]*x[1]")


@pytest.mark.parametrize("spec", EVERY)
def test_the_start_keeps_the_variance_of_a_linear_layer(spec):
    torch.manual_seed(0)
    x = torch.randn(2048, 64)
    layer = NeuronLinear(64, 256, kind=spec)
    assert layer(x).var().item() == pytest.approx(1 / 3, rel=0.2)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_start_keeps_the_variance_whatever_the_number_of_terms(count):
    terms = ("x", "sin(x)", "x**2", "abs(x)", "tanh(x)", "x**3", "exp(x)", "cos(2*x)")[:count]
    torch.manual_seed(0)
    layer, deep = NeuronLinear(64, 256, kind=terms), []
    x = torch.randn(2048, 64)
    assert layer(x).var().item() == pytest.approx(1 / 3, rel=0.1)
    for _ in range(6):
        x = NeuronLinear(64, 64, kind=terms)(x)
        deep.append(x.std().item())
    # As a stack of linear layers does, each makes it smaller by a root of three at most, and never larger.
    assert all(0.5 / 3**0.5 < b / a < 1.5 for a, b in itertools.pairwise(deep))


@pytest.mark.parametrize("spec", [*EVERY])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_and_one_row(spec, rows):
    layer = NeuronLinear(4, 3, kind=spec)
    output = layer(torch.randn(rows, 4))
    assert output.shape == (rows, 3)
    assert torch.isfinite(output).all()
    output.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    if layer.running_var is not None:
        assert torch.isfinite(layer.running_var).all()
        assert (layer.running_var > 0.5).all()


def test_shapes_of_any_number_of_axes():
    layer = NeuronLinear(4, 3, kind="x + sin(x)").eval()
    x = torch.randn(2, 5, 4)
    whole = layer(x)
    assert torch.allclose(layer(x[1, 2]), whole[1, 2], atol=1e-6)
    assert torch.allclose(layer(x.flatten(0, 1)), whole.flatten(0, 1), atol=1e-6)
    assert torch.allclose(layer(x.transpose(0, 1).contiguous().transpose(0, 1)), whole, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_values_stay_in_their_row_and_out_of_the_statistics(bad):
    torch.manual_seed(0)
    layer = NeuronLinear(4, 3, kind="x + x**2 + exp(x)")
    good = torch.randn(50, 4)
    layer(good)
    before = layer.running_mean.clone(), layer.running_var.clone()
    spoilt = good.clone()
    spoilt[7, 2] = bad
    output = layer(spoilt)
    assert not torch.isfinite(output[7]).any()
    assert torch.isfinite(output[torch.arange(50) != 7]).all()
    assert torch.isfinite(layer.running_mean).all()
    assert torch.isfinite(layer.running_var).all()
    if bad != bad:
        assert torch.equal(layer.running_mean[2], before[0][2])
        assert torch.equal(layer.running_var[2], before[1][2])
    assert (layer.running_var < 2 * before[1] + 1).all()


def test_a_bad_first_batch_does_not_spoil_the_next():
    layer = NeuronLinear(2, 3, kind="sin(x)")
    layer(torch.tensor([[torch.nan, 1.0], [0.0, 3.0]]))
    assert layer.running_mean.tolist() == [0.0, 2.0]
    assert layer.running_var.tolist() == [1.0, 1.0]


def test_huge_values_are_bounded_in_base_functions():
    torch.manual_seed(0)
    layer = NeuronLinear(4, 3, kind="x**7 + exp(2*x)")
    layer(torch.randn(500, 4))
    usual = layer.eval()(torch.full((1, 4), 3.0)).abs().max()
    layer.train()
    x = torch.randn(50, 4)
    x[0] = 1e6
    x.requires_grad_()
    output = layer(x)
    assert output.abs().max() < 20 * usual
    output.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert layer.running_var.max() < 5


def test_running_statistics_find_mean_and_deviation():
    torch.manual_seed(0)
    layer = NeuronLinear(2, 3, kind="sin(x)")
    scale, shift = torch.tensor([0.01, 300.0]), torch.tensor([2000.0, -5.0])
    batches = [torch.randn(64, 2) * scale + shift for _ in range(60)]
    layer(batches[0])
    assert torch.allclose(layer.running_mean, batches[0].mean(0), rtol=1e-5)
    assert torch.allclose(layer.running_var, batches[0].var(0, correction=0), rtol=1e-2)
    for batch in batches[1:]:
        layer(batch)
    assert layer.num_batches_tracked == 60
    assert torch.allclose((layer.running_mean - shift) / scale, torch.zeros(2), atol=0.15)
    assert torch.allclose(layer.running_var.sqrt() / scale, torch.ones(2), atol=0.2)
    before = copy.deepcopy(layer.state_dict())
    layer.eval()(batches[0] + 1e5)
    for name, value in before.items():
        assert torch.equal(layer.state_dict()[name], value)


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_running_statistics_are_those_of_bounded_values(axis):
    """The first batch as it is; then no value counts as more than five deviations from the mean there was."""
    generator = torch.Generator().manual_seed(0)
    size = [6, 4, 5][: -axis - 1]
    batches = [1e3 + torch.randn(40, 3, *size, generator=generator, dtype=torch.float64) for _ in range(2)]
    batches[1][0, 0] += 100
    batches[1][1, 1] = -torch.inf
    layers = {-1: NeuronLinear(3, 2, kind="sin(x)"), -2: NeuronConv1d(3, 2, 1, kind="sin(x)")}
    layer = layers.get(axis, NeuronConv2d(3, 2, 1, kind="sin(x)")).double()
    for batch in batches:
        layer(batch)
    first, second = (batch.transpose(0, 1).flatten(1) for batch in batches)
    mean, variance = first.mean(1), first.var(1, correction=0)
    reach = 5 * (variance + 1e-5).sqrt()
    second = second.clamp((mean - reach)[:, None], (mean + reach)[:, None])
    # Two batches count the same: the variance is that of the mixture.
    spread = (variance + second.var(1, correction=0)) / 2 + (mean - second.mean(1)).square() / 4
    torch.testing.assert_close(layer.running_mean, (mean + second.mean(1)) / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.running_var, spread, rtol=1e-9, atol=0)


def test_statistics_follow_a_change_of_the_inputs():
    layer = NeuronLinear(1, 1, kind="sin(x)")
    torch.manual_seed(0)
    layer(torch.randn(64, 1))
    for _ in range(150):
        layer(torch.randn(64, 1) * 100 + 10_000)
    assert layer.running_mean.item() == pytest.approx(10_000, rel=0.01)
    assert layer.running_var.sqrt().item() == pytest.approx(100, rel=0.3)


def test_a_layer_may_run_several_times_before_its_backward():
    torch.manual_seed(0)
    layer = NeuronLinear(3, 3, kind="x + sin(x)")
    first = layer(torch.randn(5, 3))
    second = layer(first)
    (first.sum() + second.sum()).backward()
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("spec", [SUMS[2], "quadratic", PRODUCTS[1], "sin(<w1, x>) + <w2, x>"])
def test_state_dicts_fit_only_their_own_kind(spec):
    torch.manual_seed(0)
    layer, other = NeuronLinear(4, 3, kind=spec), NeuronLinear(4, 3, kind=spec)
    layer(torch.randn(9, 4))
    other.load_state_dict(load_safetensors(save_safetensors(layer.state_dict())))
    x = torch.randn(5, 4)
    assert torch.equal(layer.eval()(x), other.eval()(x))
    again = copy.deepcopy(layer)
    assert torch.equal(again(x), layer(x))
    assert again.kind == layer.kind
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), layer(x))


def test_the_order_of_terms_does_not_change_the_keys_and_the_state_of_another_kind_is_refused():
    first, second = NeuronLinear(4, 3, kind="x + sin(x)"), NeuronLinear(4, 3, kind="sin(x) + x")
    assert list(first.state_dict()) == list(second.state_dict())
    before = copy.deepcopy(first.state_dict())
    for state in (
        second.state_dict(),
        NeuronLinear(4, 3, kind="x + x**2").state_dict(),
        nn.Linear(4, 3).state_dict(),
    ):
        for strict in (True, False):
            with pytest.raises(RuntimeError, match=r"neurons of kind '<w1, x> \+ <w2, sin\(x\)> \+ b1'"):
                first.load_state_dict(state, strict=strict)
    for name, value in before.items():
        assert torch.equal(first.state_dict()[name], value)
    with pytest.raises(RuntimeError, match="kind"):
        NeuronLinear(4, 3).load_state_dict(first.state_dict())


def test_layers_on_the_meta_device_take_no_memory():
    layer = NeuronConv2d(256, 512, 3, kind="quadratic", device="meta")
    assert layer.weight.is_meta
    assert layer.weight.shape == (3 * 512, 256, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision(dtype):
    torch.manual_seed(0)
    for spec in ("x + x**2 + sin(x)", "quadratic", "sin(<w1, x>) + <w2, x>"):
        layer = NeuronLinear(16, 8, kind=spec)
        x = torch.randn(32, 16)
        layer(x)
        layer.eval()
        exact = layer(x)
        with torch.autocast("cpu", dtype=dtype):
            rough = layer(x)
        assert rough.dtype == dtype
        assert torch.allclose(rough.float(), exact, atol=0.08)
        rough.float().sum().backward()
        assert torch.isfinite(layer.weight.grad).all()
        low = copy.deepcopy(layer).to(dtype).train()
        assert torch.allclose(low(x.to(dtype)).float(), exact, atol=0.15)
        assert low.weight.dtype == dtype


@pytest.mark.parametrize("options", [{"clip": 0.0}, {"clip": -1.0}, {"momentum": 0.0}, {"momentum": 2.0}])
def test_arguments_out_of_range(options):
    with pytest.raises(InvalidArgumentError):
        NeuronLinear(3, 2, kind="sin(x)", **options)


@pytest.mark.parametrize("sizes", [(-1, 2), (2.0, 2), (True, 3)])
def test_sizes_are_whole_numbers(sizes):
    with pytest.raises(InvalidArgumentError, match="in_features"):
        NeuronLinear(*sizes)


def test_a_base_function_that_cannot_be_used():
    with pytest.raises(InvalidArgumentError, match="constant"):
        NeuronLinear(3, 2, kind=["sin(x)**2 + cos(x)**2"])
    with pytest.raises(InvalidArgumentError, match="not finite"):
        NeuronLinear(3, 2, kind="exp(exp(exp(x)))", normalise=False)


def test_repr_says_what_torch_says_and_the_kind():
    assert repr(NeuronLinear(3, 2, kind="quadratic")).endswith("bias=True, kind='quadratic')")
    text = repr(NeuronConv2d(3, 2, 3, padding=1, kind="x + sin(x)"))
    assert "padding=(1, 1), kind='x + sin(x)'" in text
    assert str(kind("product")) == "product"
