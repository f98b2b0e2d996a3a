"""The compiled loops against torch."""

import pandas as pd
import pytest
import torch

from neuronwise.observe import REDUCERS, ActiveFraction, Moments, _kernels
from tests.observe.streams import activations, feed

pytest.importorskip("numba")


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3, 5), (3, 8, 17), (2, 9, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_peaks_are_exact(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    low, high, finite = _kernels.peaks(x)
    assert finite
    assert torch.equal(low, x.amin(1))
    assert torch.equal(high, x.amax(1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("position", range(9))
def test_what_is_not_finite_is_noticed_wherever_it_stands(bad, position):
    x = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0))
    x[1, position, 4] = bad
    assert not _kernels.peaks(x)[2]


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 64])
def test_power_sums(order, rows):
    x = torch.randn(rows, 7, generator=torch.Generator().manual_seed(0)) + 100
    shift = x[0].double()
    sums = _kernels.power_sums(x, shift, order)
    assert len(sums) == order
    for power, total in enumerate(sums, 1):
        torch.testing.assert_close(total, ((x.double() - shift) ** power).sum(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("absolute", [False, True])
def test_counts_are_exact(absolute):
    x = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    expected = ((x.abs() if absolute else x) > 0.5).sum(0).double()
    assert torch.equal(_kernels.count_above(x, 0.5, absolute=absolute), expected)


@pytest.mark.parametrize(
    "make", [*REDUCERS.values(), lambda: Moments(2), lambda: ActiveFraction(0.1, absolute=True)]
)
def test_reducers_say_the_same_with_and_without(make, stream, monkeypatch):
    spoiled = [batch.clone() for batch in stream]
    spoiled[3][0, 5, 0] = torch.nan
    for batches in (stream, spoiled):
        fast = feed(make(), batches).result()
        with monkeypatch.context() as patch:
            patch.setattr(_kernels, "_installed", lambda: False)
            assert not _kernels.usable(batches[0])
            slow = feed(make(), batches).result()
        assert fast.keys() == slow.keys()
        for name, table in fast.items():
            pd.testing.assert_frame_equal(table, slow[name], rtol=1e-9, atol=1e-12)


def test_only_plain_rows_are_taken():
    x = torch.randn(4, 6)
    assert _kernels.usable(x)
    assert not _kernels.usable(x.T)
    assert not _kernels.usable(x.half())
    assert activations(x.reshape(1, 4, 6)).valid is None
