"""Moments, extremes, active fraction, class means: against NumPy and SciPy in float64."""

import numpy as np
import pytest
import scipy.stats
import torch

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe import ActiveFraction, ClassMeans, Extremes, Moments
from tests.observe.streams import activations, feed, mixed, rows


def test_moments_agree_with_float64(stream):
    table = feed(Moments(), stream).result()["neurons"]
    x = rows(stream)
    np.testing.assert_allclose(table["mean"], x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(table["std"], x.std(0, ddof=1), rtol=1e-9)
    varying = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(
        table["skewness"][varying], scipy.stats.skew(x[:, varying]), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        table["kurtosis"][varying], scipy.stats.kurtosis(x[:, varying]), rtol=1e-9, atol=1e-12
    )


def test_mean_far_from_zero_in_many_uneven_batches():
    generator = torch.Generator().manual_seed(3)
    stream = [torch.randn(1 + n % 5, 1 + 37 * n % 91, 4, generator=generator) + 1e4 for n in range(60)]
    table = feed(Moments(order=2), stream).result()["neurons"]
    x = rows(stream)
    np.testing.assert_allclose(table["mean"], x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(table["std"], x.std(0, ddof=1), rtol=1e-9)


def test_a_neuron_that_drifts_does_not_lose_precision():
    stream = [torch.zeros(2, 8, 1), torch.full((2, 8, 1), 1e4) + torch.arange(16.0).reshape(2, 8, 1) / 16]
    table = feed(Moments(), stream).result()["neurons"]
    np.testing.assert_allclose(table["std"], rows(stream).std(0, ddof=1), rtol=1e-9)


def test_a_constant_neuron_has_no_shape():
    table = feed(Moments(), [torch.full((2, 50, 1), 0.1), torch.full((3, 9, 1), 0.1)]).result()["neurons"]
    assert table["std"][0] == 0
    assert np.isnan(table["skewness"][0])
    assert np.isnan(table["kurtosis"][0])


def test_standard_errors_cover_dependence_within_a_batch():
    """With equal values within each batch, the error of the mean is that of the batch means, not of the rows."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.randn(400, 5, generator=generator)
    stream = [level.expand(1, 50, 5).clone() for level in levels]
    table = feed(Moments(), stream).result()["neurons"]
    true = levels.numpy().std(0, ddof=1) / np.sqrt(len(levels))
    # from 16 groups the error of a standard error is about 18 %: within three of these
    assert (np.abs(table["mean_se"] / true - 1) < 0.55).all()
    naive = table["std"] / np.sqrt(400 * 50)
    assert (table["mean_se"] > 4 * naive).all()


def test_standard_errors_need_two_groups(stream):
    assert feed(Moments(), stream[:1]).result()["neurons"]["mean_se"].isna().all()


def test_jackknife_of_equal_groups_is_the_textbook_one():
    generator = torch.Generator().manual_seed(5)
    stream = [torch.randn(1, 10, 2, generator=generator) for _ in range(16)]
    table = feed(Moments(), stream).result()["neurons"]
    means = np.stack([rows([batch]).mean(0) for batch in stream])
    np.testing.assert_allclose(table["mean_se"], means.std(0, ddof=1) / 4, rtol=1e-9)


def test_jackknife_of_unequal_groups_is_right():
    """Independent rows in batches of very different sizes: the error must be that of so many independent rows."""
    generator = torch.Generator().manual_seed(8)
    sizes = [1 + (7 * n) % 60 for n in range(64)]
    stream = [torch.randn(1, size, 200, generator=generator) for size in sizes]
    table = feed(Moments(order=2), stream).result()["neurons"]
    # over 200 neurons the 18 % of a single one shrink to about 1.3 %
    assert np.sqrt((table["mean_se"] ** 2).mean()) * np.sqrt(sum(sizes)) == pytest.approx(1.0, abs=0.08)


def test_extremes_are_exact(stream):
    table = feed(Extremes(), stream).result()["neurons"]
    np.testing.assert_array_equal(table["min"], rows(stream).min(0))
    np.testing.assert_array_equal(table["max"], rows(stream).max(0))


@pytest.mark.parametrize("absolute", [False, True])
def test_active_fraction_is_exact(stream, absolute):
    table = feed(ActiveFraction(0.5, absolute=absolute), stream).result()["neurons"]
    x = np.abs(rows(stream)) if absolute else rows(stream)
    np.testing.assert_allclose(table["active"], (x > 0.5).mean(0), rtol=1e-15)


def test_padding_is_left_out():
    values = torch.full((2, 5, 3), 99.0)
    values[0, :2], values[1, :4] = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([3.0, -4.0, 0.0])
    mask = torch.tensor([[True, True, False, False, False], [True, True, True, True, False]])
    for reducer, column, expected in [
        (Moments(), "mean", [14 / 6, -20 / 6, 0.0]),
        (Extremes(), "max", [3.0, -2.0, 0.0]),
        (Extremes(), "min", [1.0, -4.0, 0.0]),
        (ActiveFraction(), "active", [1.0, 0.0, 0.0]),
    ]:
        reducer.update(activations(values, mask=mask))
        np.testing.assert_allclose(reducer.result()["neurons"][column], expected, rtol=1e-12)


def test_values_that_are_not_finite_are_left_out():
    values = torch.tensor([[[1.0, 5.0], [torch.nan, 6.0], [torch.inf, 7.0], [3.0, -torch.inf]]])
    for reducer, column, expected in [
        (Moments(), "mean", [2.0, 6.0]),
        (Moments(), "std", [np.sqrt(2.0), 1.0]),
        (Extremes(), "max", [3.0, 7.0]),
        (Extremes(), "min", [1.0, 5.0]),
        (ActiveFraction(2.0), "active", [0.5, 1.0]),
    ]:
        reducer.update(activations(values))
        np.testing.assert_allclose(reducer.result()["neurons"][column], expected, rtol=1e-12)


def test_a_neuron_without_a_finite_value_has_no_statistics():
    values = torch.full((1, 3, 1), torch.nan)
    for reducer in (Moments(), Extremes(), ActiveFraction()):
        reducer.update(activations(values))
        assert reducer.result()["neurons"].isna().all().all()


@pytest.mark.parametrize("per_token", [False, True])
def test_class_means_against_numpy(per_token):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 9, 4, generator=generator) + 50
    labels = torch.randint(-1, 3, (6, 9) if per_token else (6,), generator=generator)
    reducer = ClassMeans("colour", ["red", "green", "blue"])
    reducer.update(activations(x[:2], labels={"colour": labels[:2]}))
    reducer.update(activations(x[2:], labels={"colour": labels[2:]}))
    table = reducer.result()["class_means"].set_index(["neuron", "label"])
    each = labels.numpy() if per_token else np.repeat(labels.numpy()[:, None], 9, 1)
    for number, name in enumerate(["red", "green", "blue"]):
        own = x.double().numpy()[each == number]
        for neuron in range(4):
            row = table.loc[(neuron, name)]
            assert row["n"] == len(own)
            np.testing.assert_allclose(row["mean"], own[:, neuron].mean(), rtol=1e-12)
            np.testing.assert_allclose(row["mean_se"], scipy.stats.sem(own[:, neuron]), rtol=1e-9)


def test_bad_settings_are_refused():
    with pytest.raises(InvalidArgumentError, match="order must be 2, 3 or 4, not 5"):
        Moments(order=5)
    with pytest.raises(InvalidArgumentError, match="has no classes"):
        ClassMeans("upos", [])
    used = Moments()
    used.update(activations(mixed(torch.Generator(), [(2, 3)])[0]))
    with pytest.raises(InvalidArgumentError, match="already been updated"):
        used.fresh()


def test_a_first_value_that_is_not_finite_costs_no_precision():
    values = torch.randn(1, 400, 2, generator=torch.Generator().manual_seed(0)) + 1e4
    values[0, 0, 0] = torch.nan
    reducer = Moments()
    reducer.update(activations(values))
    x = values[0, 1:, 0].double().numpy()
    row = reducer.result()["neurons"].iloc[0]
    np.testing.assert_allclose(row["std"], x.std(ddof=1), rtol=1e-9)
    np.testing.assert_allclose(row["kurtosis"], scipy.stats.kurtosis(x), rtol=1e-9)


def test_an_example_that_is_all_padding_counts_for_nothing():
    values = torch.tensor([[[1.0], [2.0]], [[99.0], [99.0]]])
    mask = torch.tensor([[True, True], [False, False]])
    reducer = Extremes()
    reducer.update(activations(values, mask=mask))
    assert reducer.result()["neurons"]["max"][0] == 2.0


def test_labels_beyond_the_classes_and_batches_without_rows():
    reducer = ClassMeans("colour", ["red"])
    with pytest.raises(InvalidArgumentError, match="only 1 classes were named"):
        reducer.update(activations(torch.ones(2, 1, 3), labels={"colour": torch.tensor([0, 1])}))
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    for empty in (ClassMeans("colour", ["red"]), Moments(), ActiveFraction()):
        empty.update(activations(torch.ones(1, 2, 3), mask=nothing, labels={"colour": torch.tensor([0])}))
