"""From checked rows to trained networks: splits, scaling, search and training of one network or of several at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from neuronwise.discover.outlying import usual_rows
from neuronwise.discover.scaling import Scaling, scaling_for, scaling_of_targets
from neuronwise.estimators._inputs import Table
from neuronwise.estimators._network import TaskLayers, build
from neuronwise.estimators._neuron import Neuron
from neuronwise.estimators._train import Course, Recipe, Rows, row_losses, train_networks

__all__ = ["Fitted", "Plan", "Prepared", "Split", "fit_networks", "prepare", "split_rows"]

# Fewer rows than this have no validation part: five rows of them would say nothing.
FEWEST_TO_SPLIT = 20
FEWEST_TO_VALIDATE = 5
# Predictions are made in pieces of so many features, to bound the memory.
PIECE = 1 << 24


@dataclass(frozen=True)
class Split:
    """Rows that train, and rows that say when to stop (None: there are too few)."""

    fit: NDArray[np.int64]
    validate: NDArray[np.int64] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The structure of the networks and how they are trained; the kind of neuron is given beside it."""

    hidden: tuple[int, ...]
    task_layers: TaskLayers
    activation: str
    outputs: int
    scale: str
    clip: float
    dtype: torch.dtype
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Prepared:
    """A split with everything measured on its training part.

    Args:
        split: The rows.
        raw: Whether the search and task neurons get inputs as they are.
        inputs: How inputs are scaled for the search and for task neurons.
        standard: How inputs are scaled for linear neurons: always standardised.
        targets: How targets are scaled; None for classes.
        searched: The training rows without those with a value far from all others: a search would be about these alone.
    """

    split: Split
    raw: bool
    inputs: Scaling
    standard: Scaling
    targets: Scaling | None
    searched: NDArray[np.int64]

    def inputs_of(self, neuron: Neuron) -> Scaling:
        """Return how the inputs of a network of such neurons are scaled."""
        return self.standard if neuron.is_linear else self.inputs


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network with what its inputs and outputs go through.

    Args:
        module: The network, on scaled inputs.
        prepared: Split and scaling.
        neuron: Its neurons.
        course: How training went.
    """

    module: nn.Sequential
    prepared: Prepared
    neuron: Neuron
    course: Course

    @property
    def inputs(self) -> Scaling:
        """How the network's inputs are scaled."""
        return self.prepared.inputs_of(self.neuron)

    def losses(self, table: Table, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the loss of single rows, in the units of training, (rows,)."""
        output = torch.from_numpy(outputs(self.module, self.inputs.apply(table.X[rows])))
        scaling, target = self.prepared.targets, table.target[rows]
        wanted = torch.from_numpy(target if scaling is None else scaling.apply(target))
        found: NDArray[np.float64] = row_losses(output[None], wanted[None])[0].numpy()
        return found

    def errors(self, table: Table, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return 1 for each row that is put into a wrong class, else 0, (rows,)."""
        found = outputs(self.module, self.inputs.apply(table.X[rows])).argmax(1)
        wrong: NDArray[np.bool_] = found != table.target[rows]
        return wrong.astype(np.float64)


def outputs(module: nn.Sequential, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a network's outputs for scaled inputs, float64 (n, outputs).

    On the CPU they are computed in float64, so that a row's prediction hardly depends on the rows beside it.

    Args:
        module: The network in evaluation mode.
        scaled: Shape (n, d).
    """
    first = next(module.parameters())
    dtype = torch.float64 if first.device.type == "cpu" else first.dtype
    if dtype != first.dtype:
        module = copy.deepcopy(module).to(dtype)
    rows = max(1, PIECE // max(1, first.shape[-1]))
    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(scaled[start : start + rows]).to(first.device, dtype)).cpu().double()
            for start in range(0, len(scaled), rows)
        ]
        found: NDArray[np.float64] = torch.cat(parts).numpy()
    return found


def split_rows(target: NDArray[np.generic], rows: NDArray[np.int64], fraction: float, seed: int) -> Split:
    """Part rows into training and validation, classes in proportion where every class has rows enough.

    Args:
        target: As in :class:`Table`, of all rows.
        rows: The rows to part.
        fraction: Share of the validation part.
        seed: Of the draw.
    """
    count = max(FEWEST_TO_VALIDATE, round(fraction * len(rows)))
    if len(rows) < FEWEST_TO_SPLIT or fraction == 0:
        return Split(rows, None)
    groups = None
    if target.ndim == 1:
        codes, sizes = np.unique(target[rows], return_counts=True)
        if sizes.min() > 1 and len(codes) <= min(count, len(rows) - count):
            groups = target[rows]
    fit, validate = train_test_split(rows, test_size=count, random_state=seed, stratify=groups)
    return Split(np.sort(fit), np.sort(validate))


def prepare(table: Table, split: Split, scale: str, clip: float) -> Prepared:
    """Measure the scaling on the training part of a split.

    Args:
        table: All rows.
        split: Which of them train.
        scale: ``"auto"``, the rule of :func:`neuronwise.discover.discover`, or ``"standard"``.
        clip: Standard deviations at which standardised inputs are clipped.
    """
    task = "classification" if table.classes else "regression"
    usual = usual_rows(table.X, table.target, task, by=split.fit)
    searched = split.fit[usual[split.fit]]
    X, weight = table.X[searched], table.weight[searched]
    standard = scaling_for(X, "standard", clip, weight=weight)
    inputs = scaling_for(X, scale, clip, weight=weight)
    raw = scale == "auto" and inputs.raw
    targets = None if table.classes else scaling_of_targets(table.target[split.fit], table.weight[split.fit])
    return Prepared(split, raw, inputs if raw else standard, standard, targets, searched)


def fit_networks(
    table: Table, prepared: Sequence[Prepared], neurons: Sequence[Neuron], plan: Plan, seeds: Sequence[int]
) -> list[Fitted]:
    """Train one network for each prepared split; those with neurons of one kind are trained together.

    Args:
        table: All rows.
        prepared: The splits.
        neurons: The neurons of each.
        plan: Structure and training.
        seeds: Of first weights and order of the rows, one for each network.
    """
    found: dict[int, Fitted] = {}
    kinds = [
        (neuron.form, not neuron.is_linear and each.raw)
        for neuron, each in zip(neurons, prepared, strict=True)
    ]
    for kind in sorted(set(kinds)):
        same = [number for number, each in enumerate(kinds) if each == kind]
        # Parts of different sizes are padded only within a row or two; a missing validation part cannot be.
        validated = all(prepared[number].split.validate is not None for number in same)
        modules = [
            build(
                neurons[number].kind,
                inputs=table.X.shape[1],
                hidden=plan.hidden,
                outputs=plan.outputs,
                activation=plan.activation,
                task_layers=plan.task_layers,
                raw=prepared[number].raw,
                seed=seeds[number],
                dtype=plan.dtype,
            )
            for number in same
        ]
        scaled = [(prepared[number], prepared[number].inputs_of(neurons[number])) for number in same]
        fit = _rows(table, scaled, lambda split: split.fit, plan)
        val = _rows(table, scaled, _validation, plan) if validated else None
        courses = train_networks(modules, fit, val, plan.recipe, seeds=[seeds[number] for number in same])
        for number, module, course in zip(same, modules, courses, strict=True):
            found[number] = Fitted(module.to(plan.recipe.device), prepared[number], neurons[number], course)
    return [found[number] for number in range(len(prepared))]


def _validation(split: Split) -> NDArray[np.int64]:
    return split.fit if split.validate is None else split.validate


def _rows(
    table: Table,
    scaled: Sequence[tuple[Prepared, Scaling]],
    part: Callable[[Split], NDArray[np.int64]],
    plan: Plan,
) -> Rows:
    """Stack the scaled rows of several splits; shorter ones are filled up with rows of weight 0."""
    chosen = [part(each.split) for each, _ in scaled]
    count = max(map(len, chosen))
    inputs, targets, weights = [], [], []
    for (each, scaling), rows in zip(scaled, chosen, strict=True):
        padded = np.concatenate([rows, np.repeat(rows[:1], count - len(rows))])
        weight = np.where(np.arange(count) < len(rows), table.weight[padded], 0.0)
        inputs.append(scaling.apply(table.X[padded]))
        target = table.target[padded]
        targets.append(target if each.targets is None else each.targets.apply(target))
        weights.append(weight * (len(rows) / weight.sum()))
    target_dtype = torch.int64 if table.classes else plan.dtype
    return Rows(
        _tensor(inputs, plan, plan.dtype),
        _tensor(targets, plan, target_dtype),
        _tensor(weights, plan, plan.dtype),
    )


def _tensor(arrays: Sequence[NDArray[np.generic]], plan: Plan, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(plan.recipe.device, dtype)
