"""Monosemanticity and neuron health in Lightning's Trainer."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuronwise.errors import require
from neuronwise.integrations._watch import Expect, Watch
from neuronwise.train import Method, Monosemanticity, NeuronHealth

__all__ = ["MonosemanticityCallback"]


def _bases() -> tuple[Any, ...]:
    """Return the Callback of each package of Lightning that is installed; each takes only what derives from its own."""
    found = []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            found.append(importlib.import_module(package).Callback)
        except ImportError:
            continue
    return tuple(found) or (require("lightning.pytorch", "lightning", "The callback for Lightning").Callback,)


class MonosemanticityCallback(*_bases()):  # type: ignore[misc]
    """Watch the monosemanticity of neurons while Lightning trains, inhibit or encourage it, and watch their health.

    For ``lightning`` and ``pytorch_lightning`` alike::

        callback = MonosemanticityCallback(["net.1"], "tail", start=100)
        trainer = lightning.Trainer(callbacks=[callback])
        trainer.fit(module, data)

    - The method's loss is added just before the backward pass, divided and scaled as Lightning did with the task's, so
      that accumulation and mixed precision need nothing. Lightning shows the task's loss as before, and this one as
      ``mono/loss``. With manual optimisation, add :meth:`loss` to your own loss.
    - Figures are logged through the module, every ``log_every_n_steps`` steps, as ``mono/...``.
    - State is in Lightning's checkpoints, as plain tensors, and a resumed run equals an uninterrupted one.
    - Hooks are on the module from the beginning of ``fit`` to its end, also if that is an exception.
    - Batches of the sanity check, of validation and of tests do not count, nor do steps that the loss scaler skipped.

    Args:
        sites: The sites, names of modules in the LightningModule, or None for those that :func:`find_sites` finds.
        method: A method, its name in METHODS, or None to watch only.
        phi: Watch monosemanticity; False for health alone.
        health: Watch health too: True, or the settings of :class:`NeuronHealth`.
        per_site: Log the figures of each site, not only their means.
        expect: From a batch to what :meth:`Monosemanticity.expect` is told of it, such as
            ``lambda batch: {"labels": batch[1]}``, for methods that need labels, embeddings or a mask.
        name: What the names of the figures and of the state begin with; for a second callback in the same Trainer.
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
        super().__init__()
        self._watch = Watch(
            sites,
            method,
            phi=phi,
            health=health,
            per_site=per_site,
            expect=expect,
            name=name,
            settings=settings,
        )
        self._saved: dict[str, Any] | None = None
        self._batches = 0
        self._beginning = True
        self._stepping = False
        self._scale = 0.0

    @property
    def monosemanticity(self) -> Monosemanticity | None:
        """The :class:`Monosemanticity` of the present run or the last."""
        return self._watch.mono

    @property
    def health(self) -> NeuronHealth | None:
        """The :class:`NeuronHealth` of the present run or the last."""
        return self._watch.health

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint."""
        return str(self._generate_state_key(name=self._watch.name))

    def loss(self) -> Tensor:
        """Return the loss to add, ``()``; to be called with manual optimisation only.

        Raises:
            HookError: If no monosemanticity is watched at present.
        """
        return self._watch.loss()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach, and take over the state of a checkpoint."""
        self._watch.start(pl_module)
        self._batches, self._beginning, self._stepping = 0, True, False
        if self._saved is not None:
            saved, self._saved = self._saved, None
            self.load_state_dict(saved)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin a step, unless gradients are being accumulated."""
        if self._beginning:
            self._watch.begin()
            self._beginning = False
        self._watch.tell(batch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Add the method's loss."""
        if not (self._watch.has_loss and pl_module.automatic_optimization):
            return
        extra = self._watch.loss() / trainer.accumulate_grad_batches
        scaler = _scaler(trainer)
        if scaler is not None:
            extra = scaler.scale(extra)
        # In place, as nothing that is returned here is looked at. Lightning has just divided or scaled the loss,
        # neither of which keeps its result for the backward pass, and holds a copy of its value to be shown.
        loss.add_(extra.to(loss))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Note that this batch ends a step."""
        self._stepping = True
        scaler = _scaler(trainer)
        self._scale = 0.0 if scaler is None else scaler.get_scale()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a step, and log."""
        if pl_module.automatic_optimization and not outputs and self._watch.has_loss:
            self._watch.loss()  # training_step returned None, so there is nothing to add it to
        if not self._stepping:
            return
        scaler = _scaler(trainer)
        # A scaler that skips a step makes its scale smaller.
        self._watch.step(scaler is None or scaler.get_scale() >= self._scale)
        self._stepping, self._beginning = False, True
        self._batches += 1
        if self._batches % trainer.log_every_n_steps == 0:
            pl_module.log_dict(self._watch.figures(), on_step=True, on_epoch=False, batch_size=1)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Take everything off."""
        self._watch.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take everything off."""
        self._watch.stop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take everything off, if a run ended in another way."""
        self._watch.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as tensors by name."""
        if self._saved is not None:
            return self._saved
        return {"batches": self._batches, "watch": self._watch.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a checkpoint: now, or when the run begins if it has not yet."""
        if not self._watch.running:
            self._saved = dict(state_dict)
            return
        self._batches = state_dict["batches"]
        self._watch.load_state_dict(state_dict["watch"])


def _scaler(trainer: Any) -> torch.amp.GradScaler | None:
    found: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return found
