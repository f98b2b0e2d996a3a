"""How a site's tensor is read: which axes are examples, positions and neurons, and what is one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError, SiteAxisError

__all__ = ["Layout", "Unit"]

#: What counts as one neuron: a *feature* (all positions are samples), an *element* (position and channel), or a
#: feature *pooled* (mean over positions; an example is a sample).
Unit = Literal["feature", "element", "pooled"]


@dataclass(frozen=True)
class Layout:
    """The axes of a site's tensors.

    Args:
        name: What the tensors are of, for messages.
        width: Number of neurons.
        axis: The axis that counts neurons.
        batch_axis: The axis that counts examples.
        unit: What counts as one neuron.
    """

    name: str
    width: int
    axis: int
    batch_axis: int
    unit: Unit

    def around(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return how many positions lie before and after the neuron axis."""
        axis = self.axis % len(shape) if -len(shape) <= self.axis < len(shape) else None
        batch = self.batch_axis % len(shape)
        if len(shape) < 2 or axis is None or axis == batch or shape[axis] != self.width:
            raise SiteAxisError(
                f"{self.name} expects {self.width} neurons on axis {self.axis} and examples on axis "
                f"{self.batch_axis}, and came by a tensor of shape {tuple(shape)}."
            )
        before = after = 1
        for place, length in enumerate(shape):
            if place not in (axis, batch):
                before, after = (before * length, after) if place < axis else (before, after * length)
        return before, after

    def four(self, tensor: Tensor) -> Tensor:
        """Return the tensor as ``(example, position, neuron, position)``."""
        before, after = self.around(tuple(tensor.shape))
        return tensor.movedim(self.batch_axis, 0).reshape(-1, before, self.width, after)

    def mask(self, tensor: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return a mask as ``(example, position, 1, position)``."""
        if mask is None:
            return None
        before, after = self.around(tuple(tensor.shape))
        examples = tensor.shape[self.batch_axis]
        if mask.numel() != examples * before * after or mask.shape[0] != examples:
            raise InvalidArgumentError(
                f"{self.name}: a mask of shape {tuple(mask.shape)} does not fit a tensor of shape "
                f"{tuple(tensor.shape)}; it must have {examples} examples of {before * after} positions."
            )
        return mask.bool().reshape(examples, before, 1, after)

    def like(self, values: Tensor, tensor: Tensor) -> Tensor:
        """Bring statistics to a shape that broadcasts to the tensor."""
        if self.unit == "element":
            rest = list(tensor.movedim(self.batch_axis, 0).shape[1:])
            return values.reshape(1, *rest).movedim(0, self.batch_axis)
        shape = [1] * tensor.dim()
        shape[self.axis] = self.width
        return values.reshape(shape)

    def mask_like(self, tensor: Tensor, mask: Tensor) -> Tensor:
        """Bring a mask to a shape that broadcasts to the tensor."""
        moved = tensor.movedim(self.batch_axis, 0)
        flat = self.mask(tensor, mask)
        assert flat is not None
        axis, batch = self.axis % tensor.dim(), self.batch_axis % tensor.dim()
        neurons = axis + 1 if axis < batch else axis  # where moving the batch axis has put it
        shape = list(moved.shape)
        shape[neurons] = 1
        return flat.reshape(shape).movedim(0, self.batch_axis)

    def pooled(self, four: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the mean over positions ``(example, 1, neuron, 1)``, and which examples have any."""
        if real is None:
            return four.mean((1, 3), keepdim=True), None
        n = real.sum((1, 3), keepdim=True)
        return four.masked_fill(~real, 0.0).sum((1, 3), keepdim=True) / n.clamp(min=1), n > 0

    def samples(
        self, tensor: Tensor, mask: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Return the samples on the first axis, ``(sample, position, neuron, position)``, and which are real."""
        four, real = self.four(tensor), self.mask(tensor, mask)
        if self.unit == "pooled":
            return self.pooled(four.to(dtype), real)
        if self.unit == "feature":
            after = four.shape[3]
            four = four.reshape(-1, 1, self.width, after)
            real = None if real is None else real.reshape(four.shape[0], 1, 1, after)
        return four, real
