"""The networks of the estimators: dense layers, the first or all hidden ones made of task neurons."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.nn import Kind, NeuronLinear, kind

__all__ = [
    "ACTIVATIONS",
    "TaskLayers",
    "build",
    "count_parameters",
    "decorrelation",
    "features",
    "multiplies_features",
    "settled",
]

TaskLayers = Literal["first", "all"]

# Directions with a smaller share of a feature's variance than this stay smaller than the others.
SMALL = 1e-3
# Directions with less than this are none: the features of an indicator, say, are all the same.
NONE = 1e-6

ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "identity": nn.Identity,
        "leaky_relu": nn.LeakyReLU,
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "silu": nn.SiLU,
        "tanh": nn.Tanh,
    }
)


def build(
    neurons: Kind | None,
    *,
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: str,
    task_layers: TaskLayers,
    seed: int,
    dtype: torch.dtype,
    raw: bool = False,
) -> nn.Sequential:
    """Return an untrained network on the CPU; the global random state is not touched.

    Args:
        neurons: Kind of the task neurons; None builds the linear network, of ``torch.nn.Linear`` throughout.
        inputs: Number of inputs.
        hidden: Widths of the hidden layers. Without any, the output neurons themselves are task neurons.
        outputs: Number of outputs.
        activation: Name in :data:`ACTIVATIONS`.
        task_layers: Which hidden layers have task neurons.
        seed: Of the first weights.
        dtype: Of the weights.
        raw: Whether the inputs of the network are as they are, and not standardised: base functions of them are then
            taken as they are, and the values of each are standardised, x among them, so that training is as well
            conditioned. Later layers standardise what comes to them.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        width = inputs
        for number, size in enumerate(hidden):
            task = number == 0 or task_layers == "all"
            layers[f"neurons{number + 1}"] = _layer(
                neurons if task else None, width, size, dtype, raw=raw and number == 0
            )
            layers[f"activation{number + 1}"] = ACTIVATIONS[activation]()
            width = size
        layers["output"] = _layer(None if hidden else neurons, width, outputs, dtype, raw=raw)
    return nn.Sequential(layers)


def _layer(neurons: Kind | None, inputs: int, outputs: int, dtype: torch.dtype, *, raw: bool) -> nn.Module:
    if neurons is None:
        return nn.Linear(inputs, outputs, dtype=dtype)
    return NeuronLinear(inputs, outputs, dtype=dtype, kind=neurons, normalise="all" if raw else "inputs")


def count_parameters(
    formula: Any, inputs: int, hidden: Sequence[int], outputs: int, *, linear: bool = False
) -> int:
    """Return how many numbers a network of :func:`build` has that are trained.

    Args:
        formula: What :func:`neuronwise.nn.kind` takes; of the first layer's neurons.
        inputs: Number of inputs.
        hidden: Widths of the hidden layers.
        outputs: Number of outputs.
        linear: Count the linear network instead.
    """
    module = build(
        None if linear else kind(formula),
        inputs=inputs,
        hidden=hidden,
        outputs=outputs,
        activation="relu",
        task_layers="first",
        seed=0,
        dtype=torch.float32,
    )
    return sum(parameter.numel() for parameter in module.parameters())


def settled(layer: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy of a first layer, its running statistics those of all training inputs and fixed.

    The inputs of a first layer do not change in training, so there is no need to estimate their moments batch by batch.

    Args:
        layer: The first layer of a network.
        inputs: All training inputs (rows, inputs).
    """
    found = copy.deepcopy(layer).to(inputs.device)
    if isinstance(found, NeuronLinear) and found.running_mean is not None:
        found.reset_running_stats()
        with torch.no_grad():
            found.train()(inputs)
    return found.eval()


def multiplies_features(layer: nn.Module) -> bool:
    """Return whether a layer is one product of weights with features of its inputs, and an offset."""
    if type(layer) is nn.Linear:
        return True
    return (
        isinstance(layer, NeuronLinear)
        and layer.kind.is_sum
        and layer.bias is not None
        and layer.factor is None
    )


def features(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a settled layer multiplies with its weights, (rows, features).

    Args:
        layer: A layer for which :func:`multiplies_features` is true.
        inputs: Shape (rows, inputs).
    """
    if not isinstance(layer, NeuronLinear):
        return inputs
    with torch.no_grad():
        return layer.features(inputs)


def decorrelation(layer: nn.Module, inputs: Tensor) -> Tensor | None:
    """Return what the features of each input are multiplied with to be uncorrelated, (inputs, features, features).

    Base functions of inputs as they are may be nearly the same, as x and x**2 are between 8 and 10, and gradient steps
    then take very long to tell them apart. None for layers of standardised inputs, which need no such thing.

    Args:
        layer: A settled layer for which :func:`multiplies_features` is true.
        inputs: All training inputs (rows, inputs).
    """
    if not isinstance(layer, NeuronLinear) or layer.normalise != "all":
        return None
    values = torch.unflatten(features(layer, inputs).double(), -1, (-1, inputs.shape[-1]))
    covariance = torch.einsum("nkd,nld->dkl", values, values) / len(values)
    sizes, directions = torch.linalg.eigh(covariance)
    factors = torch.where(sizes > NONE, torch.rsqrt(sizes.clamp(min=0.0) + SMALL), 0.0)
    # The symmetric one of all such matrices: the new features are as near to the old ones as can be.
    found: Tensor = (directions * factors.unsqueeze(-2)) @ directions.mT
    return found.to(layer.weight.dtype)
