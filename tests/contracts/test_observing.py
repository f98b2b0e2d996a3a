"""Every reducer on every kind of model: right, and without a trace on the model."""

import copy

import numpy as np
import pytest
import torch

from neuronwise.hooks import call_model, capture
from neuronwise.observe import REDUCERS, BatchInfo, Moments, Observer, Quantiles
from tests.models import NAMES, make


def hook_counts(model):
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), module.training)
        for name, module in model.named_modules()
    }


def flat(site, tensor):
    """Positions in rows, neurons in columns, float64."""
    return tensor.movedim(site.axis, -1).reshape(-1, site.width).double().numpy()


def check_quantiles(neurons, x):
    """Each within a rank or so of the level that it is for."""
    assert (neurons["quantile_n"] == len(x)).all()
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        value = neurons[f"q{round(level * 100):02d}"].to_numpy()
        slack = 1e-6 * np.abs(value)  # the sketch holds float32
        room = 0.015 + 1 / len(x)
        assert ((x < value - slack).mean(0) <= level + room).all()
        assert ((x <= value + slack).mean(0) >= level - room).all()


def check_partners(table, x):
    """Correlations are NumPy's, and the first partner is the strongest."""
    varying = np.ptp(x, axis=0) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.corrcoef(x.T)
    np.fill_diagonal(expected, np.nan)
    found = table["neuron"].to_numpy(), table["other"].to_numpy()
    np.testing.assert_allclose(table["correlation"], expected[found], atol=1e-4)
    best = table.groupby("neuron")["correlation"].first().abs()
    assert set(best.index) == set(np.flatnonzero(varying))
    np.testing.assert_allclose(best, np.nanmax(np.abs(expected[varying]), axis=1), atol=1e-4)


@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("name", NAMES)
def test_reducer_on_model(name, reducer):
    case = make(name)
    size = next(iter(case.batch.values())) if isinstance(case.batch, dict) else case.batch
    count = len(size[0] if isinstance(size, tuple | list) else size)
    before, state = hook_counts(case.model), copy.deepcopy(case.model.state_dict())
    with torch.no_grad():
        plain = call_model(case.model, case.batch)
        with capture(case.model, case.sites, copy=True) as cap:
            call_model(case.model, case.batch)
    made = Quantiles(rate=1.0) if reducer == "quantiles" else REDUCERS[reducer]()
    observer = Observer(case.sites, [made, *([] if reducer == "moments" else [Moments()])])
    with torch.no_grad(), observer.attached(case.model):
        observer.expect(BatchInfo(examples=torch.arange(count)))
        observed = call_model(case.model, case.batch)
    assert hook_counts(case.model) == before
    assert all(torch.equal(value, state[key]) for key, value in case.model.state_dict().items())
    torch.testing.assert_close(observed, plain, rtol=0, atol=0)
    for site in case.sites:
        x = np.concatenate([flat(site, tensor) for tensor in cap.calls(site)])
        tables = {
            k: t
            for r in observer.reducers[site.name].values()
            for k, t in r.result().items()
            if k != "neurons"
        }
        neurons = {
            c: s
            for r in observer.reducers[site.name].values()
            for c, s in r.result().get("neurons", {}).items()
        }
        assert (observer.seen[site.name] == len(x)).all()
        np.testing.assert_allclose(neurons["mean"], x.mean(0), rtol=1e-9, atol=1e-15)
        if reducer == "extremes":
            np.testing.assert_array_equal(neurons["max"], x.max(0))
        if reducer == "active":
            np.testing.assert_allclose(neurons["active"], (x > 0).mean(0))
        if reducer == "histogram":
            assert (tables["histogram"].groupby("neuron")["count"].sum() == len(x)).all()
        if reducer == "quantiles":
            check_quantiles(neurons, x)
        if reducer == "coactivation":
            check_partners(tables["coactivation"], x)
        if reducer == "examples":
            best = tables["examples"].query("side == 'top' and rank == 0").sort_values("neuron")
            np.testing.assert_allclose(best["value"], x.max(0), rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_leaves_no_hook(name):
    case = make(name)
    before = hook_counts(case.model)
    observer = Observer(case.sites, [Moments()])
    with pytest.raises(ZeroDivisionError), observer.attached(case.model):
        1 / 0  # noqa: B018
    assert hook_counts(case.model) == before
