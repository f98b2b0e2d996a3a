"""Networks that are trained together: stacked into one set of tensors where that can be, else one after the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuronwise.estimators._network import decorrelation, features, multiplies_features, settled

__all__ = ["Bundle", "Modules", "Stack", "stackable"]

# The features of all rows are worked out once, before training, unless they would take more memory than this.
MOST_FEATURES = 1 << 28  # values


class Bundle(Protocol):
    """Networks of one shape that take a step together; none has an influence on another."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs, (networks, rows, outputs), for inputs (networks, rows, features)."""
        ...

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return what is trained: weights, and biases."""
        ...

    def mode(self, *, training: bool) -> None:
        """Switch between training and evaluation."""
        ...

    def keep(self, networks: Sequence[bool]) -> None:
        """Remember the present weights of some networks as their best."""
        ...

    def write(self, network: int, module: nn.Sequential) -> None:
        """Put the remembered weights of one network into a module, in evaluation mode."""
        ...


class Stack:
    """Networks whose first layer reads features that do not change in training: all layers as batched products.

    While they are trained, the features of inputs that are not standardised are uncorrelated (see
    :func:`neuronwise.estimators._network.decorrelation`); what is written down are the weights of the features
    themselves.

    Args:
        modules: Networks of :func:`neuronwise.estimators._network.build` for which :func:`stackable` is true.
        inputs: Their training inputs (networks, rows, inputs), which settle the statistics of the first layers.
    """

    def __init__(self, modules: Sequence[nn.Sequential], inputs: Tensor) -> None:
        device = inputs.device
        self._first = [settled(module[0], rows) for module, rows in zip(modules, inputs, strict=True)]
        self._turns = [decorrelation(layer, rows) for layer, rows in zip(self._first, inputs, strict=True)]
        layers = [weighted(module) for module in modules]
        self.weights = [
            _stacked([one.weight.T for one in same], device) for same in zip(*layers, strict=True)
        ]
        self.biases = [
            _stacked([one.bias[None] for one in same], device) for same in zip(*layers, strict=True)
        ]
        self._activation = modules[0][1] if len(modules[0]) > 1 else nn.Identity()
        self._best = [parameter.detach().clone() for parameter in (*self.weights, *self.biases)]

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the first layers multiply with their weights, (networks, rows, features)."""
        with torch.no_grad():
            return torch.stack(
                [
                    _turned(features(layer, rows), turn)
                    for layer, rows, turn in zip(self._first, inputs, self._turns, strict=True)
                ]
            )

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs for features."""
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs = torch.baddbmm(bias, inputs, weight)
            if number < last:
                inputs = self._activation(inputs)
        return inputs

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return weights and biases, each with the networks first."""
        return list(self.weights), list(self.biases)

    def mode(self, *, training: bool) -> None:
        """Do nothing: no layer here behaves otherwise in training."""

    def keep(self, networks: Sequence[bool]) -> None:
        """Remember the present weights of some networks."""
        index = torch.tensor([number for number, wanted in enumerate(networks) if wanted])
        for best, parameter in zip(self._best, (*self.weights, *self.biases), strict=True):
            if all(networks):
                best.copy_(parameter.detach())
            else:
                best[index] = parameter.detach()[index]

    def write(self, network: int, module: nn.Sequential) -> None:
        """Put the remembered weights into a module, and the statistics of its first layer."""
        count = len(self.weights)
        module[0].load_state_dict(self._first[network].state_dict())
        with torch.no_grad():
            for number, layer in enumerate(weighted(module)):
                best = self._best[number][network].T
                layer.weight.copy_(best if number else _turned(best, self._turns[network]))
                layer.bias.copy_(self._best[count + number][network][0])
        module.eval()


class Modules:
    """Networks of any kind, run one after the other; for layers whose statistics move while they are trained.

    Args:
        modules: The networks; copies are trained.
        inputs: Their training inputs (networks, rows, inputs), which settle the statistics of the first layers.
    """

    def __init__(self, modules: Sequence[nn.Sequential], inputs: Tensor) -> None:
        self._modules = [copy.deepcopy(module).to(inputs.device) for module in modules]
        for module, rows in zip(self._modules, inputs, strict=True):
            module[0] = settled(module[0], rows)
        self._best = [copy.deepcopy(module.state_dict()) for module in self._modules]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all networks."""
        return torch.stack([module(rows) for module, rows in zip(self._modules, inputs, strict=True)])

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the matrices and the vectors among the parameters."""
        every = [parameter for module in self._modules for parameter in module.parameters()]
        return [each for each in every if each.ndim > 1], [each for each in every if each.ndim <= 1]

    def mode(self, *, training: bool) -> None:
        """Switch all modules."""
        for module in self._modules:
            module.train(training)
            module[0].eval()

    def keep(self, networks: Sequence[bool]) -> None:
        """Remember the present state of some networks."""
        for number, wanted in enumerate(networks):
            if wanted:
                self._best[number] = copy.deepcopy(self._modules[number].state_dict())

    def write(self, network: int, module: nn.Sequential) -> None:
        """Put the remembered state into a module."""
        module.load_state_dict(self._best[network])
        module.eval()


def stackable(modules: Sequence[nn.Sequential], inputs: Tensor) -> bool:
    """Return whether the networks can be trained as one :class:`Stack`.

    Args:
        modules: The networks.
        inputs: Their training inputs (networks, rows, inputs).
    """
    first, *later = weighted(modules[0])
    values = inputs.shape[0] * inputs.shape[1] * first.weight.shape[1]
    return bool(
        all(type(layer) is nn.Linear for layer in later)
        and multiplies_features(first)
        and values <= MOST_FEATURES
    )


def weighted(module: nn.Sequential) -> list[Any]:
    """Return the layers that have weights."""
    return [layer for layer in module if hasattr(layer, "weight")]


def _turned(values: Tensor, turn: Tensor | None) -> Tensor:
    """Return features (rows, features * inputs), or weights of such, multiplied with a symmetric matrix an input."""
    if turn is None:
        return values
    return torch.einsum("nkd,dkl->nld", torch.unflatten(values, -1, (-1, len(turn))), turn).flatten(1)


def _stacked(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors]).to(device).contiguous().requires_grad_()
