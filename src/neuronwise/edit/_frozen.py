"""Working on a model as a guest that differentiates: no gradients of its parameters, no traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from neuronwise.hooks import frozen_parameters, refuse_uncatchable, untouched

__all__ = ["guest"]


@contextmanager
def guest(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode with all parameters frozen for the block; then everything is as it was.

    Frozen parameters keep the graph small: only what depends on the tensors that are optimised is stored.
    """
    refuse_uncatchable(model)
    with untouched(model), frozen_parameters(model):
        yield
