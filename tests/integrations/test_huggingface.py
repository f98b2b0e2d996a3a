"""The callback in the Trainer of transformers itself."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import HPSearchBackend

from neuronwise.errors import HookError, InvalidArgumentError
from neuronwise.integrations.huggingface import MonosemanticityCallback
from neuronwise.sites import Site
from neuronwise.train import L2E, ClassSelectivity, Controller, Monosemanticity, SoLU, TailPenalty

FIRST, SECOND = Site("layers.2", "input", width=8), Site("layers.4", "input", width=7)


class Classifier(nn.Module):
    """A perceptron that returns a loss of its own, a mean over the batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
        self.fails = None
        self.calls = 0

    def forward(self, x, labels=None):
        self.calls += self.training
        if self.fails is not None and self.calls == self.fails:
            raise ZeroDivisionError
        logits = self.layers(x)
        # With a loss function or smoothing of its own, the Trainer keeps the labels.
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return loss | {"logits": logits}


def classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier()


def language_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2
        )
        return LlamaForCausalLM(config)


def rows(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"x": torch.randn(5, generator=generator), "labels": torch.randint(3, (), generator=generator)}
        for _ in range(count)
    ]


def texts(count):
    """Token ids with padding, so that micro-batches have different numbers of labels."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        ids = torch.randint(1, 20, (6,), generator=generator)
        mask = (torch.arange(6) < 3 + number % 4).long()
        found.append({"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)})
    return found


def arguments(folder, **changed):
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "seed": 3,
    }
    return TrainingArguments(**settings | changed)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)


def close(a, b):
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def run(folder, callback, *, model=None, others=(), **changed):
    trainer = Trainer(
        model or classifier(),
        arguments(folder, **changed),
        train_dataset=rows(40),
        eval_dataset=rows(30, seed=2),
        callbacks=list(others),
    )
    return callback.join(trainer)


def found(callback):
    return callback._watch.state_dict()


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("kind", ["mean", "items", "function", "smoothed"])
def test_the_loss_is_added_as_in_a_plain_loop(tmp_path, pieces, kind):
    """Twice 5 micro-batches: with three a step, the last step of an epoch has two."""
    language = kind in ("items", "smoothed")
    data, model = (texts(40), language_model()) if language else (rows(40), classifier())
    plain = copy.deepcopy(model)
    callback = MonosemanticityCallback(None, TailPenalty(), start=0)
    seen = []
    collate = torch.utils.data.default_collate
    options = {}
    if kind == "function":
        options["compute_loss_func"] = lambda outputs, labels, num_items_in_batch: (
            nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch
        )
    smoothing = 0.1 if kind == "smoothed" else 0.0
    trainer = callback.join(
        Trainer(
            model,
            arguments(tmp_path, gradient_accumulation_steps=pieces, label_smoothing_factor=smoothing),
            train_dataset=data,
            data_collator=lambda batch: seen.append(collate(batch)) or seen[-1],
            **options,
        )
    )
    trainer.train()

    mono = Monosemanticity(plain, None, TailPenalty(), start=0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    plain.train()
    with mono.attached():
        for epoch in (seen[:5], seen[5:]):
            for start in range(0, 5, pieces):
                step = epoch[start : start + pieces]
                items = sum((batch["labels"][:, 1:] != -100).sum() for batch in step) if language else None
                for batch in step:
                    if kind == "items":
                        loss = plain(**batch, num_items_in_batch=items).loss
                    elif kind == "smoothed":
                        labels = batch.pop("labels")
                        loss = LabelSmoother(0.1)(
                            plain(**batch), labels, shift_labels=True, num_items_in_batch=items
                        )
                    else:
                        logits = plain(**batch)["logits"]
                        loss = nn.functional.cross_entropy(logits, batch["labels"]) / len(step)
                    (loss + mono.loss() / len(step)).backward()
                optimizer.step()
                optimizer.zero_grad()
                mono.step()
    assert len(seen) == 10
    assert mono.log()["loss"] > 0
    assert close(state(model), state(plain))
    for name, value in mono.state_dict().items():
        assert torch.allclose(
            found(callback)[f"mono.{name}"].double(), value.double(), atol=1e-5, equal_nan=True
        ), name


@pytest.mark.parametrize(
    "method", [TailPenalty(), Controller("top", 3.0), None], ids=["tail", "controller", "none"]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, method):
    def fresh(name, **changed):
        health = {"every": 1, "window": 2, "rows": 64}
        callback = MonosemanticityCallback(None, method, start=1, health=health)
        changed = {
            "optim": "adamw_torch",
            "learning_rate": 0.01,
            "save_strategy": "steps",
            "save_steps": 3,
        } | changed
        return callback, run(tmp_path / name, callback, gradient_accumulation_steps=2, **changed)

    whole, trainer = fresh("whole")
    trainer.train()
    assert trainer.state.global_step == 6
    assert sorted(path.name for path in (tmp_path / "whole" / "checkpoint-3").glob("*neuronwise*")) == [
        "neuronwise-mono.safetensors"
    ]
    again, resumed = fresh("again")
    for parameter in resumed.model.parameters():
        nn.init.zeros_(parameter)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert equal(state(resumed.model), state(trainer.model))
    assert equal(found(again), found(whole))
    assert again.monosemanticity.steps == 6
    assert again.health.windows == 3
    last, first = (
        [{k: v for k, v in row.items() if "mono" in k} for row in t.state.log_history if "loss" in row]
        for t in (resumed, trainer)
    )
    assert last[-3:] == first[-3:]
    # True means the latest in the output folder.
    assert resumed.train(resume_from_checkpoint=True).global_step == 6


def test_a_checkpoint_from_before_the_callback_begins_anew_with_a_warning(tmp_path):
    Trainer(
        classifier(), arguments(tmp_path, save_strategy="steps", save_steps=5), train_dataset=rows(40)
    ).train()
    callback = MonosemanticityCallback()
    trainer = run(tmp_path, callback)
    with pytest.warns(UserWarning, match="statistics begin anew"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert callback.monosemanticity.steps == 5


def test_a_trial_of_a_hyperparameter_search_saves_the_state_in_its_own_folder(tmp_path, monkeypatch):
    callback = MonosemanticityCallback(None, "tail", start=0)
    trainer = run(tmp_path, callback, save_strategy="steps", save_steps=3)
    # As hyperparameter_search() leaves the Trainer for a trial of Optuna, which need not be installed here.
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    trainer.hp_search_backend, trainer.hp_space = HPSearchBackend.OPTUNA, lambda trial: {}
    trainer.train(trial=SimpleNamespace(number=2, params={}))
    folders = sorted(path.parent.name for path in tmp_path.glob("run-2/*/neuronwise-mono.safetensors"))
    assert folders == ["checkpoint-10", "checkpoint-3", "checkpoint-6", "checkpoint-9"]
    trainer.hp_search_backend = None
    again = MonosemanticityCallback(None, "tail", start=0)
    resumed = run(tmp_path, again)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run-2" / "checkpoint-6"))
    assert equal(found(again), found(callback))
    trainer.save_model(str(tmp_path / "final"))
    assert not list((tmp_path / "final").glob("neuronwise*"))


class Fails(TrainerCallback):
    def __init__(self, event):
        self.event = event

    def on_step_end(self, args, state, control, **kwargs):
        if self.event == "step" and state.global_step == 3:
            raise ZeroDivisionError

    def on_evaluate(self, args, state, control, **kwargs):
        if self.event == "evaluation":
            raise ZeroDivisionError


@pytest.mark.parametrize("event", ["forward", "step", "evaluation"])
def test_nothing_stays_attached_after_an_exception(tmp_path, event):
    model = classifier()
    model.fails = 4 if event == "forward" else None
    callback = MonosemanticityCallback(None, TailPenalty(), start=0, health=True)
    trainer = run(tmp_path, callback, model=model, others=[Fails(event)], eval_strategy="epoch")
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert hooks(model) == 0
    assert not callback._watch.running
    batch = torch.utils.data.default_collate(rows(8))
    model.fails = None
    assert torch.equal(trainer.compute_loss(model, dict(batch)), model(**batch)["loss"])
    if event != "evaluation":
        trainer.remove_callback(Fails)
        model.load_state_dict(classifier().state_dict())
        trainer.train()  # as if nothing had been
        other = classifier()
        run(tmp_path, MonosemanticityCallback(None, TailPenalty(), start=0), model=other).train()
        assert close(state(model), state(other))


def test_evaluations_do_not_count_and_are_not_changed(tmp_path):
    states = []
    for often in ("no", "steps"):
        callback = MonosemanticityCallback(None, TailPenalty(), start=0, health={"every": 1, "window": 2})
        trainer = run(tmp_path, callback, eval_strategy=often, eval_steps=1, eval_on_start=often == "steps")
        trainer.train()
        states.append(found(callback))
        if often == "steps":
            logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
            assert logged[-1] == trainer.evaluate()["eval_loss"]  # with nothing attached
            assert not any(
                "mono" in key for row in trainer.state.log_history for key in row if "eval_loss" in row
            )
    assert equal(*states)


def test_forward_passes_between_steps_do_not_count(tmp_path):
    class Peeks(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            model.train()
            model(**torch.utils.data.default_collate(rows(9, seed=5)))

    states = []
    for others in ([], [Peeks()]):
        callback = MonosemanticityCallback(None, "l2e", start=0)
        trainer = run(tmp_path, callback, others=others)
        trainer.train()
        states.append(found(callback))
    assert equal(*states)


def test_figures_are_logged_with_the_loss_by_every_logger(tmp_path):
    logged = []

    class Logger(TrainerCallback):  # comes before the callback, as TensorBoard's does
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append(dict(logs))

    health = {"every": 1, "window": 4, "rows": 64}
    callback = MonosemanticityCallback(None, "tail", start=0, health=health)
    trainer = run(tmp_path, callback, others=[Logger()])
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert len(history) == 10
    assert {"mono/share", "mono/top", "mono/loss", "mono/steps", "mono/health/dead"} <= history[-1].keys()
    assert history[-1]["mono/steps"] == 10
    assert history[-1]["mono/share"] == callback.monosemanticity.log()["share"]
    assert not any("layers.2" in key for key in history[-1])
    assert [row["mono/share"] for row in logged if "mono/share" in row] == [
        row["mono/share"] for row in history if "mono/share" in row
    ]
    assert "mono/share" not in trainer.state.log_history[-1]  # the summary
    detailed = MonosemanticityCallback(FIRST, per_site=True)
    trainer = run(tmp_path, detailed)
    trainer.train()
    assert "mono/share/layers.2:input" in trainer.state.log_history[-2]


def test_a_step_that_the_scaler_skipped_does_not_count(tmp_path):
    class Overflows(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            weight = model.layers[0].weight
            if state.global_step == 2:
                handle = weight.register_hook(lambda grad: handle.remove() or grad * torch.inf)

    callback = MonosemanticityCallback(None, "tail", start=0, health={"every": 1, "window": 2, "rows": 8})
    trainer = run(tmp_path, callback, others=[Overflows()])
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer.train()
    assert trainer.state.global_step == 10
    assert callback.monosemanticity.steps == 9
    assert callback.monosemanticity.log()["skipped_steps"] == 1
    assert callback.health.steps == 9


def test_labels_are_passed_on_to_methods_that_need_them(tmp_path):
    method = ClassSelectivity(alpha=1.0, classes=3)
    callback = MonosemanticityCallback(FIRST, method, start=0)
    trainer = run(tmp_path, callback)
    trainer.train()
    assert "mono/selectivity" in trainer.state.log_history[-2]
    given = []

    def expect(batch):
        given.append(batch["labels"])
        return {"labels": batch["labels"]}

    run(tmp_path, MonosemanticityCallback(FIRST, method, expect=expect, start=0)).train()
    assert len(given) == 10


def test_two_callbacks_have_names_of_their_own(tmp_path):
    first = MonosemanticityCallback(FIRST, "tail", start=0)
    second = MonosemanticityCallback(SECOND, L2E(), start=0, name="second")
    trainer = Trainer(classifier(), arguments(tmp_path, save_strategy="epoch"), train_dataset=rows(40))
    second.join(first.join(trainer))
    trainer.train()
    assert {"mono/top", "second/top"} <= trainer.state.log_history[-2].keys()
    assert len(list((tmp_path / "checkpoint-5").glob("neuronwise-*"))) == 2
    with pytest.raises(HookError, match="replaced"):
        first.leave()
    second.leave()
    first.leave()
    assert not {"train", "compute_loss", "log", "save_model"} & trainer.__dict__.keys()


def test_a_method_that_always_acts_acts_in_evaluations_too(tmp_path):
    callback = MonosemanticityCallback(Site("layers.1", "output", width=8), SoLU())
    trainer = run(tmp_path, callback, eval_strategy="epoch")
    trainer.train()
    logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert logged[-1] != trainer.evaluate()["eval_loss"]
    with callback.monosemanticity.attached():
        assert logged[-1] == trainer.evaluate()["eval_loss"]


def test_what_cannot_work_is_said_before_training(tmp_path):
    trainer = Trainer(
        classifier(), arguments(tmp_path), train_dataset=rows(8), callbacks=[MonosemanticityCallback()]
    )
    with pytest.raises(HookError, match="join"):
        trainer.train()
    callback = MonosemanticityCallback()
    callback.join(trainer)
    with pytest.raises(HookError, match="joined a Trainer already"):
        callback.join(trainer)
    with pytest.raises(InvalidArgumentError, match="torchrun"):
        callback.on_train_begin(SimpleNamespace(n_gpu=2), None, None, model=trainer.model)
    with pytest.raises(TypeError, match="horizn"):
        MonosemanticityCallback(horizn=3)
    with pytest.raises(TypeError, match="evry"):
        MonosemanticityCallback(health={"evry": 3})
    with pytest.raises(InvalidArgumentError, match="nothing to watch"):
        MonosemanticityCallback(phi=False)
    with pytest.raises(InvalidArgumentError, match="phi=True"):
        MonosemanticityCallback(method="tail", phi=False, health=True)


def test_health_alone(tmp_path):
    callback = MonosemanticityCallback(phi=False, health={"every": 1, "window": 4, "rows": 64})
    model, plain = classifier(), classifier()
    trainer = run(tmp_path, callback, model=model)
    trainer.train()
    assert callback.monosemanticity is None
    assert "mono/health/dead" in trainer.state.log_history[-2]
    Trainer(plain, arguments(tmp_path), train_dataset=rows(40)).train()
    assert equal(state(model), state(plain))  # watching changes nothing
