"""What every reducer must do: any split gives the same result, and a saved state goes on where it stopped."""

import numpy as np
import pandas as pd
import pytest
import torch

from neuronwise.observe import REDUCERS, ActiveFraction, CoActivation, Moments
from tests.observe.streams import activations, feed

CASES = {
    **REDUCERS,
    "moments of order 2": lambda: Moments(order=2),
    "active by magnitude": lambda: ActiveFraction(0.1, absolute=True),
    "sketched co-activation": lambda: CoActivation(full=2, sketch=64),
}
# A t-digest depends on the order of its input within its own accuracy; every other result does not depend on
# it.
APPROXIMATE = {"quantiles"}


# Products are taken in float32, whose rounding moves a correlation by about 1e-6, whatever its size.
CORRELATION = {"rtol": 0, "atol": 1e-5}


def assert_same(mine, theirs, *, rtol, atol=1e-9, exact=False):
    assert mine.keys() == theirs.keys()
    for name in mine:
        if exact:
            pd.testing.assert_frame_equal(mine[name], theirs[name], check_exact=True)
        else:
            pd.testing.assert_frame_equal(mine[name], theirs[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", range(7))
def test_merge_equals_one_pass(name, cut, stream):
    whole = feed(CASES[name](), stream)
    left, right = feed(CASES[name](), stream, 0, cut), feed(CASES[name](), stream, cut)
    left.merge(right)
    if name in APPROXIMATE:
        mine, theirs = whole.result()["neurons"], left.result()["neurons"]
        assert (mine["quantile_n"] == theirs["quantile_n"]).all()
        spread = mine["q99"] - mine["q01"]
        assert (np.abs(mine["q50"] - theirs["q50"]) <= 0.02 * spread + 1e-6 * np.abs(mine["q50"])).all()
    else:
        tables = whole.result(), left.result()
        if name.startswith(("coactivation", "sketched")):
            # sums of float32 products: pairs of equal strength may change places
            tables = tuple(
                {k: t.sort_values(["neuron", "other"]).reset_index(drop=True) for k, t in r.items()}
                for r in tables
            )
            assert_same(*tables, **CORRELATION)
        else:
            assert_same(*tables, rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_merge_is_associative(name, stream):
    def parts():
        return [feed(CASES[name](), stream, i, i + 2) for i in (0, 2, 4)]

    a, b, c = parts()
    a.merge(b)
    a.merge(c)
    x, y, z = parts()
    y.merge(z)
    x.merge(y)
    if name not in APPROXIMATE:
        assert_same(
            a.result(), x.result(), rtol=1e-4 if "o-activation" in name or name == "coactivation" else 1e-9
        )


@pytest.mark.parametrize("name", CASES)
def test_state_goes_on_bit_for_bit(name, stream):
    whole = feed(CASES[name](), stream)
    half = feed(CASES[name](), stream, 0, 3)
    resumed = CASES[name]()
    resumed.load_state_dict({key: tensor.clone() for key, tensor in half.state_dict().items()})
    rest = stream[3:]
    first = sum(len(batch) for batch in stream[:3])
    for number, batch in enumerate(rest, 3):
        resumed.update(activations(batch, first=first, number=number))
        first += len(batch)
    assert_same(whole.result(), resumed.result(), rtol=0, exact=True)


@pytest.mark.parametrize("name", CASES)
def test_memory_does_not_grow_with_the_stream(name):
    generator = torch.Generator().manual_seed(0)
    stream = [torch.randn(4, 32, 8, generator=generator) for _ in range(64)]

    def size(reducer):
        return sum(t.numel() * t.element_size() for t in reducer.state_dict().values())

    early, late = size(feed(CASES[name](), stream, 0, 32)), size(feed(CASES[name](), stream))
    assert late <= early * 1.1, "a t-digest fluctuates a little; nothing else may"


@pytest.mark.parametrize("name", CASES)
def test_an_empty_reducer_has_no_result(name, stream):
    reducer = CASES[name]()
    assert not reducer.started
    assert reducer.result() == {}
    assert reducer.state_dict() == {}
    reducer.merge(CASES[name]())
    assert not reducer.started
    reducer.load_state_dict({})
    assert reducer.result() == {}
