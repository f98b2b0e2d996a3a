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
    "features",
    "multiplies_features",
    "settled",
]

TaskLayers = Literal["first", "all"]

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
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        width = inputs
        for number, size in enumerate(hidden):
            task = number == 0 or task_layers == "all"
            layers[f"neurons{number + 1}"] = _layer(neurons if task else None, width, size, dtype)
            layers[f"activation{number + 1}"] = ACTIVATIONS[activation]()
            width = size
        layers["output"] = _layer(None if hidden else neurons, width, outputs, dtype)
    return nn.Sequential(layers)


def _layer(neurons: Kind | None, inputs: int, outputs: int, dtype: torch.dtype) -> nn.Module:
    if neurons is None:
        return nn.Linear(inputs, outputs, dtype=dtype)
    return NeuronLinear(inputs, outputs, dtype=dtype, kind=neurons)


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
    # Neurons that each pass one feature on: what the layer gives then are the features themselves.
    count = layer.weight.shape[1]
    with torch.random.fork_rng(devices=[]):  # a layer draws its first weights, which are overwritten here
        probe = NeuronLinear(
            layer.in_features,
            count,
            dtype=layer.weight.dtype,
            kind=layer.kind,
            normalise=layer.normalise,
            clip=layer.clip,
        )
    with torch.no_grad():
        state = layer.state_dict()
        state["weight"] = torch.eye(count, dtype=layer.weight.dtype)
        state["bias"] = torch.zeros(count, dtype=layer.weight.dtype)
        probe.load_state_dict(state)
        found: Tensor = probe.to(inputs.device).eval()(inputs)
    return found
