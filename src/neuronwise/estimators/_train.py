"""The training loop: several networks of one shape at once, with early stopping for each of them.

Small networks are held up by the calls, not by the arithmetic: a step of five stacked networks takes hardly longer
than a step of one. The folds of the guard are therefore trained together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from neuronwise.engine.progress import progress_bar
from neuronwise.errors import InvalidArgumentError
from neuronwise.estimators._bundle import Bundle, Modules, Stack, stackable

__all__ = ["Course", "Recipe", "Rows", "row_losses", "train_networks"]

# A run that does not stay finite starts anew with the rate divided by this, and gives up after so many starts.
BACK_OFF = 4.0
STARTS = 6


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How networks are trained.

    Args:
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, decoupled; biases have none.
        batch_size: Rows of a step.
        max_epochs: Passes over the training part at most.
        patience: Passes without a better validation loss before training stops.
        device: Where to train.
        progress: Whether to show a progress bar.
    """

    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    device: torch.device
    progress: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows of every network's own data.

    Args:
        inputs: Shape (networks, rows, inputs).
        target: Numbers (networks, rows, outputs), or the class of each row, int64 (networks, rows).
        weight: Of each row (networks, rows), on average 1; 0 where a network has fewer rows than the others.
    """

    inputs: Tensor
    target: Tensor
    weight: Tensor

    def of(self, networks: Sequence[int]) -> Rows:
        """Return the rows of some of the networks."""
        index = torch.as_tensor(networks, device=self.inputs.device)
        return Rows(self.inputs[index], self.target[index], self.weight[index])


@dataclass
class Course:
    """How the training of one network went.

    Args:
        start: Validation loss before the first step.
        epochs: One row for each pass: epoch, train_loss, validation_loss, seconds.
        learning_rate: What it was trained with in the end.
        best_epoch: The pass whose weights were kept; 0 means the untrained ones.
        best_loss: Loss of the kept weights on the validation part (training part, where there is none).
        finite: Whether every loss was.
    """

    start: float
    learning_rate: float
    epochs: list[tuple[int, float, float, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = float("inf")
    finite: bool = True

    @property
    def diverged(self) -> bool:
        """Whether the loss was not finite, or all training led away from the start."""
        first, last = self.epochs[0][1], self.epochs[-1][1]
        away = self.best_epoch == 0 and last > max(2 * self.start, 2 * first, 10.0)
        return not self.finite or away

    def frame(self) -> pd.DataFrame:
        """Return the passes as a table: epoch, train_loss, validation_loss, seconds, learning_rate."""
        columns = ["epoch", "train_loss", "validation_loss", "seconds"]
        return pd.DataFrame(self.epochs, columns=columns).assign(learning_rate=self.learning_rate)


def train_networks(
    modules: Sequence[nn.Sequential],
    fitted: Rows,
    validated: Rows | None,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
) -> list[Course]:
    """Train networks of one shape, each on its own rows, and leave the best weights of each in its module.

    A network whose loss does not stay finite starts again from its first weights at a quarter of the learning rate.

    Args:
        modules: The networks, not trained yet.
        fitted: Rows to fit.
        validated: Rows that decide when to stop; None trains all passes and keeps the last.
        recipe: How to train.
        seeds: For the order of the rows, one for each network.

    Raises:
        InvalidArgumentError: If a network does not stay finite at any rate tried.
    """
    todo, done, now = list(range(len(modules))), {}, recipe
    for _ in range(STARTS):
        chosen = [modules[number] for number in todo]
        bundle = _bundle(chosen, fitted.of(todo))
        fit_rows, val_rows = fitted.of(todo), None if validated is None else validated.of(todo)
        if isinstance(bundle, Stack):
            fit_rows = replace(fit_rows, inputs=bundle.features(fit_rows.inputs))
            if val_rows is not None:
                val_rows = replace(val_rows, inputs=bundle.features(val_rows.inputs))
        courses = _train(bundle, fit_rows, val_rows, now, [seeds[number] for number in todo])
        for place, (number, course) in enumerate(zip(todo, courses, strict=True)):
            if not course.diverged:
                done[number] = course
                bundle.write(place, modules[number])
        todo = [number for number in todo if number not in done]
        if not todo:
            return [done[number] for number in range(len(modules))]
        now = replace(now, learning_rate=now.learning_rate / BACK_OFF)
    raise InvalidArgumentError(
        f"Training did not stay finite at any learning rate from {recipe.learning_rate:g} down to "
        f"{now.learning_rate * BACK_OFF:.2g}. Pass a smaller learning_rate, a smaller clip, or bases='bounded'."
    )


def _bundle(modules: Sequence[nn.Sequential], rows: Rows) -> Bundle:
    if stackable(modules, rows.inputs):
        return Stack(modules, rows.inputs)
    return Modules(modules, rows.inputs)


def _train(
    bundle: Bundle, fitted: Rows, validated: Rows | None, recipe: Recipe, seeds: Sequence[int]
) -> list[Course]:
    started = time.perf_counter()
    optimizer = _optimizer(bundle, recipe)
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    judged = fitted if validated is None else validated
    courses = [Course(loss, recipe.learning_rate, best_loss=loss) for loss in _evaluate(bundle, judged)]
    bundle.keep([True] * len(courses))
    alive = [True] * len(courses)
    with progress_bar("Training", recipe.max_epochs, shown=recipe.progress) as step:
        for epoch in range(1, recipe.max_epochs + 1):
            losses = _epoch(bundle, fitted, optimizer, recipe.batch_size, orders)
            judged_losses = losses if validated is None else _evaluate(bundle, validated)
            better = [False] * len(courses)
            for number, course in enumerate(courses):
                if not alive[number]:
                    continue
                loss = judged_losses[number]
                shown = float("nan") if validated is None else loss
                course.epochs.append((epoch, losses[number], shown, time.perf_counter() - started))
                better[number] = validated is None or loss < course.best_loss
                if better[number]:
                    course.best_epoch, course.best_loss = epoch, loss
                course.finite = math.isfinite(losses[number]) and math.isfinite(loss)
                alive[number] = course.finite and epoch - course.best_epoch < recipe.patience
            if any(better):
                bundle.keep(better)
            step((0, 0, epoch))
            if not any(alive):
                break
    return courses


def _optimizer(bundle: Bundle, recipe: Recipe) -> torch.optim.Optimizer:
    weights, biases = bundle.parameters()
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _epoch(
    bundle: Bundle,
    rows: Rows,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    orders: Sequence[torch.Generator],
) -> list[float]:
    """Take one pass in random order and return each network's mean loss in it."""
    networks, count = rows.weight.shape
    order = torch.stack([torch.randperm(count, generator=generator) for generator in orders])
    order = order.to(rows.weight.device) + count * torch.arange(networks, device=rows.weight.device)[:, None]
    inputs, target, weight = (_take(tensor, order) for tensor in (rows.inputs, rows.target, rows.weight))
    total = torch.zeros(networks, dtype=weight.dtype, device=weight.device)
    bundle.mode(training=True)
    # Batches of nearly one size: a last batch of one row would have a gradient of pure noise.
    batches = max(1, round(count / batch_size))
    for part in zip(
        *(tensor.tensor_split(batches, dim=1) for tensor in (inputs, target, weight)), strict=True
    ):
        optimizer.zero_grad()
        losses = (row_losses(bundle(part[0]), part[1]) * part[2]).sum(1)
        (losses.sum() / part[2].shape[1]).backward()
        optimizer.step()
        total += losses.detach()
    found: list[float] = (total / rows.weight.sum(1)).tolist()
    return found


def _take(tensor: Tensor, order: Tensor) -> Tensor:
    return tensor.flatten(0, 1).index_select(0, order.flatten()).view(*order.shape, *tensor.shape[2:])


@torch.no_grad()
def _evaluate(bundle: Bundle, rows: Rows) -> list[float]:
    bundle.mode(training=False)
    losses = (row_losses(bundle(rows.inputs), rows.target) * rows.weight).sum(1) / rows.weight.sum(1)
    found: list[float] = losses.tolist()
    return found


def row_losses(output: Tensor, target: Tensor) -> Tensor:
    """Return the loss of every row: squared error, mean over outputs, or cross-entropy where the target is a class.

    Args:
        output: Shape (networks, rows, outputs).
        target: As in :class:`Rows`.
    """
    if target.dtype == torch.int64:
        losses = functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
        return losses.view(target.shape)
    return (output - target).square().mean(-1)
