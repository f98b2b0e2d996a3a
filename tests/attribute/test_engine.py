"""The engine: the growing batch, the shared prefix and the pieces give what a plain loop gives, in any model."""

import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.attribute import (
    Ablation,
    Answers,
    Group,
    IntegratedGradients,
    LogitDifference,
    LogProbability,
    NeuronActivation,
    Probability,
    attribute,
    quadrature,
)
from neuronwise.errors import HookError, InvalidArgumentError
from neuronwise.hooks import call_model
from neuronwise.sites import Site, Sites
from tests.attribute.models import FAMILIES, Blocks, case, solved

EXACT = IntegratedGradients(tolerance=1e-11)


def by_hand(model, inputs, value_of, site, positions, reference=None, nodes=7):
    """Integrated gradients of one site and one example: one forward pass for each node, with a hook of its own."""
    module = model.get_submodule(site.path)
    count, kept = {"calls": 0}, {}
    only = site.call

    def here():
        count["calls"] += 1
        return only is None or count["calls"] - 1 == only

    def read(_, args):
        if here():
            kept["w"] = args[0][0, positions].detach().clone()

    handle = module.register_forward_pre_hook(read)
    with torch.no_grad():
        call_model(model, inputs)
    handle.remove()
    w = kept["w"]
    r = torch.zeros_like(w) if reference is None else reference
    points, weights = quadrature("gauss_legendre", nodes)
    total = torch.zeros_like(w)
    for point, weight in zip(points, weights, strict=True):
        leaf = (r + point * (w - r)).requires_grad_()
        count["calls"] = 0

        def put(_, args, leaf=leaf):
            if not here():
                return None
            changed = args[0].clone()
            changed[0, positions] = leaf
            return (changed,)

        handle = module.register_forward_pre_hook(put)
        value = value_of(call_model(model, inputs))
        handle.remove()
        (slope,) = torch.autograd.grad(value, leaf)
        total += weight * slope
    return (w - r) * total


def alone(found, example, length=None):
    """One example of a batch, without its padding."""
    one = {name: value[example : example + 1] for name, value in found.inputs.items()}
    mask = one.pop("attention_mask", None)
    keep = int(mask.sum()) if mask is not None else one["input_ids"].shape[1]
    one["input_ids"] = one["input_ids"][:, :keep]
    return one


def answer_log_p(found, example):
    token, at = int(found.answers.answers[example, 0]), int(found.answers.positions[example, 0])

    def value(output):
        logits = output if isinstance(output, torch.Tensor) else output.logits
        return logits[0, at].log_softmax(-1)[token]

    return value


def targets_position(found, site, example):
    if found.name == "t5" and site.path.startswith("encoder"):
        return list(range(int(found.inputs["attention_mask"][example].sum())))
    return [int(found.answers.positions[example, 0])]


@pytest.mark.parametrize("form", ["auto", "growing", "wide"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_batch_equals_a_plain_loop_over_layers_nodes_and_single_prompts(name, form):
    found = case(name)
    scores = attribute(
        found.model, found.inputs, LogProbability(found.answers), sites=found.sites,
        method=IntegratedGradients(nodes=7), form=form,
    ).scores  # fmt: skip
    for site in found.sites:
        for example in range(3):
            where = targets_position(found, site, example)
            plain = (
                by_hand(found.model, alone(found, example), answer_log_p(found, example), site, where)
                .detach()
                .numpy()
            )
            mine = scores[site][example]
            scale = max(np.abs(plain).max(), 1e-3)
            assert np.abs(mine[: len(where)] - plain).max() <= 1e-12 * scale + 1e-15
            assert not mine[len(where) :].any()


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_add_up_with_automatic_nodes(name, joint):
    found = case(name)
    method = IntegratedGradients(joint=joint, tolerance=1e-11)
    result = attribute(
        found.model, found.inputs, Probability(found.answers), sites=found.sites, method=method
    )
    assert result.gap < 1e-10
    table = result.tables["completeness"]
    if joint:
        assert table["path"].tolist() == ["all sites"] * 3
        sums = np.sum([values.sum((1, 2)) for values in result.scores.values()], axis=0)
        assert sums == pytest.approx(result.value - table["reference"], abs=1e-10)
    else:
        for site in found.sites:
            rows = table[table["path"] == site.name]
            change = result.value - rows["reference"].to_numpy()
            assert result.scores[site].sum((1, 2)) == pytest.approx(change, abs=1e-10)
    assert result.converged and table["nodes"].min() >= 3


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_left_padded_prompts_equal_single_ones(name):
    found = case(name)
    lengths = found.inputs["attention_mask"].sum(1)
    rows = zip(found.inputs["input_ids"], lengths, strict=True)
    moved = {
        "input_ids": torch.stack([row.roll(int(9 - n)) for row, n in rows]),
        "attention_mask": found.inputs["attention_mask"].flip(1),
    }
    moved["position_ids"] = (moved["attention_mask"].cumsum(1) - 1).clamp(min=0)
    answers = Answers(found.answers.answers[:, 0], torch.full((3,), 8))
    for form in ("auto", "growing", "wide"):
        left = attribute(found.model, moved, LogProbability(answers), method=EXACT, form=form)
        right = attribute(found.model, found.inputs, LogProbability(found.answers), method=EXACT)
        for site, scores in left.scores.items():
            assert np.abs(scores - right.scores[site]).max() < 1e-11


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_give_the_same_and_respect_the_memory(name):
    found = case(name)
    target = Probability(found.answers)
    whole = attribute(
        found.model, found.inputs, target, sites=found.sites, method=IntegratedGradients(nodes=4)
    )
    pieces = attribute(
        found.model, found.inputs, target, sites=found.sites, method=IntegratedGradients(nodes=4), memory=1
    )
    for site in found.sites:
        assert np.abs(whole.scores[site] - pieces.scores[site]).max() < 1e-14
    problem = solved(found.model, found.inputs, target, found.sites)
    budget = int(13 * problem._clean.row_bytes)
    small = solved(found.model, found.inputs, target, found.sites, memory=budget, form="growing")
    IntegratedGradients(nodes=8).scores(small, {s: torch.zeros_like(w) for s, w in small.activations.items()})
    # A backward pass works with about as much again as is kept for it.
    assert 2 * small.cost.largest <= budget / small._clean.row_bytes
    assert small.cost.largest > 3


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_several_positions_equal_the_plain_loop(name):
    found = case(name)
    asked = torch.tensor([[0, 3], [2, -1], [1, 2]])
    if name == "t5":
        found = type(found)(
            name, found.model, found.inputs, found.answers,
            Sites([site for site in found.sites if site.path.startswith("decoder")]),
        )  # fmt: skip
    result = attribute(
        found.model, found.inputs, LogProbability(found.answers), sites=found.sites,
        method=IntegratedGradients(nodes=7), positions=asked,
    )  # fmt: skip
    site = found.sites[1]
    for example in range(3):
        where = [at for at in asked[example].tolist() if at >= 0]
        plain = by_hand(found.model, alone(found, example), answer_log_p(found, example), site, where)
        assert np.abs(result.scores[site][example][: len(where)] - plain.detach().numpy()).max() < 1e-12
    assert not result.scores[site][1, 1].any()


def test_all_positions_are_those_that_are_real():
    found = case("gpt2")
    result = attribute(
        found.model, found.inputs, LogProbability(found.answers), positions="all", method=EXACT
    )
    for site in result.sites:
        assert (result.positions[site] >= 0).sum(1).tolist() == [9, 7, 8]
        assert not result.scores[site][1, 7:].any()
    given = attribute(found.model, found.inputs, LogProbability(found.answers), positions=-1, method=EXACT)
    assert [int(at) for at in given.positions[given.sites[0]][:, 0]] == [8, 6, 7]


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_an_answer_of_several_tokens_is_the_sum_of_their_log_probabilities(name):
    found = case(name)
    ends = found.answers.positions[:, 0]
    tokens = torch.tensor([[4, 7], [17, -1], [9, 2]])
    places = torch.stack([ends - 1, ends], 1)
    places[1, 1] = -1
    answers = Answers(tokens, places)
    result = attribute(found.model, found.inputs, LogProbability(answers), sites=found.sites, method=EXACT)
    with torch.no_grad():
        logs = found.model(**found.inputs).logits.log_softmax(-1)
    expected = [
        sum(float(logs[e, p, t]) for p, t in zip(places[e], tokens[e], strict=True) if t >= 0)
        for e in range(3)
    ]
    assert result.value == pytest.approx(expected, abs=1e-12)
    assert result.gap < 1e-10
    prob = attribute(found.model, found.inputs, Probability(answers), sites=found.sites, method="activation")
    assert prob.value == pytest.approx(np.exp(expected), abs=1e-12)
    site = found.sites[-1]

    def value(output):
        return (
            output.logits[0, int(places[0, 0])].log_softmax(-1)[4]
            + output.logits[0, int(places[0, 1])].log_softmax(-1)[7]
        )

    plain = by_hand(found.model, alone(found, 0), value, site, places[0].tolist(), nodes=32)
    assert np.abs(result.scores[site][0] - plain.detach().numpy()).max() < 1e-9


@pytest.mark.parametrize("form", ["auto", "growing", "wide"])
@pytest.mark.parametrize("name", ["gpt2", "bert", "blocks", "albert"])
def test_the_neurons_of_lower_layers_for_one_further_up(name, form):
    found = case(name)
    above = found.sites[2]
    place = torch.tensor([3, 5, 2])
    target = NeuronActivation(above, 5, place, sum_of=(1,))
    lower = Sites(list(found.sites)[:2])
    result = attribute(
        found.model, found.inputs, target, sites=lower, method=IntegratedGradients(nodes=7),
        positions=place.unsqueeze(1), form=form,
    )  # fmt: skip

    for site in lower:
        for example in range(3):
            plain = _taps_by_hand(found, site, example, place, above)
            assert np.abs(result.scores[site][example] - plain).max() < 1e-12


def _taps_by_hand(found, site, example, place, above):
    """The same by hand for one example; the target is read by a hook of its own in the pass with the leaf."""
    seen = []
    handle = found.model.get_submodule(above.path).register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )

    def value(output):
        runs = len(seen) // max(1, _calls(found, above))
        mine = seen[(runs - 1) * _calls(found, above) + (above.call or 0)]
        return mine[0, int(place[example]), [5, 1]].sum()

    plain = by_hand(found.model, alone(found, example), value, site, [int(place[example])])
    handle.remove()
    return plain.detach().numpy()


def _calls(found, site):
    return sum(other.path == site.path for other in found.sites)


def test_a_difference_of_logits():
    found = case("llama")
    result = attribute(found.model, found.inputs, LogitDifference(found.answers, 3), method=EXACT)
    with torch.no_grad():
        logits = found.model(**found.inputs).logits
    for example in range(3):
        at = int(found.answers.positions[example, 0])
        expected = logits[example, at, int(found.answers.answers[example, 0])] - logits[example, at, 3]
        assert result.value[example] == pytest.approx(float(expected), abs=1e-12)
    assert result.gap < 1e-9


def test_a_function_of_the_users_own_knows_its_examples():
    found = case("bert")
    wanted = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    seen = []

    def target(output, examples):
        seen.append(examples)
        return output.logits[:, 3, 5] * wanted[examples]

    result = attribute(found.model, found.inputs, target, method=EXACT, positions=[3])
    with torch.no_grad():
        expected = found.model(**found.inputs).logits[:, 3, 5] * wanted
    assert result.value == pytest.approx(expected.numpy(), abs=1e-12)
    assert result.gap < 1e-9 and any(len(examples) > 3 for examples in seen)


def test_a_plain_network_and_channels_of_a_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GELU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(12, 2)
    ).double()
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    site = Site("2", "input", width=4, axis=1, kind="conv")
    result = attribute(net, x, lambda out, examples: out[:, 1].tanh(), sites=site, method=EXACT)
    assert result.scores[site].shape == (3, 9, 4) and result.gap < 1e-10
    with torch.no_grad():
        w = net[1](net[0](x))
    leaf = torch.zeros_like(w)
    total = torch.zeros_like(w)
    points, weights = quadrature("gauss_legendre", 24)
    for point, weight in zip(points, weights, strict=True):
        leaf = (point * w).requires_grad_()
        value = net[4](net[3](net[2](leaf)))[:, 1].tanh().sum()
        total += weight * torch.autograd.grad(value, leaf)[0]
    expected = (w * total).flatten(2).transpose(1, 2)
    assert np.abs(result.scores[site] - expected.numpy()).max() < 1e-11


@pytest.mark.parametrize("name", FAMILIES)
def test_ablation_is_suppression_of_one_neuron_at_a_time(name):
    found = case(name)
    site = found.sites[1]
    result = attribute(
        found.model,
        found.inputs,
        Probability(found.answers),
        sites=Sites([site]),
        method=Ablation(),
        memory=20_000,
    )
    module = found.model.get_submodule(site.path)
    for example, neuron in ((0, 3), (1, 12), (2, 0)):
        where = targets_position(found, site, example)[0]
        values = []
        for off in (False, True):
            calls = iter(range(99))

            def put(_, args, off=off, calls=calls, where=where, neuron=neuron):
                changed = args[0].clone()
                if off and (site.call is None or next(calls) == site.call):
                    changed[0, where, neuron] = 0
                return (changed,)

            handle = module.register_forward_pre_hook(put)
            with torch.no_grad():
                values.append(
                    answer_log_p(found, example)(call_model(found.model, alone(found, example))).exp()
                )
            handle.remove()
        column = 0 if not (name == "t5" and site.path.startswith("encoder")) else where
        assert result.scores[site][example, column, neuron] == pytest.approx(
            float(values[0] - values[1]), abs=1e-13
        )


def test_suppression_is_a_zeroed_value_slot_at_that_position():
    found = case("gpt2")
    site = found.sites[-1]  # in the last layer only the last position's neurons reach the answer
    result = attribute(
        found.model, found.inputs, LogProbability(found.answers), sites=Sites([site]), method="ablation"
    )
    before = found.model(**found.inputs).logits.log_softmax(-1)
    weight = found.model.get_parameter(site.writes.parameter)
    with torch.no_grad():
        kept = weight.clone()
        site.value_vectors(found.model)[4] = 0
        after = found.model(**found.inputs).logits.log_softmax(-1)
        weight.copy_(kept)
    for example in range(3):
        at, token = int(found.answers.positions[example, 0]), int(found.answers.answers[example, 0])
        lost = float((before - after)[example, at, token].detach())
        assert result.scores[site][example, 0, 4] == pytest.approx(lost, abs=1e-12)


def test_sites_may_come_in_any_order_and_side_by_side():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
            self.act = nn.GELU()
            self.c, self.d = nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, x):
            return (self.c(self.act(self.a(x))) * self.d(self.act(self.b(x))))[:, 0]

    torch.manual_seed(0)
    model, x = Two().double(), torch.randn(5, 3, dtype=torch.float64)
    sites = [Site("c", "input", width=4), Site("d", "input", width=4)]
    one = attribute(model, x, lambda out, examples: out, sites=Sites(sites), method="gradient_x_activation")
    two = attribute(
        model, x, lambda out, examples: out, sites=Sites(sites[::-1]), method="gradient_x_activation"
    )
    for site in sites:
        assert np.array_equal(one.scores[site], two.scores[site]) and one.scores[site].any()
    found = case("blocks")
    back = attribute(
        found.model,
        found.inputs,
        LogProbability(found.answers),
        sites=Sites(list(found.sites)[::-1]),
        method="gradient_x_activation",
    )
    front = attribute(
        found.model,
        found.inputs,
        LogProbability(found.answers),
        sites=found.sites,
        method="gradient_x_activation",
    )
    for site in found.sites:
        assert np.abs(front.scores[site] - back.scores[site]).max() < 1e-15


def test_activations_that_are_overwritten_in_place_are_scored():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1)).double()
    plain = nn.Sequential(model[0], nn.ReLU(), model[2])
    x, site = torch.randn(5, 3, dtype=torch.float64), Site("0", "output", width=4)
    for method in ("gradient_x_activation", "integrated_gradients", "conductance", "ablation"):
        scores = [
            attribute(net, x, lambda out, examples: out[:, 0], sites=site, method=method).scores[site]
            for net in (model, plain)
        ]
        assert np.array_equal(*scores) and scores[0].any()


class Mixer(Blocks):
    """A model whose rows know of each other: it takes off the mean over the batch."""

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x - x.mean(0, keepdim=True))
        return self.head(self.norm(x))


def test_rows_that_do_not_stay_apart_are_found_out():
    found = case("blocks")
    torch.manual_seed(0)
    model = Mixer().double()
    with pytest.raises(HookError, match="do not stay apart"):
        attribute(model, found.inputs, LogProbability(found.answers), sites=found.sites)


def test_rows_of_one_group_come_back_in_their_order_whatever_the_pieces():
    found = case("gpt2")
    site = found.sites[0]
    examples = torch.tensor([2, 0, 1, 1, 0, 2, 2])
    values = {}
    for memory in (1, 1 << 30):
        for form in ("growing", "wide", "prefix"):
            problem = solved(
                found.model,
                found.inputs,
                LogProbability(found.answers),
                Sites([site]),
                memory=memory,
                form=form,
            )
            given = problem.activations[site][examples] * torch.linspace(
                0, 1, 7, dtype=torch.float64
            ).reshape(7, 1, 1)
            (result,) = problem.evaluate([Group(examples, {site: given})])
            values[memory, form] = torch.cat([result.value, result.gradients[site].flatten()])
    first = values.pop((1, "growing"))
    for other in values.values():
        assert torch.allclose(first, other, rtol=0, atol=1e-13)


def test_forms_that_do_not_exist_or_do_not_fit():
    found = case("bert")
    with pytest.raises(InvalidArgumentError, match="form"):
        attribute(found.model, found.inputs, LogProbability(found.answers), form="grown")
    with pytest.raises(InvalidArgumentError, match="causal language model"):
        attribute(found.model, found.inputs, LogProbability(found.answers), form="prefix")
