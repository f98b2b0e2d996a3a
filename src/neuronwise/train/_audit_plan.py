"""What all runs of an audit have in common, and how a model, its batches and its seeds are made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import device_of
from neuronwise.observe.statistics import Unit
from neuronwise.sites import Sites
from neuronwise.train._audit_data import Loss, Metric, Split
from neuronwise.train.controller import Controller
from neuronwise.train.method import Method
from neuronwise.train.methods import method_of
from neuronwise.train.monosemanticity import Monosemanticity

__all__ = ["NONE", "Audited", "Plan", "audited", "control_of", "new_model", "seeded"]

#: The name of the runs that nothing acts on.
NONE = "none"


@dataclass(frozen=True)
class Audited:
    """A row of the audit: an inhibitor, or its random control.

    Args:
        inhibitor: Its name.
        control: Whether it is the control.
        method: What acts; None for nothing.
    """

    inhibitor: str
    control: bool
    method: Method | None

    @property
    def label(self) -> dict[str, Any]:
        """Its columns in the tables."""
        return {"inhibitor": self.inhibitor, "control": self.control}


@dataclass(frozen=True)
class Plan:
    """Settings of an audit: the arguments of :func:`~neuronwise.train.audit`, checked."""

    make_model: Callable[[int], nn.Module]
    split: Callable[[int], Split]
    rows: tuple[Audited, ...]
    seeds: tuple[int, ...]
    sites: Sites
    steps: int | None
    epochs: int
    batch_size: int
    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None
    clip_norm: float | None
    augment: Callable[[Any, torch.Generator], Any] | None
    loss: Loss
    metric: Metric | None
    embeddings: Callable[[Any], Tensor] | None
    measures: tuple[str, ...]
    rotation: bool
    probes: int
    one_step: int
    one_step_rate: float
    timed: int
    unit: Unit
    horizon: int | None
    start: int
    examples: int
    sample: int

    def total(self, examples: int) -> int:
        """Return how many steps a run has."""
        return self.steps if self.steps is not None else self.epochs * -(-examples // self.batch_size)

    def order(self, examples: int, seed: int) -> Iterator[Tensor]:
        """Yield the rows of every batch of a run; the same for all inhibitors."""
        generator = torch.Generator().manual_seed(seed)
        left = self.total(examples)
        while left:
            for rows in torch.split(torch.randperm(examples, generator=generator), self.batch_size):
                yield rows
                left -= 1
                if not left:
                    return

    def model(self, seed: int, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Return a fresh model; with a state, with those weights and buffers."""
        model = new_model(self.make_model, seed)
        if state is not None:
            model.load_state_dict(state)
        return model

    def watcher(
        self, model: nn.Module, method: Method | None, *, horizon: int | None, start: int, seed: int = 0
    ) -> Monosemanticity:
        """Return what acts on a model, not attached yet."""
        return Monosemanticity(
            model,
            self.sites,
            method,
            unit=self.unit,
            horizon=horizon,
            start=start,
            seed=seed,
            distributed=False,
        )

    def tell(self, mono: Monosemanticity, batch: Any) -> None:
        """Tell a method what is known of a batch."""
        target = batch[-1] if isinstance(batch, tuple) else None
        known = isinstance(target, Tensor) and not target.is_floating_point()
        mono.expect(
            labels=target if known else None,
            embeddings=None if self.embeddings is None else self.embeddings(batch),
        )

    def whole_loss(self, model: nn.Module, batch: Any, mono: Monosemanticity | None) -> Tensor:
        """Return the loss of the task, and with it that of what acts on the model."""
        if mono is None:
            return self.loss(model, batch)
        self.tell(mono, batch)
        return self.loss(model, batch) + mono.loss()

    def train_step(
        self,
        model: nn.Module,
        batch: Any,
        mono: Monosemanticity | None,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Do one step of training."""
        loss = self.whole_loss(model, batch, mono)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        optimizer.step()
        if mono is not None:
            mono.step()

    def batch(self, split: Split, rows: Tensor, model: nn.Module, seed: int) -> Any:
        """Return a batch to train on, augmented if that is wanted."""
        batch = split.train.take(rows, device_of(model))
        if self.augment is None:
            return batch
        return self.augment(batch, torch.Generator().manual_seed(seed))


def new_model(make_model: Callable[[int], nn.Module], seed: int) -> nn.Module:
    """Return what the user's function makes.

    Raises:
        InvalidArgumentError: If that is no module.
    """
    model = make_model(seed)
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"make_model must return a torch.nn.Module, not {type(model).__name__}.")
    return model


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's own random state for the block; afterwards it is what it was."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if used else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def audited(inhibitors: Any, *, controls: bool) -> tuple[tuple[Audited, ...], dict[str, str]]:
    """Return the rows of an audit, that of no inhibitor first, and why some have no control.

    Raises:
        InvalidArgumentError: If a name is unknown, is taken, or there is no inhibitor.
    """
    if isinstance(inhibitors, str | Method):
        inhibitors = [inhibitors]
    named: dict[str, Method] = {}
    given = inhibitors.items() if isinstance(inhibitors, Mapping) else ((None, one) for one in inhibitors)
    for name, one in given:
        method = method_of(one)
        if method is None:
            continue  # nothing acting is always there
        own = name or _free(method.name, named)
        if own == NONE or own in named:
            raise InvalidArgumentError(f"The name {own!r} is taken; call the inhibitor something else.")
        named[own] = method
    rows = [Audited(NONE, False, None)]
    without: dict[str, str] = {}
    for name, method in named.items():
        rows.append(Audited(name, False, method))
        if not controls:
            continue
        control, reason = control_of(method)
        if control is None:
            without[name] = reason
        else:
            rows.append(Audited(name, True, control))
    return tuple(rows), without


def control_of(method: Method) -> tuple[Method | None, str]:
    """Return the random control of a method, or None and why there is none."""
    if isinstance(method, Controller):
        inner, reason = control_of(method.method)
        return (None, reason) if inner is None else (replace(method, method=inner), "")
    known: set[str] = {entry.name for entry in fields(method)} if is_dataclass(method) else set()
    if "selection" not in known:
        return None, "it makes no choice that could be made at random"
    if getattr(method, "selection", None) == "random":
        return None, "it chooses at random itself"
    try:
        return replace(method, selection="random"), ""  # type: ignore[type-var]
    except InvalidArgumentError:
        return None, "it acts on all units, of which none can be chosen at random"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
