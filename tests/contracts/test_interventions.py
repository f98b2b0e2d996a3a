"""Every intervention on every model of the zoo."""

import copy

import pytest
import torch

from neuronwise.hooks import INTERVENTIONS, call_model, capture, intervene
from neuronwise.sites import NeuronSet, Sites
from tests.models import NAMES, make

CASES = [(name, how) for name in NAMES for how in INTERVENTIONS]


def some_neurons(sites):
    """Every other neuron of each site."""
    return NeuronSet.of({site: range(0, site.width, 2) for site in sites})


def other_batch(batch):
    if isinstance(batch, dict):
        return {key: value.flip(-1) for key, value in batch.items()}
    return batch.flip(-1) + 0.5


def one_example(batch, at):
    if isinstance(batch, dict):
        return {key: value[at : at + 1] for key, value in batch.items()}
    return batch[at : at + 1]


def double(batch):
    return batch if isinstance(batch, dict) else batch.double()


def value_for(how, model, batch, sites):
    """A value that the intervention takes, different for each neuron."""
    if how == "zero":
        return None
    if how == "patch":
        with torch.no_grad(), capture(model, sites, copy=True) as cap:
            call_model(model, other_batch(batch))
        return {site: cap[site] for site in sites}
    return {site: torch.linspace(-1, 2, site.width, dtype=torch.float64).numpy() for site in sites}


def expected(how, tensor, site, indices, value):
    """What the intervention makes of an activation, neuron by neuron."""
    result = tensor.clone()
    for index in indices:
        now = result.select(site.axis, index)
        if how == "zero":
            new = torch.zeros_like(now)
        elif how == "patch":
            new = value[site].select(site.axis, index)
        else:
            number = float(value[site][index])
            new = {"add": now + number, "scale": now * number}.get(how, torch.full_like(now, number))
        now.copy_(new)
    return result


def state(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {
            name: (tensor.detach().clone(), tensor.requires_grad, tensor.grad)
            for name, tensor in tensors.items()
        },
        [module.training for module in model.modules()],
        [[*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks] for m in model.modules()],
        torch.get_rng_state().tolist(),
    )


def same(before, after):
    tensors, later = before[0], after[0]
    assert tensors.keys() == later.keys()
    for name, (values, *rest) in tensors.items():
        assert torch.equal(values, later[name][0]) and rest == list(later[name][1:])
    assert before[1:] == after[1:]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_values_are_changed_as_computed_by_hand_and_the_model_is_left_alone(name, how):
    case = make(name)
    value, neurons = value_for(how, case.model, case.batch, case.sites), some_neurons(case.sites)
    before, plain = state(case.model), call_model(case.model, case.batch)
    with (
        capture(case.model, case.sites, copy=True) as cap,
        intervene(case.model, neurons, how, value),
        capture(case.model, case.sites, copy=True) as changed,
    ):
        output = call_model(case.model, case.batch)
    for site in case.sites:
        by_hand = expected(how, cap[site], site, neurons.indices(site).tolist(), value)
        assert torch.equal(changed[site], by_hand)
    assert not torch.equal(output, plain)
    assert torch.equal(call_model(case.model, case.batch), plain)
    same(before, state(case.model))


@pytest.mark.parametrize(("name", "how"), CASES)
def test_an_exception_leaves_nothing_behind(name, how):
    case = make(name)
    value = value_for(how, case.model, case.batch, case.sites)
    before = state(case.model)

    def fail(*arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), intervene(case.model, case.sites, how, value):
        handle = case.sites[-1].module(case.model).register_forward_hook(fail)
        try:
            call_model(case.model, case.batch)
        finally:
            handle.remove()
    same(before, state(case.model))


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_batch_equals_its_examples_one_by_one(name, how):
    case = make(name)
    value, neurons = value_for(how, case.model, case.batch, case.sites), some_neurons(case.sites)
    with intervene(case.model, neurons, how, value):
        together = call_model(case.model, case.batch)
    for at in range(len(together)):
        mine = value
        if how == "patch":
            mine = {site: tensor[at : at + 1] for site, tensor in value.items()}
        with intervene(case.model, neurons, how, mine):
            alone = call_model(case.model, one_example(case.batch, at))
        assert torch.allclose(together[at : at + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_float32_agrees_with_float64(name, how):
    case = make(name)
    exact = copy.deepcopy(case.model).double()
    neurons = some_neurons(case.sites)
    outputs = []
    for model, batch in ((case.model, case.batch), (exact, double(case.batch))):
        with intervene(model, neurons, how, value_for(how, model, batch, case.sites)):
            outputs.append(call_model(model, batch))
    assert outputs[1].dtype == torch.float64
    assert torch.allclose(outputs[0].double(), outputs[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_site_of_the_zoo_resolves(name):
    case = make(name)
    assert Sites.of(case.sites) == case.sites
    for site in case.sites:
        site.module(case.model)
