import pytest
import torch
from torch import nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site
from neuronwise.train import (
    GatedReversal,
    MEmeL,
    MEmeLTune,
    Monosemanticity,
    NaiveDeactivation,
    ReversedDeactivation,
)
from neuronwise.train._rules import replace, replace_gated
from neuronwise.train._select import highest, uniform

SITE = Site("1", "output", width=6)


def model_and_batch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        return model, torch.randn(12, 4)


def warmed(model, x, method, **options):
    """A run whose method acts from the next pass on, and its statistics."""
    mono = Monosemanticity(model, SITE, method, start=0, **options)
    mono.attach()
    model(x)
    mono.loss()
    mono.step()
    return mono


def hidden_gradients(model, x):
    """The gradient of the loss at what goes into the second linear layer, and at the activation itself."""
    hidden = torch.tanh(model[0](x)).detach()
    kept = {}
    handle = model[0].register_forward_hook(lambda m, a, out: kept.setdefault("pre", out))
    loss = model(x).square().sum()
    handle.remove()
    at_pre = torch.autograd.grad(loss, kept["pre"])[0]
    return at_pre / (1 - hidden.square()), hidden


@pytest.mark.parametrize(
    ("method", "factor"),
    [
        (NaiveDeactivation(variant="a", top=3), 0.0),
        (NaiveDeactivation(variant="b", top=3), 1.0),
        (ReversedDeactivation(top=3), -1.0),
        (ReversedDeactivation(D=4, top=3), -4.0),
        (ReversedDeactivation(D=4, top=3, watch=True), -4.0),
        (ReversedDeactivation(top=0.25, per="batch"), -1.0),
        (ReversedDeactivation(top=0.2, per="threshold"), -1.0),
        (ReversedDeactivation(top=3, selection="random"), -1.0),
    ],
)
@pytest.mark.parametrize("unit", ["feature", "element"])
def test_chosen_entries_become_the_mean_and_get_exactly_minus_d_times_the_gradient(method, factor, unit):
    model, x = model_and_batch()
    mono = warmed(model, x, method, unit=unit)
    mean = mono.statistics[SITE.name].mean.reshape(6)
    x = x.flip(0) * 1.7
    seen = {}

    def before(module, args):
        seen["value"] = args[0]
        args[0].retain_grad()

    handle = model[2].register_forward_pre_hook(before)
    kept = {}
    model[0].register_forward_hook(lambda m, a, out: kept.setdefault("pre", out))
    loss = model(x).square().sum()
    pre_gradient = torch.autograd.grad(loss, [kept["pre"], seen["value"]])
    handle.remove()
    hidden = torch.tanh(kept["pre"]).detach()
    chosen = seen["value"] != hidden
    assert 0 < chosen.sum() < chosen.numel()
    assert torch.equal(seen["value"][chosen], mean.expand_as(hidden)[chosen])
    slope = 1 - hidden.square()
    through = torch.where(chosen, factor * pre_gradient[1], pre_gradient[1]) * slope
    assert torch.equal(
        pre_gradient[0],
        torch.ops.aten.tanh_backward(torch.where(chosen, factor * pre_gradient[1], pre_gradient[1]), hidden),
    )
    assert torch.allclose(pre_gradient[0], through)
    if method.per == "sample":
        assert (chosen.sum(1) == 3).all()
    if method.selection == "phi" and method.per == "sample":
        statistics = mono.statistics[SITE.name]
        phi = (hidden - mean).square() / statistics.scale.reshape(6)
        assert torch.equal(chosen, highest(phi, 3))
    mono.detach()


def test_one_step_of_the_worked_figure():
    # z = 7, mean 1, wanted 7, squared loss, rate 1/6: (a) stays at 7, (b) becomes 8, RD becomes 6.
    for factor, expected in ((0.0, 7.0), (1.0, 8.0), (-1.0, 6.0)):
        z = torch.tensor([7.0], requires_grad=True)
        out = replace(z, torch.tensor([True]), torch.tensor([1.0]), factor)
        (0.5 * (out - 7).square()).sum().backward()
        assert out.item() == 1.0
        assert (z - z.grad / 6).item() == pytest.approx(expected)


def test_reversal_gives_the_worked_example_of_the_technical_report():
    # TR G.3: means (3,0,-1,1,-1), variances 1, new values (-1,1,-1,0,-2): phi (16,1,0,1,1), output (3,1,-1,0,-2).
    means, values = torch.tensor([3.0, 0, -1, 1, -1]), torch.tensor([[-1.0, 1, -1, 0, -2]])
    phi = (values - means).square()
    assert phi.tolist() == [[16, 1, 0, 1, 1]]
    assert replace(values, highest(phi, 1), means, -1.0).tolist() == [[3, 1, -1, 0, -2]]


def test_gradients_of_gradients_pass_through_a_replacement():
    values = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    chosen = torch.tensor([[False, True, False]])

    def function(v):
        return replace(v.square(), chosen, torch.zeros(3, dtype=torch.float64), 1.0).pow(2)

    (first,) = torch.autograd.grad(function(values).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), values)
    assert second[0, [0, 2]].tolist() == pytest.approx([12.0, 108.0])  # (x^4)'' = 12 x^2


@pytest.mark.parametrize("gate", [False, True])
def test_the_gate_reverses_only_where_the_condition_holds(gate):
    values = torch.tensor([2.0, 2.0, -2.0, -2.0, 2.0], requires_grad=True)
    chosen = torch.tensor([True, True, True, True, False])
    mean = torch.zeros(5)
    tally = torch.zeros(2, dtype=torch.int64)
    out = replace_gated(values, chosen, mean, -3.0, above=values > mean, tally=tally, gate=gate)
    gradient = torch.tensor([-1.0, 1.0, 1.0, -1.0, -1.0])
    out.backward(gradient)
    held = torch.tensor([True, False, True, False, False])  # downhill leads away from the mean
    expected = torch.where(held if gate else chosen, -3 * gradient, gradient)
    assert torch.equal(values.grad, expected)
    assert tally.tolist() == [2, 4]
    if gate:  # every chosen value moves towards its mean
        moved = values.detach() - 0.1 * values.grad
        assert (moved.abs() < values.abs())[:4].all()


def test_the_gate_counts_how_often_the_condition_holds():
    model, x = model_and_batch()
    mono = warmed(model, x, GatedReversal(top=2))
    model(x).square().sum().backward()
    mono.step()
    assert 0 <= mono.log()["condition"] <= 1
    assert mono._engine.states[0].condition[1] == 24
    mono.detach()


def test_known_statistics_act_at_once_by_a_threshold_that_has_settled():
    model, x = model_and_batch()
    known = warmed(model, x, None)
    known.detach()
    hidden = torch.tanh(model[0](x)).detach()
    phi = known.statistics[SITE.name].score(hidden)
    mono = Monosemanticity(model, SITE, ReversedDeactivation(top=0.25, per="threshold"), start=10)
    mono.start_from(known.statistics, {SITE.name: phi})
    seen = {}
    handle = model[2].register_forward_pre_hook(lambda m, args: seen.update(value=args[0]))
    with mono.attached():
        model(x)
    handle.remove()
    assert (
        seen["value"] != hidden
    ).sum() == 0.25 * phi.numel() - 1  # all above the level, without the one at it
    assert torch.equal(mono.statistics[SITE.name].mean, known.statistics[SITE.name].mean)
    with pytest.raises(InvalidArgumentError, match="no statistics of 1:output"):
        mono.start_from({})


def test_padding_is_never_chosen_and_constant_sites_are_left_alone():
    model, x = model_and_batch()
    mono = Monosemanticity(model, SITE, ReversedDeactivation(top=0.5, selection="random"), start=0)
    mask = torch.tensor([[True, True, False]] * 4)
    seen = {}
    with mono.attached():
        for _ in range(2):
            mono.expect(mask=mask)
            handle = model[2].register_forward_pre_hook(lambda m, args: seen.update(value=args[0]))
            model(x.view(4, 3, 4))
            handle.remove()
            mono.step()
    changed = seen["value"] != torch.tanh(model[0](x.view(4, 3, 4)))
    assert changed[:, :2].any()
    assert not changed[:, 2].any()
    with torch.no_grad():
        model[0].weight.zero_()
    still = warmed(model, x, ReversedDeactivation())
    handle = model[2].register_forward_pre_hook(lambda m, args: seen.update(value=args[0]))
    model(x)
    assert torch.equal(seen["value"], torch.tanh(model[0](x)))
    handle.remove()
    still.detach()


def test_random_numbers_are_uniform_repeatable_and_of_their_own():
    values = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    numbers = uniform(values, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(numbers, uniform(values, 0))
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert ((counts - 1000).square() / 1000).sum() < 43.8  # chi-square, 19 degrees, p = .001
    for other in (uniform(values, 1), uniform(values + 1e-3, 0), uniform(torch.zeros(400, 50), 0)):
        both = torch.stack([numbers.flatten(), other.flatten()])
        assert torch.corrcoef(both)[0, 1].abs() < 0.03
    assert torch.corrcoef(torch.stack([numbers.flatten(), values.flatten()]))[0, 1].abs() < 0.03
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert abs(uniform(values.to(dtype), 0).mean() - 0.5) < 0.01


def test_presets_are_what_was_published():
    assert MEmeL().factor == -1
    assert (MEmeL().top, MEmeL().per) == (1, "sample")
    grid = MEmeLTune.grid()
    assert len(set(grid)) == 25
    assert {(m.D, m.top) for m in grid} == {(d, t) for d in (1, 5, 10, 50, 100) for t in (1, 5, 10, 50, 100)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: NaiveDeactivation(variant="c"),
        lambda: ReversedDeactivation(D=0),
        lambda: ReversedDeactivation(top=2.5),
        lambda: ReversedDeactivation(top=0),
        lambda: ReversedDeactivation(top=3, per="threshold"),
        lambda: ReversedDeactivation(per="token"),
        lambda: ReversedDeactivation(selection="best"),
        lambda: MEmeL(top=2),
        lambda: MEmeLTune(D=2),
    ],
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(InvalidArgumentError):
        make()
