import math

import pytest
import torch
from torch import nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site
from neuronwise.train import (
    L2E,
    METHODS,
    ClassSelectivity,
    Controller,
    Decorrelation,
    ExcessPenalty,
    KurtosisPenalty,
    MonoScoreReward,
    Monosemanticity,
    SoLU,
    TailPenalty,
)
from neuronwise.train import _moments as moments
from neuronwise.train.replacement import above_threshold

SITE = Site("0", "output", width=5)


def at(values, method, *, settle=False, before=None, **given):
    """The method's loss on these values, and its gradient; the statistics are those of ``before``."""
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    site = Site("0", "output", width=values.shape[-1])
    mono = Monosemanticity(model, site, method, start=0, **given.pop("options", {}))
    with mono.attached():
        mono.expect(**given)
        model(values if before is None else before)
        mono.loss()
        mono.step()
        values = values.clone().requires_grad_()
        mono.expect(**given)
        model(values)
        loss = mono.loss()
        if settle:
            mono.step()
        slope = torch.autograd.grad(loss, values)[0] if loss.requires_grad else torch.zeros_like(values)
    return loss.detach(), slope, mono


def sample(rows=64, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator).abs() ** 1.5 + 0.3 * torch.arange(float(width))


def numerical(function, values, places, step=1e-3):
    found = []
    for row, column in places:
        up, down = values.clone(), values.clone()
        up[row, column] += step
        down[row, column] -= step
        found.append(((function(up) - function(down)) / (2 * step)).item())
    return torch.tensor(found)


def test_l2e_is_the_mean_logarithm_of_the_largest_deviations():
    before, values = sample(seed=1), sample(seed=2)
    loss, slope, mono = at(values, L2E(strength=0.5, share=0.1), before=before)
    statistics = mono.statistics["0:output"]
    mean, scale = before.mean(0), before.var(0) + 0.01 * before.var(0).mean()
    assert torch.allclose(statistics.mean.reshape(-1), mean, atol=1e-5)
    away = values - mean
    threshold = (
        2.7055434  # a tenth of a squared normal variable is above, and one step had a share of its own
    )
    first = (before - mean).square() / scale
    assert first.numel()
    chosen = away.square() / scale > threshold
    expected = 0.5 * torch.log(away[chosen].square()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.allclose(slope[chosen], 0.5 * 2 / away[chosen] / chosen.sum(), rtol=1e-4)
    assert (slope[~chosen] == 0).all()


@pytest.mark.parametrize(
    "method",
    [
        TailPenalty(strength=0.3, share=0.1),
        KurtosisPenalty(strength=0.3),
        TailPenalty(strength=-0.3),
        ExcessPenalty(bound=3.0),
    ],
)
def test_scale_free_penalties_do_not_change_with_scale_or_place(method):
    values = sample()
    loss, slope, _ = at(values, method)
    factors = torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0])
    scaled, scaled_slope, _ = at(values * factors + 7, method)
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-3)
    assert torch.allclose(scaled_slope, slope / 3, atol=1e-5, rtol=1e-2)
    # Neither moving nor shrinking all units together lowers it.
    assert slope.sum(0).abs().max() < 1e-5
    assert (slope * (values - values.mean(0))).sum().abs() < 1e-4


def test_l2e_can_be_lowered_by_shrinking_and_the_tail_penalty_cannot():
    values = sample()
    away = values - values.mean(0)
    _, slope, _ = at(values, L2E(strength=1.0))
    assert (slope * away).sum() > 0.5
    _, slope, _ = at(values, TailPenalty(strength=1.0))
    assert (slope * away).sum().abs() < 1e-4


def test_tail_penalty_to_the_letter_of_its_equation():
    values = sample(200)
    method = TailPenalty(strength=1.0, share=0.05, guard=0.0)
    loss, slope, _ = at(values, method)
    variance = values.var(0, correction=0)
    threshold = 3.8414588
    phi = (values - values.mean(0)).square() / (variance + 0.01 * variance.mean())
    chosen = phi > threshold
    assert loss.item() == pytest.approx(torch.log(phi[chosen] + 1e-4).mean().item(), rel=1e-4)

    def function(v):
        v = v.double()
        s = v.var(0, correction=0)
        p = (v - v.mean(0)).square() / (s + 0.01 * s.mean())
        return torch.log(p[chosen] + 1e-4).mean()

    places = [(0, 0), (5, 2), (17, 4), tuple(chosen.nonzero()[0].tolist())]
    expected = numerical(function, values.double(), places)
    assert torch.allclose(torch.stack([slope[p] for p in places]).double(), expected.double(), atol=1e-5)


def test_excess_penalty_to_the_letter_and_nothing_below_its_bound():
    values = sample(200)
    method = ExcessPenalty(strength=1.0, bound=3.0, guard=0.0, epsilon=1e-9)
    loss, slope, _ = at(values, method)

    def function(v):
        v = v.double()
        phi = (v - v.mean(0)).square() / v.var(0, correction=0)
        return torch.log(phi / 3.0).clamp(min=0.0).mean()

    assert loss.item() == pytest.approx(function(values).item(), rel=1e-3)
    places = [(0, 0), (5, 2), (17, 4), (100, 1)]
    expected = numerical(function, values.double(), places, step=1e-5)
    assert torch.allclose(torch.stack([slope[p] for p in places]).double(), expected.double(), atol=1e-6)
    # Where nothing is above the bound there is nothing to lower.
    loss, slope, _ = at(values, ExcessPenalty(bound=1e4))
    assert loss == 0 and (slope == 0).all()


def test_the_random_control_of_the_excess_takes_as_many_entries():
    values = sample(400)
    phi = (values - values.mean(0)).square() / values.var(0, correction=0)
    share = (phi > 3.0).float().mean().item()
    method = ExcessPenalty(strength=1.0, bound=3.0, guard=0.0, selection="random")
    loss, _, _ = at(values, method)
    mean = loss.item() / share + math.log(3.0)  # of the logarithm over the entries that chance took
    everywhere = torch.log(phi + 1e-4)
    error = everywhere.std().item() / math.sqrt(share * phi.numel())
    assert mean == pytest.approx(everywhere.mean().item(), abs=4 * error)


def test_kurtosis_penalty_to_the_letter_and_what_it_reports():
    values = sample(200)
    loss, _, mono = at(values, KurtosisPenalty(strength=1.0, guard=0.0), settle=True)
    variance = values.var(0, correction=0)
    phi = (values - values.mean(0)).square() / (variance + 0.01 * variance.mean())
    kurtosis = phi.square().mean(0)
    assert loss.item() == pytest.approx(torch.log(kurtosis + 1e-4).mean().item(), rel=1e-5)
    assert mono.log()["kurtosis"] == pytest.approx(kurtosis.mean().item(), rel=1e-5)
    some, slope, _ = at(values, KurtosisPenalty(units=0.4, guard=0.0))
    assert ((slope != 0).any(0)).sum() == 5  # the layer's mean variance ties all of them
    best = kurtosis.topk(2).values
    assert some.item() == pytest.approx(0.03 * torch.log(best + 1e-4).mean().item(), rel=1e-4)


def test_the_floor_pushes_near_dead_units_back_whatever_the_sign():
    values = sample(64)
    values[:, 2] *= 0.01
    for strength in (0.1, -0.1):
        _, guarded, _ = at(values, TailPenalty(strength=strength))
        _, bare, _ = at(values, TailPenalty(strength=strength, guard=0.0))
        push = ((guarded - bare) * (values - values.mean(0))).sum(0)
        assert push[2] < 0  # descent spreads the unit
        assert push[[0, 1, 3, 4]].abs().max() == 0


def test_logarithms_about_a_mean_agree():
    values = sample().reshape(8, 8, 5, 1).double().requires_grad_()
    chosen = torch.rand(8, 8, 5, 1, generator=torch.Generator().manual_seed(0)) > 0.7
    place = moments.places(chosen)
    for scale in (torch.rand(1, 1, 5, 1) + 0.5, torch.rand(1, 8, 5, 1) + 0.5, torch.tensor([[[[2.0]]]])):
        scale = scale.double().requires_grad_()
        mean = torch.rand_like(scale).requires_grad_()
        entries = values.reshape(-1)[place]
        sparse = moments.mean_log(entries, mean, scale, chosen, place, 1e-4)
        dense = moments.mean_log(values, mean, scale, chosen, None, 1e-4)
        terms = torch.log((values - mean).square() / scale + 1e-4)
        expected = terms[chosen].mean()
        slopes = torch.autograd.grad(expected, [values, mean, scale])
        for found in (sparse, dense):
            assert torch.allclose(found, expected)
            for a, b in zip(torch.autograd.grad(found, [values, mean, scale]), slopes, strict=True):
                assert torch.allclose(a, b)
    none = torch.zeros_like(chosen)
    nowhere = moments.places(none)
    assert moments.mean_log(values.reshape(-1)[nowhere], mean, scale, none, nowhere, 1e-4) == 0
    assert moments.mean_log(values, mean, scale, none, None, 1e-4) == 0


class Plain:
    """The penalties as their equations say, every operation left to autograd, with no thought of what it costs."""

    def of_batch(self, view):
        values = view.values if view.real is None else view.values.masked_fill(~view.real, 0.0)
        weight = (
            torch.ones_like(values) if view.real is None else view.real.expand_as(values).to(values.dtype)
        )

        def mean_of(given):
            return (given * weight).sum(view.dims, keepdim=True) / weight.sum(view.dims, keepdim=True).clamp(
                1
            )

        mean = mean_of(values)
        variance = mean_of((values - mean).square())
        if view.samples < 16:
            own = variance.detach()
            largest = torch.maximum(own, view.variance).clamp(min=1e-30)
            variance = view.variance * (1 + (variance - own) / largest)
            mean = view.mean + (mean - mean.detach())
        return values - mean, variance, weight, mean_of


class PlainTail(Plain, TailPenalty):
    def scored(self, view):
        away, variance, weight, _ = self.of_batch(view)
        phi = away.square() / self.stable(variance)
        if self.selection == "phi":
            chosen = (phi > view.state.threshold) & (weight > 0)
            view.state.count(chosen, view.real)
        else:
            chosen = above_threshold(view, self.share, "random")
        return torch.log(phi[chosen] + 1e-4).sum() / max(1, int(chosen.sum())), variance


class PlainKurtosis(Plain, KurtosisPenalty):
    def scored(self, view):
        away, variance, _, mean_of = self.of_batch(view)
        kurtosis = mean_of((away.square() / self.stable(variance)).square())
        terms = torch.log(kurtosis + 1e-4).reshape(-1)
        count = max(1, round(self.units * terms.numel()))
        return terms[kurtosis.reshape(-1).topk(count).indices].mean(), variance


class PlainExcess(Plain, ExcessPenalty):
    def scored(self, view):
        away, variance, weight, _ = self.of_batch(view)
        phi = away.square() / self.stable(variance)
        above = torch.log(phi + 1e-4) - math.log(self.bound)
        above = torch.where((phi > self.bound) & (weight > 0), above, 0.0)
        return above.sum() / weight.sum(), variance


def compared(method, plain, *shapes, mask=None, dtype=torch.float64, **options):
    """Compare a method with its plain form, in loss, gradient and threshold, over several batches."""
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(*shape, generator=generator).to(dtype) ** 3 + 2 for shape in shapes]
    site = Site("0", "output", **{"width": shapes[0][-1], **options.pop("site", {})})
    monos = []
    for kind in (method, plain):
        model = nn.Sequential(nn.Identity(), nn.Flatten())
        monos.append((model, Monosemanticity(model, site, kind, start=0, **options)))
    with monos[0][1].attached(), monos[1][1].attached():
        for number, values in enumerate(batches):
            found = []
            for model, mono in monos:
                z = values.clone()
                if mask is not None:
                    z[:, -1] = torch.nan
                    mono.expect(mask=mask)
                z.requires_grad_()
                model(z)
                loss = mono.loss()
                found.append((loss, torch.autograd.grad(loss, z)[0] if loss.requires_grad else None))
                mono.step()
            (loss, slope), (expected, expected_slope) = found
            assert loss.requires_grad == (number > 0)
            assert torch.allclose(loss, expected, rtol=1e-9)
            if number:
                assert expected_slope.abs().sum() > 0
                assert torch.allclose(slope, expected_slope, rtol=1e-7, atol=1e-12)
    (_, mono), (_, other) = monos
    assert mono.log().get("threshold") == other.log().get("threshold")


FORMS = [
    (TailPenalty, PlainTail, {"share": 0.1}),
    (TailPenalty, PlainTail, {"share": 0.1, "strength": -0.2}),
    (TailPenalty, PlainTail, {"share": 0.2, "selection": "random"}),
    (ExcessPenalty, PlainExcess, {"bound": 1.5}),
    (KurtosisPenalty, PlainKurtosis, {}),
    (KurtosisPenalty, PlainKurtosis, {"units": 0.5, "strength": -0.2}),
]


@pytest.mark.parametrize(("kind", "plain", "settings"), FORMS)
@pytest.mark.parametrize("piece", [1 << 18, 50])
def test_gradients_by_hand_are_those_of_autograd(kind, plain, settings, piece, monkeypatch):
    monkeypatch.setattr(moments, "PIECE", piece)
    pair = kind(**settings), plain(**settings)
    compared(*pair, (40, 6), (33, 6), (5, 6), (40, 6))
    compared(*pair, (4, 21, 6), (5, 19, 6), (2, 3, 6))
    compared(*pair, (30, 6, 2, 3), (29, 6, 2, 3), site={"width": 6, "axis": 1})
    compared(*pair, (9, 30, 6), (7, 29, 6), batch_axis=1)
    for unit in ("element", "pooled"):
        compared(*pair, (40, 4, 6), (33, 4, 6), (5, 4, 6), unit=unit)
    mask = torch.rand(8, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[:, -1] = False
    mask[0] = False
    for unit in ("feature", "element", "pooled"):
        compared(*pair, (8, 7, 6), (8, 7, 6), mask=mask, unit=unit)
        compared(*pair, *[(24, 7, 6)] * 2, mask=mask.repeat(3, 1), unit=unit)


@pytest.mark.parametrize("method", [TailPenalty(share=0.1), KurtosisPenalty(), L2E(share=0.1)])
def test_gradients_by_hand_pass_autograds_own_check(method, monkeypatch):
    monkeypatch.setattr(moments, "PIECE", 10)
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    mono = Monosemanticity(model, Site("0", "output", width=3), method, start=0)

    def loss(values):
        mono.expect(mask=torch.tensor([[True, True], [True, False]] * 9))
        model(values)
        return mono.loss()

    with mono.attached():
        values = sample(36, 3).double().reshape(18, 2, 3).requires_grad_()
        loss(values)
        mono.step()
        assert torch.autograd.gradcheck(loss, values)
        if method.name != "kurtosis":
            assert torch.autograd.gradgradcheck(loss, values)
            return
        (slope,) = torch.autograd.grad(loss(values), values, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            slope.sum().backward()


@pytest.mark.parametrize(
    "method",
    [TailPenalty(), KurtosisPenalty(), L2E(), TailPenalty(selection="random"), ExcessPenalty(bound=1.0)],
)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_samples_are_legal_and_give_finite_gradients(method, rows):
    before = sample(64)
    loss, slope, _ = at(sample(rows, seed=4), method, before=before)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() < 10


@pytest.mark.parametrize(
    "method",
    [TailPenalty(share=0.1), KurtosisPenalty(), L2E(share=0.1), Decorrelation(), ExcessPenalty(bound=1.0)],
)
def test_padding_does_not_count_whatever_it_holds(method):
    values = sample(64).reshape(16, 4, 5)
    padded = torch.cat([values, torch.full((16, 2, 5), torch.nan)], 1)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 16)
    plain, slope, _ = at(values, method)
    masked, masked_slope, mono = at(padded, method, mask=mask)
    assert masked.item() == pytest.approx(plain.item(), rel=1e-4)
    if not isinstance(method, Decorrelation):
        assert torch.allclose(masked_slope[:, :4], slope, atol=1e-6)
        assert (masked_slope[:, 4:] == 0).all()
    assert mono.log()["skipped"] == 0


def test_a_site_that_never_fires_has_no_loss_and_no_gradient():
    for method in (TailPenalty(), KurtosisPenalty(), L2E(), Decorrelation(), TailPenalty(strength=-1)):
        loss, slope, _ = at(torch.zeros(32, 5), method)
        assert torch.isfinite(loss)
        assert torch.isfinite(slope).all()


def test_class_selectivity_of_known_means():
    values = torch.tensor([[4.0, 1, 2], [1, 0, 2], [1, 0, 2], [4, 1, 2], [1, 0, 2], [1, 0, 2]])
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss, _, _ = at(values, ClassSelectivity(alpha=-2.0, classes=5), labels=labels)
    assert loss.item() == pytest.approx(2 * (0.6 + 1 + 0) / 3, abs=1e-5)
    signed, _, _ = at(values - torch.tensor([0.0, 5, 5]), ClassSelectivity(), labels=labels)
    assert signed.item() == pytest.approx(0.6 / 3, abs=1e-5)  # rectified: the other two never fire
    one, slope, _ = at(values, ClassSelectivity(), labels=torch.zeros(6, dtype=torch.int64))
    assert one == 0
    assert (slope == 0).all()
    shuffled, _, _ = at(values, ClassSelectivity(alpha=-2.0, selection="random"), labels=labels)
    assert shuffled.item() != pytest.approx(loss.item(), abs=1e-3)


def test_class_selectivity_takes_labels_of_positions():
    values = torch.tensor([[[4.0, 1], [1, 0]], [[1, 0], [4, 1]]])
    labels = torch.tensor([[0, 1], [1, 0]])
    loss, _, _ = at(values, ClassSelectivity(), labels=labels)
    assert loss.item() == pytest.approx((0.6 + 1) / 2, abs=1e-5)
    ignored, _, _ = at(values, ClassSelectivity(), labels=torch.tensor([[0, -1], [1, -1]]))
    assert ignored.item() == pytest.approx((0.6 + 1) / 2, abs=1e-5)


def test_labels_and_embeddings_that_are_missing_or_do_not_fit():
    with pytest.raises(InvalidArgumentError, match=r"mono\.expect\(labels"):
        at(sample(), ClassSelectivity())
    with pytest.raises(InvalidArgumentError, match=r"mono\.expect\(embeddings"):
        at(sample(), MonoScoreReward())
    with pytest.raises(InvalidArgumentError, match="do not fit 64 examples"):
        at(sample(), ClassSelectivity(), labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InvalidArgumentError, match="do not fit 64 examples"):
        at(sample(), MonoScoreReward(), embeddings=torch.zeros(3, 2))


def test_monoscore_of_known_activations():
    embeddings = torch.tensor([[1.0, 0], [2, 0], [0, 3]])
    values = torch.tensor([[1.0, 1, 5], [1, 0, 5], [0, 1, 5]])  # score 1; score 0; constant: left out
    loss, _, _ = at(values, MonoScoreReward(strength=1.0), embeddings=embeddings)
    assert loss.item() == pytest.approx(-0.5)
    generator = torch.Generator().manual_seed(0)
    values, embeddings = sample(20), torch.randn(20, 7, generator=generator)
    loss, _, _ = at(values, MonoScoreReward(strength=1.0), embeddings=embeddings)
    scaled = (values - values.amin(0)) / (values.amax(0) - values.amin(0))
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    upper = torch.triu(torch.ones(20, 20), 1)
    pairs = torch.einsum("iu,ju,ij->uij", scaled, scaled, upper)
    quadratic = (pairs * (unit @ unit.T)).sum((1, 2)) / pairs.sum((1, 2))
    assert -loss.item() == pytest.approx(quadratic.mean().item(), abs=1e-6)


@pytest.mark.parametrize("shape", [(7, 5), (3, 5)])
def test_decorrelation_of_samples_and_features(shape):
    values = sample(*shape)
    unit = values / values.norm(dim=1, keepdim=True)
    loss, _, _ = at(values, Decorrelation(strength=1.0))
    assert loss.item() == pytest.approx((unit @ unit.T - torch.eye(shape[0])).square().sum().item(), rel=1e-5)
    raw, _, _ = at(values, Decorrelation(strength=1.0, normalise=False))
    assert raw.item() == pytest.approx(
        (values @ values.T - torch.eye(shape[0])).square().sum().item(), rel=1e-5
    )
    loss, _, _ = at(values, Decorrelation(strength=1.0, gram="feature"))
    expected = (torch.corrcoef(values.T) - torch.eye(5)).square().sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    control, _, _ = at(values, Decorrelation(strength=1.0, selection="random"))
    assert control.item() != pytest.approx(loss.item(), rel=1e-3)


def test_solu_is_solu_and_stays_in_evaluation():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
        x = torch.randn(4, 3)
    before = model[0](x)
    expected = model[2](nn.functional.layer_norm(before * before.softmax(-1), (5,)))
    mono = Monosemanticity(model, Site("1", "output", width=5), SoLU())
    with mono.attached():
        assert torch.allclose(model(x), expected)
        model.eval()
        assert torch.allclose(model(x), expected)
    for broken in (Site("2", "input", width=5), Site("0", "output", width=5)):
        with (
            Monosemanticity(model, broken, SoLU()).attached(),
            pytest.raises(InvalidArgumentError, match="activation function"),
        ):
            model(x)
    overwriting = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True))
    with (
        Monosemanticity(overwriting, Site("1", "output", width=5), SoLU()).attached(),
        pytest.raises(InvalidArgumentError, match="overwrites"),
    ):
        overwriting(x)


def test_the_threshold_follows_the_level():
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    mono = Monosemanticity(model, Site("0", "output", width=100), L2E())
    generator = torch.Generator().manual_seed(0)
    with mono.attached():
        for _ in range(150):
            model(torch.randn(100, 100, generator=generator))
            mono.loss()
            mono.step()
        assert mono.log()["threshold"] == pytest.approx(5.41, rel=0.03)
        for _ in range(80):
            laplace = torch.empty(100, 100).exponential_(generator=generator)
            model(laplace * torch.randn(100, 100, generator=generator).sign())
            mono.loss()
            mono.step()
        level = math.log(50) ** 2 / 2  # of a Laplace variable with variance 2
        assert mono.log()["threshold"] == pytest.approx(level, rel=0.05)


def test_every_method_has_a_name_and_defaults():
    for name, kind in METHODS.items():
        assert kind().name == name


@pytest.mark.parametrize(
    "make",
    [
        lambda: L2E(share=0),
        lambda: L2E(eta=0),
        lambda: TailPenalty(share=1.5),
        lambda: TailPenalty(guard=-1),
        lambda: TailPenalty(epsilon=0),
        lambda: ExcessPenalty(bound=0),
        lambda: KurtosisPenalty(units=0),
        lambda: KurtosisPenalty(selection="random"),
        lambda: ClassSelectivity(classes=1),
        lambda: Decorrelation(gram="both"),
        lambda: Decorrelation(samples=1),
        lambda: Controller("kurtosis", 3.0),
        lambda: Controller("share", 0.0),
        lambda: Controller("share", 0.01, method=SoLU()),
        lambda: Controller("share", 0.01, gain=0),
        lambda: Monosemanticity(
            nn.Linear(2, 2), Site("", "output", width=2), Controller("share", 0.1), tail=False
        ),
        lambda: Monosemanticity(nn.Linear(2, 2), Site("", "output", width=2), "tial"),
        lambda: Monosemanticity(nn.Linear(2, 2), [], "tail"),
        lambda: Monosemanticity(nn.Linear(2, 2), Site("", "output", width=2), 3),
    ],
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(InvalidArgumentError):
        make()
