"""Monosemanticity and neuron health in the Trainer of transformers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuronwise.errors import HookError, InvalidArgumentError, require
from neuronwise.files import atomic_file
from neuronwise.integrations._watch import Expect, Watch
from neuronwise.train import Method, Monosemanticity, NeuronHealth

__all__ = ["MonosemanticityCallback"]

_TrainerCallback = require("transformers", "trainer", "The callback for a Trainer").TrainerCallback

TrainerType = TypeVar("TrainerType")


class MonosemanticityCallback(_TrainerCallback):  # type: ignore[misc,valid-type]
    """Watch the monosemanticity of neurons while a Trainer trains, inhibit or encourage it, and watch their health.

    ::

        callback = MonosemanticityCallback(method="tail", start=100)
        trainer = callback.join(Trainer(model, arguments, train_dataset=data))
        trainer.train()

    A callback alone can neither change the loss, nor see a run end by an exception, nor reach loggers that come before
    it. :meth:`join` therefore adds the callback, and runs ``train``, ``compute_loss``, ``log`` and ``save_model`` of
    this one Trainer, whatever its class, through it.

    - The method's loss is added in ``compute_loss``, in training only, and counts as the mean over the micro-batches of
      a step, whether or not the Trainer normalises its own by ``num_items_in_batch``.
    - Figures are logged with the training loss, in the history and by every logger, as ``mono/...``.
    - State is in ``neuronwise-mono.safetensors`` in every checkpoint, and loaded with ``resume_from_checkpoint``: a
      resumed run equals an uninterrupted one. Without the file statistics begin anew, with a warning.
    - Hooks are on the model from the beginning of the training to its end, also if that is an exception.
    - Steps that the loss scaler skipped do not count, nor do forward passes between two steps.

    Args:
        sites: The sites, names of modules, or None for those that :func:`find_sites` finds.
        method: A method, its name in METHODS, or None to watch only.
        phi: Watch monosemanticity; False for health alone.
        health: Watch health too: True, or the settings of :class:`NeuronHealth`.
        per_site: Log the figures of each site, not only their means.
        expect: From a batch (the mapping that the model gets) to what :meth:`Monosemanticity.expect` is told of it. By
            default the ``labels``, where the method needs labels.
        name: What the names of the figures and of the file begin with; for a second callback on the same Trainer.
        settings: Further arguments of :class:`Monosemanticity`, such as ``start``, ``horizon`` and ``unit``.

    Raises:
        InvalidArgumentError: If nothing is to be watched, or a method has nothing to go by.
        TypeError: If a setting is unknown.
    """

    def __init__(
        self,
        sites: Any = None,
        method: str | Method | None = None,
        *,
        phi: bool = True,
        health: bool | Mapping[str, Any] = False,
        per_site: bool = False,
        expect: Expect | None = None,
        name: str = "mono",
        **settings: Any,
    ) -> None:
        self._watch = Watch(
            sites,
            method,
            phi=phi,
            health=health,
            per_site=per_site,
            expect=expect or _labels,
            name=name,
            settings=settings,
        )
        self._trainer: Any = None
        self._resumed: Path | None = None

    @property
    def monosemanticity(self) -> Monosemanticity | None:
        """The :class:`Monosemanticity` of the present run or the last."""
        return self._watch.mono

    @property
    def health(self) -> NeuronHealth | None:
        """The :class:`NeuronHealth` of the present run or the last."""
        return self._watch.health

    def join(self, trainer: TrainerType) -> TrainerType:
        """Take part in the runs of a Trainer, and return it.

        Raises:
            HookError: If this has joined a Trainer already.
        """
        if self._trainer is not None:
            raise HookError(
                "This callback has joined a Trainer already. Make another one, or call leave() first."
            )
        self._trainer = joined = trainer
        if self not in joined.callback_handler.callbacks:  # type: ignore[attr-defined]
            joined.add_callback(self)  # type: ignore[attr-defined]
        for name, around in self._around.items():
            method = getattr(joined, name)
            setattr(joined, name, functools.wraps(method)(functools.partial(around, method)))
        return trainer

    def leave(self) -> None:
        """Undo :meth:`join`: the Trainer is what it was.

        Raises:
            HookError: If something else has been put over a method of the Trainer since.
        """
        trainer = self._trainer
        if trainer is None:
            return
        for name, around in self._around.items():
            if getattr(trainer.__dict__.get(name), "func", None) != around:
                raise HookError(
                    f"Trainer.{name} was replaced after this callback had joined. Take that off first."
                )
        for name in self._around:
            before = getattr(trainer, name).args[0]
            delattr(trainer, name)
            if getattr(trainer, name) != before:
                setattr(trainer, name, before)
        trainer.remove_callback(self)
        self._trainer = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any = None, **kwargs: Any
    ) -> None:
        """Attach, and take over the state of the checkpoint that is resumed from.

        Raises:
            HookError: If this has not joined the Trainer.
            InvalidArgumentError: If the Trainer replicates the model over several devices.
        """
        if self._trainer is None:
            raise HookError(
                "A callback alone cannot add to the loss, nor notice that training ended by an exception. Call "
                "callback.join(trainer) before trainer.train()."
            )
        if args.n_gpu > 1:
            raise InvalidArgumentError(
                "The Trainer would replicate the model over several devices in one process (DataParallel), where hooks "
                "on the model are not called. Start one process for each device with torchrun or accelerate launch."
            )
        self._watch.start(model)
        if self._resumed is None:
            return
        file = self._file(self._resumed)
        if file.is_file():
            self._watch.load_state_dict(load_file(file))
        else:
            warnings.warn(
                f"The checkpoint {self._resumed} has no {file.name}, as this callback was not there when it was saved: "
                "statistics begin anew.",
                stacklevel=2,
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a step."""
        self._watch.begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a step."""
        self._watch.step(not self._trainer.accelerator.optimizer_step_was_skipped)

    @property
    def _around(self) -> dict[str, Callable[..., Any]]:
        """What runs in the place of the Trainer's methods."""
        return {
            "train": self._train,
            "compute_loss": self._compute_loss,
            "log": self._log,
            "save_model": self._save_model,
        }

    def _file(self, folder: Path) -> Path:
        return folder / f"neuronwise-{self._watch.name}.safetensors"

    def _train(
        self, train: Callable[..., Any], resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        self._resumed = None
        if resume_from_checkpoint:
            from transformers.trainer_utils import get_last_checkpoint

            found = resume_from_checkpoint
            if found is True:
                found = get_last_checkpoint(self._trainer.args.output_dir)  # type: ignore[no-untyped-call]
            # Without any, the Trainer has an error of its own.
            self._resumed = None if found is None else Path(found)
        try:
            return train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._watch.stop()

    def _save_model(
        self, save_model: Callable[..., Any], output_dir: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Save the model and, where that is for a checkpoint, the state beside it, whole or not at all.

        Where a checkpoint is, only this call says: a trial of a hyperparameter search has a folder of its own.
        """
        save_model(output_dir, *args, **kwargs)
        trainer = self._trainer
        folder = Path(output_dir or "")
        if not (self._watch.running and trainer.args.should_save):
            return
        if folder.name == f"checkpoint-{trainer.state.global_step}":
            tensors = {
                name: value.detach().cpu().contiguous() for name, value in self._watch.state_dict().items()
            }
            with atomic_file(self._file(folder)) as path:
                save_file(tensors, path, metadata={"format": "pt"})

    def _compute_loss(
        self, compute_loss: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        training = self._watch.running and model.training
        if training:
            self._tell(inputs)
        found = compute_loss(model, inputs, *args, **kwargs)
        if not (training and self._watch.has_loss):
            return found
        loss = found[0] if isinstance(found, tuple) else found
        extra = self._watch.loss().to(loss.device) / self._pieces(kwargs.get("num_items_in_batch"))
        return (loss + extra, *found[1:]) if isinstance(found, tuple) else loss + extra

    def _pieces(self, items: Any) -> int:
        """Return what the loss must be divided by, as the Trainer will not: micro-batches of the step, or 1."""
        trainer = self._trainer
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = trainer.compute_loss_func is not None or (
                trainer.model_accepts_loss_kwargs and items is not None
            )
        return int(trainer.current_gradient_accumulation_steps) if scaled else 1

    def _tell(self, inputs: Any) -> None:
        mono = self._watch.mono
        wanted = mono is not None and mono.method is not None and "labels" in mono.method.acting.needs
        if self._watch.expect is not _labels or wanted:
            self._watch.tell(inputs)

    def _log(self, log: Callable[..., Any], logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
        # Figures of evaluations, and the summary at the end, have other names.
        if self._watch.running and "loss" in logs:
            logs.update(self._watch.figures())
        return log(logs, *args, **kwargs)


def _labels(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the labels of a batch; whatever is below 0, as transformers' -100, is none."""
    labels = inputs.get("labels")
    return {} if labels is None else {"labels": torch.where(labels < 0, -1, labels)}
