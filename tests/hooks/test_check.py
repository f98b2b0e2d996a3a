import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

from neuronwise.errors import BatchMismatchError, CompiledModelError, HookError
from neuronwise.hooks import CheckReport, CheckRow, check
from neuronwise.sites import Site
from tests.models import NAMES, make


def row(report, name):
    return next(r for r in report.rows if r.name == name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_the_zoo_passes(name, training):
    case = make(name)
    case.model.train(training)
    report = check(case.model, case.batch, case.sites)
    assert report.passed, str(report)
    assert "skipped" not in str(report)
    assert all(module.training is training for module in case.model.modules())
    report.raise_if_failed()


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_sites_are_found_where_none_are_given(name):
    case = make(name)
    report = check(case.model, case.batch)
    assert report.passed, str(report)
    assert row(report, "sites reached").detail == "2 of 2, once each"


def test_a_language_model_of_the_hub_kind():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=23, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
    report = check(model, {"input_ids": torch.randint(23, (2, 5)), "use_cache": False})
    assert report.passed, str(report)
    assert "skipped" not in str(report)


def test_report_as_table_and_text():
    report = CheckReport((CheckRow("a", True, "fine"), CheckRow("bb", False, "broken")))
    assert not report.passed
    assert report.to_frame().to_dict("list") == {
        "name": ["a", "bb"], "passed": [True, False], "detail": ["fine", "broken"],
    }  # fmt: skip
    assert str(report) == "ok    a   fine\nFAIL  bb  broken"
    assert "<table" in report._repr_html_()
    with pytest.raises(HookError, match="bb: broken"):
        report.raise_if_failed()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.rows = ()


def test_a_site_that_is_never_reached_fails():
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    report = check(attention, (x, x, x), Site("out_proj", "input", width=4))
    assert not row(report, "sites reached").passed
    assert "out_proj" in row(report, "sites reached").detail
    assert row(report, "outputs unchanged").passed and row(report, "model untouched").passed


def test_a_wrong_width_fails_with_the_reason():
    case = make("mlp")
    report = check(case.model, case.batch, Site("2", "input", width=9))
    assert "SiteAxisError" in row(report, "sites reached").detail
    assert row(report, "model untouched").passed


def test_a_cut_gradient_is_found():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)).detach())

    report = check(Cut(), torch.ones(2, 3), [Site("a", "output", width=4), Site("b", "input", width=4)])
    assert row(report, "gradients flow").detail == "the output has no gradient to a:output"


def test_whole_number_outputs_skip_the_gradient():
    class Argmax(nn.Linear):
        def forward(self, x):
            return super().forward(x).argmax(-1)

    report = check(Argmax(3, 4), torch.randn(2, 3), Site("", "input", width=3))
    assert row(report, "gradients flow").detail.startswith("skipped")
    assert report.passed


def test_a_model_with_chance_of_its_own_fails():
    class Restless(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) + self.calls

    report = check(Restless(3, 2), torch.ones(1, 3), Site("", "input", width=3))
    assert "not deterministic" in row(report, "outputs unchanged").detail


def test_a_coarse_kernel_is_found_by_float64():
    class Coarse(nn.Linear):
        def forward(self, x):
            if self.weight.dtype == torch.float64:
                return super().forward(x)
            return nn.functional.linear(x.bfloat16(), self.weight.bfloat16()).float() + self.bias

    model = nn.Sequential(Coarse(30, 20), nn.ReLU(), nn.Linear(20, 3))
    report = check(model, torch.randn(8, 30), Site("2", "input", width=20))
    agreement = row(report, "agrees with float64")
    assert not agreement.passed
    assert "relative error" in agreement.detail and "allowed" in agreement.detail


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    case = make("cnn")
    case.model.to(dtype)
    report = check(case.model, case.batch.to(dtype), case.sites)
    assert report.passed, str(report)
    assert str(dtype).removeprefix("torch.") in row(report, "agrees with float64").detail


def test_autocast_is_measured_against_its_own_dtype():
    case = make("mlp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = check(case.model, case.batch, case.sites)
    assert report.passed, str(report)
    assert "bfloat16" in row(report, "agrees with float64").detail


class Keeps(nn.Module):
    """Computes with what it was built with, and gives several outputs in a data class."""

    @dataclasses.dataclass
    class Output:
        first: torch.Tensor
        second: torch.Tensor

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.a(x)
        return self.Output(self.b(hidden), hidden)


def test_outputs_in_a_data_class():
    report = check(Keeps(), torch.randn(5, 3), Site("b", "input", width=4))
    assert report.passed and "2 output tensor(s)" in row(report, "outputs unchanged").detail


def test_packed_sequences():
    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    report = check(nn.LSTM(3, 5), packed, Site("", "output", width=5))
    assert report.passed, str(report)
    report = check(nn.LSTM(3, 5), (packed,), Site("", "output", width=5))
    assert report.passed, str(report)


def test_a_model_that_only_runs_in_float32_skips_the_comparison():
    class Fixed(nn.Linear):
        def forward(self, x):
            return super().forward(x.float())

    report = check(Fixed(3, 2), torch.ones(1, 3), Site("", "input", width=3))
    assert row(report, "agrees with float64").detail.startswith("skipped: no float64 copy")


def test_an_output_that_does_not_depend_on_the_site_is_found():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    report = check(Around(), torch.ones(1, 3), Site("unused", "output", width=3))
    assert "does not depend" in row(report, "interventions act").detail
    assert "no gradient to unused" in row(report, "gradients flow").detail


def test_a_gradient_that_is_not_finite_is_found():
    class Root(nn.Linear):
        def forward(self, x):
            return super().forward(x).mul(0).sqrt()

    report = check(Root(3, 2), torch.ones(1, 3), Site("", "input", width=3))
    assert "not finite at :input" in row(report, "gradients flow").detail


def test_a_model_that_changes_itself_is_found():
    class Learner(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            with torch.no_grad():
                self.weight.mul_(1.5)
            return out

    report = check(Learner(3, 2), torch.ones(1, 3), Site("", "input", width=3))
    assert row(report, "model untouched").detail == "changed: weights"


def test_fused_layers_are_named_as_the_reason():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    report = check(layer, torch.randn(3, 5, 8), Site("linear2", "input", width=16))
    unchanged = row(report, "outputs unchanged")
    assert unchanged.passed or "fused fast paths" in unchanged.detail
    assert row(report, "agrees with float64").passed


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))

        def forward(self, x):
            return checkpoint(self.inner, x + self.inner[0].bias[:3], use_reentrant=reentrant)

    report = check(Checkpointed(), torch.randn(2, 3), Site("inner.2", "input", width=4))
    failed = [r.name for r in report.rows if not r.passed]
    assert failed == (["gradients flow"] if reentrant else []), str(report)


def test_in_place_before_the_site_is_no_obstacle():
    case = make("inplace")
    report = check(case.model, case.batch, Site("0", "output", width=8))
    assert row(report, "gradients flow").passed


def test_bad_batches_and_models_are_errors_at_once():
    case = make("mlp")
    with pytest.raises(BatchMismatchError):
        check(case.model, case.batch.double(), case.sites)
    with pytest.raises(CompiledModelError):
        check(torch.compile(case.model, backend="eager"), case.batch, case.sites)
