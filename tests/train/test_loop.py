import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from neuronwise.errors import CompiledModelError, HookError, InvalidArgumentError, SiteNotReachedError
from neuronwise.observe.statistics import RunningStatistics
from neuronwise.sites import Site, Sites
from neuronwise.train import (
    L2E,
    METHODS,
    ClassSelectivity,
    ExcessPenalty,
    GatedReversal,
    KurtosisPenalty,
    Monosemanticity,
    NaiveDeactivation,
    ReversedDeactivation,
    TailPenalty,
)
from tests.models import make

SITES = Sites([Site("1", "output", width=8), Site("3", "output", width=7)])
WORKING = [
    TailPenalty(),
    ExcessPenalty(bound=2.0),
    KurtosisPenalty(),
    L2E(),
    ReversedDeactivation(),
    ReversedDeactivation(selection="random"),
    GatedReversal(top=0.1, per="threshold"),
    NaiveDeactivation(variant="a"),
]


SLOWER = [method for method in WORKING if type(method) not in (TailPenalty, ReversedDeactivation)]


def label(value):
    return (
        "none"
        if value is None
        else f"{value.name}{'_random' if getattr(value, 'selection', '') == 'random' else ''}"
    )


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3))


def batches(count, rows=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rows, 5, generator=generator), torch.randint(3, (rows,), generator=generator))
        for _ in range(count)
    ]


def train(model, mono, data, optimizer, *, pieces=1, run=None):
    run = run or model
    for x, y in data:
        for xs, ys in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
            mono.expect(labels=ys)
            loss = nn.functional.cross_entropy(run(xs), ys) + mono.loss()
            (loss / pieces).backward()
        optimizer.step()
        optimizer.zero_grad()
        mono.step()


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)


@pytest.mark.parametrize("method", [*WORKING, ClassSelectivity(classes=3), None], ids=label)
@pytest.mark.parametrize("unit", ["feature", "element"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(method, unit):
    data = batches(8)

    def fresh():
        model = network()
        return (
            model,
            Monosemanticity(model, SITES, method, start=2, unit=unit),
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        )

    model, mono, optimizer = fresh()
    with mono.attached():
        train(model, mono, data, optimizer)
    whole, figures = state(model), mono.log()

    model, mono, optimizer = fresh()
    with mono.attached():
        train(model, mono, data[:5], optimizer)
    saved = copy.deepcopy((model.state_dict(), mono.state_dict(), optimizer.state_dict()))
    model, mono, optimizer = fresh()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for target, part in zip((model, mono, optimizer), saved, strict=True):
        target.load_state_dict(part)
    with mono.attached():
        train(model, mono, data[5:], optimizer)
    assert equal(state(model), whole)
    assert {k: v for k, v in mono.log().items() if v == v} == {k: v for k, v in figures.items() if v == v}
    if method is not None:  # it did something
        plain = network()
        watching = Monosemanticity(plain, SITES, None)
        with watching.attached():
            train(plain, watching, data, torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9))
        assert not equal(state(plain), whole)


def test_a_state_is_saved_as_plain_tensors(tmp_path):
    model = network()
    mono = Monosemanticity(model, SITES, "tail", start=0)
    with mono.attached():
        train(model, mono, batches(3), torch.optim.SGD(model.parameters(), lr=0.1))
    torch.save(mono.state_dict(), tmp_path / "mono.pt")
    again = Monosemanticity(network(), SITES, "tail", start=0)
    again.load_state_dict(torch.load(tmp_path / "mono.pt", weights_only=True))
    assert again.steps == 3
    assert again.log()["share"] == mono.log()["share"]


def test_a_state_of_something_else_is_refused():
    saved = Monosemanticity(network(), SITES, "tail").state_dict()
    with pytest.raises(InvalidArgumentError, match="method 'tail'"):
        Monosemanticity(network(), SITES, "l2e").load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="sites"):
        Monosemanticity(network(), SITES[:1], "tail").load_state_dict(saved)
    wider = nn.Sequential(nn.Linear(5, 9), nn.ReLU())
    saved = Monosemanticity(wider, Site("1", "output", width=9), "tail").state_dict()
    with pytest.raises(InvalidArgumentError, match="width"):
        Monosemanticity(network(), SITES[:1], "tail").load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="unit"):
        Monosemanticity(wider, Site("1", "output", width=9), "tail", unit="pooled").load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="no state"):
        Monosemanticity(network(), SITES, "tail").load_state_dict({})


@pytest.mark.parametrize("method", [*WORKING, None], ids=label)
def test_evaluation_returns_the_very_same_tensors_and_counts_nothing(method):
    model = network()
    mono = Monosemanticity(model, SITES, method, start=0)
    with mono.attached():
        train(model, mono, batches(3), torch.optim.SGD(model.parameters(), lr=0.1))
        before = copy.deepcopy(mono.state_dict())
        kept = {}
        inner = model[1].register_forward_hook(lambda m, a, out: kept.update(out=out), prepend=True)
        outer = model[2].register_forward_pre_hook(lambda m, args: kept.update(given=args[0]))
        model.eval()
        model(batches(1)[0][0])
        inner.remove()
        outer.remove()
        assert kept["out"] is kept["given"]
        assert equal(before, mono.state_dict())
        assert not mono._engine.states[0].statistics.gathered_n.any()


@pytest.mark.parametrize("method", WORKING, ids=label)
def test_the_model_is_as_it_was_before_it_was_attached(method):
    model = network()
    before, x = state(model), batches(1)[0][0]
    expected = model(x)
    mono = Monosemanticity(model, SITES, method, start=0)
    random_state = torch.random.get_rng_state()
    with mono.attached():
        for _ in range(3):
            model(x)
            mono.loss()
            mono.step()
    assert hooks(model) == 0
    assert equal(before, state(model))
    assert torch.equal(model(x), expected)
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_nothing_stays_after_an_exception_or_the_end_of_the_object():
    model = network()
    mono = Monosemanticity(model, SITES, "tail", start=0)
    with pytest.raises(ZeroDivisionError), mono.attached():
        model(batches(1)[0][0])
        raise ZeroDivisionError
    assert hooks(model) == 0
    mono.attach()
    assert hooks(model) == 3
    ended = weakref.ref(mono)
    del mono
    gc.collect()
    assert ended() is None
    assert hooks(model) == 0


def test_attaching_twice_is_an_error():
    model = network()
    mono = Monosemanticity(model, SITES, "tail")
    with mono.attached():
        with pytest.raises(HookError, match="attached already"):
            mono.attach()
        with pytest.raises(HookError, match="attached here already"):
            Monosemanticity(model, SITES, "l2e").attach()
        with Monosemanticity(model, SITES, None).attached():  # watching is no conflict
            assert hooks(model) == 6
        assert mono.is_attached
    mono.detach()
    with mono.attached():
        pass
    assert hooks(model) == 0


@pytest.mark.parametrize("method", WORKING[:3] + WORKING[3:4], ids=label)
def test_accumulated_micro_batches_are_one_batch_for_the_statistics(method):
    data = batches(4, rows=32)
    found = []
    for pieces in (1, 4):
        model = network()
        mono = Monosemanticity(model, SITES, method, start=100, horizon=2)
        with mono.attached():
            train(model, mono, data, torch.optim.SGD(model.parameters(), lr=0.1), pieces=pieces)
        found.append(mono)
    for site in SITES:
        whole, parts = (mono.statistics[site.name] for mono in found)
        assert parts.batches == whole.batches == 4
        assert torch.allclose(parts.mean, whole.mean, atol=1e-6)
        assert torch.allclose(parts.variance, whole.variance, rtol=1e-4)
        assert torch.allclose(parts.tail.above, whole.tail.above, atol=1e-5)


@pytest.mark.parametrize("unit", ["feature", "element", "pooled"])
@pytest.mark.parametrize("horizon", [None, 3])
def test_steps_give_the_statistics_of_plain_running_statistics(unit, horizon):
    generator = torch.Generator().manual_seed(0)
    site = Site("0", "output", width=6, axis=1)
    model = nn.Sequential(nn.Identity())
    mono = Monosemanticity(model, site, None, unit=unit, horizon=horizon)
    plain = RunningStatistics(6, axis=1, unit=unit, horizon=horizon, tail=True)
    with mono.attached():
        for number in range(6):
            values = 5 + number + torch.randn(9, 6, 2, 3, generator=generator) ** 3
            model(values)
            mono.step()
            plain.update(values)
    stepped = mono.statistics["0:output"]
    assert torch.allclose(stepped.mean, plain.mean, rtol=1e-5)
    assert torch.allclose(stepped.variance, plain.variance, rtol=1e-4)
    assert torch.equal(stepped.count, plain.count)
    assert torch.allclose(stepped.tail.above, plain.tail.above, atol=1e-6)
    assert torch.allclose(stepped.tail.peak, plain.tail.peak, rtol=1e-3)


class Checkpointed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.inner(x)
        x = self.inner[0](x)
        x = checkpoint(self.inner[1:4], x, use_reentrant=self.reentrant)
        return self.inner[4](x)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", WORKING, ids=label)
def test_checkpointing_counts_once_and_changes_nothing(method, reentrant):
    data = batches(5)
    sites = Sites(Site(f"inner.{site.path}", "output", width=site.width) for site in SITES)
    found = []
    for how in (None, reentrant):
        model = Checkpointed(network(), how)
        mono = Monosemanticity(model, sites, method, start=1)
        losses = []
        with mono.attached():
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for batch in data:
                train(model, mono, [batch], optimizer, pieces=2)
                losses.append(mono.log()["loss"])
        found.append((state(model), mono, losses))
    (plain, mono, losses), (checkpointed, again, same_losses) = found
    assert same_losses == pytest.approx(losses, abs=1e-6)
    for name in plain:
        assert torch.allclose(plain[name], checkpointed[name], atol=1e-6), name
    for site in sites:
        assert torch.equal(mono.statistics[site.name].count, again.statistics[site.name].count)
        assert torch.allclose(mono.statistics[site.name].mean, again.statistics[site.name].mean, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        TailPenalty(),
        ReversedDeactivation(),
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in [*SLOWER, ClassSelectivity(classes=3), None]
        ),
    ],
    ids=label,
)
# Dynamo makes an instance of torch.autograd.Function, of which torch itself warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_torch_compile_takes_a_training_step_without_a_graph_break(method):
    data = batches(4)
    found = []
    for compile_it in (False, True):
        torch._dynamo.reset()
        model = network()
        mono = Monosemanticity(model, SITES, method, start=1)
        with mono.attached():
            run = torch.compile(model, fullgraph=True, backend="aot_eager") if compile_it else model
            train(model, mono, data, torch.optim.SGD(model.parameters(), lr=0.1), run=run)
        found.append((state(model), mono.log()))
    for name, value in found[0][0].items():
        assert torch.allclose(value, found[1][0][name], atol=1e-5), name
    assert found[1][1]["share"] == pytest.approx(found[0][1]["share"], abs=1e-5)
    assert found[1][1]["steps"] == 4


def test_attaching_after_compiling_is_refused():
    model = network()
    compiled = torch.compile(model, backend="eager")
    mono = Monosemanticity(compiled, [Site("_orig_mod.1", "output", width=8)], "tail")
    with pytest.raises(CompiledModelError):
        mono.attach()


@pytest.mark.parametrize("method", WORKING, ids=label)
def test_autocast_keeps_the_dtype_and_statistics_stay_float32(method):
    model = network()
    mono = Monosemanticity(model, SITES, method, start=0)
    dtypes = set()
    handle = model[4].register_forward_pre_hook(lambda m, args: dtypes.add(args[0].dtype))
    with mono.attached():
        for x, y in batches(3):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(x)
            (nn.functional.cross_entropy(logits.float(), y) + mono.loss()).backward()
            mono.step()
    handle.remove()
    assert dtypes == {torch.bfloat16}
    statistics = mono.statistics[SITES[1].name]
    assert statistics.mean.dtype == statistics.variance.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    lowered = network().to(torch.bfloat16)
    mono = Monosemanticity(lowered, SITES, method, start=0)
    with mono.attached():
        for x, _ in batches(2):
            (lowered(x.bfloat16()).float().square().mean() + mono.loss()).backward()
            mono.step()
    assert mono.statistics[SITES[0].name].mean.dtype == torch.float32


@pytest.mark.parametrize("method", WORKING, ids=label)
def test_modules_that_run_several_times_count_as_one_batch(method):
    case = make("reused")
    case.model.train()
    mono = Monosemanticity(case.model, Site("shared", "output", width=5), method, start=0)
    kept = []
    handle = case.model.shared.register_forward_hook(
        lambda m, a, out: kept.append(out.detach()), prepend=True
    )
    with mono.attached():
        for _ in range(2):
            kept.clear()
            (case.model(case.batch).square().mean() + mono.loss()).backward()
            if mono.steps == 0:
                first = torch.cat(kept)
            mono.step()
    handle.remove()
    statistics = mono.statistics["shared:output"]
    assert statistics.batches == 2
    assert statistics.count.item() == 2 * len(first)
    one = Monosemanticity(case.model, case.sites[0], method, start=0)  # call 1 alone
    with one.attached():
        case.model(case.batch)
        one.step()
    assert one.statistics["shared:output#1"].count == len(case.batch)


def test_recurrent_and_convolutional_sites():
    for name in ("rnn", "cnn", "transformer", "tied", "tuple_output"):
        case = make(name)
        case.model.train()
        for method in WORKING:
            mono = Monosemanticity(case.model, case.sites, method, start=0)
            with mono.attached():
                for _ in range(2):
                    batch = case.batch
                    if isinstance(batch, dict):
                        output = case.model(**batch)
                    elif name == "tuple_output":
                        output = case.model(batch)
                    else:
                        output = case.model(batch)
                    (output.square().mean() + mono.loss()).backward()
                    mono.step()
            assert mono.log()["skipped"] == 0
            case.model.zero_grad()


def test_other_lengths_work_in_feature_mode_and_are_a_clear_error_in_element_mode():
    case = make("rnn")
    case.model.train()
    shorter = case.batch[:, :3]
    mono = Monosemanticity(case.model, case.sites, "tail", start=0)
    with mono.attached():
        for batch in (case.batch, shorter, case.batch):
            case.model(batch)
            mono.loss()
            mono.step()
    mono = Monosemanticity(case.model, case.sites, "tail", start=0, unit="element")
    with mono.attached():
        case.model(case.batch)
        with pytest.raises(InvalidArgumentError, match="unit='feature'"):
            case.model(shorter)


def test_the_attention_mask_of_a_model_is_found():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.pool = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x, attention_mask=None):
            return self.pool(self.up(x).sum(1))

    model = Masked()
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    x[:, 3:] = torch.nan
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 4)
    sites = [Site("up", "output", width=4), Site("pool", "output", width=4)]
    mono = Monosemanticity(model, sites, None)
    with mono.attached():
        model(x, attention_mask=mask)
        mono.step()
    assert mono.statistics["up:output"].count == 12
    assert mono.statistics["pool:output"].skipped == 1  # one vector an example: the mask is not of it
    with mono.attached():
        mono.expect(mask=torch.ones(4, 7))
        with pytest.raises(InvalidArgumentError, match="does not fit"):
            model(x)


@pytest.mark.parametrize("method", WORKING, ids=label)
def test_a_batch_with_nan_is_skipped_and_counted(method):
    model = network()
    mono = Monosemanticity(model, SITES, method, start=0)
    with mono.attached():
        train(model, mono, batches(2), torch.optim.SGD(model.parameters(), lr=0.1))
        before = copy.deepcopy(mono.state_dict())
        x = batches(1)[0][0].clone()
        x[3, 2] = torch.nan
        model(x)
        mono.loss()
        mono.step()
        after = copy.deepcopy(mono.state_dict())
        assert mono.log()["skipped"] == 1
        for name in before:
            if "mean" in name or "variance" in name or "tail" in name or "threshold" in name:
                assert torch.isfinite(after[name]).all(), name
            if "mean" in name or "variance" in name or "batches" in name:
                assert torch.equal(before[name].nan_to_num(), after[name].nan_to_num()), name
        train(model, mono, batches(1, seed=5), torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_step_that_the_scaler_skipped_counts_for_nothing():
    data = batches(4)
    model = network()
    mono = Monosemanticity(model, SITES, "tail", start=0)
    with mono.attached():
        train(model, mono, data[:2], torch.optim.SGD(model.parameters(), lr=0.1))
        before = copy.deepcopy(mono.state_dict())
        model(data[2][0])
        mono.loss()
        mono.step(stepped=False)
        after = copy.deepcopy(mono.state_dict())
        assert equal(
            {k: v for k, v in before.items() if k != "_extra_state"},
            {k: v for k, v in after.items() if k != "_extra_state"},
        )
        assert mono.log()["skipped_steps"] == 1
        assert mono.steps == 2


def test_a_batch_of_one_is_legal():
    for method in WORKING:
        model = network()
        mono = Monosemanticity(model, SITES, method, start=0, unit="element")
        with mono.attached():
            train(model, mono, batches(4, rows=1), torch.optim.SGD(model.parameters(), lr=0.01))
        assert torch.isfinite(mono.statistics[SITES[0].name].variance).all()
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_forgetting_to_take_the_loss_is_an_error():
    model = network()
    mono = Monosemanticity(model, SITES, "tail", start=0)
    with mono.attached():
        for _ in range(1):
            model(batches(1)[0][0])
            mono.step()
        model(batches(1)[0][0])
        with pytest.raises(HookError, match=r"mono\.loss\(\)"):
            mono.step()


def test_sites_that_are_never_reached_are_an_error():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x):
            return self.used(x)

    model = Branch()
    mono = Monosemanticity(model, Site("unused", "output", width=4), None)
    with mono.attached():
        model(batches(1)[0][0])
        with pytest.raises(SiteNotReachedError, match="unused:output"):
            mono.step()
    mono = Monosemanticity(model, ["used", "unused"], None, start=1)
    with mono.attached():
        for _ in range(2):
            model(batches(1)[0][0])
            mono.step()
        model(batches(1)[0][0])
        with pytest.raises(SiteNotReachedError, match="unused:output"):
            mono.step()
    model = network().eval()
    mono = Monosemanticity(model, SITES, None)
    with mono.attached():
        model(batches(1)[0][0])
        with pytest.raises(SiteNotReachedError, match=r"model\.train"):
            mono.step()


def test_sites_are_found_or_named():
    model = network()
    assert len(Monosemanticity(model).sites) > 0
    assert "tail" in repr(Monosemanticity(model).method).lower()
    assert "not attached" in repr(Monosemanticity(model))
    assert set(METHODS) >= {"tail", "l2e", "reversed", "naive"}


@pytest.mark.parametrize("method", [TailPenalty(), KurtosisPenalty(), L2E()], ids=label)
def test_a_frozen_model_and_a_pass_without_gradients_are_legal(method):
    model = network().requires_grad_(False)
    mono = Monosemanticity(model, SITES, method, start=0)
    with mono.attached():
        for _ in range(2):
            model(batches(1)[0][0])
            assert torch.isfinite(mono.loss())
            mono.step()
