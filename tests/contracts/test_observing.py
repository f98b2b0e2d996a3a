"""Every reducer on every kind of model: right, and without a trace on the model."""

import copy

import numpy as np
import pytest
import torch

from neuronwise.hooks import call_model, capture
from neuronwise.observe import REDUCERS, BatchInfo, Moments, Observer
from tests.models import NAMES, make


def hook_counts(model):
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), module.training)
        for name, module in model.named_modules()
    }


def flat(site, tensor):
    """Positions in rows, neurons in columns, float64."""
    return tensor.movedim(site.axis, -1).reshape(-1, site.width).double().numpy()


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
    observer = Observer(case.sites, [REDUCERS[reducer](), *([] if reducer == "moments" else [Moments()])])
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
