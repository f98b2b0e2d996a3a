import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from neuronwise.errors import CompiledModelError, HookError, SiteAxisError, SiteNotFoundError
from neuronwise.hooks import transform
from neuronwise.sites import Site, Sites
from tests.models import make, make_all


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("case", make_all(), ids=lambda case: case.name)
def test_a_transform_that_returns_the_tensor_leaves_the_model_as_it_is(case):
    def run():
        batch = case.batch
        return case.model(**batch) if isinstance(batch, dict) else case.model(batch)

    expected = run()
    seen = []

    def function(site, tensor, given, again):
        seen.append((site.name, tensor.shape[site.axis]))
        return tensor

    with transform(case.model, case.sites, function):
        assert torch.equal(run(), expected)
    assert {name for name, _ in seen} == set(case.sites.names)
    assert all(width == case.sites[name].width for name, width in seen)
    assert hooks(case.model) == 0


def test_what_the_function_returns_is_what_the_model_goes_on_with():
    case = make("mlp")
    site = case.sites[0]
    with transform(case.model, site, lambda site, tensor, given, again: tensor * 2):
        changed = case.model(case.batch)
    hidden = torch.relu(case.model[0](case.batch)) * 2
    assert torch.allclose(changed, case.model[4](nn.functional.gelu(case.model[2](hidden))))


def test_an_output_site_is_told_what_its_module_was_given():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = {}

    def function(site, tensor, given, again):
        found[site.name] = given
        return tensor

    sites = [Site("1", "output", width=4), Site("1", "input", width=4)]
    with transform(model, Sites(sites), function):
        model(x)
    assert torch.equal(found["1:output"], model[0](x))
    assert found["1:input"] is None


def test_a_named_call_is_the_only_one_transformed():
    case = make("reused")
    calls = []
    with transform(
        case.model, case.sites[1], lambda site, tensor, given, again: calls.append(tensor) or tensor
    ):
        case.model(case.batch)
        case.model(case.batch)
    assert len(calls) == 2  # call 2 of each pass


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_recomputes_is_told_apart(reentrant):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    passes = []
    with transform(
        model, Site("1", "output", width=4), lambda s, tensor, g, again: passes.append(again) or tensor
    ):
        x = torch.randn(2, 3, requires_grad=True)
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    assert passes == [False, True]


def test_hooks_come_off_after_an_exception():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())

    def function(site, tensor, given, again):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), transform(model, Site("1", "output", width=4), function):
        model(torch.zeros(1, 3))
    assert hooks(model) == 0


def test_attaching_twice_is_an_error_and_exclusive_ones_exclude_each_other():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    site = Site("1", "output", width=4)

    def same(site, tensor, given, again):
        return tensor

    first = transform(model, site, same, exclusive=True)
    first.attach()
    with pytest.raises(HookError, match="attached already"):
        first.attach()
    with pytest.raises(HookError, match="1:output"):
        transform(model, site, same, exclusive=True).attach()
    with transform(model, site, same):
        pass
    first.detach()
    first.detach()
    with transform(model, site, same, exclusive=True):
        assert hooks(model) == 2
    assert hooks(model) == 0


def test_what_attach_returns_takes_the_hooks_off_and_holds_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())

    class Owner:
        def __init__(self):
            self.transform = transform(model, Site("1", "output", width=4), lambda s, tensor, g, a: tensor)
            weakref.finalize(self, self.transform.attach())

    owner = Owner()
    assert hooks(model) == 2
    del owner
    gc.collect()
    assert hooks(model) == 0


def test_a_copy_of_the_model_is_not_transformed():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.ones(1, 3)
    with transform(model, Site("1", "output", width=4), lambda s, tensor, g, a: tensor * 0):
        twin = copy.deepcopy(model)
        assert twin(x).abs().sum() > 0
        assert model(x).abs().sum() == 0


def test_wrong_sites_and_models_are_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())

    def same(site, tensor, given, again):
        return tensor

    with pytest.raises(SiteNotFoundError):
        transform(model, Site("7", "output", width=4), same)
    with (
        transform(model, Site("1", "output", width=5), same),
        pytest.raises(SiteAxisError, match="expected 5 neurons"),
    ):
        model(torch.zeros(1, 3))
    with pytest.raises(CompiledModelError):
        transform(
            torch.compile(model, backend="eager"), Site("_orig_mod.1", "output", width=4), same
        ).attach()


def test_torch_compile_takes_it_whole_and_forgets_it_when_it_is_detached():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.ones(2, 3)
    plain = model(x)
    doubled = transform(model, Site("1", "output", width=4), lambda s, tensor, g, a: tensor * 2)
    doubled.attach()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), 2 * plain)
    doubled.detach()
    assert torch.allclose(compiled(x), plain)
