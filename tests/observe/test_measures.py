"""Measures of activations: closed forms of the papers, independent references, and what scaling must not change."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.feature_selection import f_classif
from sklearn.metrics import (
    average_precision_score,
    matthews_corrcoef,
    mutual_info_score,
    precision_recall_curve,
    roc_auc_score,
)

from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.observe import measures as m
from neuronwise.observe.measures.table import markdown


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.fixture
def labelled():
    """Signed activations, some with ties, and uneven classes; units prefer different classes."""
    rng = np.random.default_rng(0)
    y = rng.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05])
    a = rng.normal(size=(300, 7)) + 1.5 * (y[:, None] == np.arange(7) % 4)
    a[:, 2] = np.maximum(a[:, 2], 0.0)  # a ReLU unit: many equal
    a[:, 5] = np.round(a[:, 5])
    return a, y


# The Monosemantic Scale


def test_phi_of_one_hot():
    values = m.phi(column(*[0.0] * 9, 1.0), floor=0.0)[:, 0]
    assert values[-1].item() == pytest.approx(8.1)
    assert values[:-1].tolist() == pytest.approx([0.1] * 9)
    assert values.mean().item() == pytest.approx(0.9)
    assert values.square().mean().item() == pytest.approx(6.57)
    assert m.kurtosis(column(*[0.0] * 9, 1.0)).item() == pytest.approx(6.57)


def test_phi_of_the_technical_report():
    mean, variance = torch.tensor([3.0, 0, -1, 1, -1]), torch.ones(5)
    values = m.phi(torch.tensor([[-1.0, 1, -1, 0, -2]]), mean, variance, floor=0.0)
    assert values[0].tolist() == [16, 1, 0, 1, 1]


def test_two_level_unit():
    p, n = 0.02, 10_000
    a = torch.zeros(n, 1, dtype=torch.float64)
    a[: int(p * n)] = 3.0
    own = (torch.tensor([3 * p]), torch.tensor([9 * p * (1 - p)]))
    values = m.phi(a, *own, floor=0.0)[:, 0]
    assert values[0].item() == pytest.approx(49, rel=1e-6)
    assert values[-1].item() == pytest.approx(0.0204, rel=1e-3)
    assert m.kurtosis(a, *own).item() == pytest.approx(48.02, rel=1e-5)


def test_mean_of_phi_and_samuelsons_bound_hold_for_any_unit():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(50, 20, generator=generator, dtype=torch.float64) ** 3
    values = m.phi(a, floor=0.0)
    torch.testing.assert_close(values.mean(0), torch.full((20,), 49 / 50, dtype=torch.float64))
    assert values.max() <= 49**2 / 50
    expected = scipy.stats.kurtosis(a.numpy(), fisher=False) * (49 / 50) ** 2
    np.testing.assert_allclose(m.kurtosis(a), expected)


def test_floor_is_a_share_of_the_mean_variance():
    a = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    torch.testing.assert_close(m.phi(a, floor=0.5)[0], torch.tensor([1 / 2.5, 0.0]).double())
    assert torch.isnan(m.kurtosis(a)).tolist() == [False, True]


def test_tail():
    a = torch.zeros(1000, 2)
    a[:, 0] = torch.linspace(-1, 1, 1000)
    a[7, 1] = 5.0
    values = m.phi(a)
    tail = m.phi_tail(a)
    torch.testing.assert_close(tail.peak, values.amax(0))
    torch.testing.assert_close(tail.top, values.sort(0).values[-10:].mean(0))
    assert tail.share.tolist() == [0.0, 0.001]
    torch.testing.assert_close(m.sample_peak(a), values.amax(1))


def test_held_out_statistics_are_used():
    a = torch.tensor([[4.0], [4.0]])
    assert m.phi_tail(a, [1.0], [1.0], floor=0.0).peak.item() == 9.0
    with pytest.raises(InvalidArgumentError, match="together"):
        m.phi(a, [1.0])
    with pytest.raises(InvalidArgumentError, match="one number for each"):
        m.phi(a, [1.0, 2.0], [1.0, 2.0])


def test_feature_and_false_killing_rate():
    a, y = column(2.0, 0.0, 0.0, 0.0), [0, 0, 1, 1]
    assert m.phi(a, floor=0.0)[:, 0].tolist() == [2.25, 0.25, 0.25, 0.25]
    assert m.feature_phi(a, y, floor=0.0)[:, 0].tolist() == [1.25, 0.25]
    label, value = m.monosemantic_feature(a, y, floor=0.0)
    assert label.item() == 0 and value.item() == 1.25
    assert m.false_killing_rate(a, y, k=1) == 0.0
    assert m.false_killing_rate(a, y, k=2) == 0.5  # three equal entries are all taken in
    assert m.false_killing_rate(a, y, share=0.25) == 0.0


def test_false_killing_rate_over_several_units(labelled, monkeypatch):
    a, y = labelled
    values = m.phi(a, floor=0.0).numpy()
    means = np.stack([values[y == label].mean(0) for label in range(4)])
    best = means.argmax(0)
    for k in (1, 17, 300):
        level = np.sort(values.ravel())[-k]
        picked = values >= level
        expected = (picked & (y[:, None] != best)).sum() / picked.sum()
        assert m.false_killing_rate(a, y, k=k) == pytest.approx(expected)
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[m.finite_rows.__module__], "_PIECE", 600)  # two units at a time
            assert m.false_killing_rate(a, y, k=k) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{}, {"k": 1, "share": 0.1}, {"k": 0}, {"k": 5}])
def test_false_killing_rate_refuses(wrong):
    with pytest.raises(InvalidArgumentError, match="k"):
        m.false_killing_rate(column(2.0, 0.0, 0.0, 0.0), [0, 0, 1, 1], **wrong)


# Sparsity


def test_sparsity_of_one_hot_and_of_a_constant():
    hot, flat = column(*[0.0] * 9, -2.0), column(*[-3.0] * 10)
    for measure in (m.lifetime_sparsity, m.hoyer):
        assert measure(hot).item() == pytest.approx(1.0)
        assert measure(flat).item() == pytest.approx(0.0, abs=1e-12)
        assert torch.isnan(measure(torch.zeros(5, 1))).all()
    assert m.gini(hot).item() == pytest.approx(0.9)
    assert m.gini(flat).item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(m.population_sparsity(hot.T), torch.ones(1, dtype=torch.float64))
    assert torch.isnan(m.population_sparsity(hot)).all()  # one unit: nothing to compare


def test_sparsity_by_hand():
    a = column(1.0, 2.0, 3.0)
    assert m.lifetime_sparsity(a).item() == pytest.approx((1 - 4 / (14 / 3)) / (1 - 1 / 3))
    assert m.hoyer(a).item() == pytest.approx((math.sqrt(3) - 6 / math.sqrt(14)) / (math.sqrt(3) - 1))
    pairs = sum(abs(x - y) for x in (1, 2, 3) for y in (1, 2, 3))
    assert m.gini(a).item() == pytest.approx(pairs / (2 * 3 * 6))


# Selectivity


@pytest.mark.parametrize(("means", "expected"), [((4, 1, 1), 0.6), ((1, 0, 0), 1.0), ((2, 2, 2), 0.0)])
def test_class_selectivity_of_given_means(means, expected):
    a = column(*[float(v) for mean in means for v in (mean, mean)])
    y = [0, 0, 1, 1, 2, 2]
    assert m.class_selectivity(a, y).item() == pytest.approx(expected, abs=1e-12)
    assert m.ccmas(a, y).item() == pytest.approx(expected, abs=1e-12)


def test_selectivity_and_ccmas_differ_where_classes_are_uneven():
    a, y = column(6.0, 2.0, 2.0, 2.0, 0.0), [0, 1, 1, 1, 2]
    assert m.class_selectivity(a, y).item() == pytest.approx((6 - 1) / (6 + 1))
    assert m.ccmas(a, y).item() == pytest.approx((6 - 1.5) / (6 + 1.5))


def test_signed_activations_are_treated_as_said():
    a, y = column(-1.0, -1.0, 3.0, 3.0), [0, 0, 1, 1]
    assert m.class_selectivity(a, y).item() == 1.0
    assert m.class_selectivity(a - 1, y, signed="shift").item() == 1.0
    assert m.class_selectivity(column(1.0, 1.0, 3.0, 3.0), y).item() == pytest.approx(0.5)
    with pytest.raises(InvalidArgumentError, match="rectify"):
        m.class_selectivity(a, y, signed="refuse")
    with pytest.raises(InvalidArgumentError, match="signed"):
        m.class_selectivity(a, y, signed="square")
    assert torch.isnan(m.class_selectivity(torch.zeros(4, 1), y)).all()


def test_top_precision_with_its_rates():
    a, y = column(9.0, 8.0, 7.0, 6.0, 1.0, 0.0, 0.0, 0.0), [0, 0, 1, 0, 0, 1, 1, 1]
    found = m.top_precision(a, y, top=4)
    assert found.precision.item() == 0.75 and found.label.item() == 0
    assert found.hit_rate.item() == 0.75 and found.false_alarm_rate.item() == 0.25
    # Among the six strongest are one of three zeros: whichever it is, it counts as a third of each.
    six = m.top_precision(a, y, top=6)
    assert six.precision.item() == pytest.approx(4 / 6)
    assert six.false_alarm_rate.item() == pytest.approx(2 / 4)
    assert m.top_precision(a, y).precision.item() == 0.5
    with pytest.raises(InvalidArgumentError, match="top"):
        m.top_precision(a, y, top=0)


# Detection, against scikit-learn


def test_detection_agrees_with_scikit_learn(labelled):
    a, y = labelled
    found = m.detection(a, y)
    assert found.labels.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(found.auc, m.auc(a, y))
    for label, unit in itertools.product(range(4), range(7)):
        truth, scores = y == label, a[:, unit]
        assert found.auc[label, unit].item() == pytest.approx(roc_auc_score(truth, scores))
        average = average_precision_score(truth, scores)
        assert found.average_precision[label, unit].item() == pytest.approx(average)
        precision, recall, _ = precision_recall_curve(truth, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        assert found.f1[label, unit].item() == pytest.approx(f1.max())
    for label, unit in itertools.product(range(4), (2, 5)):
        truth, scores = y == label, a[:, unit]
        best = max(matthews_corrcoef(truth, scores >= level) for level in np.unique(scores))
        assert found.mcc[label, unit].item() == pytest.approx(max(best, 0.0))
    best, label = found.best("f1")
    torch.testing.assert_close(best, found.f1.amax(0))
    assert label.tolist() == found.labels[found.f1.argmax(0)].tolist()


def test_f_statistic_agrees_with_scikit_learn(labelled):
    a, y = labelled
    found = m.f_statistic(a, y)
    for label in range(4):
        np.testing.assert_allclose(found[label], f_classif(a, y == label)[0])
    assert torch.isnan(m.f_statistic(torch.full((6, 1), 0.1), [0, 1] * 3)).all()


def test_mutual_information_agrees_with_scikit_learn(labelled):
    a, y = labelled
    found = m.mutual_information(a, y, bins=5)
    for unit in range(7):
        ranks = scipy.stats.rankdata(a[:, unit])
        binned = np.clip(((ranks - 0.5) * 5 / 300).astype(int), 0, 4)
        assert found[unit].item() == pytest.approx(mutual_info_score(y, binned))
    entropy = scipy.stats.entropy(np.bincount(y))
    assert m.mutual_information(y.astype(float)[:, None], y).item() == pytest.approx(entropy, rel=0.2)
    assert m.mutual_information(y[:, None], y, bins=299).item() == pytest.approx(entropy)
    with pytest.raises(InvalidArgumentError, match="bins"):
        m.mutual_information(a, y, bins=1)


def test_mutual_information_is_corrected_for_chance():
    rng = np.random.default_rng(3)
    a, y = rng.normal(size=(400, 200)), rng.integers(0, 10, 400)
    plain, fair = m.mutual_information(a, y), m.mutual_information(a, y, correct=True)
    assert plain.mean().item() == pytest.approx(15 * 9 / 800, rel=0.15)
    assert fair.mean().item() < 0.25 * plain.mean().item()


def test_sparse_probe_finds_the_unit(labelled):
    rng = np.random.default_rng(4)
    y = np.repeat([0, 1, 2], 60)
    a = rng.normal(size=(180, 6))
    a[:, 4] += 8.0 * (y == 1)
    a[:, 2] -= 8.0 * (y == 2)
    scores = m.sparse_probe(a, y)
    assert [score.label for score in scores] == [0, 1, 2]
    assert scores[1].neurons == (4,) and scores[1].f1 == 1.0 and scores[1].balanced_accuracy == 1.0
    assert scores[2].neurons == (2,) and scores[2].mcc == 1.0  # a detector by small values, too
    assert scores[0].balanced_accuracy < 0.95
    both = m.sparse_probe(a, y, k=2)
    assert set(both[0].neurons) == {2, 4} and both[0].balanced_accuracy == 1.0
    assert m.sparse_probe(a, y, seed=1) == m.sparse_probe(a, y, seed=1)
    with pytest.raises(InvalidArgumentError, match="k must be"):
        m.sparse_probe(a, y, k=7)
    with pytest.raises(InvalidArgumentError, match="smallest class has 1"):
        m.sparse_probe(a, np.where(np.arange(180) == 5, 9, y))


# MonoScore


def test_monoscore_of_given_activations():
    embeddings = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert m.monoscore(column(1.0, 1.0, 0.0), embeddings).item() == pytest.approx(1.0)
    assert m.monoscore(column(1.0, 0.0, 1.0), embeddings).item() == pytest.approx(0.0)
    assert torch.isnan(m.monoscore(column(2.0, 2.0, 2.0), embeddings)).all()
    assert torch.isnan(m.monoscore(column(0.0, 2.0, 0.0), embeddings)).all()


def test_linear_and_quadratic_monoscore_agree():
    rng = np.random.default_rng(5)
    a, e = rng.normal(size=(40, 6)), rng.normal(size=(40, 8))
    scaled = (a - a.min(0)) / (a.max(0) - a.min(0))
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    cosines = unit @ unit.T
    above = np.triu(np.ones((40, 40)), 1)
    for number, found in enumerate(m.monoscore(a, e)):
        pairs = np.outer(scaled[:, number], scaled[:, number]) * above
        assert found.item() == pytest.approx((pairs * cosines).sum() / pairs.sum(), rel=1e-6)


def test_monoscore_is_differentiable():
    generator = torch.Generator().manual_seed(6)
    scaled = torch.rand(9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    directions = torch.nn.functional.normalize(
        torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=1
    )
    assert torch.autograd.gradcheck(lambda a: m.linear_monoscore(a, directions), (scaled,))


def test_monoscore_refuses():
    with pytest.raises(InvalidArgumentError, match="3 rows"):
        m.monoscore(column(1.0, 1.0, 0.0), torch.ones(2, 2))
    with pytest.raises(InvalidArgumentError, match="no direction"):
        m.monoscore(column(1.0, 1.0, 0.0), torch.tensor([[1.0], [1.0], [0.0]]))


# FMS


def test_fms_of_given_accuracies():
    assert m.fms_score(1.0, 0.5, [1.0] * 5) == 1.0
    assert m.fms_score(0.8, 0.78, [0.8, 0.9, 1.0]) == pytest.approx(0.376)


def test_fms_of_a_perfect_unit_of_copies_and_of_noise():
    rng = np.random.default_rng(7)
    y = np.repeat([0, 1], 100)
    a = rng.normal(size=(200, 5))
    a[:, 3] = 9.0 * y + 0.1 * a[:, 3]
    clean = m.fms(a, y)
    assert [score.neuron for score in clean] == [3, 3]
    assert clean[0].accuracy == 1.0 and clean[0].score > 0.85
    a[:, 1] = a[:, 3]  # a copy: nothing is lost without the first
    assert m.fms(a, y)[0].score == pytest.approx(0.5)
    assert m.fms(rng.normal(size=(200, 5)), y)[0].accuracy < 0.7
    assert m.fms(np.ones((200, 2)), y)[0].accuracy == 0.5
    with pytest.raises(InvalidArgumentError, match="two"):
        m.fms(a[:, :1], y)


# Weights


def test_capacity_of_a_pentagon_and_of_an_antipodal_pair():
    angles = 2 * torch.pi * torch.arange(5) / 5
    pentagon = torch.stack([angles.cos(), angles.sin()], 1).double()
    found = m.capacity(pentagon)
    torch.testing.assert_close(found, torch.full((5,), 0.4, dtype=torch.float64), atol=1e-7, rtol=0)
    assert found.sum().item() == pytest.approx(2.0, abs=1e-6)
    pair = torch.tensor([[1.0, 0], [-1, 0], [0, 2]])
    assert m.capacity(pair).tolist() == [0.5, 0.5, 1.0]
    assert torch.isnan(m.capacity(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))).tolist() == [True, False]


def test_capacity_is_the_same_by_either_gram_matrix():
    generator = torch.Generator().manual_seed(8)
    wide = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    for w in (wide, wide.T):
        norms = w / w.norm(dim=1, keepdim=True)
        torch.testing.assert_close(m.capacity(w), w.square().sum(1) / (norms @ w.T).square().sum(1))


@pytest.mark.parametrize(("n", "expected"), [(3, 1 / 3), (4, 0.0), (5, -0.447), (6, -1.0), (12, -6.46)])
def test_weight_proxy_of_n_features_on_a_unit(n, expected):
    # The toy model's regular polygon: a feature is restored, |w|^2 + b = 1, and its neighbours are at the threshold,
    # |w|^2 cos + b = 0. The sheet's value is b, the proxy of weights brought to length 1.
    cosine = math.cos(2 * math.pi / n)
    length = math.sqrt(1 / (1 - cosine))
    bias = -(length**2) * cosine
    weights = torch.tensor([[length, 0.0]])
    assert m.weight_proxy(weights / length, torch.tensor([bias])).item() == pytest.approx(expected, abs=5e-3)
    assert m.weight_proxy(2 * weights, torch.tensor([3.0])).item() == pytest.approx(6 * length)
    with pytest.raises(InvalidArgumentError, match="one number for each"):
        m.weight_proxy(weights, torch.ones(2))


# Decorrelation


def test_decorrelation_against_all_pairs():
    rng = np.random.default_rng(9)
    for shape in ((12, 5), (5, 12)):
        a = rng.normal(size=shape) + 0.5
        unit = a / np.linalg.norm(a, axis=1, keepdims=True)
        cosines = (unit @ unit.T)[np.triu_indices(shape[0], 1)]
        assert m.decorrelation(a).item() == pytest.approx(1 - cosines.mean())
        correlations = np.corrcoef(a.T)[np.triu_indices(shape[1], 1)]
        expected = 1 - np.sqrt((correlations**2).mean())
        assert m.decorrelation(a, gram="feature").item() == pytest.approx(expected)
        dead = np.concatenate([a, np.full((shape[0], 1), 0.1)], 1)
        assert m.decorrelation(dead, gram="feature").item() == pytest.approx(expected)
    with pytest.raises(InvalidArgumentError, match="gram"):
        m.decorrelation(a, gram="both")


def test_sample_decorrelation_cannot_see_the_basis(labelled):
    a, _ = labelled
    turned = m.turned(a, m.random_directions(7))
    assert m.decorrelation(turned).item() == pytest.approx(m.decorrelation(a).item())
    assert m.decorrelation(turned, gram="feature").item() != pytest.approx(
        m.decorrelation(a, gram="feature").item(), abs=1e-3
    )


# Bases


def test_random_directions_are_orthonormal_and_seeded():
    q = m.random_directions(9, seed=3)
    torch.testing.assert_close(q.T @ q, torch.eye(9, dtype=torch.float64))
    assert torch.equal(q, m.random_directions(9, seed=3)) and not torch.equal(q, m.random_directions(9))
    few = m.random_directions(9, 4)
    torch.testing.assert_close(few.T @ few, torch.eye(4, dtype=torch.float64))
    with pytest.raises(InvalidArgumentError, match="count"):
        m.random_directions(9, 10)


def test_principal_directions_decorrelate():
    rng = np.random.default_rng(10)
    a = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    turned = m.turned(a, m.principal_directions(a))
    variances = turned.var(0)
    assert (variances[:-1] >= variances[1:]).all()
    assert m.decorrelation(turned, gram="feature").item() == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(InvalidArgumentError, match="count"):
        m.principal_directions(a, 7)


def test_turned_units_have_their_long_tail_up():
    rng = np.random.default_rng(11)
    a = -rng.exponential(size=(400, 5))
    turned = m.turned(a, torch.eye(5, dtype=torch.float64))
    assert (scipy.stats.skew(turned.numpy()) > 0).all()


def test_rotation_lowers_the_tail_of_sparse_independent_units():
    rng = np.random.default_rng(12)
    a = rng.normal(size=(2000, 40)) * (rng.random((2000, 40)) < 0.05)
    turned = m.turned(a, m.random_directions(40))
    assert m.kurtosis(turned).median() < 0.3 * m.kurtosis(a).median()


# Liveness


def test_liveness():
    generator = torch.Generator().manual_seed(13)
    a = torch.zeros(1000, 5)
    a[:, 0] = torch.randn(1000, generator=generator)
    a[:, 1] = 4.0  # rests at a high value
    a[:19, 2] = 5.0
    a[:21, 3] = 5.0
    a[:, 4] = a[:, 0] * 5e-3  # moves always, but 40000 times less in variance
    found = m.liveness(a)
    assert found.dead.tolist() == [False, True, False, False, False]
    assert found.near_dead.tolist() == [False, False, True, False, True]
    assert found.live.tolist() == [True, False, False, True, False]
    assert found.moves[2:4].tolist() == pytest.approx([0.019, 0.021])
    for part, scaled in zip(found, m.liveness(a * 1e4), strict=True):
        assert part.dtype == torch.float64 or torch.equal(part, scaled)
    with pytest.raises(InvalidArgumentError, match="moves"):
        m.liveness(a, moves=2)


# What no measure may depend on


SCALE_FREE = {
    "phi": lambda a, y, e: m.phi_tail(a, floor=0.0).peak,
    "kurtosis": lambda a, y, e: m.kurtosis(a),
    "selectivity": lambda a, y, e: m.class_selectivity(a, y),
    "auc": lambda a, y, e: m.auc(a, y),
    "monoscore": lambda a, y, e: m.monoscore(a, e),
    "hoyer": lambda a, y, e: m.hoyer(a),
    "gini": lambda a, y, e: m.gini(a),
    "lifetime": lambda a, y, e: m.lifetime_sparsity(a),
    "information": lambda a, y, e: m.mutual_information(a, y),
    "feature": lambda a, y, e: m.decorrelation(a, gram="feature"),
}


@pytest.mark.parametrize("name", SCALE_FREE)
def test_scaling_a_single_unit_changes_nothing(labelled, name):
    a, y = labelled
    e = np.random.default_rng(14).normal(size=(300, 4))
    scales = np.array([0.01, 3.0, 1.0, 100.0, 0.5, 2.0, 7.0])
    torch.testing.assert_close(SCALE_FREE[name](a * scales, y, e), SCALE_FREE[name](a, y, e))


def test_log_of_the_squared_distance_is_not_scale_free():
    # The published penalty (L2E, Eq. 5) falls by log c^2 when a unit is scaled down by c: what the scores above resist.
    a = column(1.0, 2.0, 4.0, 8.0)
    value = (a - a.mean()).square().log().mean()
    scaled = (0.1 * a - 0.1 * a.mean()).square().log().mean()
    assert (scaled - value).item() == pytest.approx(math.log(0.01))


def sample(a, y):
    generator = torch.Generator().manual_seed(15)
    return m.Sample(
        torch.as_tensor(a),
        labels=torch.as_tensor(y),
        embeddings=torch.randn(len(a), 6, generator=generator),
        weights=torch.randn(a.shape[1], 5, generator=generator),
        biases=torch.randn(a.shape[1], generator=generator),
    )


@pytest.mark.parametrize("name", m.MEASURES)
def test_every_measure_of_the_table(labelled, name):
    a, y = labelled
    measure, known = m.MEASURES[name], sample(a, y)
    values = measure.function(known)
    assert values.dtype == torch.float64
    assert values.shape == ((a.shape[1],) if measure.per == "neuron" else ())
    assert torch.isfinite(values).all()
    assert measure.sees and measure.blind_to and not measure.missing(known)
    bare = m.Sample(torch.as_tensor(a))
    assert measure.missing(bare) == list(measure.needs)
    if measure.scale_free and measure.of_activations:
        torch.testing.assert_close(measure.function(sample(a * 1000.0, y)), values, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", m.MEASURES)
def test_units_in_pieces_give_the_same(labelled, name, monkeypatch):
    a, y = labelled
    whole = m.MEASURES[name].function(sample(a, y))
    monkeypatch.setattr(sys.modules[m.finite_rows.__module__], "_PIECE", 650)
    torch.testing.assert_close(m.MEASURES[name].function(sample(a, y)), whole)


def test_choosing_measures():
    assert [measure.name for measure in m.chosen_measures(["hoyer", "auc", "hoyer"])] == ["hoyer", "auc"]
    assert m.chosen_measures("gini")[0].name == "gini"
    assert len(m.chosen_measures(None)) == len(m.MEASURES)
    with pytest.raises(InvalidArgumentError, match="kurtosis"):
        m.chosen_measures(["kurtos"])


def test_the_reference_page_is_made_of_the_table():
    page = Path(__file__).parents[2] / "docs" / "reference" / "measures.md"
    assert markdown() in page.read_text(encoding="utf-8"), "run python docs/_measures.py"


# Bad input


def test_samples_without_a_label_are_left_out(labelled):
    a, y = labelled
    longer = np.concatenate([a, np.full((5, 7), 99.0)])
    labels = np.concatenate([y, np.full(5, -1)])
    torch.testing.assert_close(m.auc(longer, labels), m.auc(a, y))
    torch.testing.assert_close(m.class_selectivity(longer, labels), m.class_selectivity(a, y))


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1], [0.0, 1.0, 1.0], [-1, -1, 2]])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(InvalidArgumentError, match=r"labels|classes|class"):
        m.auc(column(1.0, 2.0, 3.0), torch.tensor(labels))


def test_activations_that_cannot_be_measured():
    with pytest.raises(InvalidArgumentError, match="matrix"):
        m.hoyer(torch.ones(2, 3, 4))
    with pytest.raises(DataError, match="nothing"):
        m.hoyer(torch.ones(0, 3))
    spoiled = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [3.0, torch.inf]])
    with pytest.raises(DataError, match="finite_rows"):
        m.hoyer(spoiled)
    assert m.finite_rows(spoiled).tolist() == [True, False, False]
