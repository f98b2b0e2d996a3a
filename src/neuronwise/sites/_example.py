"""The shapes of named tensors in one forward pass of an example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.sites.site import TensorName

__all__ = ["example_shapes"]


def example_shapes(
    model: nn.Module, example: Any, paths: list[str], tensor: TensorName
) -> dict[str, tuple[int, ...]]:
    """Return the shape of an input or output of each module that one forward pass comes by.

    The model is as before afterwards: modes, buffers, random state; without gradients, in evaluation mode.

    Args:
        model: The model.
        example: A batch: a mapping for keyword arguments, a tuple or list for several, else the one argument.
        paths: Paths of the modules.
        tensor: Which tensor of each.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str, value: Any) -> None:
        found = _first_tensor(value)
        if found is not None:
            shapes.setdefault(path, tuple(found.shape))

    # hooks/ is the room that registers hooks, but it stands on this one and hooks sites whose widths are known.
    # These live for one forward pass, read shapes only, and come off whatever happens.
    handles = []
    try:
        for path in paths:
            module = model.get_submodule(path)
            if tensor == "input":
                handles.append(
                    module.register_forward_pre_hook(
                        lambda _, args, kwargs, path=path: note(path, [*args, *kwargs.values()]),
                        with_kwargs=True,
                    )
                )
            else:
                handles.append(module.register_forward_hook(lambda _, args, out, path=path: note(path, out)))
        with _undisturbed(model), torch.no_grad():
            if isinstance(example, Mapping):
                model(**example)
            elif isinstance(example, tuple | list):
                model(*example)
            else:
                model(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((found for found in map(_first_tensor, value) if found is not None), None)
    return None


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng():
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
