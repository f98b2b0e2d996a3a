"""The operations whose backward pass is not that of their forward pass, or is made cheaper by hand."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["add_loss", "announce", "replace", "replace_gated"]


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, chosen: Tensor, new: Tensor, factor: float) -> Tensor:
        return torch.where(chosen, new, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.factor = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (chosen,) = ctx.saved_tensors
        return torch.where(chosen, ctx.factor * grads[0], grads[0]), None, None, None


def replace(values: Tensor, chosen: Tensor, new: Tensor, factor: float) -> Tensor:
    """Return the values with the chosen ones replaced, and their gradient multiplied.

    Args:
        values: Values of any shape.
        chosen: True where to replace; broadcasts to them.
        new: What to put there; broadcasts to them, of their dtype. It gets no gradient.
        factor: What the gradient of chosen entries is multiplied by: 0, 1, or -D. Others keep theirs exactly.
    """
    return cast(Tensor, _Replace.apply(values, chosen, new, factor))  # type: ignore[no-untyped-call]


class _ReplaceGated(torch.autograd.Function):
    @staticmethod
    def forward(
        values: Tensor,
        chosen: Tensor,
        new: Tensor,
        factor: float,
        above: Tensor,
        tally: Tensor | None,
        gate: bool,
    ) -> Tensor:
        return torch.where(chosen, new, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], inputs[4])
        ctx.factor, ctx.tally, ctx.gate = inputs[3], inputs[5], inputs[6]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        chosen, above = ctx.saved_tensors
        grad = grads[0]
        # The loss falls when the value moves from the mean to where it was: dL/dz' < 0 above the mean.
        held = chosen & torch.where(above, grad < 0, grad > 0)
        if ctx.tally is not None:
            ctx.tally += torch.stack([held.sum(), (chosen & (grad != 0)).sum()])
        reversed_ = held if ctx.gate else chosen
        return torch.where(reversed_, ctx.factor * grad, grad), None, None, None, None, None, None


def replace_gated(
    values: Tensor,
    chosen: Tensor,
    new: Tensor,
    factor: float,
    *,
    above: Tensor,
    tally: Tensor | None,
    gate: bool,
) -> Tensor:
    """Replace like :func:`replace`, looking in the backward pass at where the lemma's sign condition holds.

    Args:
        values: Values of any shape.
        chosen: True where to replace, of their shape.
        new: What to put there.
        factor: What the gradient is multiplied by.
        above: True where the value lies above its mean.
        tally: Two whole numbers that grow by the chosen entries for which the condition holds, and by those whose
            gradient is not 0; None to count nothing.
        gate: Multiply only where the condition holds.
    """
    arguments = (values, chosen, new, factor, above, tally, gate)
    return cast(Tensor, _ReplaceGated.apply(*arguments))  # type: ignore[no-untyped-call]


class _Announce(torch.autograd.Function):
    @staticmethod
    def forward(anchor: Tensor, value: Tensor, scale: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.scale = inputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.scale.copy_(grads[0])
        return torch.zeros_like(grads[0]), None, None


def announce(value: Tensor, scale: Tensor) -> Tensor:
    """Return a value whose backward pass writes the gradient that it gets into ``scale``.

    Reentrant activation checkpointing runs the forward pass without a graph, so a loss that is computed on the way has
    none. What takes part in the sum of losses is this; its backward pass runs before those of the model's parts, which
    then weight the loss that they compute anew by ``scale``.
    """
    anchor = torch.zeros((), device=value.device, requires_grad=True)
    return cast(Tensor, _Announce.apply(anchor, value, scale))  # type: ignore[no-untyped-call]


class _AddLoss(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.scale = inputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], ctx.scale.clone(), None


def add_loss(tensor: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
    """Return the tensor; in the backward pass, also start that of ``loss`` with the gradient ``scale``."""
    return cast(Tensor, _AddLoss.apply(tensor, loss, scale))  # type: ignore[no-untyped-call]
