import functools
import random

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from neuronwise.errors import BatchMismatchError, CompiledModelError
from neuronwise.hooks import batch_mismatch, call_model, capture, intervene, refuse_uncatchable, untouched
from tests.models import make


class Recorder(nn.Module):
    def forward(self, *args, **kwargs):
        return args, kwargs


def test_call_model_by_kind_of_batch():
    x = torch.ones(1)
    packed = pack_sequence([torch.ones(2, 1)])
    assert call_model(Recorder(), {"x": x}) == ((), {"x": x})
    assert call_model(Recorder(), [x, 2]) == ((x, 2), {})
    assert call_model(Recorder(), (x,)) == ((x,), {})
    assert call_model(Recorder(), x) == ((x,), {})
    assert call_model(Recorder(), packed)[0][0] is packed


compiled = functools.partial(torch.compile, backend="eager")


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (compiled, "torch.compile"),
        (lambda m: nn.Sequential(nn.ReLU(), compiled(m)), "The module '1'"),
        (lambda m: m.compile(backend="eager") or m, "in place"),
        (lambda m: setattr(m, "forward", compiled(m.forward)) or m, "in place"),
        (nn.DataParallel, r"\.module"),
    ],
)
def test_models_that_skip_hooks_are_refused(wrap, message):
    case = make("mlp")
    model = wrap(case.model)
    for attempt in (
        refuse_uncatchable,
        lambda m: capture(m, case.sites),
        lambda m: intervene(m, case.sites, "zero"),
    ):
        with pytest.raises(CompiledModelError, match=message):
            attempt(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.model.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_models_are_refused():
    with pytest.raises(CompiledModelError, match="TorchScript"):
        refuse_uncatchable(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)))


def test_untouched_puts_modes_buffers_and_random_state_back():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3))
    model[2].eval()
    flags = [m.training for m in model.modules()]
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    state, python_state = torch.get_rng_state(), random.getstate()
    with pytest.raises(ZeroDivisionError), untouched(model, eval_mode=False):
        assert [m.training for m in model.modules()] == flags
        model(torch.randn(4, 3))
        assert not torch.equal(model[0].running_mean, buffers["0.running_mean"])
        raise ZeroDivisionError
    with untouched(model):
        assert not any(m.training for m in model.modules())
        first = torch.randn(2)
    with untouched(model):
        assert torch.equal(first, torch.randn(2))
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, buffers[k]) for k, v in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == python_state


def test_untouched_leaves_lazy_modules_to_themselves():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    with untouched(model):
        pass
    assert model[0].running_mean is not None


def test_untouched_puts_replaced_buffers_back():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("none", None)

        def forward(self, x):
            self.count = self.count + 1
            return x

    model = Counter()
    buffer = model.count
    with untouched(model):
        model(torch.ones(1))
        assert model.count == 1
    assert model.count is buffer and buffer == 0


def test_batch_of_another_dtype_names_both_and_the_cure():
    case = make("mlp")
    with pytest.raises(BatchMismatchError, match=r"float64.*float32.*batch\.to\(torch\.float32\)"):
        batch_mismatch(case.model, case.batch.double())
    batch_mismatch(case.model, case.batch)
    with torch.autocast("cpu"):
        batch_mismatch(case.model, case.batch.double())
    batch_mismatch(case.model.to(torch.float64), case.batch.double())


def test_token_ids_and_masks_fit_any_dtype():
    case = make("transformer")
    batch_mismatch(case.model.bfloat16(), {**case.batch, "attention_mask": torch.ones(3, 6)})


def test_batch_on_another_device():
    case = make("mlp")
    with pytest.raises(BatchMismatchError, match=r"batch\['x'\] is on meta, the model on cpu.*to\('cpu'\)"):
        batch_mismatch(case.model, {"x": case.batch.to("meta")})
    batch_mismatch(case.model.to("meta"), case.batch)
    batch_mismatch(nn.ReLU(), case.batch.double())
