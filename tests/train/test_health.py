"""Health of neurons while a model trains."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from neuronwise.errors import InvalidArgumentError, SiteNotReachedError
from neuronwise.sites import Site
from neuronwise.train import NeuronHealth

SITE = Site("1", "output", width=8)


class Given(nn.Module):
    """Returns activations as they are given, so that what is true of them is known."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x, attention_mask=None):
        return self.layer(x)


def watch(values, width, **settings):
    """Give one batch of activations a step to a model, and return what was found."""
    model = Given()
    settings = {"every": 1, "window": 4, "rows": 10_000} | settings
    health = NeuronHealth(model, Site("layer", "output", width=width), **settings)
    with health.attached():
        for batch in values:
            model(batch)
            health.step()
    return health


def found(health, ailment):
    chosen = health.neurons(ailment)
    return [index for _, index in chosen]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_dead_and_near_dead_neurons_are_found():
    z = (normal(8, 500, 6) - 1).relu()
    z[..., 1] = 0.0  # off
    z[..., 2] = 3.0  # rests at a high value
    z[..., 3] = torch.where(
        torch.rand(8, 500, generator=torch.Generator().manual_seed(1)) < 0.005, z[..., 3], 0.0
    )
    z[..., 4] *= 1e-4  # moves next to nothing
    health = watch(z, 6)
    assert found(health, "dead") == [1, 2]
    assert found(health, "near_dead") == [3, 4]
    frame = health.to_frame().set_index("neuron")
    assert frame.loc[2, "mean"] == pytest.approx(3.0)
    assert frame.loc[0, "mean"] == pytest.approx(z[4:, :, 0].mean().item(), rel=1e-4)
    assert frame.loc[0, "sd"] == pytest.approx(z[4:, :, 0].std(correction=0).item(), rel=1e-4)
    assert frame.loc[0, "moves"] == pytest.approx((z[4:, :, 0] > 1e-3).float().mean().item(), abs=0.001)
    log = health.log()
    assert log["dead"] == pytest.approx(1 / 3)
    assert log["dead/layer:output"] == pytest.approx(1 / 3)
    assert log["windows"] == 2


def test_saturated_neurons_are_found_at_both_ends_but_a_rectifier_s_zero_is_none():
    z = normal(4, 500, 6)
    z[..., 1] += 8.0
    z[..., 2] -= 8.0
    assert found(watch(torch.tanh(z), 6), "saturated") == [1, 2]
    assert found(watch(torch.relu(z), 6), "saturated") == []


@pytest.mark.parametrize("factor", [1.0, -3.0])
def test_duplicates_are_found_by_their_sketches_and_settled_on_other_rows(factor):
    z = normal(8, 500, 40)
    z[..., 7] = factor * z[..., 3] + 0.05 * z[..., 7] + 100.0
    z[..., 9] = z[..., 11] + 1.5 * z[..., 9]  # related, no duplicate
    health = watch(z, 40)
    assert found(health, "duplicated") == [3, 7]
    frame = health.to_frame().set_index("neuron")
    assert frame.loc[3, "partner"] == 7
    assert frame.loc[7, "partner"] == 3
    exact = torch.corrcoef(z[4:].reshape(-1, 40).T)
    for unit in range(40):
        partner = frame.loc[unit, "partner"]
        assert frame.loc[unit, "correlation"] == pytest.approx(exact[unit, partner].item(), abs=1e-3)


def test_chance_makes_no_duplicates_however_many_neurons_there_are():
    health = watch(normal(4, 64, 3000), 3000, window=2, sketch=16)
    assert health.log()["duplicated"] == 0


def test_dead_neurons_are_no_duplicates_of_each_other():
    z = normal(8, 100, 6)
    z[..., 2:] = 0.0
    assert found(watch(z, 6), "duplicated") == []


def test_drifting_neurons_are_found():
    z = normal(8, 500, 5)
    z[4:, :, 1] += 1.0
    z[4:, :, 2] *= 3.0
    health = watch(z, 5)
    assert found(health, "drifting") == [1, 2]
    assert health.to_frame()["drift"][1] == pytest.approx(1.0, abs=0.1)
    assert found(watch(z[:4], 5), "drifting") == []


def test_what_is_not_known_yet_is_not_said():
    health = watch(normal(8, 100, 5)[:3], 5)
    assert set(health.log()) == {"windows", "skipped"}
    assert health.to_frame().empty
    assert not len(health.neurons("dead"))
    health = watch(normal(4, 100, 5), 5)
    assert "dead" in health.log()
    assert not {"drifting", "duplicated"} & set(health.log())
    few = watch(normal(8, 2, 5), 5)  # eight rows a window say nothing
    assert "dead" not in few.log()


def test_rows_that_are_padding_or_not_finite_are_left_out():
    z = normal(4, 50, 6, 5)
    mask = torch.ones(50, 6)
    mask[:, 4:] = 0
    z[:, :, 4:] = 1e6
    z[2, 7, 1] = torch.nan
    model = Given()
    health = NeuronHealth(model, Site("layer", "output", width=5), every=1, window=4, rows=10_000)
    with health.attached():
        for batch in z:
            model(batch, attention_mask=mask)
            health.step()
    real = z[:, :, :4].reshape(-1, 5)
    real = real[torch.isfinite(real).all(1)]
    assert health.log()["skipped"] == 1
    assert torch.allclose(torch.tensor(health.to_frame()["mean"]), real.mean(0), atol=1e-4)


def test_a_window_that_begins_with_nan_says_less_but_nothing_wrong():
    z = normal(8, 100, 5)
    z[4] = torch.nan
    z[..., 1] = 0.0
    health = watch(z, 5)
    assert "dead" not in health.log()
    assert "drifting" in health.log()
    assert found(health, "dead") == []
    assert torch.allclose(torch.tensor(health.to_frame()["mean"]), z[5:].reshape(-1, 5).mean(0), atol=1e-5)


def test_channels_of_a_convolution_are_neurons():
    z = normal(4, 20, 6, 5, 5)
    z[:, :, 2] = 0.0
    model = Given()
    health = NeuronHealth(model, Site("layer", "output", width=6, axis=1), every=1, window=4, rows=300)
    with health.attached():
        for batch in z:
            model(batch)
            health.step()
    assert found(health, "dead") == [2]


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3))


def train(model, health, data):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x in data:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        health.step()


def settings():
    return {"every": 2, "window": 3, "rows": 50}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)


@pytest.mark.parametrize("stop", [5, 8, 13])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(stop):
    data = normal(26, 64, 5)
    model = network()
    whole = NeuronHealth(model, **settings())
    with whole.attached():
        train(model, whole, data)
    model = network()
    health = NeuronHealth(model, **settings())
    with health.attached():
        train(model, health, data[:stop])
    saved = copy.deepcopy(health.state_dict())
    again = NeuronHealth(model, **settings())
    again.load_state_dict(saved)
    with again.attached():
        train(model, again, data[stop:])
    assert equal(again.state_dict(), whole.state_dict())
    assert again.to_frame().equals(whole.to_frame())
    assert whole.windows == 4


def test_a_state_of_something_else_is_refused():
    saved = NeuronHealth(network(), **settings()).state_dict()
    with pytest.raises(InvalidArgumentError, match="sites"):
        NeuronHealth(network(), SITE, **settings()).load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="settings"):
        NeuronHealth(network(), window=7).load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="no state"):
        NeuronHealth(network()).load_state_dict({})


def test_the_model_is_untouched_and_evaluation_counts_nothing():
    model, x = network(), normal(64, 5)
    expected, before = model(x), copy.deepcopy(model.state_dict())
    health = NeuronHealth(model, every=1, window=2)
    random_state = torch.random.get_rng_state()
    with health.attached():
        for _ in range(2):
            assert torch.equal(model(x), expected)
            health.step()
        state = copy.deepcopy(health.state_dict())
        model.eval()
        model(x)
        assert not any(health._collector.pending.values())
        model.train()
        model(x)
        health.discard()
        health.step(stepped=False)
    assert {k: v for k, v in state.items() if "extra" not in k}.keys() <= health.state_dict().keys()
    assert equal(
        {k: v for k, v in state.items() if "extra" not in k},
        {k: v for k, v in health.state_dict().items() if "extra" not in k},
    )
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0
    health.attach()
    del health
    gc.collect()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0


def test_micro_batches_are_looked_at_together_and_what_is_recomputed_once():
    data = normal(4, 64, 5)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    states = []
    for model, prefix, pieces in ((network(), "", 1), (network(), "", 4), (Checkpointed(), "inner.", 1)):
        health = NeuronHealth(model, Site(f"{prefix}1", "output", width=8), every=1, window=4)
        with health.attached():
            for x in data:
                for part in x.chunk(pieces):
                    model(part).sum().backward()
                health.step()
        states.append(health.to_frame())
    for other in states[1:]:
        assert torch.allclose(torch.tensor(states[0]["mean"]), torch.tensor(other["mean"]), atol=1e-5)
        assert torch.allclose(torch.tensor(states[0]["sd"]), torch.tensor(other["sd"]), atol=1e-5)


def test_rows_are_a_sample_of_all_positions_and_memory_is_constant():
    z = normal(60, 40, 25, 4)
    z += torch.arange(25)[:, None]  # the position decides the value
    health = watch(z, 4, window=60, rows=10)
    assert health.to_frame()["mean"][0] == pytest.approx(12.0, abs=1.0)
    sizes = {name: value.numel() for name, value in watch(z[:3], 4, rows=10).state_dict().items()}
    longer = {name: value.numel() for name, value in health.state_dict().items()}
    sizes.pop("_extra_state"), longer.pop("_extra_state")
    assert sizes == longer


def test_torch_compile_takes_it_without_a_graph_break():
    torch._dynamo.reset()
    model, data = network(), normal(6, 64, 5)
    frames = []
    for compiled in (False, True):
        health = NeuronHealth(model, every=2, window=3)
        with health.attached():
            run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
            for x in data:
                run(x).sum().backward()
                health.step()
        frames.append(health.to_frame())
    assert torch.allclose(torch.tensor(frames[0]["mean"]), torch.tensor(frames[1]["mean"]), atol=1e-6)
    assert health.windows == 1


def test_sites_that_are_never_reached_are_an_error():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x):
            return self.used(x)

    model = Branch()
    health = NeuronHealth(model, ["unused"], every=1)
    with health.attached(), pytest.raises(SiteNotReachedError, match="unused:output"):
        model(normal(6, 5))
        health.step()
    health = NeuronHealth(model, ["used", "unused"], every=1, window=2)
    with health.attached():
        model(normal(6, 5))
        health.step()
        model(normal(6, 5))
        with pytest.raises(SiteNotReachedError, match="in the first window"):
            health.step()


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"window": 0}, {"rows": 0}, {"sketch": 0}, {"duplicate": 1.5}, {"drift": 0.0}]
)
def test_settings_must_make_sense(wrong):
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        NeuronHealth(network(), **wrong)
    with pytest.raises(InvalidArgumentError, match="ailment"):
        NeuronHealth(network()).neurons("ill")
