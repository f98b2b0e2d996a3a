"""Sums of products of blocks, with their gradients written into one buffer.

Plain autograd keeps the products' parts and then glues their gradients together, at twice the memory and a copy more.
The backward pass is itself differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

__all__ = ["Place", "sum_of_products"]

Place = tuple[int, int]
"""Which tensor, and which index on its block dimension."""

_Terms = tuple[tuple[Place, ...], ...]


def sum_of_products(tensors: Sequence[Tensor], terms: _Terms, dim: int) -> Tensor:
    """Return the sum over terms of the product of a term's blocks.

    Args:
        tensors: The blocks, stacked on dimension ``dim``; of the same shape but for that dimension.
        terms: Where each factor of each term is.
        dim: The dimension of the blocks, negative.
    """
    if torch.compiler.is_compiling() or all(len(term) == 1 for term in terms):
        return _forward(tensors, terms, dim)
    result: Tensor = _SumOfProducts.apply(terms, dim, *tensors)  # type: ignore[no-untyped-call]
    return result


def _forward(tensors: Sequence[Tensor], terms: _Terms, dim: int) -> Tensor:
    total: Tensor | None = None
    for term in sorted(terms, key=len):
        *head, last = (tensors[group].select(dim, index) for group, index in term)
        if not head:
            total = last if total is None else total + last
        else:
            first = reduce(torch.mul, head)
            total = first * last if total is None else torch.addcmul(total, first, last)
    assert total is not None
    return total


class _SumOfProducts(torch.autograd.Function):
    @staticmethod
    def forward(terms: _Terms, dim: int, *tensors: Tensor) -> Tensor:
        return _forward(tensors, terms, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.terms, ctx.dim, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        # Gradients are on here only if somebody asked for the gradient of this gradient.
        work = _gradient if torch.is_grad_enabled() else _write_gradient
        found = [
            work(grad, tensors, group, ctx.terms, ctx.dim) if wanted else None
            for group, wanted in enumerate(needed)
        ]
        return None, None, *found

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], terms: _Terms, dim: int, *tensors: Tensor
    ) -> tuple[Tensor, int]:
        front = [
            tensor.expand(info.batch_size, *tensor.shape) if batch is None else tensor.movedim(batch, 0)
            for tensor, batch in zip(tensors, in_dims[2:], strict=True)
        ]
        return sum_of_products(front, terms, dim), 0


def _others(tensors: Sequence[Tensor], place: Place, terms: _Terms, dim: int) -> list[list[Tensor]]:
    """Return for each time that a block is a factor the other factors of that term."""
    return [
        [tensors[group].select(dim, index) for group, index in (*term[:at], *term[at + 1 :])]
        for term in terms
        for at, factor in enumerate(term)
        if factor == place
    ]


def _gradient(grad: Tensor, tensors: Sequence[Tensor], group: int, terms: _Terms, dim: int) -> Tensor:
    parts = []
    for index in range(tensors[group].shape[dim]):
        products = [
            reduce(torch.mul, others, grad) for others in _others(tensors, (group, index), terms, dim)
        ]
        parts.append(reduce(torch.add, products) if products else torch.zeros_like(grad))
    return torch.stack(parts, dim)


def _write_gradient(grad: Tensor, tensors: Sequence[Tensor], group: int, terms: _Terms, dim: int) -> Tensor:
    tensor = tensors[group]
    count = tensor.shape[dim]
    if count == 1 and _others(tensors, (group, 0), terms, dim) == [[]]:
        return grad.unsqueeze(dim)
    result = torch.empty_like(tensor)
    for index in range(count):
        place, filled = result.select(dim, index), False
        for others in _others(tensors, (group, index), terms, dim):
            if not others:
                place.add_(grad) if filled else place.copy_(grad)
            elif filled:
                place.addcmul_(reduce(torch.mul, others[:-1], grad), others[-1])
            else:
                torch.mul(reduce(torch.mul, others[:-1], grad), others[-1], out=place)
            filled = True
        if not filled:
            place.zero_()
    return result
