import copy
import time

import pytest
import torch
from torch import nn

from neuronwise.sites import Site, find_sites
from neuronwise.sites.architectures import families, table_sites
from tests.sites.families import FAMILIES, batch, build, transformers
from tests.sites.nets import watch


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request):
    family = request.param
    return FAMILIES[family], build(family), batch(family)


def test_each_layer_has_its_site(case):
    row, model, _ = case
    sites = table_sites(model)
    assert len(sites) == row.sites
    assert tuple(dict.fromkeys(site.stack for site in sites)) == row.stacks
    for stack in row.stacks:
        layers = [site.layer for site in sites if site.stack == stack]
        assert layers == list(range(row.sites // len(row.stacks)))
    assert {site.kind for site in sites} == {"ffn"} and {site.tensor for site in sites} == {"input"}
    assert len({site.name for site in sites}) == len(sites)
    assert list(find_sites(model)) == sites


def test_a_forward_pass_comes_by_with_that_width(case):
    _, model, inputs = case
    for site in find_sites(model):
        with watch(model, site) as seen, torch.no_grad():
            model(**inputs)
        assert len(seen) == 1 and seen[0].shape[site.axis] == site.width


def test_value_vectors_are_what_a_neuron_writes(case):
    _, model, inputs = case
    for site in find_sites(model):
        neuron, delta = 3, 0.5
        change = torch.zeros(site.width)
        change[neuron] = delta
        below = Site(site.path, "output", width=1, call=site.call)
        with torch.no_grad():
            with watch(model, below) as plain:
                model(**inputs)
            with watch(model, site, change), watch(model, below) as changed:
                model(**inputs)
        written = changed[0] - plain[0]
        expected = (delta * site.value_vectors(model)[neuron]).expand_as(written)
        torch.testing.assert_close(written, expected, atol=2e-5, rtol=1e-4)


def test_reads_give_the_neurons_from_what_the_block_gets(case):
    row, model, inputs = case
    # The activation functions of the families, by the name in their config; BLOOM has its one without a name.
    config = getattr(model.config, "text_config", model.config)
    names = ("hidden_act", "activation_function", "activation", "hidden_activation", "dense_act_fn")
    found = [value for key in names if isinstance(value := getattr(config, key, None), str)]
    act = transformers.activations.ACT2FN[(found or ["gelu_new"])[0]]
    for site in find_sites(model):
        assert tuple(piece.role for piece in site.reads) == row.roles
        source = Site(site.reads[0].parameter.removesuffix(".weight"), "input", width=1, call=site.call)
        with watch(model, source) as block_input, watch(model, site) as neurons, torch.no_grad():
            model(**inputs)
            vectors, bias = site.read_vectors(model), site.biases(model)
            before = block_input[0] @ vectors[row.roles[0]].T + (0 if bias is None else bias)
            expected = act(before) * (block_input[0] @ vectors["up"].T if "up" in vectors else 1)
        torch.testing.assert_close(neurons[0], expected.reshape(neurons[0].shape), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_meta_device_does(family):
    assert table_sites(build(family, device="meta")) == table_sites(build(family))


def test_every_model_type_of_the_table_is_one_that_exists():
    rows = [(family, name) for family in families() for name in family.model_types]
    assert len(rows) > 40
    for family, name in rows:
        assert name in transformers.CONFIG_MAPPING, (family.name, name)


def test_a_model_inside_a_users_module_is_recognised():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = build("bert").bert
            self.head = nn.Linear(16, 2)

    sites = find_sites(Wrapper())
    assert sites.names == tuple(f"backbone.encoder.layer.{i}.output.dense:input" for i in range(2))
    assert sites[0].value_vectors(Wrapper()).shape == (24, 16)


def test_old_names_of_modules_are_known_too():
    model = nn.Module()
    model.config = copy.copy(build("vit").config)
    model.encoder = nn.Module()
    layer = nn.ModuleDict(
        {
            "intermediate": nn.ModuleDict({"dense": nn.Linear(4, 8)}),
            "output": nn.ModuleDict({"dense": nn.Linear(8, 4)}),
        }
    )
    model.encoder.layer = nn.ModuleList([layer])
    assert find_sites(model).names == ("encoder.layer.0.output.dense:input",)


def test_albert_counts_layers_as_they_run():
    sites = table_sites(build("albert"))
    inner = "albert.encoder.albert_layer_groups.{}.albert_layers.{}.ffn_output:input#{}"
    expected = [
        inner.format(group, part, call) for group in range(2) for call in range(2) for part in range(2)
    ]
    assert [site.name for site in sites] == expected


def test_a_seven_billion_model_takes_no_time():
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig())
    start = time.perf_counter()
    sites = find_sites(model)
    assert time.perf_counter() - start < 1
    assert len(sites) == 32 and sites.width == 32 * 11008
