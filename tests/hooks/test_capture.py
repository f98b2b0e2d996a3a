import copy
import dataclasses
import io
from collections import namedtuple
from types import MappingProxyType

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from neuronwise.errors import (
    AmbiguousCallError,
    HookError,
    InvalidArgumentError,
    OverwrittenError,
    SiteAxisError,
    SiteNotFoundError,
    SiteNotReachedError,
)
from neuronwise.hooks import call_model, capture, intervene
from neuronwise.sites import Site
from tests.models import NAMES, LanguageModel, Reused, make


def hooks_of(model):
    return [
        (name, list(m._forward_hooks.items()), list(m._forward_pre_hooks.items()))
        for name, m in model.named_modules(remove_duplicate=False)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_output_is_bit_equal_and_every_site_is_read(name):
    case = make(name)
    plain = call_model(case.model, case.batch)
    before = hooks_of(case.model)
    with capture(case.model, case.sites) as cap:
        watched = call_model(case.model, case.batch)
    assert torch.equal(plain, watched)
    assert hooks_of(case.model) == before
    for site in case.sites:
        assert cap[site].shape[site.axis] == site.width
        assert cap[site] is cap[site.name]
    assert list(cap) == list(case.sites) and len(cap) == len(case.sites)


def test_values_are_those_of_the_model():
    case = make("mlp")
    model = case.model
    with capture(model, case.sites) as cap:
        model(case.batch)
    hidden = torch.relu(model[0](case.batch))
    assert torch.equal(cap["2:input"], hidden)
    assert torch.equal(cap["4:input"], nn.functional.gelu(model[2](hidden)))


def test_gradient_of_a_captured_reference():
    case = make("mlp")
    with capture(case.model, case.sites) as cap:
        case.model(case.batch)[:, 1].sum().backward()
        case.model(case.batch)
        loss = case.model(case.batch)[:, 1].sum()
    (gradient,) = torch.autograd.grad(loss, cap["4:input"])
    assert torch.allclose(gradient, case.model[4].weight[1].expand_as(gradient))


def test_calls_of_a_reused_module_are_told_apart():
    model, x = make("reused").model, torch.ones(2, 5)
    every, second = Site("shared", "output", width=5), Site("shared", "output", width=5, call=1)
    with capture(model, [every, second, Site("head", "input", width=5)]) as cap:
        model(x)
    calls = cap.calls(every)
    assert len(calls) == 3
    expected = model.shared(torch.tanh(model.shared(x)))
    assert torch.equal(calls[1], expected)
    assert cap[second] is calls[1] is cap[every, 1]
    assert (every, 2) in cap and (every, 3) not in cap
    with pytest.raises(AmbiguousCallError, match=r"3 calls .*\[0, 1, 2\]"):
        cap[every]
    with pytest.raises(AmbiguousCallError, match="call 5 is not among them"):
        cap[every, 5]


def test_a_tied_module_is_one_module_under_both_names():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    a, b = Site("0", "output", width=3), Site("2", "output", width=3)
    with capture(model, [a, b]) as cap:
        out = model(torch.ones(1, 3))
    assert len(cap.calls(a)) == len(cap.calls(b)) == 2
    assert torch.equal(cap[b, 1], out)


def test_latest_pass_is_kept():
    case = make("mlp")
    with capture(case.model, case.sites) as cap:
        case.model(case.batch)
        case.model(case.batch[:2])
    assert cap["2:input"].shape == (2, 8)


def test_in_place_operation_after_the_site_is_noticed():
    model = make("inplace").model
    site, x = Site("0", "output", width=8), torch.randn(4, 5)
    with capture(model, site) as cap, capture(model, site, copy=True) as copied:
        model(x)
    assert site in cap
    with pytest.raises(OverwrittenError, match="copy=True"):
        cap[site]
    assert torch.equal(copied[site], model[0](x))
    assert (copied[site] < 0).any()


def test_reduce_runs_in_the_hook_before_anything_overwrites():
    model = make("inplace").model
    site, x = Site("0", "output", width=8), torch.randn(4, 5)
    with capture(model, site, reduce=lambda s, t: (s.name, t.min().item())) as cap:
        model(x)
    assert cap[site] == ("0:output", model[0](x).min().item())
    with capture(model, site, reduce=lambda s, t: t[:, :2]) as view:
        model(x)
    with pytest.raises(OverwrittenError):
        view[site]


def test_inference_mode():
    case = make("inplace")
    site = Site("0", "output", width=8)
    with torch.inference_mode(), capture(case.model, site) as cap:
        case.model(case.batch)
    assert torch.equal(cap[site], case.model[0](case.batch))


def test_stop_ends_the_pass_after_the_last_wanted_site():
    case = make("mlp")
    ran = []
    case.model[4].register_forward_hook(lambda *a: ran.append(1))
    with capture(case.model, case.sites[0], stop=True) as cap:
        case.model(case.batch)
        ran.append("the line after the call")
    assert not ran
    assert cap["2:input"].shape == (6, 8)


def test_stop_waits_for_the_call_that_is_named():
    model = make("reused").model
    with capture(model, Site("shared", "input", width=5, call=2), stop=True) as cap:
        assert cap.run(torch.ones(2, 5)) is None
        seen = cap["shared:input#2"]
        assert cap.run(torch.zeros(2, 5)) is None
    assert not torch.equal(seen, cap["shared:input#2"])


def test_run_returns_the_output_when_nothing_stops():
    case = make("transformer")
    with capture(case.model, case.sites) as cap:
        assert torch.equal(cap.run(case.batch), call_model(case.model, case.batch))
    with pytest.raises(HookError, match="not open"):
        cap.run(case.batch)


def test_stop_of_an_outer_capture_passes_through_an_inner_one():
    case = make("mlp")
    with capture(case.model, case.sites[0], stop=True) as outer:
        with capture(case.model, case.sites[1], stop=True) as inner:
            inner.run(case.batch)
        pytest.fail("the outer capture's stop ended here")
    assert case.sites[0] in outer and case.sites[1] not in inner


def test_a_stop_is_no_failure_for_an_intervention_on_later_sites():
    case = make("mlp")
    with intervene(case.model, case.sites, "zero"), capture(case.model, case.sites[0], stop=True) as cap:
        cap.run(case.batch)
    assert (cap["2:input"] == 0).all()


@pytest.mark.parametrize("where", ["forward", "block", "interrupt"])
def test_exceptions_leave_no_hook(where):
    case = make("mlp")
    before = hooks_of(case.model)
    error = KeyboardInterrupt if where == "interrupt" else ZeroDivisionError

    def fail(*arguments):
        raise error

    with pytest.raises(error), capture(case.model, case.sites) as cap:
        if where == "block":
            raise error
        handle = case.model[3].register_forward_hook(fail)
        try:
            case.model(case.batch)
        finally:
            handle.remove()
    assert hooks_of(case.model) == before
    if where == "forward":
        assert case.sites[0] in cap and case.sites[1] not in cap


def test_a_users_hooks_survive_in_their_order():
    case = make("mlp")
    order = []
    case.model[2].register_forward_hook(lambda *a: order.append("first"))
    with capture(case.model, case.sites):
        late = case.model[2].register_forward_hook(lambda *a: order.append("second"))
        before = hooks_of(case.model)[3]
    assert hooks_of(case.model)[3][1] == before[1]
    case.model(case.batch)
    assert order == ["first", "second"]
    late.remove()
    assert len(case.model[2]._forward_hooks) == 1


def test_copies_of_a_model_do_not_write_into_the_capture():
    case = make("mlp")
    with capture(case.model, case.sites) as cap, intervene(case.model, case.sites[1], "zero"):
        twin, shallow = copy.deepcopy(case.model), copy.copy(case.model)
        file = io.BytesIO()
        torch.save(case.model, file)
        case.model(case.batch)
        kept = cap["2:input"]
        plain = twin(case.batch * 2)
        assert cap["2:input"] is kept
        shallow(case.batch)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(plain, case.model(case.batch * 2))
    assert torch.equal(plain, loaded(case.batch * 2))


def test_keyword_inputs_and_nested_outputs():
    case = make("tuple_output")
    with capture(case.model, [Site("pair", "input", width=4), Site("pair", "output", width=6)]) as cap:
        case.model(case.batch)
    assert torch.equal(cap["pair:input"], case.batch)

    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Bilinear(2, 2, 3)

        def forward(self, x):
            return self.inner(input1=x, input2=2 * x)

    model, x = ByKeyword(), torch.ones(1, 2)
    with capture(model, Site("inner", "input", width=2)) as cap:
        model(x)
    assert torch.equal(cap["inner:input"], x)
    with intervene(model, Site("inner", "input", width=2), "zero"):
        assert torch.equal(model(x), model.inner.bias.expand(1, 3))


def test_packed_sequences():
    lstm = nn.LSTM(3, 4, batch_first=True)
    packed = pack_padded_sequence(torch.randn(2, 5, 3), torch.tensor([5, 2]), batch_first=True)
    site = Site("", "output", width=4)
    with capture(lstm, [site, Site("", "input", width=3)]) as cap:
        output, _ = call_model(lstm, packed)
    assert cap[site].shape == (7, 4) and cap[site] is output.data
    assert cap[":input"] is packed.data
    with intervene(lstm, site, "zero"):
        output, (hidden, _) = lstm(packed)
    assert type(output) is type(packed) and not output.data.any() and hidden.any()
    assert torch.equal(output.batch_sizes, packed.batch_sizes)


Named = namedtuple("Named", "aux hidden")


@dataclasses.dataclass(frozen=True)
class Output:
    aux: None
    hidden: torch.Tensor


@pytest.mark.parametrize(
    ("make_output", "read"),
    [
        (lambda x: [None, x], lambda out: out[1]),
        (lambda x: (None, x), lambda out: out[1]),
        (lambda x: ("text", [{}, {"deep": x}]), lambda out: out[1][1]["deep"]),
        (lambda x: {"aux": None, "hidden": x, "last": x + 1}, lambda out: out["hidden"]),
        (lambda x: MappingProxyType({"aux": None, "hidden": x}), lambda out: out["hidden"]),
        (lambda x: Named(None, x), lambda out: out.hidden),
        (lambda x: Output(None, x), lambda out: out.hidden),
        (lambda x: torch.return_types.max((x, x)), lambda out: out.values),
    ],
)
def test_containers_are_rebuilt_with_their_type(make_output, read):
    class Maker(nn.Module):
        def forward(self, x):
            return make_output(x)

    model, x = Maker(), torch.ones(2, 3)
    with intervene(model, Site("", "output", width=3), "scale", 5.0):
        out = model(x)
    assert type(out) is type(make_output(x))
    assert torch.equal(read(out), 5 * x)
    assert torch.equal(x, torch.ones(2, 3))


def test_unreached_sites_say_why():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    site, x = Site("out_proj", "input", width=4), torch.randn(2, 3, 4)
    with capture(attention, site) as cap:
        with pytest.raises(SiteNotReachedError, match="has not run"):
            cap[site]
        attention(x, x, x)
    with pytest.raises(SiteNotReachedError, match="never calls its out_proj"):
        cap[site]
    with capture(Reused(), Site("shared", "input", width=5, call=3)) as cap:
        cap.run(torch.ones(1, 5))
    with pytest.raises(SiteNotReachedError, match=r"asks for call 3.*ran 3 time"):
        cap["shared:input#3"]


def test_hooks_switch_the_fused_encoder_layer_off():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x, site = torch.randn(2, 3, 8), Site("linear2", "input", width=16)
    with torch.no_grad():
        fused = layer(x)
        with capture(layer, site) as cap:
            watched = layer(x)
    assert cap[site].shape == (2, 3, 16)
    assert torch.allclose(fused, watched, atol=1e-6)


def test_nested_tensors_are_refused_with_advice():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    padding = torch.tensor([[False, False, True], [False, False, False]])
    with (
        torch.no_grad(),
        pytest.raises(SiteAxisError, match="enable_nested_tensor=False"),
        pytest.warns(UserWarning, match="nested tensors"),
        capture(model, Site("layers.0.linear2", "input", width=16)),
    ):
        model(torch.randn(2, 3, 8), src_key_padding_mask=padding)


def test_wrong_addresses():
    case = make("mlp")
    with pytest.raises(SiteNotFoundError, match="Closest"):
        capture(case.model, Site("22", "input", width=8))
    with pytest.raises(InvalidArgumentError, match="No site"):
        capture(case.model, [])
    with capture(case.model, case.sites) as cap:
        case.model(case.batch)
    with pytest.raises(SiteNotFoundError, match="4:input"):
        cap["4:inputs"]
    assert "4:inputs" not in cap and 3 not in cap
    assert repr(cap) == "<Capture: 2 of 2 sites read, closed>"
    before = hooks_of(case.model)
    for wrong in (Site("2", "input", width=9), Site("2", "input", width=8, axis=2)):
        with pytest.raises(SiteAxisError, match=r"shape \(6, 8\)"), capture(case.model, wrong):
            case.model(case.batch)
    conv = make("cnn")
    with (
        pytest.raises(SiteAxisError, match="Axis 1 would fit"),
        capture(conv.model, Site("2", "output", width=6)),
    ):
        conv.model(conv.batch)
    assert hooks_of(case.model) == before


def test_no_tensor_at_the_site():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with (
        pytest.raises(SiteAxisError, match="no tensor output"),
        capture(Silent(), Site("", "output", width=1)) as cap,
    ):
        cap.run(torch.ones(1))


def test_opening_twice_is_an_error():
    case = make("mlp")
    cap = capture(case.model, case.sites)
    with cap, pytest.raises(HookError, match="open already"):
        cap.__enter__()
    with cap:
        case.model(case.batch)
    assert case.sites[0] in cap


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    case = make("mlp")
    site = Site("2", "output", width=7)
    with torch.autocast("cpu", dtype=dtype):
        plain = case.model(case.batch)
        with capture(case.model, site) as cap:
            assert torch.equal(case.model(case.batch), plain)
        assert cap[site].dtype == dtype
        with intervene(case.model, site, "add", [0.5] * 7), capture(case.model, site) as inner:
            case.model(case.batch)
    assert inner[site].dtype == dtype
    assert torch.equal(inner[site], cap[site] + 0.5)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant, times=1):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.reentrant, self.times = reentrant, times

    def forward(self, x):
        for _ in range(self.times):
            if self.reentrant is None:
                x = self.inner(x)
            else:
                x = checkpoint(self.inner, x, use_reentrant=self.reentrant)
        return x


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_checkpointing_counts_a_batch_once(reentrant, times):
    model, x = Checkpointed(reentrant=reentrant, times=times), torch.randn(3, 4, requires_grad=True)
    plain = gradients(model, x)
    site, seen = Site("inner.2", "input", width=6), []
    with (
        capture(model, site) as cap,
        capture(model, site, reduce=lambda s, t: seen.append(t.square().sum()), copy=True),
    ):
        watched = gradients(model, x)
        assert len(cap.calls(site)) == len(seen) == times
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("times", [1, 3])
def test_checkpointing_repeats_the_intervention(reentrant, times):
    x, site = torch.randn(3, 4, requires_grad=True), Site("inner.2", "input", width=6)
    model, plain = Checkpointed(reentrant=reentrant, times=times), Checkpointed(reentrant=None, times=times)
    plain.load_state_dict(model.state_dict())
    results = []
    for each in (model, plain):
        with intervene(each, site, "scale", torch.linspace(0, 3, 6)), intervene(each, site, "add", 0.3):
            results.append(gradients(each, x))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(results[0], gradients(plain, x), strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_cannot_tell_calls_apart(reentrant):
    model = Checkpointed(reentrant=reentrant, times=2)
    with (
        pytest.raises(HookError, match="checkpointing"),
        intervene(model, Site("inner.2", "input", width=6, call=1), "zero"),
    ):
        gradients(model, torch.randn(3, 4, requires_grad=True))


def test_checkpointing_of_the_whole_model():
    model, x = LanguageModel(), torch.randint(11, (2, 5))
    site = Site("layers.1.down", "input", width=16)
    with capture(model, site) as cap:
        out = checkpoint(model, x, use_reentrant=False)
        before = cap[site]
        out.sum().backward()
        assert cap[site] is before


def test_greedy_generation_is_unchanged():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).eval()
    sites = [Site(f"transformer.h.{i}.mlp.c_proj", "input", width=64, layer=i) for i in range(2)]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    prompt = torch.tensor([[1, 2, 3]])
    plain = model.generate(prompt, **options)
    with capture(model, sites) as cap:
        watched = model.generate(prompt, **options)
    assert torch.equal(plain, watched)
    assert cap[sites[0]].shape == (1, 1, 64)
    with intervene(model, sites[0], "zero", positions=slice(0, None)):
        assert model.generate(prompt, **options).shape == (1, 11)
    with capture(model, Site("transformer", "output", width=16)) as whole:
        model(prompt)
    assert whole["transformer:output"].shape == (1, 3, 16)
    with intervene(model, Site("transformer", "output", width=16), "zero"):
        assert not model(prompt).logits.any()
