"""Closed forms: cases whose scores are known by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.attribute import (
    Ablation,
    Answers,
    Conductance,
    DeepLift,
    IntegratedGradients,
    InternalInfluence,
    LogProbabilityIncrease,
    Probability,
    attribute,
    group_selectivity,
)
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import intervene
from neuronwise.sites import NeuronSet, Site, Sites, WeightSlice
from tests.attribute.models import LN3, LOGISTIC, Logistic, memory

HALF = torch.tensor([[1.0, 0.5]], dtype=torch.float64)


def of(model, x, target, sites, method, **options):
    found = attribute(model, x, target, sites=sites, method=method, **options)
    return [scores[0, 0] for scores in found.scores.values()], found


def logistic(method, **options):
    (scores,), found = of(
        Logistic().double(), HALF, lambda output, examples: output, LOGISTIC, method, **options
    )
    return scores, found


class TestTwoNeuronLogistic:
    def test_integrated_gradients(self):
        scores, found = logistic(IntegratedGradients(tolerance=1e-10))
        assert scores == pytest.approx([0.438906, 0.109727], abs=1e-6)
        assert found.value[0] == pytest.approx(0.817574, abs=1e-6)
        assert found.tables["completeness"]["reference"][0] == pytest.approx(0.268941, abs=1e-6)
        assert scores.sum() == pytest.approx(0.548633, abs=1e-6)
        assert found.converged and abs(found.gap) < 1e-10

    def test_ablation_and_gradient(self):
        assert logistic("ablation")[0] == pytest.approx([0.440034, 0.086516], abs=1e-6)
        assert logistic("gradient_x_activation")[0] == pytest.approx([0.298293, 0.074573], abs=1e-6)
        assert logistic("activation")[0] == pytest.approx([1.0, 0.5])

    @pytest.mark.parametrize(
        ("rule", "nodes", "first"),
        [
            ("left", 20, 0.441086),
            ("right", 20, 0.436340),
            ("eleuther", 20, 0.434045),
            ("midpoint", 20, 0.439003),
            ("trapezoid", 20, 0.438692),
            ("gauss_legendre", 3, 0.439058),
            ("gauss_legendre", 5, 0.438907),
            ("gauss_legendre", 8, 0.438906),
        ],
    )
    def test_rules(self, rule, nodes, first):
        scores, _ = logistic(IntegratedGradients(rule=rule, nodes=nodes))
        assert scores[0] == pytest.approx(first, abs=6e-7)

    def test_eight_nodes_leave_an_error_of_nine_in_a_trillion(self):
        _, found = logistic(IntegratedGradients(nodes=8))
        assert abs(found.gap) == pytest.approx(9e-12, rel=0.1)

    def test_the_reference_is_where_the_path_begins(self):
        given = {LOGISTIC: np.array([1.0, 0.0])}
        scores, found = logistic(IntegratedGradients(tolerance=1e-10), reference=given)
        start = 1 / (1 + np.exp(-1))
        assert scores[0] == 0 and scores[1] == pytest.approx(found.value[0] - start, abs=1e-10)
        assert logistic("ablation", reference=given)[0] == pytest.approx([0, found.value[0] - start])


def answer(token):
    return Probability(Answers(torch.tensor([token]), torch.tensor([0])))


class TestPlantedMemory:
    @pytest.mark.parametrize(
        ("method", "score"),
        [
            (IntegratedGradients(tolerance=1e-9), 0.842826),
            (IntegratedGradients(joint=True, tolerance=1e-9), 0.842826),
            (Ablation(), 0.842826),
            ("gradient_x_activation", 0.269527),
        ],
    )
    def test_exactly_one_neuron_has_a_score(self, method, score):
        model = memory()
        (scores,), _ = of(model, model.query(1, 2), answer(6), model.sites(), method)
        assert np.flatnonzero(scores).tolist() == [1 * 4 + 2]
        assert scores[6] == pytest.approx(score, abs=1e-6)

    @pytest.mark.parametrize(
        ("factor", "after", "change"), [(0.0, 0.100000, -0.893936), (2.0, 0.999592, 0.060208)]
    )
    def test_suppressed_and_doubled(self, factor, after, change):
        model = memory()
        neuron = NeuronSet.of({model.sites()[0]: [6]})
        with torch.no_grad():
            before = model(model.query(1, 2))[0, 0].softmax(0)[6]
            with intervene(model, neuron, "scale", factor):
                now = model(model.query(1, 2))[0, 0].softmax(0)[6]
        assert float(now) == pytest.approx(after, abs=1e-6)
        assert float(now / before - 1) == pytest.approx(change, abs=1e-6)

    def test_copies_cover_for_each_other_and_only_the_joint_path_sees_both(self):
        model = memory(copies=2)
        x, sites = model.query(1, 2), model.sites()
        for method in (IntegratedGradients(tolerance=1e-9), Ablation()):
            scores, found = of(model, x, answer(6), sites, method)
            assert found.value[0] == pytest.approx(0.999592, abs=1e-6)
            assert [part[6] for part in scores] == pytest.approx([0.056766] * 2, abs=1e-6)
        scores, found = of(model, x, answer(6), sites, IntegratedGradients(joint=True, tolerance=1e-9))
        assert [part[6] for part in scores] == pytest.approx([0.449796] * 2, abs=1e-6)
        assert sum(part.sum() for part in scores) == pytest.approx(0.899592, abs=1e-6)
        for off, left in ((sites[:1], 0.942826), (sites, 0.1)):
            with torch.no_grad(), intervene(model, off, "zero"):
                assert float(model(x)[0, 0].softmax(0)[6]) == pytest.approx(left, abs=1e-6)


class Adder(nn.Module):
    """A block that adds v = (ln 3, 0) to a stream of zeros, which is the logits."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Identity(), nn.Linear(1, 2, bias=False))])
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.blocks[0][1].weight.copy_(torch.tensor([[LN3], [0.0]]))
            self.head.weight.copy_(torch.eye(2))

    def get_output_embeddings(self):
        return self.head

    def forward(self, x):
        for block in self.blocks:
            stream = block(x)
        return self.head(stream)


def test_log_probability_increase_of_one_value():
    site = Site(
        "blocks.0.1", "input", width=1, layer=0, stack="blocks",
        writes=WeightSlice("blocks.0.1.weight", 1, 0, 1, "out"),
    )  # fmt: skip
    x = torch.ones(1, 1, 1, dtype=torch.float64)
    (scores,), _ = of(Adder().double(), x, answer(0), Sites([site]), LogProbabilityIncrease(final_norm=""))
    assert scores == pytest.approx([0.405465], abs=1e-6)


class TestConductance:
    class Relu(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)
            with torch.no_grad():
                self.first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
                self.first.bias.copy_(torch.tensor([-1.0, 2.0]))
                self.last.weight.copy_(torch.tensor([[2.0, 3.0]]))

        def forward(self, x):
            return self.last(self.act(self.first(x)))

    site = Site("last", "input", width=2)

    def of(self, method, **options):
        x = torch.tensor([[3.0]], dtype=torch.float64)
        return of(self.Relu().double(), x, lambda out, examples: out[:, 0], self.site, method, **options)

    @pytest.mark.parametrize("steps", [1, 7, 32])
    def test_by_hand(self, steps):
        (scores,), found = self.of(Conductance(steps=steps))
        assert scores.tolist() == pytest.approx([4.0, -6.0], abs=1e-12)
        completeness = found.tables["completeness"]
        assert completeness["reference"].tolist() == [6.0] and abs(found.gap) < 1e-12
        assert completeness["nodes"].tolist() == [steps + 1]

    def test_the_start_moves_the_path(self):
        (scores,), _ = self.of(Conductance(start=2.0))
        assert scores.tolist() == pytest.approx([2.0, 0.0], abs=1e-12)

    def test_in_pieces_it_is_the_same(self):
        (scores,), _ = self.of(Conductance(), memory=1)
        assert scores.tolist() == pytest.approx([4.0, -6.0], abs=1e-12)

    def test_influence_is_the_mean_gradient(self):
        assert self.of(InternalInfluence())[0][0].tolist() == pytest.approx([2.0, 3.0])

    @pytest.mark.parametrize("method", ["conductance", "internal_influence"])
    def test_they_take_a_start_and_no_reference(self, method):
        with pytest.raises(InvalidArgumentError, match="start="):
            self.of(method, reference={self.site: np.zeros(2)})


def test_deeplift_is_exact_between_elementwise_modules():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 5),
        nn.Tanh(),
        nn.Linear(5, 4),
        nn.GELU(),
        nn.Linear(4, 4),
        nn.ReLU(inplace=True),
        nn.Linear(4, 1),
    ).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    sites = Sites([Site("2", "input", width=5), Site("4", "input", width=4)])
    found = attribute(model, x, lambda out, examples: out[:, 0], sites=sites, method=DeepLift())
    assert found.gap < 1e-13 and found.converged
    with torch.no_grad(), intervene(model, sites[0], "zero"):
        zero = model(x)[:, 0]
    plain = attribute(model, x, lambda out, examples: out[:, 0], sites=sites[:1], method="deeplift")
    total = plain.scores[sites[0]].sum((1, 2))
    assert total == pytest.approx((model(x)[:, 0] - zero).detach().numpy(), abs=1e-13)


def test_deeplift_of_one_rectifier_by_hand():
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0]])), model[0].bias.fill_(-1.0)
        model[2].weight.fill_(2.0), model[2].bias.zero_()
    # relu(x1 + x2 - 1) at (3, 1) is 3, at 0 it is 0, on a way of 4: slope 3/4, times 2.
    site = Site("0", "input", width=2)
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    (scores,), _ = of(model, x, lambda out, examples: out[:, 0], site, "deeplift")
    assert scores.tolist() == pytest.approx([4.5, 1.5])


def test_selectivity_of_fractions_by_hand():
    two = Site("two", "input", width=4)
    found = group_selectivity(
        {"a": {two: [0.9, 0.5, 0.6, 0.0]}, "b": {two: [0.1, 0.5, 0.0, 0.0]}}, bar=0.5, keep=0.5
    )
    assert found.entropy[two][:3] == pytest.approx([0.325083, 0.693147, 0.0], abs=1e-6)
    assert np.isnan(found.entropy[two][3])
    three = Site("three", "input", width=1)
    parts = {name: {three: [value]} for name, value in (("x", 0.6), ("y", 0.2), ("z", 0.2))}
    assert group_selectivity(parts, bar=0.0).entropy[three] == pytest.approx([0.950271], abs=1e-6)
