"""Layers that standardise the values of base functions instead of their arguments."""

import copy
import io

import pytest
import torch
from torch import nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.nn import NeuronConv1d, NeuronConv2d, NeuronLinear, convert
from tests.nn.kinds import EXPRESSIONS, INPUTS, PRODUCTS, SUMS
from tests.nn.test_gradients import called

MODES = ("features", "all")
SPECS = (SUMS[2], SUMS[3], "quadratic", PRODUCTS[0], EXPRESSIONS[0], INPUTS[0])


def rows(*size, seed=0, dtype=torch.float32):
    return torch.randn(*size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_base_functions_get_the_inputs_as_they_are():
    """As batch normalisation without weights on each base function of each input, x left out or not."""
    x = 2 + 3 * rows(400, 5)
    parts = [x, torch.sin(3 * x), x**2, torch.exp(-(x**2))]
    for mode, kept in (("features", 1), ("all", 0)):
        layer = NeuronLinear(5, 4, kind="x + sin(3*x) + x**2 + exp(-x**2)", normalise=mode)
        normed = [nn.BatchNorm1d(5, affine=False, eps=1e-5)(part) for part in parts]
        expected = torch.cat(parts[:kept] + normed[kept:], 1)
        output = layer(x)
        torch.testing.assert_close(layer.features(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            output, nn.functional.linear(expected, layer.weight, layer.bias), rtol=1e-4, atol=1e-4
        )
        assert layer.running_mean.shape == (4 - kept, 5)
        torch.testing.assert_close(layer.running_var[-2], (x**2).var(0, correction=0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", SPECS)
def test_first_and_second_derivatives(spec, mode):
    torch.manual_seed(1)
    layer = NeuronLinear(3, 2, kind=spec, dtype=torch.float64, normalise=mode, clip=2.5)
    layer(rows(20, 3, dtype=torch.float64))
    layer.eval()
    x = (torch.rand(4, 3, dtype=torch.float64) * 4 - 2.1).requires_grad_()
    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(called(layer), arguments)
    assert torch.autograd.gradgradcheck(called(layer), arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", [SUMS[2], "quadratic", EXPRESSIONS[0]])
def test_compiled_without_a_break_it_does_the_same(spec, mode):
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = nn.Sequential(NeuronLinear(4, 3, kind=spec, normalise=mode), nn.Tanh())
    other = copy.deepcopy(model)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for train in (True, False):
        model.train(train)
        other.train(train)
        x = rows(9, 4, seed=int(train))
        expected, found = model(x), compiled(x)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        expected.square().sum().backward()
        found.square().sum().backward()
    for (name, parameter), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(parameter.grad, twin.grad, atol=1e-4), name
    for (name, buffer), twin in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(buffer.double(), twin.double(), atol=1e-5), name


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: NeuronLinear(6, 5, kind="x + tanh(x) + x**3", normalise="features"), (6,)),
        (lambda: NeuronConv2d(2, 4, 3, padding=1, groups=2, kind="quadratic", normalise="all"), (2, 5, 5)),
    ],
)
def test_onnxruntime_computes_the_same(model, shape):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made = model()
    made(rows(30, *shape))
    made.eval()
    program = torch.onnx.export(
        made,
        (rows(4, *shape),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        verbose=False,
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    x = rows(7, *shape, seed=2)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), made(x), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", [*SUMS, "quadratic", "<w1, x**2>*<w2, sin(x)> + <w3, x>", *EXPRESSIONS[:1]])
def test_the_start_keeps_the_variance_of_a_linear_layer(spec, mode):
    torch.manual_seed(0)
    x = torch.randn(2048, 64)
    layer = NeuronLinear(64, 256, kind=spec, normalise=mode)
    assert layer(x).var().item() == pytest.approx(1 / 3, rel=0.2)
    # Base functions may have any size: their values are standardised.
    if "x" not in {base.text for base in layer.kind.lift} or mode == "all":
        layer.reset_running_stats()
        assert layer(2 * x).var().item() == pytest.approx(1 / 3, rel=0.2)


@pytest.mark.parametrize("mode", MODES)
def test_statistics_are_frozen_in_evaluation_and_by_asking_for_features(mode):
    layer = NeuronLinear(3, 2, kind="x + sin(x)", normalise=mode)
    layer(rows(20, 3))
    before = copy.deepcopy(layer.state_dict())
    layer.features(5 + rows(9, 3))
    layer.eval()(5 + rows(9, 3))
    for name, value in before.items():
        assert torch.equal(layer.state_dict()[name], value)
    layer.train()(5 + rows(9, 3))
    assert layer.num_batches_tracked == 2
    assert not torch.equal(layer.running_mean, before["running_mean"])


@pytest.mark.parametrize("mode", MODES)
def test_bad_values_stay_in_their_row_and_out_of_the_statistics(mode):
    layer = NeuronLinear(4, 3, kind="x + x**2 + exp(x)", normalise=mode)
    layer(rows(50, 4))
    before = layer.running_mean.clone(), layer.running_var.clone()
    spoilt = rows(50, 4)
    spoilt[7, 2], spoilt[8, 1] = torch.nan, 1e4
    output = layer(spoilt)
    good = torch.ones(50, dtype=torch.bool)
    good[7:9] = False
    assert not torch.isfinite(output[7]).any()
    assert torch.isfinite(output[good]).all()
    assert torch.equal(layer.running_mean[:, 2], before[0][:, 2])
    # A value that is out of all bounds counts as five deviations.
    assert (layer.running_var < 2 * before[1] + 1).all()
    bounded = NeuronLinear(4, 3, kind="x**2 + exp(x)", normalise=mode, clip=4.0)
    assert torch.isfinite(bounded(torch.full((3, 4), 1e30))).all()


@pytest.mark.parametrize("count", [0, 1])
def test_no_rows_and_one_row(count):
    for mode in MODES:
        layer = NeuronLinear(4, 3, kind="x + sin(x)", normalise=mode)
        output = layer(rows(count, 4))
        assert output.shape == (count, 3)
        assert torch.isfinite(output).all()
        assert layer.features(rows(count, 4)).shape == (count, 8)


def test_states_fit_only_layers_that_standardise_the_same():
    made = {mode: NeuronLinear(4, 3, kind="x + sin(x)", normalise=mode) for mode in (True, "features", "all")}
    for mode, layer in made.items():
        layer(rows(9, 4))
        for other_mode in made:
            other = NeuronLinear(4, 3, kind="x + sin(x)", normalise=other_mode)
            if other_mode == mode:
                other.load_state_dict(layer.state_dict())
                x = rows(5, 4, seed=3)
                assert torch.equal(other.eval()(x), copy.deepcopy(layer).eval()(x))
            else:
                with pytest.raises(RuntimeError, match="running_mean"):
                    other.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("mode", [*MODES, "inputs", False])
@pytest.mark.parametrize("spec", ["x + sin(2*x) + x**2", "sin(x)", "x**2 + x"])
def test_features_times_weights_are_the_output(spec, mode):
    layer = NeuronLinear(4, 3, kind=spec, normalise=mode)
    x = rows(2, 5, 4)
    output = layer(x)
    torch.testing.assert_close(output, nn.functional.linear(layer.features(x), layer.weight, layer.bias))
    assert layer.features(x).shape == (2, 5, 4 * len(layer.kind.lift))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("spec", ["x + cos(x)", "quadratic"])
def test_a_convolution_is_the_linear_layer_on_every_place(spec, padding_mode, mode):
    """With windows of one place; and padding adds average features, or copies of those inside."""
    x = 1 + rows(6, 4, 8)
    point = NeuronConv1d(4, 6, 1, kind=spec, normalise=mode)
    linear = NeuronLinear(4, 6, kind=spec, normalise=mode)
    linear.load_state_dict(
        {name: value[..., 0] if name == "weight" else value for name, value in point.state_dict().items()}
    )
    torch.testing.assert_close(point(x), linear(x.transpose(1, 2)).transpose(1, 2), rtol=1e-4, atol=1e-4)
    wide = NeuronConv1d(4, 6, 3, padding=1, padding_mode=padding_mode, groups=2, kind=spec, normalise=mode)
    with torch.no_grad():
        for view in wide.named_weights().values():
            if view.dim() > 1:
                view[..., 1:] = 0.0  # only what is left of a place counts
    output = wide(x)
    if padding_mode == "reflect":
        torch.testing.assert_close(output[..., 0], output[..., 2])
    else:
        assert (output[..., 0] - output[:1, :, 0]).abs().max() < 1e-6  # the same for every sample
    # The rim does not count in the statistics.
    bases = [base for base in wide.kind.lift if mode == "all" or base.text != "x"]
    expected = torch.stack([base(x).mean((0, 2)).view(2, 2) for base in bases], 1)
    torch.testing.assert_close(wide.running_mean.view(2, -1, 2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_standardised_in_single(dtype):
    layer = NeuronLinear(16, 8, kind="x + exp(x) + sin(x)", normalise="features")
    x = rows(32, 16)
    layer(x)
    exact = layer.eval()(x)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.allclose(layer(x.to(dtype)).float(), exact, atol=0.08)
    low = copy.deepcopy(layer).to(dtype)
    assert low(x.to(dtype)).dtype == dtype
    assert torch.allclose(low(x.to(dtype)).float(), exact, atol=0.15)


@pytest.mark.parametrize("spec", ["x + x**2 + sin(3*x)", "quadratic", "sin(<w1, x>) + <w2, x>"])
@pytest.mark.parametrize("train", [True, False])
def test_conversion_keeps_the_output(spec, train):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular", groups=2), nn.ReLU(), nn.Linear(8, 3)
    )
    model = model.double().train(train)
    x = 3 + rows(5, 4, 8, dtype=torch.float64)
    before = model(x).detach()
    convert(model, (nn.Linear, nn.Conv1d), spec, normalise="features")
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12 * float(before.abs().max()))
    with pytest.raises(InvalidArgumentError, match="'features'"):
        convert(nn.Linear(3, 2), "", spec, normalise="all")
    assert convert(nn.Linear(3, 2), "", spec, normalise="all", keep_output=False).normalise == "all"


def test_names_of_what_is_standardised():
    assert NeuronLinear(2, 1, kind="sin(x)").normalise == "inputs"
    for wrong in ("feature", None, 1.5, 0):
        with pytest.raises(InvalidArgumentError, match="'features'"):
            NeuronLinear(2, 1, kind="sin(x)", normalise=wrong)
    plain = NeuronLinear(2, 1, normalise="all")
    assert list(plain.state_dict()) == ["weight", "bias"]
