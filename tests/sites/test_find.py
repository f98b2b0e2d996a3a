import pytest
import torch
from torch import nn

from neuronwise.errors import InvalidArgumentError, SiteAxisError, SiteNotFoundError
from neuronwise.sites import find_sites
from tests.sites.nets import CifarResNet, GatedMlp, Recurrent, ReluResNet, Transformer

MODEL = Transformer(GatedMlp)
IDS = torch.zeros(2, 5, dtype=torch.long)


def test_an_exact_path_takes_the_output():
    site = find_sites(MODEL, "blocks.1.mlp.gate")[0]
    assert (site.name, site.width, site.axis, site.kind) == ("blocks.1.mlp.gate:output", 32, -1, "module")
    assert (site.stack, site.layer) == ("blocks", 1)
    assert torch.equal(site.read_vectors(MODEL)["in"], MODEL.blocks[1].mlp.gate.weight)


def test_globs_lists_predicates_and_types():
    down = ["blocks.0.mlp.down:input", "blocks.1.mlp.down:input"]
    assert list(find_sites(MODEL, "*.mlp.down", tensor="input").names) == down
    assert list(find_sites(MODEL, ["blocks.0.mlp.down", "blocks.1.mlp.down"], tensor="input").names) == down
    assert list(find_sites(MODEL, down).names) == down
    assert list(find_sites(MODEL, lambda name, module: name.endswith("down"), tensor="input").names) == down
    assert find_sites(MODEL, nn.LayerNorm).names == (
        "blocks.0.norm2:output",
        "blocks.1.norm2:output",
        "norm:output",
    )
    assert len(find_sites(MODEL, (nn.LayerNorm, nn.Embedding))) == 5
    assert find_sites(MODEL, ["norm", "no*m"]).names == ("norm:output",)


def test_full_names_mean_the_very_sites_that_are_found():
    found = find_sites(MODEL)
    again = find_sites(MODEL, list(found.names))
    assert again == found and again[0].reads == found[0].reads and again[0].kind == "ffn"
    resnet = ReluResNet()
    site = find_sites(resnet, "layer1.0.relu:output#1")[0]
    assert site == find_sites(resnet)["layer1.0.relu:output#1"]


@pytest.mark.parametrize(
    ("module", "tensor", "width", "axis"),
    [
        (nn.Linear(3, 4), "input", 3, -1),
        (nn.Conv2d(3, 4, 1), "output", 4, 1),
        (nn.ConvTranspose1d(3, 4, 1), "input", 3, 1),
        (nn.Embedding(9, 5), "output", 5, -1),
        (nn.LayerNorm(6), "input", 6, -1),
        (nn.RMSNorm(6), "output", 6, -1),
        (nn.BatchNorm2d(7), "output", 7, 1),
        (nn.GroupNorm(2, 8), "output", 8, 1),
        (nn.LSTM(3, 5, bidirectional=True), "output", 10, -1),
        (nn.GRUCell(3, 5), "input", 3, -1),
        (nn.MultiheadAttention(8, 2), "output", 8, -1),
        (nn.TransformerEncoderLayer(8, 2, 16), "output", 8, -1),
        (nn.Sequential(nn.Dropout(), nn.Linear(3, 4), nn.ReLU()), "output", 4, -1),
        (nn.Sequential(nn.Dropout(), nn.Linear(3, 4), nn.ReLU()), "input", 3, -1),
    ],
)
def test_widths_are_known_by_type(module, tensor, width, axis):
    site = find_sites(nn.ModuleDict({"part": module}), "part", tensor=tensor)[0]
    assert (site.width, site.axis) == (width, axis)


def test_a_width_that_the_type_does_not_tell_comes_from_an_example():
    with pytest.raises(SiteAxisError, match="example="):
        find_sites(MODEL, "blocks.0")
    assert find_sites(MODEL, "blocks.0", example=IDS)[0].width == 8
    assert find_sites(MODEL, "blocks.0", example={"ids": IDS})[0].width == 8
    assert find_sites(MODEL, "blocks.0", example=(IDS,), tensor="input")[0].width == 8
    assert find_sites(MODEL, "blocks.0", width=8)[0].width == 8
    images = torch.zeros(1, 3, 8, 8)
    site = find_sites(CifarResNet(), "layer2", example=images)[0]
    assert (site.width, site.axis) == (8, 1)
    assert find_sites(Recurrent(), "", example=IDS)[0].name == ":output"


def test_an_example_leaves_the_model_as_it_was():
    model = CifarResNet().train()
    model.bn1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    find_sites(model, "layer2", example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(RuntimeError):
        find_sites(model, "layer2", example=torch.zeros(1, 2, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.conv1.training and not model.bn1.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    "options",
    [
        {"width": 5},
        {"axis": 1},
        {"axis": 1, "width": 4, "example": IDS},
        {"axis": 3, "example": IDS},
        {"width": 9, "example": IDS},
    ],
)
def test_a_wrong_axis_or_width_is_refused(options):
    with pytest.raises(SiteAxisError, match=r"norm:output"):
        find_sites(MODEL, "norm", **options)


def test_another_axis_may_be_meant():
    site = find_sites(MODEL, "norm", axis=1, example=IDS)[0]
    assert (site.width, site.axis, site.reads) == (5, 1, ())


@pytest.mark.parametrize("where", ["blocks.0.mlp.dwon", "dwon*", "x:input", ["norm", "nrom"]])
def test_a_name_that_matches_nothing_lists_the_closest(where):
    with pytest.raises(SiteNotFoundError, match="Closest names"):
        find_sites(MODEL, where)


@pytest.mark.parametrize("where", [nn.Conv2d, lambda name, module: False, []])
def test_a_search_without_a_hit_says_so(where):
    with pytest.raises(SiteNotFoundError, match="none of"):
        find_sites(MODEL, where)


def test_arguments_that_need_a_name_are_refused_without_one():
    with pytest.raises(InvalidArgumentError, match="where="):
        find_sites(MODEL, tensor="output")
    with pytest.raises(InvalidArgumentError, match="not int"):
        find_sites(MODEL, 3)
    with pytest.raises(InvalidArgumentError, match="tensor must"):
        find_sites(MODEL, "norm", tensor="middle", width=8)
