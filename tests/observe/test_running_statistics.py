"""RunningStatistics: closed forms of the papers, all unit modes, masks, merging, saving, compiling, bad input."""

import copy
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.errors import InvalidArgumentError, SiteAxisError
from neuronwise.observe import RunningStatistics
from neuronwise.sites import Site


def column(*values):
    return torch.tensor(values)[:, None]


def flat(statistics):
    return statistics.mean.reshape(-1), statistics.variance.reshape(-1)


def batches(count=50, width=5, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(3 + n % 7, 2 + n % 3, width, generator=generator) * (1 + torch.arange(width)) + offset
        for n in range(count)
    ]


def test_history_of_the_paper():
    statistics = RunningStatistics(1)
    statistics.update(column(1.0, 2.0, 3.0))
    statistics.update(column(4.0, 6.0))
    assert statistics.mean.item() == pytest.approx(3.2)
    assert statistics.variance.item() == pytest.approx(3.7)
    assert statistics.count.item() == 5 and statistics.batches.item() == 2


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fifty_batches_without_forgetting_equal_the_direct_values(offset, dtype):
    stream = batches(offset=offset)
    statistics = RunningStatistics(5, dtype=dtype, tail=True)
    for batch in stream:
        statistics.update(batch)
    x = torch.cat([batch.reshape(-1, 5) for batch in stream]).double().numpy()
    mean, variance = flat(statistics)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-6, atol=1e-6)
    # A mean of 1000 is itself rounded to 3e-5 of these standard deviations in float32.
    rounded = offset > 0 and dtype == torch.float32
    np.testing.assert_allclose(variance, x.var(0, ddof=1), rtol=3e-5 if rounded else 1e-6)


def test_float32_survives_a_mean_far_from_zero():
    # Float32 has steps of 0.002 there, and a sum of squares about zero would lose every digit of this variance.
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 3, generator=generator) + 3e4
    statistics = RunningStatistics(3)
    for batch in x.split(100):
        statistics.update(batch)
    np.testing.assert_allclose(flat(statistics)[1], x.double().var(0), rtol=1e-3)


def test_a_shift_is_followed_with_ten_elevenths_a_step():
    generator = torch.Generator().manual_seed(2)
    batch = torch.randn(16, 4, generator=generator)
    statistics = RunningStatistics(4, horizon=10)
    for _ in range(30):
        statistics.update(batch)
    before = batch.mean(0) + 5.0 - flat(statistics)[0]
    for step in range(1, 8):
        statistics.update(batch + 5.0)
        left = batch.mean(0) + 5.0 - flat(statistics)[0]
        torch.testing.assert_close(left, before * (10 / 11) ** step, rtol=1e-4, atol=1e-5)


def test_forgetting_is_the_formula_of_the_report():
    generator = torch.Generator().manual_seed(3)
    stream = [torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(25)]
    statistics = RunningStatistics(2, horizon=10, dtype=torch.float64)
    for batch in stream[:10]:
        statistics.update(batch)
    mean, variance = (part.clone() for part in flat(statistics))
    for batch in stream[10:]:
        b, n, new, v = 6, 10, batch.mean(0), batch.var(0, correction=0)
        variance = n * (mean - new) ** 2 / ((n + 1 - 1 / b) * (n + 1)) + (v + (n - 1 / b) * variance) / (
            n + 1 - 1 / b
        )
        mean = (n * mean + new) / (n + 1)
        statistics.update(batch)
    torch.testing.assert_close(flat(statistics)[0], mean)
    torch.testing.assert_close(flat(statistics)[1], variance)


def test_phi_of_one_hot():
    x = torch.zeros(10, 1, dtype=torch.float64)
    x[3] = 1.0
    statistics = RunningStatistics(1, floor=0.0, dtype=torch.float64)
    statistics.update(x)
    phi = statistics.score(x)[:, 0]
    assert phi[3].item() == pytest.approx(8.1)
    assert phi[0].item() == pytest.approx(0.1)
    assert phi.mean().item() == pytest.approx(0.9)
    assert phi.square().mean().item() == pytest.approx(6.57)


def test_score_uses_the_floor_and_the_statistics_before():
    statistics = RunningStatistics(2, floor=0.5)
    statistics.update(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))  # variances 2 and 0, mean 1
    phi = statistics.score(torch.tensor([[4.0, 8.0]]))
    torch.testing.assert_close(phi, torch.tensor([[4 / 2.5, 1 / 0.5]]))
    assert statistics.count.item() == 2


def test_gradient_flows_to_the_tensor_only():
    statistics = RunningStatistics(1, floor=0.0)
    statistics.update(column(0.0, 2.0))
    z = column(4.0).requires_grad_()
    statistics.score(z).sum().backward()
    assert z.grad.item() == pytest.approx(2 * 3 / 2)
    statistics.update(z)
    assert not statistics.mean.requires_grad


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_feature_mode_takes_every_position_as_a_sample(axis):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4, 6, 6, 6, generator=generator)
    statistics = RunningStatistics(6, axis=axis, tail=True)
    statistics.update(x[:2])
    statistics.update(x[2:])
    rows = x.movedim(axis, -1).reshape(-1, 6)
    torch.testing.assert_close(flat(statistics)[0], rows.mean(0))
    torch.testing.assert_close(flat(statistics)[1], rows.var(0))
    phi = statistics.score(x)
    expected = (x - _at(rows.mean(0), axis)) ** 2 / _at(rows.var(0) + 0.01 * rows.var(0).mean(), axis)
    torch.testing.assert_close(phi, expected, rtol=1e-4, atol=1e-5)


def _at(values, axis):
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    return values.reshape(shape)


def test_element_mode_keeps_one_statistic_a_place():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(8, 3, 4, 5, generator=generator)
    for axis in (1, 2, 3):
        statistics = RunningStatistics(x.shape[axis], axis=axis, unit="element")
        statistics.update(x[:5])
        statistics.update(x[5:])
        mean, scale = statistics.reference(x)
        torch.testing.assert_close(mean[0], x.mean(0))
        torch.testing.assert_close(scale[0], x.var(0) + 0.01 * x.var(0).mean())


def test_element_mode_counts_each_place_under_a_mask():
    x = torch.tensor([[1.0, 10.0], [3.0, 99.0]])[..., None]
    mask = torch.tensor([[True, True], [True, False]])
    statistics = RunningStatistics(1, unit="element")
    statistics.update(x, mask)
    assert statistics.count.reshape(-1).tolist() == [2, 1]
    assert statistics.mean.reshape(-1).tolist() == [2.0, 10.0]


def test_pooled_mode_averages_the_real_positions_first():
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(5, 4, 3, generator=generator)
    mask = torch.arange(4) < torch.tensor([4, 1, 2, 3, 4])[:, None]
    statistics = RunningStatistics(3, unit="pooled", floor=0.0)
    statistics.update(x, mask)
    pooled = torch.stack([row[keep].mean(0) for row, keep in zip(x, mask, strict=True)])
    torch.testing.assert_close(flat(statistics)[0], pooled.mean(0))
    torch.testing.assert_close(flat(statistics)[1], pooled.var(0))
    torch.testing.assert_close(statistics.score(x, mask), (pooled - pooled.mean(0)) ** 2 / pooled.var(0))


def test_masked_tokens_are_ignored_whatever_they_hold():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, 5, 2, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    spoiled = x.masked_fill(~mask[..., None], torch.nan)
    one, other = RunningStatistics(2, tail=True), RunningStatistics(2, tail=True)
    for _ in range(2):
        one.update(x[mask])
        other.update(spoiled, mask)
    torch.testing.assert_close(flat(one), flat(other))
    torch.testing.assert_close(one.tail.above, other.tail.above)
    torch.testing.assert_close(one.tail.peak, other.tail.peak)
    assert other.skipped.item() == 0 and other.count.item() == 20
    assert (other.score(spoiled, mask)[~mask] == 0).all()


def test_the_batch_axis_may_be_the_second():
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(5, 3, 2, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    one, other = RunningStatistics(2), RunningStatistics(2, batch_axis=1)
    one.update(x.transpose(0, 1), mask)
    other.update(x, mask)
    torch.testing.assert_close(flat(one), flat(other))
    torch.testing.assert_close(other.score(x, mask), one.score(x.transpose(0, 1), mask).transpose(0, 1))


def test_lengths_may_vary_in_feature_mode_only():
    free, fixed = RunningStatistics(3), RunningStatistics(3, unit="element")
    for length in (4, 7):
        free.update(torch.ones(2, length, 3))
    assert free.count.item() == 22
    fixed.update(torch.ones(2, 4, 3))
    with pytest.raises(InvalidArgumentError, match="unit='feature'"):
        fixed.update(torch.ones(2, 7, 3))
    with pytest.raises(InvalidArgumentError, match="unit='feature'"):
        fixed.score(torch.ones(2, 7, 3))


def test_batches_of_one():
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(40, 3, generator=generator)
    statistics = RunningStatistics(3, tail=True)
    for row in x:
        statistics.update(row[None])
        assert torch.isfinite(statistics.score(row[None])).all()
    torch.testing.assert_close(flat(statistics)[1], x.var(0))
    forgetting = RunningStatistics(3, horizon=1)
    for row in x:
        forgetting.update(row[None])
    assert torch.isfinite(forgetting.variance).all()


def test_constant_units_and_constant_sites():
    x = torch.full((6, 2), 3.0)
    statistics = RunningStatistics(2, tail=True)
    statistics.update(x)
    statistics.update(x)
    assert (statistics.variance == 0).all() and (statistics.score(x + 5.0) == 0).all()
    x[:, 0] = torch.arange(6.0)
    statistics.update(x)
    assert torch.isfinite(statistics.score(x + 5.0)).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_is_skipped_and_counted(bad):
    statistics = RunningStatistics(2, horizon=2, tail=True)
    for batch in batches(4, 2):
        statistics.update(batch)
    before = {name: part.clone() for name, part in statistics.named_buffers() if name != "skipped"}
    spoiled = torch.ones(4, 3, 2)
    spoiled[2, 1, 0] = bad
    statistics.update(spoiled)
    assert statistics.skipped.item() == 1
    for name, part in before.items():
        assert torch.equal(part, statistics.get_buffer(name)), name


def test_an_empty_batch_changes_nothing():
    statistics = RunningStatistics(2, tail=True, horizon=1)
    statistics.update(torch.ones(3, 2))
    before = copy.deepcopy(statistics.state_dict())
    statistics.update(torch.empty(0, 2))
    statistics.update(torch.ones(2, 4, 2), torch.zeros(2, 4, dtype=torch.bool))
    for name, part in statistics.state_dict().items():
        assert torch.equal(part, before[name]), name


def test_ready_after_the_start():
    statistics = RunningStatistics(1, start=2)
    seen = []
    for _ in range(4):
        seen.append(bool(statistics.ready))
        statistics.update(column(1.0, 2.0))
    assert seen == [False, False, False, True]


@pytest.mark.parametrize("unit", ["feature", "element", "pooled"])
def test_merge_is_exact(unit):
    generator = torch.Generator().manual_seed(10)
    x = torch.randn(30, 4, 3, generator=generator) * 2 + 100
    parts = [RunningStatistics(3, unit=unit, tail=True) for _ in range(3)]
    whole = RunningStatistics(3, unit=unit)
    for part, piece in zip(parts, x.split([5, 1, 24]), strict=True):
        part.update(piece)
    whole.update(x)
    parts[1].merge(parts[2])
    parts[0].merge(parts[1])
    torch.testing.assert_close(flat(parts[0]), flat(whole), rtol=1e-6, atol=1e-5)
    assert torch.equal(parts[0].count, whole.count)
    empty = RunningStatistics(3, unit=unit)
    empty.merge(whole)
    torch.testing.assert_close(flat(empty), flat(whole))


def test_merge_refuses_another_site():
    one = RunningStatistics.of(Site("a", "output", width=3))
    with pytest.raises(InvalidArgumentError, match="width 4 instead of 3"):
        one.merge(RunningStatistics(4, site="a:output"))
    with pytest.raises(InvalidArgumentError, match="site 'b:output' instead of 'a:output'"):
        one.merge(RunningStatistics.of(Site("b", "output", width=3)))


class Together:
    """Reduces over threads in step, as processes do over a network."""

    def __init__(self, count):
        self.barrier, self.slots = threading.Barrier(count), [None] * count

    def of(self, rank):
        def reduce(tensor, how):
            self.slots[rank] = tensor.clone()
            self.barrier.wait()
            stacked = torch.stack(self.slots)
            self.barrier.wait()
            return stacked.sum(0) if how == "sum" else stacked.amax(0)

        return reduce


@pytest.mark.parametrize("horizon", [None, 2])
def test_several_processes_end_with_the_statistics_of_one(horizon):
    generator = torch.Generator().manual_seed(11)
    stream = [torch.randn(9, 4, generator=generator) * 3 + 200 for _ in range(6)]
    stream[4][8, 2] = torch.nan  # only the second process sees it; both have to skip the batch
    whole = RunningStatistics(4, horizon=horizon, tail=True)
    for batch in stream:
        whole.update(batch)
    together = Together(2)
    parts = [RunningStatistics(4, horizon=horizon, tail=True) for _ in range(2)]

    def work(rank):
        for batch in stream:
            piece = batch[:3] if rank == 0 else batch[3:]
            parts[rank].update(piece, all_reduce=together.of(rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in parts:
        torch.testing.assert_close(flat(part), flat(whole), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(part.tail.above, whole.tail.above)
        torch.testing.assert_close(part.tail.peak, whole.tail.peak, rtol=1e-4, atol=1e-5)
        assert part.skipped.item() == whole.skipped.item() == 1
        assert part.count.item() == 45


def test_tail_is_that_of_all_entries():
    generator = torch.Generator().manual_seed(12)
    stream = [torch.randn(64, 8, generator=generator) ** 3 for _ in range(20)]
    statistics = RunningStatistics(8, tail=True)
    scored = []
    for number, batch in enumerate(stream):
        if number:
            scored.append(statistics.score(batch))
        statistics.update(batch)
    phi = torch.cat(scored)
    tail = statistics.tail
    torch.testing.assert_close(tail.above.reshape(-1), (phi > 9).float().mean(0))
    torch.testing.assert_close(tail.peak.reshape(-1), phi.amax(0), rtol=1e-4, atol=1e-4)
    assert tail.share().item() == pytest.approx((phi > 9).float().mean().item(), rel=1e-5)
    assert tail.histogram.sum().item() == phi.numel()
    for share in (0.5, 0.9, 0.99):
        assert tail.quantile(share).item() == pytest.approx(phi.quantile(share).item(), rel=0.13)
    top = phi.flatten().sort().values[-phi.numel() // 100 :].mean().item()
    assert tail.top_mean(0.01).item() == pytest.approx(top, rel=0.1)
    tail.reset()
    assert tail.histogram.sum().item() == 0 and torch.isnan(tail.share())


def test_tail_forgets_as_the_mean_does():
    statistics = RunningStatistics(1, horizon=1, tail=True)
    generator = torch.Generator().manual_seed(13)
    quiet = torch.randn(100, 1, generator=generator).clamp(-2, 2)
    for _ in range(5):
        statistics.update(quiet)
    loud = quiet.clone()
    loud[:10] = 30.0
    statistics.update(loud)
    assert statistics.tail.above.item() == pytest.approx(10 / 100 * 100 / statistics.tail.weight.item())
    for _ in range(12):
        statistics.update(quiet)
    assert statistics.tail.above.item() < 1e-4


def test_pieces_that_fit_the_cache_do_not_change_the_sums(monkeypatch):
    generator = torch.Generator().manual_seed(14)
    x = torch.randn(70, 3, 4, generator=generator)
    mask = torch.rand(70, 3, generator=generator) < 0.7
    for unit in ("feature", "element", "pooled"):
        found = []
        for size in (1 << 18, 30):
            monkeypatch.setattr(sys.modules[RunningStatistics.__module__], "_CHUNK", size)
            statistics = RunningStatistics(4, unit=unit, tail=True)
            for _ in range(2):
                statistics.update(x, mask)
            found.append(statistics.state_dict())
        for name in found[0]:
            torch.testing.assert_close(found[0][name], found[1][name])


def test_stays_float32_in_a_model_of_another_dtype():
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "statistics": RunningStatistics(2, tail=True)})
    statistics = model["statistics"]
    statistics.update(torch.full((3, 2), 1.2345678))
    before = statistics.mean.clone()
    model.bfloat16()
    assert model["net"].weight.dtype == torch.bfloat16
    assert {part.dtype for part in statistics.buffers()} == {torch.float32, torch.int64}
    assert torch.equal(statistics.mean, before)
    model.double().to(torch.float16)
    assert statistics.mean.dtype == torch.float32 and torch.equal(statistics.mean, before)
    model.to("meta")
    assert statistics.mean.is_meta and statistics.mean.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_takes_activations_of_any_float_type(dtype):
    x = torch.arange(12.0).reshape(6, 2).to(dtype)
    statistics = RunningStatistics(2)
    statistics.update(x)
    torch.testing.assert_close(flat(statistics)[1], x.float().var(0))
    assert statistics.score(x).dtype == torch.float32


@pytest.mark.parametrize("unit", ["feature", "element", "pooled"])
def test_state_goes_through_a_file(unit, tmp_path):
    stream = [torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    whole = RunningStatistics(5, unit=unit, horizon=3, tail=True, site="a:input")
    for batch in stream[:3]:
        whole.update(batch)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    resumed = RunningStatistics(5, unit=unit, horizon=3, tail=True, site="a:input")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in stream[3:]:
        whole.update(batch)
        resumed.update(batch)
    for name, part in whole.state_dict().items():
        assert torch.equal(part, resumed.state_dict()[name]), name


def test_a_state_of_another_site_or_width_is_refused():
    saved = RunningStatistics(3, site="a:input").state_dict()
    with pytest.raises(InvalidArgumentError, match="width 3 instead of 4"):
        RunningStatistics(4, site="a:input").load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="site 'a:input' instead of 'b:input'"):
        RunningStatistics(3, site="b:input").load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="unit 'feature' instead of 'pooled'"):
        RunningStatistics(3, site="a:input", unit="pooled").load_state_dict(saved)
    placed = RunningStatistics(3, unit="element", shape=(4, 3))
    other = RunningStatistics(3, unit="element", shape=(5, 3))
    with pytest.raises(InvalidArgumentError, match="positions"):
        placed.load_state_dict(other.state_dict())


@pytest.mark.parametrize("unit", ["feature", "element", "pooled"])
def test_compiles_without_a_graph_break(unit):
    statistics = RunningStatistics(3, unit=unit, shape=(4, 3), horizon=2, tail=True)
    plain = copy.deepcopy(statistics)
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[2, 1:] = False

    def step(x):
        phi = statistics.score(x, mask)
        statistics.update(x, mask)
        return phi.sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for seed in range(4):
        x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(seed))
        expected = plain.score(x, mask).sum()
        plain.update(x, mask)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)
    for name, part in plain.named_buffers():
        torch.testing.assert_close(statistics.get_buffer(name), part, msg=name)


def test_never_waits_for_the_device():
    # On the meta device there are no numbers, so whatever asked the host for one would raise.
    statistics = RunningStatistics(3, horizon=2, tail=True).to("meta")
    x, mask = torch.empty(6, 4, 3, device="meta"), torch.empty(6, 4, dtype=torch.bool, device="meta")
    for _ in range(2):
        statistics.update(x, mask)
        assert statistics.score(x, mask).shape == x.shape


def test_wrong_tensors_masks_and_settings():
    statistics = RunningStatistics(3)
    for shape in ((2, 4), (3,), (2, 3, 4)):
        with pytest.raises(SiteAxisError, match="3 neurons"):
            statistics.update(torch.ones(shape))
    with pytest.raises(InvalidArgumentError, match="mask"):
        statistics.update(torch.ones(2, 4, 3), torch.ones(2, 5, dtype=torch.bool))
    for wrong in (
        {"unit": "neuron"},
        {"horizon": 0},
        {"start": -1},
        {"floor": -1.0},
        {"dtype": torch.float16},
    ):
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            RunningStatistics(3, **wrong)
    with pytest.raises(InvalidArgumentError, match="width"):
        RunningStatistics(0)
