"""Audits in processes, and such as go on after an interruption."""

import functools

import pandas as pd
import pytest
import torch
from torch import nn

from neuronwise.errors import ResultError
from neuronwise.train import audit

QUICK = {
    "seeds": 2, "epochs": 1, "batch_size": 32, "start": 1, "probes": 1, "one_step": 1, "timed": 0,
    "measures": ["phi_above_9", "phi_top"], "rotation": False, "progress": False,
}  # fmt: skip


def blobs():
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def network(seed, stop_at=None):
    if seed == stop_at:
        raise KeyboardInterrupt
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def whole():
    return audit(network, blobs(), "tail", **QUICK)


def assert_same(one, other):
    for name in ("audit_runs", "audit_figures", "verdicts"):
        pd.testing.assert_frame_equal(one.tables[name], other.tables[name])


def test_processes_give_the_same_figures(whole):
    assert_same(audit(network, blobs(), "tail", engine="processes", workers=2, threads=1, **QUICK), whole)


def test_an_interrupted_audit_goes_on_where_it_was(whole, tmp_path):
    options = {**QUICK, "checkpoint": tmp_path / "state"}
    with pytest.raises(KeyboardInterrupt):
        audit(functools.partial(network, stop_at=1), blobs(), "tail", **options)
    trained = []

    def counted(seed):
        trained.append(seed)
        return network(seed)

    assert_same(audit(counted, blobs(), "tail", **options), whole)
    assert trained.count(0) < trained.count(1)  # the first seed makes a model only to look for its sites


@pytest.mark.parametrize("what", ["held_out", "measured_on"])
def test_an_audit_of_other_held_out_data_is_not_gone_on_with(what, tmp_path):
    x, y = blobs()
    options = {**QUICK, "checkpoint": tmp_path / "state", "held_out": (x[:30], y[:30])}
    options["measured_on"] = x[:30], y[:30]
    with pytest.raises(KeyboardInterrupt):
        audit(functools.partial(network, stop_at=1), (x[30:], y[30:]), "tail", **options)
    options[what] = x[:30] + 1, y[:30]
    with pytest.raises(ResultError, match="not a checkpoint of this pass"):
        audit(network, (x[30:], y[30:]), "tail", **options)
