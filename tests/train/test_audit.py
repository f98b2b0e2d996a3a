"""The audit: pairing, one step, figures, words, errors before anything is trained."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from neuronwise.errors import DataError, InvalidArgumentError, SiteNotFoundError
from neuronwise.sites import Site, Sites, find_sites
from neuronwise.store import load_result
from neuronwise.train import (
    Audit,
    ClassSelectivity,
    Controller,
    KurtosisPenalty,
    NaiveDeactivation,
    ReversedDeactivation,
    SoLU,
    TailPenalty,
    audit,
)
from neuronwise.train._audit_data import Examples, default_loss, split_of
from neuronwise.train._audit_figures import figures_of
from neuronwise.train._audit_plan import Audited, Plan, audited, control_of
from neuronwise.train._audit_run import Meter, run
from neuronwise.train._audit_step import one_step
from neuronwise.train._audit_words import aim_of, condition_of, verdicts_of

QUICK = {
    "seeds": 2, "epochs": 2, "batch_size": 32, "start": 1, "probes": 1, "one_step": 1, "timed": 1,
    "measures": ["phi_above_9", "phi_top"], "rotation": False, "progress": False,
}  # fmt: skip


def blobs(n=150, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def network(seed):
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def plan_of(make_model, data, inhibitors, *, sites=None, **changes):
    settings = {
        "seeds": (0,), "sites": sites or find_sites(make_model(0)), "steps": None,
        "epochs": 2, "batch_size": 32, "schedule": None,
        "clip_norm": None, "augment": None, "metric": None, "embeddings": None, "measures": ("phi_top",),
        "rotation": False, "probes": 1, "one_step": 1, "one_step_rate": 0.01, "timed": 0, "unit": "feature",
        "horizon": 10, "start": 1, "examples": 500, "sample": 1000,
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    }  # fmt: skip
    rows, _ = audited(inhibitors, controls=True)
    return Plan(
        make_model=make_model,
        split=split_of(data, 0.3, None),
        rows=rows,
        loss=default_loss,
        **{**settings, **changes},
    )


@pytest.fixture(scope="module")
def found():
    inhibitors = {
        "still": TailPenalty(strength=0.0),
        "tail": TailPenalty(strength=1.0),
        "kurtosis": KurtosisPenalty(),
    }
    return audit(network, blobs(), inhibitors, **{**QUICK, "measures": None, "rotation": True})


def test_an_inhibitor_of_strength_0_equals_none_bit_for_bit(found):
    runs = found.tables["audit_runs"]
    runs = runs[runs["kind"].isin(["measure", "units", "task"]) & ~runs["control"].astype(bool)]
    keys = ["seed", "kind", "name", "basis", "site"]
    none, still, tail = (
        runs[runs["inhibitor"] == name].drop(columns=["inhibitor", "control"]).set_index(keys)
        for name in ("none", "still", "tail")
    )
    pd.testing.assert_frame_equal(none, still, check_exact=True)
    assert not none["end"].equals(tail["end"])
    assert (none["start"].dropna() == tail["start"].dropna()).all()
    figure = found.figure("still")
    assert (figure["difference"], figure["low"], figure["high"], figure["p"]) == (0.0, 0.0, 0.0, 1.0)
    assert found.tables["verdicts"].set_index("inhibitor").loc["still", "verdict"] == "no effect shown"


def test_weights_of_strength_0_and_of_none_are_the_same_bits():
    plan = plan_of(network, blobs(), [TailPenalty(strength=0.0)])
    split = plan.split(3)
    meter = Meter(plan, split, 3)
    initial = network(3).state_dict()
    ends = [run(plan, meter, row, initial, None)[1] for row in (plan.rows[0], plan.rows[1])]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in initial)
    assert not torch.equal(ends[0]["0.weight"], initial["0.weight"])


def test_the_tables_hold_every_figure_of_every_model(found, tmp_path):
    assert found.inhibitors == ("still", "tail", "kurtosis")
    runs = found.tables["audit_runs"]
    assert set(runs["kind"]) == {"measure", "units", "task", "one_step_start", "one_step_end", "cost"}
    assert set(runs.loc[runs["kind"] == "measure", "basis"]) == {"neuron", "rotated", "pca"}
    assert {"class_selectivity", "auc", "kurtosis", "phi_top", "hoyer"} <= set(runs["name"])
    assert set(found.tables["audit_curves"]["step"]) == {0, 8}
    shares = runs[(runs["kind"] == "units") & (runs["site"] == "")].groupby(["inhibitor", "control", "seed"])
    np.testing.assert_allclose(shares["end"].sum(), 1.0)
    assert found.figure("none", "cpu", kind="cost")["value"] == 1.0
    assert found.manifest.action["parameters"]["without_control"] == {
        "kurtosis": "it acts on all units, of which none can be chosen at random"
    }
    again = load_result(found.save(tmp_path / "audit"))
    assert isinstance(again, Audit) and again == found
    assert again.verdict() == found.verdict()
    with pytest.raises(InvalidArgumentError, match="Closest"):
        found.figure("tial")


def test_the_same_seeds_give_the_same_figures_and_leave_torch_alone():
    state = torch.random.get_rng_state()
    dropping = lambda seed: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))  # noqa: E731
    options = {**QUICK, "timed": 0}
    one, two = (audit(dropping, blobs(), ["reversed"], **options) for _ in range(2))
    assert one == two
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_step_of_a_linear_layer_is_as_computed_by_hand():
    # z = w x for single inputs x = 1, loss (z - 4)^2: the gradient of a replaced entry is that at the mean.
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(1, 1, bias=False)
            with torch.no_grad():
                self.line.weight.fill_(2.0)

        def forward(self, x):
            return self.line(x)

    x = torch.tensor([[3.0], [-1.0], [-1.0], [-1.0]])
    y = 4 * x
    methods = [ReversedDeactivation(), NaiveDeactivation(variant="a"), NaiveDeactivation(variant="b")]
    sites = Sites([Site("line", "output", width=1)])
    plan = plan_of(
        lambda seed: Line(), ((x, y), (x, y)), methods, batch_size=4, one_step_rate=0.001, sites=sites
    )
    state = Line().state_dict()
    found = one_step(plan, plan.split(0), 0, state)
    # Mean of z is 0 and phi = z^2 / v with v frozen, so phi falls exactly where |w| does. Wanted is w = 4: the plain
    # step and (b) make it grow, (a) has no gradient, and reversal makes it shrink.
    falls = {key: figures["falls"] for key, figures in found.items() if not key[1]}
    assert falls == {
        ("none", False): 0.0,
        ("reversed", False): 1.0,
        ("naive", False): 0.0,
        ("naive_2", False): 0.0,
    }
    assert found["none", False]["sign_condition"] == 1.0
    # dL/dw with every entry at its mean 0: mean of 2 (0 - y) x = -8 mean(x^2) = -24; plain: 2 (2 - 4) 3 = -12.
    for name, gradient in (("none", -12.0), ("reversed", 24.0), ("naive", 0.0), ("naive_2", -24.0)):
        expected = 100 * (1 - ((2.0 - 0.001 * gradient) / 2.0) ** 2)
        assert found[name, False]["relative_fall"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found["reversed", False]["below_plain"] == 1.0
    assert found["naive_2", False]["below_plain"] == 0.0


def test_paired_figures_are_those_of_the_paired_t_test():
    from scipy import stats

    rng = np.random.default_rng(0)
    rows = []
    values = {("none", False): rng.normal(10, 3, 6)}
    values["a", False] = values["none", False] - 2 + 0.1 * rng.normal(size=6)
    values["a", True] = values["none", False] + 0.1 * rng.normal(size=6)
    for (inhibitor, control), ends in values.items():
        for seed, end in enumerate(ends):
            rows.append((inhibitor, control, seed, "measure", "phi_top", "neuron", "", 0.0, end))
    columns = ["inhibitor", "control", "seed", "kind", "name", "basis", "site", "start", "end"]
    figures = figures_of(pd.DataFrame(rows, columns=columns)).set_index(["inhibitor", "control", "versus"])
    for versus, other in (("none", ("none", False)), ("random", ("a", True))):
        test = stats.ttest_rel(values["a", False], values[other])
        low, high = test.confidence_interval()
        row = figures.loc["a", False, versus]
        assert (row["low"], row["high"], row["p"]) == pytest.approx((low, high, test.pvalue))
        assert row["relative"] == pytest.approx(row["difference"] / values[other].mean())


def row_of(inhibitor, kind, name, value, reference, half, *, basis="", control=False, versus="none", n=5):
    low, high = value - reference - half, value - reference + half
    return {
        "inhibitor": inhibitor, "control": control, "versus": versus, "kind": kind, "name": name, "basis": basis,
        "value": value, "reference": reference, "difference": value - reference, "low": low, "high": high, "p": 0.5,
        "relative": (value - reference) / reference, "relative_low": low / reference, "relative_high": high / reference,
        "n": n,
    }  # fmt: skip


def judged(value, aim, *, half=0.1, random=1.0, n=5, seeds=5, accuracy=0.9):
    phi = {"kind": "measure", "name": "phi_above_9", "basis": "neuron"}
    rows = [
        row_of("x", value=value, reference=1.0, half=half, n=n, **phi),
        row_of("x", value=value, reference=random, half=half, versus="random", n=n, **phi),
        row_of("x", value=random, reference=1.0, half=half, control=True, n=n, **phi),
        row_of("x", "task", "accuracy", accuracy, 0.9, 0.01, n=n),
    ]
    figures = pd.DataFrame([row for row in rows if row["n"]])
    options = {"by": "phi_above_9", "metric": "accuracy", "less_is_better": ["loss"], "seeds": seeds}
    return verdicts_of(figures, {"x": aim}, **options).iloc[0]


@pytest.mark.parametrize(
    ("arguments", "verdict", "words"),
    [
        (
            {"value": 0.3, "aim": "lower"},
            "as meant",
            "x lowers the held-out share of phi above 9 by 70 % [60, 80]",
        ),
        ({"value": 1.4, "aim": "lower"}, "the opposite", "raises"),
        ({"value": 1.4, "aim": "lower"}, "the opposite", "though it is meant to lower it"),
        ({"value": 0.3, "aim": "raise"}, "the opposite", "though it is meant to raise it"),
        ({"value": 1.4, "aim": "raise"}, "as meant", "by 40 % [30, 50]"),
        ({"value": 1.05, "aim": "lower"}, "no effect shown", "no effect shown on the held-out share"),
        ({"value": 0.3, "aim": "lower", "random": 0.35}, "as at random", "is not shown to differ"),
        ({"value": 0.3, "aim": ""}, "lowers", "x lowers"),
        ({"value": 1.4, "aim": ""}, "raises", "x raises"),
        ({"value": 0.3, "aim": "lower", "half": np.nan, "n": 1, "seeds": 1}, "too few seeds", "one seed"),
        ({"value": 0.3, "aim": "lower", "n": 1}, "diverged", "diverged"),
        ({"value": 0.3, "aim": "lower", "half": 0.0}, "no effect shown", ""),
        ({"value": 0.3, "aim": "lower", "accuracy": 0.8}, "as meant", "(paired -0.1 [-0.11, -0.09], worse)"),
        ({"value": 0.3, "aim": "lower", "accuracy": 0.895}, "as meant", "no difference shown"),
    ],
)
def test_the_verdict_follows_from_the_figures(arguments, verdict, words):
    found = judged(**arguments)
    assert found["verdict"] == verdict
    assert words in found["sentence"]


def test_what_an_inhibitor_is_meant_to_do():
    assert aim_of(ReversedDeactivation()) == aim_of(TailPenalty()) == aim_of(ClassSelectivity()) == "lower"
    assert (
        aim_of(TailPenalty(strength=-1.0)) == aim_of(ClassSelectivity(alpha=1.0)) == aim_of(SoLU()) == "raise"
    )
    assert aim_of(Controller("top", 5.0)) == aim_of(TailPenalty(strength=0.0)) == ""


def test_controls_and_names():
    rows, without = audited(
        ["tail", TailPenalty(strength=1.0), "solu", ReversedDeactivation(selection="random")], controls=True
    )
    assert [(row.inhibitor, row.control) for row in rows] == [
        ("none", False), ("tail", False), ("tail", True), ("tail_2", False), ("tail_2", True), ("solu", False),
        ("reversed", False),
    ]  # fmt: skip
    assert rows[2].method.selection == "random"
    assert set(without) == {"solu", "reversed"}
    control, _ = control_of(Controller("top", 5.0))
    assert control.method == TailPenalty(selection="random")
    assert audited("tail", controls=False)[0][1:] == (Audited("tail", False, TailPenalty()),)
    with pytest.raises(InvalidArgumentError, match="taken"):
        audited({"none": "tail"}, controls=True)


def test_data_in_every_form():
    x, y = blobs()
    split = split_of((x.double().numpy(), y.numpy()), 0.2, None)
    one, two = split(0), split(1)
    assert (len(one.train), len(one.test)) == (120, 30)
    assert one.train.inputs.dtype == torch.float32
    assert not torch.equal(one.test.inputs, two.test.inputs)
    assert torch.equal(one.labels, one.test.tree[1])
    fixed = split_of(((x[:100], y[:100]), (x[100:], y[100:])), 0.2, None)
    assert torch.equal(fixed(0).test.inputs, x[100:])
    measured = split_of((x, y), 0.2, (x[:9], torch.arange(9)))(0)
    assert torch.equal(measured.shown.inputs, x[:9]) and torch.equal(measured.labels, torch.arange(9))
    words = torch.arange(480).reshape(40, 12)
    assert split_of((words, words), 0.2, None)(0).labels is None  # words are no classes
    named = Examples.of({"x": x, "y": y})
    assert set(named.take(torch.arange(3))) == {"x", "y"} and len(named) == 150


def test_losses_that_the_data_suggest():
    words = torch.randint(7, (4, 5))
    table = nn.Embedding(7, 7)
    expected = nn.functional.cross_entropy(table(words)[:, :-1].reshape(-1, 7), words[:, 1:].reshape(-1))
    assert default_loss(table, words) == expected
    tags = torch.tensor([[0, 1, -100, 2, 3]] * 4)
    expected = nn.functional.cross_entropy(table(words).reshape(-1, 7), tags.reshape(-1))
    assert default_loss(table, (words, tags)) == expected
    line = nn.Linear(6, 1)
    x, _ = blobs()
    assert default_loss(line, (x, x[:, 0])) == (line(x)[:, 0] - x[:, 0]).square().mean()
    with pytest.raises(InvalidArgumentError, match="token ids"):
        default_loss(line, x)


def test_own_loss_metric_and_augmentation_get_what_is_said():
    seen = {"batches": 0, "augmented": 0}

    def loss(model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)

    def metric(model, batches):
        assert not model.training and not torch.is_grad_enabled()
        seen["batches"] += len(list(batches))
        return {"error": 0.25}

    def augment(batch, generator):
        seen["augmented"] += 1
        return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]

    found = audit(network, blobs(), "tail", loss=loss, metric=metric, augment=augment, **QUICK)
    assert found.metric == "error" and "Error 0.25 against 0.25" in found.verdict("tail")
    assert seen["batches"] == 2 * 2 * (
        1 + 3
    )  # two a pass: at the start once, at the end of three models, two seeds
    assert seen["augmented"] == 2 * 3 * 8


def test_a_sequence_model_with_classes_of_positions():
    ids = torch.randint(9, (60, 8), generator=torch.Generator().manual_seed(0))
    net = lambda seed: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 9))  # noqa: E731
    options = {**QUICK, "measures": ["phi_top", "class_selectivity"], "by": "class_selectivity"}
    found = audit(net, ids, {"less": "tail"}, measured_on=(ids, ids % 3), **options)
    assert found.metric == "loss"
    assert np.isfinite(found.figure("less")["value"])


def test_a_model_that_diverges_is_told():
    options = {**QUICK, "one_step": 0, "timed": 0}
    blown = {"blown": TailPenalty(strength=1e30), "tail": TailPenalty()}
    found = audit(
        network, blobs(), blown, controls=False, optimizer=lambda p: torch.optim.SGD(p, 0.1), **options
    )
    verdicts = found.tables["verdicts"].set_index("inhibitor")
    assert verdicts.loc["blown", "verdict"] == "diverged"
    assert verdicts.loc["tail", "verdict"] != "diverged"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"inhibitors": "tial"}, InvalidArgumentError, "Closest"),
        ({"measures": ["phi_topp"]}, InvalidArgumentError, "no measure"),
        ({"by": "nothing"}, InvalidArgumentError, "no measure"),
        ({"data": (blobs()[0], blobs()[0]), "measures": ["auc"]}, InvalidArgumentError, "needs classes"),
        (
            {"data": (blobs()[0], blobs()[0]), "inhibitors": "selectivity"},
            InvalidArgumentError,
            "needs classes",
        ),
        ({"inhibitors": "monoscore"}, InvalidArgumentError, "embeddings"),
        ({"epochs": 1, "start": 10}, InvalidArgumentError, "warm-up"),
        ({"seeds": []}, InvalidArgumentError, "seeds"),
        ({"probes": 0}, InvalidArgumentError, "probes"),
        ({"one_step": -1}, InvalidArgumentError, "one_step"),
        ({"one_step_rate": 0.0}, InvalidArgumentError, "one_step_rate"),
        ({"timed": -3}, InvalidArgumentError, "timed"),
        ({"held_out": 1.5}, InvalidArgumentError, "held_out"),
        ({"data": (blobs()[0], blobs()[1][:9])}, DataError, "same number"),
        ({"sites": "nowhere"}, SiteNotFoundError, "nowhere"),
        ({"measured_on": blobs()[0]}, InvalidArgumentError, "classes"),
    ],
)
def test_errors_come_before_training(changes, error, words):
    made = []

    def make_model(seed):
        made.append(seed)
        return network(seed)

    arguments = {"data": blobs(), "inhibitors": "tail", **QUICK, **changes}
    data, inhibitors = arguments.pop("data"), arguments.pop("inhibitors")
    with pytest.raises(error, match=words):
        audit(make_model, data, inhibitors, **arguments)
    assert len(made) <= 1


def test_the_sign_condition_in_words(found):
    assert "sign condition" in condition_of(found.tables["audit_figures"])
    assert condition_of(found.tables["audit_figures"].iloc[:0]) == ""
