import functools
import random
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neuronwise.errors import SiteNotFoundError
from neuronwise.sites import Site, find_sites
from tests.sites import nets
from tests.sites.nets import watch

IDS = torch.arange(10).view(2, 5)
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def names(model):
    return list(find_sites(model).names)


def roles(site):
    return {piece.role: (piece.parameter, piece.start, piece.stop) for piece in site.reads}


def passes(model, batch, *, calls=1):
    """Every site is on the path, with its width; value vectors, where known, are what the next layer adds."""
    model.eval()
    for site in find_sites(model):
        with watch(model, site) as seen, torch.no_grad():
            model(batch)
        assert len(seen) == calls and seen[0].shape[site.axis] == site.width, site
        for vectors in site.read_vectors(model).values():
            assert vectors.shape[0] == site.width
        if site.writes is not None:
            assert site.value_vectors(model).shape[0] == site.width


@pytest.mark.parametrize(
    ("mlp", "down", "read"),
    [
        (nets.PlainMlp, "fc2", {"in": ("fc1", 0, 32)}),
        (nets.FormulaMlp, "fc2", {"in": ("fc1", 0, 32)}),
        (nets.UntraceableMlp, "fc2", {"in": ("fc1", 0, 32)}),
        (nets.GatedMlp, "down", {"gate": ("gate", 0, 32), "up": ("up", 0, 32)}),
        *(
            (
                functools.partial(nets.FusedMlp, cut=cut),
                "down",
                {"up": ("both", 0, 32), "gate": ("both", 32, 64)},
            )
            for cut in ("chunk", "split", "slice", "glu")
        ),
    ],
)
def test_a_users_transformer_has_one_site_a_block(mlp, down, read):
    model = nets.Transformer(mlp)
    sites = find_sites(model)
    assert list(sites.names) == [f"blocks.{i}.mlp.{down}:input" for i in range(2)]
    assert [(s.stack, s.layer, s.kind, s.width) for s in sites] == [
        ("blocks", i, "ffn", 32) for i in range(2)
    ]
    assert roles(sites[1]) == {role: (f"blocks.1.mlp.{p}.weight", a, b) for role, (p, a, b) in read.items()}
    passes(model, IDS)
    patches = nets.PatchTransformer(mlp)
    assert names(patches) == [f"block.mlp.{down}:input"]


def test_read_and_value_vectors_are_right_for_a_gated_block_of_ones_own():
    model = nets.Transformer(nets.GatedMlp).eval()
    site = find_sites(model)[0]
    source = Site("blocks.0.mlp", "input", width=8)
    with watch(model, source) as x, watch(model, site) as neurons, torch.no_grad():
        model(IDS)
    read, mlp = site.read_vectors(model), model.blocks[0].mlp
    gate = F.silu(x[0] @ read["gate"].T + mlp.gate.bias)
    torch.testing.assert_close(neurons[0], gate * (x[0] @ read["up"].T + mlp.up.bias))
    assert torch.equal(site.value_vectors(model), mlp.down.weight.T)
    assert torch.equal(site.biases(model), model.get_parameter(site.reads[0].parameter[:-6] + "bias"))


def test_a_plain_mlp():
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 2)
    )
    sites = find_sites(model)
    assert [(s.name, s.layer, s.stack, s.kind) for s in sites] == [
        ("2:input", 0, "", "hidden"),
        ("6:input", 1, "", "hidden"),
    ]
    assert sites[1].reads[0].parameter == "2.weight" and sites[1].writes.parameter == "6.weight"
    passes(model, torch.zeros(3, 4))


def test_an_autoencoder_of_nested_sequentials():
    encoder = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    decoder = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 8))
    model = nn.Sequential(encoder, decoder)
    assert names(model) == ["0.2:input", "1.0:input", "1.2:input"]
    assert {site.kind for site in find_sites(model)} == {"hidden"}
    passes(model, torch.zeros(3, 8))


def test_neurons_that_two_layers_read_are_caught_before_both():
    class Heads(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.body, self.act, self.one, self.two = nn.Linear(4, 8), act, nn.Linear(8, 2), nn.Linear(8, 3)

        def forward(self, x):
            h = self.act(self.body(x))
            return self.one(h), self.two(h)

    site = find_sites(Heads(nn.ReLU()))[0]
    assert site.name == "act:output" and site.writes is None and site.reads[0].parameter == "body.weight"
    passes(Heads(nn.ReLU()), torch.zeros(2, 4))


def test_a_recurrent_cell_of_ones_own_reads_through_two_layers():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.i2h, self.h2h, self.out = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x, h):
            return self.out(torch.tanh(self.i2h(x) + self.h2h(h)))

    site = find_sites(Cell())[0]
    assert site.name == "out:input"
    assert roles(site) == {"in": ("i2h.weight", 0, 5), "in2": ("h2h.weight", 0, 5)}


def test_a_residual_stream_is_no_neuron():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
            self.up, self.down, self.head = nn.Linear(4, 16), nn.Linear(16, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.embed(x)
            x = x + self.down(F.relu(self.up(self.norm(x))))
            return self.head(self.norm(x))

    assert names(Residual()) == ["down:input"]


def test_a_block_used_again_and_again_is_told_apart_by_call():
    class Universal(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nets.PlainMlp(4, 16)

        def forward(self, x):
            for _ in range(3):
                x = x + self.mlp(x)
            return x

    model = Universal()
    assert names(model) == [f"mlp.fc2:input#{i}" for i in range(3)]
    assert [site.layer for site in find_sites(model)] == [0, 1, 2]
    passes(model, torch.zeros(2, 4))


def test_convolutions_with_norm_and_activation_modules():
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)),
    )
    sites = find_sites(model)
    assert list(sites.names) == ["2:output", "5:output", "7:output"]
    assert {(s.axis, s.kind) for s in sites} == {(1, "conv")}
    assert [s.reads[0].parameter for s in sites] == ["0.weight", "4.weight", "6.weight"]
    assert [s.writes.parameter for s in sites] == ["4.weight", "6.weight", "10.weight"]
    assert sites[0].value_vectors(model).shape == (4, 6, 3, 3)
    passes(model, torch.zeros(2, 3, 12, 12))


def test_the_value_vector_of_a_channel_is_what_the_next_convolution_adds():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)).eval()
    site = find_sites(model)[0]
    change = torch.zeros(4, 6, 6)
    change[2, 1, 1] = 0.5
    with torch.no_grad(), watch(model, site, change):
        changed = model(IMAGES)
    written = (changed - model(IMAGES))[0, :, :2, :2].detach()
    torch.testing.assert_close(
        written, 0.5 * site.value_vectors(model)[2].flip(1, 2)[:, 1:, 1:], atol=1e-5, rtol=1e-4
    )


def test_a_cifar_resnet_with_functional_relu():
    model = nets.CifarResNet()
    assert names(model) == [
        "layer1.0:input",
        "layer1.0.conv2:input",
        "layer1.0:output",
        "layer1.1.conv2:input",
        "layer1.1:output",
        "layer2.0.conv2:input",
        "layer2.0:output",
        "layer2.1.conv2:input",
        "layer2.1:output",
    ]
    sites = find_sites(model)
    assert sites[0].reads[0].parameter == "conv1.weight" and sites[0].layer is None
    assert [(s.stack, s.layer) for s in sites[5:]] == [
        ("layer2", 0),
        ("layer2", 0),
        ("layer2", 1),
        ("layer2", 1),
    ]
    assert sites[1].writes.parameter == "layer1.0.conv2.weight" and sites[2].writes is None
    passes(model, IMAGES)


def test_the_site_of_a_functional_relu_is_its_value():
    model = nets.CifarResNet().eval()
    with watch(model, find_sites(model)[0]) as seen, torch.no_grad():
        model(IMAGES)
        expected = F.relu(model.bn1(model.conv1(IMAGES)))
    assert torch.equal(seen[0], expected)


def test_a_resnet_with_one_relu_for_both_places():
    model = nets.ReluResNet()
    assert names(model) == [
        "relu:output",
        "layer1.0.relu:output#0",
        "layer1.0.relu:output#1",
        "layer1.1.relu:output#0",
        "layer1.1.relu:output#1",
    ]
    last = find_sites(model)[-1]
    assert [piece.parameter for piece in last.reads] == [
        "layer1.1.conv2.weight",
        "layer1.1.downsample.0.weight",
    ]
    assert last.writes.parameter == "fc.weight"
    passes(model, IMAGES)


def test_a_pre_activation_resnet():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
            self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))

    model = nn.Sequential(nn.Conv2d(3, 4, 1), PreActivation(), PreActivation(), nn.BatchNorm2d(4), nn.ReLU())
    expected = ["1.conv1:input", "1.conv2:input", "2.conv1:input", "2.conv2:input", "4:output"]
    assert names(model) == expected
    passes(model, IMAGES)


def test_a_u_shape_with_transposed_and_grouped_convolutions():
    model = nets.UNet()
    sites = find_sites(model)
    assert list(sites.names) == ["down1.2:output", "down2.2:output", "up:output", "up1.2:output", "out:input"]
    writes = [None if s.writes is None else (s.writes.parameter, s.writes.axis) for s in sites]
    # A skip connection and a depthwise convolution leave no one weight; the output layer is no site.
    assert writes == [None, ("up.weight", 0), None, None, ("out.weight", 1)]
    assert sites[2].read_vectors(model)["in"].shape == (4, 8, 2, 2)
    passes(model, torch.zeros(2, 1, 8, 8))


def test_a_swish_written_out_is_one_activation():
    class Swish(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Swish(), nn.Conv2d(4, 2, 1))
    assert names(model) == ["1:output"]
    assert find_sites(model)[0].writes.parameter == "2.weight"


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("layer", "width"),
    [
        (nn.RNN(4, 6), 6),
        (nn.GRU(4, 6, num_layers=2), 6),
        (nn.LSTM(4, 6, bidirectional=True), 12),
        (nn.LSTM(4, 6, proj_size=3), 3),
        (nn.GRUCell(4, 6), 6),
        (nn.LSTMCell(4, 6), 6),
    ],
)
def test_recurrent_layers(layer, width):
    model = nn.ModuleDict({"rnn": layer})
    site = find_sites(model)[0]
    assert (site.name, site.width, site.axis, site.kind) == ("rnn:output", width, -1, "rnn")
    with watch(model, site) as seen:
        layer(torch.zeros(3, 4) if isinstance(layer, nn.RNNCellBase) else torch.zeros(5, 3, 4))
    assert seen[0].shape[-1] == width
    assert names(layer) == [":output"]


def test_an_lstm_in_a_model():
    assert names(nets.Recurrent()) == ["lstm:output"]
    passes(nets.Recurrent(), torch.zeros(2, 5, dtype=torch.long))


def test_torchs_own_transformer_layers():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    sites = find_sites(model)
    assert list(sites.names) == [f"layers.{i}.linear2:input" for i in range(2)]
    assert [(s.layer, s.stack, s.kind, s.width) for s in sites] == [
        (i, "layers", "ffn", 16) for i in range(2)
    ]
    assert sites[0].reads[0].parameter == "layers.0.linear1.weight"
    passes(model, torch.zeros(2, 3, 8))
    inside = nn.Sequential(nn.Linear(3, 8), model, nn.Linear(8, 2))
    assert names(inside) == [f"1.layers.{i}.linear2:input" for i in range(2)]
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 1)
    assert names(decoder) == ["layers.0.linear2:input"]


def test_what_cannot_be_traced_does_not_hide_what_is_around_it():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Sequential(nn.Linear(4, 4))

        def forward(self, x):
            return self.scale(x.mean((2, 3)))[:, :, None, None] * x if x.sum() > 0 else x

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Moody(), nn.Conv2d(4, 5, 3), nn.ReLU())
    assert names(model) == ["1:output", "4:output"]
    passes(model, IMAGES)


def test_finding_changes_nothing():
    model = nets.Meddler()
    model.train()
    calls = []
    model.down.register_forward_hook(lambda *args: calls.append(args))
    model.register_forward_hook(lambda *args: calls.append(args))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes, python, state = set(vars(model)), random.getstate(), torch.get_rng_state()
    assert names(model) == ["down:input"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.history == [] and model.last is None and set(vars(model)) == attributes
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == python
    assert model.training and not calls
    assert torch.isfinite(model(torch.zeros(1, 4))).all() and len(calls) == 2


def test_the_users_hooks_do_not_run_on_inner_modules_either():
    model = nn.Sequential(nets.PlainMlp(4, 8))
    calls = []
    model[0].register_forward_hook(lambda *args: calls.append(args))
    find_sites(model)
    assert not calls


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(3, 4), nn.ModuleList(), nets.Attention(8)])
def test_a_model_without_neurons_says_how_to_name_them(model):
    with pytest.raises(SiteNotFoundError, match="by hand"):
        find_sites(model)


def test_a_large_model_on_the_meta_device():
    with torch.device("meta"):
        model = nets.Transformer(nets.GatedMlp, dim=4096, width=11008, layers=32)
    start = time.perf_counter()
    sites = find_sites(model)
    assert time.perf_counter() - start < 5
    assert len(sites) == 32 and sites.width == 32 * 11008
