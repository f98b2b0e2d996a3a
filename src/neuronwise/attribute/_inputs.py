"""The batch of a problem: how many examples, which tensors are its input, and what of it costs for nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks.model import tensors_in
from neuronwise.sites import Site, Sites

__all__ = ["batch_size", "embedding_sites", "has_floats", "with_floats", "without_cache"]


def embedding_sites(model: nn.Module) -> Sites:
    """Return the outputs of all modules that have the weight of the model's input embedding."""
    method = getattr(model, "get_input_embeddings", None)
    layer = method() if callable(method) else None
    if layer is None:
        layer = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise InvalidArgumentError(
            f"{type(model).__name__} has no input embedding. Give it floating-point inputs."
        )
    return Sites(
        Site(path, "output", width=int(getattr(module, "embedding_dim", weight.shape[-1])))
        for path, module in model.named_modules()
        if module is layer or (isinstance(module, nn.Embedding) and module.weight is weight)
    )


def has_floats(inputs: Any) -> bool:
    """Return whether a batch has floating-point tensors, masks aside."""
    return any(
        tensor.is_floating_point() and not name.endswith("mask']") for name, tensor in tensors_in(inputs)
    )


def with_floats(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with its floating-point tensors, masks aside, changed."""
    if isinstance(inputs, Tensor):
        return change(inputs) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {
            name: value if str(name).endswith("mask") else with_floats(value, change)
            for name, value in inputs.items()
        }
    if isinstance(inputs, tuple | list):
        return type(inputs)(with_floats(value, change) for value in inputs)
    return inputs


def batch_size(inputs: Any) -> int:
    sizes = [tensor.shape[0] for _, tensor in tensors_in(inputs) if tensor.dim()]
    if not sizes or not sizes[0]:
        raise InvalidArgumentError("The batch has no examples: it holds no tensor, or an empty one.")
    return int(sizes[0])


def without_cache(model: nn.Module, inputs: Any) -> Any:
    """Switch off the key-value cache of generation, which would only take memory."""
    if not isinstance(inputs, Mapping):
        return inputs
    plain = dict(inputs)
    if "use_cache" not in plain and "use_cache" in inspect.signature(model.forward).parameters:
        plain["use_cache"] = False
    return plain
