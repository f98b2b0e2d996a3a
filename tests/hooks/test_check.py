import dataclasses

import pytest
import torch
from torch import nn

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
