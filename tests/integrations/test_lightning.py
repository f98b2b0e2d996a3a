"""The callback in Lightning itself, under both of its names."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

from neuronwise.errors import HookError, InvalidArgumentError
from neuronwise.integrations.lightning import MonosemanticityCallback
from neuronwise.sites import Site
from neuronwise.train import ClassSelectivity, Controller, Monosemanticity, SoLU, TailPenalty

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
FIRST, SECOND = Site("layers.2", "input", width=8), Site("layers.4", "input", width=7)
SITES = [FIRST, SECOND]

# What Lightning itself warns of: workers that a tiny loader has not, the lack of a logger, its own deprecated calls.
pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:(lightning|pytorch_lightning).*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(lightning|pytorch_lightning|torch).*"),
]


@pytest.fixture(params=PACKAGES)
def package(request):
    return pytest.importorskip(request.param)


def module(package, *, fails=None, manual=False, empty=()):
    class Classifier(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual
            self.layers = nn.Sequential(
                nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)
            )
            self.callback = None

        def training_step(self, batch, number):
            if fails == "training" and self.global_step == 3:
                raise ZeroDivisionError
            if self.global_step in empty:
                return None
            x, y = batch
            loss = nn.functional.cross_entropy(self.layers(x), y)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss + self.callback.loss())
                optimizer.step()
                return None
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, number):
            if fails == "validation" and not self.trainer.sanity_checking:
                raise ZeroDivisionError
            x, y = batch
            self.log("val_loss", nn.functional.cross_entropy(self.layers(x), y))

        def on_before_zero_grad(self, optimizer):
            if fails == "zero_grad" and self.global_step == 3:
                raise ZeroDivisionError

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier()


def loader(seed=1, rows=40):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(rows, 5, generator=generator), torch.randint(3, (rows,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=8)


def trainer(package, folder, callback, **changed):
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
        "callbacks": [callback] if callback is not None else [],
    }
    return package.Trainer(**settings | changed)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)


def found(callback):
    return callback.state_dict()["watch"]


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_loss_is_added_as_in_a_plain_loop(package, tmp_path, pieces):
    callback = MonosemanticityCallback(SITES, TailPenalty(), start=0)
    model, plain = module(package), module(package)
    trainer(package, tmp_path, callback, accumulate_grad_batches=pieces).fit(model, loader())

    mono = Monosemanticity(plain, SITES, TailPenalty(), start=0)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    penalties = []
    with mono.attached():
        for _ in range(2):
            for number, (x, y) in enumerate(loader()):
                loss = nn.functional.cross_entropy(plain.layers(x), y)
                penalties.append(mono.loss())
                ((loss + penalties[-1]) / pieces).backward()
                if (number + 1) % pieces == 0 or number == 4:
                    optimizer.step()
                    optimizer.zero_grad()
                    mono.step()
    assert mono.steps == callback.monosemanticity.steps
    assert max(penalties) > 0
    for name, value in model.state_dict().items():
        assert torch.allclose(value, plain.state_dict()[name], atol=1e-6), name
    for name, value in mono.state_dict().items():
        assert torch.allclose(
            found(callback)[f"mono.{name}"].double(), value.double(), atol=1e-5, equal_nan=True
        )


@pytest.mark.parametrize(
    "method", [TailPenalty(), Controller("top", 3.0), None], ids=["tail", "controller", "none"]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(package, tmp_path, method):
    def fresh(**changed):
        callback = MonosemanticityCallback(
            SITES, method, start=1, health={"every": 1, "window": 4, "rows": 64}
        )
        saver = importlib.import_module(f"{package.__name__}.callbacks").ModelCheckpoint(
            dirpath=tmp_path, filename="{epoch}", save_top_k=-1
        )
        run = trainer(
            package,
            tmp_path,
            None,
            callbacks=[saver, callback],
            enable_checkpointing=True,
            max_epochs=4,
            **changed,
        )
        return callback, run, module(package)

    whole, run, model = fresh()
    run.fit(model, loader())
    assert whole.monosemanticity.steps == 20
    again, run, resumed = fresh()
    for parameter in resumed.parameters():
        nn.init.zeros_(parameter)
    run.fit(resumed, loader(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    assert equal(state(resumed), state(model))
    assert equal(found(again), found(whole))
    assert again.health.windows == 5
    other = MonosemanticityCallback([FIRST], method, start=1, health=True)
    with pytest.raises(InvalidArgumentError, match="sites"):
        trainer(package, tmp_path, other, max_epochs=4).fit(
            module(package), loader(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True
        )


@pytest.mark.parametrize("fails", ["training", "validation", "zero_grad"])
def test_nothing_stays_attached_after_an_exception(package, tmp_path, fails):
    callback = MonosemanticityCallback(SITES, TailPenalty(), start=0, health=True)
    model = module(package, fails=fails)
    with pytest.raises(ZeroDivisionError):
        trainer(package, tmp_path, callback).fit(model, loader(), loader(seed=2))
    assert hooks(model) == 0
    assert not callback._watch.running
    good, other = module(package), module(package)
    trainer(package, tmp_path, callback).fit(good, loader())  # as if nothing had been
    trainer(package, tmp_path, MonosemanticityCallback(SITES, TailPenalty(), start=0)).fit(other, loader())
    assert equal(state(good), state(other))
    assert hooks(good) == 0


def test_validation_and_sanity_checks_do_not_count_and_are_not_changed(package, tmp_path):
    states, models = [], []
    for validation in (None, loader(seed=2)):
        callback = MonosemanticityCallback(SITES, TailPenalty(), start=0, health={"every": 1, "window": 2})
        models.append(module(package))
        run = trainer(package, tmp_path, callback, num_sanity_val_steps=2, val_check_interval=2)
        run.fit(models[-1], loader(), validation)
        states.append(found(callback))
    assert equal(*states)
    assert equal(state(models[0]), state(models[1]))
    plain = trainer(package, tmp_path, None).validate(models[1], loader(seed=2), verbose=False)
    assert run.callback_metrics["val_loss"].item() != 0
    watched = trainer(package, tmp_path, callback).validate(models[1], loader(seed=2), verbose=False)
    assert plain == watched


def test_figures_are_logged_through_the_module(package, tmp_path):
    rows = []

    class Logger(importlib.import_module(f"{package.__name__}.loggers.logger").Logger):
        name = version = "test"

        def log_metrics(self, metrics, step=None):
            rows.append(dict(metrics))

        def log_hyperparams(self, *arguments, **options):
            pass

    health = {"every": 1, "window": 4, "rows": 64}
    callback = MonosemanticityCallback(SITES, "tail", start=0, health=health)
    run = trainer(package, tmp_path, callback, logger=Logger(), log_every_n_steps=2)
    run.fit(module(package), loader(), loader(seed=2))
    logged = [row for row in rows if "mono/steps" in row]
    assert [row["mono/steps"] for row in logged] == [2, 4, 6, 8, 10]
    assert {"mono/share", "mono/top", "mono/loss", "mono/health/dead", "train_loss"} <= logged[-1].keys()
    assert logged[-1]["mono/share"] == pytest.approx(callback.monosemanticity.log()["share"])
    assert not any("layers.2" in key for key in logged[-1])
    assert run.callback_metrics["mono/top"].item() == pytest.approx(callback.monosemanticity.log()["top"])


def test_a_step_that_the_scaler_skipped_does_not_count(package, tmp_path):
    plugins = importlib.import_module(f"{package.__name__}.plugins.precision")

    class Overflows(package.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, number):
            if trainer.global_step == 2:
                weight = pl_module.layers[0].weight
                handle = weight.register_hook(lambda grad: handle.remove() or grad * torch.inf)

    states = []
    for scale in (None, 64.0):
        callback = MonosemanticityCallback(SITES, "tail", start=0, health={"every": 1, "window": 2})
        model = module(package)
        others = {"callbacks": [callback]}
        if scale is not None:
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            precision = plugins.MixedPrecision("16-mixed", "cpu", scaler)
            precision.forward_context = plugins.Precision().forward_context  # the arithmetic of float32
            others["plugins"] = [precision]
        trainer(package, tmp_path, None, **others).fit(model, loader())
        states.append(state(model))
    # The scale does not reach the loss that was added.
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-6) for name in states[0])
    others["callbacks"] = [callback, Overflows()]
    trainer(package, tmp_path, None, **others).fit(module(package), loader())
    assert callback.monosemanticity.steps == callback.health.steps == 9
    assert callback.monosemanticity.log()["skipped_steps"] == 1


def test_manual_optimisation_adds_the_loss_itself(package, tmp_path):
    models = []
    for manual in (False, True):
        callback = MonosemanticityCallback(SITES, "tail", start=0)
        models.append(module(package, manual=manual))
        models[-1].callback = callback
        trainer(package, tmp_path, callback).fit(models[-1], loader())
        assert callback.monosemanticity.steps == 10
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(*(m.parameters() for m in models), strict=True)
    )
    with pytest.raises(HookError, match="no training is running"):
        callback.loss()


def test_a_training_step_without_a_loss_is_legal(package, tmp_path):
    callback = MonosemanticityCallback(SITES, "tail", start=0, health=True)
    trainer(package, tmp_path, callback).fit(module(package, empty=(3, 4)), loader())
    assert callback.monosemanticity.statistics[FIRST.name].batches == 8


def test_labels_are_told_and_two_callbacks_have_names_of_their_own(package, tmp_path):
    first = MonosemanticityCallback(
        FIRST, ClassSelectivity(alpha=1.0, classes=3), expect=lambda batch: {"labels": batch[1]}, start=0
    )
    second = MonosemanticityCallback(SECOND, "l2e", name="second", start=0)
    run = trainer(package, tmp_path, None, callbacks=[first, second])
    run.fit(module(package), loader())
    assert {"mono/selectivity", "second/top"} <= run.callback_metrics.keys()
    assert first.state_key != second.state_key


def test_a_method_that_always_acts_acts_in_validation_too(package, tmp_path):
    callback = MonosemanticityCallback(Site("layers.1", "output", width=8), SoLU())
    model = module(package)
    run = trainer(package, tmp_path, callback, max_epochs=1)
    run.fit(model, loader(), loader(seed=2))
    during = run.callback_metrics["val_loss"].item()
    after = trainer(package, tmp_path, None).validate(model, loader(seed=2), verbose=False)[0]["val_loss"]
    assert during != after
    with callback.monosemanticity.attached():
        after = trainer(package, tmp_path, None).validate(model, loader(seed=2), verbose=False)[0]["val_loss"]
    assert during == pytest.approx(after)


def test_what_cannot_work_is_said_at_once():
    with pytest.raises(TypeError, match="horizn"):
        MonosemanticityCallback(horizn=3)
    with pytest.raises(InvalidArgumentError, match="nothing to watch"):
        MonosemanticityCallback(phi=False)
