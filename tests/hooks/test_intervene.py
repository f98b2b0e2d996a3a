from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.errors import (
    AmbiguousCallError,
    HookError,
    InvalidArgumentError,
    NeuronIndexError,
    SiteAxisError,
    SiteNotFoundError,
    SiteNotReachedError,
)
from neuronwise.hooks import Add, Patch, Scale, Set, capture, intervene
from neuronwise.sites import NeuronSet, Site
from tests.models import make

FIRST, SECOND = Site("2", "input", width=8, layer=0), Site("4", "input", width=7, layer=1)
CHOSEN = NeuronSet.of({FIRST: [1, 4, 6], SECOND: [0, 5]})


def by_hand(model, x, change):
    """The MLP of the zoo, written out, with ``change(layer, hidden)`` at both hidden layers."""
    hidden = change(0, torch.relu(model[0](x)))
    return model[4](change(1, nn.functional.gelu(model[2](hidden))))


def at_chosen(function):
    def change(layer, hidden):
        hidden = hidden.clone()
        for place, (site, index) in enumerate(CHOSEN):
            if site.layer == layer:
                hidden[..., index] = function(hidden[..., index], place)
        return hidden

    return change


VALUES = [0.5, -1.0, 2.0, 3.0, -0.25]


@pytest.mark.parametrize(
    ("how", "value", "function"),
    [
        ("zero", None, lambda v, i: 0 * v),
        ("set", 0.7, lambda v, i: 0.7),
        ("set", VALUES, lambda v, i: VALUES[i]),
        ("mean", np.array(VALUES, dtype=np.float32), lambda v, i: VALUES[i]),
        ("scale", 3, lambda v, i: 3 * v),
        ("scale", torch.tensor(VALUES), lambda v, i: VALUES[i] * v),
        ("add", -0.5, lambda v, i: v - 0.5),
        ("add", tuple(VALUES), lambda v, i: v + VALUES[i]),
        (Add(VALUES), None, lambda v, i: v + VALUES[i]),
        (lambda values, call: values.clamp(max=0.2), None, lambda v, i: v.clamp(max=0.2)),
    ],
)
def test_numbers_equal_a_forward_written_by_hand(how, value, function):
    case = make("mlp")
    expected = by_hand(case.model, case.batch, at_chosen(function))
    with intervene(case.model, CHOSEN, how, value):
        changed = case.model(case.batch)
    assert torch.allclose(changed, expected, atol=1e-6)
    assert not torch.allclose(changed, case.model(case.batch), atol=1e-3)


@pytest.mark.parametrize("key", [lambda site: site, lambda site: site.name])
def test_values_by_site_are_as_long_as_the_site(key):
    case = make("mlp")
    means = {key(FIRST): np.linspace(0, 1, 8), key(SECOND): torch.linspace(-1, 0, 7)}
    expected = by_hand(
        case.model,
        case.batch,
        at_chosen(lambda v, i: float(means[key(list(CHOSEN)[i][0])][list(CHOSEN)[i][1]])),
    )
    with intervene(case.model, CHOSEN, "mean", means):
        assert torch.allclose(case.model(case.batch), expected, atol=1e-6)


def test_all_neurons_of_sites():
    case = make("mlp")
    for neurons in (case.sites, case.sites.neurons()):
        with intervene(case.model, neurons, "zero"):
            assert torch.equal(case.model(case.batch), case.model[4].bias.expand(6, 3))
    with intervene(case.model, FIRST, "set", 1.0), capture(case.model, FIRST) as cap:
        case.model(case.batch)
    assert (cap[FIRST] == 1).all()


def test_zero_is_exact_where_values_are_not_finite():
    case = make("mlp")
    with (
        intervene(case.model, FIRST, lambda values, call: values * torch.tensor([torch.nan, torch.inf] * 4)),
        intervene(case.model, FIRST, "zero"),
        capture(case.model, FIRST) as cap,
    ):
        case.model(case.batch)
    assert torch.equal(cap[FIRST], torch.zeros(6, 8))


def test_channels_of_a_convolution():
    case = make("cnn")
    site = case.sites[0]
    with capture(case.model, site) as plain:
        case.model(case.batch)
    with (
        intervene(case.model, NeuronSet.of({site: [0, 3]}), "scale", [2.0, -1.0]),
        capture(case.model, site) as cap,
    ):
        case.model(case.batch)
    expected = plain[site].clone()
    expected[:, 0] *= 2
    expected[:, 3] *= -1
    assert torch.equal(cap[site], expected)
    assert cap[site].stride() == plain[site].stride()


def test_order_of_entering_is_order_of_acting():
    case = make("mlp")
    with ExitStack() as outer:
        before = outer.enter_context(capture(case.model, FIRST))
        outer.enter_context(intervene(case.model, FIRST, "set", 1.0))
        with ExitStack() as inner:
            inner.enter_context(intervene(case.model, FIRST, "add", 2.0))
            between = inner.enter_context(capture(case.model, FIRST))
            inner.enter_context(intervene(case.model, FIRST, "scale", 10.0))
            after = inner.enter_context(capture(case.model, FIRST))
            case.model(case.batch)
        assert not before[FIRST].eq(1).all()
        assert between[FIRST].eq(3).all() and after[FIRST].eq(30).all()
        left = outer.enter_context(capture(case.model, FIRST))
        case.model(case.batch)
    assert left[FIRST].eq(1).all()


def test_one_call_of_a_reused_module():
    model, x = make("reused").model, torch.randn(3, 5)
    site = Site("shared", "output", width=5, call=1)
    with intervene(model, NeuronSet.of({site: [2]}), "set", 4.0):
        changed = model(x)
    hidden = torch.tanh(model.shared(x))
    hidden = model.shared(hidden).clone()
    hidden[:, 2] = 4.0
    assert torch.allclose(changed, model.head(torch.tanh(model.shared(torch.tanh(hidden)))))
    calls = []
    with intervene(model, Site("shared", "output", width=5), lambda v, call: calls.append(call) or v):
        model(x)
        model(x)
    assert calls == [0, 1, 2, 0, 1, 2]


def test_patch_from_a_capture():
    case = make("mlp")
    other = torch.randn(6, 5)
    with capture(case.model, case.sites) as cap:
        case.model(other)
    with intervene(case.model, FIRST, "patch", cap):
        assert torch.equal(case.model(case.batch), case.model(case.batch)) and torch.allclose(
            case.model(case.batch), by_hand(case.model, other, lambda layer, hidden: hidden)
        )
    with intervene(case.model, CHOSEN, "patch", cap):
        changed = case.model(case.batch)
    source = {0: cap[FIRST], 1: cap[SECOND]}

    def change(layer, hidden):
        mine = [i for site, i in CHOSEN if site.layer == layer]
        hidden = hidden.clone()
        hidden[:, mine] = source[layer][:, mine]
        return hidden

    assert torch.allclose(changed, by_hand(case.model, case.batch, change), atol=1e-6)


def test_patch_of_one_example_serves_a_batch_and_is_never_written_to():
    model, x = make("inplace").model, torch.randn(4, 5)
    site = Site("0", "output", width=8)
    source = torch.randn(1, 8)
    kept = source.clone()
    with intervene(model, site, Patch({"0:output": source})):
        out = model(x)
    assert torch.allclose(out, model[2](torch.relu(source)).expand(4, 3))
    values = torch.full((8,), -1.0)
    with intervene(model, site, Set({site: values})):
        model(x)
    assert torch.equal(source, kept) and torch.equal(values, torch.full((8,), -1.0))


def test_patch_call_by_call():
    model, x, other = make("reused").model, torch.randn(3, 5), torch.randn(3, 5)
    every, second = Site("shared", "output", width=5), Site("shared", "output", width=5, call=1)
    with capture(model, every) as cap:
        expected = model(other)
    for neurons in (every, second):
        with intervene(model, neurons, "patch", cap):
            assert torch.equal(model(x), expected)
    with pytest.raises(AmbiguousCallError):
        intervene(model, Site("shared", "output", width=5, call=3), "patch", cap)
    with capture(model.shared, Site("", "output", width=5)) as one:
        model.shared(x)
    with pytest.raises(SiteNotFoundError, match=":output"):
        intervene(model, every, "patch", one)


def test_patch_errors():
    case = make("mlp")
    with capture(case.model, FIRST) as cap:
        with pytest.raises(SiteNotReachedError, match="has not run"):
            intervene(case.model, FIRST, "patch", cap)
        case.model(case.batch[:4])
    with pytest.raises(SiteNotFoundError, match="2:input"):
        intervene(case.model, SECOND, "patch", cap)
    with (
        pytest.raises(InvalidArgumentError, match=r"\(6, 8\).*\(4, 8\)"),
        intervene(case.model, FIRST, "patch", cap),
    ):
        case.model(case.batch)
    with pytest.raises(SiteAxisError, match="8 neurons on axis -1"):
        intervene(case.model, FIRST, "patch", {FIRST: torch.ones(6, 7)})
    with pytest.raises(InvalidArgumentError, match="a capture of it"):
        intervene(case.model, FIRST, "patch", 3.0)
    with pytest.raises(InvalidArgumentError, match="needs tensors, not str"):
        intervene(case.model, FIRST, "patch", {FIRST: "x"})


SEQUENCE = Site("layers.0.down", "input", width=16)
MASK = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (2, [2]),
        (-1, [5]),
        (np.int64(3), [3]),
        ([0, -2], [0, 4]),
        (range(1, 3), [1, 2]),
        (np.array([1]), [1]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(4, 99), [4, 5]),
        (MASK, None),
        (MASK.numpy(), None),
        (MASK.tolist(), None),
    ],
)
def test_positions_along_a_sequence(positions, expected):
    case = make("transformer")
    mask = MASK if expected is None else torch.zeros(3, 6, dtype=torch.bool)
    if expected is not None:
        mask[:, expected] = True
    chosen = NeuronSet.of({SEQUENCE: [3, 7]})
    with capture(case.model, SEQUENCE) as plain:
        case.model(**case.batch)
    with (
        intervene(case.model, chosen, "set", [5.0, 6.0], positions=positions),
        capture(case.model, SEQUENCE) as cap,
    ):
        case.model(**case.batch)
    wanted = plain[SEQUENCE].clone()
    wanted[..., 3][mask] = 5.0
    wanted[..., 7][mask] = 6.0
    assert torch.equal(cap[SEQUENCE], wanted)


def test_later_positions_do_not_reach_earlier_ones_of_a_causal_model():
    case = make("transformer")
    plain = case.model(**case.batch)
    with intervene(case.model, SEQUENCE, "zero", positions=slice(3, None)):
        changed = case.model(**case.batch)
    assert torch.equal(plain[:, :3], changed[:, :3])
    assert (plain[:, 3:] != changed[:, 3:]).any(-1).all()


def test_masks_of_examples_and_pixels():
    case = make("mlp")
    mask = torch.tensor([True, False, False, True, False, False])
    plain = case.model(case.batch)
    with intervene(case.model, FIRST, "zero", positions=mask):
        changed = case.model(case.batch)
    assert torch.equal(plain[~mask], changed[~mask])
    assert (plain[mask] != changed[mask]).any(-1).all()
    conv = make("cnn")
    site, pixels = conv.sites[0], torch.zeros(3, 8, 8, dtype=torch.bool)
    pixels[1, 2, 3] = True
    with (
        intervene(conv.model, site, "add", 9.0, positions=pixels),
        capture(conv.model, [site, Site("2", "input", width=6, axis=1)]) as cap,
    ):
        conv.model(conv.batch)
    difference = cap[site] - torch.relu(cap["2:input"])
    assert torch.allclose(difference[1, :, 2, 3], torch.full((6,), 9.0))
    assert difference.count_nonzero() == 6


def test_positions_of_a_recurrent_network_with_the_sequence_first():
    lstm, x = nn.LSTM(4, 3), torch.randn(5, 2, 4)
    plain, _ = lstm(x)
    with intervene(lstm, Site("", "output", width=3), "zero", positions=-1):
        changed, _ = lstm(x)
    assert torch.equal(changed[:4], plain[:4]) and not changed[4].any()


@pytest.mark.parametrize("positions", ["last", 1.5, [1.0], [], True, [[1, 2]], object()])
def test_positions_that_cannot_be_read(positions):
    case = make("transformer")
    with pytest.raises(InvalidArgumentError, match="positions must be"):
        intervene(case.model, SEQUENCE, "zero", positions=positions)


@pytest.mark.parametrize(
    ("name", "site", "positions", "message"),
    [
        ("transformer", SEQUENCE, [2, 6], "position 6 is outside the 6 positions"),
        ("transformer", SEQUENCE, -7, "position -7"),
        ("transformer", SEQUENCE, torch.ones(3, 5, dtype=torch.bool), r"shape \(3, 5\).*\(3, 6\)"),
        ("mlp", FIRST, 0, r"\(6,\)"),
        ("cnn", Site("2", "output", width=6, axis=1), slice(0, 2), r"\(3, 8, 8\)"),
    ],
)
def test_positions_that_do_not_fit(name, site, positions, message):
    case = make(name)
    with (
        pytest.raises(InvalidArgumentError, match=message),
        intervene(case.model, site, "zero", positions=positions),
    ):
        case.model(**case.batch) if isinstance(case.batch, dict) else case.model(case.batch)


def test_gradients_reach_what_is_added_and_what_is_before():
    case = make("mlp")
    x = case.batch.clone().requires_grad_()
    steer = torch.zeros(5, requires_grad=True)
    with intervene(case.model, CHOSEN, "add", steer):
        loss = case.model(x).square().sum()
    gradient, below = torch.autograd.grad(loss, [steer, x])
    step = 1e-3
    for place in range(5):
        values = torch.zeros(5)
        values[place] = step
        with intervene(case.model, CHOSEN, "add", values):
            up = case.model(case.batch).square().sum()
        with intervene(case.model, CHOSEN, "add", -values):
            down = case.model(case.batch).square().sum()
        assert torch.isclose(gradient[place], (up - down) / (2 * step), rtol=2e-2, atol=1e-3)
    assert below.abs().sum() > 0


def test_a_trained_value_is_followed_inside_the_block():
    case = make("mlp")
    steer = torch.zeros(8, requires_grad=True)
    optimizer = torch.optim.SGD([steer], lr=0.1)
    losses = []
    with intervene(case.model, FIRST, "add", steer):
        for _ in range(3):
            loss = case.model(case.batch).square().sum()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[2] < losses[1] < losses[0]


def test_no_gradient_passes_where_values_are_replaced():
    case = make("mlp")
    x = case.batch.clone().requires_grad_()
    with intervene(case.model, case.sites, "zero"):
        loss = case.model(x).sum()
    assert torch.autograd.grad(loss, x, allow_unused=True) == (None,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_values_follow_the_dtype_of_the_activation(dtype):
    case = make("mlp")
    case.model.to(dtype)
    numbers = np.linspace(0, 1, 8)
    with intervene(case.model, FIRST, "set", numbers), capture(case.model, FIRST) as cap:
        assert case.model(case.batch.to(dtype)).dtype == dtype
    assert torch.equal(cap[FIRST], torch.tensor(numbers).to(dtype).expand(6, 8))


def test_hooks_come_off_after_errors_of_model_and_block():
    case = make("mlp")
    for batch in (case.batch, torch.ones(2, 3)):
        with pytest.raises((RuntimeError, ZeroDivisionError)), intervene(case.model, CHOSEN, "zero"):
            case.model(batch)
            raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.model.modules())


def test_a_site_that_is_never_reached_is_an_error_at_the_end():
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    site = Site("out_proj", "input", width=4)
    with pytest.raises(SiteNotReachedError, match="out_proj"), intervene(attention, site, "zero"):
        attention(x, x, x)
    with intervene(attention, site, "zero"):
        pass
    with pytest.raises(ZeroDivisionError), intervene(attention, site, "zero"):
        attention(x, x, x)
        raise ZeroDivisionError
    model = make("reused").model
    with (
        pytest.raises(SiteNotReachedError, match="call 3"),
        intervene(model, Site("shared", "input", width=5, call=3), "zero"),
    ):
        model(torch.ones(1, 5))


@dataclass(frozen=True)
class Negate:
    def at(self, spot):
        assert (spot.offset, spot.total) == ((0, 5) if spot.site == FIRST else (3, 5))
        return lambda values, call: -values


def test_own_interventions():
    case = make("mlp")
    expected = by_hand(case.model, case.batch, at_chosen(lambda v, i: -v))
    with intervene(case.model, CHOSEN, Negate()):
        assert torch.allclose(case.model(case.batch), expected, atol=1e-6)
    for wrong, message in (
        (None, "must return a tensor, not NoneType"),
        (torch.ones(6, 9), r"shape \(6, 9\)"),
    ):
        with (
            pytest.raises(InvalidArgumentError, match=message),
            intervene(case.model, FIRST, lambda values, call, wrong=wrong: wrong),
        ):
            case.model(case.batch)


@pytest.mark.parametrize(
    ("how", "value", "error", "message"),
    [
        ("zeros", None, InvalidArgumentError, "Closest.*zero"),
        ("zero", 1.0, InvalidArgumentError, "takes no value"),
        ("mean", None, InvalidArgumentError, r"needs the means.*activity\.means\(\)"),
        ("scale", None, InvalidArgumentError, "needs the factor"),
        (Scale(2.0), 3.0, InvalidArgumentError, "has its own"),
        (3, None, InvalidArgumentError, "not int"),
        ("set", [1.0, 2.0], InvalidArgumentError, r"one per chosen neuron.*\(5,\); got shape \(2,\)"),
        ("set", np.ones((1, 5)), InvalidArgumentError, r"got shape \(1, 5\)"),
        ("set", {FIRST: np.ones(7), SECOND: 0.0}, InvalidArgumentError, r"per neuron of the site.*\(8,\)"),
        ("set", {FIRST: 1.0}, SiteNotFoundError, "4:input.*2:input"),
        ("set", "much", InvalidArgumentError, "str is not a value"),
        ("set", [[1], [2, 3]], InvalidArgumentError, "list is not a value"),
    ],
)
def test_wrong_arguments_are_named_before_any_hook_is_set(how, value, error, message):
    case = make("mlp")
    with pytest.raises(error, match=message):
        intervene(case.model, CHOSEN, how, value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.model.modules())


def test_wrong_neurons():
    case = make("mlp")
    with pytest.raises(InvalidArgumentError, match="no neuron"):
        intervene(case.model, CHOSEN - CHOSEN, "zero")
    with pytest.raises(NeuronIndexError):
        NeuronSet.of({FIRST: [8]})
    with pytest.raises(SiteNotFoundError):
        intervene(case.model, Site("nowhere", "input", width=8), "zero")


def test_patching_several_calls_needs_as_many():
    case, site = make("reused"), Site("shared", "output", width=5)
    with capture(case.model, site) as cap:
        case.model(case.batch)

    class Longer(type(case.model)):
        def forward(self, x):
            return super().forward(torch.tanh(self.shared(x)))

    longer = Longer()
    with (
        pytest.raises(HookError, match="has 3 calls, and this is call 3"),
        intervene(longer, site, "patch", cap),
    ):
        longer(case.batch)
