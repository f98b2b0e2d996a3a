"""Quantiles, histogram, co-activation: against NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe import CoActivation, Histogram, Quantiles
from neuronwise.observe.coactivation import _largest
from tests.observe.streams import activations, feed, mixed, rows


def test_quantiles_are_close_in_rank(stream):
    levels = (0.01, 0.25, 0.5, 0.75, 0.99)
    table = feed(Quantiles(levels, rate=1.0), stream).result()["neurons"]
    x = rows(stream).astype(np.float32)
    assert (table["quantile_n"] == len(x)).all()
    for level in levels:
        column = f"q{round(level * 100):02d}"
        for neuron in range(6):
            below = (
                (x[:, neuron] < table[column][neuron]).mean(),
                (x[:, neuron] <= table[column][neuron]).mean(),
            )
            # a t-digest with k = 200 is good to about 1 % of rank in the middle, better at the ends
            assert below[0] - 0.015 <= level <= below[1] + 0.015, (column, neuron)


def test_quantiles_of_a_sample_agree_within_their_error():
    generator = torch.Generator().manual_seed(0)
    stream = [torch.randn(4, 256, 8, generator=generator) for _ in range(20)]
    table = feed(Quantiles((0.1, 0.5, 0.9), rate=0.125), stream).result()["neurons"]
    assert table["quantile_n"].nunique() == 1, "the same rows for all neurons"
    assert abs(table["quantile_n"][0] - 128 * 20) < 4 * np.sqrt(128 * 20)
    for column, true, density in (("q10", -1.2816, 0.1755), ("q50", 0.0, 0.3989), ("q90", 1.2816, 0.1755)):
        error = table[f"{column}_se"]
        assert (np.abs(table[column] - true) < 4 * error).all()
        level = int(column[1:]) / 100
        sampling = np.sqrt(level * (1 - level) / (128 * 20)) / density
        assert 0.8 * sampling < error.mean() < 2 * sampling


def test_a_sample_is_fair_to_batches_of_all_sizes():
    """Many rows of one come in one batch, a few rows of zero in another: the quarter quantile must be one."""
    stream = [torch.zeros(1, 80, 1), torch.ones(8, 1000, 1)]
    table = feed(Quantiles((0.25,)), stream).result()["neurons"]
    assert table["q25"][0] == pytest.approx(1.0, abs=1e-3)


def test_quantile_names_and_bounds():
    reducer = Quantiles((0.005, 0.5, 0.999), rate=1.0)
    reducer.update(activations(torch.randn(1, 100, 1, generator=torch.Generator().manual_seed(0))))
    assert list(reducer.result()["neurons"].columns[::2][:3]) == ["q00_5", "q50", "q99_9"]
    with pytest.raises(InvalidArgumentError, match="between 0 and 1"):
        Quantiles((0.0, 0.5))
    for bad in ({"rate": 0.0}, {"rate": 1.5}, {"compression": 1}):
        with pytest.raises(InvalidArgumentError, match=r"rate must lie in \(0, 1\]"):
            Quantiles(**bad)


def test_histogram_counts_what_numpy_counts(stream):
    reducer = feed(Histogram(32), stream)
    table = reducer.result()["histogram"]
    x = rows(stream)
    for neuron in range(6):
        own = table[table["neuron"] == neuron]
        width = (own["right"] - own["left"]).unique()
        assert len(width) == 1
        assert np.log2(width[0]) % 1 == 0
        assert len(own) <= 32
        assert own["count"].sum() == len(x)
        for row in own.itertuples():
            assert row.count == ((x[:, neuron] >= row.left) & (x[:, neuron] < row.right)).sum()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_histogram_is_the_same_for_any_order_and_split(data):
    scale = st.floats(-1e6, 1e6, width=32)
    values = data.draw(st.lists(scale, min_size=2, max_size=40))
    cut = data.draw(st.integers(1, len(values) - 1))
    order = data.draw(st.permutations(range(len(values))))

    def histogram(numbers):
        reducer = Histogram(8)
        for number in numbers:
            reducer.update(activations(torch.tensor(number).reshape(1, 1, 1)))
        return reducer

    whole = histogram(values).result()["histogram"]
    shuffled = [values[i] for i in order]
    left, right = histogram(shuffled[:cut]), histogram(shuffled[cut:])
    left.merge(right)
    assert whole.equals(left.result()["histogram"])


def test_how_many_bins_the_range_takes():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 20_000, 3, generator=generator)
    x[..., 1], x[..., 2] = 3.5, x[..., 2] * 1e-4 + 1e3
    reducer = Histogram(64)
    reducer.update(activations(x))
    table = reducer.result()["histogram"]
    own = table.assign(width=table["right"] - table["left"]).groupby("neuron")
    bins = (own["right"].max() - own["left"].min()) / own["width"].first()
    assert 32 <= bins[0] <= 64
    assert bins[1] == 1
    assert bins[2] < 32
    assert (bins == bins.round()).all()


def test_histogram_leaves_out_what_is_not_finite():
    reducer = Histogram(8)
    reducer.update(activations(torch.tensor([[[torch.nan], [torch.nan]]])))
    reducer.update(activations(torch.tensor([[[5.0], [torch.inf], [6.0]]])))
    table = reducer.result()["histogram"]
    assert table["count"].sum() == 2
    assert table["left"].min() == 5.0


def test_correlations_are_numpys(stream):
    reducer = feed(CoActivation(pairs=5), stream)
    varying = [0, 1, 2, 3, 5]
    expected = np.corrcoef(rows(stream)[:, varying].T)
    found = reducer.correlations()[np.ix_(varying, varying)]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    table = reducer.result()["coactivation"]
    assert 4 not in set(table["neuron"]) | set(table["other"]), "a constant neuron correlates with nothing"
    best = table.groupby("neuron").first()
    off = np.abs(expected - np.eye(5))
    np.testing.assert_allclose(best["correlation"].abs(), off.max(1), atol=2e-5)


def test_sketch_finds_strong_pairs_of_a_wide_site():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 200, 40, generator=generator) + 3.0
    x[..., 7] = 0.9 * x[..., 3] + 0.2 * x[..., 7]
    reducer = CoActivation(pairs=3, full=16, sketch=256)
    for start in range(0, 8, 2):
        reducer.update(activations(x[start : start + 2], number=start))
    true = np.corrcoef(x.reshape(-1, 40).double().numpy().T)
    table = reducer.result()["coactivation"]
    pair = table[(table["neuron"] == 7)].iloc[0]
    assert pair["other"] == 3
    assert abs(pair["correlation"] - true[3, 7]) < 3 * pair["correlation_se"]
    errors = reducer.correlations() - true
    off = errors[~np.eye(40, dtype=bool)]
    # unbiased, with the spread that correlation_se states
    np.testing.assert_allclose(off.std(), 1 / 16, rtol=0.25)
    assert abs(off.mean()) < 0.01


@pytest.mark.parametrize("k", [1, 3, 9])
def test_partners_are_those_of_a_stable_sort(k):
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 6, (200, 9)) / 4.0  # many are equal; negative ones stand for none
    values[values < 0] = -1.0
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    row, place = np.nonzero(np.take_along_axis(values, order, 1) >= 0)
    mine = _largest(values, k)
    np.testing.assert_array_equal(mine[0], row)
    np.testing.assert_array_equal(mine[1], order[row, place])


def test_equal_partners_are_listed_in_their_order():
    x = torch.randn(4, 20, 1, generator=torch.Generator().manual_seed(0)).expand(4, 20, 5)
    reducer = CoActivation(pairs=2)
    reducer.update(activations(x.clone()))
    table = reducer.result()["coactivation"]
    assert table.groupby("neuron")["other"].agg(list).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_one_neuron_has_no_partner():
    reducer = CoActivation()
    reducer.update(activations(torch.randn(2, 5, 1, generator=torch.Generator().manual_seed(0))))
    assert reducer.result() == {}


def test_a_neuron_that_is_not_finite_has_no_correlation_and_spoils_no_other():
    x = mixed(torch.Generator().manual_seed(0), [(4, 50)])[0][..., :3].clone() + 1e3
    clean = CoActivation()
    clean.update(activations(x))
    x[:2, :, 2] = torch.nan
    spoiled, other = CoActivation(), CoActivation()
    spoiled.update(activations(x[:2]))
    other.update(activations(x[2:]))
    spoiled.merge(other)
    assert abs(spoiled.correlations()[0, 1] - clean.correlations()[0, 1]) < 1e-5
    assert np.isnan(spoiled.correlations()[:, 2]).all()
    assert set(spoiled.result()["coactivation"]["neuron"]) == {0, 1}
